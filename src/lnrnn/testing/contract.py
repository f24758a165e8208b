"""What holds for every front end, checked through its adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from lnrnn.params import Sizes
from lnrnn.testing.adapters import Adapter, Pass, Results
from lnrnn.testing.cases import random_params
from lnrnn.testing.frontends import FrontEnd
from lnrnn.testing.tolerances import assert_close
from lnrnn.variant import Variant

Array = np.ndarray
Run = Callable[[Pass], Results]

STEPS, BATCH, SIZES = 4, 2, Sizes(4, 5, 5)


def verify_contract(run: FrontEnd | Adapter, variant: Variant, dtype: str = "float64") -> None:
    """Raise unless a front end keeps to what users of sequences rely on, values and gradients.

    A whole sequence is its steps and blocks, the states carried; what stands at masked
    steps, a NaN as well, and in further rows of the batch does not matter; resets make separate
    sequences; a second run is the first again.  Of a front end also: its cell in a loop is the
    sequence, weights come back from a file as they were, and a second call compiles nothing.

    Args:
        run: the front end, as of [lnrnn.testing.frontends][], or something else that runs
            sequences, as of [lnrnn.testing.adapters][].
        variant: a cell without a projection.
        dtype: name of the dtype of the runs.

    Raises:
        AssertionError: what does not hold.

    Example:
        >>> from lnrnn import dialects
        >>> from lnrnn.testing import adapters
        >>> verify_contract(adapters.choose("reference"), dialects.get("haste_lngru").variant)
    """
    rng = np.random.default_rng(17)
    params = random_params(variant, SIZES, rng)
    given = Pass(
        rng.standard_normal((STEPS, BATCH, SIZES.inputs)),
        *_pair(0.5 * rng.standard_normal((2, BATCH, SIZES.units)), variant),
        {},
        rng.standard_normal((STEPS, BATCH, SIZES.units)),
        *_pair(rng.standard_normal((2, BATCH, SIZES.units)), variant),
        dtype,
    )

    front = run if isinstance(run, FrontEnd) else None
    adapter = run.run if isinstance(run, FrontEnd) else run

    def one(given: Pass) -> Results:
        return adapter(variant, params, given)

    whole = one(given)
    _assert_same("a second run", one(given), whole, dtype)
    _assert_same("two steps and a block", _in_blocks(one, given, (1, 1, 2)), whole, dtype)
    _check_rows(one, given, whole)
    _check_mask(one, given)
    _check_reset(one, given)
    if front is not None:
        _assert_same("its cell in a loop", front.steps(variant, params, given), whole, dtype)
        _check_file(front, variant, params)
        again = front.compiled(variant, params, given)
        assert again == 0, f"A second call compiles nothing; there were {again} compilations."


def _check_rows(run: Run, given: Pass, whole: Results) -> None:
    """What stands in further rows of the batch does not matter, nor to gradients if finite."""
    for value in (np.nan, 1e3):
        more = given._replace(
            **{n: _with_rows(getattr(given, n), value) for n in ("x", "h0", "c0")},
            **{n: _with_rows(getattr(given, n), 0.0) for n in ("dy", "dh", "dc")},
        )
        finite = np.isfinite(value)
        found = run(more if finite else more._replace(dy=None, dh=None, dc=None))
        gradients = None
        if finite:
            gradients = {
                n: g[..., :BATCH, :] if n in ("x", "h0", "c0") else g
                for n, g in (found.gradients or {}).items()
            }
        kept = Results(found.y[:, :BATCH], found.h[:BATCH], _rows(found.c), gradients)
        expected = whole if finite else whole._replace(gradients=None)
        _assert_same(f"rows before rows of {value}", kept, expected, given.dtype)


def _with_rows(array: Array | None, value: float) -> Array | None:
    """An array with as many further rows of the batch."""
    if array is None:
        return None
    return np.concatenate([array, np.full_like(array, value)], array.ndim - 2)


def _check_file(front: FrontEnd, variant: Variant, params: Mapping[str, Array]) -> None:
    """Weights come back from a file to the bit."""
    narrow = {name: value.astype(np.float32) for name, value in params.items()}
    with TemporaryDirectory() as folder:
        found = front.kept(variant, narrow, Path(folder, "layer.safetensors"))
    assert list(found) == list(narrow), f"Weights come back in their order; got {list(found)}."
    for name, value in narrow.items():
        assert np.array_equal(found[name], value), f"{name} is another one after a file."


def _check_mask(run: Run, given: Pass) -> None:
    """Each row is the sequence of its valid steps; a NaN at the others reaches nothing."""
    mask = np.array([[True, False], [False, True], [True, True], [True, False]])
    x = np.where(mask[..., None], given.x, np.nan)
    found = run(given._replace(x=x, options={"mask": mask, "masked_output": "zero"}))
    parts = []
    for row in range(BATCH):
        valid = mask[:, row]
        part = run(_row(given, row, valid))
        parts.append(_spread(part, valid))
    _assert_same("a masked sequence", found, _beside(parts), given.dtype)


def _check_reset(run: Run, given: Pass) -> None:
    """A reset makes separate sequences: that before it, and one from zeros."""
    reset = np.zeros((STEPS, BATCH), bool)
    reset[2, 0] = reset[0, 1] = reset[3, 1] = True
    found = run(given._replace(options={"reset": reset}))
    parts = []
    for row in range(BATCH):
        starts = np.flatnonzero(reset[:, row])
        lengths = np.diff(np.array([0, *starts, STEPS]))
        one = _row(given, row, np.ones(STEPS, bool))
        parts.append(_in_blocks(run, one, [int(n) for n in lengths], separate=True))
    _assert_same("a sequence with resets", found, _beside(parts), given.dtype)


def _in_blocks(run: Run, given: Pass, lengths: Sequence[int], separate: bool = False) -> Results:
    """Runs over blocks of a pass, states and their gradients carried, or cut if `separate`."""
    h, c = given.h0, given.c0
    blocks, start = [], 0
    for index, length in enumerate(lengths):
        if separate and index:
            h, c = (None if s is None else np.zeros_like(s) for s in (h, c))
        if length == 0:
            continue
        time = slice(start, start + length)
        dy = None if given.dy is None else given.dy[time]
        block = given._replace(x=given.x[time], h0=h, c0=c, dy=dy, dh=None, dc=None)
        blocks.append((block, index))
        start += length
        if start < len(given.x) and not separate:
            result = run(block._replace(dy=None))
            h, c = result.h, result.c
    last, dh, dc = None, given.dh, given.dc
    total: dict[str, Array] = {}
    outputs, of_x = [], []
    for block, index in reversed(blocks):
        result = run(block._replace(dh=dh, dc=dc))
        last = last or result
        assert result.gradients is not None
        gradients = dict(result.gradients)
        outputs.append(result.y)
        of_x.append(gradients.pop("x"))
        dh, dc = gradients.pop("h0"), gradients.pop("c0", None)
        total = {n: g + total.get(n, 0) for n, g in gradients.items()}
        if separate and index:
            dh, dc = (None if d is None else np.zeros_like(d) for d in (dh, dc))
    assert last is not None
    total |= {"x": np.concatenate(of_x[::-1]), "h0": _some(dh)}
    if dc is not None:
        total["c0"] = dc
    return Results(np.concatenate(outputs[::-1]), last.h, last.c, total)


def _row(given: Pass, row: int, valid: Array) -> Pass:
    """One row of a pass, at its valid steps."""
    rows = slice(row, row + 1)
    h0, c0, dh, dc = (
        None if a is None else a[rows] for a in (given.h0, given.c0, given.dh, given.dc)
    )
    dy = None if given.dy is None else given.dy[valid][:, rows]
    return Pass(given.x[valid][:, rows], h0, c0, {}, dy, dh, dc, given.dtype)


def _spread(part: Results, valid: Array) -> Results:
    """Results at valid steps as those of all steps, zeros elsewhere."""

    def wide(array: Array) -> Array:
        found = np.zeros((len(valid), *array.shape[1:]), array.dtype)
        found[valid] = array
        return found

    assert part.gradients is not None
    gradients = part.gradients | {"x": wide(part.gradients["x"])}
    return part._replace(y=wide(part.y), gradients=gradients)


def _beside(parts: Sequence[Results]) -> Results:
    """Results of rows as those of a batch."""
    gradients: dict[str, Array] = {}
    for name in parts[0].gradients or {}:
        each = [(p.gradients or {})[name] for p in parts]
        axis = {"x": 1, "h0": 0, "c0": 0}.get(name)
        gradients[name] = np.sum(each, 0) if axis is None else np.concatenate(each, axis)
    c = None if parts[0].c is None else np.concatenate([_some(p.c) for p in parts])
    y = np.concatenate([p.y for p in parts], 1)
    return Results(y, np.concatenate([p.h for p in parts]), c, gradients)


def _some(array: Array | None) -> Array:
    assert array is not None
    return array


def _rows(array: Array | None) -> Array | None:
    return None if array is None else array[:BATCH]


def _pair(states: Array, variant: Variant) -> tuple[Array, Array | None]:
    return states[0], states[1] if variant.cell == "lstm" else None


def _assert_same(what: str, actual: Results, expected: Results, dtype: str) -> None:
    names: tuple[Any, ...] = ("y", "h", "c")
    for name in names:
        one, other = getattr(actual, name), getattr(expected, name)
        if other is not None:
            assert_close(f"{name} of {what}", one, other, dtype)
    for name, gradient in (expected.gradients or {}).items():
        found = (actual.gradients or {})[name]
        assert_close(f"gradient of {name} of {what}", found, gradient, dtype, gradient=True)
