"""The table of published forms: every weight map, both ways, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from lnrnn import dialects
from lnrnn.dialects import (
    DIALECTS,
    OUTSIDE,
    Columns,
    Dialect,
    MinusOne,
    Pixel,
    Rows,
    Shared,
    Stacked,
    Transposed,
    Unused,
    per_gate,
)
from lnrnn.dialects.layout import Layout, Parts
from lnrnn.params import Sizes, shapes
from lnrnn.relatives import RELATIVES
from lnrnn.testing.golden import base_name
from lnrnn.variant import Norm, Variant

GOLDEN = Path(__file__).parent / "golden"
ALL = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=list(DIALECTS))


def sizes_of(dialect: Dialect) -> Sizes:
    """I, H and R all different where they may be, H odd."""
    return Sizes(4, 7, 3 if dialect.variant.projection else 7)


def random_like(named: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Random multiples of 1/1024, so that taking one away and adding it is exact."""
    rng = np.random.default_rng(seed)
    return {n: rng.integers(-3000, 3000, shape) / 1024 for n, shape in named.items()}


def random_params(
    dialect: Dialect, seed: int = 0, sizes: Sizes | None = None
) -> dict[str, np.ndarray]:
    """Canonical weights that the original can have: what is one there is equal here."""
    params = random_like(shapes(dialect.variant, sizes or sizes_of(dialect)), seed)
    for layout in dialect.layout.values():
        if isinstance(layout, Shared):
            rows = [row for row in layout.of.of if isinstance(row, Columns)]
            first = Parts(dialect.variant, params).block(rows[0].param, rows[0].gates)
            for row in rows:
                Parts(dialect.variant, params).block(row.param, row.gates)[:] = first
    return params


def random_weights(dialect: Dialect, seed: int = 1) -> dict[str, np.ndarray]:
    named = dialect.shapes(sizes_of(dialect))
    return random_like({dialect.scope + n: s for n, s in named.items()}, seed)


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(actual) == set(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype, name
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


@ALL
def test_export_then_import_is_the_identity(dialect: Dialect) -> None:
    params = random_params(dialect)
    assert_same(dialect.to_canonical(dialect.from_canonical(params)), params)


@ALL
def test_sizes_are_read_off_the_shapes(dialect: Dialect) -> None:
    for inputs, units, projected in ((1, 1, 1), (1, 9, 1), (6, 1, 2), (5, 5, 5), (4, 3, 8)):
        sizes = Sizes(inputs, units, projected if dialect.variant.projection else units)
        params = random_params(dialect, 4, sizes)
        assert_same(dialect.to_canonical(dialect.from_canonical(params)), params)


@ALL
def test_import_then_export_is_the_identity(dialect: Dialect) -> None:
    weights = random_weights(dialect)
    params = dialect.to_canonical(weights)
    assert_same(dialect.from_canonical(params, unused=weights), weights)


@ALL
def test_gradients_follow_the_chain_rule(dialect: Dialect) -> None:
    """A loss linear in the canonical weights has the mapped gradient in the original's."""
    slopes = random_like(shapes(dialect.variant, sizes_of(dialect)), seed=2)
    weights, moves = random_weights(dialect), random_weights(dialect, seed=3)

    def loss(w: dict[str, np.ndarray]) -> float:
        return sum((slopes[n] * p).sum() for n, p in dialect.to_canonical(w).items())

    moved = loss({n: weights[n] + moves[n] for n in weights}) - loss(weights)
    gradients = dialect.gradients(slopes)
    assert {n: g.shape for n, g in gradients.items()} == {n: w.shape for n, w in weights.items()}
    assert moved == pytest.approx(sum((gradients[n] * moves[n]).sum() for n in moves), rel=1e-12)


@ALL
def test_float32_stays_float32(dialect: Dialect) -> None:
    params = {n: a.astype(np.float32) for n, a in random_params(dialect).items()}
    assert_same(dialect.to_canonical(dialect.from_canonical(params)), params)


@ALL
def test_entry_is_complete(dialect: Dialect) -> None:
    names = set(shapes(dialect.variant, sizes_of(dialect)))
    assert set(dialect.initializers) == names
    assert set(dialect.per_gate) <= names
    assert set(dialect.forget_bias_init) <= names
    assert "c" not in dialect.zoneout or dialect.variant.cell == "lstm"
    assert all((dialect.source.repository, dialect.source.path, dialect.source.commit))
    assert dialect.source.licence


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*__f64.json")), ids=lambda p: p.stem)
def test_names_and_shapes_are_those_of_the_original(path: Path) -> None:
    name = base_name(json.loads(path.read_text())["dialect"])
    if name in OUTSIDE:
        assert name not in DIALECTS
        return
    with np.load(path.with_suffix(".npz")) as file:
        weights = {n[2:]: file[n] for n in file.files if n.startswith("w/")}
    dialect = DIALECTS[name]
    scope = dialect.scope_of(weights)
    back = dialect.from_canonical(dialect.to_canonical(weights), scope, unused=weights)
    assert_same(back, weights)
    if "seqlen" not in path.stem:
        assert scope == dialect.scope


# H = 2; the gates i, f, g, o stand side by side in the canonical weights
LSTM = Variant(cell="lstm", norms=(Norm("sum"),))
KERNEL = np.arange(16.0).reshape(2, 8)
RECURRENT = 100 + KERNEL
GAIN = np.arange(8.0)
BIAS = 10 + np.arange(8.0)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (Columns("sum_norm_gain"), GAIN),
        (Columns("sum_norm_gain", "go"), [4, 5, 6, 7]),
        (Columns("sum_norm_gain", "of"), [6, 7, 2, 3]),
        (Columns("kernel", "gi"), [[4, 5, 0, 1], [12, 13, 8, 9]]),
        (Transposed(Columns("kernel", "f")), [[2, 10], [3, 11]]),
        (
            Stacked(Columns("kernel", "f"), Columns("recurrent_kernel", "f")),
            [[2, 3], [10, 11], [102, 103], [110, 111]],
        ),
        (
            Stacked(Columns("sum_norm_bias", "i"), MinusOne(Columns("sum_norm_gain", "f"))),
            [10, 11, 1, 2],
        ),
        (
            Rows(Columns("sum_norm_gain", "f"), Columns("sum_norm_bias", "f")),
            [[2, 3], [12, 13]],
        ),
        (Rows(Columns("sum_norm_gain", "f")), [[2, 3]]),
        (
            Rows(Columns("kernel", "f"), Columns("kernel", "i")),
            [[[2, 3], [0, 1]], [[10, 11], [8, 9]]],
        ),
        (Pixel(Columns("sum_norm_gain", "f")), [[[2]], [[3]]]),
        (Unused(Columns("sum_norm_gain", "f")), [0, 0]),
    ],
)
def test_layout_entry(layout: Layout, expected: list[float]) -> None:
    arrays = {
        "kernel": KERNEL,
        "recurrent_kernel": RECURRENT,
        "sum_norm_gain": GAIN,
        "sum_norm_bias": BIAS,
    }
    np.testing.assert_array_equal(layout.pack(Parts(LSTM, arrays)), expected)


def test_norm_of_the_concatenated_input_is_split_by_source() -> None:
    variant = Variant(cell="gru", norms=(Norm("pre"),), reset="whole")
    arrays = {"kernel": np.zeros((2, 9)), "pre_norm_gain": np.arange(5.0)}
    packed = Columns("pre_norm_gain", "hx").pack(Parts(variant, arrays))
    np.testing.assert_array_equal(packed, [2, 3, 4, 0, 1])


def test_norms_on_some_gates_only() -> None:
    variant = Variant(cell="gru", norms=(Norm("x", "zn"), Norm("h", "n")))
    parts = Parts(variant, {"x_norm_gain": np.arange(4.0), "h_norm_gain": np.arange(2.0)})
    np.testing.assert_array_equal(parts.block("x_norm_gain", "n"), [2, 3])
    np.testing.assert_array_equal(parts.block("h_norm_gain", "n"), [0, 1])


def test_per_gate_names_each_gate() -> None:
    assert per_gate("w_{}", "kernel", {"i": "in", "o": "out"}, Transposed) == {
        "w_in": Transposed(Columns("kernel", "i")),
        "w_out": Transposed(Columns("kernel", "o")),
    }


def test_offset_is_not_applied_to_gradients() -> None:
    dialect = dialects.get("lingvo_lnlstm_old")
    params = random_params(dialect)
    gains = slice(4 * 7, 8 * 7)
    stored = dialect.from_canonical(params)["b"][gains]
    np.testing.assert_array_equal(stored, dialect.gradients(params)["b"][gains] - 1)


def test_unused_weights_have_zero_gradients_and_default_to_zero() -> None:
    dialect = dialects.get("haste_lnindrnn")
    params = random_params(dialect)
    for weights in (dialect.from_canonical(params), dialect.gradients(params)):
        np.testing.assert_array_equal(weights["gamma"][0], params["x_norm_gain"])
        np.testing.assert_array_equal(weights["gamma"][1], 0)


def test_one_weight_for_several_gates() -> None:
    dialect = dialects.get("axlearn_rmslstm")
    assert dialect.shapes(Sizes(4, 7, 7))["norm/scale"] == (7,)
    weights = random_weights(dialect)
    params = dialect.to_canonical(weights)
    gain = params["sum_norm_gain"].reshape(4, 7)
    np.testing.assert_array_equal(gain, np.tile(weights["norm/scale"], (4, 1)))
    slopes = random_like({n: a.shape for n, a in params.items()}, seed=5)
    np.testing.assert_array_equal(
        dialect.gradients(slopes)["norm/scale"], slopes["sum_norm_gain"].reshape(4, 7).sum(0)
    )
    params["sum_norm_gain"][0] += 1
    with pytest.raises(ValueError, match=r"'axlearn_rmslstm' has one weight 'norm/scale' for 4"):
        dialect.from_canonical(params)


def test_any_one_prefix_is_accepted() -> None:
    dialect = dialects.get("tf1_lnlstm")
    params = random_params(dialect)
    for scope in ("", "model/rnn/cell/"):
        weights = dialect.from_canonical(params, scope)
        assert f"{scope}kernel" in weights
        assert_same(dialect.to_canonical(weights), params)


@pytest.mark.parametrize("change", ["missing", "extra", "two prefixes"])
def test_wrong_names_are_refused(change: str) -> None:
    dialect = dialects.get("tfa_lnlstm")
    weights = random_weights(dialect)
    bias = weights.pop("bias")
    if change == "extra":
        weights |= {"bias": bias, "gamma": bias}
    if change == "two prefixes":
        weights |= {"lstm/bias": bias}
    with pytest.raises(ValueError, match="'tfa_lnlstm' has the weights"):
        dialect.to_canonical(weights)


@pytest.mark.parametrize("shape", [(27,), (28, 1), (1, 28)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    weights = random_weights(dialects.get("tfa_lnlstm")) | {"bias": np.zeros(shape)}
    with pytest.raises(ValueError, match=r"which no sizes give"):
        dialects.get("tfa_lnlstm").to_canonical(weights)


@pytest.mark.parametrize(
    "layout",
    [
        {"kernel": Columns("kernel", "f")},
        {"kernel": Columns("kernel", "ifgg")},
        {"kernel": Columns("kernel"), "again": Columns("kernel", "o")},
        {"kernel": Unused(Columns("kernel"))},
    ],
)
def test_a_layout_places_each_element_once(layout: dict[str, Layout]) -> None:
    dialect = dialects.get("tfa_lnlstm")
    with pytest.raises(ValueError, match=r"'tfa_lnlstm' does not for kernel:"):
        dataclasses.replace(dialect, layout={**dialect.layout, **layout})


def test_get_suggests_the_nearest_names() -> None:
    assert dialects.get("haste_lnlstm") is DIALECTS["haste_lnlstm"]
    with pytest.raises(ValueError, match=r"no dialect named 'hast_lnlstm'.*'haste_lnlstm'"):
        dialects.get("hast_lnlstm")
    with pytest.raises(ValueError, match=r"lnrnn\.dialects\.names"):
        dialects.get("&&&&")
    with pytest.raises(ValueError, match="'zero_lnsru' is no Variant"):
        dialects.get("zero_lnsru")


def test_names_are_sorted_and_apart_from_the_outside() -> None:
    assert list(dialects.names()) == sorted(DIALECTS)
    assert not set(OUTSIDE) & set(DIALECTS)
    assert set(OUTSIDE) == set(RELATIVES)


def test_every_golden_name_is_known() -> None:
    found = {json.loads(p.read_text())["dialect"] for p in GOLDEN.glob("*.json")}
    assert {base_name(name) for name in found} == set(DIALECTS) | set(OUTSIDE)
