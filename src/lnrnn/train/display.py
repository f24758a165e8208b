"""What a run shows while it trains: a live table, or lines where there is no terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from lnrnn.train.checkpoint import Progress
from lnrnn.train.settings import Settings
from lnrnn.train.world import World

_HEADINGS = ("step", "loss", "BPC", "held-out BPC", "characters/s", "reach")


class Display:
    """Shows the progress of each model on standard output.

    Args:
        settings: of the run.
        progress: of each model, by name; read, never changed.
        world: the processes; the first alone shows anything.
        reach: over how many steps gradients reach, by the name of a model that was looked at.

    Example:
        >>> with Display(settings, progress, world, {}) as display:
        ...     display.validation("LSTM")  # a line, where there is no terminal
    """

    def __init__(
        self,
        settings: Settings,
        progress: dict[str, Progress],
        world: World,
        reach: Mapping[str, int],
    ) -> None:
        self._settings = settings
        self._progress = progress
        self._world = world
        self._reach = reach
        self._start = time.perf_counter()
        self._before = self._seconds()
        console = Console()
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=8)
        self._terminal = world.first and console.is_terminal

    def __enter__(self) -> Display:
        if self._terminal:
            self._live.start()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._terminal:
            self._live.stop()

    def validation(self, name: str) -> None:
        """A model has been validated."""
        if self._world.first and not self._terminal:
            pairs = zip(_HEADINGS, self._figures(name), strict=True)
            figures = "  ".join(f"{heading} {figure}" for heading, figure in pairs)
            print(f"{name}  {figures}  {self._time_left()}", flush=True)

    def _table(self) -> Table:
        table = Table(box=None, caption=f"{self._time_left()}; Ctrl-C stops and saves")
        table.add_column("model", style="bold")
        table.add_column("", width=24)
        for heading in _HEADINGS:
            table.add_column(heading, justify="right", min_width=9)
        for name, progress in self._progress.items():
            bar = ProgressBar(total=1.0, completed=self._fraction(progress))
            table.add_row(name, bar, *self._figures(name))
        return table

    def _figures(self, name: str) -> tuple[str, ...]:
        """The figures of a model, as strings under `_HEADINGS`."""
        progress = self._progress[name]
        if not progress.step:
            return ("compiling", *["-"] * (len(_HEADINGS) - 1))
        steps = progress.step - progress.last_validation
        row = progress.rows[-1] if progress.rows else None
        bpc = progress.loss / steps / math.log(2) if steps or not row else row.training_bpc
        of = f"/{self._settings.steps:,}" if self._settings.steps else ""
        characters = progress.step * self._settings.batch * self._settings.length
        return (
            f"{progress.step:,}{of}",
            f"{bpc * math.log(2):.3f}",
            f"{bpc:.3f}",
            f"{row.validation_bpc:.3f}" if row else "-",
            f"{characters / progress.seconds:,.0f}",
            f"{self._reach[name]} steps" if name in self._reach else "-",
        )

    def _fraction(self, progress: Progress) -> float:
        steps, seconds = self._settings.steps, self._settings.seconds
        return max(
            progress.step / steps if steps else 0, self._seconds() / seconds if seconds else 0
        )

    def _time_left(self) -> str:
        """Time to the first of the bounds, at the pace so far, validation included."""
        models = self._progress.values()
        trained = self._seconds() - self._before
        if not trained or not all(p.step for p in models):
            return "time left unknown"
        bounds = []
        if self._settings.steps is not None:
            steps = self._settings.steps
            bounds.append(sum((steps - p.step) * p.seconds / p.step for p in models))
        if self._settings.seconds is not None:
            bounds.append(self._settings.seconds - self._seconds())
        pace = (time.perf_counter() - self._start) / trained
        left = math.ceil(max(0.0, min(bounds)) * pace)
        devices = f" on {self._world.devices} devices" if self._world.devices > 1 else ""
        return f"{left // 60}:{left % 60:02} left{devices}"

    def _seconds(self) -> float:
        return sum(p.seconds for p in self._progress.values())
