"""K2, the row kernels: between two products of the framework, one step of a few rows.

A program holds whole rows for one step; the order of the stream is what makes a product wait for
the step before it, and a step for its product.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lnrnn.engines.triton.cell import clip, late_gate_back, slope
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
    saved,
)


@triton.jit
def _places(C: tl.constexpr, B, M: tl.constexpr):
    """Rows and columns of a program, which of them exist, and their offsets."""
    cols = tl.arange(0, C.block)
    row = (tl.program_id(0).to(tl.int64) * M + tl.arange(0, M))[:, None]
    known = row < B
    m = known & (cols < C.pitch)[None, :]
    return (
        cols,
        row,
        known,
        m,
        row * C.pitch + cols[None, :],
        row * (C.gates * C.pitch) + cols[None, :],
    )


@triton.jit
def _store_entering(C: tl.constexpr, h, INTO, RESET, on_h, at, m, row, known):
    """What enters the next product: h after reset, clip and factor."""
    _, _, entering = enter(C, h, h, RESET, row, known)
    tl.store(INTO + at, entering * on_h, m)


@triton.jit(do_not_specialize=["B"])
def begin(H_LAST, RESET, FACTOR_H, INTO, B, C: tl.constexpr, M: tl.constexpr):
    """What enters the first product."""
    _, row, known, m, at, _ = _places(C, B, M)
    h = tl.load(H_LAST + at, m, 0.0)
    _store_entering(C, h, INTO, RESET, factor(FACTOR_H, at, m), at, m, row, known)


@triton.jit(do_not_specialize=["t", "T", "B"])
def forward(
    PRODUCT, INTO, GATED_INTO, P, VECTORS, H_LAST, C_LAST, MASK, RESET, TAKE_H, TAKE_C,
    FACTOR_H, FACTOR_N, H_ALL, C_ALL, N, A, S, t, T, B,
    C: tl.constexpr, M: tl.constexpr, SAVE: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Step t from PRODUCT = INTO U: the new states, and INTO for the next product.

    Where the product of n waits for r there are two parts: "early" ends with GATED_INTO, what
    enters that product, and "late" begins with it.
    """
    G: tl.constexpr = C.gates
    E: tl.constexpr = C.early
    cols, row, known, m, at, at_gates = _places(C, B, M)
    t = t.to(tl.int64)
    step = B.to(tl.int64) * C.pitch
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
    h = tl.load(H_LAST + at, m, 0.0)
    c = 0.0 * h
    if C.kind == "lstm":
        c = tl.load(C_LAST + at, m, 0.0)
    h_from, c_from, entering = enter(C, h, c, RESET, row, known)
    if PART == "late":
        s_n = tl.load(PRODUCT + at, m, 0.0).to(tl.float32) + bias[G - 1]
        gates, u, kept, gated = (p[0], p[1]), (s_n, s_n), (), s_n
        for _ in tl.static_range(tl.constexpr(C.early_norms)):
            kept = kept + (s_n,)
        gates, u, kept = late(C, s_n, gates, u, kept, p, gain, shift, cols)
    else:
        products = load_gates(C, PRODUCT + row * (E * C.pitch) + cols[None, :], m, 0, E)
        s = ()
        for g in tl.static_range(E):
            s = s + (products[g] + bias[g],)
        gates, u, kept, gated = early(C, s, p, gain, shift)
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
        state = state_vectors(C, VECTORS, cols)
        h, c, of_states = close(
            C, gates, h, c, h_from, c_from, entering, on_n, state, MASK, TAKE_H, TAKE_C,
            at, m, row, known, cols,
        )  # fmt: skip
        tl.store(H_LAST + at, h, m)
        tl.store(H_ALL + (t + 1) * step + at, h, m)
        if C.kind == "lstm":
            tl.store(C_LAST + at, c, m)
        ahead = tl.where(t < T - 1, 1, 0).to(tl.int64)  # the last one's is not used
        at_h = at
        if C.moving_h:
            at_h = at + ahead * step
        on_h = factor(FACTOR_H, at_h, m)
        _store_entering(C, h, INTO, RESET, on_h, at, m, row + ahead * B, known)
        if SAVE:
            if C.kind == "lstm":
                tl.store(C_ALL + (t + 1) * step + at, c, m)
            if PART == "late":
                tl.store(P + at_gates + E * C.pitch, gates[G - 1], m)
                if C.groups[G - 1] >= 0:
                    tl.store(N + at_gates + E * C.pitch, u[G - 1], m)
                    tl.store(S + (C.norms - 1) * B + row, kept[C.norms - 1], known)
            else:
                save(
                    C, gates, u, gated, kept, of_states, P, N, A, S, B,
                    at, at_gates, m, row, known,
                )  # fmt: skip


@triton.jit(do_not_specialize=["B"])
def end(PRODUCT, DIRECT, HELD, DH, H_ALL, RESET, FACTOR_H, B, C: tl.constexpr, M: tl.constexpr):
    """The gradient of the initial h, from the last product."""
    _, row, known, m, at, _ = _places(C, B, M)
    dq = tl.load(PRODUCT + at, m, 0.0).to(tl.float32)
    direct = tl.load(DIRECT + at, m, 0.0)
    held = tl.load(HELD + at, m, 0.0)
    on_h = factor(FACTOR_H, at, m)
    dh = leave(C, dq, on_h, direct, held, H_ALL, RESET, at, m, row, known)
    tl.store(DH + at, dh, m)


@triton.jit(do_not_specialize=["t", "T", "B"])
def backward(
    PRODUCT, DIRECT, HELD, DS, GATES, VECTORS, MASK, RESET, TAKE_H, TAKE_C, FACTOR_H, FACTOR_N,
    H_ALL, C_ALL, N, A, S, DH_ALL, DH, DC, D, SUMS, t, T, B,
    C: tl.constexpr, M: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Back through step t: D, and DS, what enters the next product with U transposed.

    PRODUCT is that of step t + 1; in the last step the gradient is DH's.  Where n has a product
    after r, the first part ends with DS of n and the "early" part begins with its product.
    """
    G: tl.constexpr = C.gates
    E: tl.constexpr = C.early
    n: tl.constexpr = G - 1
    cols, row, known, m, at, at_gates = _places(C, B, M)
    t = t.to(tl.int64)
    step = B.to(tl.int64) * C.pitch
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
        DH_ALL += t * step
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
        _, _, entering = enter(C, h_from, h_from, RESET, row, known)
        on_h = factor(FACTOR_H, at, m)
        r = tl.load(GATES + at_gates, m, 0.0).to(tl.float32)
        dr = dn_h * entering * on_h * slope(C.sigma, r)
        dz = tl.load(D + at_gates + C.pitch, m, 0.0).to(tl.float32)
        tl.store(D + at_gates, dr, m)
        direct = tl.load(DIRECT + at, m, 0.0) + dn_h * r * on_h
        tl.store(DIRECT + at, direct, m)
        of_forward = saved(C, H_ALL, C_ALL, GATES, N, A, S, B, at, at_gates, m, row, known)
        s = projection_back(C, (dr, dz), dr, gain, of_forward, cols)
        store_gates(C, DS + row * (E * C.pitch) + cols[None, :], s, m, E)
    else:
        if t == T - 1:
            dh = tl.load(DH + at, m, 0.0)
        else:
            at_h = at
            if C.moving_h:
                at_h = at + step
            dq = tl.load(PRODUCT + at, m, 0.0).to(tl.float32)
            direct = tl.load(DIRECT + at, m, 0.0)
            held = tl.load(HELD + at, m, 0.0)
            on_h = factor(FACTOR_H, at_h, m)
            dh = leave(C, dq, on_h, direct, held, H_ALL + step, RESET, at, m, row + B, known)
        if DH_ALL is not None:
            dh += tl.load(DH_ALL + at, m, 0.0).to(tl.float32)
        dc = 0.0 * dh
        if C.kind == "lstm":
            dc = tl.load(DC + at, m, 0.0)
        state = state_vectors(C, VECTORS, cols)
        of_forward = saved(C, H_ALL, C_ALL, GATES, N, A, S, B, at, at_gates, m, row, known)
        d, entering, direct, dc, held, sums = open_back(
            C, dh, dc, of_forward, MASK, RESET, TAKE_H, TAKE_C, FACTOR_N, state,
            at, m, row, known, cols,
        )  # fmt: skip
        tl.store(DIRECT + at, direct, m)
        tl.store(HELD + at, held, m)
        if C.kind == "lstm":
            tl.store(DC + at, dc, m)
        _add_sums(C, SUMS, sums, cols)
        if C.reset == "before":
            kept_n = dh
            if C.groups[n] >= 0:
                kept_n = of_forward[2][C.norms - 1]
            s_n = late_gate_back(C, d[1], gain[n], of_forward[1][n], kept_n, cols)
            s_n = clip(s_n, C.limit)
            tl.store(DS + at, s_n, m)
            tl.store(D + at_gates + C.pitch, d[0], m)
            tl.store(D + at_gates + n * C.pitch, d[1], m)
        else:
            d_n = dh
            if C.gated:
                d, d_n = reset_back(C, d, gain, of_forward, cols)
            store_gates(C, D + at_gates, d, m, G)
            s = projection_back(C, d, d_n, gain, of_forward, cols)
            store_gates(C, DS + at_gates, s, m, G)


@triton.jit
def _add_sums(C: tl.constexpr, SUMS, sums, cols):
    """Add the sums over the rows of this program to its part of SUMS (programs, 4, pitch)."""
    at = SUMS + tl.program_id(0).to(tl.int64) * (4 * C.pitch) + cols
    wide = cols < C.pitch
    first: tl.constexpr = 0 if C.cell_norm != "none" else 2
    last: tl.constexpr = 4 if C.hidden_norm else 2
    for i in tl.static_range(first, last):
        place = at + i * C.pitch
        tl.store(place, tl.load(place, wide, 0.0) + tl.sum(sums[i], 0), wide)
