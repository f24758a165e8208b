"""The runs behind `lnrnn bench`: one process for each framework, and what they leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lnrnn.bench import measure, memory, problem, report
from lnrnn.bench.problem import NORMALISED, PLAIN, Competitor, Problem
from lnrnn.bench.report import Measurement, Row
from lnrnn.bench.settings import OVERHEAD, SMALL, Point, Settings
from lnrnn.engines.native import core
from lnrnn.train.program import load_keras
from lnrnn.train.settings import BACKENDS, UserError


def bench(
    framework: str | None,
    out: Path | None,
    grid: list[tuple[Point, ...]] | None,
    threads: int | None,
    **options: Any,
) -> int:
    """Measure, and write table, CSV, JSON and plot.

    Args:
        framework: the one to measure in this process; None for all that are installed, each
            in a process of its own.
        out: a directory; None for one named by the time, in `runs`.
        grid: the points, in groups; None for the small grid.
        threads: processors to use; None for all.
        options: other fields of [Settings][lnrnn.bench.settings.Settings].

    Returns:
        0, or 1 where competitors computed different numbers.

    Raises:
        UserError: a framework or the native engine is missing, or there are fewer processors.
    """
    available = core.available_threads()
    if threads is not None and threads > available:
        raise UserError(f"--threads is at most the {available} processors here; got {threads}.")
    if core.missing():
        raise UserError(f"The native engine cannot be measured: {core.missing()}.")
    folder = out or Path("runs", time.strftime("bench-%Y%m%d-%H%M%S"))
    folder.mkdir(parents=True, exist_ok=True)  # what cannot be written is said at once
    points = tuple(dict.fromkeys(p for group in grid or [SMALL] for p in group))
    if framework is None:
        results = _all(points, threads, options)
    else:
        results = [
            _one(
                Settings(
                    framework=framework, points=points, threads=threads or available, **options
                )
            )
        ]
    report.write(folder, results)
    print(f"\nbench.csv, bench.json and bench.png are in {folder}.")
    return 0


def competitors(settings: Settings) -> list[Competitor]:
    """What is measured on the framework of the settings, which is loaded, ours first."""
    _limit_threads(settings.threads)
    load_keras(settings.framework, "--framework")
    framework, cell = settings.framework, settings.cell
    found: list[Competitor] = []
    if framework == "torch":
        torch: Any = import_module("torch")
        torch.set_num_threads(settings.threads)
        on_torch: Any = import_module("lnrnn.bench.on_torch")
        found += on_torch.competitors(cell, settings.compiled)
    on_keras: Any = import_module("lnrnn.bench.on_keras")
    found += on_keras.competitors(cell)
    if framework == "jax":
        on_jax: Any = import_module("lnrnn.bench.on_jax")
        found += on_jax.competitors(cell)
    core_call: Any = import_module("lnrnn.bench.core_call")
    return [*found, core_call.competitor(framework, settings.threads)]


def bases(settings: Settings) -> dict[str, str]:
    """Kind to the competitor that the others of it have to agree with."""
    module: Any = import_module(
        "lnrnn.bench.on_torch" if settings.framework == "torch" else "lnrnn.bench.on_keras"
    )
    return {NORMALISED: "lnrnn portable", PLAIN: module.stock_name(settings.cell)}


def _limit_threads(threads: int) -> None:
    """Let this process use so many processors; before frameworks are loaded."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if hasattr(os, "sched_setaffinity") and threads < core.available_threads():
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _all(
    points: tuple[Point, ...], threads: int | None, options: dict[str, Any]
) -> list[Measurement]:
    """A process for each framework that is installed, one after the other."""
    installed = [f for f in BACKENDS if find_spec(f)]
    if not installed:
        raise UserError(f"None of {', '.join(BACKENDS)} is installed: install one of them.")
    with tempfile.TemporaryDirectory() as temporary:
        found = []
        for framework in installed:
            folder = Path(temporary, framework)
            command = [sys.executable, "-P", "-m", "lnrnn.cli", "bench", "--framework", framework]
            command += ["--out", str(folder), "--cell", options["cell"]]
            command += ["--repeats", str(options["repeats"]), "--grid", *map(str, points)]
            command += ["--threads", str(threads)] if threads else []
            command += [] if options["memory"] else ["--no-memory"]
            command += ["--compile"] if options["compiled"] else []
            code = subprocess.run(command).returncode
            if code:
                raise UserError(f"The measurement on {framework} ended with the status {code}.")
            found += report.read(folder)
    return found


def _one(settings: Settings) -> Measurement:
    every = competitors(settings)
    print(report.heading(settings), flush=True)
    peaks: dict[str, dict[tuple[Point, str], int]] = {}
    points = (*(p for p in settings.points if p != OVERHEAD), OVERHEAD)
    if settings.memory and memory.measurable():
        for competitor in every:
            if any(map(competitor.at, settings.points)):
                peaks[competitor.name] = memory.of(settings, competitor.name)
    rows: list[Row] = []
    for point in points:
        here = [c for c in every if c.at(point)]
        new = _rows(Problem(settings.cell, point), here, bases(settings), settings, peaks)
        report.show(settings, point, new)
        rows += new
    report.show_summary(rows)
    packages = (settings.framework, "keras", "numpy")
    return Measurement(settings, {p: _version(p) for p in packages}, core.instruction_set(), rows)


def _version(package: str) -> str:
    from importlib.metadata import packages_distributions

    return version(packages_distributions()[package][0])


def _rows(
    given: Problem,
    here: list[Competitor],
    bases: dict[str, str],
    settings: Settings,
    peaks: dict[str, dict[tuple[Point, str], int]],
) -> list[Row]:
    """The gate and then the figures of a point."""
    ready = {c.name: (c.kind, c.build(given)) for c in here}
    problem.check(ready, bases)
    rows = []
    for direction in ("forward", "training"):
        runs = {name: getattr(runs, direction) for name, (_, runs) in ready.items()}
        for name, times in measure.interleaved(runs, settings.repeats).items():
            peak = peaks.get(name, {}).get((given.point, direction))
            rows.append(Row.of(settings, given.point, direction, name, ready[name][0], times, peak))
    return report.with_ratios(rows)
