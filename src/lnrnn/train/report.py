"""What a run leaves behind: table, plot, summary, models, sample."""

from __future__ import annotations

import csv
import dataclasses
import json
import platform
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from lnrnn import __version__
from lnrnn.console import columns
from lnrnn.files import replacing
from lnrnn.train.checkpoint import Progress, Row
from lnrnn.train.settings import Settings

_COLOURS = ("#0072b2", "#d55e00")  # told apart by the colour-blind as well


class Result(NamedTuple):
    """What the training of one model came to."""

    parameters: int
    steps: int
    validation_bpc: float | None
    seconds: float
    characters_per_second: float | None

    @classmethod
    def of(cls, progress: Progress, settings: Settings, parameters: int) -> Result:
        """The result of a model with so many parameters."""
        characters = progress.step * settings.batch * settings.length
        return cls(
            parameters,
            progress.step,
            progress.rows[-1].validation_bpc if progress.rows else None,
            progress.seconds,
            characters / progress.seconds if progress.step else None,
        )


def table(results: Mapping[str, Result]) -> str:
    """The results as text, a line for each model."""
    heading = ("model", "parameters", "steps", "BPC", "seconds", "characters/s")
    formats = ("{:,}", "{:,}", "{:.3f}", "{:.1f}", "{:,.0f}")
    rows = [
        [name, *("-" if v is None else f.format(v) for f, v in zip(formats, result, strict=True))]
        for name, result in results.items()
    ]
    return columns(heading, rows)


def comparison(progress: Mapping[str, Progress]) -> str:
    """How soon the first model was as good as the second became."""
    (first, ahead), (second, behind) = progress.items()
    best = min(row.validation_bpc for row in behind.rows)
    reached = next((row.step for row in ahead.rows if row.validation_bpc <= best), None)
    if reached is None:
        return f"{first} has not reached the {best:.3f} of {second}."
    return f"{first} reached the {best:.3f} of {second} after {reached:,} of {behind.step:,} steps."


def write_metrics(file: Path, progress: Mapping[str, Progress]) -> None:
    """Write all validations as CSV, one a line; numbers in full precision."""
    with replacing(file) as path, path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("model", *Row._fields))
        writer.writerows((name, *row) for name, p in progress.items() for row in p.rows)


def write_summary(file: Path, settings: Settings, facts: Mapping[str, object]) -> None:
    """Write settings, versions and results as JSON."""
    modules = map(import_module, ("keras", settings.backend, "numpy"))
    versions = {module.__name__: module.__version__ for module in modules}
    summary = {
        **facts,
        "settings": dataclasses.asdict(settings),
        "versions": {"lnrnn": __version__, "python": platform.python_version(), **versions},
        "platform": platform.platform(),
    }
    with replacing(file) as path:
        path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def plot(file: Path, progress: Mapping[str, Progress], title: str) -> None:
    """Draw bits per character on the held-out text against steps and against seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=11)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, field, label in (
        (left, "step", "steps"),
        (right, "seconds", "seconds of training"),
    ):
        for colour, (name, model) in zip(_COLOURS, progress.items(), strict=False):
            x = [getattr(row, field) for row in model.rows]
            y = [row.validation_bpc for row in model.rows]
            axes.plot(x, y, color=colour, marker="o", markersize=3, label=name)
            axes.annotate(
                f"{y[-1]:.2f}", (x[-1], y[-1]), (6, 0), textcoords="offset points", va="center",
                color=colour,
            )  # fmt: skip
        axes.set_xlabel(label)
        axes.margins(x=0.08)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("bits per character, held-out text")
    left.legend(frameon=False)
    with replacing(file) as path:
        figure.savefig(path)
