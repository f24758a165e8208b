"""Peak memory of one competitor, in a process of its own: `python -m lnrnn.bench.memory`.

The kernel keeps the largest resident size of a process and forgets it when asked (Linux).  So each
pass runs once, for what is compiled and kept from call to call; freed memory is given
back, and the core's own; then it runs again, and its peak is the largest resident size less
that before it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lnrnn.bench.settings import TASKS, Point, Settings
from lnrnn.engines.native import core

_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# glibc gives large blocks back when they are freed, so that the next pass does not find them
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def measurable() -> bool:
    """Whether this system tells the peak of a process and forgets it when asked."""
    return _STATUS.exists() and os.access(_FORGET, os.W_OK)


def of(settings: Settings, name: str) -> dict[tuple[Point, str], int]:
    """Bytes at the peak of each call of a competitor, by point and call.

    Args:
        settings: of the run.
        name: of the competitor.

    Raises:
        subprocess.CalledProcessError: the process failed, for example for want of memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "peaks.json")
        given = json.dumps([asdict(settings), name, str(file)])
        subprocess.run(
            [sys.executable, "-P", "-m", "lnrnn.bench.memory", given],
            env=os.environ | _MALLOC,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=True,
        )
        rows = json.loads(file.read_text())
    return {(Point(*point), call): peak for point, call, peak in rows}


def peak(run: Callable[[], Any]) -> int:
    """The largest resident size during a call, less that before it, in bytes."""
    run()
    gc.collect()
    core.forget()
    ctypes.CDLL(None).malloc_trim(0)
    _FORGET.write_text("5")
    before = _resident("VmRSS")
    kept = run()
    after = _resident("VmHWM")
    del kept
    return max(0, after - before)


def _resident(field: str) -> int:
    line = next(x for x in _STATUS.read_text().splitlines() if x.startswith(field))
    return 1024 * int(line.split()[1])


def main(argument: str) -> None:
    """Measure what the parent asks for, and write it into its file."""
    from lnrnn.bench import competitors
    from lnrnn.bench.problem import Problem

    options, name, file = json.loads(argument)
    points = tuple(Point(*p) for p in options.pop("points"))
    settings = Settings(points=points, **options)
    competitor = next(c for c in competitors.of(settings) if c.name == name)
    rows = []
    for point in filter(competitor.at, points):
        runs = competitor.build(Problem(settings.cell, point, TASKS[settings.task].projected))
        rows += [(point, call, peak(run)) for call, run in runs.calls.items()]
    Path(file).write_text(json.dumps(rows))


if __name__ == "__main__":
    main(sys.argv[1])
