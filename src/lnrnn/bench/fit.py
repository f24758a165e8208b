"""A Keras model as users train and run it: compiled by Keras's default, in `fit` and `predict`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from lnrnn.bench import on_keras
from lnrnn.bench.on_keras import Built
from lnrnn.bench.problem import Competitor, Problem, Runs
from lnrnn.bench.settings import Settings

BATCHES = 16  # in a call of fit or predict
_LEARNING_RATE = 1e-3


def competitors(settings: Settings) -> list[Competitor]:
    """Models of one recurrent layer and a linear one, on whatever Keras's backend is."""
    return on_keras.competitors(settings, _model)


def _model(built: Built, problem: Problem) -> Runs:
    batch, units = problem.point.batch, problem.point.units
    # as Keras advises, the last layer is of float32 whatever the policy of the others
    last = keras.layers.Dense(1, dtype="float32")
    model: Any = keras.Sequential([keras.Input((None, units)), built.layer, last])
    last.set_weights([problem.dy[0, 0, :, None] / np.sqrt(units), np.zeros(1, np.float32)])
    optimizer = keras.optimizers.SGD(_LEARNING_RATE)
    model.compile(optimizer, "mse")  # pyright: ignore[reportArgumentType]
    x = np.ascontiguousarray(problem.x.swapaxes(0, 1))  # (B, T, I)
    target = np.ascontiguousarray(problem.dy[..., :1].swapaxes(0, 1))  # (B, T, 1)
    xs, targets = (np.concatenate([a] * BATCHES) for a in (x, target))

    def kernels() -> list[np.ndarray]:
        weights: Any = map(
            keras.ops.convert_to_numpy, (built.cell.kernel, built.cell.recurrent_kernel)
        )
        return [built.canonical(problem, w) for w in weights]

    def gradients() -> dict[str, np.ndarray]:
        """From what a step of rate 1 takes from the weights, of the sum over batch and time."""
        weights = model.get_weights()
        before = kernels()
        optimizer.learning_rate = 1.0
        model.train_on_batch(x, target)
        steps = [target.size * (b - a) for b, a in zip(before, kernels(), strict=True)]
        optimizer.learning_rate = _LEARNING_RATE
        model.set_weights(weights)
        return dict(zip(("kernel", "recurrent_kernel"), steps, strict=True))

    return Runs(
        {
            "predict_on_batch": lambda: model.predict_on_batch(x),
            "train_on_batch": lambda: model.train_on_batch(x, target),
            "predict": lambda: model.predict(xs, batch_size=batch, verbose=0),
            "fit": lambda: model.fit(xs, targets, batch_size=batch, verbose=0),
        },
        lambda: np.asarray(model.predict_on_batch(x)),
        gradients,
    )
