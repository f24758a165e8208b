"""Sizes: symbolic, dynamic, one, none, odd and long."""

# pyright: reportArgumentType=false
# (Keras hints a string for `verbose` and `jit_compile`)

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras_cases import (
    BACKEND,
    BATCH,
    GRU,
    INPUTS,
    LSTM,
    SIMPLE,
    STEPS,
    UNITS,
    by_reference,
    each_kind,
    mixed,
    sequences,
    to_numpy,
)

from lnrnn.testing import assert_close


@each_kind
@pytest.mark.parametrize("static", [(None, None), (None, STEPS), (BATCH, None)], ids=str)
def test_symbolic_shapes(kind, static):
    batch, steps = static
    layer = kind.layer(UNITS, return_sequences=True, return_state=True)
    y, *states = layer(keras.Input(batch_shape=(batch, steps, INPUTS)))
    assert y.shape == (batch, steps, UNITS)
    assert [s.shape for s in states] == [(batch, UNITS)] * kind.states
    promised = layer.compute_output_shape((batch, steps, INPUTS))
    assert [tuple(p) for p in promised] == [tuple(s.shape) for s in (y, *states)]
    assert kind.layer(UNITS)(keras.Input((None, INPUTS))).shape == (None, UNITS)


@each_kind
def test_one_model_for_every_batch_and_length(kind):
    layer = kind.layer(UNITS, return_sequences=True)
    model = keras.Sequential([keras.Input((None, INPUTS)), layer])
    mixed(layer)
    for batch, steps in ((BATCH, STEPS), (1, 1), (2, 9)):
        x = sequences(batch, steps)
        expected = by_reference(layer, x).y
        assert_close(f"{batch} {steps}", model.predict(x, verbose=0), expected, "float32")


@each_kind
@pytest.mark.parametrize("units", [1, 7, 31, 33])
def test_odd_sizes(kind, units):
    layer = mixed(kind.layer(units, return_sequences=True), inputs=3)
    x = sequences(inputs=3)
    assert_close("y", to_numpy(layer(x)), by_reference(layer, x).y, "float32")


@each_kind
def test_no_batch(kind):
    """Without a batch there is no output; the loop of TensorFlow runs it too."""
    layer = mixed(kind.layer(UNITS, return_sequences=True, return_state=True))
    y, *states = to_numpy(layer(sequences(batch=0)))
    assert y.shape == (0, STEPS, UNITS)
    assert [s.shape for s in states] == [(0, UNITS)] * kind.states


@each_kind
def test_no_steps(kind):
    layer = mixed(kind.layer(UNITS))
    with pytest.raises(ValueError, match="one step or more"):
        layer(sequences(steps=0))


def test_no_steps_in_a_model():
    """Where the length is found out at run time only."""
    layer = LSTM.layer(UNITS)
    model = keras.Sequential([keras.Input((None, INPUTS)), layer])
    with pytest.raises(ValueError, match="one step or more"):
        model(sequences(steps=0))


def test_long_sequence():
    x = sequences(1, 10_000, 2)
    layer = mixed(SIMPLE.layer(3), inputs=2)
    model = keras.Sequential([keras.Input((None, 2)), layer])
    found = model.predict(x, verbose=0)
    assert found.shape == (1, 3) and np.isfinite(found).all()
    # a contracting recurrence has forgotten its beginning
    expected = by_reference(layer, x[:, -500:]).y[:, -1]
    assert_close("y", found, expected, "float32")


def test_one_feature_warns_where_only_its_sign_survives():
    with pytest.warns(UserWarning, match="sign of a single feature"):
        LSTM.layer(UNITS)(sequences(inputs=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        SIMPLE.layer(UNITS)(sequences(inputs=1))
        LSTM.layer(UNITS)(sequences(inputs=2))


@each_kind
def test_one_unit_warns_at_construction(kind):
    for make in (kind.layer, kind.cell):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            make(1)
            make(1, variant="none")
        # the norms of the GRU are over all three gates
        assert len(found) == (kind is not GRU)
        assert all("A norm over one number gives its bias" in str(w.message) for w in found)
        assert all(w.filename == __file__ for w in found)


@each_kind
def test_unrolled_loop(kind):
    layer = mixed(kind.layer(UNITS, unroll=True, return_sequences=True))
    model = keras.Sequential([keras.Input((STEPS, INPUTS)), layer])
    expected = by_reference(layer, sequences()).y
    assert_close("y", model.predict(sequences(), verbose=0), expected, "float32")


@each_kind
def test_names_of_weights(kind):
    layer = kind.layer(UNITS, name="rnn")
    layer.build((None, None, INPUTS))
    stock = kind.stock(UNITS, name="rnn")
    stock.build((None, None, INPUTS))
    ours, theirs = [w.path for w in layer.weights], [w.path for w in stock.weights]
    assert set(theirs[:2]) == set(ours[:2])
    assert all(path.rpartition("/")[0] == theirs[0].rpartition("/")[0] for path in ours)
    assert not layer.non_trainable_weights


@pytest.mark.parametrize("name", ["call", "cell"])
def test_name_of_the_first_argument(name):
    x = sequences()
    layer = mixed(LSTM.layer(UNITS))
    if name == "call":
        assert_close("y", to_numpy(layer(sequences=x)), to_numpy(layer(x)), "float32")
    else:
        y, _ = layer.cell(inputs=x[:, 0], states=[np.zeros((BATCH, UNITS), "float32")] * 2)
        assert tuple(y.shape) == (BATCH, UNITS)


if BACKEND == "jax":

    def test_vmap_over_layers_inputs():
        import jax

        layer = mixed(LSTM.layer(UNITS))
        x = np.stack([sequences(), 2 * sequences()])
        found = jax.vmap(layer)(x)
        assert_close("y", found[1], to_numpy(layer(x[1])), "float32")
