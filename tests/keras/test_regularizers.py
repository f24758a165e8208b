"""Dropout, zoneout and DropConnect: rates, scales, fresh or fixed, and inference."""

# pyright: reportArgumentType=false
# (Keras hints a string for `verbose` and `jit_compile`)

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras_cases import (
    BACKEND,
    GRU,
    INPUTS,
    LSTM,
    SIMPLE,
    UNITS,
    by_reference,
    each_kind,
    initial_states,
    mixed,
    sequences,
    to_numpy,
)

from lnrnn.engines.portable import on
from lnrnn.testing import assert_close

B, T, H, RATE = 40, 6, 30, 0.3
KEEP = 1 - RATE


def _share(values) -> None:
    """Assert that ones came with probability KEEP, to five standard deviations."""
    values = np.asarray(values, float)
    assert set(np.unique(values)) <= {0.0, 1.0}
    assert abs(values.mean() - KEEP) < 5 * np.sqrt(KEEP * RATE / values.size)


def _fresh(values) -> None:
    """Assert that neighbours along the first axis are independent, to five deviations."""
    a, b = np.asarray(values[:-1], float) - KEEP, np.asarray(values[1:], float) - KEEP
    assert abs((a * b).mean()) < 5 * KEEP * RATE / np.sqrt(a.size)


def _visible(kind, place="layer", *, weights, **noise):
    """A linear layer without norms and with simple weights, whose outputs show its masks."""
    options = {"variant": "none", "activation": "linear", **noise}
    if place == "layer":
        layer = kind.layer(H, return_sequences=True, return_state=True, **options)
    else:
        cell = kind.cell(H, **options)
        layer = keras.layers.RNN(cell, return_sequences=True, return_state=True)
    layer.build((None, None, H))
    cell = layer.cell
    cell.load_params({n: np.zeros_like(v) + weights.get(n, 0) for n, v in cell.params().items()})
    return layer


EYE, NONE = np.eye(H), np.zeros((B, T, H), "float32")
ONES = np.ones((B, T, H), "float32")
each_place = pytest.mark.parametrize("place", ["layer", "cell"])
# where a cell in keras.layers.RNN can draw a mask for each step
stepwise_places = pytest.mark.parametrize(
    "place", ["layer"] if BACKEND == "jax" else ["layer", "cell"]
)


@each_place
def test_dropout(place):
    layer = _visible(SIMPLE, place, weights={"kernel": EYE}, dropout=RATE)
    masks = [to_numpy(layer(ONES, training=True))[0] for _ in range(2)]
    for mask in masks:
        assert np.array_equal(mask, np.repeat(mask[:, :1], T, 1))  # fixed over time
        _share(np.isclose(mask[:, 0] * KEEP, 1))
        assert np.isclose(mask, 0).mean() + np.isclose(mask * KEEP, 1).mean() == 1
    assert not np.array_equal(*masks)
    assert not np.array_equal(masks[0][0], masks[0][1])  # each sample its own
    assert np.array_equal(to_numpy(layer(ONES))[0], ONES)


@each_place
def test_recurrent_dropout_over_a_sequence(place):
    layer = _visible(SIMPLE, place, weights={"recurrent_kernel": EYE}, recurrent_dropout=RATE)
    h = np.ones((B, H), "float32")
    masks = [to_numpy(layer(NONE, initial_state=[h], training=True))[0] for _ in range(2)]
    for y in masks:
        # h goes through the same mask at each step
        assert_close("y", y, (y[:, :1]) ** np.arange(1, T + 1)[:, None], "float32")
        _share(np.isclose(y[:, 0] * KEEP, 1))
    assert not np.array_equal(*masks)
    assert np.array_equal(to_numpy(layer(NONE, initial_state=[h]))[0], ONES)


@stepwise_places
def test_recurrent_dropout_at_each_step(place):
    layer = _visible(
        SIMPLE,
        place,
        # h is 1 before each product: the bias restores it from what the mask did
        weights={"recurrent_kernel": KEEP * EYE},
        recurrent_dropout=RATE,
        recurrent_dropout_mode="step",
    )
    h = np.ones((B, H), "float32")
    y = to_numpy(layer(NONE, initial_state=[h], training=True))[0]
    taken = y[:, 1:][y[:, :-1] == 1]
    _share(y[:, 0])
    _share(taken)
    assert not np.array_equal(y, to_numpy(layer(NONE, initial_state=[h], training=True))[0])
    untouched = to_numpy(layer(NONE, initial_state=[h]))[0]
    expected = np.ones((B, 1, H)) * KEEP ** np.arange(1, T + 1)[:, None]
    assert_close("y", untouched, expected, "float32")


def _gates(*values):
    return np.repeat(values, H)


@stepwise_places
def test_candidate_dropout_of_the_lstm(place):
    layer = _visible(
        LSTM,
        place,
        # i, f and o open, g of one: the cell counts its updates
        weights={"bias": _gates(50.0, 50.0, 1.0, 50.0)},
        recurrent_dropout=RATE,
        recurrent_dropout_mode="candidate",
    )
    y = to_numpy(layer(NONE, training=True))[0]
    updates = np.diff(y, axis=1, prepend=0) * KEEP
    _share(np.round(updates, 4))
    _fresh(np.round(updates, 4).swapaxes(0, 1))
    assert_close("y", to_numpy(layer(NONE))[0], np.cumsum(ONES, 1), "float32")


@stepwise_places
def test_candidate_dropout_of_the_gru(place):
    layer = _visible(
        GRU,
        place,
        # z shut, n of one: every step shows its candidate
        weights={"bias_x": _gates(0.0, -50.0, 1.0)},
        recurrent_dropout=RATE,
        recurrent_dropout_mode="candidate",
    )
    y = to_numpy(layer(NONE, training=True))[0] * KEEP
    _share(np.round(y, 4))
    _fresh(np.round(y, 4).swapaxes(0, 1))
    assert_close("y", to_numpy(layer(NONE))[0], ONES, "float32")


@stepwise_places
def test_zoneout_of_h(place):
    # h counts the steps that it takes part in
    weights = {"recurrent_kernel": EYE, "bias": 1.0}
    layer = _visible(SIMPLE, place, weights=weights, zoneout=RATE)
    y, h = to_numpy(layer(NONE, training=True))
    taken = np.diff(y, axis=1, prepend=0)
    _share(taken)
    _fresh(taken.swapaxes(0, 1))
    assert np.array_equal(y[:, -1], h)
    assert not np.array_equal(y, to_numpy(layer(NONE, training=True))[0])
    expected = KEEP * np.cumsum(ONES, 1)
    assert_close("y", to_numpy(layer(NONE))[0], expected, "float32")


@stepwise_places
def test_zoneout_of_c(place):
    weights = {"bias": _gates(50.0, 50.0, 1.0, 50.0)}
    layer = _visible(LSTM, place, weights=weights, zoneout_cell=RATE)
    y, _, c = to_numpy(layer(NONE, training=True))
    # the output shows the new cell, which the state may not take: y_t = c_{t-1} + 1
    cells = np.concatenate([y[:, 1:] - 1, c[:, None]], 1).round(4)
    taken = cells[:, 1:] - cells[:, :-1]
    _share(taken)
    _fresh(taken.swapaxes(0, 1))
    assert_close("c", to_numpy(layer(NONE))[2], KEEP * T * np.ones((B, H)), "float32")


def test_zoneout_of_h_leaves_c_alone():
    weights = {"bias": _gates(50.0, 50.0, 1.0, 50.0)}
    layer = _visible(LSTM, weights=weights, zoneout=RATE)
    _, h, c = to_numpy(layer(NONE, training=True))
    assert_close("c", c, T * np.ones((B, H)), "float32")
    assert (np.round(h, 3) < T).any()


@each_place
def test_weight_dropout(place):
    weights = {"recurrent_kernel": np.ones((H, H))}
    layer = _visible(SIMPLE, place, weights=weights, weight_dropout=RATE)
    states = np.eye(H, dtype="float32")
    x = NONE[:H, :2]
    first, second = (to_numpy(layer(x, initial_state=[states], training=True))[0] for _ in "ab")
    # from the unit vectors, one step shows the matrix and two its square
    matrix = first[:, 0]
    _share(np.isclose(matrix * KEEP, 1))
    assert np.isclose(matrix, 0).mean() + np.isclose(matrix * KEEP, 1).mean() == 1
    assert_close("two steps", first[:, 1], matrix @ matrix, "float32")
    assert not np.array_equal(first, second)
    assert np.array_equal(to_numpy(layer(x, initial_state=[states]))[0][:, 0], np.ones((H, H)))


NOISES = {
    "dropout": {"dropout": 0.4},
    "sequence": {"recurrent_dropout": 0.4},
    "step": {"recurrent_dropout": 0.4, "recurrent_dropout_mode": "step"},
    "candidate": {"recurrent_dropout": 0.4, "recurrent_dropout_mode": "candidate"},
    "zoneout": {"zoneout": 0.4},
    "zoneout_cell": {"zoneout_cell": 0.4},
    "weight_dropout": {"weight_dropout": 0.4},
    "all": {
        "dropout": 0.2,
        "recurrent_dropout": 0.2,
        "zoneout": 0.2,
        "weight_dropout": 0.2,
    },
}
FITTING = {
    f"{kind.name}_{noise}": (kind, NOISES[noise])
    for kind in (SIMPLE, LSTM, GRU)
    for noise in NOISES
    if (kind is LSTM or noise != "zoneout_cell") and (kind is not SIMPLE or noise != "candidate")
}


NOISE_NAMES = ("take_h", "take_c", "recurrent_mask", "candidate_mask")


def _record(monkeypatch):
    """Keep what the layer hands to its engine."""
    given, sequence = {}, on(BACKEND).sequence

    def recorded(variant, params, x, states, **options):
        noise = {k: options[k] for k in NOISE_NAMES if options.get(k) is not None}
        given.update(params=params, x=x, noise=noise)
        return sequence(variant, params, x, states, **options)

    monkeypatch.setattr(on(BACKEND), "sequence", recorded)
    return given


@pytest.mark.parametrize("case", FITTING)
def test_masks_that_were_drawn_act_as_in_the_reference(case, monkeypatch):
    kind, noise = FITTING[case]
    layer = mixed(
        kind.layer(UNITS, return_sequences=True, return_state=True, engine="portable", **noise)
    )
    given = _record(monkeypatch)
    x, states = sequences(), initial_states(kind)
    mask = np.array([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1]], bool)
    y, *final = to_numpy(layer(x, initial_state=states, mask=mask, training=True))
    clean = by_reference(layer, x, states, mask=mask)
    assert np.abs(y - clean.y).max() > 1e-3
    drawn = to_numpy(given)
    for name, (_, names) in layer.cell.layout.weights.items():
        rows = [drawn["params"][n] for n in names]
        getattr(layer.cell, name).assign(rows[0] if len(rows) == 1 else np.stack(rows))
    dropped = drawn["x"].swapaxes(0, 1)
    expected = by_reference(layer, dropped, states, mask=mask, **drawn["noise"])
    assert_close("y", y, expected.y, "float32")
    assert_close("states", final, expected.states, "float32")


@pytest.mark.parametrize("case", FITTING)
def test_inference_draws_nothing(case):
    kind, noise = FITTING[case]
    layer = mixed(kind.layer(UNITS, return_sequences=True, **noise))
    shares = {"zoneout": "take_h", "zoneout_cell": "take_c"}
    expected = {shares[k]: 1 - v for k, v in noise.items() if k in shares}
    seeds = to_numpy(layer.cell.seed_generator.state.value)
    y = to_numpy(layer(sequences()))
    assert_close("y", y, by_reference(layer, sequences(), **expected).y, "float32")
    assert np.array_equal(seeds, to_numpy(layer.cell.seed_generator.state.value))


@pytest.mark.parametrize("case", FITTING)
def test_two_training_calls_differ(case):
    kind, noise = FITTING[case]
    layer = mixed(kind.layer(UNITS, **noise))
    first, second = (to_numpy(layer(sequences(), training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-4


@pytest.mark.parametrize("case", [c for c in FITTING if "lstm" in c])
def test_cell_in_rnn(case):
    kind, noise = FITTING[case]
    rnn = keras.layers.RNN(mixed(kind.cell(UNITS, **noise)))
    moving = {"zoneout", "zoneout_cell"} & set(noise) or "recurrent_dropout_mode" in noise
    if moving and BACKEND == "jax":
        with pytest.raises(ValueError, match="cannot draw a mask for each step"):
            rnn(sequences(), training=True)
    else:
        first, second = (to_numpy(rnn(sequences(), training=True)) for _ in range(2))
        assert np.abs(first - second).max() > 1e-4
    shares = {"zoneout": "take_h", "zoneout_cell": "take_c"}
    expected = {shares[k]: 1 - v for k, v in noise.items() if k in shares}
    y = to_numpy(rnn(sequences()))
    assert_close("y", y, by_reference(rnn, sequences(), **expected).y[:, -1], "float32")


@pytest.mark.parametrize("noise", NOISES)
def test_one_step_of_the_cell(noise):
    """By hand, without a layer: again and again, and on every backend."""
    cell = mixed(LSTM.cell(UNITS, **NOISES[noise]))
    x, states = sequences()[:, 0], initial_states(LSTM)
    outputs = [to_numpy(cell(x, states, training=True)) for _ in range(2)]
    assert all(np.isfinite(np.concatenate([y, *new])).all() for y, new in outputs)
    y, _ = cell(x, states)
    share = {"take_h": 1 - cell.zoneout, "take_c": 1 - cell.zoneout_cell}
    expected = by_reference(cell, x[:, None], states, **share).y[:, 0]
    assert_close("y", to_numpy(y), expected, "float32")


def test_stack_of_cells_trains():
    cells = [kind.cell(UNITS, dropout=0.3, recurrent_dropout=0.3) for kind in (LSTM, GRU, SIMPLE)]
    model = keras.Sequential([keras.Input((None, INPUTS)), keras.layers.RNN(cells)])
    model.compile("sgd", "mse")
    history = model.fit(sequences(), np.ones((3, UNITS)), verbose=0, epochs=2)
    assert np.isfinite(history.history["loss"]).all()


@each_kind
def test_directions_of_bidirectional_draw_apart(kind):
    layer = keras.layers.Bidirectional(kind.layer(UNITS, dropout=0.4, return_sequences=True))
    first, second = (to_numpy(layer(sequences(), training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-4
