"""The state of a run in one file, so that it is never half old and half new."""

from __future__ import annotations

import dataclasses
import json
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lnrnn import __version__
from lnrnn.files import replacing
from lnrnn.train.settings import Settings, UserError

FILE = "checkpoint.npz"
_FORMAT = 2


class Row(NamedTuple):
    """One validation: bits per character on the windows since the last one, and held out."""

    step: int
    training_bpc: float
    validation_bpc: float
    seconds: float


@dataclass
class Progress:
    """How far the training of one model has come.

    Args:
        step: steps taken.
        seconds: time they took, without compilation and validation.
        loss: sum of the losses since the last validation, in nats.
        rows: the validations.
    """

    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    rows: list[Row] = field(default_factory=list)

    @property
    def last_validation(self) -> int:
        """The step of the last validation, 0 before the first."""
        return self.rows[-1].step if self.rows else 0


@dataclass
class Checkpoint:
    """All that a run needs to go on, or to generate text.

    Args:
        settings: of the run.
        text: name of the text.
        digest: SHA-256 of the text.
        vocabulary: the characters.
        progress: of each model, by name.
        arrays: of each model, by name: weights, seeds and optimizer.
    """

    settings: Settings
    text: str
    digest: str
    vocabulary: str
    progress: dict[str, Progress]
    arrays: dict[str, list[np.ndarray]]


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint into the folder of a run, in place of the last one."""
    arrays = {
        f"{name}/{place}": array
        for name, model in checkpoint.arrays.items()
        for place, array in enumerate(model)
    }
    fields = {
        f.name: getattr(checkpoint, f.name)
        for f in dataclasses.fields(checkpoint)
        if f.name != "arrays"
    }
    state = json.dumps({"format": _FORMAT, **fields}, default=dataclasses.asdict)
    arrays["state"] = np.array(state)
    with replacing(folder / FILE) as file:
        np.savez(file, allow_pickle=False, **arrays)


def read(folder: Path) -> Checkpoint:
    """Read the checkpoint of a run.

    Raises:
        UserError: the folder is not that of a run, or the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{folder} is not a run of lnrnn train: it has no {FILE}.")
    try:
        with np.load(path) as arrays:
            return _checkpoint(json.loads(str(arrays["state"])), arrays)
    except (
        AttributeError, EOFError, KeyError, OSError, TypeError, ValueError,
        zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise UserError(
            f"{path} is damaged or no checkpoint of lnrnn ({error}): restore it, or train anew."
        ) from error


def _checkpoint(state: dict[str, Any], arrays: Any) -> Checkpoint:
    form = state.pop("format")
    if form not in range(1, _FORMAT + 1):
        raise UserError(
            f"lnrnn {__version__} reads runs of the formats 1 to {_FORMAT}; got one of the format "
            f"{form}: use the lnrnn that its run.json names, or a newer one."
        )
    fields = state.pop("settings")
    if form == 1:  # of lnrnn 0.1.0
        fields["weight_order"] = "canonical"
    settings = Settings(**fields)
    progress = {name: Progress(**p) for name, p in state.pop("progress").items()}
    for model in progress.values():
        model.rows = [Row(*row) for row in model.rows]
    counts = {name: sum(k.startswith(f"{name}/") for k in arrays.files) for name in progress}
    models = {name: [arrays[f"{name}/{i}"] for i in range(n)] for name, n in counts.items()}
    return Checkpoint(settings=settings, progress=progress, arrays=models, **state)
