"""The training loop: models side by side, in turns of a few steps."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np

from lnrnn.train import checkpoint
from lnrnn.train.checkpoint import Checkpoint, Progress, Row
from lnrnn.train.corpus import Windows
from lnrnn.train.display import Display
from lnrnn.train.inside import Looks
from lnrnn.train.model import build, set_state, state_of, undone
from lnrnn.train.report import write_metrics
from lnrnn.train.settings import Settings, UserError
from lnrnn.train.world import World


@dataclass
class Run:
    """A run under way.

    Args:
        folder: where it is kept.
        settings: of the run.
        corpus: the text.
        world: the processes that train together.
        models: by name.
        progress: of each model, by name.
        reach: over how many steps the gradients of a model reach, by name, once it was looked at.
    """

    folder: Path
    settings: Settings
    corpus: Windows
    world: World
    models: dict[str, Any]
    progress: dict[str, Progress]
    reach: dict[str, int] = field(default_factory=dict)

    @property
    def looks(self) -> Looks:
        """What looks into the models."""
        return Looks(self.folder, self.corpus.validation(self.settings), self.reach)

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
        """Write the checkpoint, and the metrics beside it, in the first process."""
        arrays = {name: state_of(model, self.world) for name, model in self.models.items()}
        if not self.world.first:
            return
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

    def __exit__(self, *raised: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def begin(
    folder: Path, settings: Settings, corpus: Windows, names: Iterable[str], world: World
) -> Run:
    """A new run of the models with these recurrent layers."""
    models = {name: build(name, settings, len(corpus.vocabulary)) for name in names}
    for model in models.values():
        world.spread(model)
        world.differ(model)
    return Run(folder, settings, corpus, world, models, {name: Progress() for name in names})


def resume(
    folder: Path, saved: Checkpoint, settings: Settings, corpus: Windows, world: World
) -> Run:
    """The run that a checkpoint holds, with the settings given."""
    run = begin(folder, settings, corpus, list(saved.progress), world)
    for name, model in run.models.items():
        set_state(model, saved.arrays[name], world)
        world.differ(model)
    run.progress = saved.progress
    return run


def leave(run: Run) -> None:
    """Let the models of the first process compute in it alone."""
    states = {name: state_of(model, run.world) for name, model in run.models.items()}
    run.world.leave()
    if not run.world.first:
        return
    for name, state in states.items():
        run.models[name] = build(name, run.settings, len(run.corpus.vocabulary))
        set_state(run.models[name], state, World())


def train(run: Run, interruption: Interruption, display: Display) -> None:
    """Train until the run is finished or interrupted; the checkpoint is then up to date.

    In each round every model goes to the next validation, so that all take equal steps
    and share whatever else the machine does.  Compilation comes before the clock.

    Args:
        run: changed in place.
        interruption: when true in any process, the step in hand is the last of all.
        display: is shown each step and each validation.

    Raises:
        UserError: a loss is not finite; the message has the diagnosis of the last checkpoint.
    """
    settings, corpus, world = run.settings, run.corpus, run.world
    looks = run.looks if world.devices == 1 else None
    held_out = world.part(*corpus.validation(settings))
    run.save()
    for model in run.models.values():
        if _stops(world, interruption):
            return
        _compile(world, model, corpus.batch(0, settings), held_out)

    stopped = _stops(world, interruption)
    while not (run.finished or stopped):
        goal = settings.next_validation(min(p.step for p in run.progress.values()))
        for name, model in run.models.items():
            progress = run.progress[name]
            while progress.step < goal and not stopped:
                start = time.perf_counter()
                loss = _step(model, world.part(*corpus.batch(progress.step, settings)))
                # all processes count the same, and stop after the same step
                rows = world.gather(loss, time.perf_counter() - start, interruption.signal)
                progress.loss += float(rows[:, 0].mean())
                progress.seconds += float(rows[0, 1])
                interruption.signal = stopped = int(rows[:, 2].max())
                progress.step += 1
                if not math.isfinite(progress.loss):
                    _end(run, name)
            if progress.step == goal and progress.last_validation < goal:
                _validate(world, model, progress, held_out, settings.batch)
                if looks is not None:
                    looks.look(name, model, progress)
                display.validation(name)
        run.save()


def _end(run: Run, name: str) -> NoReturn:
    """Raise with what is wrong in the last checkpoint of a model."""
    model, saved = run.models[name], checkpoint.read(run.folder)
    set_state(model, saved.arrays[name], run.world)
    found = run.looks.diagnose(model) if run.world.devices == 1 else None
    raise UserError(
        f"The loss of {name} is no number after step {run.progress[name].step}; the checkpoint, of "
        f"step {saved.progress[name].step}, is whole."
        + (f" Its diagnosis:\n{found}" if found else "")
    )


def _stops(world: World, interruption: Interruption) -> bool:
    """Whether any process is interrupted."""
    interruption.signal = int(world.gather(interruption.signal).max())
    return bool(interruption)


def _step(model: Any, batch: tuple[np.ndarray, ...]) -> float:
    model.reset_metrics()
    return float(model.train_on_batch(*batch, return_dict=True)["loss"])


def _validate(
    world: World, model: Any, progress: Progress, held_out: tuple[np.ndarray, ...], batch: int
) -> None:
    # Keras's own layers draw masks in inference too: a validation more would change the run
    seeds = [(v, np.array(v.numpy())) for v in model.non_trainable_variables]
    own = model.evaluate(*held_out, batch_size=batch // world.processes, verbose=0)
    validation = float(world.gather(own).mean())
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
    world: World,
    model: Any,
    batch: tuple[np.ndarray, ...],
    held_out: tuple[np.ndarray, ...],
) -> None:
    """Take a step and a validation, and undo them."""
    with undone(model):
        _step(model, world.part(*batch))
        _validate(world, model, Progress(step=1), held_out, len(batch[0]))
