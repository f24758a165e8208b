"""The portable engine's operations on PyTorch tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

# the only scan that PyTorch has, and the number behind a symbol of torch.compile
from torch._guards import TracingContext
from torch._higher_order_ops import scan as _traced_scan
from torch.fx.experimental.symbolic_shapes import guard_scalar
from torch.nn import functional

from lnrnn.engines import counting
from lnrnn.engines.portable.ops import Body, States, unrolled
from lnrnn.variant import Variant

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    # hardsigmoid has a float32 constant in its derivative
    "hard_sigmoid": lambda v: torch.clamp(v / 6 + 0.5, 0.0, 1.0),
    "keras2_hard_sigmoid": lambda v: torch.clamp(0.2 * v + 0.5, 0.0, 1.0),
    "linear": lambda v: v,
    "silu": functional.silu,
    "gelu": partial(functional.gelu, approximate="tanh"),
}

projects_ahead = True
matmul = torch.matmul
einsum = torch.einsum
stack = torch.stack


# counts when Dynamo traces it, which would compile again for each new count
@torch.compiler.assume_constant_result
def count() -> None:
    counting.count("torch")


def concat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(tuple(parts), dim=-1)


def divisor(v: torch.Tensor) -> torch.Tensor:
    return v.detach().abs().clamp(min=1.0)


def split(v: torch.Tensor, parts: int) -> Sequence[torch.Tensor]:
    # litert-torch does not convert a split into one
    return torch.chunk(v, parts, -1) if parts > 1 else (v,)


def fold(v: torch.Tensor, size: int) -> torch.Tensor:
    return v.unflatten(-1, (-1, size))


def unfold(v: torch.Tensor) -> torch.Tensor:
    return v.flatten(-2)


def where(condition: torch.Tensor, a: torch.Tensor, b: torch.Tensor | float) -> torch.Tensor:
    return torch.where(condition, a, b)


def number(v: float) -> float:
    # torch.compile(dynamic=True) makes symbols of numbers, which a scan does not take
    return guard_scalar(v) if torch.compiler.is_compiling() else v  # pyright: ignore


def clip(v: torch.Tensor, bound: float) -> torch.Tensor:
    bound = number(bound)
    return torch.clamp(v, -bound, bound)


class _ClipGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(v: torch.Tensor, bound: float) -> torch.Tensor:
        return v.view_as(v)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, float], output: torch.Tensor) -> None:
        ctx.bound = inputs[1]

    @staticmethod
    def backward(ctx: Any, *dv: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.clamp(dv[0], -ctx.bound, ctx.bound), None


def clip_gradient(v: torch.Tensor, bound: float) -> torch.Tensor:
    return _ClipGradient.apply(v, number(bound))  # pyright: ignore[reportReturnType]


def norm(
    v: torch.Tensor, gain: torch.Tensor | None, bias: torch.Tensor | None, variant: Variant
) -> torch.Tensor:
    epsilon = number(variant.epsilon)
    size = (int(v.shape[-1]),)  # a number also where ONNX traces shapes
    fused = variant.norm == "layer" and variant.ddof == 0 and variant.epsilon_at == "variance"
    if fused and size != (1,):  # of one number it leaves roundings, times 1 / sqrt(epsilon)
        if gain is not None and gain.ndim == 1 and gain.dtype == v.dtype:
            return functional.layer_norm(v, size, gain, bias, epsilon)
        d = functional.layer_norm(v, size, None, None, epsilon)
    else:
        d = v.to(torch.promote_types(v.dtype, torch.float32))
        if variant.norm == "layer":
            d = d - d.mean(-1, keepdim=True)
        variance = d.square().sum(-1, keepdim=True) / (d.shape[-1] - variant.ddof)
        if variant.epsilon_at == "variance":
            d = d * torch.rsqrt(variance + epsilon)
        else:
            # the root has no derivative at 0, where that of the norm has this limit
            root = torch.where(variance > 0, variance, 1.0).sqrt() * (variance > 0)
            d = d / (root + epsilon)
    if gain is not None:
        d = d * gain
    if bias is not None:
        d = d + bias
    return d.to(v.dtype)


def activation(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    return _ACTIVATIONS[name]


def cast(v: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return v.to(like.dtype)


def rounded(v: torch.Tensor, dtype: str) -> torch.Tensor:
    return v.to(getattr(torch, dtype)).to(torch.float32)


def constants(like: torch.Tensor, values: Any) -> torch.Tensor:
    # a traced constant keeps its dtype, and litert-torch converts none of float64
    exact = np.float64 if like.dtype == torch.float64 else np.float32
    return torch.as_tensor(np.asarray(values, exact), dtype=like.dtype, device=like.device)


def running_any(mask: torch.Tensor) -> torch.Tensor:
    return torch.cumsum(mask.int(), dim=0, dtype=torch.int32) > 0


def unstack(v: torch.Tensor) -> Sequence[torch.Tensor]:
    return v.unbind(0)


def spread(vectors: Mapping[str, torch.Tensor], x: torch.Tensor) -> Mapping[str, torch.Tensor]:
    if not torch.compiler.is_compiling():
        return {}
    # A traced scan adds up the gradients of what its body captures, which Inductor does
    # wrongly for several vectors, and it refuses views of one tensor: none is captured.
    return {name: v.expand(x.shape[0], -1) for name, v in vectors.items()}


@torch.compiler.assume_constant_result
def _allow_scalars() -> None:
    """Let Inductor lower a scan, whose index it reads as a number.

    Dynamo allows its graphs that with `fullgraph=True` only.
    """
    context = TracingContext.try_get()
    mode = None if context is None else context.fake_mode
    if mode is not None and mode.shape_env is not None:
        shapes = mode.shape_env
        shapes.settings = replace(shapes.settings, allow_scalar_outputs=True)


@torch.compiler.assume_constant_result
def _for_litert() -> bool:
    """Whether litert-torch asked for what is traced, which converts no scan."""
    frame = sys._getframe() if "litert_torch" in sys.modules else None
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("litert_torch."):
            return True
        frame = frame.f_back
    return False


def scan(body: Body, states: States, xs: tuple[torch.Tensor, ...], emit: bool) -> Any:
    if not torch.compiler.is_compiling() or (isinstance(xs[0].shape[0], int) and _for_litert()):
        ops: Any = sys.modules[__name__]
        return unrolled(ops, body, states, xs, emit)

    def advance(states: States, inputs: tuple[torch.Tensor, ...]) -> Any:
        # the operator wants fresh tensors: neither inputs nor the same one twice
        states = tuple(s.clone() for s in body(states, inputs))
        return states, states[0].clone()

    _allow_scalars()
    # one graph for any number of steps, where a Python loop would be traced step by step
    final, emitted = _traced_scan(advance, tuple(states), xs)
    return final, emitted if emit else None
