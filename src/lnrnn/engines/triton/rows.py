"""K2, the row kernels: between two products of the framework, one step of a few rows.

A program holds whole rows for one step; the order of the stream is what makes a product wait for
the step before it, and a step for its product.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lnrnn.engines.triton.cell import clip, late_gate_back, slope, with_reset
from lnrnn.engines.triton.memory import (
    factor,
    load_gates,
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
    save_of_states,
    saved,
)


@triton.jit
def _places(C: tl.constexpr, B, M: tl.constexpr):
    """Rows and columns of a program, which of them exist, and their offsets.

    In rows of H, of the pitch, and of gates.
    """
    cols = tl.arange(0, C.block)
    row = (tl.program_id(0).to(tl.int64) * M + tl.arange(0, M))[:, None]
    known = row < B
    m = known & (cols < C.pitch)[None, :]
    return (
        cols,
        row,
        known,
        known & (cols < C.units)[None, :],
        m,
        row * C.units + cols[None, :],
        row * C.pitch + cols[None, :],
        row * (C.gates * C.pitch) + cols[None, :],
    )


@triton.jit(do_not_specialize=["B"])
def begin(
    H0, C0, H_LAST, C_LAST, RESET, RESET_H, RESET_C, FACTOR_H, INTO, H_ALL, C_ALL, B,
    C: tl.constexpr, M: tl.constexpr, SAVE: tl.constexpr,
):  # fmt: skip
    """The initial states in their places, and what enters the first product."""
    _, row, known, m_state, m, at_state, at, _ = _places(C, B, M)
    h = tl.load(H0 + at_state, m_state, 0.0)
    tl.store(H_LAST + at_state, h, m_state)
    if SAVE:
        tl.store(H_ALL + at, h, m)
    if C.kind == "lstm":
        c = tl.load(C0 + at_state, m_state, 0.0)
        tl.store(C_LAST + at_state, c, m_state)
        if SAVE:
            tl.store(C_ALL + at, c, m)
    _, _, entering = enter(C, h, h, RESET, RESET_H, RESET_C, at_state, m_state, row, known)
    tl.store(INTO + at, entering * factor(FACTOR_H, at, m), m)


@triton.jit(do_not_specialize=["t", "T", "B"])
def forward(
    PRODUCT, INTO, GATED_INTO, P, VECTORS, H_LAST, C_LAST, MASK, RESET, RESET_H, RESET_C,
    TAKE_H, TAKE_C, FACTOR_H, FACTOR_N, OUT, H_ALL, C_ALL, N, A, S, t, T, B,
    C: tl.constexpr, M: tl.constexpr, SAVE: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Step t from PRODUCT = INTO U: the new states, and INTO for the next product.

    Where the product of n waits for r there are two parts: "early" ends with GATED_INTO, what
    enters that product, and "late" begins with it.
    """
    G: tl.constexpr = C.gates
    E: tl.constexpr = C.early
    cols, row, known, m_state, m, at_state, at, at_gates = _places(C, B, M)
    t = t.to(tl.int64)
    step = B.to(tl.int64) * C.pitch
    step_out = B.to(tl.int64) * C.units
    P += t * G * step
    S += t * C.statistics * B
    if C.norms > 0 and SAVE:
        N += t * G * step
    if C.gated and SAVE:
        A += t * step
    if MASK is not None:
        MASK += t * B
    if RESET is not None:
        RESET += t * B
    if TAKE_H is not None:
        TAKE_H += t * step
    if TAKE_C is not None:
        TAKE_C += t * step
    if C.moving_h:
        FACTOR_H += t * step
    if C.moving_n:
        FACTOR_N += t * step
    bias, gain, shift = vectors(C, VECTORS, cols)
    p = load_gates(C, P + at_gates, m, 0, G)
    state = state_vectors(C, VECTORS, cols)
    h = tl.load(H_LAST + at_state, m_state, 0.0)
    c = 0.0 * h
    if C.kind == "lstm":
        c = tl.load(C_LAST + at_state, m_state, 0.0)
    h_from, c_from, entering = enter(
        C, h, c, RESET, RESET_H, RESET_C, at_state, m_state, row, known
    )
    if PART == "late":
        s_n = tl.load(PRODUCT + at, m, 0.0).to(tl.float32) + bias[G - 1]
        gates, u, kept, gated = p[:E], p[:E], (), s_n
        for _ in tl.static_range(tl.constexpr(C.early_norms)):
            kept = kept + (s_n,)
        gates, u, kept = late(C, s_n, gates, u, kept, p, gain, shift, cols)
    else:
        products = load_gates(C, PRODUCT + row * (E * C.pitch) + cols[None, :], m, 0, E)
        s = ()
        for g in tl.static_range(E):
            s = s + (products[g] + bias[g],)
        gates, u, kept, gated = early(C, s, p, gain, shift, c_from, state)
        if C.reset == "inside":
            gates, u, kept = late(C, gates[0] * gated, gates, u, kept, p, gain, shift, cols)
    if PART == "early":
        into = tl.load(INTO + at, m, 0.0).to(tl.float32)
        tl.store(GATED_INTO + at, gates[0] * into, m)
        store_gates(C, P + at_gates, gates, m, E)
        if SAVE:
            if C.early_norms > 0:
                store_gates(C, N + at_gates, u, m, E)
            for i in tl.static_range(tl.constexpr(C.early_norms)):
                tl.store(S + i * B + row, kept[i], known)
    else:
        on_n = factor(FACTOR_N, at, m)
        gates, h, c, of_states = close(
            C, gates, h, c, h_from, c_from, entering, on_n, state, MASK, TAKE_H, TAKE_C,
            at, m, row, known, cols,
        )  # fmt: skip
        tl.store(H_LAST + at_state, h, m_state)
        tl.store(OUT + t * step_out + at_state, h, m_state)
        if C.kind == "lstm":
            tl.store(C_LAST + at_state, c, m_state)
        ahead = tl.where(t < T - 1, 1, 0).to(tl.int64)  # the last one's is not used
        at_h = at
        if C.moving_h:
            at_h = at + ahead * step
        on_h = factor(FACTOR_H, at_h, m)
        _, _, entering = enter(
            C, h, h, RESET, RESET_H, RESET_C, at_state, m_state, row + ahead * B, known
        )
        tl.store(INTO + at, entering * on_h, m)
        if SAVE:
            tl.store(H_ALL + (t + 1) * step + at, h, m)
            if C.kind == "lstm":
                tl.store(C_ALL + (t + 1) * step + at, c, m)
            if PART == "late":
                tl.store(P + at_gates + E * C.pitch, gates[G - 1], m)
                if C.groups[G - 1] >= 0:
                    tl.store(N + at_gates + E * C.pitch, u[G - 1], m)
                    tl.store(S + (C.norms - 1) * B + row, kept[C.norms - 1], known)
                save_of_states(C, of_states, S, B, row, known)
            else:
                save(
                    C, gates, u, gated, kept, of_states, P, N, A, S, B,
                    at, at_gates, m, row, known,
                )  # fmt: skip


@triton.jit(do_not_specialize=["B"])
def end(
    PRODUCT, DIRECT, HELD, DH, DRESET_H, H_ALL, RESET, FACTOR_H, B,
    C: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """The gradient of the initial h, from the last product."""
    _, row, known, m_state, m, at_state, at, _ = _places(C, B, M)
    dq = tl.load(PRODUCT + at, m, 0.0).to(tl.float32)
    direct = tl.load(DIRECT + at, m, 0.0)
    held = tl.load(HELD + at, m, 0.0)
    on_h = factor(FACTOR_H, at, m)
    dh, to_h = leave(C, dq, on_h, direct, held, H_ALL, RESET, at, m, row, known)
    tl.store(DH + at_state, dh, m_state)
    if DRESET_H is not None:
        tl.store(DRESET_H + at_state, tl.load(DRESET_H + at_state, m_state) + to_h, m_state)


@triton.jit(do_not_specialize=["t", "T", "B"])
def backward(
    PRODUCT, DIRECT, HELD, DS, GATES, VECTORS, MASK, RESET, RESET_H, RESET_C, TAKE_H, TAKE_C,
    FACTOR_H, FACTOR_N, H_ALL, C_ALL, N, A, S, DH_ALL, DH_LAST, DC_LAST, DC, DRESET_H, DRESET_C,
    D, SUMS, t, T, B,
    C: tl.constexpr, M: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Back through step t: D, and DS, what enters the next product with U transposed.

    PRODUCT is that of step t + 1; in the last step the gradient is DH_LAST's.  Where n has a
    product after r, the first part ends with DS of n and the "early" part begins with its product.
    """
    G: tl.constexpr = C.gates
    E: tl.constexpr = C.early
    n: tl.constexpr = G - 1
    cols, row, known, m_state, m, at_state, at, at_gates = _places(C, B, M)
    t = t.to(tl.int64)
    step = B.to(tl.int64) * C.pitch
    step_out = B.to(tl.int64) * C.units
    GATES += t * G * step
    D += t * G * step
    S += t * C.statistics * B
    H_ALL += t * step
    if C.kind == "lstm":
        C_ALL += t * step
    if C.norms > 0:
        N += t * G * step
    if C.gated:
        A += t * step
    if DH_ALL is not None:
        DH_ALL += t * step_out
    if MASK is not None:
        MASK += t * B
    if RESET is not None:
        RESET += t * B
    if TAKE_H is not None:
        TAKE_H += t * step
    if TAKE_C is not None:
        TAKE_C += t * step
    if C.moving_h:
        FACTOR_H += t * step
    if C.moving_n:
        FACTOR_N += t * step
    _, gain, _ = vectors(C, VECTORS, cols)
    if PART == "early":
        dn_h = tl.load(PRODUCT + at, m, 0.0).to(tl.float32)
        h_from = tl.load(H_ALL + at, m, 0.0).to(tl.float32)
        _, _, entering = enter(
            C, h_from, h_from, RESET, RESET_H, RESET_C, at_state, m_state, row, known
        )
        on_h = factor(FACTOR_H, at, m)
        r = tl.load(GATES + at_gates, m, 0.0).to(tl.float32)
        dr = dn_h * entering * on_h * slope(C.sigma, r)
        dz = tl.load(D + at_gates + (E - 1) * C.pitch, m, 0.0).to(tl.float32)
        d = with_reset(C, dr, dz, dn_h)[:E]
        store_gates(C, D + at_gates, d, m, E)
        direct = tl.load(DIRECT + at, m, 0.0) + dn_h * r * on_h
        tl.store(DIRECT + at, direct, m)
        of_forward = saved(C, H_ALL, C_ALL, GATES, N, A, S, B, at, at_gates, m, row, known)
        s = projection_back(C, d, dr, gain, of_forward, cols)
        store_gates(C, DS + row * (E * C.pitch) + cols[None, :], s, m, E)
    else:
        last = t == T - 1
        dh = tl.zeros([M, C.block], tl.float32)
        to_h = dh
        dc = dh
        if last:
            if DH_LAST is not None:
                dh = tl.load(DH_LAST + at_state, m_state, 0.0)
            if DC_LAST is not None:
                dc = tl.load(DC_LAST + at_state, m_state, 0.0)
        else:
            at_h = at
            if C.moving_h:
                at_h = at + step
            dq = tl.load(PRODUCT + at, m, 0.0).to(tl.float32)
            direct = tl.load(DIRECT + at, m, 0.0)
            held = tl.load(HELD + at, m, 0.0)
            on_h = factor(FACTOR_H, at_h, m)
            dh, to_h = leave(C, dq, on_h, direct, held, H_ALL + step, RESET, at, m, row + B, known)
            if C.kind == "lstm":
                dc = tl.load(DC + at_state, m_state, 0.0)
        if DH_ALL is not None:
            dh += tl.load(DH_ALL + at_state, m_state, 0.0).to(tl.float32)
        state = state_vectors(C, VECTORS, cols)
        of_forward = saved(C, H_ALL, C_ALL, GATES, N, A, S, B, at, at_gates, m, row, known)
        d, entering, direct, dc, to_c, held, sums = open_back(
            C, dh, dc, of_forward, MASK, RESET, RESET_H, RESET_C, TAKE_H, TAKE_C, FACTOR_N,
            state, at, at_state, m, m_state, row, known, cols,
        )  # fmt: skip
        tl.store(DIRECT + at, direct, m)
        tl.store(HELD + at, held, m)
        if C.kind == "lstm":
            tl.store(DC + at_state, dc, m_state)
        if RESET_H is not None:
            _add(DRESET_H + at_state, to_h, m_state, last)
            if C.kind == "lstm":
                _add(DRESET_C + at_state, to_c, m_state, last)
        _add_sums(C, SUMS, sums, cols, last)
        if C.reset == "before":
            kept_n = dh
            if C.groups[n] >= 0:
                kept_n = of_forward[2][C.norms - 1]
            s_n = late_gate_back(C, d[1], gain[n], of_forward[1][n], kept_n, cols)
            s_n = clip(s_n, C.limit)
            tl.store(DS + at, s_n, m)
            tl.store(D + at_gates + (E - 1) * C.pitch, d[0], m)
            tl.store(D + at_gates + n * C.pitch, d[1], m)
        else:
            d_n = dh
            if C.gated:
                d, d_n = reset_back(C, d, gain, of_forward, cols)
            store_gates(C, D + at_gates, d, m, G)
            s = projection_back(C, d, d_n, gain, of_forward, cols)
            store_gates(C, DS + at_gates, s, m, G)


@triton.jit
def _add(at, v, m, first):
    """Add to what is in memory, where nothing is before the first time."""
    tl.store(at, tl.load(at, m & (first == 0), 0.0) + v, m)


@triton.jit
def _add_sums(C: tl.constexpr, SUMS, sums, cols, first):
    """Add the sums over the rows of this program to its part of SUMS (programs, sums, pitch)."""
    at = SUMS + tl.program_id(0).to(tl.int64) * (C.sums * C.pitch) + cols
    for i in tl.static_range(tl.constexpr(C.sums)):
        _add(at + i * C.pitch, tl.sum(sums[i], 0), cols < C.pitch, first)


# ---- the same where the number of the step is in memory, as in a loop of JAX


@triton.jit(do_not_specialize=["T", "B"])
def forward_at(
    AT, PRODUCT, INTO, GATED_INTO, P, VECTORS, H_LAST, C_LAST, MASK, RESET, RESET_H, RESET_C,
    TAKE_H, TAKE_C, FACTOR_H, FACTOR_N, OUT, H_ALL, C_ALL, N, A, S, T, B,
    C: tl.constexpr, M: tl.constexpr, SAVE: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    forward(
        PRODUCT, INTO, GATED_INTO, P, VECTORS, H_LAST, C_LAST, MASK, RESET, RESET_H, RESET_C,
        TAKE_H, TAKE_C, FACTOR_H, FACTOR_N, OUT, H_ALL, C_ALL, N, A, S, tl.load(AT), T, B,
        C, M, SAVE, PART,
    )  # fmt: skip


@triton.jit(do_not_specialize=["T", "B"])
def backward_at(
    AT, PRODUCT, DIRECT, HELD, DS, GATES, VECTORS, MASK, RESET, RESET_H, RESET_C, TAKE_H, TAKE_C,
    FACTOR_H, FACTOR_N, H_ALL, C_ALL, N, A, S, DH_ALL, DH_LAST, DC_LAST, DC, DRESET_H, DRESET_C,
    D, SUMS, T, B,
    C: tl.constexpr, M: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    backward(
        PRODUCT, DIRECT, HELD, DS, GATES, VECTORS, MASK, RESET, RESET_H, RESET_C, TAKE_H, TAKE_C,
        FACTOR_H, FACTOR_N, H_ALL, C_ALL, N, A, S, DH_ALL, DH_LAST, DC_LAST, DC, DRESET_H, DRESET_C,
        D, SUMS, tl.load(AT), T, B, C, M, PART,
    )  # fmt: skip
