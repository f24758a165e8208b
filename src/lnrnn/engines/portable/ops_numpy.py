"""The portable engine's operations on NumPy arrays, of one step: for a look at weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lnrnn.variant import Variant

Array = np.ndarray

matmul = np.matmul


def concat(parts: Sequence[Array]) -> Array:
    return np.concatenate(parts, axis=-1)


def fold(v: Array, size: int) -> Array:
    return v.reshape(*v.shape[:-1], v.shape[-1] // size, size)


def unfold(v: Array) -> Array:
    return v.reshape(*v.shape[:-2], v.shape[-2] * v.shape[-1])


def clip(v: Array, bound: float) -> Array:
    return np.clip(v, -bound, bound)


def norm(v: Array, gain: Array | None, bias: Array | None, variant: Variant) -> Array:
    d = v - v.mean(-1, keepdims=True) if variant.norm == "layer" else v
    variance = (d * d).sum(-1, keepdims=True) / (d.shape[-1] - variant.ddof)
    if variant.epsilon_at == "variance":
        d = d / np.sqrt(variance + variant.epsilon)
    else:
        d = d / (np.sqrt(variance) + variant.epsilon)
    d = d if gain is None else d * gain
    return d if bias is None else d + bias


def activation(name: str) -> Callable[[Array], Array]:
    return _ACTIVATIONS[name]


def constants(like: Array, values: Any) -> Array:
    return np.asarray(values, like.dtype)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "sigmoid": lambda v: 0.5 + 0.5 * np.tanh(0.5 * v),
    "relu": lambda v: np.maximum(v, 0),
    "hard_sigmoid": lambda v: np.clip(v / 6 + 0.5, 0, 1),
    "keras2_hard_sigmoid": lambda v: np.clip(0.2 * v + 0.5, 0, 1),
    "linear": lambda v: v,
}
