"""Relatives: weights, the reference and the portable engine, against the originals' numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lnrnn.engines import select
from lnrnn.reference import relatives as reference
from lnrnn.relatives import RELATIVES, Relative
from lnrnn.relatives.relative import DREAMER
from lnrnn.relatives.weights import Sizes, shapes, sizes_of, widths
from lnrnn.testing import adapters, assert_close, check_gradients, golden

FILES = Path(__file__).parent / "golden"
# of every cell, with what changes its weights, and a clip that is reached
CELLS = {
    "block_gru": (DREAMER, Sizes(5, 8, 3, 2, 2, 2)),
    "atr": (Relative(cell="atr"), Sizes(5, 8)),
    "lrn": (Relative(cell="lrn", norm="rms"), Sizes(5, 8)),
    "olrn": (Relative(cell="olrn"), Sizes(5, 8)),
    "sru": (Relative(cell="sru", epsilon=1e-3), Sizes(5, 8)),
    "sru_carry": (Relative(cell="sru_carry", cell_clip=0.8), Sizes(5, 8)),
    "gru_twice": (Relative(cell="gru_twice"), Sizes(5, 8)),
    "hyper_lstm": (Relative(cell="hyper_lstm", forget_bias=0.7), Sizes(5, 8, 3, hyper=4)),
    "hyper_bias": (Relative(cell="hyper_lstm", hyper_bias=True), Sizes(4, 7, 2, hyper=3)),
    "hyper_rms": (Relative(cell="hyper_lstm", norm="rms"), Sizes(4, 7, 2, hyper=3)),
    "double_projection": (
        Relative(cell="double_projection", forget_bias=-0.4),
        Sizes(5, 8, 3, outputs=6),
    ),
}
ALL = pytest.mark.parametrize(("relative", "sizes"), CELLS.values(), ids=list(CELLS))
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


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("frontend", ["torch-op", "jax-op", "tensorflow-op"])
def test_files_of_the_block_gru_pass_natively(frontend: str, dtype: str | None) -> None:
    blocks = [p for p in PATHS if form_of(p).relative.cell == "block_gru"]
    report = golden.run(blocks, adapters.choose("native", frontend), dtype)
    assert blocks
    assert report.failed == report.skipped == {}


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.name)
def test_maps_of_weights_are_exact(path: Path) -> None:
    form = form_of(path)
    weights = {f"agent/{name}": value for name, value in weights_of(path).items()}
    if form.name == "lingvo_sru_ln":
        weights["agent/b"][: len(weights["agent/b"]) // 4] = 0  # never read
    found = form.from_canonical(form.to_canonical(weights), form.scope_of(weights))
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        # a gain stored minus one has a bit less than the gain
        rounding = np.finfo(value.dtype).eps if "ln_scale_" in name else 0
        np.testing.assert_allclose(found[name], value, rtol=0, atol=rounding)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"update_bias": 0.0}, "torchrl"),
        ({"epsilon": 1e-2}, "r2dreamer"),
        ({"activation": "gelu"}, "torchrl"),
        ({"forget_bias": 0.0}, "magenta"),
        ({"epsilon": 1e-3}, "lingvo_lnlstm_doubleproj"),
    ],
)
def test_a_wrong_constant_is_seen(change: dict[str, Any], name: str) -> None:
    path = next(p for p in PATHS if p.name.startswith(name))
    form = form_of(path)
    weights = weights_of(path)
    with np.load(path.with_name(path.name + ".npz")) as file:
        x, h0, y, c0 = file["x"], file["h0"], file["y"], file.get("c0")
    params = form.to_canonical(weights)
    states = list(adapters.apart(adapters.widths(form.relative, params), h0, c0).values())
    wrong = dataclasses.replace(form.relative, **change)
    run = reference.forward(wrong, params, x, states)
    assert np.abs(run.y - y[..., : run.y.shape[2]]).max() > 1e-5


def drawn(
    relative: Relative, sizes: Sizes, steps: int = 6, batch: int = 2
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], adapters.Pass]:
    """Weights, states by name, and a pass with masks and resets that has those states."""
    random = np.random.default_rng(3)
    states = {n: random.normal(size=(batch, w)) for n, w in widths(relative, sizes).items()}
    h0, c0 = adapters.together(states)
    mask = random.random((steps, batch)) < 0.7
    reset = random.random((steps, batch)) < 0.4
    given = adapters.Pass(
        x=random.normal(size=(steps, batch, sizes.inputs)),
        h0=h0,
        c0=c0,
        options={"mask": mask, "reset": reset},
        dy=random.normal(size=(steps, batch, sizes.hidden)),
        dh=random.normal(size=h0.shape),
        dc=None if c0 is None else random.normal(size=c0.shape),
        dtype="float64",
    )
    return draw(relative, sizes, random), states, given


@ALL
def test_gradients_are_slopes_of_the_loss(relative: Relative, sizes: Sizes) -> None:
    params, states, given = drawn(relative, sizes)
    given = given._replace(x=np.tanh(given.x))  # actions out of bounds have a constant for divisor
    ends = adapters.apart(widths(relative, sizes), given.dh, given.dc)

    def run(arrays: Any) -> reference.Forward:
        weights = {name: arrays[name] for name in params}
        begun = [arrays[f"{name}0"] for name in states]
        return reference.forward(relative, weights, arrays["x"], begun, **given.options)

    def loss(arrays: Any) -> float:
        found = run(arrays)
        of_states = zip(found.states, ends.values(), strict=True)
        return float((found.y * given.dy).sum() + sum((s * d).sum() for s, d in of_states))

    arrays = {"x": given.x, **{f"{n}0": s for n, s in states.items()}, **params}
    gradients = reference.backward(run(arrays), np.asarray(given.dy), list(ends.values()))
    check_gradients(loss, arrays, gradients, np.random.default_rng(4))


@ALL
def test_masked_steps_are_no_steps(relative: Relative, sizes: Sizes) -> None:
    params, states, given = drawn(relative, sizes, batch=1)
    mask, reset = given.options["mask"], given.options["reset"]
    begun = list(states.values())
    run = reference.forward(relative, params, given.x, begun, mask=mask, reset=reset)
    valid = mask[:, 0]
    assert 0 < valid.sum() < len(valid) and reset[valid].any()
    short = reference.forward(relative, params, given.x[valid], begun, reset=reset[valid])
    np.testing.assert_array_equal(run.y[valid], short.y)
    for held, last in zip(run.states, short.states, strict=True):
        np.testing.assert_array_equal(held, last)
    assert not run.y[~valid].any()


@pytest.mark.parametrize(
    ("name", "framework"),
    [*((name, "torch") for name in CELLS), ("hyper_bias", "jax"), ("double_projection", "jax")],
)
def test_portable_agrees_with_masks_and_resets(name: str, framework: str) -> None:
    relative, sizes = CELLS[name]
    params, _, given = drawn(relative, sizes)
    given = given._replace(options={**given.options, "masked_output": "zero"})
    wanted = adapters.choose("reference")(relative, params, given)
    found = adapters.tensors("portable", framework)(relative, params, given)
    assert_close("y", found.y, wanted.y, "float64")
    assert_close("h", found.h, wanted.h, "float64")
    assert (found.c is None) == (wanted.c is None)
    if found.c is not None and wanted.c is not None:
        assert_close("c", found.c, wanted.c, "float64")
    assert found.gradients is not None and wanted.gradients is not None
    assert found.gradients.keys() == wanted.gradients.keys()
    for name, gradient in wanted.gradients.items():
        assert_close(name, found.gradients[name], gradient, "float64", gradient=True)


@ALL
def test_portable_steps_make_a_sequence(relative: Relative, sizes: Sizes) -> None:
    params, states, given = drawn(relative, sizes)
    weights = {n: torch.tensor(p) for n, p in params.items()}
    now, x = tuple(map(torch.tensor, states.values())), torch.tensor(given.x)
    request = select.Request(relative, "torch", "float64")
    y, final = select.choose("portable", request).load(request)(relative, weights, x, now)
    for t, one in enumerate(x):
        now = select.relative("torch", "step")(relative, weights, one, now)
        assert_close("h", now[0].numpy(), y[t].numpy(), "float64")
    for ended, last in zip(now, final, strict=True):
        assert_close("state", ended.numpy(), last.numpy(), "float64")


@ALL
def test_sizes_are_read_off_the_weights(relative: Relative, sizes: Sizes) -> None:
    params = draw(relative, sizes, np.random.default_rng(0))
    assert {n: p.shape for n, p in params.items()} == shapes(relative, sizes)
    assert sizes_of(relative, params) == sizes
    for name in params:
        with pytest.raises(ValueError, match=r"has the weight|have the shapes"):
            sizes_of(relative, {n: p for n, p in params.items() if n != name})


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="divide into the blocks"):
        shapes(DREAMER, Sizes(3, 9, 4, 2))
    with pytest.raises(ValueError, match="last of the inputs"):
        shapes(DREAMER, Sizes(3, 8, 4, 2, 1, 3))
    with pytest.raises(ValueError, match="cell is one of"):
        Relative(cell="lstm")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="norm is one of 'rms'"):
        Relative(cell="block_gru")
    with pytest.raises(ValueError, match="cell_clip is a positive bound"):
        Relative(cell="sru_carry", cell_clip=0.0)
    with pytest.raises(ValueError, match="behind one prefix"):
        RELATIVES["zero_lnlrn"].to_canonical({"kernel": np.ones((2, 3))})
