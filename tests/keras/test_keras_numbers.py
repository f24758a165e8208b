"""The numbers in Keras's own tests of its recurrent layers, from our layers without norms.

Source: keras-team/keras, keras/src/layers/rnn/*_test.py: weights are the constants 0.01
(kernel), 0.02 (recurrent kernel) and 0.03 (bias), inputs count up from zero.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras_cases import GRU, LSTM, SIMPLE, to_numpy

from lnrnn.testing import assert_close


def _options(kernel=0.01, bias=0.03, **others):
    constants = {"kernel": kernel, "recurrent": 0.02, "bias": bias}
    return {
        "variant": "none",
        **{f"{k}_initializer": keras.initializers.Constant(v) for k, v in constants.items()},
        **others,
    }


def _counting(*shape):
    return np.arange(np.prod(shape), dtype="float32").reshape(shape)


def _wide(rows, units):
    """Every unit has the same value: rows (B,) or (B, T) to (B, [T,] H)."""
    rows = np.asarray(rows)
    return np.broadcast_to(rows[..., None], (*rows.shape, units))


# kind, units, shape of the inputs, options, outputs of the last step
CORRECT = {
    "lstm": (LSTM, 3, (3, 6, 4), {}, [0.6288687, 0.86899155, 0.9460773]),
    "lstm_implementation": (
        LSTM,
        3,
        (3, 6, 4),
        {"implementation": 1},
        [0.6288687, 0.86899155, 0.9460773],
    ),
    "lstm_backwards": (
        LSTM,
        3,
        (3, 6, 4),
        {"go_backwards": True},
        [0.35622165, 0.74789524, 0.8872726],
    ),
    "lstm_unrolled": (LSTM, 3, (3, 6, 4), {"unroll": True}, [0.6288687, 0.86899155, 0.9460773]),
    "lstm_no_forget": (
        LSTM,
        3,
        (3, 6, 4),
        {"unit_forget_bias": False},
        [0.57019705, 0.8661914, 0.9459622],
    ),
    "lstm_no_bias": (LSTM, 3, (3, 6, 4), {"use_bias": False}, [0.54986924, 0.86226785, 0.9443936]),
    "gru": (GRU, 3, (3, 6, 4), {}, [0.5217289, 0.6371659, 0.39384964]),
    "gru_backwards": (GRU, 3, (3, 6, 4), {"go_backwards": True}, [0.24406259, 0.611516, 0.3928808]),
    "gru_unrolled": (GRU, 3, (3, 6, 4), {"unroll": True}, [0.5217289, 0.6371659, 0.39384964]),
    "gru_before": (GRU, 3, (3, 6, 4), {"reset_after": False}, [0.51447755, 0.6426879, 0.40208298]),
    "gru_no_bias": (GRU, 3, (3, 6, 4), {"use_bias": False}, [0.49988455, 0.64701194, 0.4103359]),
    "simple": (SIMPLE, 4, (2, 3, 4), {}, [0.405432, 0.73605347]),
    "simple_unrolled": (SIMPLE, 4, (2, 3, 4), {"unroll": True}, [0.405432, 0.73605347]),
    "simple_backwards": (SIMPLE, 4, (2, 3, 4), {"go_backwards": True}, [0.11144729, 0.5528889]),
    "simple_backwards_unrolled": (
        SIMPLE,
        4,
        (2, 3, 4),
        {"go_backwards": True, "unroll": True},
        [0.11144729, 0.5528889],
    ),
}


@pytest.mark.parametrize("case", CORRECT)
def test_correctness(case):
    kind, units, shape, options, expected = CORRECT[case]
    layer = kind.layer(units, **_options(**options))
    assert_close("y", to_numpy(layer(_counting(*shape))), _wide(expected, units), "float32")


SECOND_BATCH = {
    "lstm": (LSTM, [0.3124785, 0.6863672]),
    "gru": (GRU, [0.29542392, 0.5885018]),
    "simple": (SIMPLE, [0.40559256, 0.7361247]),
}


@pytest.mark.parametrize("case", SECOND_BATCH)
def test_statefulness(case):
    kind, expected = SECOND_BATCH[case]
    layer, x = kind.layer(4, **_options(stateful=True)), _counting(2, 3, 4)
    for _ in range(2):
        layer(x)
        assert_close("y", to_numpy(layer(x)), _wide(expected, 4), "float32")
        layer.reset_state()


INITIAL = {
    "lstm": (LSTM, 2, {}, [[0.20574439, 0.3558822], [0.64930826, 0.66276]]),
    "lstm_backwards": (
        LSTM,
        2,
        {"go_backwards": True},
        [[0.13281618, 0.2790356], [0.5839337, 0.5992567]],
    ),
    "gru": (GRU, 2, {}, [[0.23774096, 0.33508456], [0.83659905, 1.0227708]]),
    "gru_backwards": (
        GRU,
        2,
        {"go_backwards": True},
        [[0.13486053, 0.23261218], [0.78257304, 0.9691353]],
    ),
    "simple": (SIMPLE, 4, {}, _wide([0.33621645, 0.6262637], 4)),
    "simple_backwards": (SIMPLE, 4, {"go_backwards": True}, _wide([0.07344437, 0.43043602], 4)),
}


@pytest.mark.parametrize("case", INITIAL)
def test_initial_state(case):
    kind, units, options, expected = INITIAL[case]
    layer = kind.layer(units, return_state=True, **_options(**options))
    given = [_counting(2, units)] * kind.states
    y, h, *_ = to_numpy(layer(_counting(2, 4, 3), initial_state=given))
    assert_close("y", y, expected, "float32")
    assert_close("h", h, y, "float32")


# the mask of Keras's tests of the LSTM, and that of the others
RIGHT = [[1, 1, 1, 0], [1, 1, 0, 0]]
LEFT = [[0, 1, 1, 1], [0, 0, 1, 1]]
INSIDE = [[1, 1, 0, 1], [1, 0, 0, 1]]
LSTM_STEPS = [[0.0158891, 0.05552048, 0.11755939], [0.14185596, 0.28556206]]
GRU_STEPS = [[0.03606692, 0.09497581, 0.19393763], [0.16051409, 0.30818558]]
SIMPLE_STEPS = [[0.0599281, 0.15122814, 0.32394567], [0.3969304, 0.608085]]
MASKED = {
    "lstm_unrolled": (LSTM, 2, RIGHT, {"unroll": True}, [0.11755939, 0.28556206]),
    "lstm_backwards": (LSTM, 2, LEFT, {"go_backwards": True}, [0.15341201, 0.3844719]),
    "lstm_repeat": (
        LSTM,
        2,
        RIGHT,
        {"return_sequences": True},
        [[*LSTM_STEPS[0], 0.11755939], [*LSTM_STEPS[1], 0.28556206, 0.28556206]],
    ),
    "lstm_zero": (
        LSTM,
        2,
        RIGHT,
        {"return_sequences": True, "zero_output_for_mask": True},
        [[*LSTM_STEPS[0], 0], [*LSTM_STEPS[1], 0, 0]],
    ),
    "gru_unrolled": (GRU, 2, INSIDE, {"unroll": True}, [0.19393763, 0.30818558]),
    "gru_backwards": (GRU, 2, INSIDE, {"go_backwards": True}, [0.11669192, 0.28380975]),
    "gru_repeat": (
        GRU,
        2,
        INSIDE,
        {"return_sequences": True},
        [
            [0.03606692, 0.09497581, 0.09497581, 0.19393763],
            [0.16051409, 0.16051409, 0.16051409, 0.30818558],
        ],
    ),
    "gru_zero": (
        GRU,
        2,
        INSIDE,
        {"return_sequences": True, "zero_output_for_mask": True},
        [[0.03606692, 0.09497581, 0, 0.19393763], [0.16051409, 0, 0, 0.30818558]],
    ),
    "simple_unrolled": (SIMPLE, 4, INSIDE, {"unroll": True}, [0.32951632, 0.61799484]),
    "simple_backwards": (SIMPLE, 4, INSIDE, {"go_backwards": True}, [0.07376196, 0.43645123]),
    "simple_repeat": (
        SIMPLE,
        2,
        INSIDE,
        {"return_sequences": True},
        [
            [0.0599281, 0.15122814, 0.15122814, 0.32394567],
            [0.3969304, 0.3969304, 0.3969304, 0.608085],
        ],
    ),
    "simple_zero": (
        SIMPLE,
        2,
        INSIDE,
        {"return_sequences": True, "zero_output_for_mask": True},
        [[0.0599281, 0.15122814, 0, 0.32394567], [0.3969304, 0, 0, 0.608085]],
    ),
}


@pytest.mark.parametrize("case", MASKED)
def test_masking(case):
    kind, units, mask, options, expected = MASKED[case]
    layer = kind.layer(units, **_options(**options))
    y = layer(_counting(2, 4, 3), mask=np.array(mask, bool))
    assert_close("y", to_numpy(y), _wide(expected, units), "float32")


# merge mode to the outputs of one layer run both ways
FORWARD, BACKWARD = [0.39687276, 0.7237238], [0.10004295, 0.53391594]
MERGED = {
    "concat": np.concatenate([_wide(FORWARD, 2), _wide(BACKWARD, 2)], -1),
    "ave": _wide([0.24845785, 0.6288199], 2),
    None: (_wide(FORWARD, 2), _wide(BACKWARD, 2)),
}


@pytest.mark.parametrize("mode", MERGED, ids=str)
def test_bidirectional(mode):
    layer = keras.layers.Bidirectional(SIMPLE.layer(2, **_options()), merge_mode=mode)
    found = to_numpy(layer(_counting(2, 3, 4)))
    assert_close("y", np.asarray(found), np.asarray(MERGED[mode]), "float32")


def test_bidirectional_with_another_backward_layer():
    layer = keras.layers.Bidirectional(
        SIMPLE.layer(2, **_options()),
        backward_layer=SIMPLE.layer(2, **_options(0.03, 0.01, go_backwards=True)),
        merge_mode="mul",
    )
    expected = _wide([0.08374989, 0.6740834], 2)
    assert_close("y", to_numpy(layer(_counting(2, 3, 4))), expected, "float32")


def test_bidirectional_sequences():
    layer = keras.layers.Bidirectional(
        GRU.layer(2, **_options(return_sequences=True)), merge_mode="sum"
    )
    expected = [[0.20937867, 0.34462988, 0.40290534], [0.59829646, 0.6734641, 0.6479671]]
    assert_close("y", to_numpy(layer(_counting(2, 3, 4))), _wide(expected, 2), "float32")


def test_bidirectional_statefulness():
    layer = keras.layers.Bidirectional(LSTM.layer(2, **_options(stateful=True)))
    x = _counting(2, 4, 3)
    for _ in range(2):
        layer(x)
        expected = [[0.26234663] * 2 + [0.16959146] * 2, [0.6137073] * 2 + [0.5381646] * 2]
        assert_close("y", to_numpy(layer(x)), expected, "float32")
        layer.reset_state()


def test_bidirectional_initial_state():
    layer = keras.layers.Bidirectional(LSTM.layer(2, **_options()))
    given = [_counting(2, 2) * factor for factor in (1, 2, 3, 4)]
    expected = [
        [0.20794602, 0.4577124, 0.14046375, 0.48191673],
        [0.6682636, 0.6711909, 0.60943645, 0.60950446],
    ]
    y = layer(_counting(2, 4, 3), initial_state=given)
    assert_close("y", to_numpy(y), expected, "float32")


def test_bidirectional_mask():
    layer = keras.layers.Bidirectional(GRU.layer(2, **_options()))
    expected = [[0.19393763] * 2 + [0.11669192] * 2, [0.30818558] * 2 + [0.28380975] * 2]
    y = layer(_counting(2, 4, 3), mask=np.array(INSIDE, bool))
    assert_close("y", to_numpy(y), expected, "float32")


def test_bidirectional_states():
    layer = keras.layers.Bidirectional(LSTM.layer(2, **_options(return_state=True)))
    y, *states = to_numpy(layer(_counting(2, 4, 3)))
    h, back_h = [0.1990008, 0.52335435], [0.12659755, 0.44717982]
    c, back_c = [0.35567185, 1.0492687], [0.2501858, 0.941473]
    assert_close("y", y, np.concatenate([_wide(h, 2), _wide(back_h, 2)], -1), "float32")
    assert_close("states", states, [_wide(s, 2) for s in (h, c, back_h, back_c)], "float32")


@pytest.mark.parametrize("mode", ["concat", "ave", "mul", "sum", None], ids=str)
@pytest.mark.parametrize("return_state", [False, True])
def test_bidirectional_output_shape(mode, return_state):
    layer = keras.layers.Bidirectional(LSTM.layer(2, return_state=return_state), merge_mode=mode)
    x = np.array([[[101, 202], [303, 404]]])
    promised, found = layer.compute_output_shape(x.shape), layer(x)
    if mode is None or return_state:
        assert [tuple(f.shape) for f in found] == [tuple(p) for p in promised]
    else:
        assert tuple(found.shape) == tuple(promised)


def test_stacked_lstm_cells_with_mask():
    ones = {"kernel_initializer": "ones", "recurrent_initializer": "ones", "variant": "none"}
    layer = keras.layers.RNN([LSTM.cell(1, bias_initializer="zeros", **ones) for _ in range(2)])
    mask = np.array([[1, 1, 1], [1, 1, 0]], bool)
    y = to_numpy(layer(np.ones((2, 3, 4), "float32"), mask=mask))
    # Keras gives four digits
    assert np.round(y, 4).ravel().tolist() == pytest.approx([0.7793, 0.5998])


def test_states_of_stacked_lstm_cells():
    layer = keras.layers.RNN([LSTM.cell(10, variant="none") for _ in range(2)], return_state=True)
    y, first, second = layer(np.zeros((2, 3, 5), "float32"))
    assert [tuple(s.shape) for s in (y, *first, *second)] == [(2, 10)] * 5
    shapes = keras.tree.flatten_with_path(layer.compute_output_shape((2, 3, 5)))
    assert [size for _, size in shapes] == [2, 10] * 5


def test_legacy_implementation_argument():
    config = GRU.layer(3, **_options()).get_config() | {"implementation": 0}
    layer = GRU.layer.from_config(config)
    expected = _wide([0.5217289, 0.6371659, 0.39384964], 3)
    assert_close("y", to_numpy(layer(_counting(3, 6, 4))), expected, "float32")
