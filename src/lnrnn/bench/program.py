"""The runs behind `lnrnn bench`: one process for each framework, and what they leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lnrnn.bench import competitors, machine, measure, memory, problem, report
from lnrnn.bench.problem import Competitor, Problem
from lnrnn.bench.report import Measurement, Row
from lnrnn.bench.settings import CUDA, OVERHEAD, TASKS, Point, Settings
from lnrnn.engines import runs as engine_runs
from lnrnn.engines.native import core
from lnrnn.train.settings import UserError


def bench(
    framework: str | None,
    out: Path | None,
    grid: list[tuple[Point, ...]] | None,
    threads: int | None,
    task: str,
    device: str = "cpu",
    **options: Any,
) -> int:
    """Measure, and write tables, CSV, JSON and plot.

    Args:
        framework: the one to measure in this process; None for all that are installed, each
            in a process of its own.
        out: a directory; None for one named by the time, in `runs`.
        grid: the points, in groups; None for those of the task.
        threads: processors to use; None for all.
        task: a name of [TASKS][lnrnn.bench.settings.TASKS].
        device: `"cpu"` or `"cuda"`, which is measured from PyTorch in this process.
        options: other fields of [Settings][lnrnn.bench.settings.Settings].

    Returns:
        0, or 1 where competitors computed different numbers.

    Raises:
        UserError: a framework or the native engine is missing, there are fewer processors, or
            the task has no such points or is not measured on the framework.
    """
    available, possible = core.available_threads(), TASKS[task].frameworks
    if threads is not None and threads > available:
        raise UserError(f"--threads is at most the {available} processors here; got {threads}.")
    if framework and framework not in possible:
        raise UserError(
            f"--task {task} is measured on {' and '.join(possible)} alone; got {framework!r} as "
            "--framework."
        )
    if device == "cuda":
        framework = _on_cuda(framework, task)
    elif options["dtype"] == "float16":
        raise UserError("--dtype float16 is measured on a CUDA device: add --device cuda.")
    usual = CUDA if device == "cuda" else TASKS[task].points
    points = tuple(dict.fromkeys(p for group in grid or [usual] for p in group))
    longer = [p for p in points if p.steps > 1]
    if task == "step" and longer:
        raise UserError(f"--task step is one step, a point 1,B,H; got {longer[0]} in --grid.")
    cell = options["cell"]
    if TASKS[task].cell and cell not in (None, TASKS[task].cell):
        raise UserError(
            f"--task {task} is of one cell, {TASKS[task].cell}; got {cell!r} as --cell."
        )
    if task == "blocks" and options["dtype"] != "float32":
        raise UserError(f"--task blocks is in float32; got {options['dtype']!r} as --dtype.")
    if device == "cpu":
        if core.missing():
            raise UserError(f"The native engine cannot be measured: {core.missing()}.")
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # where there is one, Keras computes there
    folder = out or Path("runs", time.strftime("bench-%Y%m%d-%H%M%S"))
    folder.mkdir(parents=True, exist_ok=True)  # what cannot be written is said at once
    if framework is None:
        results = _all(points, threads, task, options)
    else:
        options |= {"task": task, "threads": threads or available, "device": device}
        options["cell"] = TASKS[task].cell or cell or "lstm"
        results = [_one(Settings(framework=framework, points=points, **options))]
    report.write(folder, results)
    print(f"\nbench.md, bench.csv, bench.json and bench.png are in {folder}.")
    return 0


def _on_cuda(framework: str | None, task: str) -> str:
    """The framework that is measured on a CUDA device; UserError where none can be."""
    if framework not in (None, "torch") or task != "sequence":
        raise UserError(
            f"--device cuda is measured from torch, a sequence; got {framework or 'torch'!r} as "
            f"--framework and {task!r} as --task: leave them out."
        )
    reason = _device().missing() if find_spec("torch") else "PyTorch is not installed"
    if reason:
        raise UserError(f"The Triton engine cannot be measured: {reason}.")
    return "torch"


def _device() -> Any:
    """What measures on a CUDA device; it loads PyTorch."""
    return import_module("lnrnn.bench.on_cuda")


def _all(
    points: tuple[Point, ...], threads: int | None, task: str, options: dict[str, Any]
) -> list[Measurement]:
    """A process for each framework that is installed, one after the other."""
    possible = TASKS[task].frameworks
    installed = [f for f in possible if find_spec(f)]
    if not installed:
        raise UserError(f"None of {', '.join(possible)} is installed: install one of them.")
    with tempfile.TemporaryDirectory() as temporary:
        found = []
        for framework in installed:
            folder = Path(temporary, framework)
            command = [sys.executable, "-P", "-m", "lnrnn", "bench", "--framework", framework]
            command += ["--out", str(folder), "--task", task]
            command += ["--cell", options["cell"]] if options["cell"] else []
            command += ["--dtype", options["dtype"]]
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
    every, task = competitors.of(settings), TASKS[settings.task]
    if settings.device == "cuda":
        numbers = {"torch": _version("torch")} | _device().versions()
        result = Measurement(settings, numbers, _device().described(), [], "", [])
    else:
        result = Measurement(
            settings,
            {p: _version(p) for p in (settings.framework, "keras", "numpy")},
            machine.processor(),
            machine.instruction_sets(),
            core.instruction_set(),
            [],
        )
    print(report.heading(result), flush=True)
    peaks: dict[str, dict[tuple[Point, str], int]] = {}
    points = settings.points
    if settings.task == "sequence" and settings.device == "cpu":
        points = (*(p for p in points if p != OVERHEAD), OVERHEAD)
    if task.memory and settings.memory and settings.device == "cpu" and memory.measurable():
        for competitor in every:
            if any(map(competitor.at, settings.points)):
                peaks[competitor.name] = memory.of(settings, competitor.name)
    for point in points:
        here = [c for c in every if c.at(point)]
        of_point = Problem(settings.cell, point, task.projected)
        new = _rows(of_point, here, settings, peaks)
        report.show(point, new)
        result.rows.extend(new)
    report.show_summary(result.rows)
    return result


def _version(package: str) -> str:
    from importlib.metadata import packages_distributions

    return version(packages_distributions()[package][0])


def _rows(
    given: Problem,
    here: list[Competitor],
    settings: Settings,
    peaks: dict[str, dict[tuple[Point, str], int]],
) -> list[Row]:
    """The gate and then the figures of a point."""
    ready = {c: c.build(given) for c in here}
    cuda = settings.device == "cuda"
    with _device().exactly() if cuda else nullcontext():
        problem.check(ready)
    rows = []
    clock = _device().seconds if cuda else measure.seconds
    for call in TASKS[settings.task].calls:
        runs = {c: runs.calls[call] for c, runs in ready.items()}
        engines = {c: _engine(c, run) for c, run in runs.items()}
        for competitor, times in measure.interleaved(runs, settings.repeats, clock).items():
            peak = peaks.get(competitor.name, {}).get((given.point, call))
            if cuda and settings.memory:
                peak = _device().peak(runs[competitor])
            engine = engines[competitor]
            rows.append(Row.of(settings, given.point, call, competitor, engine, times, peak))
    return report.with_ratios(rows)


def _engine(competitor: Competitor, run: Callable[[], Any]) -> str:
    """The engine that computes a call of ours; none for what is not ours."""
    if not competitor.name.startswith("lnrnn"):
        return ""
    before = engine_runs()
    run()
    # the portable engine may count when it is traced alone
    fused = [e for e, _ in engine_runs() - before if e != "portable"]
    return fused[0] if fused else "portable"
