"""Bad arguments: one sentence with the rule, the values and what to do instead."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from keras_cases import (
    BATCH,
    GRU,
    INPUTS,
    LSTM,
    SIMPLE,
    STEPS,
    UNITS,
    each_kind,
    initial_states,
    mixed,
    sequences,
)

from lnrnn import Variant
from lnrnn.keras import Bidirectional

# class, arguments, what the message has to say
BAD = {
    "lstm_with_gru": (LSTM, {"variant": "haste_lngru"}, "use the GRU"),
    "gru_with_lstm": (GRU, {"variant": "haste_lnlstm"}, "use the LSTM"),
    "simple_with_lstm": (SIMPLE, {"variant": Variant(cell="lstm")}, "use the LSTM"),
    "lstm_with_indrnn": (LSTM, {"variant": "haste_lnindrnn"}, "use the simple RNN"),
    "unknown_variant": (LSTM, {"variant": "haste_lstm"}, "haste_lnlstm"),
    "no_variant": (LSTM, {"variant": 3}, "variant"),
    "unknown_field": (LSTM, {"variant": {"cell": "lstm", "gates": "if"}}, "no field 'gates'"),
    "units_zero": (GRU, {"units": 0}, "units is a positive integer"),
    "units_negative": (GRU, {"units": -3}, "units is a positive integer"),
    "units_float": (GRU, {"units": 2.5}, "units is a positive integer"),
    "units_true": (GRU, {"units": True}, "units is a positive integer"),
    "dropout_text": (LSTM, {"dropout": "0.1"}, "dropout is a number"),
    "zoneout_none": (LSTM, {"zoneout": None}, "zoneout is a number"),
    "dropout_one": (LSTM, {"dropout": 1.0}, "dropout is a probability"),
    "dropout_negative": (LSTM, {"dropout": -0.1}, "dropout is a probability"),
    "recurrent_dropout": (LSTM, {"recurrent_dropout": 1.5}, "recurrent_dropout is a probability"),
    "zoneout": (GRU, {"zoneout": 2}, "zoneout is a probability"),
    "zoneout_nan": (GRU, {"zoneout": float("nan")}, "zoneout is a probability"),
    "zoneout_cell": (LSTM, {"zoneout_cell": -1}, "zoneout_cell is a probability"),
    "weight_dropout": (SIMPLE, {"weight_dropout": 1}, "weight_dropout is a probability"),
    "mode": (LSTM, {"recurrent_dropout_mode": "steps"}, "'step'"),
    "candidate_of_simple": (
        SIMPLE,
        {"recurrent_dropout": 0.5, "recurrent_dropout_mode": "candidate"},
        "candidate",
    ),
    "cudnn": (LSTM, {"use_cudnn": True}, "use_cudnn"),
    "flag_text": (LSTM, {"return_sequences": "False"}, "return_sequences is True or False"),
    "flag_none": (SIMPLE, {"stateful": None}, "stateful is True or False"),
    "flag_number": (GRU, {"unroll": 2}, "unroll is True or False"),
    "bias_text": (GRU, {"use_bias": "False"}, "use_bias is True or False"),
    "forget_text": (LSTM, {"unit_forget_bias": "True"}, "unit_forget_bias is True or False"),
    "reset_text": (GRU, {"reset_after": "False"}, "reset_after is True or False"),
    "dropout_flag": (LSTM, {"dropout": True}, "dropout is a number"),
    "weight_order": (GRU, {"weight_order": "torch"}, "weight_order is one of"),
    "forget_bias_of_gru": (GRU, {"unit_forget_bias": True}, "LayerNormLSTM"),
    "forget_bias_of_simple": (SIMPLE, {"unit_forget_bias": True}, "LayerNormLSTM"),
    "reset_after_of_lstm": (LSTM, {"reset_after": True}, "LayerNormGRU"),
    "reset_after_false_of_lstm": (LSTM, {"reset_after": False}, "LayerNormGRU"),
    "zoneout_cell_of_gru": (GRU, {"zoneout_cell": 0.1}, "LayerNormLSTM"),
    "projection_of_gru": (GRU, {"projection_units": 3}, "LayerNormLSTM"),
    "projection_missing": (LSTM, {"variant": "tf1_lnlstm_peephole_proj"}, "projection_units"),
    "projection_negative": (LSTM, {"projection_units": -2}, "projection_units"),
    "projection_float": (LSTM, {"projection_units": 2.5}, "projection_units"),
    "clip_text": (LSTM, {"recurrent_gradient_clip": "1"}, "recurrent_gradient_clip"),
    "clip_zero": (LSTM, {"recurrent_gradient_clip": 0.0}, "recurrent_gradient_clip"),
    "clip_negative": (LSTM, {"recurrent_gradient_clip": -1}, "recurrent_gradient_clip"),
    "epsilon": (LSTM, {"norm_epsilon": -1e-3}, "epsilon"),
    "engine": (LSTM, {"engine": "cudnn"}, "'portable'"),
    "learn": (GRU, {"learn_initial_state": "yes"}, "learn_initial_state is True or False"),
    "learn_stateful": (LSTM, {"learn_initial_state": True, "stateful": True}, "use one of them"),
    "learn_burn_in": (LSTM, {"learn_initial_state": True, "burn_in": 2}, "use one of them"),
    "burn_in": (GRU, {"burn_in": -1}, "burn_in is an integer, 0 or more"),
    "burn_in_backwards": (GRU, {"burn_in": 2, "go_backwards": True}, "return_sequences=True"),
    "reset_after": (GRU, {"variant": "dreamerv2_gru", "reset_after": True}, "reset_after"),
    "unknown_argument": (LSTM, {"recurrent_layer_normalization": True}, "recurrent_layer_norm"),
    "activation": (LSTM, {"activation": "tahn"}, "tahn"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("place", ["layer", "cell"])
def test_bad_arguments(case, place):
    kind, options, message = BAD[case]
    of_layer = bool(
        {"use_cudnn", "return_sequences", "stateful", "unroll", "burn_in"} & options.keys()
    )
    make = kind.layer if place == "layer" or of_layer else kind.cell
    with pytest.raises(ValueError, match=message):
        make(**{"units": UNITS, **options})


def test_unknown_variant_names_what_is_near():
    with pytest.raises(ValueError, match="haste_lngru"):
        GRU.layer(UNITS, variant="haste_gru")


def test_none_of_another_kind_is_not_an_error():
    assert GRU.layer(UNITS, unit_forget_bias=None).cell.unit_forget_bias is None


@each_kind
@pytest.mark.parametrize("change", ["too_few", "too_many", "units", "batch"])
def test_initial_state_of_another_form(kind, change):
    layer, states = mixed(kind.layer(UNITS)), initial_states(kind)
    given = {
        "too_few": states[:-1],
        "too_many": [*states, states[0]],
        "units": [s[:, 1:] for s in states],
        "batch": [s[1:] for s in states],
    }[change]
    with pytest.raises(ValueError, match="initial_state"):
        layer(sequences(), initial_state=given)


@pytest.mark.parametrize("shape", [(BATCH, STEPS - 1), (1, STEPS), (BATCH, STEPS, 1)], ids=str)
@pytest.mark.parametrize("name", ["mask", "reset"])
def test_flags_of_another_shape(shape, name):
    with pytest.raises(ValueError, match=f"{name} has one value for each step"):
        LSTM.layer(UNITS)(sequences(), **{name: np.ones(shape, bool)})


def test_reset_state_that_does_not_fit():
    x, reset = sequences(), np.ones((BATCH, STEPS), bool)
    with pytest.raises(ValueError, match="got it without reset"):
        LSTM.layer(UNITS)(x, reset_state=initial_states(LSTM))
    with pytest.raises(ValueError, match=r"reset_state is \[h, c\] of the shapes"):
        LSTM.layer(UNITS)(x, reset=reset, reset_state=initial_states(LSTM)[:1])
    with pytest.raises(ValueError, match="got it for GRU"):
        Bidirectional(keras.layers.GRU(UNITS))(x, reset=reset)


def test_numbers_that_keras_takes():
    """NumPy's, as tuners give them, and None for no dropout; the config can be saved."""
    given = {"dropout": None, "recurrent_dropout": None, "zoneout": np.float32(0.25)}
    layer = LSTM.layer(np.int64(UNITS), projection_units=np.int32(2), **given)
    copy = LSTM.layer.from_config(json.loads(json.dumps(layer.get_config())))
    assert (copy.cell.units, copy.cell.output_size, copy.cell.zoneout) == (UNITS, 2, 0.25)
    assert copy.cell.dropout == copy.cell.recurrent_dropout == 0
    flags = {"return_sequences": np.True_, "use_bias": np.False_, "unroll": 1}
    numbers = {
        "seed": np.int64(3),
        "norm_epsilon": np.float32(0.5),
        "recurrent_gradient_clip": np.float32(2),
    }
    layer = GRU.layer(UNITS, **flags, **numbers)
    copy = GRU.layer.from_config(json.loads(json.dumps(layer.get_config())))
    assert (copy.return_sequences, copy.use_bias, copy.unroll) == (True, False, True)
    assert (copy.cell.seed, copy.cell.variant.epsilon) == (3, 0.5)


@each_kind
@pytest.mark.parametrize("shape", [(BATCH, INPUTS), (BATCH, 5, 2, INPUTS)], ids=str)
def test_inputs_that_are_no_sequences(kind, shape):
    with pytest.raises(ValueError, match="ndim"):
        kind.layer(UNITS)(np.zeros(shape, "float32"))


@each_kind
def test_another_number_of_features(kind):
    layer = mixed(kind.layer(UNITS))
    with pytest.raises(ValueError, match=f"{INPUTS + 1}"):
        layer(sequences(inputs=INPUTS + 1))


@each_kind
def test_features_of_unknown_number(kind):
    with pytest.raises(ValueError, match="number of features"):
        kind.layer(UNITS)(keras.Input((None, None)))


@each_kind
@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "last_shape"])
def test_bad_weights_leave_the_layer_as_it_was(kind, change):
    layer = mixed(kind.layer(UNITS))
    before = layer.get_weights()
    params = {name: value + 1 for name, value in layer.params().items()}
    names = list(params)
    if change == "missing":
        del params[names[-1]]
    elif change == "unknown":
        params["gain"] = np.ones(3)
    else:
        name = names[0] if change == "shape" else names[-1]
        params[name] = params[name][1:]
    for place in (layer, layer.cell):
        with pytest.raises(ValueError, match=r"weights|shape"):
            place.load_params(params)
    for a, e in zip(layer.get_weights(), before, strict=True):
        assert np.array_equal(a, e)


def test_weights_before_there_are_any():
    with pytest.raises(ValueError, match="buil"):
        LSTM.layer(UNITS).load_params({})
    with pytest.raises(ValueError, match="buil"):
        LSTM.layer(UNITS).params()


def test_params_are_what_load_params_takes():
    layer, other = mixed(LSTM.layer(UNITS), seed=1), mixed(LSTM.layer(UNITS), seed=2)
    other.load_params(layer.params())
    for a, e in zip(other.get_weights(), layer.get_weights(), strict=True):
        assert np.array_equal(a, e)


def test_report_of_the_engines():
    from lnrnn.engines.select import ENGINES, Yes

    report = LSTM.layer(UNITS).engine_report()
    assert list(report) == [engine.name for engine in ENGINES]
    assert report["portable"] == Yes()
