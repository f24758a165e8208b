"""The core as PyTorch operators, `lnrnn::recurrence` and its derivative."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lnrnn.engines.native import call, core, definition
from lnrnn.engines.native.call import Cell, Inputs, Numbers
from lnrnn.engines.portable import ops_torch as ops

# a saved h U beyond this many bytes is computed again in the backward pass
_MOST_SAVED = 1 << 30


def recurrence(words: tuple[int, ...], numbers: Numbers, inputs: Inputs) -> tuple[Tensor, ...]:
    """All h (T, B, H), the last h and, of an lstm, the last c."""
    given = [t for t in inputs if t is not None]
    if _by_definition(given):
        return definition.recurrence(ops, words, numbers, inputs)
    training = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    bytes_of_s = inputs.x.numel() * inputs.x.element_size()
    h, _, _, h_last, c_last = _recurrence(
        *inputs, list(words), list(numbers), training, training and bytes_of_s <= _MOST_SAVED
    )
    return (h, h_last, c_last) if Cell(words).lstm else (h, h_last)


def _by_definition(tensors: list[Tensor]) -> bool:
    """Whether this call is traced for export or differentiated forwards."""
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return True
    dual = torch.autograd.forward_ad.unpack_dual
    return not torch.compiler.is_compiling() and any(
        t.is_floating_point() and dual(t).tangent is not None for t in tensors
    )


@torch.library.custom_op("lnrnn::recurrence", mutates_args=(), device_types="cpu")
def _recurrence(
    recurrent: Tensor,
    bias_h: Tensor | None,
    gain_x: Tensor | None,
    shift_x: Tensor | None,
    gain_h: Tensor | None,
    shift_h: Tensor | None,
    gain_sum: Tensor | None,
    shift_sum: Tensor | None,
    gain_c: Tensor | None,
    shift_c: Tensor | None,
    x: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    mask: Tensor | None,
    reset: Tensor | None,
    take_h: Tensor | None,
    take_c: Tensor | None,
    recurrent_mask: Tensor | None,
    candidate_mask: Tensor | None,
    words: list[int],
    numbers: list[float],
    keep_c: bool,
    keep_s: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """h (T, B, H), c and h U where they are kept, the last h and c."""
    a = Inputs(
        recurrent, bias_h, gain_x, shift_x, gain_h, shift_h, gain_sum, shift_sum, gain_c, shift_c,
        x, h0, c0, mask, reset, take_h, take_c, recurrent_mask, candidate_mask,
    )  # fmt: skip
    cell = Cell(tuple(words))
    found = _empty(cell, a, keep_c, keep_s)
    _run(cell, Numbers(*numbers), a, dict(zip(call.OUTPUTS, found, strict=True)), back=False)
    return found


def _empty(cell: Cell, a: Inputs, keep_c: bool, keep_s: bool) -> Any:
    steps, batch, wide = a.x.shape
    units = wide // cell.gates
    return (
        a.x.new_empty(steps, batch, units),
        a.x.new_empty((steps, batch, units) if keep_c and cell.lstm else (0,)),
        a.x.new_empty((steps, batch, wide) if keep_s else (0,)),
        a.x.new_empty(batch, units),
        a.x.new_empty((batch, units) if cell.lstm else (0,)),
    )


@_recurrence.register_fake
def _(*args: Any) -> Any:
    return _empty(Cell(tuple(args[19])), Inputs(*args[:19]), *args[21:])


@torch.library.custom_op("lnrnn::recurrence_backward", mutates_args=(), device_types="cpu")
def _backward(
    recurrent: Tensor,
    bias_h: Tensor | None,
    gain_x: Tensor | None,
    shift_x: Tensor | None,
    gain_h: Tensor | None,
    shift_h: Tensor | None,
    gain_sum: Tensor | None,
    shift_sum: Tensor | None,
    gain_c: Tensor | None,
    shift_c: Tensor | None,
    x: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    mask: Tensor | None,
    reset: Tensor | None,
    take_h: Tensor | None,
    take_c: Tensor | None,
    recurrent_mask: Tensor | None,
    candidate_mask: Tensor | None,
    h: Tensor,
    c: Tensor,
    s: Tensor,
    dh: Tensor | None,
    dh_last: Tensor | None,
    dc_last: Tensor | None,
    words: list[int],
    numbers: list[float],
) -> list[Tensor]:
    """The gradients that `call.outgoing_shapes` names, in that order."""
    a = Inputs(
        recurrent, bias_h, gain_x, shift_x, gain_h, shift_h, gain_sum, shift_sum, gain_c, shift_c,
        x, h0, c0, mask, reset, take_h, take_c, recurrent_mask, candidate_mask,
    )  # fmt: skip
    cell, scalars = Cell(tuple(words)), Numbers(*numbers)
    shapes = call.outgoing_shapes(cell, a, scalars.clip)
    found = {name: x.new_empty(shape) for name, shape in shapes.items()}
    known = {"h": h, "c": c, "s": s, "dh": dh, "dh_last": dh_last, "dc_last": dc_last}
    _run(cell, scalars, a, known | found, back=True)
    return list(found.values())


@_backward.register_fake
def _(*args: Any) -> Any:
    a, (words, numbers) = Inputs(*args[:19]), args[25:]
    shapes = call.outgoing_shapes(Cell(tuple(words)), a, numbers[3])
    return [a.x.new_empty(shape) for shape in shapes.values()]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.words, ctx.numbers = inputs[19], inputs[20]
    ctx.save_for_backward(*inputs[:19], *output[:3])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dh: Any, _dc: Any, _ds: Any, dh_last: Any, dc_last: Any) -> Any:
    *inputs, h, c, s = ctx.saved_tensors
    a, cell = Inputs(*inputs), Cell(tuple(ctx.words))
    found = _backward(*a, h, c, s, dh, dh_last, dc_last, ctx.words, ctx.numbers)
    names = call.outgoing_shapes(cell, a, ctx.numbers[3])
    by_name = dict(zip(names, found, strict=True))
    gradients = {name: by_name.get(f"d{name}") for name in (*call.VECTORS, "h0", "c0")}
    gradients["x"] = by_name.get("dx", by_name["ds"])
    if ctx.needs_input_grad[0]:
        gradients["recurrent"] = call.recurrent_gradient(ops, _outer, cell, a, h, by_name)
    return (*(gradients.get(name) for name in Inputs._fields), None, None, None, None)


_recurrence.register_autograd(_gradients, setup_context=_setup)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a.flatten(0, 1).t() @ b.flatten(0, 1)


def _run(
    cell: Cell, numbers: Numbers, a: Inputs, others: dict[str, Tensor | None], back: bool
) -> None:
    given = {n: None if t is None else t.contiguous() for n, t in a._asdict().items()}
    given |= {n: None if t is None else t.contiguous() for n, t in others.items()}
    core.run(
        cell,
        numbers,
        call.sizes(cell, a),
        {n: t.data_ptr() for n, t in given.items() if t is not None and t.numel()},
        back=back,
        double=a.x.dtype == torch.float64,
        threads=torch.get_num_threads(),
        host=core.lend_openmp(str(Path(torch.__file__).parent)),
    )
