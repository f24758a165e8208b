"""Masks: a masked step is no step, and shows the previous output or zeros."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras_cases import (
    INPUTS,
    KINDS,
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

from lnrnn.testing import assert_close

PATTERNS = {
    "left": [[0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]],
    "right": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]],
    "inside": [[1, 0, 1, 0, 1], [0, 1, 0, 0, 1], [1, 1, 0, 1, 0]],
    "none_valid": [[0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]],
}
MASKS = {name: np.array(rows, bool) for name, rows in PATTERNS.items()}
each_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
each_output = pytest.mark.parametrize("zero", [False, True], ids=["repeat", "zero"])


@each_kind
@each_mask
@each_output
def test_any_mask_agrees_with_the_reference(kind, mask, zero):
    layer = mixed(
        kind.layer(UNITS, return_sequences=True, return_state=True, zero_output_for_mask=zero)
    )
    x, states = sequences(), initial_states(kind)
    y, *final = to_numpy(layer(x, initial_state=states, mask=mask))
    expected = by_reference(
        layer, x, states, mask=mask, masked_output="zero" if zero else "repeat"
    )
    assert_close("y", y, expected.y, "float32")
    assert_close("states", final, expected.states, "float32")


@each_kind
@each_output
def test_layer_agrees_with_the_loop_of_keras(kind, zero):
    layer = mixed(kind.layer(UNITS, return_state=True, zero_output_for_mask=zero))
    for sequence in (False, True):
        layer.return_sequences = sequence
        rnn = keras.layers.RNN(
            layer.cell,
            return_sequences=sequence,
            return_state=True,
            zero_output_for_mask=zero,
        )
        for mask in MASKS.values():
            found = to_numpy(layer(sequences(), mask=mask))
            expected = to_numpy(rnn(sequences(), mask=mask))
            for a, e in zip(found, expected, strict=True):
                assert_close(f"{mask} {sequence}", a, e, "float32")


@each_kind
@pytest.mark.parametrize("unroll", [False, True])
def test_masked_steps_are_no_steps(kind, unroll):
    layer = mixed(kind.layer(UNITS, return_state=True, unroll=unroll))
    x, states, mask = sequences(), initial_states(kind), MASKS["inside"]
    _, *final = to_numpy(layer(x, initial_state=states, mask=mask))
    for row, valid in enumerate(mask):
        short = x[row : row + 1, valid]
        _, *expected = to_numpy(layer(short, initial_state=[s[row : row + 1] for s in states]))
        assert_close("states", [s[row : row + 1] for s in final], expected, "float32")


@each_kind
def test_row_without_any_valid_step(kind):
    layer = mixed(kind.layer(UNITS, return_sequences=True, return_state=True))
    states = initial_states(kind)
    y, *final = to_numpy(
        layer(sequences(), initial_state=states, mask=np.zeros((3, STEPS), bool))
    )
    assert not y.any()
    assert_close("states", final, states, "float32")


@each_kind
def test_values_at_masked_steps_do_not_matter(kind):
    layer = mixed(kind.layer(UNITS, return_sequences=True, return_state=True))
    mask, x = MASKS["inside"], sequences()
    garbage = np.where(mask[..., None], x, np.float32(1e6))
    for a, e in zip(
        to_numpy(layer(garbage, mask=mask)), to_numpy(layer(x, mask=mask)), strict=True
    ):
        assert_close("y", a, e, "float32")


@each_kind
def test_last_output_is_the_last_valid_one(kind):
    layer = mixed(kind.layer(UNITS))
    y = to_numpy(layer(sequences(), mask=MASKS["right"]))
    expected = by_reference(layer, sequences())
    last = MASKS["right"].sum(1) - 1
    assert_close("y", y, expected.y[np.arange(3), last], "float32")


@each_kind
def test_go_backwards_flips_the_mask_too(kind):
    layer = mixed(kind.layer(UNITS, return_sequences=True, go_backwards=True))
    y = to_numpy(layer(sequences(), mask=MASKS["inside"]))
    expected = by_reference(layer, sequences()[:, ::-1], mask=MASKS["inside"][:, ::-1])
    assert_close("y", y, expected.y, "float32")


@each_kind
def test_mask_comes_from_masking_and_passes_on(kind):
    x = sequences()
    x[~MASKS["inside"]] = -7.0
    first = kind.layer(UNITS, return_sequences=True)
    second = kind.layer(3)
    model = keras.Sequential([keras.Input((None, INPUTS)), keras.layers.Masking(-7.0), first, second])
    mixed(first)
    mixed(second, inputs=UNITS)
    h = by_reference(first, x, mask=MASKS["inside"]).y.astype("float32")
    expected = by_reference(second, h, mask=MASKS["inside"]).y[:, -1]
    assert_close("y", to_numpy(model(x)), expected, "float32")
    assert_close("predicted", model.predict(x, verbose=0), expected, "float32")


@each_kind
def test_mask_comes_from_an_embedding(kind):
    tokens = np.where(MASKS["left"], np.arange(1, 1 + STEPS), 0)
    inputs = keras.Input((None,), dtype="int32")
    embedding = keras.layers.Embedding(10, INPUTS, mask_zero=True)
    layer = kind.layer(UNITS, return_sequences=True)
    embedded = embedding(inputs)
    model = keras.Model(inputs, layer(embedded))
    mixed(layer)
    x = to_numpy(embedding(tokens))
    expected = by_reference(layer, x, mask=MASKS["left"])
    assert_close("y", to_numpy(model(tokens)), expected.y, "float32")


def test_the_mask_of_outputs():
    mask = MASKS["right"]
    assert LSTM.layer(2).compute_mask(None, mask) is None
    assert LSTM.layer(2, return_sequences=True).compute_mask(None, mask) is mask
    states = LSTM.layer(2, return_sequences=True, return_state=True).compute_mask(None, mask)
    assert states[0] is mask and states[1:] == [None, None]


@pytest.mark.parametrize("pattern", MASKS)
def test_bidirectional(pattern):
    kind, mask = LSTM, MASKS[pattern]
    layer = keras.layers.Bidirectional(kind.layer(UNITS, return_sequences=True, return_state=True))
    layer.build((None, None, INPUTS))
    ahead, back = mixed(layer.forward_layer, seed=4), mixed(layer.backward_layer, seed=5)
    y, *states = to_numpy(layer(sequences(), mask=mask))
    there = by_reference(ahead, sequences(), mask=mask, masked_output="zero")
    again = by_reference(
        back, sequences()[:, ::-1], mask=mask[:, ::-1], masked_output="zero"
    )
    assert_close("y", y, np.concatenate([there.y, again.y[:, ::-1]], -1), "float32")
    assert_close("states", states, [*there.states, *again.states], "float32")


@pytest.mark.parametrize("kind", [KINDS["gru"]], ids=["gru"])
def test_masks_of_other_types(kind):
    """Integers and tensors as masks."""
    layer = mixed(kind.layer(UNITS))
    mask = MASKS["inside"]
    expected = to_numpy(layer(sequences(), mask=mask))
    for given in (mask.astype("int32"), keras.ops.convert_to_tensor(mask)):
        assert_close("y", to_numpy(layer(sequences(), mask=given)), expected, "float32")


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
