"""Masks: a masked step is no step, and shows the previous output or zeros."""

# pyright: reportArgumentType=false
# (Keras hints a string for `verbose` and `jit_compile`)

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras_cases import (
    INPUTS,
    LSTM,
    STEPS,
    UNITS,
    by_reference,
    draw,
    each_kind,
    initial_states,
    mixed,
    sequences,
    to_numpy,
)

from lnrnn import dialects
from lnrnn.testing import assert_close
from lnrnn.testing.contract import verify_contract
from lnrnn.testing.frontends import front_end

# every kind of mask in one batch
ROWS = {
    "no_step_masked": [1, 1, 1, 1, 1],
    "left": [0, 0, 1, 1, 1],
    "right": [1, 1, 1, 0, 0],
    "right_but_one": [1, 0, 0, 0, 0],
    "inside": [1, 0, 1, 0, 1],
    "both_ends": [0, 1, 0, 1, 0],
    "left_but_one": [0, 0, 0, 0, 1],
    "every_step_masked": [0, 0, 0, 0, 0],
}
MASK = np.array(list(ROWS.values()), bool)
B = len(MASK)
each_output = pytest.mark.parametrize("zero", [False, True], ids=["repeat", "zero"])


@each_kind
@each_output
def test_any_mask_agrees_with_the_reference(kind, zero):
    layer = mixed(
        kind.layer(UNITS, return_sequences=True, return_state=True, zero_output_for_mask=zero)
    )
    x, states = sequences(B), initial_states(kind, B)
    y, *final = to_numpy(layer(x, initial_state=states, mask=MASK))
    shown = "zero" if zero else "repeat"
    expected = by_reference(layer, x, states, mask=MASK, masked_output=shown)
    assert_close("y", y, expected.y, "float32")
    assert_close("states", final, expected.states, "float32")


@each_kind
@each_output
@pytest.mark.parametrize("sequence", [False, True], ids=["last", "all"])
def test_layer_agrees_with_the_loop_of_keras(kind, zero, sequence):
    options = {"return_sequences": sequence, "return_state": True, "zero_output_for_mask": zero}
    layer = mixed(kind.layer(UNITS, **options))
    found = to_numpy(layer(sequences(B), mask=MASK))
    expected = to_numpy(keras.layers.RNN(layer.cell, **options)(sequences(B), mask=MASK))
    for a, e in zip(found, expected, strict=True):
        assert_close("y", a, e, "float32")


@each_kind
def test_unrolled_loop_masks_too(kind):
    layer = mixed(kind.layer(UNITS, return_sequences=True, unroll=True))
    y = to_numpy(layer(sequences(B), mask=MASK))
    assert_close("y", y, by_reference(layer, sequences(B), mask=MASK).y, "float32")


@each_kind
def test_go_backwards_flips_the_mask_too(kind):
    layer = mixed(kind.layer(UNITS, return_sequences=True, go_backwards=True))
    y = to_numpy(layer(sequences(B), mask=MASK))
    expected = by_reference(layer, sequences(B)[:, ::-1], mask=MASK[:, ::-1])
    assert_close("y", y, expected.y, "float32")


@each_kind
def test_mask_comes_from_masking_and_passes_on(kind):
    x = sequences(B)
    x[~MASK] = -7.0
    first = kind.layer(UNITS, return_sequences=True)
    second = kind.layer(3)
    model = keras.Sequential(
        [keras.Input((None, INPUTS)), keras.layers.Masking(-7.0), first, second]
    )
    mixed(first)
    mixed(second, inputs=UNITS)
    h = by_reference(first, x, mask=MASK).y.astype("float32")
    expected = by_reference(second, h, mask=MASK).y[:, -1]
    assert_close("y", to_numpy(model(x)), expected, "float32")
    assert_close("predicted", model.predict(x, verbose=0), expected, "float32")


@each_kind
def test_mask_comes_from_an_embedding(kind):
    tokens = np.where(MASK, np.arange(1, 1 + STEPS), 0)
    inputs = keras.Input((None,), dtype="int32")
    embedding = keras.layers.Embedding(10, INPUTS, mask_zero=True)
    layer = kind.layer(UNITS, return_sequences=True)
    model = keras.Model(inputs, layer(embedding(inputs)))
    mixed(layer)
    x = to_numpy(embedding(tokens))
    expected = by_reference(layer, x, mask=MASK)
    assert_close("y", to_numpy(model(tokens)), expected.y, "float32")


def test_the_mask_of_outputs():
    mask = MASK
    assert LSTM.layer(2).compute_mask(None, mask) is None
    assert LSTM.layer(2, return_sequences=True).compute_mask(None, mask) is mask
    states = LSTM.layer(2, return_sequences=True, return_state=True).compute_mask(None, mask)
    assert states[0] is mask and states[1:] == [None, None]


def test_bidirectional():
    layer = keras.layers.Bidirectional(LSTM.layer(UNITS, return_sequences=True, return_state=True))
    layer.build((None, None, INPUTS))
    ahead, back = mixed(layer.forward_layer, seed=4), mixed(layer.backward_layer, seed=5)
    y, *states = to_numpy(layer(sequences(B), mask=MASK))
    # Keras asks for zeros at masked steps here, so that both directions agree
    there = by_reference(ahead, sequences(B), mask=MASK, masked_output="zero")
    again = by_reference(back, sequences(B)[:, ::-1], mask=MASK[:, ::-1], masked_output="zero")
    assert_close("y", y, np.concatenate([there.y, again.y[:, ::-1]], -1), "float32")
    assert_close("states", states, [*there.states, *again.states], "float32")


def test_masks_of_other_types():
    layer = mixed(LSTM.layer(UNITS))
    expected = by_reference(layer, sequences(B), mask=MASK).y[:, -1]
    for given in (MASK.astype("int32"), MASK.astype("float32"), keras.ops.convert_to_tensor(MASK)):
        assert_close("y", to_numpy(layer(sequences(B), mask=given)), expected, "float32")


@each_kind
def test_training_with_masks(kind):
    """Steps behind the mask give no gradient to the weights."""
    model = keras.Sequential(
        [keras.Input((None, INPUTS)), keras.layers.Masking(-7.0), kind.layer(UNITS)]
    )
    mixed(model.layers[-1])
    before = model.get_weights()
    short, target = sequences(steps=3), draw(3, UNITS, seed=9)
    padded = np.full((3, STEPS, INPUTS), -7.0, "float32")
    padded[:, :3] = short
    after = []
    for x in (short, padded):
        model.set_weights(before)
        model.compile("sgd", "mse")
        model.fit(x, target, batch_size=3, verbose=0)
        after.append(model.get_weights())
    for a, e, old in zip(*after, before, strict=True):
        assert_close("weight", a, e, "float32")
        assert np.abs(e - old).max() > 0


@pytest.mark.parametrize("dialect", ["tfa_lnlstm", "dreamerv2_gru", "book_lnsimplernn"])
def test_contract(dialect):
    verify_contract(front_end("keras"), dialects.get(dialect).variant)
