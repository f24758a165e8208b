"""The small models that `tests/peers/tfa_program.py` saves, computed with our reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lnrnn import reference
from lnrnn.convert import Checkpoint, Weights, read
from lnrnn.convert.containers import open_file
from lnrnn.convert.find import find

EPSILONS = (2e-3, 1e-3, 1e-3, 1e-4)  # of the four cells of the model
PATHS = ["layers.0.forward", "layers.1.forward", "layers.1.reverse", "layers.2.forward"]


def predictions(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(folder / "predictions.npz") as arrays:
        return arrays["x"], arrays["y"]


def run(weights: Weights, x: np.ndarray) -> np.ndarray:
    """Outputs (T, B, R) of a layer on x (T, B, I)."""
    params = {n: v.astype(np.float64) for n, v in weights.params.items()}
    return reference.forward(weights.variant, params, x).y


def predict(folder: Path, layers: Checkpoint, x: np.ndarray) -> np.ndarray:
    """The predictions (B, 2) of the whole model on x (B, T, 5)."""
    with np.load(folder / "weights.npz") as arrays:
        kernel, bias = arrays["out/kernel"], arrays["out/bias"]
    x = run(layers["layers.0.forward"], np.swapaxes(x, 0, 1).astype(np.float64))
    ahead = run(layers["layers.1.forward"], x)
    back = run(layers["layers.1.reverse"], x[::-1])[::-1]
    last = run(layers["layers.2.forward"], np.concatenate([ahead, back], -1))[-1]
    return last @ kernel.astype(np.float64) + bias


WRAPPED = ("wrapped.keras", "wrapped.h5")
WRAPPED_PATHS = [
    "layers.0.forward",
    "layers.1.forward",
    "layers.1.reverse",
    "layers.2.forward",
    "layers.2.reverse",
    "layers.3.reverse",
]


def wrapped(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and outputs of the model of wrapped cells."""
    with np.load(folder / "wrapped.npz") as arrays:
        return arrays["x"], arrays["y"]


def wrapped_outputs(layers: Checkpoint, x: np.ndarray) -> np.ndarray:
    """The outputs (B, 2) of the model of wrapped cells on x (B, N, T, 5)."""
    batch, times = x.shape[:2]
    inner = np.moveaxis(x.astype(np.float64).reshape(-1, *x.shape[2:]), 1, 0)
    hidden = run(layers["layers.0.forward"], inner)[-1].reshape(batch, times, -1)
    hidden = np.swapaxes(hidden, 0, 1)
    both = []
    for direction, step in (("forward", 1), ("reverse", -1)):
        one = hidden[::step]
        for place in (1, 2):
            one = run(layers[f"layers.{place}.{direction}"], one)
        both.append(one[::step])
    return run(layers["layers.3.reverse"], np.concatenate(both, -1)[::-1])[-1]


def with_epsilons(file: Path) -> Checkpoint:
    """The layers of a file that has no configuration, told apart by their sizes."""
    layers, _ = read(file)
    by_inputs: dict[int, list[Weights]] = {}
    for weights in layers.values():
        by_inputs.setdefault(weights.sizes.inputs, []).append(weights)
    ordered = [*by_inputs[5], *by_inputs[7], *by_inputs[8]]
    chosen = {}
    for path, weights, epsilon in zip(PATHS, ordered, EPSILONS, strict=True):
        assert weights.origin is not None
        one, _ = read(file, select=weights.origin.scope, settings={"epsilon": epsilon})
        chosen[path] = one.single
    return Checkpoint(chosen)


def keras_predictions(model: Any, x: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict(x, verbose=0))


# the cells of the model of relatives, with their inputs
RELATIVES = (
    ("kerasln_lstm1_hard_sigmoid", 5),
    ("kerasln_lstm3_sigmoid", 7),
    ("kerasln_simplernn", 6),
    ("book_lnsimplernn", 4),
)
RELATIVE_FILES = (
    "relatives.keras",
    "relatives.weights.h5",
    "relatives_legacy.h5",
    "relatives.ckpt",
)


def relatives_outputs(folder: Path, name: str) -> np.ndarray:
    """The outputs (B, T, 3) of the model of relatives with the weights of a file."""
    x = np.swapaxes(predictions(folder)[0], 0, 1).astype(np.float64)
    for dialect, inputs in RELATIVES:
        # of a .keras file the activation comes from its configuration
        wanted = dialect.replace("hard_", "") if name.endswith(".keras") else dialect
        (scope,) = (
            found.scope
            for found in find(open_file(folder / name))
            for fit in found.fits
            if fit.name == wanted and fit.sizes.inputs == inputs
        )
        x = run(read(folder / name, wanted, scope)[0].single, x)
    return np.swapaxes(x, 0, 1)
