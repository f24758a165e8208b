"""JAX: our functions, Flax's `nnx.RNN`, a layer-normalised `lax.scan`, and the product."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid

from lnrnn.bench.problem import NORMALISED, PLAIN, Competitor, Problem, Runs
from lnrnn.jax import apply


def competitors(cell: str) -> list[Competitor]:
    """What is measured from JAX without Keras."""
    found = [
        Competitor("lnrnn.jax", NORMALISED, _ours),
        Competitor("jax.lax.scan", NORMALISED, _scan),
    ]
    if cell == "lstm" and find_spec("flax"):
        found.append(Competitor("nnx.RNN(cell)", NORMALISED, _nnx_normalised))
        found.append(Competitor("nnx.RNN(nnx.OptimizedLSTMCell)", PLAIN, _nnx_stock))
    return found


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
    step = _STEPS[problem.cell]

    def call(w: Any, x: Any, training: bool) -> Any:
        start = tuple(jnp.zeros((batch, units)) for _ in variant.states)
        return jax.lax.scan(lambda state, x: step(w, variant.epsilon, state, x), start, x)[1]

    return _runs(problem, NORMALISED, call)


def _ours(problem: Problem) -> Runs:
    variant = problem.variants[NORMALISED]

    def call(w: Any, x: Any, training: bool) -> Any:
        return apply(w, x, variant=variant, time_major=True)[0]

    return _runs(problem, NORMALISED, call)


def _nnx_normalised(problem: Problem) -> Runs:
    """A cell as one writes it, in the loop of NNX."""
    from flax import nnx

    epsilon, (_, batch, units) = problem.variants[NORMALISED].epsilon, problem.point

    class Cell(nnx.Module):
        num_feature_axes = 1

        def __init__(self, weights: Any) -> None:
            self.weights = nnx.Dict({n: nnx.Param(w) for n, w in weights.items()})

        def initialize_carry(self, input_shape: Any, rngs: Any = None) -> Any:
            return jnp.zeros((batch, units)), jnp.zeros((batch, units))

        def __call__(self, carry: Any, inputs: Any) -> Any:
            weights = {n: w[...] for n, w in self.weights.items()}
            return _lstm(weights, epsilon, carry, inputs)

    def call(w: Any, x: Any, training: bool) -> Any:
        cell: Any = Cell(w)
        return nnx.RNN(cell, time_major=True)(x)

    return _runs(problem, NORMALISED, call)


def _nnx_stock(problem: Problem) -> Runs:
    from flax import nnx

    _, _, units = problem.point
    inputs = problem.x.shape[-1]

    def call(w: Any, x: Any, training: bool) -> Any:
        cell = nnx.OptimizedLSTMCell(inputs, units, rngs=nnx.Rngs(0))
        cell.dense_i.kernel = nnx.Param(w["kernel"])
        cell.dense_h.kernel = nnx.Param(w["recurrent_kernel"])
        cell.dense_h.bias = nnx.Param(w["bias"])
        return nnx.RNN(cell, time_major=True)(x)

    return _runs(problem, PLAIN, call)


def _runs(problem: Problem, kind: str, call: Callable[[Any, Any, bool], Any]) -> Runs:
    """The runs of a function of the weights of a kind, x and whether it is training."""
    weights = {n: jnp.asarray(a) for n, a in problem.params[kind].items()}
    names = sorted(weights)  # the order of the leaves of a dict
    forward, training = calls(call, weights, problem.x, problem.dy)

    def named() -> dict[str, np.ndarray]:
        of_x, *of_weights = map(np.asarray, training())
        gradients = dict(zip(names, of_weights, strict=True))
        return {"x": of_x, **{n: gradients[n] for n in ("kernel", "recurrent_kernel")}}

    return Runs({"forward": forward, "training": training}, lambda: np.asarray(forward()), named)
