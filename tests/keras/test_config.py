"""Configurations: every argument survives saving, loading and cloning."""

# pyright: reportArgumentType=false
# (Keras hints a string for `verbose` and `jit_compile`)

from __future__ import annotations

import inspect
import json
from typing import Any

import keras
import numpy as np
import pytest
from keras_cases import (
    GRU,
    INPUTS,
    LSTM,
    SIMPLE,
    UNITS,
    cell_of,
    each_kind,
    in_fresh_process,
    mixed,
    sequences,
    to_numpy,
)

from lnrnn import Norm, Variant
from lnrnn.testing import assert_close

# a value that is not the default, for every argument of the layers and cells
VALUES: dict[str, Any] = {
    "units": 5,
    "activation": "relu",
    "recurrent_activation": "hard_sigmoid",
    "use_bias": False,
    "seed": 11,
    "dropout": 0.1,
    "recurrent_dropout": 0.2,
    "recurrent_dropout_mode": "step",
    "zoneout": 0.3,
    "zoneout_cell": 0.4,
    "weight_dropout": 0.5,
    "unit_forget_bias": False,
    "reset_after": False,
    "norm_epsilon": 1e-3,
    "recurrent_gradient_clip": 2.0,
    "projection_units": 4,
    "learn_initial_state": True,
    "burn_in": 3,
    "engine": "portable",
    "variant": None,  # of each class its own, see _value
    "return_sequences": True,
    "return_state": True,
    "go_backwards": True,
    "stateful": True,
    "unroll": True,
    "zero_output_for_mask": True,
    "activity_regularizer": keras.regularizers.L2(0.3),
    "name": "another_name",
    "dtype": "mixed_bfloat16",
    "trainable": False,
} | {
    f"{group}_{role}": value
    for group in ("kernel", "recurrent", "bias", "gain", "norm_bias")
    for role, value in {
        "initializer": keras.initializers.TruncatedNormal(0.1, 0.2, seed=3),
        "regularizer": keras.regularizers.L1(0.7),
        "constraint": keras.constraints.MaxNorm(0.9),
    }.items()
}
# the layer has no cuDNN kernel to choose, so "auto" and False are one
WITHOUT_EFFECT = {"self", "kwargs", "cell_options", "use_cudnn", "implementation"}


def _arguments(kind) -> list[str]:
    """Arguments of a layer, without those that belong to the other kinds."""
    names = {
        **inspect.signature(kind.stock.__init__).parameters,
        **inspect.signature(kind.layer.__init__).parameters,
        **inspect.signature(kind.cell.__init__).parameters,
        **dict.fromkeys(("zero_output_for_mask", "activity_regularizer", "name", "dtype")),
    }
    others = {a for k in (SIMPLE, LSTM, GRU) for a in k.cell.kind.only if k is not kind}
    if kind is SIMPLE:
        others |= {"recurrent_activation"}
    return [n for n in names if n not in WITHOUT_EFFECT | others]


def _value(kind, name):
    if name == "variant":
        return kind.other_dialect
    return VALUES[name]


def _everything(kind):
    """All arguments at once, with a variant that bears them."""
    variant = {"simple": "tfa_lnsimplernn", "lstm": "tf1_lnlstm_peephole_proj", "gru": "none"}
    found = {n: _value(kind, n) for n in _arguments(kind)} | {"variant": variant[kind.name]}
    return found | {"learn_initial_state": False}  # not with stateful, nor with burn_in


def _plain(config: dict[str, Any]) -> Any:
    """A configuration as JSON, which it has to be for a file."""
    return json.loads(json.dumps(keras.saving.serialize_keras_object(config)))


def _round_trip(layer):
    """Through JSON, as a saved file does."""
    described = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    return keras.saving.deserialize_keras_object(described)


@each_kind
def test_every_argument_survives(kind):
    default = _plain(kind.layer(UNITS, name="layer").get_config())
    for name in _arguments(kind):
        options = {"units": UNITS, "name": "layer", name: _value(kind, name)}
        layer = kind.layer(**options)
        config = _plain(layer.get_config())
        assert {k for k in config if config[k] != default[k]} == {name}, name
        for copy in (_round_trip(layer), kind.layer.from_config(layer.get_config())):
            assert _plain(copy.get_config()) == config, name


@each_kind
def test_every_argument_at_once_survives(kind):
    layer = kind.layer(**_everything(kind))
    layer.build((2, 5, INPUTS))
    copy = _round_trip(layer)
    copy.build((2, 5, INPUTS))
    assert _plain(copy.get_config()) == _plain(layer.get_config())
    assert [w.path for w in copy.weights] == [w.path for w in layer.weights]
    assert copy.cell.variant == layer.cell.variant


@each_kind
def test_every_argument_of_the_cell_survives(kind):
    default = _plain(kind.cell(UNITS, name="cell").get_config())
    for name in set(_arguments(kind)) & set(inspect.signature(kind.cell.__init__).parameters):
        cell = kind.cell(**{"units": UNITS, "name": "cell", name: _value(kind, name)})
        config = _plain(cell.get_config())
        assert {k for k in config if config[k] != default[k]} == {name}, name
        assert _plain(_round_trip(cell).get_config()) == config, name


@each_kind
@pytest.mark.parametrize("place", ["layer", "cell"])
def test_positions_of_the_arguments_are_those_of_keras(kind, place):
    stock, ours = (kind.stock, kind.layer) if place == "layer" else (kind.stock_cell, kind.cell)
    names = [n for n in inspect.signature(stock.__init__).parameters if n in VALUES]
    values = [_value(kind, name) for name in names]
    by_position, by_name = ours(*values), ours(**dict(zip(names, values, strict=True)))
    found, expected = by_position.get_config(), by_name.get_config()
    found["name"] = expected["name"]
    assert _plain(found) == _plain(expected)


@each_kind
def test_everything_that_keras_takes_is_taken(kind):
    for stock, ours in ((kind.stock, kind.layer), (kind.stock_cell, kind.cell)):
        for name in inspect.signature(stock.__init__).parameters:
            if name in VALUES:
                ours(**{"units": UNITS, name: _value(kind, name)})
    kind.layer(UNITS, implementation=1, use_cudnn=False)
    with pytest.raises((TypeError, ValueError), match="time_major"):
        kind.layer(UNITS, time_major=True)


# what an argument changes in the mathematics: the part of the variant, and its value then
EFFECTS = {
    "norm_epsilon": (LSTM, 0.5, lambda v: v.epsilon, 0.5),
    "use_bias": (LSTM, False, lambda v: (v.bias, any(n.bias for n in v.norms)), (False, False)),
    "reset_after": (GRU, False, lambda v: v.reset, "before"),
    "projection_units": (LSTM, 3, lambda v: v.projection, True),
    "activation": (LSTM, "relu", lambda v: (v.activation, v.output_activation), ("relu",) * 2),
    "recurrent_activation": (GRU, "hard_sigmoid", lambda v: v.recurrent_activation, "hard_sigmoid"),
}


@pytest.mark.parametrize("name", EFFECTS)
def test_arguments_reach_the_mathematics(name):
    kind, value, part, expected = EFFECTS[name]
    for make in (kind.layer, kind.cell):
        layer, default = make(UNITS, **{name: value}), make(UNITS)
        assert part(cell_of(layer).variant) == expected != part(cell_of(default).variant)


VARIANT = Variant(cell="gru", norms=(Norm("x", bias=False), Norm("h", "rz")), bias=True)


@pytest.mark.parametrize("given", [None, "none", "dreamerv2_gru", VARIANT, VARIANT.to_dict()])
def test_every_way_to_name_a_variant(given):
    layer = mixed(GRU.layer(UNITS, variant=given))
    copy = _round_trip(layer)
    copy.build((None, None, INPUTS))
    copy.set_weights(layer.get_weights())
    assert copy.cell.variant == layer.cell.variant
    assert_close("y", to_numpy(copy(sequences())), to_numpy(layer(sequences())), "float32")


def test_a_variant_and_its_dict_are_one():
    layers = [GRU.layer(UNITS, variant=v) for v in (VARIANT, VARIANT.to_dict())]
    assert layers[0].cell.variant == layers[1].cell.variant == VARIANT


@keras.saving.register_keras_serializable(package="tests")
def squash(v):
    """An activation that no variant has a name for."""
    return keras.ops.divide(v, keras.ops.add(1, keras.ops.abs(v)))


@pytest.mark.parametrize("function", ["silu", squash], ids=["silu", "squash"])
def test_activations_without_a_name_in_the_variant(function):
    layer = mixed(LSTM.layer(UNITS, activation=function, recurrent_activation=function))
    copy = _round_trip(layer)
    copy.build((None, None, INPUTS))
    copy.set_weights(layer.get_weights())
    stock = LSTM.stock(UNITS, activation=function, recurrent_activation=function)
    plain = LSTM.layer(UNITS, activation=function, recurrent_activation=function, variant="none")
    for built in (stock, plain):
        built.build((None, None, INPUTS))
    # the gates of Keras stand in our order, i f g o
    plain.set_weights(stock.get_weights())
    assert_close("copy", to_numpy(copy(sequences())), to_numpy(layer(sequences())), "float32")
    assert_close("stock", to_numpy(plain(sequences())), to_numpy(stock(sequences())), "float32")


def _model():
    """Every way to use a layer in one model, all weights random."""
    noise = {"dropout": 0.1, "zoneout": 0.2, "weight_dropout": 0.1, "seed": 5}
    layers = [
        LSTM.layer(UNITS, return_sequences=True, zoneout_cell=0.3, **noise),
        keras.layers.Bidirectional(
            GRU.layer(5, return_sequences=True, variant="dreamerv2_gru"), merge_mode="sum"
        ),
        SIMPLE.layer(4, return_sequences=True, activation="relu", variant="tfa_lnsimplernn"),
        GRU.layer(4, return_sequences=True, variant=VARIANT),
        keras.layers.RNN([LSTM.cell(4), SIMPLE.cell(3)]),
    ]
    model = keras.Sequential([keras.Input((None, INPUTS)), *layers])
    rng = np.random.default_rng(6)
    model.set_weights([w + 0.1 * rng.standard_normal(w.shape) for w in model.get_weights()])
    return model


_LOAD = """
import sys
import keras, numpy as np
import lnrnn.keras
model = keras.models.load_model(sys.argv[1])
np.save(sys.argv[3], model.predict(np.load(sys.argv[2]), verbose=0))
"""


def test_saved_model_loads_in_a_fresh_process(tmp_path):
    model = _model()
    model.compile("adam", "mse")
    model.fit(sequences(), np.ones((3, 3)), verbose=0)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", sequences())
    in_fresh_process(_LOAD, tmp_path / "model.keras", tmp_path / "x.npy", tmp_path / "y.npy")
    expected = model.predict(sequences(), verbose=0)
    assert_close("y", np.load(tmp_path / "y.npy"), expected, "float32")


def test_weights_file(tmp_path):
    model, other = _model(), keras.models.clone_model(_model())
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    for a, e in zip(other.get_weights(), model.get_weights(), strict=True):
        assert np.array_equal(a, e)


def test_clone_of_a_model():
    model = _model()
    clone = keras.models.clone_model(model)
    assert _plain(clone.get_config()) == _plain(model.get_config())


@each_kind
def test_bidirectional_keeps_every_option(kind):
    options = _everything(kind) | {"go_backwards": False, "stateful": False}
    layer = kind.layer(**options)
    wrapped = keras.layers.Bidirectional(
        _round_trip(keras.layers.Bidirectional(layer)).forward_layer
    )
    expected = _plain(layer.get_config())
    for direction in (wrapped.forward_layer, wrapped.backward_layer):
        found = _plain(direction.get_config())
        different = {k for k in expected if found[k] != expected[k]}
        backwards = {"go_backwards"} if direction.go_backwards else set()
        assert different == {"name"} | backwards


def test_configurations_of_an_older_keras_layer():
    """A stock layer's configuration, given to ours, is understood."""
    for kind in (SIMPLE, LSTM, GRU):
        config = kind.stock(UNITS, dropout=0.1, return_sequences=True).get_config()
        layer = kind.layer.from_config(config)
        assert layer.cell.dropout == 0.1 and layer.return_sequences
