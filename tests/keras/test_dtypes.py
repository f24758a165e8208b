"""Precision: float64, and the two mixed policies."""

# pyright: reportArgumentType=false
# (Keras hints a string for `verbose` and `jit_compile`)

from __future__ import annotations

import keras
import ml_dtypes
import numpy as np
import pytest
from keras_cases import (
    BATCH,
    GRU,
    INPUTS,
    LSTM,
    UNITS,
    by_reference,
    each_kind,
    gradients,
    initial_states,
    mixed,
    sequences,
    to_numpy,
)

from lnrnn.engines import runs
from lnrnn.testing import assert_close

MIXED = {"mixed_bfloat16": "bfloat16", "mixed_float16": "float16"}
each_policy = pytest.mark.parametrize("policy", MIXED)


def _dtypes(values):
    return {keras.backend.standardize_dtype(v.dtype) for v in values}


@each_kind
def test_float64(kind, double_precision):
    layer = mixed(kind.layer(UNITS, dtype="float64", return_sequences=True, return_state=True))
    x, given = sequences().astype("float64"), initial_states(kind)
    y, *states = found = layer(x, initial_state=given)
    assert _dtypes(found) == _dtypes(layer.weights) == {"float64"}
    expected = by_reference(layer, x, given)
    assert_close("y", to_numpy(y), expected.y, "float64")
    assert_close("states", to_numpy(states), expected.states, "float64")


@each_kind
@each_policy
def test_mixed_precision(kind, policy):
    layer = mixed(kind.layer(UNITS, dtype=policy, return_sequences=True, return_state=True))
    y, *states = found = layer(sequences(), initial_state=initial_states(kind))
    assert _dtypes(found) == {MIXED[policy]}
    assert _dtypes(layer.weights) == {"float32"}
    expected = by_reference(layer, sequences(), initial_states(kind))
    numbers = [to_numpy(keras.ops.cast(v, "float32")) for v in (y, *states)]
    for a, e in zip(numbers, (expected.y, *expected.states), strict=True):
        assert_close("y", a, e, MIXED[policy])


@each_kind
@each_policy
def test_gradients_of_mixed_precision_are_finite(kind, policy):
    layer = mixed(kind.layer(UNITS, dtype=policy))
    found = gradients(layer, sequences(), training=True)
    assert all(np.isfinite(g.astype("float32")).all() for g in found.values())
    assert _dtypes(g for name, g in found.items() if name != "x") == {"float32"}
    kernel = next(g for name, g in found.items() if name.endswith("recurrent_kernel"))
    assert (kernel != np.asarray(kernel).astype(ml_dtypes.bfloat16).astype("float32")).any()


@each_policy
def test_noise_of_mixed_precision(policy):
    noise = {"dropout": 0.2, "recurrent_dropout": 0.2, "zoneout": 0.2, "zoneout_cell": 0.2}
    layer = LSTM.layer(UNITS, dtype=policy, weight_dropout=0.2, return_state=True, **noise)
    assert _dtypes(layer(sequences(), training=True)) == {MIXED[policy]}
    assert _dtypes(layer(sequences())) == {MIXED[policy]}


@each_kind
@each_policy
def test_carried_states_of_mixed_precision(kind, policy):
    layer = kind.layer(UNITS, dtype=policy, stateful=True)
    layer.build((BATCH, None, INPUTS))
    mixed(layer)
    x = sequences(steps=2)
    layer(x)
    y = layer(x)
    assert _dtypes(layer.states) == {"float32"} and _dtypes([y]) == {MIXED[policy]}
    expected = by_reference(layer, np.concatenate([x, x], 1)).y[:, -1]
    assert_close("y", to_numpy(keras.ops.cast(y, "float32")), expected, MIXED[policy])


def test_global_policy_and_masks():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(9, 4, mask_zero=True),
            keras.layers.Bidirectional(GRU.layer(UNITS)),
            keras.layers.Dense(1, dtype="float32"),
        ]
    )
    model.compile("adam", "mse")
    tokens = np.array([[1, 2, 0, 0], [0, 0, 3, 4], [5, 6, 7, 8]])
    before = runs(backward=True)
    history = model.fit(tokens, np.ones((3, 1)), epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert (runs(backward=True) - before) == {("native", keras.backend.backend()): 4}
    assert model.layers[1].compute_dtype == "bfloat16"


@each_kind
def test_policy_survives(kind):
    layer = kind.layer(UNITS, dtype=keras.DTypePolicy("mixed_bfloat16"))
    copy = kind.layer.from_config(layer.get_config())
    assert copy.dtype_policy.name == copy.cell.dtype_policy.name == "mixed_bfloat16"


@each_kind
def test_integers_are_cast(kind):
    x = np.arange(BATCH * 5 * INPUTS).reshape(BATCH, 5, INPUTS) % 7
    layer = mixed(kind.layer(UNITS))
    expected = by_reference(layer, x.astype("float64")).y[:, -1]
    assert_close("layer", to_numpy(layer(x)), expected, "float32")
    y, _ = layer.cell(x[:, 0], [np.zeros((BATCH, UNITS), "float32")] * kind.states)
    expected = by_reference(layer, x[:, :1].astype("float64")).y[:, -1]
    assert_close("cell", to_numpy(y), expected, "float32")
