"""What a measurement leaves behind: tables on the terminal and in Markdown, CSV, JSON, a plot."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from lnrnn import __version__
from lnrnn.bench.measure import Times
from lnrnn.bench.problem import LIMIT, NORMALISED, Competitor
from lnrnn.bench.settings import OVERHEAD, TASKS, Point, Settings
from lnrnn.files import replacing

_WIDTH = 128
_COLOURS = (
    "#000000", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#888888",
    "#7f3c8d", "#a5aa99",
)  # fmt: skip


class Row(NamedTuple):
    """Figures of one competitor in one call at one point.

    Args:
        framework: that it runs on.
        task: what is done, a name of [TASKS][lnrnn.bench.settings.TASKS].
        cell: as of [Settings][lnrnn.bench.settings.Settings].
        steps: T.
        batch: B.
        units: H and I.
        call: what is timed, such as `"training"`, which is forward and backward.
        competitor: its name.
        kind: normalised, un-normalised, or the limit.
        dtype: of its products.
        engine: that computed a layer of ours; empty for what is not ours.
        timings: how many.
        minimum_ms: the smallest.
        median_ms: the median.
        peak_MiB: memory beyond weights and inputs; None where it was not measured.
        ratio_to_ours: the minimum over that of the first competitor, which is ours.
        ratio_to_limit: the minimum over that of the products, NaN where they are not measured.
    """

    framework: str
    task: str
    cell: str
    steps: int
    batch: int
    units: int
    call: str
    competitor: str
    kind: str
    dtype: str
    engine: str
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
        call: str,
        competitor: Competitor,
        engine: str,
        times: Times,
        peak: int | None,
    ) -> Row:
        """The row of some times, without ratios."""
        return cls(
            settings.framework,
            settings.task,
            settings.cell,
            *point,
            call,
            competitor.name,
            competitor.kind,
            competitor.dtype,
            engine,
            len(times.seconds),
            1e3 * min(times.seconds),
            1e3 * statistics.median(times.seconds),
            None if peak is None else peak / 2**20,
        )


class Measurement(NamedTuple):
    """All figures of one framework, and what they were taken with.

    Args:
        settings: of the run.
        versions: of the framework, Keras and NumPy.
        processor: its name.
        instruction_sets: those that it has.
        instruction_set: the one that the native engine used.
        rows: the figures.
    """

    settings: Settings
    versions: dict[str, str]
    processor: str
    instruction_sets: list[str]
    instruction_set: str
    rows: list[Row]


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """The rows of one point with their ratios to ours, which is the first, and to the limit."""
    ours, found = rows[0].competitor, []
    for row in rows:
        same = {r.competitor: r.minimum_ms for r in rows if r.call == row.call}
        found.append(
            row._replace(
                ratio_to_ours=row.minimum_ms / same[ours],
                ratio_to_limit=row.minimum_ms / same.get("limit", math.nan),
            )
        )
    return found


def heading(result: Measurement) -> str:
    """What is measured, with what, and on what machine."""
    settings = result.settings
    return (
        f"lnrnn {__version__}: {_title(result)}, {settings.repeats} interleaved timings, each "
        f"competitor checked before it is timed.\n{_machine(result)}"
    )


def _title(result: Measurement) -> str:
    settings, numbers = result.settings, result.versions
    versions = ", ".join(f"{package} {number}" for package, number in numbers.items())
    return f"{settings.task}, {settings.cell}, {settings.dtype}, on {versions}"


def _machine(result: Measurement) -> str:
    if result.settings.device == "cuda":
        return f"{result.processor}."
    sets = ", ".join(result.instruction_sets) or "unknown"
    return (
        f"{result.settings.threads} thread(s) of {result.processor}, which has {sets}; the native "
        f"engine used {result.instruction_set}."
    )


def show(point: Point, rows: Sequence[Row]) -> None:
    """Print the table of a point."""
    unit, scale = ("µs", 1e3) if point.steps == 1 else ("ms", 1.0)
    calls = list(dict.fromkeys(r.call for r in rows))
    shown: dict[str, Callable[[Row], str]] = {
        f"min {unit}": lambda r: _number(scale * r.minimum_ms),
        "median": lambda r: _number(scale * r.median_ms),
        "/ ours": lambda r: f"{r.ratio_to_ours:.2f}",
        "/ limit": lambda r: f"{r.ratio_to_limit:.2f}",
        "MiB": lambda r: "-" if r.peak_MiB is None else f"{r.peak_MiB:.1f}",
    }
    if len(calls) > 2:  # as many columns as a terminal has room for
        del shown["median"]
    if all(math.isnan(r.ratio_to_limit) for r in rows):
        del shown["/ limit"]
    if all(r.peak_MiB is None for r in rows):
        del shown["MiB"]
    title = f"T,B,H = {point}; {_engines(rows)}"
    table = Table(box=None, title=title, title_justify="left", pad_edge=False)
    table.add_column("")
    for call in calls:
        for index, column in enumerate(shown):
            table.add_column(f"{'' if index else call}\n{column}", justify="right")
    for name in dict.fromkeys(r.competitor for r in rows):
        own = {r.call: r for r in rows if r.competitor == name}
        cells = [text(own[call]) for call in calls for text in shown.values()]
        table.add_row(name, *cells, style="bold" if name == rows[0].competitor else "")
    _print(table)


def _engines(rows: Sequence[Row]) -> str:
    """Which engines computed the first competitor, which is ours."""
    calls: dict[str, list[str]] = {}
    for row in rows:
        if row.competitor == rows[0].competitor and row.call not in calls.get(row.engine, []):
            calls.setdefault(row.engine, []).append(row.call)
    found = [f"{engine} in {', '.join(names)}" for engine, names in calls.items()]
    return f"engine of {rows[0].competitor}: {'; '.join(found if len(calls) > 1 else calls)}"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def show_summary(rows: Sequence[Row]) -> None:
    """Print, for each competitor, the geometric mean and the least of its ratios to ours."""
    table = Table(box=None, title="Time over ours", title_justify="left", pad_edge=False)
    table.add_column("")
    of_grid = _of_grid(rows)
    calls = list(dict.fromkeys(r.call for r in of_grid))
    for call in calls:
        table.add_column(f"{call}\nmean", justify="right")
        table.add_column("\nleast", justify="right")
    for name in dict.fromkeys(r.competitor for r in of_grid):
        cells: list[str] = []
        for call in calls:
            own = [r.ratio_to_ours for r in of_grid if (r.competitor, r.call) == (name, call)]
            cells += [f"{statistics.geometric_mean(own):.2f}", f"{min(own):.2f}"]
        table.add_row(name, *cells)
    if of_grid:
        _print(table)


def _of_grid(rows: Sequence[Row]) -> list[Row]:
    """Without those of the point that ends each run on sequences."""
    return [r for r in rows if r.task != "sequence" or r.point != OVERHEAD]


def markdown(results: Sequence[Measurement]) -> str:
    """The figures as tables for a page: a row for each point and call, milliseconds.

    Args:
        results: of one run or of several.

    Returns:
        For each a sentence on how they were taken and a table of minima, with the ratio to ours
        in brackets, and one of memory where it was measured.
    """
    return "\n".join(block for result in results for block in _blocks(result))


def _blocks(result: Measurement) -> list[str]:
    rows = result.rows
    blocks = [
        f"{_title(result)}. {_machine(result)} Milliseconds, the smallest of up to "
        f"{result.settings.repeats}, and the ratio to the first in brackets; {_engines(rows)}:\n",
        _table(rows, lambda r: f"{_number(r.minimum_ms)} ({r.ratio_to_ours:.2f})"),
    ]
    measured = [r for r in rows if r.peak_MiB is not None]
    if measured:
        blocks += ["MiB at the peak:\n", _table(measured, lambda r: f"{r.peak_MiB:.1f}")]
    return blocks


def _table(rows: Sequence[Row], text: Callable[[Row], str]) -> str:
    names = list(dict.fromkeys(r.competitor for r in rows))
    found = {(r.point, r.call, r.competitor): text(r) for r in rows}
    lines = [["T, B, H", "", *(f"`{name}`" for name in names)], ["---"] * (len(names) + 2)]
    for point, call in dict.fromkeys((r.point, r.call) for r in rows):
        cells = [found.get((point, call, name), "") for name in names]
        lines.append([", ".join(map(str, point)), call, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _print(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print()
    console.print(table)


def write(folder: Path, results: Sequence[Measurement]) -> None:
    """Write `bench.md`, `bench.csv`, `bench.json` and `bench.png`; each whole or not at all."""
    with replacing(folder / "bench.md") as path:
        path.write_text(markdown(results), encoding="utf-8")
    with replacing(folder / "bench.csv") as path, path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow((*Row._fields, "version", "processor", "instruction_set"))
        for result in results:
            version = result.versions[result.settings.framework]
            given = (version, result.processor, result.instruction_set)
            writer.writerows((*row, *given) for row in result.rows)
    document = {
        "lnrnn": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "results": [
            result._asdict()
            | {"settings": asdict(result.settings), "rows": [r._asdict() for r in result.rows]}
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
    options = result.pop("settings")
    points = tuple(Point(*p) for p in options.pop("points"))
    rows = [Row(**row) for row in result.pop("rows")]
    return Measurement(settings=Settings(points=points, **options), rows=rows, **result)


def plot(file: Path, results: Sequence[Measurement]) -> None:
    """Draw the time of each competitor over that of the limit, or of ours where there is none.

    Args:
        file: to write, a PNG.
        results: a row of panels for each.
    """
    from matplotlib.figure import Figure

    calls = TASKS[results[0].settings.task].calls
    size = 6.5 * len(calls), 4 * len(results)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    panels: Any = figure.subplots(len(results), len(calls), squeeze=False, sharey="row")
    names = list(dict.fromkeys(r.competitor for result in results for r in result.rows))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    for line, result in zip(panels, results, strict=True):
        drawn = _of_grid(result.rows)
        limit = any(r.kind == LIMIT for r in drawn)
        for axes, call in zip(line, calls, strict=True):
            rows = [r for r in drawn if r.call == call]
            points = list(dict.fromkeys(r.point for r in rows))
            for name in dict.fromkeys(r.competitor for r in rows):
                own = [r for r in rows if r.competitor == name]
                axes.plot(
                    [points.index(r.point) for r in own],
                    [r.ratio_to_limit if limit else r.ratio_to_ours for r in own],
                    color=colours[name],
                    linestyle="-" if own[0].kind == NORMALISED else "--",
                    linewidth=3 if name == result.rows[0].competitor else 1,
                    marker="" if own[0].kind == LIMIT else "o",
                    markersize=4,
                    label=name,
                )
            axes.set_yscale("log")
            axes.set_xticks(range(len(points)), [str(p) for p in points], rotation=30)
            axes.set_title(f"{result.settings.cell} on {result.settings.framework}, {call}")
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel("time over the limit" if limit else "time over ours")
        line[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    with replacing(file) as path:
        figure.savefig(path)
