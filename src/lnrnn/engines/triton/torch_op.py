"""The kernels as a PyTorch operator."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from lnrnn.engines.native.call import DIFFERENTIABLE, Inputs, Numbers
from lnrnn.engines.triton import buffers, choose, loops, parallel
from lnrnn.engines.triton.buffers import Kept, Sizes
from lnrnn.engines.triton.cell import INTERPRETED, constants
from lnrnn.engines.triton.describe import Cell
from lnrnn.engines.triton.loops import Backward, Extras, Forward
from lnrnn.variant import Variant

_HALVES = (torch.bfloat16, torch.float16)
_INPUTS = len(Inputs._fields)


def recurrence(variant: Variant, numbers: Numbers, inputs: Inputs) -> tuple[Tensor, ...]:
    """All h (T, B, H), the last h and, of an lstm, the last c."""
    dtype = inputs.x.dtype
    if dtype in _HALVES:
        wide = (t.float() if t is not None and t.dtype in _HALVES else t for t in inputs)
        inputs = Inputs(*wide)._replace(x=inputs.x)  # pyright: ignore
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    run = _Recurrence.apply if keep else _eval
    h, h_last, c_last = run(*inputs, variant, numbers)[:3]  # pyright: ignore
    final = (h_last,) if inputs.c0 is None else (h_last, c_last)
    return (h, *(s.to(dtype) for s in final))


def _eval(*args: Any) -> Any:
    *arrays, variant, numbers = args
    return compute(variant, numbers, Inputs(*arrays), keep=False)[0]


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:  # pyright: ignore
        *arrays, ctx.variant, ctx.numbers = args
        found, kept = compute(ctx.variant, ctx.numbers, Inputs(*arrays), keep=True)
        ctx.save_for_backward(*arrays, *kept)
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    def backward(ctx: Any, dh: Any, dh_last: Any, dc_last: Any) -> Any:  # pyright: ignore
        saved = ctx.saved_tensors
        a, kept = Inputs(*saved[:_INPUTS]), Kept(*saved[_INPUTS:])
        found = compute_backward(ctx.variant, ctx.numbers, a, kept, dh, dh_last, dc_last)
        return (*(found.get(n) for n in Inputs._fields), None, None)


def compute(
    variant: Variant, numbers: Numbers, a: Inputs, keep: bool
) -> tuple[tuple[Tensor, Tensor, Tensor], Kept | None]:
    """All h, the last h and c, and what a backward pass takes."""
    c = buffers.cell_of(variant, numbers, a, INTERPRETED)
    n = Sizes(*a.x.shape)
    x = a.x.reshape(n.steps * n.batch, n.inputs)
    like, single = a.x, a.recurrent
    kernel = buffers.by_gate(c, a.kernel).flatten(1).to(x.dtype)
    if a.bias_x is None:
        projected = x @ kernel
    else:
        projected = torch.addmm(buffers.by_gate(c, a.bias_x).flatten().to(x.dtype), x, kernel)
    p, of_inputs = _input_parts(c, a, projected)
    p = p.view(n.steps, n.batch, c.gates, c.pitch)

    lstm = c.kind == "lstm"
    h_last = buffers.filled(c, a.h0).clone()
    c_last = buffers.filled(c, a.c0).clone() if lstm else buffers.none_like(single)
    rows = (n.batch, c.pitch)
    h_all = like.new_empty((n.steps + 1, *rows))
    h_all[0] = h_last
    nothing, kept_nothing = buffers.none_like(like), buffers.none_like(single)
    c_all, normed, gated, statistics = kept_nothing, nothing, nothing, kept_nothing
    if keep:
        if lstm:
            c_all = single.new_empty((n.steps + 1, *rows))
            c_all[0] = c_last
        if c.norms:
            normed = torch.empty_like(p)
        if c.gated:
            gated = like.new_empty((n.steps, *rows))
        statistics = single.new_empty((n.steps, c.statistics, n.batch))
    arrays = Forward(
        p, buffers.recurrent(c, a), buffers.vectors(c, a), h_last, c_last, _extras(c, a), h_all,
        c_all, normed, gated, statistics,
    )  # fmt: skip
    loops.forward(c, arrays, keep)
    h = buffers.cut(c, h_all[1:])
    h = h.clone(memory_format=torch.contiguous_format) if keep else h.contiguous()
    final = buffers.cut(c, h_last).contiguous(), buffers.cut(c, c_last).contiguous()
    kept = None
    if keep:
        saved_x = projected if c.x_norms else nothing
        kept = Kept(h_all, c_all, p, normed, gated, statistics, saved_x, of_inputs)
    return (h, *final), kept


def _input_parts(c: Cell, a: Inputs, projected: Tensor) -> tuple[Tensor, Tensor]:
    """P, and the statistics of the norms of inputs; P takes the place of x W where that can be."""
    rows = projected.shape[0]
    statistics = a.recurrent.new_empty((2 * c.x_norms, rows))
    centred = any(c.summed) and any(c.centred_ahead)
    if not (c.x_norms or centred or a.shift_x is not None or a.shift_h is not None):
        return projected, statistics
    p = torch.empty_like(projected) if c.x_norms else projected
    options = choose.parallel(c)
    parallel.inputs[(triton.cdiv(rows, options.rows),)](
        projected, p, buffers.affine_of_inputs(c, a), statistics, rows,
        C=constants(c), M=options.rows, num_warps=options.warps,
    )  # fmt: skip
    return p, statistics


def _extras(c: Cell, a: Inputs) -> Extras:
    flags = [None if f is None else f.contiguous().view(torch.uint8) for f in (a.mask, a.reset)]
    factors = (a.take_h, a.take_c, a.recurrent_mask, a.candidate_mask)
    return Extras(*flags, *(None if f is None else buffers.filled(c, f) for f in factors))


def compute_backward(
    variant: Variant,
    numbers: Numbers,
    a: Inputs,
    kept: Kept,
    dh_all: Tensor | None,
    dh_last: Tensor | None,
    dc_last: Tensor | None,
) -> dict[str, Tensor]:
    """The gradients by the name of the input."""
    c = buffers.cell_of(variant, numbers, a, INTERPRETED)
    n = Sizes(*a.x.shape)
    like, single = a.x, a.recurrent
    rows = (n.batch, c.pitch)

    def state(d: Tensor | None) -> Tensor:
        return single.new_zeros(rows) if d is None else buffers.filled(c, d.float()).clone()

    dh = state(dh_last)
    dc = state(dc_last) if c.kind == "lstm" else buffers.none_like(single)
    d = torch.empty_like(kept.gates)
    vectors = buffers.vectors(c, a)
    arrays = Backward(
        kept.gates, buffers.recurrent_back(c, a), vectors, _extras(c, a), kept.h_all, kept.c_all,
        kept.normed, kept.gated, kept.statistics,
        None if dh_all is None else buffers.filled(c, dh_all), dh, dc, d,
    )  # fmt: skip
    sums = loops.backward(c, arrays)
    found = {"h0": buffers.cut(c, dh)}
    if c.kind == "lstm":
        found["c0"] = buffers.cut(c, dc)
    for i, name in enumerate(("gain_c", "shift_c")):
        if getattr(a, name) is not None:
            found[name] = buffers.cut(c, sums[i])
    return found | _outer_gradients(c, a, kept, d, vectors)


def _outer_gradients(
    c: Cell, a: Inputs, kept: Kept, d: Tensor, vectors: Tensor
) -> dict[str, Tensor]:
    """From the gradients of the pre-activations all that the recurrence does not need."""
    n = Sizes(*a.x.shape)
    rows, wide = n.steps * n.batch, c.gates * c.pitch
    dx = d
    ds = d if c.same else torch.empty_like(d)
    options = choose.parallel(c)
    loop = choose.rows_of_program(rows, options.rows)
    programs = triton.cdiv(rows, options.rows * loop)
    sums = a.recurrent.new_empty((programs, 6, c.gates, c.pitch))
    parallel.gradients[(programs,)](
        d, dx, None if c.same else ds, kept.gates, kept.normed, kept.projected, kept.statistics,
        kept.of_inputs, vectors, buffers.affine_of_inputs(c, a), sums, rows, n.batch,
        C=constants(c), M=options.rows, LOOP=loop, num_warps=options.warps,
    )  # fmt: skip
    gain_x, shift, gain_r, shift_r, bias_x, bias_h = (
        buffers.joined(c, s) for s in sums.sum(0).unbind(0)
    )
    of = dict(
        gain_x=gain_x, shift_x=shift, gain_h=gain_r, gain_sum=gain_r, shift_h=shift_r,
        shift_sum=shift, bias_x=bias_x, bias_h=bias_h,
    )  # fmt: skip
    found = {name: of[name] for name in DIFFERENTIABLE if name in of}
    dx, ds = dx.view(rows, wide), ds.view(rows, wide)
    x = a.x.reshape(rows, n.inputs)
    kernel = buffers.by_gate(c, a.kernel).flatten(1).to(x.dtype)
    found["x"] = (dx @ kernel.t()).view(a.x.shape)
    found["kernel"] = buffers.joined(c, buffers.product(x.t(), dx).unflatten(1, (c.gates, c.pitch)))
    h = buffers.entered(c, a, kept.h_all).reshape(rows, c.pitch)
    if c.reset == "before":
        late = (c.gates - 1) * c.pitch
        r = kept.gates.view(rows, c.gates, c.pitch)[:, 0]
        of_n = buffers.product((r * h).t(), ds[:, late:])
        du = torch.cat([buffers.product(h.t(), ds[:, :late]), of_n], 1)
    else:
        du = buffers.product(h.t(), ds)
    found["recurrent"] = buffers.joined(c, du[: c.units].unflatten(1, (c.gates, c.pitch)))
    return {name: g for name, g in found.items() if getattr(a, name) is not None}
