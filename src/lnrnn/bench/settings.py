"""What is measured: the points of a grid and the settings of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lnrnn.train.settings import BACKENDS


class Point(NamedTuple):
    """T steps, B sequences, and as many inputs as units.

    Args:
        steps: T.
        batch: B.
        units: H and I.
    """

    steps: int
    batch: int
    units: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


SMALL = (Point(100, 32, 128), Point(100, 1, 128))
FULL = (
    Point(100, 1, 128),
    Point(100, 1, 512),
    Point(100, 32, 64),
    Point(100, 32, 128),
    Point(100, 32, 256),
    Point(100, 64, 512),
    Point(50, 128, 1024),
    Point(1000, 8, 128),
    Point(10000, 8, 128),
)
CUDA = (
    Point(100, 32, 128),
    Point(100, 32, 256),
    Point(100, 64, 512),
    Point(512, 16, 768),
    Point(1024, 16, 768),
)
GRIDS = {"small": SMALL, "full": FULL, "cuda": CUDA}
_BATCHES = (Point(100, 32, 128), Point(100, 32, 256))
OVERHEAD = Point(1, 1, 16)  # the time of a call that has next to nothing to compute
COMPILED = Point(100, 32, 128)  # the only one that a loop is compiled by torch.compile at
DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("cpu", "cuda")


class Task(NamedTuple):
    """A use of the layers that is measured.

    Args:
        calls: the names of what is timed.
        points: the grid where none is given.
        frameworks: that it is measured on.
        memory: whether peak memory is measured.
        projected: whether h is projected to half of the units.
        cell: the only one that it is of; empty for `"lstm"`, `"gru"` and `"simple"`.
    """

    calls: tuple[str, ...]
    points: tuple[Point, ...]
    frameworks: tuple[str, ...] = BACKENDS
    memory: bool = False
    projected: bool = False
    cell: str = ""


TASKS = {
    "sequence": Task(("forward", "training"), SMALL, memory=True),
    "projected": Task(
        ("forward", "training"), (Point(100, 32, 256),), ("torch",), projected=True, cell="lstm"
    ),
    "blocks": Task(("forward", "training"), (Point(64, 16, 512),), ("torch",), cell="block_gru"),
    "packed": Task(("forward", "training"), _BATCHES, ("torch",), memory=True),
    "step": Task(
        ("step",),
        (
            *(Point(1, 1, n) for n in (16, 32, 64, 128, 256, 512)),
            Point(1, 8, 256),
            Point(1, 32, 256),
        ),
        ("torch",),
    ),
    "fit": Task(
        ("predict_on_batch", "train_on_batch", "predict", "fit"),
        (*_BATCHES, Point(100, 1, 128), Point(100, 1, 512)),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of the measurements on one framework.

    Args:
        framework: `"torch"`, `"jax"` or `"tensorflow"`.
        threads: processors to use.
        task: a name of `TASKS`.
        cell: `"lstm"`, `"gru"`, `"simple"`, or the one of the task.
        dtype: that of the products, `"float32"` or `"bfloat16"`; weights are float32.  On a CUDA
            device that of all, and `"float16"` as well.
        points: of the grid, in order.
        repeats: timings of each competitor.
        memory: whether peak memory is measured, in a process for each competitor.
        compiled: whether torch.compile is measured.
        device: `"cpu"` or `"cuda"`.
    """

    framework: str
    threads: int
    task: str = "sequence"
    cell: str = "lstm"
    dtype: str = "float32"
    points: tuple[Point, ...] = SMALL
    repeats: int = 10
    memory: bool = True
    compiled: bool = False
    device: str = "cpu"


def parse_points(text: str) -> tuple[Point, ...]:
    """The points of a named grid, or the one that `T,B,H` says.

    Args:
        text: a name of `GRIDS`, or three whole numbers from 1.

    Returns:
        The points.

    Raises:
        ValueError: neither.

    Example:
        >>> parse_points("50,2,16")
        (Point(steps=50, batch=2, units=16),)
    """
    if text in GRIDS:
        return GRIDS[text]
    numbers = text.split(",")
    if len(numbers) != 3 or not all(n.isdecimal() and int(n) for n in numbers):
        raise ValueError(
            f"it is {', '.join(GRIDS)} or T,B,H, three whole numbers from 1; got {text!r}"
        )
    return (Point(*map(int, numbers)),)
