"""Keras: our layers, Keras's own and `RNN(cell)`; in compiled functions of the backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops as _ops

from lnrnn.bench.problem import (
    LIMIT,
    NORMALISED,
    PLAIN,
    Competitor,
    Problem,
    Runs,
    reordered,
)
from lnrnn.bench.settings import Settings
from lnrnn.keras import LayerNormGRU, LayerNormLSTM, LayerNormSimpleRNN

ops: Any = _ops
_LAYERS: dict[str, tuple[Any, Any]] = {
    "lstm": (LayerNormLSTM, keras.layers.LSTM),
    "gru": (LayerNormGRU, keras.layers.GRU),
    "simple": (LayerNormSimpleRNN, keras.layers.SimpleRNN),
}
# the gates in the order of Keras's columns, where it is not that of the canonical ones
_GATES = {"gru": "zrn"}


_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


class Built(NamedTuple):
    """A layer with the weights of a problem.

    Args:
        layer: returns sequences.
        cell: that of the layer.
        gates: the order of its columns; None for the canonical one.
    """

    layer: Any
    cell: Any
    gates: str | None = None

    def canonical(self, problem: Problem, weight: np.ndarray) -> np.ndarray:
        """The columns of a weight, or of its gradient, in canonical order."""
        gates = problem.variants[PLAIN].gates
        return reordered(weight, self.gates or gates, gates)


def competitors(settings: Settings, run: Callable[[Built, Problem], Runs]) -> list[Competitor]:
    """What is measured from Keras, on whatever its backend is.

    Args:
        settings: of the run.
        run: from a layer to its runs.
    """
    named = settings.dtype == "float32" and settings.task == "sequence"
    ours, stock = "lnrnn native" if named else "lnrnn", stock_name(settings.cell)
    engine = "native" if named else "auto"

    def row(
        name: str,
        kind: str,
        make: Callable[[Problem, str], Built],
        dtype: str = settings.dtype,
        base: bool = False,
    ) -> Competitor:
        return Competitor(name, kind, lambda p: run(make(p, dtype), p), dtype=dtype, base=base)

    def layer(kind: str, engine: str) -> Callable[[Problem, str], Built]:
        return lambda problem, dtype: _ours(problem, kind, engine, dtype)

    float32 = settings.dtype == "float32"
    peers = [row(stock, PLAIN, _stock, base=float32)]
    if float32:
        peers.append(row("keras.layers.RNN(cell)", NORMALISED, _obvious))
    if settings.framework == "torch" and settings.task == "sequence":  # beside those of on_torch
        beside = [row(f"{ours}, Keras", NORMALISED, layer(NORMALISED, engine)), *peers]
        return [replace(competitor, base=False) for competitor in beside]
    found = [
        row(ours, NORMALISED, layer(NORMALISED, engine)),
        row("lnrnn portable", NORMALISED, layer(NORMALISED, "portable"), base=float32),
        row("lnrnn un-normalised", PLAIN, layer(PLAIN, engine)),
        *peers,
    ]
    if not float32:
        found += [
            row(f"{ours}, float32", NORMALISED, layer(NORMALISED, "auto"), "float32", base=True),
            row(f"{stock}, float32", PLAIN, _stock, "float32", base=True),
        ]
    return found


def sequence(settings: Settings) -> list[Competitor]:
    """Layers in compiled functions of the backend, and the limit."""
    found = competitors(settings, _layer)
    if settings.framework == "torch":
        return found
    return [*found, Competitor("limit", LIMIT, lambda p: _limit(p, settings.dtype))]


def stock_name(cell: str) -> str:
    """The name of Keras's own layer."""
    return f"keras.layers.{_LAYERS[cell][1].__name__}"


def _ours(problem: Problem, kind: str, engine: str, dtype: str) -> Built:
    make = _LAYERS[problem.cell][0]
    layer = make(
        problem.point.units,
        variant=None if kind == NORMALISED else "none",
        engine=engine,
        return_sequences=True,
        dtype=_POLICIES[dtype],
    )
    layer.build((None, None, problem.point.units))
    layer.load_params(problem.params[kind])
    return Built(layer, layer.cell, _GATES.get(problem.cell))


def _stock(problem: Problem, dtype: str) -> Built:
    make = _LAYERS[problem.cell][1]
    layer = make(problem.point.units, return_sequences=True, dtype=_POLICIES[dtype])
    layer.build((None, None, problem.point.units))
    params, gates = problem.params[PLAIN], problem.variants[PLAIN].gates
    given = {n: reordered(a, gates, _GATES.get(problem.cell, gates)) for n, a in params.items()}
    bias = np.stack([given["bias_x"], given["bias_h"]]) if "bias_x" in given else given["bias"]
    layer.cell.kernel.assign(given["kernel"])
    layer.cell.recurrent_kernel.assign(given["recurrent_kernel"])
    layer.cell.bias.assign(bias)
    return Built(layer, layer.cell, _GATES.get(problem.cell))


class Cell(keras.layers.Layer):
    """A layer-normalised cell as one writes it with Keras's own layers.

    Args:
        kind: `"lstm"`, `"gru"` or `"simple"`.
        params: canonical weights.
        epsilon: of the norms.
    """

    def __init__(self, kind: str, params: dict[str, np.ndarray], epsilon: float) -> None:
        super().__init__()
        self.kind, self.params = kind, params
        self.units = params["recurrent_kernel"].shape[0]
        self.state_size = [self.units] * (2 if kind == "lstm" else 1)
        sites = {n.rpartition("_")[0] for n in params if n.endswith("_norm_gain")}
        self.norms: dict[str, Any] = {
            site: keras.layers.LayerNormalization(
                epsilon=epsilon, center=f"{site}_bias" in params, name=site
            )
            for site in sorted(sites)
        }

    def build(self, input_shape: Any) -> None:
        """Create the weights and set them."""
        made: dict[str, Any] = {
            name: self.add_weight(shape=value.shape, name=name)
            for name, value in self.params.items()
            if "_norm_" not in name
        }
        for name, weight in made.items():
            weight.assign(self.params[name])
        self.kernel, self.recurrent_kernel = made["kernel"], made["recurrent_kernel"]
        self.bias = made.get("bias", made.get("bias_x"))
        for site, norm in self.norms.items():
            gain = self.params[f"{site}_gain"]
            norm.build((None, gain.size))
            norm.gamma.assign(gain)
            if norm.beta is not None:
                norm.beta.assign(self.params[f"{site}_bias"])

    def call(self, inputs: Any, states: Any) -> tuple[Any, list[Any]]:
        """One step."""
        states = _STEPS[self.kind](self, ops.matmul(inputs, self.kernel), *states)
        return states[0], list(states)


def _split(z: Any, gates: int) -> Any:
    return ops.split(z, gates, axis=-1)


def _lstm(cell: Any, z: Any, h: Any, c: Any) -> tuple[Any, Any]:
    s = cell.norms["h_norm"](ops.matmul(h, cell.recurrent_kernel))
    z = cell.norms["x_norm"](z) + s + cell.bias
    i, f, g, o = _split(z, 4)
    c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(cell.norms["cell_norm"](c)), c


def _gru(cell: Any, z: Any, h: Any) -> tuple[Any]:
    s = cell.norms["h_norm"](ops.matmul(h, cell.recurrent_kernel))
    r_x, u_x, n_x = _split(cell.norms["x_norm"](z), 3)
    r_h, u_h, n_h = _split(s, 3)
    u = ops.sigmoid(u_x + u_h)
    n = ops.tanh(n_x + ops.sigmoid(r_x + r_h) * n_h)
    return (u * h + (1 - u) * n,)


def _simple(cell: Any, z: Any, h: Any) -> tuple[Any]:
    z = z + cell.bias + ops.matmul(h, cell.recurrent_kernel)
    return (ops.tanh(cell.norms["sum_norm"](z)),)


_STEPS: dict[str, Callable[..., tuple[Any, ...]]] = {"lstm": _lstm, "gru": _gru, "simple": _simple}


def _obvious(problem: Problem, dtype: str) -> Built:
    epsilon = problem.variants[NORMALISED].epsilon
    cell = Cell(problem.cell, problem.params[NORMALISED], epsilon)
    layer = keras.layers.RNN(cell, return_sequences=True)  # pyright: ignore[reportArgumentType]
    layer.build((None, None, problem.point.units))
    return Built(layer, cell)


def _layer(built: Built, problem: Problem) -> Runs:
    weights = built.layer.trainable_variables
    kernels_of_cell = (built.cell.kernel, built.cell.recurrent_kernel)
    places = [next(i for i, v in enumerate(weights) if v is w) for w in kernels_of_cell]

    def kernels(found: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        one, two = (built.canonical(problem, found[i]) for i in places)
        return one, two

    return {"torch": _on_torch, "jax": _on_jax, "tensorflow": _on_tensorflow}[
        keras.backend.backend()
    ](built.layer, problem, kernels)


_Kernels = Callable[[list[np.ndarray]], tuple[np.ndarray, np.ndarray]]


def _on_torch(layer: Any, problem: Problem, kernels: _Kernels) -> Runs:
    from lnrnn.bench import on_torch

    def named(found: list[np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(("kernel", "recurrent_kernel"), kernels(found), strict=True))

    weights = [v.value for v in layer.trainable_variables]
    return on_torch.runs(layer, weights, problem, named, batch_first=True)


def _on_jax(layer: Any, problem: Problem, kernels: _Kernels) -> Runs:
    from lnrnn.bench import on_jax

    variables = layer.trainable_variables
    weights = [v.value for v in variables]

    def call(weights: Any, x: Any, training: bool) -> Any:
        # the layer's own stateless_call leaves out what its dtype policy asks for
        with keras.StatelessScope(state_mapping=list(zip(variables, weights, strict=True))):
            return layer(x, training=training)

    x, dy = _batch_first(problem.x), _batch_first(problem.dy)
    return _runs(*on_jax.calls(call, weights, x, dy), kernels)


def _on_tensorflow(layer: Any, problem: Problem, kernels: _Kernels) -> Runs:
    import tensorflow as tf

    x, dy = tf.constant(_batch_first(problem.x)), tf.constant(_batch_first(problem.dy))
    weights = [v.value for v in layer.trainable_variables]
    forward = tf.function(lambda x: layer(x, training=False))

    @tf.function
    def training(x: Any, dy: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return tape.gradient(y, [x, *weights], output_gradients=tf.cast(dy, y.dtype))

    return _runs(lambda: forward(x), lambda: training(x, dy), kernels)


def _runs(forward: Callable[[], Any], training: Callable[[], Any], kernels: _Kernels) -> Runs:
    def named() -> dict[str, np.ndarray]:
        of_x, *of_weights = map(np.asarray, training())
        kernel, recurrent = kernels(of_weights)
        return {"x": _batch_first(of_x), "kernel": kernel, "recurrent_kernel": recurrent}

    return Runs(
        {"forward": forward, "training": training},
        lambda: _batch_first(np.asarray(forward())),
        named,
    )


def _batch_first(array: np.ndarray) -> np.ndarray:
    """(T, B, .) as (B, T, .), and back."""
    return np.ascontiguousarray(array.swapaxes(0, 1))


def _limit(problem: Problem, dtype: str) -> Runs:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape, np.float32) for shape in problem.product)
    module: Any = import_module(f"lnrnn.bench.on_{keras.backend.backend()}")
    product = module.product(a, b, dtype)

    def times(count: int) -> None:
        for _ in range(count):
            product()

    return Runs({"forward": lambda: times(2), "training": lambda: times(6)})
