"""One step of a tile of rows, between the products of the loops over time.

The arrays are those of [lnrnn.engines.triton.arrays][], pointed at the step; `at` are the offsets
of a tile (M, block) of H columns, `at_gates` those of gate 0 in rows of gates, `row` those of rows
(M, 1), `m` and `known` say which of them exist.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lnrnn.engines.triton.cell import (
    clip,
    early_gates,
    gru_back,
    hidden_normed,
    hidden_normed_back,
    incoming_c,
    late_gate,
    late_gate_back,
    lstm_gates_back,
    lstm_output,
    lstm_output_back,
    new_cell,
    new_h,
    normed,
    normed_back,
    opened,
    pair_sums,
    raw,
    scales,
    slope,
    squares,
    with_reset,
    within,
)
from lnrnn.engines.triton.exchange import EARLY, total, totals
from lnrnn.engines.triton.memory import (
    factor,
    flag,
    load_gates,
    store_gates,
    zoned_out,
    zoned_out_back,
)


@triton.jit
def enter(C: tl.constexpr, h, c, RESET, RESET_H, RESET_C, at_state, m_state, row, known):
    """The states after a reset, and h after its clip."""
    if RESET is not None:
        fresh = flag(RESET, row, known)
        to_h, to_c = 0.0, 0.0
        if RESET_H is not None:
            to_h = tl.load(RESET_H + at_state, m_state, 0.0)
            if C.kind == "lstm":
                to_c = tl.load(RESET_C + at_state, m_state, 0.0)
        h = tl.where(fresh, to_h, h)
        c = tl.where(fresh, to_c, c)
    return h, c, clip(h, C.hidden_clip)


@triton.jit
def group_totals(C: tl.constexpr, sums, link):
    """Row sums of the groups that need no r, over the programs that share the rows."""
    whole = ()
    for k in tl.static_range(tl.constexpr(C.early_norms)):
        whole = whole + (total(C, sums[k], link, EARLY + k),)
    return whole


@triton.jit
def group_totals_of_two(C: tl.constexpr, sums, link):
    """The same of what `pair_sums` gives."""
    whole = ()
    for k in tl.static_range(tl.constexpr(C.early_norms)):
        if C.centred and C.limit > 0:
            a, b = totals(C, sums[k][0], sums[k][1], link, EARLY + 2 * k)
        else:
            b = total(C, sums[k][1], link, EARLY + k)
            a = b
        whole = whole + ((a, b),)
    return whole


@triton.jit
def early(C: tl.constexpr, s, p, gain, shift, c, state, link=None):
    """From h U of the early gates: the gates, u, what is kept of norms, and what r multiplies.

    `c` is as it came in, for peepholes; `state` is as from `state_vectors`.
    """
    v = raw(C, s, p, C.early)
    sums = group_totals(C, squares(C, v, 0, C.early_norms), link)
    kept = scales(C, sums, 0, C.early_norms)
    u = normed(C, v, kept, C.early)
    gates, gated = early_gates(C, u, p, gain, shift, incoming_c(C, c), state)
    return gates, u, kept, gated


@triton.jit
def late(C: tl.constexpr, s, gates, u, kept, p, gain, shift, cols, link=None):
    """With n, from its r (h U) or (r h) U: the gates, u and what is kept of norms."""
    n: tl.constexpr = C.gates - 1
    value, u_n, kept_n = late_gate(C, s, p[n], gain[n], shift[n], cols, link)
    return gates + (value,), u[:n] + (u_n,), kept + (kept_n,)


@triton.jit
def close(
    C: tl.constexpr, gates, h, c, h_from, c_from, entering, on_n, state, MASK, TAKE_H, TAKE_C,
    at, m, row, known, cols, link=None,
):  # fmt: skip
    """The gates, the new h and c, and what is kept of the norms of the states.

    `h` and `c` are the states before a reset, which a masked step holds; `state` is as from
    `state_vectors`.
    """
    G: tl.constexpr = C.gates
    of_states = ()
    c_new = c
    if C.kind == "lstm":
        cell = new_cell(C, gates, incoming_c(C, c_from), on_n)
        h_new, c_new, o, c_mean, c_kept = lstm_output(C, cell, gates[G - 1], state, cols, link)
        gates = gates[: G - 1] + (o,)
        c_new = within(C, zoned_out(TAKE_C, at, m, C.take_c, c_from, c_new), cols)
        if C.cell_norm != "none":
            of_states = of_states + (c_mean, c_kept)
    else:
        h_new = clip(new_h(C, gates, entering, on_n), C.cell_clip)
    h_new, h_mean, h_kept = hidden_normed(C, h_new, state, cols, link)
    if C.hidden_norm:
        of_states = of_states + (h_mean, h_kept)
    h_new = within(C, zoned_out(TAKE_H, at, m, C.take_h, h_from, h_new), cols)
    if MASK is not None:
        valid = flag(MASK, row, known)
        h_new = tl.where(valid, h_new, h)
        c_new = tl.where(valid, c_new, c)
    return gates, h_new, c_new, of_states


@triton.jit
def save(
    C: tl.constexpr, gates, u, gated, kept, of_states, P, N, A, S, B,
    at, at_gates, m, row, known,
):  # fmt: skip
    """What a backward pass takes: gates in place of their input part, u, what r multiplies."""
    store_gates(C, P + at_gates, gates, m, C.gates)
    if C.norms > 0:
        store_gates(C, N + at_gates, u, m, C.gates)
    if C.gated:
        tl.store(A + at, gated, m)
    for i in tl.static_range(tl.constexpr(C.norms)):
        tl.store(S + i * B + row, kept[i], known)
    save_of_states(C, of_states, S, B, row, known)


@triton.jit
def save_of_states(C: tl.constexpr, of_states, S, B, row, known):
    """What is kept of the norms of the states."""
    for i in tl.static_range(tl.constexpr(C.statistics - C.norms)):
        tl.store(S + (C.norms + i) * B + row, of_states[i], known)


@triton.jit
def kept_of(C: tl.constexpr, S, B, row, known, first: tl.constexpr, last: tl.constexpr):
    """Columns (M, 1) of what was kept of norms."""
    kept = ()
    for i in tl.static_range(first, last):
        kept = kept + (tl.load(S + i * B + row, known, 1.0),)
    return kept


@triton.jit
def saved(C: tl.constexpr, H, C_, GATES, N, A, S, B, at, at_gates, m, row, known):
    """What the way back through a step reads of the forward pass.

    Returns:
        gates: the gates.
        u: normed values by gate, any where a gate has no norm.
        kept: of the norms, (M, 1) each.
        gated: what r multiplied.
        h: the state h before the step, where it is needed.
        c: the same of c.
    """
    gates = load_gates(C, GATES + at_gates, m, 0, C.gates)
    u = gates
    if C.norms > 0:
        u = load_gates(C, N + at_gates, m, 0, C.gates)
    kept = kept_of(C, S, B, row, known, 0, C.statistics)
    gated = 0.0 * gates[0]
    h, c = gated, gated
    if C.gated:
        gated = tl.load(A + at, m, 0.0).to(tl.float32)
    if C.kind == "gru" or C.hidden_clip > 0:
        h = tl.load(H + at, m, 0.0).to(tl.float32)
    if C.kind == "lstm":
        c = tl.load(C_ + at, m, 0.0)
    return gates, u, kept, gated, h, c


@triton.jit
def open_back(
    C: tl.constexpr, dh, dc, of_forward, MASK, RESET, RESET_H, RESET_C, TAKE_H, TAKE_C, FACTOR_N,
    state, at, at_state, m, m_state, row, known, cols, link=None,
):  # fmt: skip
    """The way back through a step, up to the pre-activations of the gates.

    `of_forward` is as from `saved`.

    Returns:
        d: of an lstm and a simple cell the gradients of all pre-activations, of a gru those of z
            and of phi's argument.
        entering: h as it entered, (M, block).
        direct: what returns to h after a reset beside the product.
        dc: what returns to c, before the step.
        to_c: what returns to the c that a reset went to.
        held: what returns to h of masked rows.
        sums: row by row, gradients of gain and shift of the cell's norm, of those of the hidden
            norm, of peepholes, as far as there are such.
    """
    G: tl.constexpr = C.gates
    zero = 0.0 * dh
    held, held_c, to_c = zero, zero, zero
    gates, kept = of_forward[0], of_forward[2]
    if MASK is not None:
        valid = flag(MASK, row, known)
        held = tl.where(valid, 0.0, dh)
        dh = tl.where(valid, dh, 0.0)
        held_c = tl.where(valid, 0.0, dc)
        dc = tl.where(valid, dc, 0.0)
    _, c_from, entering = enter(
        C, of_forward[4], of_forward[5], RESET, RESET_H, RESET_C, at_state, m_state, row, known
    )
    on_n = factor(FACTOR_N, at, m)
    dh, direct = zoned_out_back(TAKE_H, at, m, C.take_h, dh)
    of_h = (zero, zero)
    if C.hidden_norm:
        of_h = (kept[C.statistics - 2], kept[C.statistics - 1])
    sums = ()
    if C.kind == "lstm":
        dc, past_c = zoned_out_back(TAKE_C, at, m, C.take_c, dc)
        of_c = (zero, zero)
        if C.cell_norm != "none":
            of_c = (kept[C.norms], kept[C.norms + 1])
        c_entering = incoming_c(C, c_from)
        cell, o = new_cell(C, gates, c_entering, on_n), gates[G - 1]
        do, dcell, gain_c, shift_c, gain_h, shift_h, of_o = lstm_output_back(
            C, dh, dc, cell, o, of_c, of_h, state, cols, link
        )
        d, dc = lstm_gates_back(C, do, dcell, gates, c_entering, on_n)
        peepholes = ()
        if C.peepholes != "none":
            for g in tl.static_range(G - 2):
                through = clip(d[g], C.limit)
                peepholes = peepholes + (through * c_entering,)
                dc += through * state[8 - G + g]
            peepholes = peepholes + (of_o,)
        if C.cell_norm != "none":
            sums = sums + (gain_c, shift_c)
        if C.hidden_norm:
            sums = sums + (gain_h, shift_h)
        sums = sums + peepholes
        if C.cell_clip_at == "incoming":
            dc = opened(dc, c_from, C.cell_clip)
        dc += past_c
        if RESET is not None:
            fresh = flag(RESET, row, known)
            to_c = tl.where(fresh, dc, 0.0)
            dc = tl.where(fresh, 0.0, dc)
        dc += held_c
    else:
        new = new_h(C, gates, entering, on_n)
        dh, gain_h, shift_h = hidden_normed_back(
            C, dh, clip(new, C.cell_clip), of_h, state, cols, link
        )
        if C.hidden_norm:
            sums = sums + (gain_h, shift_h)
        if C.kind == "gru":
            dz, dn, past = gru_back(C, opened(dh, new, C.cell_clip), gates, entering, on_n)
            direct += past
            d = (dz, dn)
        else:
            d = (dh * slope(C.phi, gates[0]),)
    return d, entering, direct, dc, to_c, held, sums


@triton.jit
def reset_back(C: tl.constexpr, d, gain, of_forward, cols, link=None):
    """Of a gru whose r multiplies no h: gradients of all pre-activations, and of n's h U.

    The latter is that of its normed values where n has a norm before r.
    """
    n: tl.constexpr = C.gates - 1
    dz, dn = d[0], d[1]
    r = of_forward[0][0]
    through = dn
    if C.reset == "inside":
        u, kept = of_forward[1][n], of_forward[2][C.norms - 1]
        through = late_gate_back(C, dn, gain[n], u, kept, cols, link)
    dr = through * of_forward[3] * slope(C.sigma, r)
    if C.reset == "whole":
        dn = dn * r
    return with_reset(C, dr, dz, dn), through * r


@triton.jit
def projection_back(C: tl.constexpr, d, d_n, gain, of_forward, cols, link=None):
    """Gradients of h U of the early gates, within the limit, from those of pre-activations.

    `d_n` is that of n's h U or of its normed values, where r multiplies it.
    """
    E: tl.constexpr = C.early
    q = ()
    for g in tl.static_range(E):
        dg = d[g]
        if C.apart and g == C.gates - 1:
            dg = d_n
        if C.groups[g] >= 0 and C.groups[g] < C.early_norms:
            dg = dg * gain[g]
        q = q + (dg,)
    s = q
    if C.early_norms > 0:
        u, kept = of_forward[1], of_forward[2]
        sums = group_totals_of_two(C, pair_sums(C, q, u, 0, C.early_norms), link)
        s = normed_back(C, q, u, kept, sums, E, cols)
    limited = ()
    for g in tl.static_range(E):
        limited = limited + (clip(s[g], C.limit),)
    return limited


@triton.jit
def leave(C: tl.constexpr, dq, on_h, direct, held, H, RESET, at, m, row, known):
    """The gradient of h before the step, and of the h that a reset went to.

    From that of h in its product, times the factor on it.
    """
    dh = dq * on_h
    if C.hidden_clip > 0:
        entered = tl.load(H + at, m, 0.0).to(tl.float32)
        dh = opened(dh, entered, C.hidden_clip)
    dh += direct
    to_h = 0.0 * dh
    if RESET is not None:
        fresh = flag(RESET, row, known)
        to_h = tl.where(fresh, dh, 0.0)
        dh = tl.where(fresh, 0.0, dh)
    return dh + held, to_h
