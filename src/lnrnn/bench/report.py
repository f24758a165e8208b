"""What a measurement leaves behind: tables on the terminal, CSV, JSON and a plot."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from lnrnn import __version__
from lnrnn.bench.measure import Times
from lnrnn.bench.problem import LIMIT, NORMALISED, OURS
from lnrnn.bench.settings import OVERHEAD, Point, Settings
from lnrnn.train.files import replacing

PASSES = {"forward": "forward", "training": "forward and backward"}
_WIDTH = 128
_COLOURS = (
    "#000000", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#888888",
    "#7f3c8d", "#a5aa99",
)  # fmt: skip


class Row(NamedTuple):
    """Figures of one competitor in one pass at one point.

    Args:
        framework: that it runs on.
        cell: `"lstm"`, `"gru"` or `"simple"`.
        steps: T.
        batch: B.
        units: H and I.
        direction: `"forward"` or `"training"`, which is forward and backward.
        competitor: its name.
        kind: normalised, un-normalised, or the limit.
        timings: how many.
        minimum_ms: the smallest.
        median_ms: the median.
        peak_MiB: memory beyond weights and inputs; None where it was not measured.
        ratio_to_ours: the minimum over that of the native engine.
        ratio_to_limit: the minimum over that of the products.
    """

    framework: str
    cell: str
    steps: int
    batch: int
    units: int
    direction: str
    competitor: str
    kind: str
    timings: int
    minimum_ms: float
    median_ms: float
    peak_MiB: float | None
    ratio_to_ours: float = math.nan
    ratio_to_limit: float = math.nan

    @property
    def point(self) -> Point:
        """T, B, H."""
        return Point(self.steps, self.batch, self.units)

    @classmethod
    def of(
        cls,
        settings: Settings,
        point: Point,
        direction: str,
        name: str,
        kind: str,
        times: Times,
        peak: int | None,
    ) -> Row:
        """The row of some times, without ratios."""
        return cls(
            settings.framework,
            settings.cell,
            *point,
            direction,
            name,
            kind,
            len(times.seconds),
            1e3 * min(times.seconds),
            1e3 * statistics.median(times.seconds),
            None if peak is None else peak / 2**20,
        )


class Measurement(NamedTuple):
    """All figures of one framework, and what they were taken with."""

    settings: Settings
    versions: dict[str, str]
    instruction_set: str
    rows: list[Row]


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """The rows of one point with their ratios to ours and to the limit."""
    found = []
    for row in rows:
        same = {r.competitor: r.minimum_ms for r in rows if r.direction == row.direction}
        found.append(
            row._replace(
                ratio_to_ours=row.minimum_ms / same[OURS],
                ratio_to_limit=row.minimum_ms / same["limit"],
            )
        )
    return found


def heading(settings: Settings) -> str:
    """A sentence on what is measured."""
    return (
        f"lnrnn {__version__}, {settings.cell} on {settings.framework}, float32, "
        f"{settings.threads} thread(s), {settings.repeats} interleaved timings; "
        "each competitor has agreed with its base before it is timed."
    )


def show(settings: Settings, point: Point, rows: Sequence[Row]) -> None:
    """Print the table of a point."""
    unit, scale = ("µs", 1e3) if point == OVERHEAD else ("ms", 1.0)
    table = Table(box=None, title=f"T,B,H = {point}", title_justify="left", pad_edge=False)
    table.add_column("")
    for text in PASSES.values():
        head = "forward" if text == "forward" else "+ backward"
        for column in (f"{head}\nmin {unit}", "\nmedian", "\n/ ours", "\n/ limit", "\nMiB"):
            table.add_column(column, justify="right")
    for name in dict.fromkeys(r.competitor for r in rows):
        cells: list[str] = []
        for direction in PASSES:
            row = next(r for r in rows if (r.competitor, r.direction) == (name, direction))
            cells += [
                f"{scale * row.minimum_ms:.3g}"
                if row.minimum_ms < 100
                else f"{row.minimum_ms:.0f}",
                f"{scale * row.median_ms:.3g}" if row.median_ms < 100 else f"{row.median_ms:.0f}",
                f"{row.ratio_to_ours:.2f}",
                f"{row.ratio_to_limit:.2f}",
                "-" if row.peak_MiB is None else f"{row.peak_MiB:.1f}",
            ]
        table.add_row(name, *cells, style="bold" if name == OURS else "")
    _print(table)


def show_summary(rows: Sequence[Row]) -> None:
    """Print, for each competitor, the geometric mean and the least of its ratios to ours."""
    table = Table(box=None, title="Time over ours", title_justify="left", pad_edge=False)
    table.add_column("")
    for text in PASSES.values():
        table.add_column(f"{text}\nmean", justify="right")
        table.add_column("\nleast", justify="right")
    of_grid = [r for r in rows if r.point != OVERHEAD]
    for name in dict.fromkeys(r.competitor for r in of_grid):
        cells: list[str] = []
        for direction in PASSES:
            ratios = [
                r.ratio_to_ours for r in of_grid if (r.competitor, r.direction) == (name, direction)
            ]
            cells += [f"{statistics.geometric_mean(ratios):.2f}", f"{min(ratios):.2f}"]
        table.add_row(name, *cells)
    if of_grid:
        _print(table)


def _print(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print()
    console.print(table)


def write(folder: Path, results: Sequence[Measurement]) -> None:
    """Write `bench.csv`, `bench.json` and `bench.png`; each whole or not at all."""
    rows = [row for result in results for row in result.rows]
    with replacing(folder / "bench.csv") as path, path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(rows)
    document = {
        "lnrnn": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "processors": os.cpu_count(),
        "results": [
            {
                "settings": asdict(result.settings),
                "versions": result.versions,
                "instruction_set": result.instruction_set,
                "rows": [row._asdict() for row in result.rows],
            }
            for result in results
        ],
    }
    with replacing(folder / "bench.json") as path:
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    plot(folder / "bench.png", results)


def read(folder: Path) -> list[Measurement]:
    """What `write` wrote."""
    document = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    return [_measurement(result) for result in document["results"]]


def _measurement(result: dict[str, Any]) -> Measurement:
    options = result["settings"]
    points = tuple(Point(*p) for p in options.pop("points"))
    return Measurement(
        Settings(points=points, **options),
        result["versions"],
        result["instruction_set"],
        [Row(**row) for row in result["rows"]],
    )


def processor() -> str:
    """The name of the processor, where the system tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def plot(file: Path, results: Sequence[Measurement]) -> None:
    """Draw the time of each competitor over the limit, a row for each framework."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4 * len(results)), dpi=130, layout="constrained")
    panels: Any = figure.subplots(len(results), len(PASSES), squeeze=False, sharey="row")
    names = list(dict.fromkeys(r.competitor for result in results for r in result.rows))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    for line, result in zip(panels, results, strict=True):
        for axes, (direction, text) in zip(line, PASSES.items(), strict=True):
            rows = [r for r in result.rows if r.direction == direction and r.point != OVERHEAD]
            points = list(dict.fromkeys(r.point for r in rows))
            for name in dict.fromkeys(r.competitor for r in rows):
                own = [r for r in rows if r.competitor == name]
                axes.plot(
                    [points.index(r.point) for r in own],
                    [r.ratio_to_limit for r in own],
                    color=colours[name],
                    linestyle="-" if own[0].kind == NORMALISED else "--",
                    linewidth=3 if name == OURS else 1,
                    marker="" if own[0].kind == LIMIT else "o",
                    markersize=4,
                    label=name,
                )
            axes.set_yscale("log")
            axes.set_xticks(range(len(points)), [str(p) for p in points], rotation=30)
            axes.set_title(f"{result.settings.cell} on {result.settings.framework}, {text}")
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel("time over the limit")
        line[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    with replacing(file) as path:
        figure.savefig(path)
