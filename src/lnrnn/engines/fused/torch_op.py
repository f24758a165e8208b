"""A fused recurrence as a PyTorch operator: what is computed, traced, and differentiated again.

A plain call takes an autograd function, as the dispatch of an operator costs more than a short
sequence; graphs hold the operator.  What an engine has no rule for is the definition's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lnrnn.engines.fused.call import HALVES, INCOMING, VARIANTS, Taken

_PLAIN = (Tensor, torch.nn.Parameter)
_HALVES = tuple(getattr(torch, name) for name in HALVES)


class Passes(Protocol):
    """The passes of an engine, and how it says what a cell is.

    A cell is a value of the type `cell_type` of an operator's arguments.  A forward pass gives h
    (T, B, H), the tensors named by `kept`, the last h and the last c (empty where there is none);
    how much it keeps is a number, 0 is nothing.
    """

    device: str
    cell_type: str
    kept: tuple[str, ...]
    h_is_kept: bool

    def encode(self, variant: Any, gates: str) -> Any:
        """The cell of a variant whose weights have their gates in this order."""
        ...

    def define(self, cell: Any, numbers: Any, inputs: Any) -> tuple[Tensor, ...]:
        """What the definition of a cell gives."""
        ...

    def keep(self, inputs: Any) -> int:
        """How much a forward pass keeps where there is a backward pass."""
        ...

    def check(self, inputs: Any) -> None:
        """Raise ValueError unless the engine computes on these tensors."""
        ...

    def ready(self, cell: Any, numbers: Any, inputs: Any, named: bool) -> bool:
        """Whether the engine computes this call, or leaves it to the definition.

        Raises ValueError in place of the latter where the caller has named the engine.
        """
        ...

    def empty(self, cell: Any, numbers: Any, inputs: Any, keep: int) -> tuple[Tensor, ...]:
        """Tensors like those of a forward pass, not computed."""
        ...

    def forward(self, cell: Any, numbers: Any, inputs: Any, keep: int) -> tuple[Tensor, ...]:
        """A forward pass."""
        ...

    def backward(
        self,
        cell: Any,
        numbers: Any,
        inputs: Any,
        kept: tuple[Tensor, ...],
        incoming: tuple[Tensor | None, ...],
        of_x: bool,
    ) -> list[Tensor]:
        """Gradients of the inputs that have one, in their order; of x only where asked for.

        `kept` begins with h where `h_is_kept`.
        """
        ...


class Operator:
    """The recurrence of an engine: a call with a variant, its numbers and its inputs.

    Args:
        name: of the operator, as in `"lnrnn::recurrence"`; the derivative adds `_backward`.
        passes: what computes.
        taken: what a call takes; that of variants, where nothing else is said.
    """

    def __init__(self, name: str, passes: Passes, taken: Taken = VARIANTS) -> None:
        self.passes, self.taken = passes, taken
        self._inputs = len(taken.inputs._fields)
        self._x = taken.inputs._fields.index("x")
        self._saved = int(passes.h_is_kept) + len(passes.kept)
        self._first = 0 if passes.h_is_kept else 1
        outputs = 3 + len(passes.kept)
        given = ", ".join(
            f"Tensor {n}" if n in taken.always else f"Tensor? {n}" for n in taken.inputs._fields
        )
        kept = ", ".join(f"Tensor kept{i}" for i in range(self._saved))
        incoming = ", ".join(f"Tensor? {n}" for n in INCOMING)
        how = f"{passes.cell_type} cell, float[] numbers"
        forward = f"({given}, {how}, int keep) -> ({', '.join(['Tensor'] * outputs)})"
        backward = f"({given}, {kept}, {incoming}, {how}, bool of_x) -> Tensor[]"
        self.operator = self._register(name, self._compute, forward)
        self.derivative = self._register(f"{name}_backward", self._compute_dense, backward)
        self.operator.register_fake(self._empty)
        self.derivative.register_fake(self._empty_gradients)
        self.operator.register_autograd(self._gradients, setup_context=self._setup)
        self.derivative.register_autograd(self._second, setup_context=self._setup_second)
        self._function, self._function_backward = _functions(self)

    def _register(self, name: str, run: Callable[..., Any], schema: str) -> Any:
        found = torch.library.custom_op(
            name, run, mutates_args=(), device_types=self.passes.device, schema=schema
        )
        torch.library.register_autocast(found, self.passes.device, torch.float32)
        return found

    def __call__(
        self,
        variant: Any,
        numbers: Any,
        inputs: Any,
        gates: str = "",
        named: bool = False,
    ) -> tuple[Tensor, ...]:
        """All h (T, B, H), the last h and, of an lstm, the last c.

        Args:
            variant: the cell.
            numbers: the scalars of the call.
            inputs: its arrays.
            gates: their order in the weights; empty for the canonical one.
            named: whether the caller has named this engine, so that no other may compute.
        """
        dtype = inputs.x.dtype
        cell = self.passes.encode(variant, gates)
        if dtype in _HALVES:
            h, *final = self._recur(cell, numbers, _widened(inputs), named)
            return h, *(s.to(dtype) for s in final)
        return self._recur(cell, numbers, inputs, named)

    def _recur(self, cell: Any, numbers: Any, inputs: Any, named: bool) -> tuple[Tensor, ...]:
        given = [t for t in inputs if t is not None]
        if not by_definition(given):
            self.passes.check(inputs)
            ready = torch.compiler.is_compiling() or self.passes.ready(cell, numbers, inputs, named)
        else:
            ready = False
        if not ready:
            return self.passes.define(cell, numbers, inputs)
        keep = 0
        if torch.is_grad_enabled() and any(t.requires_grad for t in given):
            keep = self.passes.keep(inputs)
        if self.eager(given):
            run = self._function.apply if keep else self._compute
            h, *_, h_last, c_last = run(*inputs, cell, numbers, keep)  # pyright: ignore
        else:
            how = [*cell] if isinstance(cell, tuple) else cell
            h, *_, h_last, c_last = self.operator(*inputs, how, [*numbers], keep)
            # kept for the backward pass, while callers may change outputs in place before it
            h = h.clone() if keep and self.passes.h_is_kept else h
        return (h, h_last) if getattr(inputs, "c0", None) is None else (h, h_last, c_last)

    def _arrays(self, saved: Sequence[Any]) -> Any:
        return self.taken.inputs(*saved[: self._inputs])

    def eager(self, tensors: Sequence[Tensor]) -> bool:
        """Whether this call needs no operator."""
        device = self.passes.device
        return (
            not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled(device)
            and all(
                type(t) in _PLAIN and t.device.type == device and not t.is_neg() for t in tensors
            )
        )

    def _compute(self, *args: Any) -> tuple[Tensor, ...]:
        *arrays, cell, numbers, keep = args
        return self.passes.forward(_hashable(cell), *self.taken.of(numbers, arrays), keep)

    def _empty(self, *args: Any) -> tuple[Tensor, ...]:
        *arrays, cell, numbers, keep = args
        return self.passes.empty(_hashable(cell), *self.taken.of(numbers, arrays), keep)

    def _compute_backward(self, *args: Any) -> list[Tensor]:
        *arrays, cell, numbers, of_x = args
        numbers, a = self.taken.of(numbers, arrays[: self._inputs])
        rest = arrays[self._inputs :]
        kept, incoming = tuple(rest[: self._saved]), tuple(rest[self._saved :])
        return self.passes.backward(_hashable(cell), numbers, a, kept, incoming, of_x)

    def _compute_dense(self, *args: Any) -> list[Tensor]:
        return [g.contiguous() for g in self._compute_backward(*args)]  # as the fake says

    def _empty_gradients(self, *args: Any) -> list[Tensor]:
        a, of_x = self._arrays(args), args[-1]
        return [t.new_empty(t.shape) for t in _differentiable(a, of_x)]

    def _setup(
        self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...], eager: bool = False
    ) -> None:
        *arrays, ctx.cell, ctx.numbers, _ = inputs
        ctx.eager = eager
        ctx.save_for_backward(*arrays, *output[self._first : self._first + self._saved])
        ctx.set_materialize_grads(False)

    def _gradients(self, ctx: Any, *grads: Any) -> Any:
        of_x = ctx.needs_input_grad[self._x]
        dh, *_, dh_last, dc_last = grads
        saved, incoming = ctx.saved_tensors, (dh, dh_last, dc_last)
        arrays = (*saved, *incoming)
        if any(g is not None and _is_batched(g) for g in incoming):
            a = _leaves(self._arrays(saved))
            with torch.enable_grad():
                found = self._define_gradients(ctx, a, of_x, incoming)
        # after a call without the operator only these can ask for it
        elif not (ctx.eager and self.eager([t for t in incoming if t is not None])):
            cell = [*ctx.cell] if isinstance(ctx.cell, tuple) else ctx.cell
            found = self.derivative(*arrays, cell, [*ctx.numbers], of_x)
        elif torch.is_grad_enabled():
            found = self._function_backward.apply(*arrays, ctx.cell, ctx.numbers, of_x)
        else:
            found = self._compute_backward(*arrays, ctx.cell, ctx.numbers, of_x)
        gradients: list[Any] = [None] * (self._inputs + 3)
        for i, gradient in zip(asked(self._arrays(saved), of_x), found, strict=True):
            gradients[i] = gradient
        return tuple(gradients)

    def _setup_second(self, ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
        *arrays, ctx.cell, ctx.numbers, ctx.of_x = inputs
        ctx.save_for_backward(*arrays)
        ctx.set_materialize_grads(False)

    def _second(self, ctx: Any, upstream: Sequence[Tensor | None]) -> Any:
        """The derivative of the gradients, which is that of the definition's gradients."""
        higher = torch.is_grad_enabled()
        arrays = ctx.saved_tensors
        a = _leaves(self._arrays(arrays), higher)
        with torch.enable_grad():
            incoming = [None if g is None else _leaf(g, higher) for g in arrays[-len(INCOMING) :]]
            first = self._define_gradients(ctx, a, ctx.of_x, incoming, create_graph=True)
        pairs = [(f, u) for f, u in zip(first, upstream, strict=True) if u is not None]
        arguments = _differentiable(a)
        found = torch.autograd.grad(
            [f for f, _ in pairs],
            [*arguments, *(g for g in incoming if g is not None)],
            [u for _, u in pairs],
            create_graph=higher,
            materialize_grads=True,
        )
        gradients: list[Any] = [None] * (len(arrays) + 3)
        for i, gradient in zip(asked(a), found, strict=False):
            gradients[i] = gradient
        rest = iter(found[len(arguments) :])
        of_incoming = [None if g is None else next(rest) for g in incoming]
        gradients[len(arrays) - len(incoming) : len(arrays)] = of_incoming
        return tuple(gradients)

    def _define_gradients(
        self,
        ctx: Any,
        a: Any,
        of_x: bool,
        incoming: Sequence[Tensor | None],
        create_graph: bool = False,
    ) -> Sequence[Tensor]:
        """The gradients of the definition."""
        numbers, a = self.taken.of(ctx.numbers, a)
        values = self.passes.define(_hashable(ctx.cell), numbers, a)
        weighed = [(v, g) for v, g in zip(values, incoming, strict=False) if g is not None]
        return torch.autograd.grad(
            [v for v, _ in weighed],
            _differentiable(a, of_x),
            [g for _, g in weighed],
            create_graph=create_graph,
            materialize_grads=True,
        )


def places(a: Any) -> range:
    """Where the inputs are that may have a gradient."""
    return range(a._fields.index("mask"))


def asked(a: Any, of_x: bool = True) -> list[int]:
    """Where the inputs are that have a gradient, in the order of a backward pass's results."""
    return [i for i in places(a) if a[i] is not None and (of_x or a._fields[i] != "x")]


def _functions(self: Operator) -> tuple[Any, Any]:
    """The operator and its derivative as autograd functions."""

    class Recurrence(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:  # pyright: ignore
            found = self._compute(*args)
            self._setup(ctx, args, found, eager=True)
            # what is kept is not what callers may change in place
            return (found[0].clone(), *found[1:]) if self.passes.h_is_kept else found

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Any) -> Any:
            return self._gradients(ctx, *grad_outputs)

    class RecurrenceBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:  # pyright: ignore
            found = self._compute_backward(*args)
            self._setup_second(ctx, args, found)
            return tuple(found)

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Any) -> Any:
            return self._second(ctx, list(grad_outputs))

    return Recurrence, RecurrenceBackward


def _hashable(cell: Any) -> Any:
    return tuple(cell) if isinstance(cell, list) else cell


def _widened(inputs: Any) -> Any:
    """All but x in float32 where it is of half precision."""
    wide = (t.float() if t is not None and t.dtype in _HALVES else t for t in inputs)
    return type(inputs)(*wide)._replace(x=inputs.x)


def by_definition(tensors: list[Tensor]) -> bool:
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


def _is_batched(t: Tensor) -> bool:
    """Whether `vmap` runs over a backward pass, as `is_grads_batched` and `jacobian` make it."""
    functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    return functorch.is_batchedtensor(t) or functorch.is_legacy_batchedtensor(t)


def _differentiable(a: Any, of_x: bool = True) -> list[Any]:
    return [a[i] for i in asked(a, of_x)]


def _leaves(a: Any, higher: bool = False) -> Any:
    """The inputs, those that are differentiable as leaves of a graph of its own."""
    leaves = [_leaf(t, higher) for t in _differentiable(a)]
    names = [a._fields[i] for i in asked(a)]
    return a._replace(**dict(zip(names, leaves, strict=True)))


def _leaf(t: Tensor, higher: bool) -> Tensor:
    """`t` where a graph begins; for higher derivatives one that goes on to where `t` is from."""
    return t.view_as(t) if higher and t.requires_grad else t.detach().requires_grad_()
