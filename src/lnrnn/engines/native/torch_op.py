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
_FOLDER = str(Path(torch.__file__).parent)
_PLAIN = (Tensor, torch.nn.Parameter)


def recurrence(words: tuple[int, ...], numbers: Numbers, inputs: Inputs) -> tuple[Tensor, ...]:
    """All h (T, B, H), the last h and, of an lstm, the last c."""
    given = [t for t in inputs if t is not None]
    if _by_definition(given):
        return definition.recurrence(ops, words, numbers, inputs)
    training = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    bytes_of_s = inputs.x.numel() * inputs.x.element_size()
    keep = (training, training and bytes_of_s <= _MOST_SAVED)
    if _eager(given):
        run = _Recurrence.apply if training else _compute
        h, _, _, h_last, c_last = run(*inputs, words, numbers, *keep)  # pyright: ignore
    else:
        h, _, _, h_last, c_last = _recurrence(*inputs, list(words), list(numbers), *keep)
    return (h, h_last) if inputs.c0 is None else (h, h_last, c_last)


def _eager(tensors: list[Tensor]) -> bool:
    """Whether this call needs no operator, whose dispatch costs more than a short sequence."""
    return (
        not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and all(type(t) in _PLAIN and t.device.type == "cpu" for t in tensors)
    )


def _by_definition(tensors: list[Tensor]) -> bool:
    """Whether this call is traced for export, or inside a transformation of functions."""
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # pyright: ignore
        return True
    # operators with Python rules refuse torch.func, which has no public question for this
    if torch._C._are_functorch_transforms_active():
        return True
    dual = torch.autograd.forward_ad.unpack_dual
    return not torch.compiler.is_compiling() and any(
        t.is_floating_point() and dual(t).tangent is not None for t in tensors
    )


def _compute(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What the operator `lnrnn::recurrence` gives."""
    a, (words, numbers, keep_c, keep_s) = Inputs(*args[:19]), args[19:]
    cell = call.cell_of(tuple(words))
    found = _empty(cell, a, keep_c, keep_s)
    _run(cell, Numbers(*numbers), a, dict(zip(call.OUTPUTS, found, strict=True)), back=False)
    return found


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
    return _compute(
        recurrent, bias_h, gain_x, shift_x, gain_h, shift_h, gain_sum, shift_sum, gain_c, shift_c,
        x, h0, c0, mask, reset, take_h, take_c, recurrent_mask, candidate_mask,
        words, numbers, keep_c, keep_s,
    )  # fmt: skip


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
    return _empty(call.cell_of(tuple(args[19])), Inputs(*args[:19]), *args[21:])


def _compute_backward(*args: Any) -> list[Tensor]:
    """What the operator `lnrnn::recurrence_backward` gives."""
    a, (h, c, s, dh, dh_last, dc_last, words, numbers) = Inputs(*args[:19]), args[19:]
    cell, scalars = call.cell_of(tuple(words)), Numbers(*numbers)
    shapes = call.outgoing_shapes(cell, a, scalars.clip)
    found = {name: a.x.new_empty(shape) for name, shape in shapes.items()}
    known = {"h": h, "c": c, "s": s, "dh": dh, "dh_last": dh_last, "dc_last": dc_last}
    _run(cell, scalars, a, known | found, back=True)
    outer = _outer_turned if _is_turned(a.recurrent) else _outer
    found["drecurrent"] = call.recurrent_gradient(ops, outer, cell, a, h, found)
    if "dx" not in found:
        found["dx"] = found["ds"]
    return [found[f"d{name}"] for name in _differentiable(a)]


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
    """The gradients of the inputs that have one, in their order."""
    found = _compute_backward(
        recurrent, bias_h, gain_x, shift_x, gain_h, shift_h, gain_sum, shift_sum, gain_c, shift_c,
        x, h0, c0, mask, reset, take_h, take_c, recurrent_mask, candidate_mask,
        h, c, s, dh, dh_last, dc_last, words, numbers,
    )  # fmt: skip
    return [g.contiguous() for g in found]  # as the fake says


@_backward.register_fake
def _(*args: Any) -> Any:
    a = Inputs(*args[:19])
    return [torch.empty_like(getattr(a, n)).contiguous() for n in _differentiable(a)]


def _differentiable(a: Inputs) -> list[str]:
    names = (*Inputs._fields[: call.WEIGHTS], "x", "h0", "c0")
    return [n for n in names if getattr(a, n) is not None]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.words, ctx.numbers = inputs[19], inputs[20]
    ctx.save_for_backward(*inputs[:19], *output[:3])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dh: Any, _dc: Any, _ds: Any, dh_last: Any, dc_last: Any) -> Any:
    *inputs, h, c, s = ctx.saved_tensors
    a = Inputs(*inputs)
    given = (*a, h, c, s, dh, dh_last, dc_last, ctx.words, ctx.numbers)
    if not _eager([t for t in given[:-2] if t is not None]):
        found = _backward(*given[:-2], list(ctx.words), list(ctx.numbers))
    elif torch.is_grad_enabled():
        found = _RecurrenceBackward.apply(*given)
    else:
        found = _compute_backward(*given)
    by_name = dict(zip(_differentiable(a), found, strict=True))
    return (*(by_name.get(name) for name in Inputs._fields), None, None, None, None)


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.words, ctx.numbers = inputs[25], inputs[26]
    ctx.save_for_backward(*inputs[:25])
    ctx.set_materialize_grads(False)


def _second(ctx: Any, upstream: list[Tensor | None]) -> Any:
    """The derivative of the gradients, which is that of the definition's gradients."""
    a, given = Inputs(*ctx.saved_tensors[:19]), ctx.saved_tensors[22:]
    names = _differentiable(a)
    with torch.enable_grad():
        leaves = {n: getattr(a, n).detach().requires_grad_() for n in names}
        incoming = [None if g is None else g.detach().requires_grad_() for g in given]
        values = definition.recurrence(
            ops, tuple(ctx.words), Numbers(*ctx.numbers), a._replace(**leaves)
        )
        weighed = [(v, g) for v, g in zip(values, incoming, strict=False) if g is not None]
        first = torch.autograd.grad(
            [v for v, _ in weighed],
            list(leaves.values()),
            [g for _, g in weighed],
            create_graph=True,
            materialize_grads=True,
        )
    asked = [(f, u) for f, u in zip(first, upstream, strict=True) if u is not None]
    arguments = [*leaves.values(), *(g for _, g in weighed)]
    found = torch.autograd.grad(
        [f for f, _ in asked], arguments, [u for _, u in asked], materialize_grads=True
    )
    by_name = dict(zip(names, found, strict=False))
    rest = iter(found[len(names) :])
    of_given = [None if g is None else next(rest) for g in incoming]
    inputs = [by_name.get(name) for name in Inputs._fields]
    return (*inputs, None, None, None, *of_given, None, None)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = _compute(*args)
        _setup(ctx, args, found)
        return found

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return _gradients(ctx, *grad_outputs)


class _RecurrenceBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = _compute_backward(*args)
        _setup_second(ctx, args, found)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return _second(ctx, list(grad_outputs))


_recurrence.register_autograd(_gradients, setup_context=_setup)
_backward.register_autograd(_second, setup_context=_setup_second)
torch.library.register_autocast(_recurrence, "cpu", torch.float32)
torch.library.register_autocast(_backward, "cpu", torch.float32)


def _is_turned(recurrent: Tensor) -> bool:
    """Whether a matrix is the transpose of a dense one, as a module's weights are."""
    return not recurrent.is_contiguous() and recurrent.t().is_contiguous()


def _outer(a: Tensor, b: Tensor, plus: Tensor | None = None) -> Tensor:
    a, b = a.flatten(0, 1).t(), b.flatten(0, 1)
    return a @ b if plus is None else torch.addmm(plus, a, b)


def _outer_turned(a: Tensor, b: Tensor, plus: Tensor | None = None) -> Tensor:
    """The same numbers, laid out as the transpose."""
    return _outer(b, a, None if plus is None else plus.t()).t()


def _run(
    cell: Cell, numbers: Numbers, a: Inputs, others: dict[str, Tensor | None], back: bool
) -> None:
    call.check(cell, a, torch.bool)
    device, dtype = a.x.device, a.x.dtype
    if device.type != "cpu":
        raise ValueError(
            f"The native engine computes on a CPU; got tensors on {device}: move them."
        )
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"The native engine computes float32 and float64; got {dtype}.")
    given: dict[str, Tensor] = {}
    for name, t in zip(Inputs._fields, a, strict=True):
        if t is None:
            continue
        if t.device != device:
            raise ValueError(
                f"The inputs of a recurrence are on one device; got {name} on {t.device} beside "
                f"{device}: move it."
            )
        given[name] = t
    given |= {name: t for name, t in others.items() if t is not None}
    turned = _is_turned(a.recurrent)
    dense = {
        n: t if t.is_contiguous() or (turned and t is a.recurrent) else t.contiguous()
        for n, t in given.items()
    }
    core.run(
        cell,
        numbers,
        call.sizes(cell, a, turned),
        {n: t.data_ptr() for n, t in dense.items() if t.numel()},
        back=back,
        double=dtype == torch.float64,
        threads=torch.get_num_threads(),
        host=core.lend_openmp(_FOLDER),
    )
