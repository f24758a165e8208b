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
from lnrnn.engines.triton.exchange import HIDDEN, LATE, STATES, moments, total, totals

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
    # a norm of what is small wants small relative errors
    w = v * v
    return tl.where(w < 1e-3, v - v * w * (1.0 / 3.0), 2.0 / (1.0 + tl.exp(-2.0 * v)) - 1.0)


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
def early_gates(C: tl.constexpr, u, p, gain, shift, c, state):
    """The activated gates that need no r, and what r multiplies.

    An lstm: all gates, but o not yet activated where it sees the new c; a gru: r, z, and n unless
    that has a norm or a product after r; a simple cell: n.
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
            if C.peepholes != "none" and g < G - 2:
                pre += state[8 - G + g] * c
            if C.peepholes == "gate" and g == G - 1:
                gates = gates + (pre,)
            elif C.kind == "simple" or (C.kind == "lstm" and g == G - 2):
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
def input_gate(C: tl.constexpr, gates):
    """i of an lstm, as it multiplies the candidate."""
    rest = 1.0 - gates[C.gates - 3]
    if C.coupled:
        return rest
    elif C.capped:
        return tl.where(gates[0] > rest, rest, gates[0])
    else:
        return gates[0]


@triton.jit
def new_cell(C: tl.constexpr, gates, c, factor):
    """The new c of an lstm, before clips and norms."""
    G: tl.constexpr = C.gates
    return gates[G - 3] * c + input_gate(C, gates) * (gates[G - 2] * factor)


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
def lstm_output(C: tl.constexpr, cell, o, state, cols, link=None):
    """From the new cell and o: h before its norm, the carried c, o, and what is kept of the norm.

    Kept are mean and scale (M, 1) of the cell's norm, zeros where there is none; `state` is as
    from `state_vectors`.
    """
    none = tl.zeros([cell.shape[0], 1], tl.float32)
    cell = before_norm(C, cell)
    mean, kept = none, none
    c_hat = cell
    if C.norms_c:
        c_hat, mean, kept = row_norm(C, within(C, cell, cols), cols, link, STATES)
    carried, shown = carried_and_shown(C, cell, c_hat, state[0], state[1])
    shown = after_norm(C, shown)
    carried = when_carried(C, after_norm(C, carried))
    if C.peepholes == "gate":
        o = activate(C.sigma, o + state[6] * carried)
    elif C.peepholes == "cell":
        shown += state[6] * carried
    y = activate(C.psi, shown)
    if C.cell_norm == "after_tanh":
        y, mean, kept = row_norm(C, within(C, y, cols), cols, link, STATES)
        y = y * state[0] + state[1]
    return o * y, carried, o, mean, kept


@triton.jit
def hidden_normed(C: tl.constexpr, h, state, cols, link=None):
    """The new h after its norm, with mean and scale (M, 1); zeros where there is none."""
    mean = tl.zeros([h.shape[0], 1], tl.float32)
    kept = mean
    if C.hidden_norm:
        h, mean, kept = row_norm(C, within(C, h, cols), cols, link, HIDDEN)
        h = h * state[2] + state[3]
    return h, mean, kept


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
def when_carried(C: tl.constexpr, cell):
    if C.cell_clip_at == "carried":
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
    C: tl.constexpr, dh, dc, cell, o, of_c, of_h, state, cols, link=None
):  # fmt: skip
    """Gradients of o's pre-activation and of the new cell, and what vectors add up.

    `cell` is as from `new_cell`; `of_c` and `of_h` are what was kept of the norms.  The last five
    are, row by row, gradients of gain and shift of the cell's norm, of those of the hidden norm,
    and of the peephole of o.
    """
    mean, kept = of_c
    raw_cell = cell
    cell = before_norm(C, cell)
    c_hat = cell
    if C.norms_c:
        c_hat = row_normed(C, cell, mean, kept, cols)
    carried, shown = carried_and_shown(C, cell, c_hat, state[0], state[1])
    after = after_norm(C, carried)
    seen = when_carried(C, after)
    argument = after_norm(C, shown)
    if C.peepholes == "cell":
        argument += state[6] * seen
    t = activate(C.psi, argument)
    y = t
    t_hat = t
    if C.cell_norm == "after_tanh":
        t_hat = row_normed(C, t, mean, kept, cols)
        y = t_hat * state[0] + state[1]
    zero = 0.0 * dh
    dgain, dshift, dpeephole = zero, zero, zero
    dh, dgain_h, dshift_h = hidden_normed_back(C, dh, o * y, of_h, state, cols, link)
    do = dh * y * slope(C.sigma, o)
    dt = dh * o
    if C.cell_norm == "after_tanh":
        dgain, dshift = dt * t_hat, dt
        dt = row_norm_back(C, dt * state[0], t_hat, kept, cols, link, STATES)
    dshown = dt * slope(C.psi, t)
    if C.peepholes != "none":
        through = clip(do if C.peepholes == "gate" else dshown, C.limit)
        dpeephole = through * seen
        dc += through * state[6]
    if C.cell_clip_at == "carried":
        dc = opened(dc, after, C.cell_clip)
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
        dgain, dshift = through * c_hat, through
        beside += row_norm_back(C, through * state[0], c_hat, kept, cols, link, STATES)
    if C.cell_clip_at == "before_norm":
        beside = opened(beside, raw_cell, C.cell_clip)
    return do, beside, dgain, dshift, dgain_h, dshift_h, dpeephole


@triton.jit
def hidden_normed_back(C: tl.constexpr, dh, h, of_h, state, cols, link=None):
    """The gradient of h before its norm and, row by row, those of gain and shift.

    `of_h` is what was kept of the norm.
    """
    zero = 0.0 * dh
    dgain, dshift = zero, zero
    if C.hidden_norm:
        h_hat = row_normed(C, h, of_h[0], of_h[1], cols)
        dgain, dshift = dh * h_hat, dh
        dh = row_norm_back(C, dh * state[2], h_hat, of_h[1], cols, link, HIDDEN)
    return dh, dgain, dshift


@triton.jit
def lstm_gates_back(C: tl.constexpr, do, dcell, gates, c, factor):
    """Gradients of all pre-activations, and of the incoming c after its clip."""
    G: tl.constexpr = C.gates
    f, g = gates[G - 3], gates[G - 2]
    dg = dcell * input_gate(C, gates) * factor * slope(C.phi, g)
    di = dcell * (g * factor)
    df = dcell * c
    if C.coupled:
        df -= di
    elif C.capped:
        over = gates[0] > 1.0 - f
        df -= tl.where(over, di, 0.0)
        di = tl.where(over, 0.0, di)
    df *= slope(C.sigma, f)
    if C.coupled:
        return (df, dg, do), dcell * f
    else:
        return (di * slope(C.sigma, gates[0]), df, dg, do), dcell * f


@triton.jit
def gru_back(C: tl.constexpr, dh, gates, h, factor):
    """Gradients of z's pre-activation, of phi's argument, and of the old h directly."""
    G: tl.constexpr = C.gates
    z, n = gates[G - 2], gates[G - 1]
    m = n * factor
    through_z = dh * (h - m) * slope(C.sigma, z)
    through_n = dh * factor * slope(C.phi, n)
    if C.keep:
        return through_z, through_n * (1.0 - z), dh * z
    else:
        return -through_z, through_n * z, dh * (1.0 - z)


@triton.jit
def with_reset(C: tl.constexpr, dr, dz, dn):
    """Gradients of all pre-activations of a gru, whose z may be r as well."""
    if C.coupled:
        return (dz + dr, dn)
    else:
        return (dr, dz, dn)
