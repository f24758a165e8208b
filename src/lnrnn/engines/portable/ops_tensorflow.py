"""The portable engine's operations on TensorFlow tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import tensorflow as tf

from lnrnn.engines import counting
from lnrnn.engines.portable.ops import Body, States
from lnrnn.variant import Variant

_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "tanh": tf.math.tanh,
    "sigmoid": tf.math.sigmoid,
    "relu": tf.nn.relu,
    "hard_sigmoid": lambda v: tf.clip_by_value(v * (1 / 6) + 0.5, 0.0, 1.0),
    "keras2_hard_sigmoid": lambda v: tf.clip_by_value(0.2 * v + 0.5, 0.0, 1.0),
    "linear": lambda v: v,
    # that of tf.nn has a gradient of its own, which a loop in a SavedModel loses
    "silu": lambda v: v * tf.math.sigmoid(v),
    "gelu": partial(tf.nn.gelu, approximate=True),
}

projects_ahead = False
count = partial(counting.count, "tensorflow")
unstack = tf.unstack
stack = tf.stack
einsum = tf.einsum


def matmul(a: Any, b: Any) -> Any:
    if a.shape.rank == 2:
        return tf.matmul(a, b)
    # one product over all rows: tf.matmul would loop over the leading axis
    rows = tf.matmul(tf.reshape(a, (-1, a.shape[-1])), b)
    out = tf.reshape(rows, tf.concat([tf.shape(a)[:-1], tf.shape(b)[-1:]], 0))
    out.set_shape([*a.shape[:-1], b.shape[-1]])
    return out


def concat(parts: Sequence[Any]) -> Any:
    return tf.concat(parts, -1)


def divisor(v: Any) -> Any:
    return tf.stop_gradient(tf.maximum(tf.abs(v), 1))


def split(v: Any, parts: int) -> Sequence[Any]:
    return tf.split(v, parts, -1)


def fold(v: Any, size: int) -> Any:
    return tf.reshape(v, tf.concat([tf.shape(v)[:-1], [v.shape[-1] // size, size]], 0))


def unfold(v: Any) -> Any:
    wide = v.shape[-2] * v.shape[-1]
    return tf.reshape(v, tf.concat([tf.shape(v)[:-2], [wide]], 0))


def where(condition: Any, a: Any, b: Any) -> Any:
    return tf.where(condition, a, tf.cast(b, a.dtype))


def number(v: float) -> float:
    return v


def clip(v: Any, bound: float) -> Any:
    return tf.clip_by_value(v, -bound, bound)


def clip_gradient(v: Any, bound: float) -> Any:
    @tf.custom_gradient
    def identity(v: Any) -> Any:
        return tf.identity(v), lambda dv: tf.clip_by_value(dv, -bound, bound)

    return identity(v)


def norm(v: Any, gain: Any, bias: Any, variant: Variant) -> Any:
    d = v if v.dtype in (tf.float32, tf.float64) else tf.cast(v, tf.float32)
    if variant.norm == "layer":
        d = d - tf.reduce_mean(d, -1, keepdims=True)
    if variant.ddof:
        variance = tf.reduce_sum(d * d, -1, keepdims=True) / (d.shape[-1] - variant.ddof)
    else:
        variance = tf.reduce_mean(d * d, -1, keepdims=True)
    if variant.epsilon_at == "variance":
        d = d * tf.math.rsqrt(variance + variant.epsilon)
    else:
        # the root has no derivative at 0, where that of the norm has this limit
        positive = variance > 0
        root = tf.sqrt(tf.where(positive, variance, 1.0)) * tf.cast(positive, d.dtype)
        d = d / (root + variant.epsilon)
    if gain is not None:
        d = d * tf.cast(gain, d.dtype)
    if bias is not None:
        d = d + tf.cast(bias, d.dtype)
    return tf.cast(d, v.dtype)


def activation(name: str) -> Callable[[Any], Any]:
    return _ACTIVATIONS[name]


def cast(v: Any, like: Any) -> Any:
    return tf.cast(v, like.dtype)


def rounded(v: Any, dtype: str) -> Any:
    return tf.cast(tf.cast(v, dtype), tf.float32)


def constants(like: Any, values: Any) -> Any:
    return tf.constant(values, like.dtype)


def running_any(mask: Any) -> Any:
    return tf.cumsum(tf.cast(mask, tf.int32), axis=0) > 0


def spread(vectors: Mapping[str, Any], x: Any) -> Mapping[str, Any]:
    return {}


def scan(body: Body, states: States, xs: tuple[Any, ...], emit: bool) -> Any:
    steps = tf.shape(xs[0])[0]
    feeds = [tf.TensorArray(x.dtype, steps, element_shape=x.shape[1:]).unstack(x) for x in xs]
    h = states[0]
    emitted = (tf.TensorArray(h.dtype, steps, element_shape=h.shape),) if emit else ()

    def advance(t: Any, states: States, emitted: tuple[Any, ...]) -> Any:
        new = body(states, tuple(f.read(t) for f in feeds))
        for state, old in zip(new, states, strict=True):
            state.set_shape(old.shape)
        return t + 1, new, tuple(e.write(t, new[0]) for e in emitted)

    _, states, emitted = tf.while_loop(
        lambda t, *_: t < steps,
        advance,
        (tf.constant(0), states, emitted),
        # XLA needs a static bound to differentiate a loop
        maximum_iterations=steps if xs[0].shape[0] is None else xs[0].shape[0],
    )
    if not emit:
        return states, None
    outputs = emitted[0].stack()
    # a TensorArray forgets the number of steps
    outputs.set_shape([xs[0].shape[0], *h.shape])
    return states, outputs
