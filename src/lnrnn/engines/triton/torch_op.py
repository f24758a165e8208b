"""The kernels as PyTorch operators, `lnrnn::triton_recurrence` and its derivative."""

from __future__ import annotations

import warnings
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
from lnrnn.engines.triton import buffers, choose, describe, loops, parallel
from lnrnn.engines.triton import check as checking
from lnrnn.engines.triton.buffers import Kept, Sizes
from lnrnn.engines.triton.cell import INTERPRETED, constants
from lnrnn.engines.triton.describe import Cell
from lnrnn.engines.triton.loops import Backward, Extras, Forward
from lnrnn.engines.triton.refuse import DTYPES
from lnrnn.variant import Variant

_DTYPES = tuple(getattr(torch, name) for name in DTYPES)
_warned: set[str] = set()


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
        reason = self._refusal(cell, numbers, inputs)
        if reason is not None and named:
            raise ValueError(_refused(reason))
        if reason is not None and reason not in _warned:
            _warned.add(reason)
            warnings.warn(f"{_refused(reason)}  The portable engine computes.", stacklevel=2)
        return reason is None

    def _refusal(self, cell: tuple[float, ...], numbers: Numbers, a: Inputs) -> str | None:
        """What the self-check says of a call, asked once for all calls of its kind."""
        x, given = a.x, tuple(t is not None and t.ndim for t in a)
        key = (cell, numbers, x.shape[1], x.dtype, x.device, choose.precision(x.dtype), given)
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
            raise ValueError(_refused(reason))
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


def _refused(reason: str) -> str:
    return (
        f"The Triton engine is refused on this device ({reason}): report it, and use "
        "engine='portable' until it is mended."
    )


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
    x = a.x.reshape(n.steps * n.batch, n.inputs)
    like, single = a.x, a.recurrent
    kernel = buffers.projecting(c, a.kernel, x.dtype)
    if a.bias_x is None:
        projected = x @ kernel
    else:
        projected = torch.addmm(buffers.by_gate(c, a.bias_x).flatten().to(x.dtype), x, kernel)
    p, of_inputs = _input_parts(c, a, projected)
    p = p.view(n.steps, n.batch, c.gates, c.pitch)

    kept = buffers.kept(c, like, single, keep, buffers.MADE)
    h_all = kept.h_all if keep else like.new_empty((n.steps + 1, n.batch, c.pitch))
    h_last = buffers.filled(c, a.h0).clone()
    c_last = buffers.filled(c, a.c0).clone() if c.lstm else single.new_empty(0)
    if keep:
        h_all[0] = h_last
        if c.lstm:
            kept.c_all[0] = c_last
    arrays = Forward(
        p, buffers.recurrent(c, a), buffers.vectors(c, a), h_last, c_last, _extras(c, a), h_all,
        kept.c_all, kept.normed, kept.gated, kept.statistics,
    )  # fmt: skip
    loops.forward(c, arrays, keep)
    h = buffers.cut(c, h_all[1:])
    h = h.clone(memory_format=torch.contiguous_format) if keep else h.contiguous()
    if keep:
        kept = kept._replace(gates=p, of_inputs=of_inputs)
        kept = kept._replace(projected=projected) if c.x_norms else kept
    final = (buffers.cut(c, h_last), buffers.cut(c, c_last) if c.lstm else c_last)
    return h, *kept, *(s.contiguous() for s in final)


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


def _backward(
    c: Cell, a: Inputs, kept: Kept, incoming: tuple[Tensor | None, ...], of_x: bool
) -> dict[str, Tensor]:
    """The gradients by the name of the input."""
    dh_all, dh_last, dc_last = incoming
    n = Sizes(*a.x.shape)
    single, rows = a.recurrent, (n.batch, c.pitch)

    def state(d: Tensor | None) -> Tensor:
        return single.new_zeros(rows) if d is None else buffers.filled(c, d.float()).clone()

    dh = state(dh_last)
    dc = state(dc_last) if c.lstm else single.new_empty(0)
    d = torch.empty_like(kept.gates)
    vectors = buffers.vectors(c, a)
    arrays = Backward(
        kept.gates, buffers.recurrent_back(c, a), vectors, _extras(c, a), kept.h_all, kept.c_all,
        kept.normed, kept.gated, kept.statistics,
        None if dh_all is None else buffers.filled(c, dh_all), dh, dc, d,
    )  # fmt: skip
    sums = loops.backward(c, arrays)
    found = {"h0": buffers.cut(c, dh)}
    if c.lstm:
        found["c0"] = buffers.cut(c, dc)
    for i, name in enumerate(("gain_c", "shift_c")):
        if getattr(a, name) is not None:
            found[name] = buffers.cut(c, sums[i])
    return found | _outer_gradients(c, a, kept, d, vectors, of_x)


def _outer_gradients(
    c: Cell, a: Inputs, kept: Kept, d: Tensor, vectors: Tensor, of_x: bool
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
    kernel = buffers.projecting(c, a.kernel, x.dtype)
    if of_x:
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
    return found
