"""N and Q, the kernels that need no recurrence: the norms of inputs, and what is left of derivatives.

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
def _group_mean(C: tl.constexpr, v, of, k: tl.constexpr, n: tl.constexpr):
    """The mean (M, 1) of group k of the tiles v."""
    total = 0.0 * v[0]
    for g in tl.static_range(tl.constexpr(C.gates)):
        if of[g] == k:
            total += v[g]
    return (tl.sum(total, 1) / (1.0 * n))[:, None]


@triton.jit(do_not_specialize=["R"])
def inputs(X, P, AFFINE, S, R, C: tl.constexpr, M: tl.constexpr):
    """N: from X = x W the input part P of all gates, rows (R, G, pitch), and statistics (., R).

    AFFINE are gains and shifts by gate, (2 G, pitch).  Gates whose norm is of the sum are centred
    over their group, as U is.
    """
    G: tl.constexpr = C.gates
    row = (tl.program_id(0).to(tl.int64) * M + tl.arange(0, M))[:, None]
    cols = tl.arange(0, C.block)
    known = row < R
    m = known & (cols < C.pitch)[None, :]
    at = row * (G * C.pitch) + cols[None, :]
    x = load_gates(C, X + at, m, 0, G)
    for k in tl.static_range(tl.constexpr(C.x_norms)):
        size: tl.constexpr = C.x_sizes[k]
        center = tl.zeros([M, 1], tl.float32)
        if C.centred:
            center = _group_mean(C, x, C.of_x, k, size)
        total = tl.zeros([M, C.block], tl.float32)
        for g in tl.static_range(G):
            if C.of_x[g] == k:
                d = within(C, x[g] - center, cols)
                total += d * d
        kept = scale(C, tl.sum(total, 1), size)[:, None]
        tl.store(S + (2 * k) * R.to(tl.int64) + row, center, known)
        tl.store(S + (2 * k + 1) * R.to(tl.int64) + row, kept, known)
        for g in tl.static_range(G):
            if C.of_x[g] == k:
                vector = AFFINE + g * C.pitch + cols
                gain = tl.load(vector, cols < C.pitch, 0.0)[None, :]
                shift = tl.load(vector + G * C.pitch, cols < C.pitch, 0.0)[None, :]
                u = (x[g] - center) * inverse(C, kept)
                tl.store(P + at + g * C.pitch, within(C, u * gain + shift, cols), m)
    for k in tl.static_range(tl.constexpr(C.norms)):
        center = tl.zeros([M, 1], tl.float32)
        if C.centred_ahead[k]:
            center = _group_mean(C, x, C.groups, k, C.sizes[k])
        for g in tl.static_range(G):
            if C.groups[g] == k and C.summed[g]:
                tl.store(P + at + g * C.pitch, within(C, x[g] - center, cols), m)
    for g in tl.static_range(G):
        if C.of_x[g] < 0 and not C.summed[g]:
            vector = AFFINE + (G + g) * C.pitch + cols
            shift = tl.load(vector, cols < C.pitch, 0.0)[None, :]
            tl.store(P + at + g * C.pitch, x[g] + shift, m)


@triton.jit(do_not_specialize=["R", "B"])
def gradients(
    D, DX, DS, GATES, N, X, S, SX, VECTORS, AFFINE, SUMS, R, B,
    C: tl.constexpr, M: tl.constexpr, LOOP: tl.constexpr, BIAS_X: tl.constexpr,
):  # fmt: skip
    """Q: from D, gradients of pre-activations, those of x W (DX) and of h U (DS), rows (R, G, pitch).

    SUMS (programs, 6, G, pitch): over the rows of a program, gradients of the gain and of the
    shift of inputs, of the gain and of the shift of recurrent norms, of the biases of x W and h U.
    """
    G: tl.constexpr = C.gates
    n: tl.constexpr = G - 1
    cols = tl.arange(0, C.block)
    wide = cols < C.pitch
    bias, gain, shift = vectors(C, VECTORS, cols)
    gain_x = ()
    for g in tl.static_range(G):
        if C.of_x[g] >= 0:
            gain_x = gain_x + (tl.load(AFFINE + g * C.pitch + cols, wide, 0.0)[None, :],)
        else:
            gain_x = gain_x + (1.0,)
    sums = ()
    for _ in tl.static_range(6 * G):
        sums = sums + (tl.zeros([M, C.block], tl.float32),)
    for i in range(LOOP):
        row = (tl.program_id(0).to(tl.int64) * (M * LOOP) + i * M + tl.arange(0, M))[:, None]
        known = row < R
        m = known & wide[None, :]
        at = row * (G * C.pitch) + cols[None, :]
        # S is (T, statistics, B)
        at_s = S + (row // B) * (C.statistics * B) + row % B
        d = load_gates(C, D + at, m, 0, G)
        r = 1.0
        if C.gated:
            r = tl.load(GATES + at, m, 0.0).to(tl.float32)
        u = d
        if C.norms > 0:
            u = load_gates(C, N + at, m, 0, G)
        # gradients of h U, and of the input part
        v, p, sums_now = (), (), ()
        for g in tl.static_range(G):
            k: tl.constexpr = C.groups[g]
            through = d[g]
            if C.reset == "after" and g == n:
                through = through * r
            if k >= 0:
                size: tl.constexpr = C.sizes[k]
                kept = tl.load(at_s + k * B, known, 1.0)
                total = tl.zeros([M, C.block], tl.float32)
                product = tl.zeros([M, C.block], tl.float32)
                for other in tl.static_range(G):
                    if C.groups[other] == k:
                        q = d[other] * gain[other]
                        if C.reset == "after" and other == n:
                            q = q * r
                        total += q
                        product += q * u[other]
                e = through * gain[g]
                if C.centred:
                    e = e - (tl.sum(total, 1) / (1.0 * size))[:, None]
                weight = tl.sum(product, 1)[:, None] * curvature(C, kept, size)
                e = within(C, e * inverse(C, kept) - u[g] * weight, cols)
            else:
                e = through
            if C.summed[g]:
                p = p + (e,)
            else:
                p = p + (d[g],)
            if C.reset == "inside" and g == n:
                e = e * r
            v = v + (e,)
        # gradients of x W
        x = p
        if C.x_norms > 0:
            x = load_gates(C, X + at, m, 0, G)
        dx, u_x = (), ()
        for g in tl.static_range(G):
            k: tl.constexpr = C.of_x[g]
            if k >= 0:
                at_x = SX + (2 * k) * R.to(tl.int64) + row
                center = tl.load(at_x, known, 0.0)
                kept = tl.load(at_x + R, known, 1.0)
                size: tl.constexpr = C.x_sizes[k]
                total = tl.zeros([M, C.block], tl.float32)
                product = tl.zeros([M, C.block], tl.float32)
                for other in tl.static_range(G):
                    if C.of_x[other] == k:
                        q = p[other] * gain_x[other]
                        total += q
                        product += q * ((x[other] - center) * inverse(C, kept))
                e = p[g] * gain_x[g]
                if C.centred:
                    e = e - (tl.sum(total, 1) / (1.0 * size))[:, None]
                weight = tl.sum(product, 1)[:, None] * curvature(C, kept, size)
                own = (x[g] - center) * inverse(C, kept)
                dx = dx + (within(C, e * inverse(C, kept) - own * weight, cols),)
                u_x = u_x + (own,)
            else:
                dx = dx + (p[g],)
                u_x = u_x + (0.0 * p[g],)
        now = ()
        for g in tl.static_range(G):
            now = now + (sums[g] + p[g] * u_x[g],)
        for g in tl.static_range(G):
            now = now + (sums[G + g] + d[g],)
        for g in tl.static_range(G):
            through = d[g]
            if C.reset == "after" and g == n:
                through = through * r
            now = now + (sums[2 * G + g] + through * u[g],)
        for g in tl.static_range(G):
            through = d[g]
            if C.reset == "after" and g == n:
                through = through * r
            now = now + (sums[3 * G + g] + through,)
        for g in tl.static_range(G):
            now = now + (sums[4 * G + g] + dx[g],)
        for g in tl.static_range(G):
            now = now + (sums[5 * G + g] + v[g],)
        sums = now
        store_gates(C, DX + at, dx, m, G)
        if DS is not None:
            for g in tl.static_range(G):
                tl.store(DS + at + g * C.pitch, clip(v[g], C.limit), m)
    at_sums = SUMS + tl.program_id(0).to(tl.int64) * (6 * G * C.pitch) + cols
    for i in tl.static_range(6 * G):
        tl.store(at_sums + i * C.pitch, tl.sum(sums[i], 0), wide)
