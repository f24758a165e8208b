"""The self-check: before kernels compute for the first time, they are compared with the definition.

Kernels meet devices, drivers and compilers that no test has seen.  Each is run once on random
weights, with the options of the call at hand, and compared in values and gradients with the
definition in float64 on the same device; too far off it is refused.  The answers are kept in a
file, by device, driver and versions.

`LNRNN_GPU_CHECK=skip` trusts every kernel, `LNRNN_GPU_CHECK=force` reads no answers from the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from lnrnn import __version__
from lnrnn.engines.fused import definition
from lnrnn.engines.fused.call import DIFFERENTIABLE, Inputs, Numbers
from lnrnn.engines.portable import ops_torch
from lnrnn.engines.triton import choose, divide
from lnrnn.variant import Variant

VARIABLE = "LNRNN_GPU_CHECK"
_STEPS, _BATCH, _INPUTS = 5, 19, 5

Run = Callable[[Variant, Numbers, Inputs, tuple[Tensor | None, ...]], list[Tensor]]


class Bounds(NamedTuple):
    """The largest errors, relative to the scale of an array, of values and of gradients."""

    values: float
    gradients: float


# some ten times what rounding makes, and a tenth of what a wrong kernel makes
_BOUNDS = {
    "float32": Bounds(2e-4, 2e-3),
    "tf32": Bounds(2e-2, 1e-1),
    "float16": Bounds(4e-2, 2e-1),
    "bfloat16": Bounds(2e-1, 5e-1),
}
_answers: dict[str, str | None] = {}


def refusal(variant: Variant, numbers: Numbers, a: Inputs, run: Run) -> str | None:
    """Why these kernels are not to be used for a call, or None.

    Args:
        variant: the cell.
        numbers: the scalars of the call.
        a: its inputs; their shapes count, not their values.
        run: gives outputs and then gradients, as `compare` wants them.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "skip" or (not a.x.is_cuda and wanted != "force"):
        return None
    key = _key(variant, numbers, a)
    if key not in _answers:
        known = {} if wanted == "force" else _read()
        if key not in known:
            known[key] = compare(variant, numbers, a, run)
            if wanted != "force":
                _write(key, known[key])
        _answers[key] = known[key]
    return _answers[key]


def compare(variant: Variant, numbers: Numbers, a: Inputs, run: Run) -> str | None:
    """Run kernels on random arrays like these and compare: the largest error if it is too large."""
    drawn, incoming = _draw(a)
    double = Inputs(*(_double(t) for t in drawn))
    leaves = {n: t.requires_grad_() for n, t in double._asdict().items() if _has_gradient(n, t)}
    values = definition.recurrence(ops_torch, variant, numbers, double._replace(**leaves))
    weights = [_double(d) for d in incoming[: len(values)]]
    gradients = torch.autograd.grad(
        list(values), list(leaves.values()), weights, materialize_grads=True
    )
    expected = [*values, *gradients]
    names = ["h", "h_last", "c_last"][: len(values)] + [f"gradient of {n}" for n in leaves]
    bounds = _BOUNDS[_precision(a.x.dtype)]
    worst, reason = 1.0, None
    try:
        found = run(variant, numbers, drawn, incoming)
        divide.check(wait=True)
    except divide.Lost as lost:
        return f"self-check: {lost}"
    for i, (name, actual, wanted) in enumerate(zip(names, found, expected, strict=True)):
        wanted = wanted.detach()
        scale = wanted.abs().nan_to_num(0.0).max().clamp(min=0.1)
        error = (actual.double() - wanted).abs() / scale
        # what is no number by the definition may be none here
        error = float(error.masked_fill(wanted.isnan() & actual.isnan(), 0.0).max())
        bound = bounds.values if i < len(values) else bounds.gradients
        if not error / bound <= worst:
            worst = error / bound
            reason = f"self-check: the error of {name} is {error:.1e} of its scale, above {bound:g}"
    return reason


def _draw(a: Inputs) -> tuple[Inputs, tuple[Tensor | None, ...]]:
    """Random arrays with the dtypes and options of others, and gradients of the outputs."""
    units = a.recurrent.shape[0]
    steps, batch = min(_STEPS, a.x.shape[0]), min(_BATCH, a.x.shape[1])
    inputs = min(_INPUTS, a.x.shape[2])
    sizes = {"x": (steps, batch, inputs), "kernel": (inputs, a.kernel.shape[1])}
    generator = torch.Generator().manual_seed(0)

    def normal(like: Tensor, *shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(like)

    def draw(name: str, like: Tensor | None) -> Tensor | None:
        if like is None:
            return None
        shape = sizes.get(name, tuple(like.shape))
        if like.ndim == 3 and name != "x":
            shape = (steps, batch, units)
        elif name in ("mask", "reset"):
            return (torch.rand((steps, batch), generator=generator) < 0.7).to(like.device)
        elif name in ("h0", "c0", "reset_h", "reset_c", "recurrent_mask", "candidate_mask"):
            shape = (batch, units)
        if name.startswith(("take", "recurrent_mask", "candidate_mask")):
            return (torch.rand(shape, generator=generator) < 0.8).to(like)
        drawn = normal(like, *shape)
        if name in ("kernel", "recurrent"):
            return drawn / shape[0] ** 0.5
        return 1 + 0.4 * drawn if name.startswith("gain") else drawn

    drawn = Inputs(*(draw(n, t) for n, t in a._asdict().items()))  # pyright: ignore
    dh = normal(a.x, steps, batch, units)
    dh_last = normal(a.h0, batch, units)
    dc_last = None if a.c0 is None else normal(a.c0, batch, units)
    return drawn, (dh, dh_last, dc_last)


def _double(t: Any) -> Any:
    return t.double() if t is not None and t.is_floating_point() else t


def _has_gradient(name: str, t: Tensor | None) -> bool:
    return t is not None and name in DIFFERENTIABLE


def _precision(dtype: torch.dtype) -> str:
    if dtype == torch.float32 and choose.precision(dtype) == "tf32":
        return "tf32"
    return str(dtype).removeprefix("torch.")


def _key(variant: Variant, numbers: Numbers, a: Inputs) -> str:
    """All that an answer depends on."""
    given = tuple((n, t.ndim) for n, t in a._asdict().items() if t is not None)
    parts = (
        __version__, torch.__version__, triton.__version__, _device(a.x), variant, numbers,
        a.recurrent.shape[0], min(a.x.shape[1], _BATCH), _precision(a.x.dtype), given,
    )  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _device(x: Tensor) -> tuple[Any, ...]:
    if not x.is_cuda:
        return ("cpu",)
    properties = torch.cuda.get_device_properties(x.device)
    driver = torch._C._cuda_getDriverVersion()  # pyright: ignore[reportAttributeAccessIssue]
    return properties.name, properties.major, properties.minor, torch.version.cuda, driver


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
