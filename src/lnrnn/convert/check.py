"""Compares a converted layer with the original program, run in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lnrnn import reference
from lnrnn.convert import export, programs
from lnrnn.convert.containers import lite_model
from lnrnn.convert.errors import FileError
from lnrnn.convert.weights import Weights
from lnrnn.reference import relatives
from lnrnn.relatives.table import Published
from lnrnn.relatives.weights import sizes_of
from lnrnn.testing.tolerances import assert_close

Array = np.ndarray

STEPS, BATCH = 9, 3
_SECONDS = 300
_NO_ORIGIN = "A check needs to know the original program; these weights name none."


def check_layer(weights: Weights, python: str = sys.executable) -> str:
    """Run the original program of a layer's origin and compare outputs.

    Args:
        weights: with an origin.
        python: the interpreter that has the original program.

    Returns:
        A sentence with the largest difference.

    Raises:
        FileError: there is no origin or no such program, it is not installed there, or its
            outputs differ by more than the tolerance of the dtype.
    """
    if weights.origin is None:
        raise FileError(_NO_ORIGIN)
    form, sizes = weights.origin.dialect, weights.sizes
    name, x = program_of(form), inputs(sizes.inputs)
    arrays = export.originals(weights, form, "")
    if form.startswith("tflite_"):
        model = lite_model.model(arrays, weights.variant, sizes, x.shape[:2])
        arrays = {"model": np.frombuffer(model, np.uint8)}
    about = {
        "form": form,
        **sizes._asdict(),
        "variant": weights.variant.to_dict(),
        "zoneout": weights.zoneout,
    }
    return compared(name, run(about, arrays, x, python, name), outputs(weights, x))


def check_relative(form: Published | None, params: Mapping[str, Array], python: str) -> str:
    """Run the original program of a relative and compare outputs, as `check_layer` does."""
    if form is None:
        raise FileError(_NO_ORIGIN)
    sizes, name = sizes_of(form.relative, params), program_of(form.name)
    about = {"form": form.name, **sizes._asdict(), "variant": asdict(form.relative)}
    x = inputs(sizes.inputs)
    theirs = run(about, form.from_canonical(params, ""), x, python, name)
    return compared(name, theirs, relatives.forward(form.relative, params, x).y)


def program_of(form: str) -> str:
    """The module of a form's original program."""
    found = programs.program_of(form)
    if found is None:
        names = ", ".join(programs.PROGRAMS)
        raise FileError(
            f"Original programs can be run of {names}; {form} has none that pip installs: compare "
            "with outputs that you saved."
        )
    return found[0]


def inputs(size: int) -> Array:
    """Random inputs (T, B, I)."""
    x = np.random.default_rng(16070645).standard_normal((STEPS, BATCH, size))
    return x.astype(np.float32)


def compared(name: str, theirs: Array, ours: Array) -> str:
    """A sentence with the largest difference; raises FileError if it is not of rounding."""
    try:
        assert_close("y", theirs, ours, "float32")
    except AssertionError as error:
        raise FileError(f"{name} gives other outputs on these weights: {error}") from error
    worst = float(np.abs(theirs - ours).max())
    return f"{name} gives the same outputs, to {worst:.1e} over {STEPS} steps"


def outputs(weights: Weights, x: Array) -> Array:
    """The outputs (T, B, R) of a layer in inference, by the reference in float64."""
    options = {}
    if weights.zoneout:
        options["take_h"] = 1 - weights.zoneout
    if weights.zoneout_cell:
        options["take_c"] = 1 - weights.zoneout_cell
    params = {n: np.asarray(v, np.float64) for n, v in weights.params.items()}
    return reference.forward(weights.variant, params, x.astype(np.float64), **options).y


def run(
    about: Mapping[str, Any], arrays: Mapping[str, Array], x: Array, python: str, name: str
) -> Array:
    """The outputs of the original program on its own weights."""
    with tempfile.TemporaryDirectory() as folder:
        request, result = Path(folder, "request.npz"), Path(folder, "result.npz")
        given = {f"w/{n}": a for n, a in arrays.items()}
        np.savez(request, x=x, about=np.array(json.dumps(about)), **given)  # pyright: ignore[reportArgumentType]
        command = [python, programs.__file__, str(request), str(result)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FileError(f"{python} does not run {name}: {error}.") from error
        said = (done.stderr.strip().splitlines() or ["no message"])[-1].rstrip(".")
        if done.returncode == programs.NOT_INSTALLED:
            raise FileError(
                f"{name} is not installed in {python}: name a Python that has it, --check PYTHON "
                f"({said})."
            )
        if done.returncode:
            raise FileError(f"{name} does not run in {python}: {said}.")
        with np.load(result, allow_pickle=False) as file:
            return file["y"]
