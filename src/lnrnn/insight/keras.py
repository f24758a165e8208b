"""Watching a Keras model while it trains."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from lnrnn.insight.diagnose import diagnose
from lnrnn.insight.trace import trace
from lnrnn.insight.watch import NotFiniteError, Record, Sink


class Watch(keras.callbacks.Callback):
    """Looks into the layers of a model every so many steps of `fit`.

    It runs the model on the same few sequences each time, in inference, and writes the
    [figures][lnrnn.insight.watch.figures] of each layer.  When the loss stops being finite, the
    weights of the last look are put back and the training ends with their diagnosis.

    Args:
        x: a few sequences, as the model takes them: four are enough.
        y: their targets; with them the diagnosis knows the derivatives of the model's loss.
        to: path of a CSV file, an object with `add_scalar(name, value, step)` such as
            TensorBoard's `SummaryWriter`, a function of (name, value, step), or None.
        every: steps from one look to the next.

    Raises:
        NotFiniteError: from `fit`, when the loss is NaN or infinite.
        ValueError: `every` is below 1, or `to` is nothing that takes figures.

    Example:
        >>> import lnrnn.keras
        >>> model = keras.Sequential([lnrnn.keras.LayerNormLSTM(8), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> x, y = np.random.standard_normal((16, 5, 3)), np.zeros((16, 1))
        >>> watch = Watch(x[:4], y[:4], to="watch.csv", every=2)
        >>> _ = model.fit(x, y, batch_size=4, verbose=0, callbacks=[watch])
        >>> sorted(watch.latest[model.layers[0].path])[:2]
        ['forget_time', 'gradient_per_step']
    """

    def __init__(self, x: Any, y: Any = None, *, to: Sink | None = None, every: int = 2000) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every is a number of steps, 1 or more; got {every}.")
        self.every = every
        self._x, self._y = x, y
        self._record = Record(to)
        self._step = self._in_epoch = 0
        self._weights: list[np.ndarray] = []
        self._looked = 0

    @property
    def latest(self) -> dict[str, dict[str, float]]:
        """The figures of the last look, by the path of the layer."""
        return self._record.latest

    def on_train_begin(self, logs: Any = None) -> None:
        """Look before the first step."""
        self._look()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Count from the first batch."""
        self._in_epoch = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Look, if it is time; end the training if its loss is not finite."""
        before = self._step
        self._step += batch + 1 - self._in_epoch
        self._in_epoch = batch + 1
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            self._end(loss)
        if self._step // self.every > before // self.every:
            self._look()

    def _look(self) -> None:
        model: Any = self.model
        found = trace(model, self._x, training=False)
        self._weights = [np.array(ops.convert_to_numpy(v)) for v in model.weights]
        self._looked = self._step
        self._record.take(found, self._step)

    def _end(self, loss: float) -> None:
        model: Any = self.model
        for variable, value in zip(model.weights, self._weights, strict=True):
            variable.assign(value)
        y = self._y

        def of(output: Any) -> Any:
            if y is None:
                return sum(ops.mean(ops.square(o)) for o in keras.tree.flatten(output))
            return model.compute_loss(x=self._x, y=y, y_pred=output, training=False)

        found = diagnose(model, self._x, loss=of, training=False)
        raise NotFiniteError(
            f"The loss is {loss} after step {self._step}; the model has again the weights of step "
            f"{self._looked}, of which the diagnosis is:",
            {model.name: found},
        )
