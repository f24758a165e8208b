"""N and Q, the kernels that need no recurrence: norms of inputs, and the rest of derivatives.

Their programs take rows (t, b) of all steps at once, and are bound by memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lnrnn.engines.triton.cell import (
    clip,
    curvature,
    inverse,
    scale,
    within,
)
from lnrnn.engines.triton.memory import load_gates, store_gates, vectors


@triton.jit
def _total(C: tl.constexpr, v, k: tl.constexpr, OF_X: tl.constexpr):
    """The row sums (M, 1) of group k, of inputs or of the recurrence, of the tiles v."""
    total = 0.0 * v[0]
    for g in tl.static_range(tl.constexpr(C.gates)):
        if OF_X:
            if C.of_x[g] == k:
                total += v[g]
        elif C.groups[g] == k:
            total += v[g]
    return tl.sum(total, 1)[:, None]


@triton.jit
def _times(C: tl.constexpr, a, b):
    v = ()
    for g in tl.static_range(tl.constexpr(C.gates)):
        v = v + (a[g] * b[g],)
    return v


@triton.jit
def _back(
    C: tl.constexpr, g: tl.constexpr, q, u, kept, k: tl.constexpr, n: tl.constexpr,
    OF_X: tl.constexpr, cols,
):  # fmt: skip
    """Of gate g in group k of n numbers the gradient before its norm, from those after it."""
    e = q[g]
    if C.centred:
        e = e - _total(C, q, k, OF_X) / (1.0 * n)
    weight = _total(C, _times(C, q, u), k, OF_X) * curvature(C, kept, n)
    return within(C, e * inverse(C, kept) - u[g] * weight, cols)


@triton.jit
def _normed(C: tl.constexpr, x, S, R, row, known, cols):
    """The tiles x W normed, and what was kept of the norm of each gate."""
    u, kept = (), ()
    for g in tl.static_range(tl.constexpr(C.gates)):
        if C.of_x[g] >= 0:
            at = S + (2 * C.of_x[g]) * R.to(tl.int64) + row
            own = tl.load(at + R, known, 1.0)
            center = tl.load(at, known, 0.0)
            u = u + (within(C, (x[g] - center) * inverse(C, own), cols),)
            kept = kept + (own,)
        else:
            u = u + (0.0 * x[g],)
            kept = kept + (0.0,)
    return u, kept


@triton.jit(do_not_specialize=["R"])
def inputs(X, P, VECTORS, S, R, C: tl.constexpr, M: tl.constexpr):
    """N: from X = x W the input part P of all gates, rows (R, G, pitch), and statistics (., R).

    Gates whose norm is of the sum are centred over their group, as U is.
    """
    G: tl.constexpr = C.gates
    AFFINE = VECTORS + (3 * G + 8) * C.pitch
    row = (tl.program_id(0).to(tl.int64) * M + tl.arange(0, M))[:, None]
    cols = tl.arange(0, C.block)
    known = row < R
    wide = cols < C.pitch
    m = known & wide[None, :]
    at = row * (G * C.pitch) + cols[None, :]
    x = load_gates(C, X + at, m, 0, G)
    for k in tl.static_range(tl.constexpr(C.x_norms)):
        center = tl.zeros([M, 1], tl.float32)
        if C.centred:
            center = _total(C, x, k, True) / (1.0 * C.x_sizes[k])
        d = ()
        for g in tl.static_range(G):
            d = d + (within(C, x[g] - center, cols),)
        kept = scale(C, _total(C, _times(C, d, d), k, True), C.x_sizes[k])
        tl.store(S + (2 * k) * R.to(tl.int64) + row, center, known)
        tl.store(S + (2 * k + 1) * R.to(tl.int64) + row, kept, known)
        for g in tl.static_range(G):
            if C.of_x[g] == k:
                gain = tl.load(AFFINE + g * C.pitch + cols, wide, 0.0)[None, :]
                shift = tl.load(AFFINE + (G + g) * C.pitch + cols, wide, 0.0)[None, :]
                tl.store(P + at + g * C.pitch, d[g] * inverse(C, kept) * gain + shift, m)
    for k in tl.static_range(tl.constexpr(C.norms)):
        center = tl.zeros([M, 1], tl.float32)
        if C.centred_ahead[k]:
            center = _total(C, x, k, False) / (1.0 * C.sizes[k])
        for g in tl.static_range(G):
            if C.groups[g] == k and C.summed[g]:
                tl.store(P + at + g * C.pitch, within(C, x[g] - center, cols), m)
    for g in tl.static_range(G):
        if C.of_x[g] < 0 and not C.summed[g]:
            shift = tl.load(AFFINE + (G + g) * C.pitch + cols, wide, 0.0)[None, :]
            tl.store(P + at + g * C.pitch, x[g] + shift, m)


@triton.jit(do_not_specialize=["R", "B"])
def gradients(
    D, DX, DS, GATES, N, X, S, SX, VECTORS, SUMS, R, B,
    C: tl.constexpr, M: tl.constexpr, LOOP: tl.constexpr,
):  # fmt: skip
    """Q: from D, gradients of pre-activations, those of x W and of h U, rows (R, G, pitch).

    SUMS (programs, 6, G, pitch): over the rows of a program, gradients of the gain and of the
    shift of inputs, of the gain and of the shift of recurrent norms, of the biases of x W and h U.
    """
    G: tl.constexpr = C.gates
    BLOCK: tl.constexpr = C.block
    cols = tl.arange(0, BLOCK)
    wide = cols < C.pitch
    _, gain, _ = vectors(C, VECTORS, cols)
    AFFINE = VECTORS + (3 * G + 8) * C.pitch
    sums = ()
    for _ in tl.static_range(6 * G):
        sums = sums + (tl.zeros([M, BLOCK], tl.float32),)
    for i in range(LOOP):
        row = (tl.program_id(0).to(tl.int64) * (M * LOOP) + i * M + tl.arange(0, M))[:, None]
        known = row < R
        m = known & wide[None, :]
        at = row * (G * C.pitch) + cols[None, :]
        at_s = S + (row // B) * C.statistics * B + row % B  # (T, statistics, B)
        d = load_gates(C, D + at, m, 0, G)
        r = 1.0
        if C.gated:
            r = tl.load(GATES + at, m, 0.0).to(tl.float32)
        u = d
        if C.norms > 0:
            u = load_gates(C, N + at, m, 0, G)
        # gradients of the affine and of the normed values of h U
        through, q = (), ()
        for g in tl.static_range(G):
            own = d[g]
            if C.reset == "after" and g == G - 1:
                own = own * r
            through = through + (own,)
            q = q + (own * gain[g] if C.groups[g] >= 0 else own,)
        # gradients of h U (v), and of the input part (p)
        v, p = (), ()
        for g in tl.static_range(G):
            e = q[g]
            if C.groups[g] >= 0:
                kept = tl.load(at_s + C.groups[g] * B, known, 1.0)
                e = _back(C, g, q, u, kept, C.groups[g], C.sizes[C.groups[g]], False, cols)
            p = p + (e if C.summed[g] else d[g],)
            if C.reset == "inside" and g == G - 1:
                e = e * r
            v = v + (e,)
        # gradients of x W
        dx = p
        u_x = p
        if C.x_norms > 0:
            x = load_gates(C, X + at, m, 0, G)
            u_x, kept_x = _normed(C, x, SX, R, row, known, cols)
            q_x, dx = (), ()
            for g in tl.static_range(G):
                if C.of_x[g] >= 0:
                    own_gain = tl.load(AFFINE + g * C.pitch + cols, wide, 0.0)[None, :]
                    q_x = q_x + (p[g] * own_gain,)
                else:
                    q_x = q_x + (p[g],)
            for g in tl.static_range(G):
                if C.of_x[g] >= 0:
                    e = _back(
                        C, g, q_x, u_x, kept_x[g], C.of_x[g], C.x_sizes[C.of_x[g]], True, cols
                    )
                    dx = dx + (e,)
                else:
                    dx = dx + (p[g],)
        sums = _added(C, sums, _times(C, p, u_x), d, _times(C, through, u), through, dx, v)
        store_gates(C, DX + at, dx, m, G)
        if DS is not None:
            for g in tl.static_range(G):
                tl.store(DS + at + g * C.pitch, clip(v[g], C.limit), m)
    at_sums = SUMS + tl.program_id(0).to(tl.int64) * (6 * G * C.pitch) + cols
    for i in tl.static_range(6 * G):
        tl.store(at_sums + i * C.pitch, tl.sum(sums[i], 0), wide)


@triton.jit
def _added(C: tl.constexpr, sums, gain_x, shift, gain, shift_r, bias_x, bias_h):
    G: tl.constexpr = C.gates
    added = ()
    for g in tl.static_range(G):
        added = added + (sums[g] + gain_x[g],)
    for g in tl.static_range(G):
        added = added + (sums[G + g] + shift[g],)
    for g in tl.static_range(G):
        added = added + (sums[2 * G + g] + gain[g],)
    for g in tl.static_range(G):
        added = added + (sums[3 * G + g] + shift_r[g],)
    for g in tl.static_range(G):
        added = added + (sums[4 * G + g] + bias_x[g],)
    for g in tl.static_range(G):
        added = added + (sums[5 * G + g] + bias_h[g],)
    return added
