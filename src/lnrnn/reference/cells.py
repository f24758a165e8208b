"""One time step of every cell, forward and backward.

A step takes x (B,I), h (B,R) and c (B,H), and returns h', c' and the function that takes
their gradients back to those of x, h and c.  Cells other than the lstm pass through a
c of width 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lnrnn.reference.norm import Array
from lnrnn.reference.parts import (
    ACTIVATIONS,
    Back,
    Cell,
    Totals,
    clip,
    hidden_norm,
    identity,
    input_part,
    join,
    outer_part,
    peephole,
    pre_norm,
    projection,
    recurrent_part,
    state_norm,
)


class Step(NamedTuple):
    """The new states of a step, and the way back: (dh', dc', totals) -> (dx, dh, dc)."""

    h: Array
    c: Array
    back: Callable[[Array, Array, Totals], tuple[Array, Array, Array]]


def simple_step(
    cell: Cell, x: Array, h: Array, c: Array, recurrent_mask: Array, candidate_mask: Array
) -> Step:
    """h' = phi(N_sum(N_x(x W + b_x) + N_h(h U + b_h)) + b), also of the indrnn, normed."""
    gates = cell.variant.gates
    x, q, back_pre = pre_norm(cell, x, h * recurrent_mask)
    xs, back_x = input_part(cell, x)  # (B,H)
    hs, back_h = recurrent_part(cell, q, gates)
    p, back_p = outer_part(cell, xs + hs, gates)
    n, slope = ACTIVATIONS[cell.variant.activation](p)
    cell.see(n=n)
    cell.see("pre.", n=p)
    new, back_new = hidden_norm(cell, n)

    def back(dh: Array, dc: Array, totals: Totals):
        ds = back_p(back_new(dh, totals) * slope, totals)
        dx, dq = back_pre(back_x(ds, totals), back_h(ds, totals), totals)
        return dx, dq * recurrent_mask, dc

    return Step(new, c, back)


def gru_step(
    cell: Cell, x: Array, h: Array, c: Array, recurrent_mask: Array, candidate_mask: Array
) -> Step:
    """h' = z h + (1 - z) n, normed, of the gru and the ligru, which has no reset."""
    variant, gates = cell.variant, cell.variant.gates
    sigma, phi = ACTIVATIONS[variant.recurrent_activation], ACTIVATIONS[variant.activation]
    before = variant.reset == "before"
    # where r acts on a finished P_n (or there is no r), all gates are finished together
    together = variant.cell == "ligru" or variant.reset == "whole"
    early = gates if together else gates.replace("n", "")
    in_h = early if before else gates  # the gates of the one recurrent product

    x, q, back_pre = pre_norm(cell, x, h * recurrent_mask)
    xw, back_x = input_part(cell, x)  # (B, G H)
    hu, back_h = recurrent_part(cell, q, in_h)
    xs, hs = cell.split(xw, gates), cell.split(hu, in_h)
    pw, back_p = outer_part(cell, join({g: xs[g] + hs[g] for g in early}, early), early)
    p = cell.split(pw, early)

    z, z_slope = sigma(p["z"] + variant.update_bias)
    if variant.cell == "ligru":
        r, r_slope = 1.0, 0.0
    else:
        r, r_slope = (z, z_slope) if variant.coupled else sigma(p["r"])

    # the candidate: what r multiplies, and what is done to the product.  "after" has no
    # sum norm on n and "inside" no other, so N_sum(x + r h) is both
    gated = p["n"] if together else q if before else hs["n"]
    product = r * gated
    hn, back_hn = recurrent_part(cell, product, "n") if before else identity(product)
    a, back_a = identity(hn) if together else outer_part(cell, xs["n"] + hn, "n")
    n, n_slope = phi(a)
    m = n * candidate_mask
    sigmoids = {"r": r, "z": z} if "r" in gates else {"z": z}
    cell.see(**sigmoids, n=n)
    cell.see("pre.", **{g: p[g] for g in sigmoids}, n=a)

    keep = z if variant.update == "keep" else 1 - z
    bounded, within = clip(keep * h + (1 - keep) * m, variant.cell_clip)
    new, back_new = hidden_norm(cell, bounded)

    def back(dh: Array, dc: Array, totals: Totals):
        d = back_new(dh, totals) * within
        dkeep = d * (h - m)
        dz = (dkeep if variant.update == "keep" else -dkeep) * z_slope
        da = back_a(d * (1 - keep) * candidate_mask * n_slope, totals)
        dproduct = back_hn(da, totals)
        dr, dgated = dproduct * gated * r_slope, dproduct * r
        dz = dz + dr if variant.coupled else dz

        ds = join({"r": dr, "z": dz, "n": dgated}, early)
        ds = cell.split(back_p(ds, totals), early)
        dx = back_x(join({"n": da} | ds, gates), totals)
        dq = back_h(join({"n": dgated} | ds, in_h), totals)
        dx, dq = back_pre(dx, dq + dgated if before else dq, totals)
        return dx, d * keep + dq * recurrent_mask, dc

    return Step(new, c, back)


def lstm_step(
    cell: Cell, x: Array, h: Array, c: Array, recurrent_mask: Array, candidate_mask: Array
) -> Step:
    """c' = f c + i g and h' = o psi(c'), with all that may stand between."""
    variant, gates = cell.variant, cell.variant.gates
    sigma, phi = ACTIVATIONS[variant.recurrent_activation], ACTIVATIONS[variant.activation]
    psi = ACTIVATIONS[variant.output_activation]
    inside, after = variant.peephole == "inside", variant.peephole == "after"
    in_cell = variant.output_peephole == "cell"
    # with a peephole inside its norm, o waits for the new cell
    early = gates.replace("o", "") if inside else gates

    def clip_cell(v: Array, place: str) -> tuple[Array, Array | float]:
        return clip(v, variant.cell_clip if variant.cell_clip_at == place else None)

    def norm_cell(v: Array, place: str) -> tuple[Array, Back]:
        return state_norm(cell, v, "cell_norm") if variant.cell_norm == place else identity(v)

    # incoming states, pre-activations
    h, h_open = clip(h, variant.hidden_clip)
    c, c_open = clip_cell(c, "incoming")
    x, q, back_pre = pre_norm(cell, x, h * recurrent_mask)
    xw, back_x = input_part(cell, x)  # (B, G H)
    hu, back_h = recurrent_part(cell, q, gates)
    s = cell.split(xw + hu, gates)
    peeps = {gate: peephole(cell, gate, c) for gate in early if gate in "if"}
    s |= {gate: s[gate] + inside * peep for gate, (peep, _) in peeps.items()}
    pw, back_p = outer_part(cell, join(s, early), early)
    p = cell.split(pw, early)
    p |= {gate: p[gate] + after * peep for gate, (peep, _) in peeps.items()}

    # the cell: at most one of the three norms is there
    f, f_slope = sigma(p["f"] + variant.forget_bias)
    i, i_slope = (1 - f, 0.0) if variant.coupled else sigma(p["i"])
    by_f = float(variant.coupled)  # the share of i that follows f
    if variant.capped:
        over = i > 1 - f
        i, i_slope, by_f = np.where(over, 1 - f, i), i_slope * ~over, over
    g, g_slope = phi(p["g"])
    u = g * candidate_mask
    bounded, open_before = clip_cell(f * c + i * u, "before_norm")
    normed, back_normed = norm_cell(bounded, "carry")
    new, open_after = clip_cell(normed, "after_norm")
    carried, back_carried = norm_cell(new, "carry_only")
    carried, open_carried = clip_cell(carried, "carried")
    shown, back_shown = norm_cell(new, "output")

    # the output gate
    peep_o, back_peep_o = peephole(cell, "o", carried)
    po, back_o = (
        outer_part(cell, s["o"] + peep_o, "o")
        if inside
        else identity(p["o"] + (after and not in_cell) * peep_o)
    )
    o, o_slope = sigma(po)
    cell.see(i=i, f=f, g=g, o=o)
    cell.see("pre.", **{gate: p[gate] for gate in gates if gate != "o"}, o=po)

    # the output
    t, t_slope = psi(shown + in_cell * peep_o)
    e, back_e = norm_cell(t, "after_tanh")
    projected, back_projected = projection(cell, o * e)
    out, back_out = hidden_norm(cell, projected)

    def back(dh: Array, dc: Array, totals: Totals):
        doe = back_projected(back_out(dh, totals), totals)
        dt = back_e(doe * o, totals) * t_slope
        dp = {"o": back_o(doe * e * o_slope, totals)}
        dcarried = dc + back_peep_o(dt if in_cell else dp["o"], totals)
        dnew = back_shown(dt, totals) + back_carried(dcarried * open_carried, totals)
        dcell = back_normed(dnew * open_after, totals) * open_before
        di, df = dcell * u, dcell * c
        dp["f"] = (df - di * by_f) * f_slope
        dp["i"] = di * i_slope
        dp["g"] = dcell * i * candidate_mask * g_slope

        ds = dp | cell.split(back_p(join(dp, early), totals), early)
        dc = dcell * f
        for gate, (_, back_peep) in peeps.items():
            dc = dc + back_peep(ds[gate] if inside else dp[gate], totals)
        ds = join(ds, gates)
        dx, dq = back_pre(back_x(ds, totals), back_h(ds, totals), totals)
        return dx, dq * recurrent_mask * h_open, dc * c_open

    return Step(out, carried, back)


STEPS = {
    "simple": simple_step,
    "indrnn": simple_step,
    "ligru": gru_step,
    "gru": gru_step,
    "lstm": lstm_step,
}
