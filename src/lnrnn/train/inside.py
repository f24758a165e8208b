"""What happens inside the models of a run: figures while they train, pictures in the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lnrnn.insight.diagnose import Diagnosis, diagnose
from lnrnn.insight.plot import plot
from lnrnn.insight.trace import trace
from lnrnn.insight.watch import Record
from lnrnn.train.checkpoint import Progress

_MOST = 0.01  # of the time of training, that looks may take before the next one
_SEQUENCES = 4  # of a batch
_FOLDER = "inside"


class Looks:
    """Looks into the models of a run that have layers of this package.

    A look comes after a validation, unless those before have taken more than one per cent of
    the time of training.

    Args:
        folder: of the run.
        batch: windows (B, T) of characters, and those that follow; the first few are read.
        reach: by the name of a model, over how many steps its gradients reach; looks note it.
    """

    def __init__(self, folder: Path, batch: tuple[np.ndarray, ...], reach: dict[str, int]) -> None:
        self._folder = folder / _FOLDER
        self._x, self._y = (part[:_SEQUENCES] for part in batch[:2])
        self._seconds: dict[str, float] = {}
        self._reach = reach

    def look(self, name: str, model: Any, progress: Progress) -> None:
        """Write the figures of a model, if it is time, and note how far its gradients reach."""
        spent = self._seconds.get(name, 0.0)
        if not _has_layers(model) or spent > _MOST * progress.seconds:
            return
        start = time.perf_counter()
        found = trace(model, self._x[:1], training=False)
        record = Record(self._folder / f"{name}.csv")
        record.take(found, progress.step)
        # of the layer whose gradients reach least far
        self._reach[name] = int(min(f.get("reach", 0.0) for f in record.latest.values()))
        # the first look compiles, which is not counted as training either
        first = name not in self._seconds
        self._seconds[name] = 0.0 if first else spent + time.perf_counter() - start

    def diagnose(self, model: Any) -> Diagnosis | None:
        """What is wrong inside a model, or None where it has no layers to look into."""
        if not _has_layers(model):
            return None
        return diagnose(model, self._x, loss=self._loss, training=False)

    def draw(self, model: Any) -> tuple[Diagnosis, Mapping[Path, str]] | None:
        """Write the pictures of a model; its diagnosis, and what the files show, by path."""
        found = self.diagnose(model)
        if found is None:
            return None
        names = plot(found.trace, self._folder)
        figures = {self._folder / f"{model.name}.csv": "figures of its layers while it trained"}
        return found, figures | {self._folder / f"{n}.png": _PICTURES[n] for n in names}

    def _loss(self, logits: Any) -> Any:
        return keras.ops.mean(
            keras.losses.sparse_categorical_crossentropy(self._y, logits, from_logits=True)
        )


_PICTURES = {
    "gates": "gates and states of a held-out window",
    "norms": "the variance that each norm meets",
    "gradient": "how far gradients reach, with and without norms",
    "forget_times": "in how many steps each unit forgets",
}


def _has_layers(model: Any) -> bool:
    return model.name.startswith("LayerNorm")
