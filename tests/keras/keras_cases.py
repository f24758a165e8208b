"""The three layers as a table, and the helpers that most tests of the front end need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import ops, tree

from lnrnn.keras import (
    LayerNormGRU,
    LayerNormGRUCell,
    LayerNormLSTM,
    LayerNormLSTMCell,
    LayerNormSimpleRNN,
    LayerNormSimpleRNNCell,
)
from lnrnn.params import Sizes
from lnrnn.reference import forward
from lnrnn.testing import random_params

BACKEND = keras.backend.backend()
BATCH, STEPS, INPUTS, UNITS = 3, 5, 4, 6


@dataclass(frozen=True)
class Kind:
    """One of the three layers, its cell, the layer of Keras it replaces, and its states."""

    name: str
    layer: Any
    cell: Any
    stock: Any
    stock_cell: Any
    states: int
    dialect: str
    other_dialect: str


SIMPLE = Kind(
    "simple",
    LayerNormSimpleRNN,
    LayerNormSimpleRNNCell,
    keras.layers.SimpleRNN,
    keras.layers.SimpleRNNCell,
    1,
    "book_lnsimplernn",
    "tfa_lnsimplernn",
)
LSTM = Kind(
    "lstm",
    LayerNormLSTM,
    LayerNormLSTMCell,
    keras.layers.LSTM,
    keras.layers.LSTMCell,
    2,
    "haste_lnlstm",
    "tfa_lnlstm",
)
GRU = Kind(
    "gru",
    LayerNormGRU,
    LayerNormGRUCell,
    keras.layers.GRU,
    keras.layers.GRUCell,
    1,
    "haste_lngru",
    "dreamerv2_gru",
)
KINDS = {kind.name: kind for kind in (SIMPLE, LSTM, GRU)}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def draw(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    """Standard normal numbers."""
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(dtype)


def sequences(batch: int = BATCH, steps: int = STEPS, inputs: int = INPUTS) -> np.ndarray:
    """Random inputs (B, T, I)."""
    return draw(batch, steps, inputs, seed=1)


def initial_states(kind: Kind, batch: int = BATCH, units: int = UNITS) -> list[np.ndarray]:
    """Random states, [h] or [h, c], each (B, H)."""
    return [0.5 * draw(batch, units, seed=2 + i) for i in range(kind.states)]


def cell_of(layer: Any) -> Any:
    """The cell of a layer; a cell itself."""
    return layer.cell if isinstance(layer, keras.layers.RNN) else layer


def mixed(layer: Any, inputs: int = INPUTS, seed: int = 3) -> Any:
    """The layer (or cell), built, with random weights that have no symmetry."""
    cell = cell_of(layer)
    if not layer.built:
        layer.build((None, inputs) if layer is cell else (None, None, inputs))
    sizes = Sizes(inputs, cell.units, cell.output_size)
    rng = np.random.default_rng(seed)
    cell.load_params(random_params(cell.variant, sizes, rng, cell.learn_initial_state))
    return layer


def to_numpy(value: Any) -> Any:
    """Every tensor in a structure as a NumPy array."""
    return tree.map_structure(ops.convert_to_numpy, value)


class Results(NamedTuple):
    """Outputs (B, T, R) and final states."""

    y: np.ndarray
    states: list[np.ndarray]


def by_reference(layer: Any, x: np.ndarray, states: Any = (), **options: Any) -> Results:
    """What the NumPy reference makes of a layer's weights and batch-major inputs.

    Args:
        layer: a built layer or cell.
        x: (B, T, I).
        states: [h] or [h, c], or nothing for zeros.
        options: as [lnrnn.reference.forward][] names them, but `mask` (B, T).
    """
    cell = cell_of(layer)
    if "mask" in options:
        options["mask"] = options["mask"].T
    run = forward(cell.variant, cell.params(), x.transpose(1, 0, 2), *states, **options)
    found = [run.h] if run.c is None else [run.h, run.c]
    return Results(run.y.transpose(1, 0, 2), found)


def gradients(
    layer: Any, x: np.ndarray, loss: Callable[..., Any] | None = None, **call: Any
) -> dict[str, np.ndarray]:
    """Derivatives of a loss of a layer's outputs by its weights, and by `x`.

    Args:
        layer: a built layer.
        x: its input.
        loss: of the outputs, a scalar; the mean of squares by default.
        call: further arguments of the layer.

    Returns:
        A dict from the weights' names and `"x"` to arrays.
    """
    loss = loss or (lambda y: ops.mean(ops.square(ops.cast(y, "float32"))))
    weights = layer.trainable_variables
    names = [w.name for w in weights]
    if BACKEND == "jax":
        import jax

        fixed = [v.value for v in layer.non_trainable_variables]

        def objective(given: Any, x: Any) -> Any:
            y, _ = layer.stateless_call(given, fixed, x, **call)
            return loss(y)

        by_weight, by_x = jax.jit(jax.grad(objective, argnums=(0, 1)))(
            [w.value for w in weights], jax.numpy.asarray(x)
        )
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function
        def derive(x: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = loss(layer(x, **call))
            return tape.gradient(value, ([w.value for w in weights], x))

        by_weight, by_x = derive(tf.constant(x))
    else:
        import torch

        tensor = torch.tensor(x, requires_grad=True)
        value = loss(layer(tensor, **call))
        *by_weight, by_x = torch.autograd.grad(value, [*(w.value for w in weights), tensor])
    found = dict(zip(names, by_weight, strict=True)) | {"x": by_x}
    return {name: np.asarray(to_numpy(g)) for name, g in found.items()}


def in_fresh_process(code: str, *arguments: Any) -> str:
    """Run Python code that knows nothing of this process; its output, or an error."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout
