"""What a run is: the settings of `lnrnn train`, and the error for bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BACKENDS = ("jax", "tensorflow", "torch")
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}  # of Keras, by --dtype
CELLS = {"lstm": "LSTM", "gru": "GRU", "simple": "SimpleRNN"}  # to the class of the layer


class UserError(Exception):
    """Input that cannot be used; its message is one sentence for the person who gave it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run, kept in its checkpoint.

    Args:
        text: path of a UTF-8 text; None for the text that comes with Python packages.
        data: paths of UTF-8 texts or of directories of them, read as one text that need not
            fit into memory; None for `text`.
        cell: `"lstm"`, `"gru"` or `"simple"`.
        variant: name of a dialect; None for the default of the layer.
        units: width of each recurrent layer.
        layers: number of recurrent layers.
        length: characters in a training window.
        batch: windows in a step, of all processes together.
        steps: steps of each model; None for no bound.
        seconds: training time of all models together; None for no bound.
        learning_rate: of Adam.
        dropout: fraction dropped after each recurrent layer.
        recurrent_dropout: fraction of the recurrent state dropped.
        zoneout: probability that a unit of h keeps its value, in the normalised layers.
        seed: of weights, data order and dropout.
        backend: Keras's backend.
        engine: of the normalised layers.
        dtype: of the products of the recurrent layers, a name of `POLICIES`; weights are float32.
        compare: whether the un-normalised layer is trained beside.
        every: steps from one validation to the next.
        shard: whether several processes divide the weights among them.
        weight_order: in which the normalised layers hold their weights; `"canonical"` in runs
            that lnrnn 0.1.0 began.
    """

    text: str | None = None
    data: Sequence[str] | None = None
    cell: str = "lstm"
    variant: str | None = None
    units: int = 128
    layers: int = 1
    length: int = 64
    batch: int = 32
    steps: int | None = None
    seconds: float | None = None
    learning_rate: float = 0.01
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    zoneout: float = 0.0
    seed: int = 0
    backend: str = ""
    engine: str = "auto"
    dtype: str = "float32"
    compare: bool = False
    every: int = 50
    shard: bool = False
    weight_order: str = "keras"

    def next_validation(self, step: int) -> int:
        """The step of the first validation after `step`."""
        goal = step - step % self.every + self.every
        return goal if self.steps is None else min(goal, self.steps)
