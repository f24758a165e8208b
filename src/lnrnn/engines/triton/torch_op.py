"""The kernels as PyTorch operators, `lnrnn::triton_recurrence` and its derivative."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from lnrnn.engines import counting
from lnrnn.engines.fused import definition
from lnrnn.engines.fused.call import DIFFERENTIABLE, Inputs, Numbers, check
from lnrnn.engines.fused.torch_op import Operator, asked
from lnrnn.engines.portable import ops_torch
from lnrnn.engines.triton import answers, buffers, choose, describe, loops, parallel
from lnrnn.engines.triton import check as checking
from lnrnn.engines.triton.arrays import Backward, Extras, Forward, Kept, Sizes
from lnrnn.engines.triton.cell import INTERPRETED, constants
from lnrnn.engines.triton.describe import Cell
from lnrnn.engines.triton.refuse import DTYPES
from lnrnn.variant import Variant

_DTYPES = tuple(getattr(torch, name) for name in DTYPES)


class _Kernels:
    """The passes of the kernels."""

    device = "cpu" if INTERPRETED else "cuda"
    cell_type = "float[]"
    kept: tuple[str, ...] = Kept._fields
    h_is_kept = False

    def __init__(self) -> None:
        self._refusals: dict[Any, str | None] = {}

    def encode(self, variant: Variant, gates: str) -> tuple[float, ...]:
        encode = describe.encode
        # a compiled graph holds what Dynamo traces; it would warn that it passes over a cache
        return encode(variant) if torch.compiler.is_compiling() else _encoded(variant)

    def define(
        self, cell: tuple[float, ...], numbers: Numbers, inputs: Inputs
    ) -> tuple[Tensor, ...]:
        return definition.recurrence(ops_torch, describe.decode(cell), numbers, inputs)

    def keep(self, inputs: Inputs) -> int:
        return 1

    def check(self, inputs: Inputs) -> None:
        x = inputs.x
        if x.device.type not in (self.device, "meta") or x.dtype not in _DTYPES:
            raise ValueError(
                f"The Triton engine computes {', '.join(DTYPES)} on a {self.device} device; got "
                f"{x.dtype} on {x.device}: convert or move it."
            )
        for name, t in inputs._asdict().items():
            if t is not None and t.device != x.device:
                raise ValueError(
                    f"The inputs of a recurrence are on one device; got {name} on {t.device} "
                    f"beside {x.device}: move it."
                )

    def ready(self, cell: tuple[float, ...], numbers: Numbers, inputs: Inputs, named: bool) -> bool:
        return answers.accepted(self._refusal(cell, numbers, inputs), named)

    def _refusal(self, cell: tuple[float, ...], numbers: Numbers, a: Inputs) -> str | None:
        """What the self-check says of a call, asked once for all calls of its kind."""
        x, given = a.x, tuple(t is not None and t.ndim for t in a)
        key = (cell, numbers, x.shape[1], x.device, buffers.kind(x), given)
        key += tuple(a.kernel.shape)
        if key not in self._refusals:
            variant = describe.decode(cell)
            self._refusals[key] = checking.refusal(variant, numbers, a, _both_passes)
        return self._refusals[key]

    def empty(
        self, cell: tuple[float, ...], numbers: Numbers, inputs: Inputs, keep: int
    ) -> tuple[Tensor, ...]:
        c = buffers.cell_of(describe.decode(cell), numbers, inputs, INTERPRETED)
        like, single = inputs.x, inputs.recurrent
        steps, batch, _ = like.shape
        c_last = (batch, c.units) if c.lstm else (0,)
        return (
            like.new_empty((steps, batch, c.units)),
            *buffers.kept(c, like, single, bool(keep)),
            single.new_empty((batch, c.units)),
            single.new_empty(c_last),
        )

    def forward(
        self, cell: tuple[float, ...], numbers: Numbers, inputs: Inputs, keep: int
    ) -> tuple[Tensor, ...]:
        c = buffers.cell_of(describe.decode(cell), numbers, inputs, INTERPRETED)
        check(c, inputs, torch.bool, torch.float32)
        # a graph has no way out; other calls have asked already
        if (reason := self._refusal(cell, numbers, inputs)) is not None:
            raise ValueError(answers.refused(reason))
        counting.count("torch", "triton")
        with torch.cuda.device_of(inputs.x):
            return _forward(c, inputs, bool(keep))

    def backward(
        self,
        cell: tuple[float, ...],
        numbers: Numbers,
        inputs: Inputs,
        kept: tuple[Tensor, ...],
        incoming: tuple[Tensor | None, ...],
        of_x: bool,
    ) -> list[Tensor]:
        c = buffers.cell_of(describe.decode(cell), numbers, inputs, INTERPRETED)
        counting.count("torch", "triton", backward=True)
        with torch.cuda.device_of(inputs.x):
            found = _backward(c, inputs, Kept(*kept), incoming, of_x)
        return [found[Inputs._fields[i]] for i in asked(inputs, of_x)]


_encoded = cache(describe.encode)


def _both_passes(
    variant: Variant, numbers: Numbers, a: Inputs, incoming: tuple[Tensor | None, ...]
) -> list[Tensor]:
    """Outputs, then gradients, as the self-check compares them."""
    c = buffers.cell_of(variant, numbers, a, INTERPRETED)
    with torch.cuda.device_of(a.x):
        h, *kept, h_last, c_last = _forward(c, a, keep=True)
        found = _backward(c, a, Kept(*kept), incoming, of_x=True)
    outputs = [h, h_last, c_last] if c.lstm else [h, h_last]
    return outputs + [found[Inputs._fields[i]] for i in asked(a)]


recurrence = Operator("lnrnn::triton_recurrence", _Kernels())


def _forward(c: Cell, a: Inputs, keep: bool) -> tuple[Tensor, ...]:
    """All h, what a backward pass takes, the last h and c."""
    n = Sizes(*a.x.shape)
    like, single = a.x, a.recurrent
    made = buffers.weights(c, a)
    x, w = like.reshape(n.steps * n.batch, n.inputs), buffers.projecting(a, made.w)
    projected = x @ w if made.bias is None else torch.addmm(made.bias.flatten(), x, w)
    p, of_inputs = _input_parts(c, single, made.vectors, projected)
    p = p.view(n.steps, n.batch, c.gates, c.pitch)

    kept = buffers.kept(c, like, single, keep, buffers.MADE)
    out = like.new_empty((n.steps, n.batch, c.units))
    h_last = single.new_empty((n.batch, c.units))
    c_last = single.new_empty((n.batch, c.units) if c.lstm else (0,))
    arrays = Forward(
        p, made.u[:1], made.vectors, a.h0.contiguous(), buffers.state(a.c0), h_last, c_last,
        _extras(c, a), out, kept.h_all, kept.c_all, kept.normed, kept.gated, kept.statistics,
    )  # fmt: skip
    loops.forward(c, arrays, keep)
    if keep:
        kept = kept._replace(gates=p, of_inputs=of_inputs, u=made.u, w=made.w, vectors=made.vectors)
        kept = kept._replace(projected=projected) if c.x_norms else kept
    return out, *kept, h_last, c_last


def _input_parts(
    c: Cell, single: Tensor, vectors: Tensor, projected: Tensor
) -> tuple[Tensor, Tensor]:
    """P, and the statistics of the norms of inputs; P takes the place of x W where that can be."""
    rows = projected.shape[0]
    statistics = single.new_empty((2 * c.x_norms, rows))
    if not c.norms_inputs:
        return projected, statistics
    p = torch.empty_like(projected) if c.x_norms else projected
    options = choose.parallel(c)
    parallel.inputs[(triton.cdiv(rows, options.rows),)](
        projected, p, vectors, statistics, rows,
        C=constants(c), M=options.rows, num_warps=options.warps,
    )  # fmt: skip
    return p, statistics


def _extras(c: Cell, a: Inputs) -> Extras:
    factors = (a.take_h, a.take_c, a.recurrent_mask, a.candidate_mask)
    return Extras(
        buffers.flags(a.mask),
        buffers.flags(a.reset),
        buffers.state(a.reset_h),
        buffers.state(a.reset_c),
        *(None if f is None else buffers.filled(c, f) for f in factors),
    )


def _backward(
    c: Cell, a: Inputs, kept: Kept, incoming: tuple[Tensor | None, ...], of_x: bool
) -> dict[str, Tensor]:
    """The gradients by the name of the input."""
    dh_all, dh_last, dc_last = (buffers.state(d) for d in incoming)
    of_states = {n: getattr(a, n) for n in ("h0", "c0", "reset_h", "reset_c")}
    found = {n: s.new_empty(s.shape) for n, s in of_states.items() if s is not None}
    d = torch.empty_like(kept.gates)
    arrays = Backward(
        kept.gates, kept.u[-1:], kept.vectors, _extras(c, a), kept.h_all, kept.c_all, kept.normed,
        kept.gated, kept.statistics, dh_all, dh_last, dc_last, *map(found.get, of_states), d,
    )  # fmt: skip
    sums = loops.backward(c, arrays)
    names = ("gain_c", "shift_c") if c.cell_norm != "none" else ()
    names += ("gain_hidden", "shift_hidden") if c.hidden_norm else ()
    vectors = dict(zip(names, sums, strict=False))
    found |= {n: buffers.cut(c, v) for n, v in vectors.items() if getattr(a, n) is not None}
    if a.peephole is not None:
        found["peephole"] = buffers.joined(c, sums[len(names) :])
    return found | _outer_gradients(c, a, kept, d, of_x)


def _outer_gradients(c: Cell, a: Inputs, kept: Kept, d: Tensor, of_x: bool) -> dict[str, Tensor]:
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
        kept.of_inputs, kept.vectors, sums, rows, n.batch,
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
    if of_x:
        found["x"] = (dx @ buffers.projecting(a, kept.w).t()).view(a.x.shape)
    found["kernel"] = buffers.joined(c, buffers.product(x.t(), dx).unflatten(1, (c.gates, c.pitch)))
    h, gated = buffers.entered(c, a, kept)
    if c.diagonal:
        found["recurrent"] = buffers.cut(c, (h.float() * ds).sum(0))
        return found
    if gated is None:
        du = buffers.product(h.t(), ds)
    else:
        late = (c.gates - 1) * c.pitch
        du = torch.cat(
            [buffers.product(h.t(), ds[:, :late]), buffers.product(gated.t(), ds[:, late:])], 1
        )
    found["recurrent"] = buffers.joined(c, du[: c.units].unflatten(1, (c.gates, c.pitch)))
    return found
