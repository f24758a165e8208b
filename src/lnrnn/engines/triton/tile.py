"""K1, the tile kernel: one program computes M rows, all columns, and loops over time.

It holds U and the states of its rows on chip for the whole sequence and waits for nobody.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lnrnn.engines.triton.cell import clip, late_gate_back, slope, with_reset
from lnrnn.engines.triton.memory import (
    added_sums,
    factor,
    load_gates,
    no_sums,
    product,
    recurrent_vector,
    state_vectors,
    store_gates,
    store_sums,
    vectors,
)
from lnrnn.engines.triton.step import (
    close,
    early,
    enter,
    late,
    leave,
    open_back,
    projection_back,
    reset_back,
    save,
    saved,
)


@triton.jit
def _tiles(C: tl.constexpr, U, of_h, of_unit, VECTORS, cols, DT: tl.constexpr):
    """By gate the tile of U with h and units in these places, or the vector in its place."""
    if C.diagonal:
        return (recurrent_vector(C, VECTORS, cols),)
    else:
        m = (of_h < C.pitch) & (of_unit < C.pitch)
        tiles = load_gates(C, U + of_h * (C.gates * C.pitch) + of_unit, m, 0, C.gates)
        found = ()
        for g in tl.static_range(tl.constexpr(C.gates)):
            found = found + (tiles[g].to(DT),)
        return found


@triton.jit
def _product(C: tl.constexpr, a, b, DT: tl.constexpr, PRECISION: tl.constexpr):
    if C.diagonal:
        return a * b
    else:
        return product(C, a, b, DT, PRECISION)


@triton.jit(do_not_specialize=["T", "B"])
def forward(
    P, U, VECTORS, H0, C0, H_LAST, C_LAST, MASK, RESET, RESET_H, RESET_C, TAKE_H, TAKE_C,
    FACTOR_H, FACTOR_N, OUT, H_ALL, C_ALL, N, A, S, T, B,
    C: tl.constexpr, M: tl.constexpr, DT: tl.constexpr, PRECISION: tl.constexpr,
    SAVE: tl.constexpr,
):  # fmt: skip
    """All steps of M rows."""
    G: tl.constexpr = C.gates
    E: tl.constexpr = C.early
    rows = tl.program_id(0) * M + tl.arange(0, M)
    cols = tl.arange(0, C.block)
    row = rows.to(tl.int64)[:, None]
    known = (rows < B)[:, None]
    m = known & (cols < C.pitch)[None, :]
    m_state = known & (cols < C.units)[None, :]
    at = row * C.pitch + cols[None, :]
    at_state = row * C.units + cols[None, :]
    at_gates = row * (G * C.pitch) + cols[None, :]
    step = B.to(tl.int64) * C.pitch
    step_out = B.to(tl.int64) * C.units

    k = tl.arange(0, C.block)
    u_tiles = _tiles(C, U, k[:, None], cols[None, :], VECTORS, cols, DT)
    bias, gain, shift = vectors(C, VECTORS, cols)
    state = state_vectors(C, VECTORS, cols)

    h = tl.load(H0 + at_state, m_state, 0.0)
    c = 0.0 * h
    if C.kind == "lstm":
        c = tl.load(C0 + at_state, m_state, 0.0)
    if SAVE:
        tl.store(H_ALL + at, h, m)
        if C.kind == "lstm":
            tl.store(C_ALL + at, c, m)
    for _ in range(T):
        h_from, c_from, entering = enter(
            C, h, c, RESET, RESET_H, RESET_C, at_state, m_state, row, known
        )
        into = entering * factor(FACTOR_H, at, m)
        p = load_gates(C, P + at_gates, m, 0, G)
        s = ()
        for g in tl.static_range(E):
            s = s + (_product(C, into, u_tiles[g], DT, PRECISION) + bias[g],)
        gates, u, kept, gated = early(C, s, p, gain, shift, c_from, state)
        if C.reset == "inside":
            gates, u, kept = late(C, gates[0] * gated, gates, u, kept, p, gain, shift, cols)
        elif C.reset == "before":
            s_n = _product(C, gates[0] * into, u_tiles[G - 1], DT, PRECISION) + bias[G - 1]
            gates, u, kept = late(C, s_n, gates, u, kept, p, gain, shift, cols)
        on_n = factor(FACTOR_N, at, m)
        gates, h, c, of_states = close(
            C, gates, h, c, h_from, c_from, entering, on_n, state, MASK, TAKE_H, TAKE_C,
            at, m, row, known, cols,
        )  # fmt: skip
        tl.store(OUT + at_state, h, m_state)
        OUT += step_out
        if SAVE:
            H_ALL += step
            tl.store(H_ALL + at, h, m)
            save(C, gates, u, gated, kept, of_states, P, N, A, S, B, at, at_gates, m, row, known)
            if C.kind == "lstm":
                C_ALL += step
                tl.store(C_ALL + at, c, m)
            if C.norms > 0:
                N += G * step
            if C.gated:
                A += step
            S += C.statistics * B.to(tl.int64)
        P += G * step
        if MASK is not None:
            MASK += B
        if RESET is not None:
            RESET += B
        if TAKE_H is not None:
            TAKE_H += step
        if TAKE_C is not None:
            TAKE_C += step
        if C.moving_h:
            FACTOR_H += step
        if C.moving_n:
            FACTOR_N += step
    tl.store(H_LAST + at_state, h, m_state)
    if C.kind == "lstm":
        tl.store(C_LAST + at_state, c, m_state)


@triton.jit(do_not_specialize=["T", "B"])
def backward(
    GATES, U, VECTORS, MASK, RESET, RESET_H, RESET_C, TAKE_H, TAKE_C, FACTOR_H, FACTOR_N,
    H_ALL, C_ALL, N, A, S, DH_ALL, DH_LAST, DC_LAST, DH, DC, DRESET_H, DRESET_C, D, SUMS, T, B,
    C: tl.constexpr, M: tl.constexpr, DT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The derivative: D, gradients of the initial states and of those of resets, and SUMS."""
    G: tl.constexpr = C.gates
    E: tl.constexpr = C.early
    rows = tl.program_id(0) * M + tl.arange(0, M)
    cols = tl.arange(0, C.block)
    row = rows.to(tl.int64)[:, None]
    known = (rows < B)[:, None]
    m = known & (cols < C.pitch)[None, :]
    m_state = known & (cols < C.units)[None, :]
    at = row * C.pitch + cols[None, :]
    at_state = row * C.units + cols[None, :]
    at_gates = row * (G * C.pitch) + cols[None, :]
    step = B.to(tl.int64) * C.pitch
    step_out = B.to(tl.int64) * C.units
    last = (T - 1).to(tl.int64)
    GATES += last * G * step
    H_ALL += last * step
    D += last * G * step
    S += last * C.statistics * B
    if C.kind == "lstm":
        C_ALL += last * step
    if C.norms > 0:
        N += last * G * step
    if C.gated:
        A += last * step
    if DH_ALL is not None:
        DH_ALL += last * step_out
    if MASK is not None:
        MASK += last * B
    if RESET is not None:
        RESET += last * B
    if TAKE_H is not None:
        TAKE_H += last * step
    if TAKE_C is not None:
        TAKE_C += last * step
    if C.moving_h:
        FACTOR_H += last * step
    if C.moving_n:
        FACTOR_N += last * step

    k = tl.arange(0, C.block)
    u_tiles = _tiles(C, U, cols[None, :], k[:, None], VECTORS, cols, DT)
    _, gain, _ = vectors(C, VECTORS, cols)
    state = state_vectors(C, VECTORS, cols)

    dh = tl.zeros([M, C.block], tl.float32)
    if DH_LAST is not None:
        dh = tl.load(DH_LAST + at_state, m_state, 0.0)
    dc = 0.0 * dh
    if DC_LAST is not None:
        dc = tl.load(DC_LAST + at_state, m_state, 0.0)
    of_reset_h, of_reset_c = 0.0 * dh, 0.0 * dh
    totals = no_sums(C, dh)
    for _ in range(T):
        if DH_ALL is not None:
            dh += tl.load(DH_ALL + at_state, m_state, 0.0).to(tl.float32)
        of_forward = saved(
            C, H_ALL, C_ALL, GATES, N, A, S, B, at, at_gates, m, row, known
        )  # fmt: skip
        gates = of_forward[0]
        d, entering, direct, dc, to_c, held, sums = open_back(
            C, dh, dc, of_forward, MASK, RESET, RESET_H, RESET_C, TAKE_H, TAKE_C, FACTOR_N,
            state, at, at_state, m, m_state, row, known, cols,
        )  # fmt: skip
        totals = added_sums(C, totals, sums)
        dq = 0.0 * dh
        d_n = dq
        if C.reset == "before":
            n: tl.constexpr = G - 1
            u_n, kept_n = of_forward[1][n], dq
            if C.groups[n] >= 0:
                kept_n = of_forward[2][C.norms - 1]
            s_n = clip(late_gate_back(C, d[1], gain[n], u_n, kept_n, cols), C.limit)
            dn_h = _product(C, s_n, u_tiles[n], DT, PRECISION) * factor(FACTOR_H, at, m)
            dr = dn_h * entering * slope(C.sigma, gates[0])
            direct += dn_h * gates[0]
            d = with_reset(C, dr, d[0], d[1])
        elif C.gated:
            d, d_n = reset_back(C, d, gain, of_forward, cols)
        store_gates(C, D + at_gates, d, m, G)
        s = projection_back(C, d, d_n, gain, of_forward, cols)
        for g in tl.static_range(E):
            dq += _product(C, s[g], u_tiles[g], DT, PRECISION)
        on_h = factor(FACTOR_H, at, m)
        dh, to_h = leave(C, dq, on_h, direct, held, H_ALL, RESET, at, m, row, known)
        if RESET_H is not None:
            of_reset_h += to_h
            of_reset_c += to_c
        GATES -= G * step
        H_ALL -= step
        D -= G * step
        S -= C.statistics * B.to(tl.int64)
        if C.kind == "lstm":
            C_ALL -= step
        if C.norms > 0:
            N -= G * step
        if C.gated:
            A -= step
        if DH_ALL is not None:
            DH_ALL -= step_out
        if MASK is not None:
            MASK -= B
        if RESET is not None:
            RESET -= B
        if TAKE_H is not None:
            TAKE_H -= step
        if TAKE_C is not None:
            TAKE_C -= step
        if C.moving_h:
            FACTOR_H -= step
        if C.moving_n:
            FACTOR_N -= step
    tl.store(DH + at_state, dh, m_state)
    if C.kind == "lstm":
        tl.store(DC + at_state, dc, m_state)
    if RESET_H is not None:
        tl.store(DRESET_H + at_state, of_reset_h, m_state)
        if C.kind == "lstm":
            tl.store(DRESET_C + at_state, of_reset_c, m_state)
    store_sums(C, SUMS, tl.program_id(0), totals, cols)
