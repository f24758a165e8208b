"""JAX: a layer-normalised `lax.scan` as one writes it, and the product that is the limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid

from lnrnn.bench.problem import NORMALISED, Competitor, Problem, Runs


def competitors() -> list[Competitor]:
    """What is measured from JAX without Keras."""
    return [Competitor("jax.lax.scan", NORMALISED, _scan)]


def product(a: np.ndarray, b: np.ndarray, dtype: str) -> Callable[[], Any]:
    """A compiled product of two matrices."""
    left, right = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
    compiled = jax.jit(jnp.matmul)
    return lambda: compiled(left, right).block_until_ready()


def calls(
    call: Callable[[Any, Any, bool], Any], weights: Any, x: Any, dy: Any
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The compiled passes of a function of weights and x.

    Args:
        call: from weights, x and whether it is training to y.
        weights: what is differentiated beside x.
        x: the inputs.
        dy: as y.

    Returns:
        A forward run, which gives y, and a training run, which gives the gradients of x
        and of the weights in a flat list.
    """

    def loss(weights: Any, x: Any, dy: Any) -> Any:
        return jnp.sum(call(weights, x, True) * dy)

    forward = jax.jit(lambda weights, x: call(weights, x, False))
    backward = jax.jit(jax.grad(loss, argnums=(1, 0)))
    x, dy = jnp.asarray(x), jnp.asarray(dy)
    return (
        lambda: forward(weights, x).block_until_ready(),
        lambda: jax.tree.leaves(jax.block_until_ready(backward(weights, x, dy))),
    )


def _norm(z: Any, gain: Any, bias: Any, epsilon: float) -> Any:
    mean, variance = z.mean(-1, keepdims=True), z.var(-1, keepdims=True)
    return (z - mean) * jax.lax.rsqrt(variance + epsilon) * gain + bias


def _lstm(w: Any, epsilon: float, state: Any, x: Any) -> tuple[Any, Any]:
    h, c = state
    z = _norm(x @ w["kernel"], w["x_norm_gain"], w["bias"], epsilon)
    z = z + _norm(h @ w["recurrent_kernel"], w["h_norm_gain"], 0.0, epsilon)
    i, f, g, o = jnp.split(z, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
    h = sigmoid(o) * jnp.tanh(_norm(c, w["cell_norm_gain"], w["cell_norm_bias"], epsilon))
    return (h, c), h


def _gru(w: Any, epsilon: float, state: Any, x: Any) -> tuple[Any, Any]:
    (h,) = state
    z = _norm(x @ w["kernel"], w["x_norm_gain"], w["x_norm_bias"], epsilon)
    s = _norm(h @ w["recurrent_kernel"], w["h_norm_gain"], w["h_norm_bias"], epsilon)
    r_x, u_x, n_x = jnp.split(z, 3, -1)
    r_h, u_h, n_h = jnp.split(s, 3, -1)
    u = sigmoid(u_x + u_h)
    h = u * h + (1 - u) * jnp.tanh(n_x + sigmoid(r_x + r_h) * n_h)
    return (h,), h


def _simple(w: Any, epsilon: float, state: Any, x: Any) -> tuple[Any, Any]:
    (h,) = state
    z = x @ w["kernel"] + w["bias_x"] + h @ w["recurrent_kernel"]
    h = jnp.tanh(_norm(z, w["sum_norm_gain"], w["sum_norm_bias"], epsilon))
    return (h,), h


_STEPS: dict[str, Callable[..., tuple[Any, Any]]] = {"lstm": _lstm, "gru": _gru, "simple": _simple}


def _scan(problem: Problem) -> Runs:
    variant, (_, batch, units) = problem.variants[NORMALISED], problem.point
    weights = {n: jnp.asarray(a) for n, a in problem.params[NORMALISED].items()}
    step = _STEPS[problem.cell]

    def call(w: Any, x: Any, training: bool) -> Any:
        start = tuple(jnp.zeros((batch, units)) for _ in variant.states)
        return jax.lax.scan(lambda state, x: step(w, variant.epsilon, state, x), start, x)[1]

    names = sorted(weights)  # the order of the leaves of a dict

    forward, training = calls(call, weights, problem.x, problem.dy)

    def named() -> dict[str, np.ndarray]:
        of_x, *of_weights = map(np.asarray, training())
        gradients = dict(zip(names, of_weights, strict=True))
        return {"x": of_x, **{n: gradients[n] for n in ("kernel", "recurrent_kernel")}}

    return Runs({"forward": forward, "training": training}, lambda: np.asarray(forward()), named)
