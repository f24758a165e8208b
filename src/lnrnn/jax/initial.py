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
from lnrnn.params import Sizes
from lnrnn.variant import Variant


def draw(
    key: jax.Array,
    variant: Variant,
    dialect: Dialect | None,
    sizes: Sizes,
    dtype: Any,
    learned_state: bool = False,
) -> dict[str, jax.Array]:
    """Initial values of all canonical weights; each has a key of its own."""
    found = {}
    for name, start in initial.starts(variant, dialect, sizes, learned_state).items():
        keys = jax.random.split(jax.random.fold_in(key, crc32(name.encode())), len(start.shapes))
        pairs = zip(keys, start.shapes, strict=True)
        drawn = [_filled(k, shape, start.initializer) for k, shape in pairs]
        weight = jnp.concatenate([drawn[i][..., columns] for i, columns in start.places], axis=-1)
        if start.forget is not None:
            columns, value = start.forget
            weight = weight.at[columns].set(value)
        found[name] = weight.astype(dtype)
    return found


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
    deviation = initial.deviation(shape, scale, mode)
    if distribution == "uniform":
        return _uniform(key, shape, -math.sqrt(3) * deviation, math.sqrt(3) * deviation)
    return deviation / initial.TRUNCATED * jax.random.truncated_normal(key, -2, 2, shape)


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
