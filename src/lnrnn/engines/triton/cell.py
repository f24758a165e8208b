"""The mathematics of a cell on a tile of rows: what the loops over time share.

A tile is (M, block) in float32; what stands for each gate is a tuple of G tiles.  `C` is a
[Cell][lnrnn.engines.triton.describe.Cell].  Columns beyond H hold zeros wherever a row is summed
or multiplied by a matrix.  A step goes

    raw -> squares -> scales -> normed -> early gates -> (late gates) -> new states

and a loop may add up the row sums of `squares` and `pair_sums` over programs that share a row.
Where programs do, a tile is the columns of one of them, and `link` is the way to the others, see
[lnrnn.engines.triton.exchange][].
"""

from __future__ import annotations

from functools import cache
from typing import Any

import triton
import triton.language as tl

from lnrnn.engines.triton.describe import Cell
from lnrnn.engines.triton.exchange import LATE, STATES, moments, total, totals

INTERPRETED = triton.knobs.runtime.interpret


class Constants:
    """A cell whose attributes are constants of Triton's compiler, which passes on no other."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._cell, name)
        if isinstance(value, tuple):
            return tuple(tl.constexpr(v) for v in value)
        return tl.constexpr(value)

    def __repr__(self) -> str:  # names what is compiled
        return repr(self._cell)


@cache
def constants(cell: Cell) -> Any:
    """What kernels take for a cell, the same object each time."""
    return cell if INTERPRETED else Constants(cell)


# ---- functions of one number


@triton.jit
def sigmoid(v):
    return 1.0 / (1.0 + tl.exp(-v))


@triton.jit
def tanh(v):
    return 2.0 / (1.0 + tl.exp(-2.0 * v)) - 1.0


@triton.jit
def activate(name: tl.constexpr, v):
    if name == "tanh":
        return tanh(v)
    elif name == "sigmoid":
        return sigmoid(v)
    elif name == "relu":
        return tl.where(v > 0, v, 0.0 * v)  # a NaN stays one
    elif name == "hard_sigmoid":
        return _ramp(v / 6.0 + 0.5)
    elif name == "keras2_hard_sigmoid":
        return _ramp(0.2 * v + 0.5)
    else:
        return v


@triton.jit
def _ramp(v):
    return tl.where(v < 0, 0.0, tl.where(v > 1, 1.0, v))


@triton.jit
def slope(name: tl.constexpr, y):
    """The derivative of an activation, from its value."""
    if name == "tanh":
        return 1.0 - y * y
    elif name == "sigmoid":
        return y * (1.0 - y)
    elif name == "relu":
        return tl.where(y > 0, 1.0, 0.0)
    elif name == "hard_sigmoid":
        return tl.where((y > 0) & (y < 1), 1.0 / 6.0, 0.0)
    elif name == "keras2_hard_sigmoid":
        return tl.where((y > 0) & (y < 1), 0.2, 0.0)
    else:
        return 0.0 * y + 1.0


@triton.jit
def clip(v, bound: tl.constexpr):
    """v within [-bound, bound]; a bound of 0 is none."""
    if bound > 0:
        v = tl.where(v > bound, bound, v)
        v = tl.where(v < -bound, -bound, v)
    return v


@triton.jit
def opened(d, v, bound: tl.constexpr):
    """The gradient d of a clipped v before the clip."""
    if bound > 0:
        d = tl.where(tl.abs(v) <= bound, d, 0.0)
    return d


@triton.jit
def within(C: tl.constexpr, v, cols):
    """v with zeros in the columns beyond H."""
    if C.units != C.block:
        v = tl.where((cols < C.units)[None, :], v, 0.0)
    return v


# ---- norms


@triton.jit
def scale(C: tl.constexpr, squares, n: tl.constexpr):
    """What is kept of a row whose squared deviations have this sum: 1 / s, or the deviation."""
    variance = squares / (1.0 * n - C.ddof)
    if C.at_root:
        return tl.sqrt(variance)
    else:
        return 1.0 / tl.sqrt(variance + C.epsilon)


@triton.jit
def inverse(C: tl.constexpr, kept):
    """1 / s of what `scale` gave."""
    if C.at_root:
        return 1.0 / (kept + C.epsilon)
    else:
        return kept


@triton.jit
def curvature(C: tl.constexpr, kept, n: tl.constexpr):
    """What u times the row sum of q u is multiplied by in the derivative of a norm."""
    if C.at_root:
        return tl.where(kept > 0, 1.0 / (kept * (1.0 * n - C.ddof)), 0.0)
    else:
        return kept / (1.0 * n - C.ddof)


@triton.jit
def mean(C: tl.constexpr, v):
    """(M, 1) of one unit row; zero of a root mean square."""
    if C.centred:
        return (tl.sum(v, 1) / C.units)[:, None]
    else:
        return tl.zeros([v.shape[0], 1], tl.float32)


@triton.jit
def row_norm(C: tl.constexpr, v, cols, link, channel: tl.constexpr):
    """Of a row of H: its normed values, mean and scale (M, 1)."""
    n: tl.constexpr = C.units
    if C.programs > 1 and C.centred:
        row_mean, squares = moments(C, v, cols, link, channel)
        m = row_mean[:, None]
        d = within(C, v - m, cols)
    else:
        m = mean(C, v)
        d = within(C, v - m, cols)
        squares = total(C, tl.sum(d * d, 1), link, channel)
    kept = scale(C, squares, n)[:, None]
    return d * inverse(C, kept), m, kept


@triton.jit
def row_normed(C: tl.constexpr, v, m, kept, cols):
    """The normed values again, from what `row_norm` gave."""
    return within(C, (v - m) * inverse(C, kept), cols)


@triton.jit
def row_norm_back(C: tl.constexpr, q, u, kept, cols, link, channel: tl.constexpr):
    """The gradient of a row from that of its normed values u, within the limit."""
    if C.centred:
        a, b = tl.split(tl.sum(tl.join(q, q * u), 1))
        a, b = totals(C, a, b, link, channel)
        q = q - (a / C.units)[:, None]
    else:
        b = total(C, tl.sum(q * u, 1), link, channel)
    d = q * inverse(C, kept) - u * (b[:, None] * curvature(C, kept, C.units))
    return clip(within(C, d, cols), C.limit)


@triton.jit
def squares(C: tl.constexpr, v, first: tl.constexpr, last: tl.constexpr):
    """The row sums (M) of squares of the groups [first, last), centred already."""
    G: tl.constexpr = C.gates
    sums = ()
    for k in tl.static_range(first, last):
        total = 0.0 * v[0]
        for g in tl.static_range(G):
            if C.groups[g] == k:
                total += v[g] * v[g]
        sums = sums + (tl.sum(total, 1),)
    return sums


@triton.jit
def scales(C: tl.constexpr, sums, first: tl.constexpr, last: tl.constexpr):
    """What is kept (M, 1) of each of the groups [first, last)."""
    kept = ()
    for k in tl.static_range(first, last):
        kept = kept + (scale(C, sums[k - first], C.sizes[k])[:, None],)
    return kept


@triton.jit
def normed(C: tl.constexpr, v, kept, n: tl.constexpr):
    """Of the first n gates those in a group normed, the others as they are."""
    u = ()
    for g in tl.static_range(n):
        if C.groups[g] >= 0 and C.groups[g] < C.early_norms:
            u = u + (v[g] * inverse(C, kept[C.groups[g]]),)
        else:
            u = u + (v[g],)
    return u


@triton.jit
def pair_sums(C: tl.constexpr, q, u, first: tl.constexpr, last: tl.constexpr):
    """Of the groups [first, last) the row sums (M) of q, and of q u."""
    G: tl.constexpr = C.gates
    sums = ()
    for k in tl.static_range(first, last):
        plain = 0.0 * q[0]
        product = 0.0 * q[0]
        for g in tl.static_range(G):
            if C.groups[g] == k:
                plain += q[g]
                product += q[g] * u[g]
        if C.centred and C.limit > 0:
            a, b = tl.split(tl.sum(tl.join(plain, product), 1))
        else:  # U is centred, so that the mean of q does not matter
            b = tl.sum(product, 1)
            a = b
        sums = sums + ((a, b),)
    return sums


@triton.jit
def normed_back(C: tl.constexpr, q, u, kept, sums, n: tl.constexpr, cols):
    """Gradients of h U of the first n gates, from those of their normed values."""
    d = ()
    for g in tl.static_range(n):
        if C.groups[g] >= 0 and C.groups[g] < C.early_norms:
            d = d + (_normed_back(C, q[g], u[g], kept, sums, C.groups[g], cols),)
        else:
            d = d + (q[g],)
    return d


@triton.jit
def _normed_back(C: tl.constexpr, q, u, kept, sums, k: tl.constexpr, cols):
    n: tl.constexpr = C.sizes[k]
    if C.centred and C.limit > 0:
        q = within(C, q - (sums[k][0] / n)[:, None], cols)
    weight = sums[k][1][:, None] * curvature(C, kept[k], n)
    return q * inverse(C, kept[k]) - u * weight


# ---- a step forward


@triton.jit
def raw(C: tl.constexpr, s, p, n: tl.constexpr):
    """What the norms take of the first n gates: h U, or its sum with the input part."""
    v = ()
    for g in tl.static_range(n):
        if C.summed[g] and not (C.apart and g == C.gates - 1):
            v = v + (s[g] + p[g],)
        else:
            v = v + (s[g],)
    return v


@triton.jit
def preactivation(C: tl.constexpr, g: tl.constexpr, u, p, gain, shift):
    """Of gate g from its normed part u and input part p."""
    if C.summed[g]:
        return u * gain + shift
    elif C.groups[g] >= 0:
        return p + u * gain
    else:
        return p + u


@triton.jit
def early_gates(C: tl.constexpr, u, p, gain, shift):
    """The activated gates that need no r, and what r multiplies.

    An lstm: all gates; a gru: r, z, and n unless that has a norm or a product after r; a simple
    cell: n.
    """
    G: tl.constexpr = C.gates
    gates = ()
    gated = 0.0 * u[0]
    for g in tl.static_range(G):
        if C.kind == "gru" and g == G - 1:
            if C.reset == "after":
                gated = u[g] * gain[g] + shift[g] if C.groups[g] >= 0 else u[g]
                gates = gates + (activate(C.phi, p[g] + gates[0] * gated),)
            elif C.reset == "whole":
                gated = preactivation(C, g, u[g], p[g], gain[g], shift[g])
                gates = gates + (activate(C.phi, gates[0] * gated),)
            elif C.reset == "none":
                gates = gates + (
                    activate(C.phi, preactivation(C, g, u[g], p[g], gain[g], shift[g])),
                )
            elif C.reset == "inside":
                gated = u[g]
        else:
            pre = preactivation(C, g, u[g], p[g], gain[g], shift[g])
            if C.kind == "simple" or (C.kind == "lstm" and g == G - 2):
                gates = gates + (activate(C.phi, pre),)
            else:
                gates = gates + (activate(C.sigma, pre),)
    return gates, gated


@triton.jit
def late_gate(C: tl.constexpr, s, p, gain, shift, cols, link=None):
    """n where its norm or product comes after r, from r (h U) or (r h) U: n, u and the scale."""
    n: tl.constexpr = C.gates - 1
    v = s
    if C.summed[n]:
        v = v + p
    kept = tl.zeros([v.shape[0], 1], tl.float32)
    if C.groups[n] >= 0:
        if C.reset == "inside":  # r has moved the mean
            v, _, kept = row_norm(C, v, cols, link, LATE)
        else:
            size: tl.constexpr = C.units
            kept = scale(C, tl.sum(v * v, 1), size)[:, None]
            v = v * inverse(C, kept)
    return activate(C.phi, preactivation(C, n, v, p, gain, shift)), v, kept


@triton.jit
def late_gate_back(C: tl.constexpr, d, gain, u, kept, cols, link=None):
    """The gradient of r (h U) or (r h) U of n, not yet limited, from that of n's pre-activation."""
    n: tl.constexpr = C.gates - 1
    if C.groups[n] >= 0:
        q = d * gain
        a, b = totals(C, tl.sum(q, 1), tl.sum(q * u, 1), link, LATE)
        if C.centred and (C.reset == "inside" or C.limit > 0):
            q = within(C, q - (a / C.units)[:, None], cols)
        d = q * inverse(C, kept) - u * (b[:, None] * curvature(C, kept, C.units))
    return d


@triton.jit
def new_h(C: tl.constexpr, gates, h, factor):
    """The new h of a simple cell or a gru, before its clip."""
    G: tl.constexpr = C.gates
    if C.kind == "gru":
        m = gates[G - 1] * factor
        z = gates[G - 2]
        return m + z * (h - m) if C.keep else h + z * (m - h)
    else:
        return gates[0]


@triton.jit
def new_cell(C: tl.constexpr, gates, c, factor):
    """The new c of an lstm, before clips and norms."""
    G: tl.constexpr = C.gates
    f = gates[G - 3]
    i = 1.0 - f if C.coupled else gates[0]
    return f * c + i * (gates[G - 2] * factor)


@triton.jit
def carried_and_shown(C: tl.constexpr, cell, c_hat, gain, shift):
    """The c that is carried and the one that the output sees, from the cell and its normed self.

    Not clipped after a norm.
    """
    if C.cell_norm == "output":
        return cell, c_hat * gain + shift
    elif C.cell_norm == "carry":
        v = c_hat * gain + shift
        return v, v
    elif C.cell_norm == "carry_only":
        return c_hat * gain + shift, cell
    else:
        return cell, cell


@triton.jit
def lstm_output(C: tl.constexpr, cell, o, gain_c, shift_c, gain_h, shift_h, cols, link=None):
    """From the new cell and o: h, the carried c, and what is kept of the norms.

    Kept are mean and scale (M, 1) of the cell's norm and of the hidden norm, zeros where there is
    none.
    """
    none = tl.zeros([cell.shape[0], 1], tl.float32)
    cell = before_norm(C, cell)
    c_mean, c_kept, h_mean, h_kept = none, none, none, none
    c_hat = cell
    if C.norms_c:
        c_hat, c_mean, c_kept = row_norm(C, within(C, cell, cols), cols, link, STATES)
    carried, shown = carried_and_shown(C, cell, c_hat, gain_c, shift_c)
    y = activate(C.psi, after_norm(C, shown))
    if C.cell_norm == "after_tanh":
        y, c_mean, c_kept = row_norm(C, within(C, y, cols), cols, link, STATES)
        y = y * gain_c + shift_c
    h = o * y
    if C.hidden_norm:
        h, h_mean, h_kept = row_norm(C, within(C, h, cols), cols, link, LATE)
        h = h * gain_h + shift_h
    return h, after_norm(C, carried), c_mean, c_kept, h_mean, h_kept


@triton.jit
def before_norm(C: tl.constexpr, cell):
    if C.cell_clip_at == "before_norm":
        cell = clip(cell, C.cell_clip)
    return cell


@triton.jit
def after_norm(C: tl.constexpr, cell):
    if C.cell_clip_at == "after_norm":
        cell = clip(cell, C.cell_clip)
    return cell


@triton.jit
def incoming_c(C: tl.constexpr, c):
    if C.cell_clip_at == "incoming":
        c = clip(c, C.cell_clip)
    return c


# ---- a step backward


@triton.jit
def lstm_output_back(
    C: tl.constexpr, dh, dc, cell, o, c_mean, c_kept, h_mean, h_kept,
    gain_c, shift_c, gain_h, shift_h, cols, link=None,
):  # fmt: skip
    """Gradients of o's pre-activation and of the new cell, and what the gains of norms add up.

    `cell` is as from `new_cell`.  The last four are, row by row, gradients of gain and shift of
    the cell's norm and of the hidden norm.
    """
    raw_cell = cell
    cell = before_norm(C, cell)
    c_hat = cell
    if C.norms_c:
        c_hat = row_normed(C, cell, c_mean, c_kept, cols)
    carried, shown = carried_and_shown(C, cell, c_hat, gain_c, shift_c)
    t = activate(C.psi, after_norm(C, shown))
    y = t
    t_hat = t
    if C.cell_norm == "after_tanh":
        t_hat = row_normed(C, t, c_mean, c_kept, cols)
        y = t_hat * gain_c + shift_c
    zero = 0.0 * dh
    dgain_c, dshift_c, dgain_h, dshift_h = zero, zero, zero, zero
    if C.hidden_norm:
        h_hat = row_normed(C, o * y, h_mean, h_kept, cols)
        dgain_h, dshift_h = dh * h_hat, dh
        dh = row_norm_back(C, dh * gain_h, h_hat, h_kept, cols, link, LATE)
    do = dh * y * slope(C.sigma, o)
    dt = dh * o
    if C.cell_norm == "after_tanh":
        dgain_c, dshift_c = dt * t_hat, dt
        dt = row_norm_back(C, dt * gain_c, t_hat, c_kept, cols, link, STATES)
    dshown = dt * slope(C.psi, t)
    if C.cell_clip_at == "after_norm":
        dshown = opened(dshown, shown, C.cell_clip)
        dc = opened(dc, carried, C.cell_clip)
    # what goes through the norm of the cell, and beside it
    through, beside = zero, dshown + dc
    if C.cell_norm == "output":
        through, beside = dshown, dc
    elif C.cell_norm == "carry":
        through, beside = dshown + dc, zero
    elif C.cell_norm == "carry_only":
        through, beside = dc, dshown
    if C.norms_c:
        dgain_c, dshift_c = through * c_hat, through
        beside += row_norm_back(C, through * gain_c, c_hat, c_kept, cols, link, STATES)
    if C.cell_clip_at == "before_norm":
        beside = opened(beside, raw_cell, C.cell_clip)
    return do, beside, dgain_c, dshift_c, dgain_h, dshift_h


@triton.jit
def lstm_gates_back(C: tl.constexpr, do, dcell, gates, c, factor):
    """Gradients of all pre-activations, and of the incoming c after its clip."""
    G: tl.constexpr = C.gates
    f, g = gates[G - 3], gates[G - 2]
    through_i = dcell * (g * factor)
    if C.coupled:
        i = 1.0 - f
        df = (dcell * c - through_i) * slope(C.sigma, f)
        dg = dcell * i * factor * slope(C.phi, g)
        return (df, dg, do), dcell * f
    else:
        i = gates[0]
        df = dcell * c * slope(C.sigma, f)
        dg = dcell * i * factor * slope(C.phi, g)
        return (through_i * slope(C.sigma, i), df, dg, do), dcell * f


@triton.jit
def gru_back(C: tl.constexpr, dh, gates, h, factor):
    """Gradients of z's pre-activation, of phi's argument, and of the old h directly."""
    G: tl.constexpr = C.gates
    z, n = gates[G - 2], gates[G - 1]
    m = n * factor
    dh = opened(dh, new_h(C, gates, h, factor), C.cell_clip)
    through_z = dh * (h - m) * slope(C.sigma, z)
    through_n = dh * factor * slope(C.phi, n)
    if C.keep:
        return through_z, through_n * (1.0 - z), dh * z
    else:
        return -through_z, through_n * z, dh * (1.0 - z)
