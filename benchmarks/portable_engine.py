"""The portable engine against `keras.layers.RNN` over a cell written the obvious way.

Both compute the same layer-normalised LSTM (haste's equations) with the same weights on
the backend that KERAS_BACKEND names; outputs and gradients are compared before
anything is timed.  Runs are interleaved in one process, and the table shows minimum and
median over the repeats and the ratio of the minima.

    KERAS_BACKEND=jax python benchmarks/portable_engine.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import keras
import numpy as np
from keras import ops

from lnrnn.keras import LayerNormLSTM
from lnrnn.testing.tolerances import assert_close

EPSILON = 1e-5


class ObviousCell(keras.layers.Layer):
    """A layer-normalised LSTM cell as one writes it with Keras's own layers."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.units, self.state_size = units, [units, units]
        self.x_norm: Any = keras.layers.LayerNormalization(epsilon=EPSILON, center=False)
        self.h_norm: Any = keras.layers.LayerNormalization(epsilon=EPSILON, center=False)
        self.cell_norm: Any = keras.layers.LayerNormalization(epsilon=EPSILON)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        wide = 4 * self.units
        self.kernel = self.add_weight(shape=(input_shape[-1], wide), name="kernel")
        self.recurrent_kernel = self.add_weight(shape=(self.units, wide), name="recurrent")
        self.bias = self.add_weight(shape=(wide,), name="bias")
        for norm, width in ((self.x_norm, wide), (self.h_norm, wide), (self.cell_norm, self.units)):
            norm.build((None, width))

    def call(self, inputs: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        h, c = states
        z = self.x_norm(ops.matmul(inputs, self.kernel))
        z = z + self.h_norm(ops.matmul(h, self.recurrent_kernel)) + self.bias
        i, f, g, o = (z[:, k * self.units : (k + 1) * self.units] for k in range(4))
        i, f, o = (cast(Any, ops.sigmoid(gate)) for gate in (i, f, o))
        c = f * c + i * ops.tanh(g)
        h = o * ops.tanh(self.cell_norm(c))
        return h, [h, c]

    def load_params(self, params: dict[str, np.ndarray]) -> None:
        self.kernel.assign(params["kernel"])
        self.recurrent_kernel.assign(params["recurrent_kernel"])
        self.bias.assign(params["bias"])
        self.x_norm.gamma.assign(params["x_norm_gain"])
        self.h_norm.gamma.assign(params["h_norm_gain"])
        self.cell_norm.gamma.assign(params["cell_norm_gain"])
        self.cell_norm.beta.assign(params["cell_norm_bias"])


def forward(layer: Any) -> Callable[[Any], Any]:
    """A compiled forward pass that returns when the outputs are there."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        run = tf.function(layer)
        return lambda x: run(x).numpy()
    if backend == "jax":
        import jax

        weights = [v.value for v in layer.trainable_variables]
        rest = [v.value for v in layer.non_trainable_variables]
        run = jax.jit(lambda w, x: layer.stateless_call(w, rest, x)[0])
        return lambda x: run(weights, x).block_until_ready()
    import torch

    def forward(x: Any) -> Any:
        with torch.no_grad():
            return layer(x)

    return forward


def training(layer: Any) -> Callable[[Any], list[Any]]:
    """A compiled forward and backward pass: the gradient of the sum of squared outputs."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function
        def gradients(x: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(x) ** 2)
            return tape.gradient(loss, layer.trainable_variables)

        return lambda x: [g.numpy() for g in gradients(x)]
    if backend == "jax":
        import jax

        weights = [v.value for v in layer.trainable_variables]
        rest = [v.value for v in layer.non_trainable_variables]
        run = jax.jit(jax.grad(lambda w, x: (layer.stateless_call(w, rest, x)[0] ** 2).sum()))
        return lambda x: jax.block_until_ready(run(weights, x))

    def backward(x: Any) -> Any:
        layer.zero_grad()
        (layer(x) ** 2).sum().backward()
        return [v.value.grad for v in layer.trainable_variables]

    return backward


def measure(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each run, interleaved."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description="The portable engine against RNN(cell).")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", help="also write the figures to this file")
    arguments = parser.parse_args()
    rows = []
    print(f"Keras {keras.__version__} on {keras.backend.backend()}; milliseconds, min / median")
    print(f"{'T,B,H':>12} {'pass':>9} {'RNN(cell)':>17} {'portable':>17} {'ratio':>6}")
    for T, B, H in ((100, 32, 128), (100, 32, 256)):
        drawn = np.random.default_rng(0).normal(size=(B, T, H)).astype("float32")
        x: Any = ops.convert_to_tensor(drawn)
        ours = LayerNormLSTM(H, return_sequences=True, engine="portable")
        peer: Any = keras.layers.RNN(ObviousCell(H), return_sequences=True)
        for layer in (ours, peer):
            layer(x)
        peer.cell.load_params(ours.params())
        for name, compiled in (("forward", forward), ("training", training)):
            run_ours, run_peer = compiled(ours), compiled(peer)
            pairs = zip(_arrays(run_ours(x)), _matching(run_peer(x), peer, ours), strict=True)
            for mine, other in pairs:
                assert_close(name, mine, other, "float32", gradient=name == "training")
            times = measure(
                {"peer": partial(run_peer, x), "ours": partial(run_ours, x)},
                arguments.repeats,
            )
            low = {k: min(v) for k, v in times.items()}
            mid = {k: statistics.median(v) for k, v in times.items()}
            ratio = low["peer"] / low["ours"]
            print(
                f"{T},{B},{H}".rjust(12),
                f"{name:>9}",
                *(f"{low[k]:8.1f} /{mid[k]:7.1f}" for k in ("peer", "ours")),
                f"{ratio:6.2f}",
            )
            rows.append({"T": T, "B": B, "H": H, "pass": name, "min": low, "median": mid})
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"backend": keras.backend.backend(), "rows": rows}, file, indent=1)


def _arrays(values: Any) -> list[np.ndarray]:
    values = values if isinstance(values, list) else [values]
    return [np.asarray(ops.convert_to_numpy(v)) for v in values]


def _matching(values: Any, peer: Any, ours: Any) -> list[np.ndarray]:
    """The peer's arrays in the order of our weights; outputs are left as they are."""
    found = _arrays(values)
    if len(found) == 1:
        return found
    cell = peer.cell
    by_name = {
        "kernel": cell.kernel,
        "recurrent_kernel": cell.recurrent_kernel,
        "bias": cell.bias,
        "x_norm_gain": cell.x_norm.gamma,
        "h_norm_gain": cell.h_norm.gamma,
        "cell_norm_gain": cell.cell_norm.gamma,
        "cell_norm_bias": cell.cell_norm.beta,
    }
    position = {id(v): n for n, v in enumerate(peer.trainable_variables)}
    return [found[position[id(by_name[name])]] for name in ours.cell.weight_names]


if __name__ == "__main__":
    main()
