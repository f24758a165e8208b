"""The arrays of the kernels, and the parts of a pass that are the framework's own products.

Letters: T time, B batch, I inputs, G gates, and K = pitch, H filled up with zeros to a multiple of
16.  "like x" is the dtype of x, all else is float32.

| name | shape | what it is |
|---|---|---|
| P | (T, B, G, K) like x | the input part of each gate; a saving kernel leaves the gates there |
| U | (K, G, K) | centred over each group of a layer norm, as its bias is |
| VECTORS | (3 G + 4, K) | bias of h U, gain and shift of recurrent norms, by gate; of states |
| H_LAST, C_LAST | (B, K) | the initial states, then the last ones |
| MASK, RESET | (T, B) | bytes, or None |
| TAKE_H, TAKE_C | (T, B, K) | zoneout, or None |
| FACTOR_H, FACTOR_N | (B, K) or (T, B, K) | dropout of h, of the candidate, or None |
| H_ALL | (T + 1, B, K) like x | the states h, the initial one first |
| C_ALL | (T + 1, B, K) | the states c of an lstm |
| N | (T, B, G, K) like x | the normed values u of the recurrent norms |
| A | (T, B, K) like x | what r multiplies |
| S | (T, statistics, B) | 1 / s of each group; mean and 1 / s of the cell's and hidden norm |
| D | (T, B, G, K) like x | gradients of the pre-activations |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from lnrnn.engines.fused.call import Inputs, Numbers
from lnrnn.engines.triton.describe import Cell, describe
from lnrnn.variant import Variant


class Sizes(NamedTuple):
    """Of a call: T, B and I."""

    steps: int
    batch: int
    inputs: int


class Kept(NamedTuple):
    """What a forward pass keeps for its backward pass; empty tensors where a cell has none."""

    h_all: Any
    c_all: Any
    gates: Any
    normed: Any
    gated: Any
    statistics: Any
    projected: Any
    of_inputs: Any


# of what is kept those that are what else a forward pass makes
MADE = ("gates", "projected", "of_inputs")


def kept(c: Cell, like: Tensor, single: Tensor, keep: bool, but: Sequence[str] = ()) -> Kept:
    """The arrays of a forward pass for its backward pass, not yet filled; like x, and float32.

    Those named by `but`, and all where nothing is kept, are empty.
    """
    steps, batch = like.shape[:2]
    rows, gates = (steps, batch, c.pitch), (steps, batch, c.gates, c.pitch)
    shapes = Kept(
        h_all=(steps + 1, batch, c.pitch),
        c_all=(steps + 1, batch, c.pitch) if c.lstm else (0,),
        gates=gates,
        normed=gates if c.norms else (0,),
        gated=rows if c.gated else (0,),
        statistics=(steps, c.statistics, batch),
        projected=(steps * batch, c.gates * c.pitch) if c.x_norms else (0,),
        of_inputs=(2 * c.x_norms, steps * batch),
    )
    of_single = ("c_all", "statistics", "of_inputs")
    return Kept(
        *(
            (single if name in of_single else like).new_empty(
                shape if keep and name not in but else (0,)
            )
            for name, shape in zip(Kept._fields, shapes, strict=True)
        )
    )


def cell_of(variant: Variant, numbers: Numbers, a: Inputs, exact: bool) -> Cell:
    """What the kernels are compiled for."""
    factors = (a.recurrent_mask, a.candidate_mask)
    moving_h, moving_n = (f is not None and f.ndim == 3 for f in factors)
    return describe(
        variant,
        a.recurrent.shape[0],
        a.bias_h is not None,
        numbers.clip,
        1.0 if a.take_h is not None else numbers.take_h,
        1.0 if a.take_c is not None else numbers.take_c,
        moving_h,
        moving_n,
        exact,
    )


def filled(c: Cell, t: Tensor) -> Tensor:
    """(..., H) to a dense (..., K)."""
    return t.contiguous() if c.pitch == c.units else pad(t, (0, c.pitch - c.units))


def cut(c: Cell, t: Tensor) -> Tensor:
    """(..., K) to (..., H)."""
    return t if c.pitch == c.units else t[..., : c.units]


def by_gate(c: Cell, t: Tensor) -> Tensor:
    """(..., G H) to a dense (..., G, K)."""
    return filled(c, t.unflatten(-1, (c.gates, c.units)))


def joined(c: Cell, t: Tensor) -> Tensor:
    """(..., G, K) to (..., G H)."""
    return cut(c, t).flatten(-2)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b in float32."""
    if a.dtype == torch.float32:
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def centred(c: Cell, t: Tensor) -> Tensor:
    """(..., G, H) without its mean over each group that is centred ahead."""
    ahead = c.centred_ahead
    if not any(ahead):
        return t
    if all(ahead) and -1 not in c.groups:
        if c.norms == 1:
            return t - t.mean((-2, -1), keepdim=True)
        if c.norms == c.gates:
            return t - t.mean(-1, keepdim=True)
    t = t.clone()
    for k in range(c.norms):
        of = [g for g in range(c.gates) if c.groups[g] == k]
        if ahead[k]:
            t[..., of, :] -= t[..., of, :].mean((-2, -1), keepdim=True)
    return t


def projecting(c: Cell, kernel: Tensor, dtype: torch.dtype) -> Tensor:
    """W (I, G K) as the product takes it, where it lies if it can."""
    kernel = kernel.to(dtype)
    return kernel if c.pitch == c.units else by_gate(c, kernel).flatten(1)


def recurrent(c: Cell, a: Inputs) -> Tensor:
    """U (K, G, K)."""
    u = filled(c, centred(c, a.recurrent.unflatten(-1, (c.gates, c.units))))
    return u if c.pitch == c.units else pad(u, (0, 0, 0, 0, 0, c.pitch - c.units))


def recurrent_back(c: Cell, a: Inputs) -> Tensor:
    """U transposed, gate by gate (G, K, K), for the derivative.

    Centred it needs no mean of gradients subtracted, but limits act on those with it.
    """
    u = a.recurrent.unflatten(-1, (c.gates, c.units))
    u = u if c.limit > 0 else centred(c, u)
    u = u.permute(1, 2, 0)
    extra = c.pitch - c.units
    return pad(u, (0, extra, 0, extra)) if extra else u.contiguous()


def _empty(c: Cell, a: Inputs, rows: int) -> Tensor:
    """(rows, K), its last columns zero."""
    shape = (rows, c.pitch)
    return a.recurrent.new_empty(shape) if c.pitch == c.units else a.recurrent.new_zeros(shape)


def vectors(c: Cell, a: Inputs) -> Tensor:
    """VECTORS (3 G + 4, K); rows that a cell does not use hold anything."""
    G, units = c.gates, c.units
    found = _empty(c, a, 3 * G + 4)
    bias, gain, shift, states = cut(c, found).split((G, G, G, 4))
    if a.bias_h is not None:
        bias.copy_(centred(c, a.bias_h.view(G, units)))
    used = [g for g in range(G) if c.groups[g] >= 0]
    for summed in {c.summed[g] for g in used}:
        of = [g for g in used if c.summed[g] == summed]
        gains, shifts = (a.gain_sum, a.shift_sum) if summed else (a.gain_h, a.shift_h)
        for into, vector, absent in ((gain, gains, 1.0), (shift, shifts, 0.0)):
            whole = None if vector is None else vector.view(G, units)
            if len(of) == G:
                into.fill_(absent) if whole is None else into.copy_(whole)
            else:
                into[of] = absent if whole is None else whole[of]
    if a.gain_c is not None:
        states[0] = a.gain_c
        states[1] = 0.0 if a.shift_c is None else a.shift_c
    return found


def affine_of_inputs(c: Cell, a: Inputs) -> Tensor:
    """Gains and shifts of the input part (2 G, K), with shifts of h U that are simply added."""
    G, units = c.gates, c.units
    found = _empty(c, a, 2 * G)
    gain, shift = cut(c, found).split((G, G))
    gain.fill_(1.0) if a.gain_x is None else gain.copy_(a.gain_x.view(G, units))
    shift.zero_() if a.shift_x is None else shift.copy_(a.shift_x.view(G, units))
    if a.shift_h is not None:
        added = a.shift_h.view(G, units)
        apart = [g for g in range(G) if c.summed[g] or (c.reset == "after" and g == G - 1)]
        simply = [g for g in range(G) if g not in apart]
        if apart:
            shift[simply] += added[simply]
        else:
            shift += added
    return found


def entered(c: Cell, a: Inputs, h_all: Tensor) -> Tensor:
    """The h of every step as it entered its product, (T, B, K) like x."""
    h = h_all[:-1]
    if a.reset is not None:
        h = torch.where(a.reset[..., None], 0.0, h)
    if c.hidden_clip:
        h = h.clamp(-c.hidden_clip, c.hidden_clip)
    if a.recurrent_mask is not None:
        h = (h * filled(c, a.recurrent_mask)).to(h_all.dtype)
    return h
