"""Relatives: weights, the reference and the portable engine, against the originals' numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lnrnn.reference import relatives as reference
from lnrnn.relatives import RELATIVES, Relative
from lnrnn.relatives.relative import DREAMER
from lnrnn.relatives.weights import Sizes, shapes, sizes_of
from lnrnn.testing import adapters, golden

FILES = Path(__file__).parent / "golden"
PATHS = [p for p in golden.find([FILES]) if golden.base_name(p.name.split("__")[0]) in RELATIVES]


def weights_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path.with_name(path.name + ".npz")) as file:
        return {n[2:]: file[n] for n in file.files if n.startswith("w/")}


def draw(relative: Relative, sizes: Sizes, random: np.random.Generator) -> dict[str, np.ndarray]:
    return {n: random.normal(0.3, 0.5, s) for n, s in shapes(relative, sizes).items()}


def form_of(path: Path) -> Any:
    return RELATIVES[golden.base_name(path.name.split("__")[0])]


def test_every_form_has_a_file() -> None:
    assert {golden.base_name(p.name.split("__")[0]) for p in PATHS} == set(RELATIVES)


@pytest.mark.parametrize("engine", ["reference", "portable"])
def test_files_pass(engine: str) -> None:
    report = golden.run(PATHS, adapters.choose(engine))
    assert report.failed == report.skipped == {}


@pytest.mark.parametrize("frontend", ["torch-op", "jax-op"])
def test_files_of_the_block_gru_pass_natively(frontend: str) -> None:
    blocks = [p for p in PATHS if form_of(p).relative.cell == "block_gru"]
    report = golden.run(blocks, adapters.choose("native", frontend))
    assert blocks
    assert report.failed == report.skipped == {}


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.name)
def test_maps_of_weights_are_exact(path: Path) -> None:
    form = form_of(path)
    weights = {f"agent/{name}": value for name, value in weights_of(path).items()}
    found = form.from_canonical(form.to_canonical(weights), form.scope_of(weights))
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"update_bias": 0.0}, "torchrl"),
        ({"epsilon": 1e-2}, "r2dreamer"),
        ({"activation": "gelu"}, "torchrl"),
    ],
)
def test_a_wrong_constant_is_seen(change: dict[str, Any], name: str) -> None:
    path = next(p for p in PATHS if p.name.startswith(name))
    form = form_of(path)
    weights = weights_of(path)
    with np.load(path.with_name(path.name + ".npz")) as file:
        x, h0, y = file["x"], file["h0"], file["y"]
    wrong = dataclasses.replace(form.relative, **change)
    run = reference.forward(wrong, form.to_canonical(weights), x, [h0])
    assert np.abs(run.y - y).max() > 1e-4


def test_masked_steps_are_no_steps() -> None:
    random = np.random.default_rng(3)
    params = draw(DREAMER, Sizes(5, 8, 3, 2, 2, 2), random)
    x, h0 = random.normal(size=(6, 1, 5)), random.normal(size=(1, 8))
    mask = np.array([0, 1, 1, 0, 1, 0], bool)[:, None]
    reset = np.array([0, 0, 0, 1, 1, 0], bool)[:, None]
    run = reference.forward(DREAMER, params, x, [h0], mask=mask, reset=reset)
    short = reference.forward(DREAMER, params, x[mask[:, 0]], [h0], reset=reset[mask[:, 0]])
    np.testing.assert_array_equal(run.y[mask[:, 0]], short.y)
    np.testing.assert_array_equal(run.states[0], short.states[0])
    assert not run.y[~mask[:, 0]].any()


@pytest.mark.parametrize("cell", ["block_gru", "atr", "lrn", "olrn", "sru"])
def test_sizes_are_read_off_the_weights(cell: Any) -> None:
    relative = Relative(cell=cell, epsilon=1e-4)
    sizes = Sizes(5, 8, 3, 2, 2, 2) if cell == "block_gru" else Sizes(5, 8)
    params = draw(relative, sizes, np.random.default_rng(0))
    assert {n: p.shape for n, p in params.items()} == shapes(relative, sizes)
    assert sizes_of(relative, params) == sizes
    with pytest.raises(ValueError, match=r"has the weight|have the shapes"):
        sizes_of(relative, dict(list(params.items())[1:]))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="divide into the blocks"):
        shapes(DREAMER, Sizes(3, 9, 4, 2))
    with pytest.raises(ValueError, match="last of the inputs"):
        shapes(DREAMER, Sizes(3, 8, 4, 2, 1, 3))
    with pytest.raises(ValueError, match="cell is one of"):
        Relative(cell="lstm")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="behind one prefix"):
        RELATIVES["zero_lnlrn"].to_canonical({"kernel": np.ones((2, 3))})
