"""What a caller hands over: checked, and laid out as the engines take it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lnrnn.frontends.errors import ArgumentTypeError, TensorError

States = tuple[Tensor, ...]


class OneTensorError(TensorError, ArgumentTypeError):
    """One tensor for h and c: PyTorch takes its rows, and raises by chance either kind."""


class Layout(NamedTuple):
    """The axes of a caller's tensors: (T, B, ...), (B, T, ...), or (T, ...) without batch."""

    batched: bool
    batch_first: bool

    def time_major(self, v: Tensor) -> Tensor:
        """The caller's layout to (T, B, ...)."""
        if not self.batched:
            return v.unsqueeze(1)
        return v.transpose(0, 1) if self.batch_first else v

    def restored(self, v: Tensor) -> Tensor:
        """(T, B, ...) to the caller's layout."""
        if not self.batched:
            return v.squeeze(1)
        return v.transpose(0, 1) if self.batch_first else v


_PLAIN = (Tensor, torch.nn.Parameter)


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on for x; as elsewhere in PyTorch, it leaves float64 alone."""
    # not torch.amp.is_autocast_available, which older compilers do not take
    possible = x.dtype != torch.float64 and not x.is_meta
    return possible and torch.is_autocast_enabled(x.device.type)


def precision(x: Tensor) -> tuple[torch.dtype, AbstractContextManager[object]]:
    """The dtype to compute in, autocast's where that is on for x, and the scope of an engine.

    In that scope autocast is off, as all tensors have the dtype already.
    """
    if not autocasts(x):
        return x.dtype, nullcontext()
    kind = x.device.type
    return torch.get_autocast_dtype(kind), torch.autocast(kind, enabled=False)


def converted(v: Tensor, dtype: torch.dtype) -> Tensor:
    """`v.to(dtype)`, which takes much longer to find that there is nothing to do."""
    return v if v.dtype == dtype else v.to(dtype)


def all_converted(values: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The same of weights; on a GPU, where each operation is a launch, by one cast of all."""
    first = next(iter(values.values()))
    apart = first.dtype == dtype or not launches(first)
    if apart or any(v.dtype != first.dtype or type(v) not in _PLAIN for v in values.values()):
        return {name: converted(v, dtype) for name, v in values.items()}
    whole = torch.cat([v.reshape(-1) for v in values.values()]).to(dtype)
    parts = whole.split([v.numel() for v in values.values()])
    return {n: p.view(v.shape) for (n, v), p in zip(values.items(), parts, strict=True)}


def launches(v: Tensor) -> bool:
    """Whether operations on a tensor are launched on a device."""
    return v.is_cuda


def check_like(name: str, given: Tensor, other: Tensor, what: str) -> None:
    """Raise unless a tensor has the device of another, and its dtype; autocast converts floats."""
    if given.device != other.device:
        raise TensorError(
            f"{name} is on the device of {what}; got {given.device} and {other.device}: "
            "move one of them with .to(device)."
        )
    same = given.dtype == other.dtype or (autocasts(given) and given.is_floating_point())
    if not same:
        raise TensorError(
            f"{name} has the dtype of {what}; got {given.dtype} and {other.dtype}: convert one "
            "of them with .to(dtype)."
        )


def check_input(input: Tensor, weight: Tensor, axes: Sequence[str]) -> None:
    """Raise unless an input fits weight_ih (G H, I).

    Args:
        input: the caller's tensor.
        weight: weight_ih.
        axes: the layouts allowed, each a word of axis letters.
    """
    if not isinstance(input, Tensor):
        raise ArgumentTypeError(
            f"input is a tensor{' or a PackedSequence' if 'TI' in axes else ''}; got "
            f"{type(input).__name__}: convert it with torch.as_tensor."
        )
    if input.dim() not in [len(word) for word in axes]:  # torch.compile does not take map
        raise TensorError(
            f"input has the axes {' or '.join(_tuple(a) for a in axes)}; got the shape "
            f"{tuple(input.shape)}: add or remove axes."
        )
    if input.shape[-1] != weight.shape[1]:
        raise TensorError(
            f"The last axis of input is input_size={weight.shape[1]}; got the shape "
            f"{tuple(input.shape)}: give each step the features that the module was made for."
        )
    check_like("input", input, weight, "the weights")


def sequence(input: Tensor, layout: Layout) -> Tensor:
    """An input of one step or more as (T, B, I)."""
    x = layout.time_major(input)
    if x.shape[0] == 0:
        raise TensorError(
            f"A sequence has one step or more; got input of the shape {tuple(input.shape)}: "
            "leave empty sequences out."
        )
    return x


def check_states(
    hx: object, shapes: dict[str, tuple[int, ...]], input: Tensor, what: str = "hx"
) -> States:
    """The states of a caller as a tuple.

    Args:
        hx: h, or (h, c) of an LSTM.
        shapes: the expected shape of each state.
        input: what has their dtype and device.
        what: the name of the argument.
    """
    given: Any = hx if len(shapes) > 1 else (hx,)
    if isinstance(given, Tensor):
        raise OneTensorError(_states_rule(hx, shapes, what))
    if not isinstance(given, (tuple, list)):
        raise ArgumentTypeError(_states_rule(hx, shapes, what))
    if len(given) != len(shapes):
        raise TensorError(_states_rule(hx, shapes, what))
    for state, (name, shape) in zip(given, shapes.items(), strict=True):
        if not isinstance(state, Tensor):
            raise ArgumentTypeError(_states_rule(hx, shapes, what))
        if tuple(state.shape) != shape:
            raise TensorError(
                f"{name} of {what} has the shape {shape} here; got {tuple(state.shape)}: pass "
                "states of that shape, or None."
            )
        check_like(f"{name} of {what}", state, input, "the input")
    return tuple(given)


def _states_rule(hx: object, shapes: dict[str, tuple[int, ...]], what: str) -> str:
    names = f"({', '.join(shapes)})" if len(shapes) > 1 else "h"
    several = isinstance(hx, (tuple, list))
    seen = f"({', '.join(type(s).__name__ for s in hx)})" if several else type(hx).__name__
    return f"{what} is {names}; got {seen}: pass tensors in that form, or None."


def valid_steps(
    lengths: Tensor | Sequence[int] | None, mask: Tensor | None, layout: Layout, x: Tensor
) -> Tensor | None:
    """Which steps are valid, (T, B), from lengths and a mask; None if all are."""
    valid = flags("mask", mask, layout, x)
    if lengths is None:
        return valid
    steps, batch = x.shape[:2]
    wanted = (batch,) if layout.batched else ()
    try:
        lengths = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(
            f"lengths are integers of the shape {wanted} here, one for each sequence; got "
            f"{lengths!r}: pass a tensor or a list of ints."
        ) from error
    if tuple(lengths.shape) != wanted or lengths.is_floating_point() or lengths.is_complex():
        raise TensorError(
            f"lengths are integers of the shape {wanted} here, one for each sequence; got "
            f"{lengths.dtype} of the shape {tuple(lengths.shape)}: pass for example "
            "mask.sum(time_axis)."
        )
    # neither a traced value nor one of a batch of torch.vmap is known here
    known = not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active()
    if known and not bool(((lengths >= 0) & (lengths <= steps)).all()):
        raise TensorError(
            f"lengths are from 0 to the number of steps, {steps}; got {lengths.tolist()}: pad "
            "the input further, or shorten them."
        )
    time = torch.arange(steps, device=x.device).unsqueeze(1)
    within = time < lengths.to(x.device).reshape(-1)
    return within if valid is None else within & valid


def flags(name: str, given: Tensor | None, layout: Layout, x: Tensor) -> Tensor | None:
    """A boolean tensor of the caller as (T, B)."""
    if given is None:
        return None
    axes = "(T,)" if not layout.batched else "(B, T)" if layout.batch_first else "(T, B)"
    _check_flags(name, given, axes, layout.restored(x))
    return layout.time_major(given)


def _check_flags(name: str, given: object, axes: str, x: Tensor) -> None:
    """Raise unless flags are boolean, have the axes of an input but its last, and its device."""
    if not isinstance(given, Tensor):
        raise ArgumentTypeError(
            f"{name} is a boolean tensor of the axes {axes}; got {type(given).__name__}: convert "
            "it with torch.tensor."
        )
    if given.dtype != torch.bool or given.shape != x.shape[:-1]:
        raise TensorError(
            f"{name} is boolean and has the axes {axes} of the input, here {tuple(x.shape[:-1])}; "
            f"got {given.dtype} of the shape {tuple(given.shape)}: convert it with .bool(), or "
            "transpose it."
        )
    if given.device != x.device:
        raise TensorError(
            f"{name} is on the device of the input; got {given.device} and {x.device}: move it "
            "with .to(device)."
        )


def begun_anew(
    reset: Tensor, input: Tensor, before: Sequence[States], again: Sequence[States]
) -> list[States]:
    """The states of layers before one step, (B, .), those of `again` where an episode begins.

    Args:
        reset: of the caller, as input without its last axis.
        input: (B, I), or (I,) without batch.
        before: the states of each layer.
        again: what they become.
    """
    _check_flags("reset", reset, "(B,)" if input.dim() == 2 else "()", input)
    rows = reset.reshape(-1, 1)
    return [
        tuple(torch.where(rows, a, s) for a, s in zip(there, here, strict=True))
        for there, here in zip(again, before, strict=True)
    ]


def reversed_reset(reset: Tensor, mask: Tensor | None) -> Tensor:
    """Where the reverse direction starts anew: at the last valid step before each reset.

    Args:
        reset: (T, B), True where an episode begins; of no effect at a masked step.
        mask: (T, B), True at valid steps.

    Returns:
        (T, B), in the order of time; of no meaning at masked steps.
    """
    if mask is None:
        return torch.cat([reset[1:], torch.zeros_like(reset[:1])])
    # whether the n-th valid step begins an episode, and then that of the next one for each step;
    # a cummin from the end would be shorter, but ONNX has none
    seen = mask.cumsum(0)
    begins = torch.cat([torch.zeros_like(seen), torch.zeros_like(seen[:1])])
    begins = begins.scatter_add(0, (seen - 1).clamp(min=0), (reset & mask).to(seen.dtype))
    return begins.gather(0, seen) > 0


def _tuple(axes: str) -> str:
    return f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
