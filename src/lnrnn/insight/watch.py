"""Watching while training: a few numbers of each layer every so many steps, and the end of it."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lnrnn.insight.diagnose import Diagnosis
from lnrnn.insight.measures import (
    carried_back,
    least_variances,
    reach,
    saturated,
)
from lnrnn.insight.reach import forget_times
from lnrnn.insight.trace import LayerTrace, Trace

# what takes figures: a file, a writer with `add_scalar(name, value, step)`, or such a function
Sink = Path | str | Any


class NotFiniteError(FloatingPointError):
    """Training met a value that is not finite; the message ends with what was found.

    Args:
        what: which value, and at which step.
        diagnoses: of [lnrnn.diagnose][lnrnn.insight.diagnose.diagnose], by the names of modules
            or of the model.
    """

    def __init__(self, what: str, diagnoses: Mapping[str, Diagnosis]) -> None:
        found = [f"{name}: {found}" if name else str(found) for name, found in diagnoses.items()]
        super().__init__("\n".join([what, *found]))
        self.diagnoses = diagnoses


def figures(layer: LayerTrace) -> dict[str, float]:
    r"""The numbers that are watched, of one layer.

    | name | what it is |
    |---|---|
    | `reach` | the steps back over which a gradient is a millionth of what it was, or more |
    | `gradient_per_step` | the mean factor by which a gradient changes from step to step back |
    | `forget_time` | the median of the forget times, where there is a gate that forgets |
    | `saturated` | the share of gates within a hundredth of 0 or 1, where there are gates |
    | `least_variance/<norm>` | the least variance that the norm met |

    Args:
        layer: of a trace.

    Returns:
        The numbers by name; those that the cell has not are left out.
    """
    norms = carried_back(layer)
    found = {"reach": float(reach(norms))} if np.isfinite(norms).all() else {}
    if len(norms) > 1:
        with np.errstate(all="ignore"):
            found["gradient_per_step"] = float(norms[-1] ** (1 / (len(norms) - 1)))
    times = forget_times(layer)
    if times is not None:
        found["forget_time"] = float(np.median(times))
    if not math.isnan(share := saturated(layer)):
        found["saturated"] = share
    variances = least_variances(layer)
    return found | {f"least_variance/{name}": value for name, value in variances.items()}


class Record:
    """Takes the figures of traces, and writes them.

    A CSV file has the columns step, layer, figure and value, and is appended to.

    Args:
        to: path of a CSV file, an object with `add_scalar(name, value, step)` such as
            TensorBoard's `SummaryWriter`, a function of (name, value, step), or None.

    Raises:
        ValueError: `to` is none of these.
    """

    def __init__(self, to: Sink | None) -> None:
        self._path = Path(to) if isinstance(to, (str, Path)) else None
        self._write: Any = None
        if to is not None and self._path is None:
            self._write = getattr(to, "add_scalar", to)
            if not callable(self._write):
                raise ValueError(
                    f"Figures go to a path, a SummaryWriter or a function; got to={to!r}: pass "
                    "one of them, or None."
                )
        self.latest: dict[str, dict[str, float]] = {}

    def take(self, trace: Trace, step: int, more: Mapping[str, float] | None = None) -> None:
        """Note the figures of all layers at a step.

        Args:
            trace: of the layers.
            step: of the training.
            more: figures that are of no layer.
        """
        self.latest = {path: figures(layer) for path, layer in trace.items()}
        if more:
            self.latest[""] = dict(more)
        rows = [(p, n, v) for p, numbers in self.latest.items() for n, v in numbers.items()]
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new = not self._path.exists()
            with self._path.open("a", newline="") as stream:
                writer = csv.writer(stream, lineterminator="\n")
                writer.writerows([("step", "layer", "figure", "value")] * new)
                writer.writerows((step, *row) for row in rows)
        if self._write is not None:
            for path, name, value in rows:
                self._write(f"{path}/{name}" if path else name, value, step)
