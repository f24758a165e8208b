"""The portable engine's operations on JAX arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lnrnn.engines import counting
from lnrnn.engines.portable.ops import Body, States
from lnrnn.variant import Variant

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "keras2_hard_sigmoid": lambda v: jnp.clip(0.2 * v + 0.5, 0.0, 1.0),
    "linear": lambda v: v,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
}

projects_ahead = False
count = partial(counting.count, "jax")
matmul = jnp.matmul
einsum = jnp.einsum
where = jnp.where
stack = jnp.stack
unstack = list


def concat(parts: Sequence[jax.Array]) -> jax.Array:
    return jnp.concatenate(parts, axis=-1)


def divisor(v: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(jnp.maximum(1.0, jnp.abs(v)))


def split(v: jax.Array, parts: int) -> Sequence[jax.Array]:
    return jnp.split(v, parts, axis=-1)


def fold(v: jax.Array, size: int) -> jax.Array:
    return v.reshape(*v.shape[:-1], v.shape[-1] // size, size)


def unfold(v: jax.Array) -> jax.Array:
    return v.reshape(*v.shape[:-2], v.shape[-2] * v.shape[-1])


def number(v: float) -> float:
    return v


def clip(v: jax.Array, bound: float) -> jax.Array:
    return jnp.clip(v, -bound, bound)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def clip_gradient(v: jax.Array, bound: float) -> jax.Array:
    return v


clip_gradient.defvjp(
    lambda v, bound: (v, None),
    lambda bound, _, dv: (jnp.clip(dv, -bound, bound),),
)


def norm(
    v: jax.Array, gain: jax.Array | None, bias: jax.Array | None, variant: Variant
) -> jax.Array:
    d = v.astype(jnp.promote_types(v.dtype, jnp.float32))
    if variant.norm == "layer":
        d = d - jnp.mean(d, axis=-1, keepdims=True)
    variance = jnp.sum(d * d, axis=-1, keepdims=True) / (d.shape[-1] - variant.ddof)
    if variant.epsilon_at == "variance":
        d = d * jax.lax.rsqrt(variance + variant.epsilon)
    else:
        # the root has no derivative at 0, where that of the norm has this limit
        root = jnp.sqrt(jnp.where(variance > 0, variance, 1.0)) * (variance > 0)
        d = d / (root + variant.epsilon)
    if gain is not None:
        d = d * gain
    if bias is not None:
        d = d + bias
    return d.astype(v.dtype)


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    return _ACTIVATIONS[name]


def cast(v: jax.Array, like: jax.Array) -> jax.Array:
    return v.astype(like.dtype)


def rounded(v: jax.Array, dtype: str) -> jax.Array:
    return v.astype(dtype).astype(jnp.float32)


def constants(like: jax.Array, values: Any) -> jax.Array:
    return jnp.asarray(values, like.dtype)


def running_any(mask: jax.Array) -> jax.Array:
    steps = jax.lax.broadcasted_iota(jnp.int32, mask.shape, 0)
    return jnp.any(mask, axis=0) & (steps >= jnp.argmax(mask, axis=0))


def spread(vectors: Mapping[str, jax.Array], x: jax.Array) -> Mapping[str, jax.Array]:
    return {}


def scan(body: Body, states: States, xs: tuple[jax.Array, ...], emit: bool) -> Any:
    def advance(states: States, inputs: tuple[jax.Array, ...]) -> Any:
        states = body(states, inputs)
        return states, states[0] if emit else None

    return jax.lax.scan(advance, states, xs)
