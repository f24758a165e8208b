"""K1, the tile kernel: one program computes M rows, all columns, and loops over time.

It holds U and the states of its rows on chip for the whole sequence and waits for nobody.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lnrnn.engines.triton.cell import clip, late_gate_back, slope, within
from lnrnn.engines.triton.memory import (
    factor,
    load_gates,
    product,
    state_vectors,
    store_gates,
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


@triton.jit(do_not_specialize=["T", "B"])
def forward(
    P, U, VECTORS, H_LAST, C_LAST, MASK, RESET, TAKE_H, TAKE_C, FACTOR_H, FACTOR_N,
    H_ALL, C_ALL, N, A, S, T, B,
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
    at = row * C.pitch + cols[None, :]
    at_gates = row * (G * C.pitch) + cols[None, :]
    step = B.to(tl.int64) * C.pitch

    k = tl.arange(0, C.block)
    of_u = (k < C.pitch)[:, None] & (cols < C.pitch)[None, :]
    at_u = U + k[:, None] * (G * C.pitch) + cols[None, :]
    tiles = load_gates(C, at_u, of_u, 0, G)
    u_tiles = ()
    for g in tl.static_range(G):
        u_tiles = u_tiles + (tiles[g].to(DT),)
    bias, gain, shift = vectors(C, VECTORS, cols)
    state = state_vectors(C, VECTORS, cols)

    h = tl.load(H_LAST + at, m, 0.0)
    c = 0.0 * h
    if C.kind == "lstm":
        c = tl.load(C_LAST + at, m, 0.0)
    for _ in range(T):
        h_from, c_from, entering = enter(C, h, c, RESET, row, known)
        into = entering * factor(FACTOR_H, at, m)
        p = load_gates(C, P + at_gates, m, 0, G)
        s = ()
        for g in tl.static_range(E):
            s = s + (product(C, into, u_tiles[g], DT, PRECISION) + bias[g],)
        gates, u, kept, gated = early(C, s, p, gain, shift)
        if C.reset == "inside":
            gates, u, kept = late(C, gates[0] * gated, gates, u, kept, p, gain, shift, cols)
        elif C.reset == "before":
            s_n = product(C, gates[0] * into, u_tiles[G - 1], DT, PRECISION) + bias[G - 1]
            gates, u, kept = late(C, s_n, gates, u, kept, p, gain, shift, cols)
        on_n = factor(FACTOR_N, at, m)
        h, c, of_states = close(
            C, gates, h, c, h_from, c_from, entering, on_n, state, MASK, TAKE_H, TAKE_C,
            at, m, row, known, cols,
        )  # fmt: skip
        H_ALL += step
        tl.store(H_ALL + at, h, m)
        if SAVE:
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
    tl.store(H_LAST + at, h, m)
    if C.kind == "lstm":
        tl.store(C_LAST + at, c, m)


@triton.jit(do_not_specialize=["T", "B"])
def backward(
    GATES, UT, VECTORS, MASK, RESET, TAKE_H, TAKE_C, FACTOR_H, FACTOR_N,
    H_ALL, C_ALL, N, A, S, DH_ALL, DH, DC, D, SUMS, T, B,
    C: tl.constexpr, M: tl.constexpr, DT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The derivative: D, gradients of the initial states in DH and DC, and SUMS."""
    G: tl.constexpr = C.gates
    E: tl.constexpr = C.early
    rows = tl.program_id(0) * M + tl.arange(0, M)
    cols = tl.arange(0, C.block)
    row = rows.to(tl.int64)[:, None]
    known = (rows < B)[:, None]
    m = known & (cols < C.pitch)[None, :]
    at = row * C.pitch + cols[None, :]
    at_gates = row * (G * C.pitch) + cols[None, :]
    step = B.to(tl.int64) * C.pitch
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
        DH_ALL += last * step
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
    of_u = (k < C.pitch)[:, None] & (cols < C.pitch)[None, :]
    at_u = UT + k[:, None] * C.pitch + cols[None, :]
    u_tiles = ()
    for g in tl.static_range(G):
        u_tiles = u_tiles + (tl.load(at_u + g * C.pitch * C.pitch, of_u, 0.0).to(DT),)
    _, gain, _ = vectors(C, VECTORS, cols)
    state = state_vectors(C, VECTORS, cols)

    dh = tl.load(DH + at, m, 0.0)
    dc = 0.0 * dh
    if C.kind == "lstm":
        dc = tl.load(DC + at, m, 0.0)
    gain_c, shift_c, gain_h, shift_h = 0.0 * dh, 0.0 * dh, 0.0 * dh, 0.0 * dh
    for _ in range(T):
        if DH_ALL is not None:
            dh += tl.load(DH_ALL + at, m, 0.0).to(tl.float32)
        of_forward = saved(
            C, H_ALL, C_ALL, GATES, N, A, S, B, at, at_gates, m, row, known
        )  # fmt: skip
        gates = of_forward[0]
        d, entering, direct, dc, held, sums = open_back(
            C, dh, dc, of_forward, MASK, RESET, TAKE_H, TAKE_C, FACTOR_N, state,
            at, m, row, known, cols,
        )  # fmt: skip
        if C.cell_norm != "none":
            gain_c += sums[0]
            shift_c += sums[1]
        if C.hidden_norm:
            gain_h += sums[2]
            shift_h += sums[3]
        dq = 0.0 * dh
        d_n = dq
        if C.reset == "before":
            n: tl.constexpr = G - 1
            u_n, kept_n = of_forward[1][n], dq
            if C.groups[n] >= 0:
                kept_n = of_forward[2][C.norms - 1]
            s_n = clip(late_gate_back(C, d[1], gain[n], u_n, kept_n, cols), C.limit)
            dn_h = product(C, s_n, u_tiles[n], DT, PRECISION) * factor(FACTOR_H, at, m)
            dr = dn_h * entering * slope(C.sigma, gates[0])
            direct += dn_h * gates[0]
            d = (dr, d[0], d[1])
        elif C.gated:
            d, d_n = reset_back(C, d, gain, of_forward, cols)
        store_gates(C, D + at_gates, d, m, G)
        s = projection_back(C, d, d_n, gain, of_forward, cols)
        for g in tl.static_range(E):
            dq += product(C, s[g], u_tiles[g], DT, PRECISION)
        on_h = factor(FACTOR_H, at, m)
        dh = leave(C, dq, on_h, direct, held, H_ALL, RESET, at, m, row, known)
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
            DH_ALL -= step
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
    tl.store(DH + at, dh, m)
    if C.kind == "lstm":
        tl.store(DC + at, dc, m)
    # sums over the rows of this program: gain and shift of the cell's norm, then of the hidden one
    at_sums = SUMS + tl.program_id(0).to(tl.int64) * (4 * C.pitch) + cols
    wide = cols < C.pitch
    if C.cell_norm != "none":
        tl.store(at_sums, tl.sum(within(C, gain_c, cols), 0), wide)
        tl.store(at_sums + C.pitch, tl.sum(within(C, shift_c, cols), 0), wide)
    if C.hidden_norm:
        tl.store(at_sums + 2 * C.pitch, tl.sum(within(C, gain_h, cols), 0), wide)
        tl.store(at_sums + 3 * C.pitch, tl.sum(within(C, shift_h, cols), 0), wide)
