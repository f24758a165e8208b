"""The core as PyTorch operators, `lnrnn::recurrence` and its derivative."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lnrnn.engines.native import call, core, definition
from lnrnn.engines.native.call import Cell, Inputs, Numbers
from lnrnn.engines.portable import ops_torch as ops
from lnrnn.variant import Variant

# projections x W and h U beyond this many bytes each are computed again in the backward pass
_MOST_SAVED = 1 << 30
# what a forward pass keeps for its backward pass: nothing, c, or c and the projections
_CELL, _ALL = 1, 2
# inputs that may be the transpose of a dense one, which the core reads as it lies: the weights of
# a module are, and a batch-first x
_TURNED = [Inputs._fields.index(name) for name in ("x", "kernel", "recurrent")]
_INPUTS = len(Inputs._fields)
_X = Inputs._fields.index("x")
_DIFFERENTIABLE = [Inputs._fields.index(name) for name in call.DIFFERENTIABLE]
_FOLDER = str(Path(torch.__file__).parent)
_PLAIN = (Tensor, torch.nn.Parameter)
_HALVES = (torch.bfloat16, torch.float16)
_NAMES = {getattr(torch, n): n for n in ("float32", "float64", *call.HALVES)}


def recurrence(variant: Variant, numbers: Numbers, inputs: Inputs) -> tuple[Tensor, ...]:
    """All h (T, B, H), the last h and, of an lstm, the last c."""
    dtype = inputs.x.dtype
    if dtype in _HALVES:
        h, *final = _recur(variant, numbers, _widened(inputs))
        return h, *(s.to(dtype) for s in final)
    return _recur(variant, numbers, inputs)


def _widened(inputs: Inputs) -> Inputs:
    """All but x in float32 where it is of half precision."""
    wide = (t.float() if t is not None and t.dtype in _HALVES else t for t in inputs)
    return Inputs(*wide)._replace(x=inputs.x)  # pyright: ignore


def _recur(variant: Variant, numbers: Numbers, inputs: Inputs) -> tuple[Tensor, ...]:
    given = [t for t in inputs if t is not None]
    words = _words(variant)
    if _by_definition(given):
        return definition.recurrence(ops, words, numbers, inputs)
    _check_devices(inputs)
    keep = 0
    if torch.is_grad_enabled() and any(t.requires_grad for t in given):
        steps, batch, _ = inputs.x.shape
        size = steps * batch * inputs.kernel.shape[1] * inputs.x.element_size()
        keep = _ALL if size <= _MOST_SAVED else _CELL
    if _eager(given):
        run = _Recurrence.apply if keep else _compute
        h, _, _, _, h_last, c_last = run(*inputs, words, numbers, keep)  # pyright: ignore
    else:
        h, _, _, _, h_last, c_last = _recurrence(*inputs, list(words), list(numbers), keep)
        # kept for the backward pass, while callers may change outputs in place before it
        h = h.clone() if keep else h
    return (h, h_last) if inputs.c0 is None else (h, h_last, c_last)


def _words(variant: Variant) -> tuple[int, ...]:
    # a compiled graph holds what Dynamo traces; it would warn that it passes over a cache
    encode = call.encode.__wrapped__ if torch.compiler.is_compiling() else call.encode
    return encode(variant)


def is_plain(tensors: list[Tensor]) -> bool:
    """Whether these are tensors of a call that nothing traces or transforms, on the CPU."""
    return _eager(tensors) and not _by_definition(tensors)


def _eager(tensors: list[Tensor]) -> bool:
    """Whether this call needs no operator, whose dispatch costs more than a short sequence."""
    return (
        not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and all(type(t) in _PLAIN and t.device.type == "cpu" and not t.is_neg() for t in tensors)
    )


def _by_definition(tensors: list[Tensor]) -> bool:
    """Whether this call is traced for export, or inside a transformation of functions."""
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # pyright: ignore
        return True
    # operators with Python rules refuse torch.func, which has no public question for this
    if torch._C._are_functorch_transforms_active():
        return True
    forward_ad = torch.autograd.forward_ad
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:  # no dual numbers anywhere
        return False
    return any(
        t.is_floating_point() and forward_ad.unpack_dual(t).tangent is not None for t in tensors
    )


def _compute(*args: Any) -> tuple[Tensor, ...]:
    """What the operator `lnrnn::recurrence` gives."""
    *arrays, words, numbers, keep = args
    a, cell = Inputs(*arrays), call.cell_of(tuple(words))
    call.check(cell, a, torch.bool, torch.float32)
    found = _empty(cell, a, keep)
    _run(cell, numbers, a, found, back=False)
    return found


@torch.library.custom_op("lnrnn::recurrence", mutates_args=(), device_types="cpu")
def _recurrence(
    kernel: Tensor,
    recurrent: Tensor,
    bias_x: Tensor | None,
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
    keep: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """h (T, B, H), what is kept of c, x W and h U, the last h and c."""
    return _compute(
        kernel, recurrent, bias_x, bias_h, gain_x, shift_x, gain_h, shift_h, gain_sum, shift_sum,
        gain_c, shift_c, x, h0, c0, mask, reset, take_h, take_c, recurrent_mask, candidate_mask,
        words, numbers, keep,
    )  # fmt: skip  # pyright: ignore


def _empty(cell: Cell, a: Inputs, keep: int) -> tuple[Tensor, ...]:
    shapes = call.result_shapes(cell, a, keep > 0)
    if keep != _ALL:
        shapes |= dict(xw=(0,), hu=(0,))
    return tuple(
        (a.x if name in call.LIKE_X else a.kernel).new_empty(shapes.get(name, (0,)))
        for name in call.OUTPUTS
    )


@_recurrence.register_fake
def _(*args: Any) -> Any:
    *arrays, words, _, keep = args
    return _empty(call.cell_of(tuple(words)), Inputs(*arrays), keep)


def _compute_backward(*args: Any) -> list[Tensor]:
    """What the operator `lnrnn::recurrence_backward` gives."""
    *arrays, words, numbers, of_x = args
    a, others = Inputs(*arrays[:_INPUTS]), arrays[_INPUTS:]
    h, c, xw, hu, *incoming = (None if t is None else t.contiguous() for t in others)
    found = [
        None
        if (t := a[i]) is None or (i == _X and not of_x)
        else torch.empty_like(t)
        if i in _TURNED and _is_turned(t)
        else torch.empty(t.shape, dtype=t.dtype)
        for i in _DIFFERENTIABLE
    ]
    others = (h, c, xw, hu, None, None, *incoming, *found)
    _run(call.cell_of(tuple(words)), numbers, a, others, back=True)
    return [g for g in found if g is not None]


@torch.library.custom_op("lnrnn::recurrence_backward", mutates_args=(), device_types="cpu")
def _backward(
    kernel: Tensor,
    recurrent: Tensor,
    bias_x: Tensor | None,
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
    xw: Tensor,
    hu: Tensor,
    dh: Tensor | None,
    dh_last: Tensor | None,
    dc_last: Tensor | None,
    words: list[int],
    numbers: list[float],
    of_x: bool,
) -> list[Tensor]:
    """The gradients of the inputs that have one, in their order; of x only where asked for."""
    found = _compute_backward(
        kernel, recurrent, bias_x, bias_h, gain_x, shift_x, gain_h, shift_h, gain_sum, shift_sum,
        gain_c, shift_c, x, h0, c0, mask, reset, take_h, take_c, recurrent_mask, candidate_mask,
        h, c, xw, hu, dh, dh_last, dc_last, words, numbers, of_x,
    )  # fmt: skip
    return [g.contiguous() for g in found]  # as the fake says


@_backward.register_fake
def _(*args: Any) -> Any:
    a, of_x = Inputs(*args[:_INPUTS]), args[-1]
    return [t.new_empty(t.shape) for t in _differentiable(a, of_x)]


def _setup(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...], eager: bool = False
) -> None:
    *arrays, ctx.words, ctx.numbers, _ = inputs
    ctx.eager = eager
    ctx.save_for_backward(*arrays, *output[:4])
    ctx.set_materialize_grads(False)


def _gradients(
    ctx: Any, dh: Any, _dc: Any, _dxw: Any, _dhu: Any, dh_last: Any, dc_last: Any
) -> Any:
    of_x = ctx.needs_input_grad[_X]
    saved, incoming = ctx.saved_tensors, (dh, dh_last, dc_last)
    arrays = (*saved, *incoming)
    if any(g is not None and _is_batched(g) for g in incoming):
        a = _leaves(Inputs(*saved[:_INPUTS]))
        with torch.enable_grad():
            found = _define_gradients(ctx, a, of_x, incoming)
    # after a call without the operator only these can ask for it
    elif not (ctx.eager and _eager([t for t in incoming if t is not None])):
        found = _backward(*arrays, list(ctx.words), list(ctx.numbers), of_x)
    elif torch.is_grad_enabled():
        found = _RecurrenceBackward.apply(*arrays, ctx.words, ctx.numbers, of_x)
    else:
        found = _compute_backward(*arrays, ctx.words, ctx.numbers, of_x)
    gradients: list[Any] = [None] * (_INPUTS + 3)
    for i, gradient in zip(_asked(Inputs(*saved[:_INPUTS]), of_x), found, strict=True):
        gradients[i] = gradient
    return tuple(gradients)


def _is_batched(t: Tensor) -> bool:
    """Whether `vmap` runs over a backward pass, as `is_grads_batched` and `jacobian` make it."""
    functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    return functorch.is_batchedtensor(t) or functorch.is_legacy_batchedtensor(t)


def _asked(a: Inputs, of_x: bool = True) -> list[int]:
    """Where the inputs are that have a gradient, in the order of a backward pass's results."""
    return [i for i in _DIFFERENTIABLE if a[i] is not None and (of_x or i != _X)]


def _differentiable(a: Inputs, of_x: bool = True) -> list[Any]:
    return [a[i] for i in _asked(a, of_x)]


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    *arrays, ctx.words, ctx.numbers, ctx.of_x = inputs
    ctx.save_for_backward(*arrays)
    ctx.set_materialize_grads(False)


def _second(ctx: Any, upstream: list[Tensor | None]) -> Any:
    """The derivative of the gradients, which is that of the definition's gradients."""
    higher = torch.is_grad_enabled()
    arrays = ctx.saved_tensors
    a = _leaves(Inputs(*arrays[:_INPUTS]), higher)
    with torch.enable_grad():
        incoming = [None if g is None else _leaf(g, higher) for g in arrays[-len(call.INCOMING) :]]
        first = _define_gradients(ctx, a, ctx.of_x, incoming, create_graph=True)
    asked = [(f, u) for f, u in zip(first, upstream, strict=True) if u is not None]
    arguments = _differentiable(a)
    found = torch.autograd.grad(
        [f for f, _ in asked],
        [*arguments, *(g for g in incoming if g is not None)],
        [u for _, u in asked],
        create_graph=higher,
        materialize_grads=True,
    )
    gradients: list[Any] = [None] * (len(arrays) + 3)
    for i, gradient in zip(_asked(a), found, strict=False):
        gradients[i] = gradient
    rest = iter(found[len(arguments) :])
    of_incoming = [None if g is None else next(rest) for g in incoming]
    gradients[len(arrays) - len(incoming) : len(arrays)] = of_incoming
    return tuple(gradients)


def _define_gradients(
    ctx: Any, a: Inputs, of_x: bool, incoming: Sequence[Tensor | None], create_graph: bool = False
) -> Sequence[Tensor]:
    """The gradients of the definition."""
    values = definition.recurrence(ops, tuple(ctx.words), Numbers(*ctx.numbers), a)
    weighed = [(v, g) for v, g in zip(values, incoming, strict=False) if g is not None]
    return torch.autograd.grad(
        [v for v, _ in weighed],
        _differentiable(a, of_x),
        [g for _, g in weighed],
        create_graph=create_graph,
        materialize_grads=True,
    )


def _leaves(a: Inputs, higher: bool = False) -> Inputs:
    """The inputs, those that are differentiable as leaves of a graph of its own."""
    leaves = [_leaf(t, higher) for t in _differentiable(a)]
    names = [Inputs._fields[i] for i in _asked(a)]
    return a._replace(**dict(zip(names, leaves, strict=True)))


def _leaf(t: Tensor, higher: bool) -> Tensor:
    """`t` where a graph begins; for higher derivatives one that goes on to where `t` is from."""
    return t.view_as(t) if higher and t.requires_grad else t.detach().requires_grad_()


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = _compute(*args)
        _setup(ctx, args, found, eager=True)
        # what is kept is not what callers may change in place
        return (found[0].clone(), *found[1:])

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


def is_dense(t: Any) -> bool:
    """Whether a tensor fills a stretch of memory, as it is or as the transpose of what does."""
    return t.is_contiguous() or (t.dim() > 1 and _is_turned(t))


def _is_turned(t: Any) -> bool:
    if t.is_contiguous():
        return False
    rows, _, *rest = t.shape
    return t.stride() == ((rest[0], rows * rest[0], 1) if rest else (1, rows))


def _check_devices(a: Inputs) -> None:
    device = a.x.device
    if device.type not in ("cpu", "meta"):
        raise ValueError(
            f"The native engine computes on a CPU; got tensors on {device}: move them."
        )
    for name, t in zip(Inputs._fields, a, strict=True):
        if t is not None and t.device != device:
            raise ValueError(
                f"The inputs of a recurrence are on one device; got {name} on {t.device} beside "
                f"{device}: move it."
            )


def _run(
    cell: Cell, numbers: Sequence[float], a: Inputs, others: Sequence[Tensor | None], back: bool
) -> None:
    """A pass over the inputs and what follows them in `call.ARRAYS`, which is dense."""
    dtype = a.x.dtype
    if dtype not in _NAMES:
        raise ValueError(f"The native engine computes {', '.join(_NAMES.values())}; got {dtype}.")
    rounding = dtype == torch.float32 and torch.get_float32_matmul_precision() == "medium"
    turned = {i: _is_turned(a[i]) for i in _TURNED}
    dense = [
        t if t is None or t.is_contiguous() or turned.get(i) else t.contiguous()
        for i, t in enumerate(a)
    ]
    addresses = [0 if t is None else t.data_ptr() for t in (*dense, *others)]
    core.run(
        cell,
        numbers,
        call.sizes(a, *turned.values(), rounding=rounding),
        addresses + [0] * (len(call.ARRAYS) - len(addresses)),
        back=back,
        dtype=_NAMES[dtype],
        threads=torch.get_num_threads(),
        host=core.lend_openmp(_FOLDER),
        framework="torch",
    )
