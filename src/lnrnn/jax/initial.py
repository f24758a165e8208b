"""Initial values of the weights, drawn with keys of JAX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp

from lnrnn.dialects import Dialect
from lnrnn.dialects.dialect import Initializer
from lnrnn.frontends import initial
from lnrnn.frontends.families import bias_gates
from lnrnn.params import Sizes, columns, shapes
from lnrnn.variant import Variant

# the part of a normal distribution within two deviations has this deviation
_TRUNCATED = 0.87962566103423978


def draw(
    key: jax.Array,
    variant: Variant,
    dialect: Dialect | None,
    sizes: Sizes,
    dtype: Any,
    learned_state: bool = False,
) -> dict[str, jax.Array]:
    """Initial values of all canonical weights."""
    expected = shapes(variant, sizes, learned_state)
    found = {}
    for name, shape in expected.items():
        found[name] = draw_one(key, name, shape, variant, dialect, sizes.units, dtype)
    return found


def draw_one(
    key: jax.Array,
    name: str,
    shape: tuple[int, ...],
    variant: Variant,
    dialect: Dialect | None,
    units: int,
    dtype: Any,
) -> jax.Array:
    """Initial values of one weight; each weight has a key of its own."""
    given = initial.initializer(name, variant, dialect)
    gates = len(variant.gates) if dialect and name in dialect.per_gate else 1
    block = (*shape[:-1], shape[-1] // gates)
    keys = jax.random.split(jax.random.fold_in(key, crc32(name.encode())), gates)
    weight = jnp.concatenate([_filled(k, block, given) for k in keys], axis=-1)
    forget = initial.forget_start(name, variant, dialect)
    if forget is not None:
        weight = weight.at[columns(bias_gates(variant, name), "f", units)].set(forget)
    return weight.astype(dtype)


def _filled(key: jax.Array, shape: tuple[int, ...], given: Initializer) -> jax.Array:
    """A weight as a Keras identifier, a number or a Keras config says."""
    if isinstance(given, (int, float)):
        return jnp.full(shape, given, float)
    if isinstance(given, str):
        return _NAMED[given](key, shape)
    return _CONFIGURED[given["class_name"]](key, shape, **given["config"])


def _scaled(
    key: jax.Array, shape: tuple[int, ...], scale: float, mode: str, distribution: str
) -> jax.Array:
    """The variance is the scale over a fan; a vector of n has the fans n and n."""
    fan_in, fan_out = shape[0], shape[-1]
    fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    deviation = math.sqrt(scale / fans[mode])
    if distribution == "uniform":
        return _uniform(key, shape, -math.sqrt(3) * deviation, math.sqrt(3) * deviation)
    return deviation / _TRUNCATED * jax.random.truncated_normal(key, -2, 2, shape)


def _glorot(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return _scaled(key, shape, 1.0, "fan_avg", "uniform")


def _normal(key: jax.Array, shape: tuple[int, ...], stddev: float) -> jax.Array:
    return stddev * jax.random.normal(key, shape)


def _uniform(key: jax.Array, shape: tuple[int, ...], minval: float, maxval: float) -> jax.Array:
    return jax.random.uniform(key, shape, minval=minval, maxval=maxval)


_NAMED: dict[str, Callable[..., jax.Array]] = {
    "zeros": jax.nn.initializers.zeros,
    "ones": jax.nn.initializers.ones,
    "orthogonal": jax.nn.initializers.orthogonal(),
    "glorot_uniform": _glorot,
}
_CONFIGURED = {"VarianceScaling": _scaled, "RandomNormal": _normal, "RandomUniform": _uniform}
