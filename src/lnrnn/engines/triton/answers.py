"""The answers of self-checks on this device, and what the checks of all frameworks share.

Kernels meet devices, drivers and compilers that no test has seen.  Each is run once on random
weights, with the options of the call at hand, and compared in values and gradients with the
definition on the same device; too far off it is refused.  The answers are kept in a file, by
device, driver and versions.

`LNRNN_GPU_CHECK=skip` trusts every kernel, `LNRNN_GPU_CHECK=force` reads no answers from the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import triton

from lnrnn import __version__
from lnrnn.engines.triton.choose import Kind

VARIABLE = "LNRNN_GPU_CHECK"
_STEPS, _BATCH, _INPUTS = 5, 19, 5


class Bounds(NamedTuple):
    """The largest errors, relative to the scale of an array, of values and of gradients."""

    values: float
    gradients: float


# some ten times what rounding makes, and a tenth of what a wrong kernel makes
BOUNDS = {
    "float32": Bounds(2e-4, 2e-3),
    "tf32": Bounds(2e-2, 1e-1),
    "float16": Bounds(4e-2, 2e-1),
    "bfloat16": Bounds(2e-1, 5e-1),
}
_answers: dict[str, str | None] = {}
_warned: set[str] = set()


def wanted(on_device: bool) -> bool:
    """Whether kernels are checked: on a device, or where that is forced."""
    variable = os.environ.get(VARIABLE, "")
    return variable != "skip" and (on_device or variable == "force")


def answer(parts: Iterable[Any], compare: Callable[[], str | None]) -> str | None:
    """Why a kind of call is refused, or None: as known, or as `compare` finds.

    Args:
        parts: all that an answer depends on, besides versions.
        compare: the self-check.
    """
    text = repr((__version__, triton.__version__, *parts))
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    if key not in _answers:
        forced = os.environ.get(VARIABLE, "") == "force"
        known = {} if forced else _read()
        if key not in known:
            known[key] = compare()
            if not forced:
                _write(key, known[key])
        _answers[key] = known[key]
    return _answers[key]


def accepted(reason: str | None, named: bool) -> bool:
    """Whether kernels compute that were not refused for a reason; if the engine was named it is an
    error where they were, and else there is one warning."""
    if reason is not None and named:
        raise ValueError(refused(reason))
    if reason is not None and reason not in _warned:
        _warned.add(reason)
        warnings.warn(f"{refused(reason)}  The portable engine computes.", stacklevel=3)
    return reason is None


def refused(reason: str) -> str:
    """What is said of refused kernels."""
    return (
        f"The Triton engine is refused on this device ({reason}): report it, and use "
        "engine='portable' until it is mended."
    )


def batch_like(batch: int, loops: Callable[[int], Any]) -> int:
    """How many sequences a check has: few, but as many as the same kernels compute.

    Args:
        batch: of the call.
        loops: the kernels that compute so many sequences.
    """
    wanted, few = loops(batch), min(batch, _BATCH)
    if loops(few) == wanted:
        return few
    while batch > 1 and loops(batch // 2) == wanted:
        batch //= 2
    return batch


def precision(kind: Kind) -> str:
    """Of `BOUNDS`."""
    return "tf32" if kind.precision == "tf32" else kind.dtype


def worst(
    kind: Kind, names: Iterable[str], found: Iterable[Any], expected: Iterable[Any], values: int
) -> str | None:
    """The largest error of arrays beside those expected, if it is too large.

    Args:
        kind: of products.
        names: of the arrays.
        found: what the kernels gave.
        expected: what the definition gave.
        values: how many of them come before the gradients.
    """
    bounds = BOUNDS[precision(kind)]
    largest, reason = 1.0, None
    for i, (name, actual, right) in enumerate(zip(names, found, expected, strict=True)):
        actual, right = np.asarray(actual, np.float64), np.asarray(right, np.float64)
        scale = max(float(np.abs(np.nan_to_num(right)).max(initial=0.0)), 0.1)
        # what is no number by the definition may be none here
        both = np.isnan(actual) & np.isnan(right)
        error = float(np.abs(np.where(both, 0.0, actual - right)).max(initial=0.0)) / scale
        bound = bounds.values if i < values else bounds.gradients
        if not error / bound <= largest:
            largest = error / bound
            reason = f"self-check: the error of {name} is {error:.1e} of its scale, above {bound:g}"
    return reason


def drawn(shapes: Mapping[str, tuple[int, ...]], batch: int) -> dict[str, np.ndarray]:
    """Random arrays with the options of a call's inputs, and `dh`, `dh_last` and `dc_last`.

    Args:
        shapes: of the inputs that are there, by name.
        batch: how many sequences.
    """
    rng = np.random.default_rng(0)
    units = shapes["h0"][-1]
    steps, inputs = min(shapes["x"][0], _STEPS), min(shapes["x"][2], _INPUTS)
    state, sequence = (batch, units), (steps, batch, units)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name == "x":
            return rng.standard_normal((steps, batch, inputs))
        if name in ("mask", "reset"):
            return rng.random((steps, batch)) < 0.7
        if name.startswith("take") or name in ("recurrent_mask", "candidate_mask"):
            return (rng.random(sequence if len(shape) == 3 else state) < 0.8) * 1.0
        if name in ("h0", "c0", "reset_h", "reset_c"):
            return rng.standard_normal(state)
        if name in ("kernel", "recurrent"):
            shape = (inputs, shape[1]) if name == "kernel" else shape
            return rng.standard_normal(shape) / shape[0] ** 0.5
        found = rng.standard_normal(shape)
        return 1 + 0.4 * found if name.startswith("gain") else found

    incoming = {"dh": sequence, "dh_last": state} | ({"dc_last": state} if "c0" in shapes else {})
    found = {name: draw(name, shape) for name, shape in shapes.items()}
    return found | {name: rng.standard_normal(shape) for name, shape in incoming.items()}


def _file() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "lnrnn" / "gpu-check.json"


def _read() -> dict[str, str | None]:
    """The answers of the file; none where it cannot be read."""
    try:
        return json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _write(key: str, answer: str | None) -> None:
    """Add an answer to the file, where that can be written; readers see the old one or the new."""
    path = _file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, suffix=".json", delete=False, encoding="utf-8"
        ) as file:
            json.dump(_read() | {key: answer}, file)
        os.replace(file.name, path)
    except OSError:
        return
