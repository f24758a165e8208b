"""States: given, returned, carried over batches, in both directions and in stacks."""

# pyright: reportArgumentType=false
# (Keras hints a string for `verbose` and `jit_compile`)

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from keras_cases import (
    BATCH,
    INPUTS,
    KINDS,
    LSTM,
    STEPS,
    UNITS,
    by_reference,
    each_kind,
    gradients,
    initial_states,
    mixed,
    sequences,
    to_numpy,
)

import lnrnn
from lnrnn.keras import Bidirectional
from lnrnn.testing import assert_close


@each_kind
@pytest.mark.parametrize("sequence", [False, True], ids=["last", "all"])
def test_order_of_what_is_returned(kind, sequence):
    layer = mixed(kind.layer(UNITS, return_sequences=sequence, return_state=True))
    y, *states = to_numpy(layer(sequences()))
    expected = by_reference(layer, sequences())
    assert_close("y", y, expected.y if sequence else expected.y[:, -1], "float32")
    assert_close("states", states, expected.states, "float32")


@each_kind
def test_initial_state_in_every_way_to_call(kind):
    layer = mixed(kind.layer(UNITS))
    x, states = sequences(), initial_states(kind)
    expected = by_reference(layer, x, states).y[:, -1]
    inputs = keras.Input((None, INPUTS))
    given = [keras.Input((UNITS,)) for _ in states]
    model = keras.Model([inputs, *given], layer(inputs, given))
    found = {
        "keyword": layer(x, initial_state=states),
        "positional": layer(x, states),
        "functional": model([x, *states]),
    }
    if kind.states == 1:
        found["alone"] = layer(x, initial_state=states[0])
    for name, y in found.items():
        assert_close(name, to_numpy(y), expected, "float32")


@each_kind
def test_learned_states_are_given_where_none_are(kind):
    """To a layer in both directions and to a cell in Keras's own loop, and they learn."""
    learns, plain = (mixed(kind.layer(UNITS, learn_initial_state=on)) for on in (True, False))
    x, weights = sequences(), learns.params()
    plain.load_params({n: w for n, w in weights.items() if not n.startswith("initial")})
    given = [np.tile(weights[f"initial_{n}"], (BATCH, 1)) for n in "hc"[: kind.states]]
    expected, found = gradients(plain, x, initial_state=given), gradients(learns, x)
    assert_close("y", to_numpy(learns(x)), to_numpy(plain(x, initial_state=given)), "float32")
    for name, slope in expected.items():
        assert_close(name, found[name], slope, "float32", gradient=True)
    cell = mixed(kind.cell(UNITS, learn_initial_state=True))
    rnn = keras.layers.RNN(cell)
    rnn.build((None, None, INPUTS))
    assert_close("y", to_numpy(rnn(x)), to_numpy(learns(x)), "float32")
    of_cell = gradients(rnn, x)
    for name in weights:
        if name.startswith("initial"):
            assert found[name].any()
            assert_close(name, of_cell[name], found[name], "float32", gradient=True)
    assert_close(
        "given",
        to_numpy(learns(x, initial_state=initial_states(kind))),
        to_numpy(plain(x, initial_state=initial_states(kind))),
        "float32",
    )


def test_learned_states_are_saved(tmp_path):
    def layer():
        return LSTM.layer(UNITS, learn_initial_state=True)

    model = keras.Sequential(
        [keras.Input((None, INPUTS)), keras.layers.Bidirectional(layer()), keras.layers.Dense(1)]
    )
    mixed(model.layers[0].forward_layer)
    expected = to_numpy(model(sequences()))
    model.save(tmp_path / "model.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "model.keras")
    assert_close("model", to_numpy(loaded(sequences())), expected, "float32")
    lnrnn.save(tmp_path / "layer.safetensors", model.layers[0].forward_layer)
    checkpoint = lnrnn.load(tmp_path / "layer.safetensors")
    again = LSTM.layer.from_params(checkpoint)
    assert again.cell.learn_initial_state
    assert_close(
        "layer", to_numpy(again(sequences())), to_numpy(mixed(layer())(sequences())), "float32"
    )
    with pytest.raises(ValueError, match="make the layer with learn_initial_state=True"):
        mixed(LSTM.layer(UNITS)).load_params(checkpoint.single.params)


@each_kind
@pytest.mark.parametrize("sequence", [False, True], ids=["last", "all"])
def test_burn_in(kind, sequence):
    """The numbers of the whole sequence, and the gradient of its later steps."""
    whole, layer = (mixed(kind.layer(UNITS, return_sequences=sequence, burn_in=n)) for n in (0, 2))
    x, mask = sequences(), np.arange(BATCH * STEPS).reshape(BATCH, STEPS) % 3 > 0
    assert_close("y", to_numpy(layer(x, mask=mask)), to_numpy(whole(x, mask=mask)), "float32")
    states = by_reference(whole, x[:, :2]).states
    found = gradients(layer, x, lambda y: ops.mean(ops.square(y[:, 2:] if sequence else y)))
    expected = gradients(whole, x[:, 2:], initial_state=states)
    assert not found["x"][:, :2].any()
    for name, slope in expected.items():
        here = found[name][:, 2:] if name == "x" else found[name]
        assert_close(name, here, slope, "float32", gradient=True)


def test_burn_in_of_both_directions():
    """The first steps in time: those to which the backward layer comes last."""
    whole, layer = (
        keras.layers.Bidirectional(LSTM.layer(UNITS, return_sequences=True, burn_in=n))
        for n in (0, 2)
    )
    for wrapper in (whole, layer):
        wrapper.build((None, None, INPUTS))
        for one in (wrapper.forward_layer, wrapper.backward_layer):
            mixed(one)
    x = sequences()
    mask = np.arange(STEPS) < np.array([[5], [3], [4]])
    assert_close("y", to_numpy(layer(x, mask=mask)), to_numpy(whole(x, mask=mask)), "float32")
    slope = gradients(layer, x, lambda y: ops.mean(ops.square(y[:, 2:])))["x"]
    assert slope[:, 2:].all() and not slope[:, :2].any()
    assert not gradients(layer, x, lambda y: ops.mean(ops.square(y[:, :2])))["x"].any()


# at its fourth step each row begins an episode, the first row also at a masked step
RESET = np.arange(STEPS) == np.array([[3], [3], [3]])
RESET[0, 1] = True
EPISODE_MASK = np.arange(STEPS) != np.array([[1], [2], [4]])


@each_kind
def test_no_state_crosses_where_an_episode_begins(kind):
    """Backwards with masked steps: each episode is a sequence of its own."""
    layer = mixed(kind.layer(UNITS, return_sequences=True, go_backwards=True))
    whole = mixed(
        kind.layer(UNITS, return_sequences=True, go_backwards=True, zero_output_for_mask=True)
    )
    x = sequences()
    given = {"mask": EPISODE_MASK, "reset": RESET}
    y, repeated = to_numpy(whole(x, **given)), to_numpy(layer(x, **given))
    found = gradients(whole, x, lambda y: ops.sum(ops.square(y)), **given)
    expected = {name: np.zeros_like(slope) for name, slope in found.items()}
    shown = np.zeros_like(y)
    for part in (np.arange(STEPS) < 3, np.arange(STEPS) >= 3):
        own = {"mask": EPISODE_MASK & part}
        slopes = gradients(whole, x, lambda y: ops.sum(ops.square(y)), **own)
        expected = {name: slope + slopes[name] for name, slope in expected.items()}
        shown += to_numpy(whole(x, **own))
    assert_close("y", y, shown, "float32")
    for name, slope in expected.items():
        assert_close(name, found[name], slope, "float32", gradient=True)
    valid = EPISODE_MASK[:, ::-1]
    last = np.zeros_like(y[:, 0])
    for t in range(STEPS):
        last = np.where(valid[:, t, None], y[:, t], last)
        assert_close("repeated", repeated[:, t], last, "float32")


@each_kind
def test_a_reset_goes_to_the_state_that_is_given(kind):
    """Or to the learned one, and gradients go back into both."""
    plain, learns = (
        mixed(kind.layer(UNITS, return_state=True, learn_initial_state=on)) for on in (False, True)
    )
    weights = learns.params()
    names = [n for n in weights if n.startswith("initial")]
    plain.load_params({n: w for n, w in weights.items() if n not in names})
    x, start, again = sequences(), initial_states(kind), [-s for s in initial_states(kind)]
    reset = np.broadcast_to(np.arange(STEPS) == 3, (BATCH, STEPS))
    given = {"initial_state": start, "reset": reset}
    y, *states = to_numpy(plain(x, **given, reset_state=again))
    expected = by_reference(plain, x[:, 3:], again)
    assert_close("y", y, expected.y[:, -1], "float32")
    assert_close("states", states, expected.states, "float32")
    learned = [np.tile(weights[n], (BATCH, 1)) for n in names]
    found = to_numpy(learns(x, **given))
    assert_close("y", found[0], by_reference(plain, x[:, 3:], learned).y[:, -1], "float32")
    slopes = gradients(learns, x, lambda y: ops.mean(ops.square(y[0])), **given)
    alone = gradients(learns, x[:, 3:], lambda y: ops.mean(ops.square(y[0])))
    for name in names:
        assert slopes[name].any()
        assert_close(name, slopes[name], alone[name], "float32", gradient=True)


@pytest.mark.parametrize("both", [False, True], ids=["one_direction", "both"])
def test_resets_in_a_model(tmp_path, both, kind=LSTM):
    """Symbolic, beside a mask that Keras finds, saved and loaded, and in training."""
    layer = kind.layer(UNITS, return_sequences=True)
    wrapper = Bidirectional(layer) if both else layer
    inputs = keras.Input((STEPS, INPUTS))
    flags, *given = keras.Input((STEPS,), dtype="bool"), *(keras.Input((UNITS,)) for _ in "hchc")
    given = given if both else given[:2]
    masked = keras.layers.Masking(-7.0)(inputs)
    model = keras.Model([inputs, flags, *given], wrapper(masked, reset=flags, reset_state=given))
    ahead = mixed(wrapper.forward_layer if both else wrapper)
    x = np.where(EPISODE_MASK[..., None], sequences(), np.float32(-7))
    again = [s + i for i, s in enumerate(2 * initial_states(kind))][: len(given)]
    options = {"mask": EPISODE_MASK, "reset": RESET}
    expected = to_numpy(ahead(x, **options, reset_state=again[:2]))
    if both:
        back = mixed(wrapper.backward_layer, seed=5)
        other = to_numpy(back(x, **options, reset_state=again[2:]))
        expected = np.concatenate([expected, other[:, ::-1]], -1)
    everything = [x, RESET, *again]
    assert_close("y", to_numpy(model(everything)), expected, "float32")
    model.save(tmp_path / "model.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "model.keras")
    assert_close("loaded", loaded.predict(everything, verbose=0), expected, "float32")
    loaded.compile("sgd", "mse")
    loaded.fit(everything, np.zeros_like(expected), verbose=0)
    moved = loaded.predict(everything, verbose=0)
    assert np.isfinite(moved).all() and np.abs(moved - expected).max() > 1e-4


def test_bidirectional_merges_as_keras_does(kind=LSTM):
    """Where no reset is true."""
    x, none = sequences(), np.zeros((BATCH, STEPS), bool)
    given = [s + i for i, s in enumerate(2 * initial_states(kind))]
    for mode in MERGES:
        for sequence in (False, True):
            one = kind.layer(UNITS, return_sequences=sequence, return_state=sequence)
            layer = Bidirectional(one, merge_mode=mode)
            layer.build((None, None, INPUTS))
            expected = to_numpy(layer(x, initial_state=given))
            found = to_numpy(layer(x, initial_state=given, reset=none))
            assert len(found) == len(expected)
            for a, e in zip(found, expected, strict=True):
                assert_close(f"{mode}", a, e, "float32")


@each_kind
def test_stateful_batches_cross_no_reset(kind):
    layer = kind.layer(UNITS, return_sequences=True, stateful=True)
    layer.build((BATCH, None, INPUTS))
    mixed(layer)
    x, reset = sequences(), np.zeros((BATCH, STEPS), bool)
    reset[0, 2] = reset[1, 3] = True
    found = [to_numpy(layer(x[:, part], reset=reset[:, part])) for part in (slice(2), slice(2, 5))]
    expected = by_reference(layer, x, reset=reset.T).y
    assert_close("y", np.concatenate(found, 1), expected, "float32")


@each_kind
def test_encoder_and_decoder(kind):
    """The final states of one layer start another."""
    x = keras.Input((None, INPUTS))
    encoder = kind.layer(UNITS, return_state=True)
    decoder = kind.layer(UNITS, return_sequences=True)
    _, *states = encoder(x)
    model = keras.Model(x, decoder(x, initial_state=states))
    mixed(encoder)
    mixed(decoder, seed=8)
    between = by_reference(encoder, sequences()).states
    expected = by_reference(decoder, sequences(), between).y
    assert_close("y", to_numpy(model(sequences())), expected, "float32")


@each_kind
def test_stateful_batches_are_one_sequence(kind):
    layer = kind.layer(UNITS, return_sequences=True, stateful=True)
    layer.build((BATCH, None, INPUTS))
    mixed(layer)
    x = sequences()
    expected = by_reference(layer, x)
    for reset in (layer.reset_state, layer.reset_states):
        found = [to_numpy(layer(part)) for part in (x[:, :2], x[:, 2:])]
        assert_close("y", np.concatenate(found, 1), expected.y, "float32")
        assert_close(
            "states", [to_numpy(s.value) for s in layer.states], expected.states, "float32"
        )
        reset()
        assert not any(to_numpy(s.value).any() for s in layer.states)


@each_kind
def test_stateful_model_predicts_on_and_on(kind):
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(BATCH, None, INPUTS)),
            kind.layer(UNITS, return_sequences=True, stateful=True),
        ]
    )
    layer = mixed(model.layers[0])
    expected = by_reference(layer, np.concatenate([sequences()] * 2, 1)).y
    found = [model.predict(sequences(), batch_size=BATCH, verbose=0) for _ in range(2)]
    assert_close("y", np.concatenate(found, 1), expected, "float32")


def test_stateful_layer_trains():
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(BATCH, None, INPUTS)),
            LSTM.layer(UNITS, stateful=True),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    x = np.concatenate([sequences()] * 3)
    history = model.fit(x, np.ones((9, 1)), batch_size=BATCH, shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert all(to_numpy(s.value).any() for s in model.layers[0].states)


def test_stateful_layer_refuses_another_batch():
    layer = LSTM.layer(UNITS, stateful=True)
    layer(sequences())
    # Keras's own sentence, or ours where the release has none
    with pytest.raises(ValueError, match=r"batch size|h0 has the shape"):
        layer(sequences(batch=BATCH + 1))


def test_stateful_layer_needs_a_static_batch():
    with pytest.raises(ValueError, match="batch size must be static"):
        LSTM.layer(UNITS, stateful=True)(keras.Input((None, INPUTS)))


@each_kind
def test_go_backwards_returns_the_reversed_order(kind):
    layer = mixed(kind.layer(UNITS, return_sequences=True, return_state=True, go_backwards=True))
    y, *states = to_numpy(layer(sequences(), initial_state=initial_states(kind)))
    expected = by_reference(layer, sequences()[:, ::-1], initial_states(kind))
    assert_close("y", y, expected.y, "float32")
    assert_close("states", states, expected.states, "float32")


MERGES = {
    "concat": lambda a, b: np.concatenate([a, b], -1),
    "sum": lambda a, b: a + b,
    "ave": lambda a, b: (a + b) / 2,
    "mul": lambda a, b: a * b,
    None: lambda a, b: np.stack([a, b]),
}


@pytest.mark.parametrize("mode", MERGES, ids=str)
def test_bidirectional_merges(mode, kind=LSTM):
    layer = keras.layers.Bidirectional(
        kind.layer(UNITS, return_sequences=True, return_state=True), merge_mode=mode
    )
    layer.build((None, None, INPUTS))
    ahead, back = mixed(layer.forward_layer, seed=4), mixed(layer.backward_layer, seed=5)
    given = [s + i for i, s in enumerate(2 * initial_states(kind))]
    half = len(given) // 2
    there = by_reference(ahead, sequences(), given[:half])
    again = by_reference(back, sequences()[:, ::-1], given[half:])
    found = to_numpy(layer(sequences(), initial_state=given))
    outputs = 2 if mode is None else 1
    y = np.stack(found[:2]) if mode is None else found[0]
    assert_close("y", y, MERGES[mode](there.y, again.y[:, ::-1]), "float32")
    # forward h, forward c, backward h, backward c
    states = [to_numpy(s) for s in found[outputs:]]
    assert_close("states", states, [*there.states, *again.states], "float32")


@each_kind
def test_bidirectional_last_output(kind):
    layer = keras.layers.Bidirectional(kind.layer(UNITS))
    layer.build((None, None, INPUTS))
    ahead, back = mixed(layer.forward_layer, seed=4), mixed(layer.backward_layer, seed=5)
    there, again = by_reference(ahead, sequences()), by_reference(back, sequences()[:, ::-1])
    expected = np.concatenate([there.y[:, -1], again.y[:, -1]], -1)
    assert_close("y", to_numpy(layer(sequences())), expected, "float32")


def test_stack_of_cells():
    """RNN of a stack is one cell after the other, with the states of each."""
    cells = [kind.cell(UNITS + i) for i, kind in enumerate(KINDS.values())]
    rnn = keras.layers.RNN(cells, return_sequences=True, return_state=True)
    rnn.build((None, None, INPUTS))
    y, *states = to_numpy(rnn(sequences()))
    assert isinstance(rnn.cell, keras.layers.StackedRNNCells)
    expected = sequences()
    for cell, found in zip(rnn.cell.cells, states, strict=True):
        expected, last = by_reference(cell, expected)
        assert_close("states", np.reshape(found, np.shape(last)), last, "float32")
        expected = expected.astype("float32")
    assert_close("y", y, expected, "float32")


@each_kind
@pytest.mark.parametrize("variant", [None, "other"])
def test_layer_is_rnn_of_the_cell(kind, variant):
    options = {"variant": variant and kind.other_dialect}
    cell = mixed(kind.cell(UNITS, **options))
    layer = kind.layer(UNITS, return_sequences=True, return_state=True, **options)
    layer.build((None, None, INPUTS))
    layer.set_weights(cell.get_weights())
    rnn = keras.layers.RNN(cell, return_sequences=True, return_state=True)
    given = initial_states(kind)
    for a, e in zip(
        to_numpy(layer(sequences(), initial_state=given)),
        to_numpy(rnn(sequences(), initial_state=given)),
        strict=True,
    ):
        assert_close("y", a, e, "float32")


@each_kind
def test_what_rnn_asks_of_a_cell(kind):
    cell = kind.cell(UNITS)
    assert (
        keras.tree.flatten(cell.state_size) == [UNITS] * kind.states and cell.output_size == UNITS
    )
    zeros = cell.get_initial_state(batch_size=BATCH)
    assert [tuple(z.shape) for z in zeros] == [(BATCH, UNITS)] * kind.states


def test_projected_states():
    layer = LSTM.layer(UNITS, projection_units=2, return_sequences=True, return_state=True)
    mixed(layer)
    y, h, c = to_numpy(layer(sequences()))
    expected = by_reference(layer, sequences())
    assert y.shape == (BATCH, STEPS, 2) and h.shape == (BATCH, 2) and c.shape == (BATCH, UNITS)
    assert_close("y", y, expected.y, "float32")
    assert_close("c", c, expected.states[1], "float32")
