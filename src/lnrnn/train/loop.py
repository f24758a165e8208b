"""The training loop: models side by side, in turns of a few steps."""

from __future__ import annotations

import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np

from lnrnn.train import checkpoint
from lnrnn.train.checkpoint import Checkpoint, Progress, Row
from lnrnn.train.corpus import Corpus
from lnrnn.train.display import Display
from lnrnn.train.model import build, set_state, state_of
from lnrnn.train.report import write_metrics
from lnrnn.train.settings import Settings


@dataclass
class Run:
    """A run under way.

    Args:
        folder: where it is kept.
        settings: of the run.
        corpus: the text.
        models: by name.
        progress: of each model, by name.
    """

    folder: Path
    settings: Settings
    corpus: Corpus
    models: dict[str, Any]
    progress: dict[str, Progress]

    @property
    def seconds(self) -> float:
        """Training time of all models."""
        return sum(p.seconds for p in self.progress.values())

    @property
    def finished(self) -> bool:
        """Whether all models have taken the same steps, and the steps or time asked for."""
        taken = {(p.step, p.last_validation) for p in self.progress.values()}
        step, validation = min(taken)
        if len(taken) > 1 or step != validation:
            return False
        steps, seconds = self.settings.steps, self.settings.seconds
        return (steps is not None and step >= steps) or (
            seconds is not None and self.seconds >= seconds
        )

    def save(self) -> None:
        """Write the checkpoint, and the metrics beside it."""
        arrays = {name: state_of(model) for name, model in self.models.items()}
        checkpoint.write(
            self.folder,
            Checkpoint(
                settings=self.settings,
                text=self.corpus.name,
                digest=self.corpus.digest,
                vocabulary=self.corpus.vocabulary,
                progress=self.progress,
                arrays=arrays,
            ),
        )
        write_metrics(self.folder / "metrics.csv", self.progress)


class Interruption:
    """Within the block, the first Ctrl-C (or SIGTERM) is noted; a second one strikes.

    Example:
        >>> with Interruption() as interruption:
        ...     while not interruption:
        ...         step()
    """

    signal: int = 0

    def __bool__(self) -> bool:
        return self.signal != 0

    def __enter__(self) -> Interruption:
        signals = (signal.SIGINT, signal.SIGTERM)
        self._handlers = {number: signal.signal(number, self._note) for number in signals}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def begin(folder: Path, settings: Settings, corpus: Corpus, names: list[str]) -> Run:
    """A new run of the models with these recurrent layers."""
    models = {name: build(name, settings, len(corpus.vocabulary)) for name in names}
    return Run(folder, settings, corpus, models, {name: Progress() for name in names})


def resume(folder: Path, saved: Checkpoint, settings: Settings, corpus: Corpus) -> Run:
    """The run that a checkpoint holds, with the settings given."""
    run = begin(folder, settings, corpus, list(saved.progress))
    for name, model in run.models.items():
        set_state(model, saved.arrays[name])
    run.progress = saved.progress
    return run


def train(run: Run, interruption: Interruption, display: Display) -> None:
    """Train until the run is finished or interrupted; the checkpoint is then up to date.

    In each round every model goes to the next validation, so that all take equal steps
    and share whatever else the machine does.  Compilation comes before the clock.

    Args:
        run: changed in place.
        interruption: when true, the step in hand is the last.
        display: is shown each step and each validation.
    """
    settings, corpus = run.settings, run.corpus
    held_out = corpus.validation(settings)
    run.save()
    for model in run.models.values():
        if interruption:
            return
        _compile(model, corpus.batch(0, settings), held_out)

    while not (run.finished or interruption):
        goal = settings.next_validation(min(p.step for p in run.progress.values()))
        for name, model in run.models.items():
            progress = run.progress[name]
            while progress.step < goal and not interruption:
                start = time.perf_counter()
                progress.loss += _step(model, corpus.batch(progress.step, settings))
                progress.seconds += time.perf_counter() - start
                progress.step += 1
            if progress.step == goal and progress.last_validation < goal:
                _validate(model, progress, held_out, settings.batch)
                display.validation(name)
        run.save()


def _step(model: Any, batch: tuple[np.ndarray, np.ndarray]) -> float:
    model.reset_metrics()
    return float(model.train_on_batch(*batch, return_dict=True)["loss"])


def _validate(
    model: Any, progress: Progress, held_out: tuple[np.ndarray, np.ndarray], batch: int
) -> None:
    # Keras's own layers draw masks in inference too: a validation more would change the run
    seeds = [(v, np.array(v.numpy())) for v in model.non_trainable_variables]
    validation = model.evaluate(*held_out, batch_size=batch, verbose=0)
    for variable, before in seeds:
        variable.assign(before)
    steps = progress.step - progress.last_validation
    progress.rows.append(
        Row(
            step=progress.step,
            training_bpc=progress.loss / steps / math.log(2),
            validation_bpc=validation / math.log(2),
            seconds=progress.seconds,
        )
    )
    progress.loss = 0.0


def _compile(
    model: Any,
    batch: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
) -> None:
    """Take a step and a validation, and undo them."""
    state = state_of(model)
    _step(model, batch)
    _validate(model, Progress(step=1), held_out, len(batch[0]))
    set_state(model, state)
