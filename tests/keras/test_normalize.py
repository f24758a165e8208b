"""layer_normalize: the same function without norms, the same weights with them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras_cases import draw, each_kind, gradients, to_numpy

from lnrnn import Norm, Variant, dialects
from lnrnn.keras import (
    LayerNormGRU,
    LayerNormGRUCell,
    LayerNormLSTM,
    LayerNormSimpleRNN,
    layer_normalize,
)
from lnrnn.keras.normalize import from_keras
from lnrnn.testing import assert_close

SHAPE = (6, 4)  # T, I
FORMS = {
    layers.LSTM: LayerNormLSTM,
    layers.GRU: LayerNormGRU,
    layers.SimpleRNN: LayerNormSimpleRNN,
}


def randomized(model, seed=7):
    """Give every weight random values without symmetry; positive ones, as some are variances."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        values = rng.standard_normal(weight.shape) / np.sqrt(max(weight.shape[:1] or (2,)))
        weight.assign(np.abs(values) + 0.1 if "moving" in weight.name else values)
    return model


def inputs_of(model, batch=3):
    """Random inputs of a model; small integers where it takes integers."""
    found = []
    for i, tensor in enumerate(keras.tree.flatten(model.inputs)):
        shape = [tensor.shape[0] or batch, *(s or 5 for s in tensor.shape[1:])]
        drawn = draw(*shape, seed=i)
        found.append(np.abs(3 * drawn).astype("int32") if "int" in tensor.dtype else drawn)
    return found if len(found) > 1 else found[0]


def functional(build, *shapes, **options):
    inputs = [keras.Input(shape, **options) for shape in shapes or (SHAPE,)]
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], build(*inputs))


@keras.saving.register_keras_serializable(package="tests")
class Wrapped(keras.Model):
    """A subclassed model whose config names its layers."""

    def __init__(self, rnn, **kwargs):
        super().__init__(**kwargs)
        self.rnn = rnn
        self.head = layers.Dense(2)

    def build(self, input_shape):
        self.rnn.build(input_shape)
        self.head.build(self.rnn.compute_output_shape(input_shape))

    def call(self, x):
        return self.head(self.rnn(x))

    def get_config(self):
        return {
            "name": self.name,
            "rnn": keras.saving.serialize_keras_object(self.rnn),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        rnn = keras.saving.deserialize_keras_object(config.pop("rnn"))
        return cls(rnn, **config)


def tokens():
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(9, 4, mask_zero=True),
            layers.LSTM(5, return_sequences=True),
            layers.GRU(3, zero_output_for_mask=True),
            layers.Dense(2),
        ]
    )


def built_late():
    model = keras.Sequential([layers.Masking(), layers.GRU(5, reset_after=False), layers.Dense(2)])
    model.build((None, *SHAPE))
    return model


def plain_options():
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.LSTM(4, return_sequences=True, go_backwards=True, unroll=True, use_bias=False),
            layers.GRU(4, return_sequences=True, use_bias=False, recurrent_activation="relu"),
            layers.GRU(4, return_sequences=True, reset_after=False, use_bias=False),
            layers.SimpleRNN(4, return_sequences=True, activation="relu", use_bias=False),
            layers.SimpleRNN(4, unroll=True, dropout=0.5, recurrent_dropout=0.5),
        ]
    )


def encoder_decoder():
    def build(source, target):
        _, h, c = layers.LSTM(5, return_state=True)(source)
        y = layers.LSTM(5, return_sequences=True)(target, initial_state=[h, c])
        _, h = layers.GRU(5, return_state=True)(y, initial_state=ops.tanh(c))
        return {"a": layers.Dense(2)(y), "b": h * 2}

    return functional(build, (None, 4), (None, 3))


def shared():
    def build(a, b):
        tower = layers.Bidirectional(layers.GRU(3))
        return layers.Subtract()([tower(a), tower(b)])

    return functional(build, SHAPE, SHAPE)


def nested():
    tower = keras.Sequential([keras.Input(SHAPE), layers.LSTM(4, return_sequences=True)])
    inner = functional(lambda x: layers.SimpleRNN(4, return_sequences=True)(tower(x)) + x)

    def build(x):
        once = inner(x)
        # the tower is a part of `inner` and of the whole
        return layers.BatchNormalization()(tower(once)) + inner(once)

    return functional(build)


def cells_in_loops():
    def build(x):
        x = layers.RNN(layers.GRUCell(4), return_sequences=True)(x)
        x = layers.RNN([layers.LSTMCell(4), layers.SimpleRNNCell(3)], return_sequences=True)(x)
        stack = layers.StackedRNNCells([layers.GRUCell(3, reset_after=False), layers.LSTMCell(2)])
        return layers.Bidirectional(layers.RNN(stack))(x)

    return functional(build)


def over_time():
    inner = keras.Sequential([keras.Input((2, 2)), layers.GRU(3, return_sequences=True)])

    def build(x):
        # in a graph TimeDistributed needs the number of steps that the GRU passes on
        x = layers.Reshape((2, 2, 2))(layers.GRU(4, return_sequences=True)(x))
        return layers.TimeDistributed(layers.LSTM(2))(layers.TimeDistributed(inner)(x))

    return functional(build, (2, 4))


def own_directions():
    forward = layers.LSTM(3, activation="relu")
    backward = layers.LSTM(3, go_backwards=True, use_bias=False)
    return functional(layers.Bidirectional(forward, backward_layer=backward, merge_mode="sum"))


def bidirectional(merge_mode):
    def build(x):
        layer = layers.Bidirectional(layers.LSTM(3, return_sequences=True), merge_mode=merge_mode)
        return layer(layers.Masking()(x))

    return functional(build)


def other_layers():
    def build(x):
        x = layers.Lambda(lambda v: ops.flip(v, axis=1))(layers.Dropout(0.5)(x))
        x = layers.MultiHeadAttention(2, 3)(x, x)
        x = layers.LSTM(4)(layers.BatchNormalization()(x))
        return layers.LayerNormalization()(x)

    return functional(build)


def subclassed():
    model = Wrapped(layers.Bidirectional(layers.GRU(3)))
    model.build((None, *SHAPE))
    return functional(lambda x: model(x) * 2)


# a model and the number of layers to replace in it
MODELS = {
    "tokens": (tokens, 2),
    "built_late": (built_late, 1),
    "plain_options": (plain_options, 5),
    "encoder_decoder": (encoder_decoder, 3),
    "shared": (shared, 2),
    "nested": (nested, 2),
    "cells_in_loops": (cells_in_loops, 7),
    "over_time": (over_time, 3),
    "own_directions": (own_directions, 2),
    **{
        f"bidirectional_{mode}": (lambda mode=mode: bidirectional(mode), 2)
        for mode in ("concat", "sum", "mul", "ave", None)
    },
    "other_layers": (other_layers, 1),
    "subclassed": (subclassed, 2),
}


def assert_same_outputs(actual, expected, dtype="float32"):
    pairs = zip(*(keras.tree.flatten(to_numpy(v)) for v in (actual, expected)), strict=True)
    for a, e in pairs:
        assert_close("output", a, e, dtype)


@pytest.mark.parametrize("name", MODELS)
def test_without_norms_it_is_the_same_function(name):
    build, number = MODELS[name]
    model = randomized(build())
    x = inputs_of(model)
    expected = to_numpy(model(x))
    copy, report = layer_normalize(model, variant="none")
    assert (len(report.replaced), len(report.left)) == (number, 0)
    # a copy shares nothing with the model
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape))
    assert_same_outputs(copy(x), expected)


@pytest.mark.parametrize("name", ["tokens", "over_time", "subclassed"])
def test_with_norms_it_trains_and_can_be_saved(name, tmp_path):
    build, number = MODELS[name]
    model = randomized(build())
    before = [w.numpy() for w in model.weights]
    copy, report = layer_normalize(model)
    assert len(report.replaced) == number
    x = inputs_of(model)
    y = to_numpy(copy(x))
    assert np.isfinite(y).all() and np.abs(y - to_numpy(model(x))).max() > 1e-3
    copy.compile("sgd", "mse")
    copy.fit(x, np.ones_like(y), epochs=1, verbose=0)
    for weight, values in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), values)
    copy.save(tmp_path / "model.keras")
    again: Any = keras.saving.load_model(tmp_path / "model.keras")
    assert_same_outputs(again(x), copy(x))


def columns_of(weight, order):
    """The columns of a Keras weight, gate by gate in another order."""
    return np.concatenate([np.split(weight, len(order), axis=-1)[i] for i in order], axis=-1)


def test_kernels_and_biases_of_an_lstm_are_kept():
    model = randomized(keras.Sequential([keras.Input(SHAPE), layers.LSTM(3)]))
    copy, report = layer_normalize(model)
    kernel, recurrent, bias = model.get_weights()
    found = copy.layers[0].params()
    np.testing.assert_array_equal(found["kernel"], kernel)
    np.testing.assert_array_equal(found["recurrent_kernel"], recurrent)
    np.testing.assert_array_equal(found["bias"], bias)
    assert copy.layers[0].cell.variant == dialects.get("haste_lnlstm").variant
    assert report[0].kept == ("kernel", "recurrent_kernel", "bias")
    assert report[0].fresh == ("x_norm_gain", "h_norm_gain", "cell_norm_gain", "cell_norm_bias")


@pytest.mark.parametrize("reset_after", [True, False])
def test_kernels_and_biases_of_a_gru_are_kept(reset_after):
    layer = layers.GRU(3, reset_after=reset_after)
    model = randomized(keras.Sequential([keras.Input(SHAPE), layer]))
    copy, report = layer_normalize(model)
    kernel, recurrent, bias = (columns_of(w, (1, 0, 2)) for w in model.get_weights())
    found = copy.layers[0].params()
    np.testing.assert_array_equal(found["kernel"], kernel)
    np.testing.assert_array_equal(found["recurrent_kernel"], recurrent)
    np.testing.assert_array_equal(found["x_norm_bias"], bias[0] if reset_after else bias)
    np.testing.assert_array_equal(found["h_norm_bias"], bias[1] if reset_after else 0)
    assert copy.layers[0].cell.variant.reset == ("after" if reset_after else "before")
    assert ("h_norm_bias" in report[0].kept) is reset_after


def test_kernels_and_biases_of_a_simple_rnn_are_kept():
    model = randomized(keras.Sequential([keras.Input(SHAPE), layers.SimpleRNN(3)]))
    copy, report = layer_normalize(model)
    assert report[0].kept == ("kernel", "recurrent_kernel", "bias_x")
    for name, weight in zip(report[0].kept, model.get_weights(), strict=True):
        np.testing.assert_array_equal(copy.layers[0].params()[name], weight)


# other forms of Keras's equations
EQUAL = {
    "lstm_two_biases": (
        layers.LSTM(3),
        Variant(cell="lstm", bias_x=True, bias_h=True, forget_bias=1.0),
    ),
    "gru_new": (
        layers.GRU(3, reset_after=False),
        Variant(cell="gru", bias=True, reset="before", update="new", update_bias=-1.0),
    ),
    "gru_two_biases": (
        layers.GRU(3, reset_after=False),
        Variant(cell="gru", bias_x=True, bias_h=True, reset="before", update_bias=2.0),
    ),
    "gru_new_after": (
        layers.GRU(3),
        Variant(cell="gru", bias_x=True, bias_h=True, update="new", update_bias=-1.0),
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_constants_and_signs_of_a_variant_are_made_up_for(name):
    layer, variant = EQUAL[name]
    model = randomized(functional(layer))
    copy, _ = layer_normalize(model, variant=variant)
    assert_same_outputs(copy(inputs_of(model)), model(inputs_of(model)))


def test_biases_go_where_the_variant_has_them():
    variant = Variant(
        cell="gru",
        norms=(*(Norm("sum", gate) for gate in "rz"), Norm("x", "n"), Norm("h", "n")),
    )
    model = randomized(functional(layers.GRU(3)))
    copy, report = layer_normalize(model, variant=variant)
    found, old = copy.layers[-1].params(), from_keras(model.layers[-1])
    both = old["bias_x"] + old["bias_h"]
    np.testing.assert_allclose(found["sum_norm_bias"], both[:6], rtol=1e-6)
    np.testing.assert_array_equal(found["x_norm_bias"], old["bias_x"][6:])
    np.testing.assert_array_equal(found["h_norm_bias"], old["bias_h"][6:])
    assert report[0].lost == ()


@pytest.mark.parametrize(
    ("layer", "variant", "lost"),
    [
        (layers.LSTM(3), Variant(cell="lstm", coupled=True, bias=True), ("gate i",)),
        (layers.GRU(3), "speechbrain_ligru_ln_relu", ("gate r",)),
        (layers.SimpleRNN(3), "haste_lnindrnn", ("recurrent_kernel",)),
        (layers.SimpleRNN(3), Variant(cell="simple", norms=(Norm("x", bias=False),)), ("bias",)),
    ],
)
def test_weights_without_a_place_are_reported(layer, variant, lost):
    _, report = layer_normalize(randomized(functional(layer)), variant=variant)
    assert report[0].lost == lost
    assert f"without {lost[0]}" in str(report)


ARGUMENTS = {
    "activation": "relu",
    "kernel_initializer": "he_normal",
    "recurrent_initializer": "glorot_normal",
    "bias_initializer": "ones",
    "kernel_regularizer": "l1",
    "recurrent_regularizer": "l2",
    "bias_regularizer": "l1l2",
    "kernel_constraint": "max_norm",
    "recurrent_constraint": "unit_norm",
    "bias_constraint": "non_neg",
    "dropout": 0.25,
    "recurrent_dropout": 0.5,
    "return_sequences": True,
    "return_state": True,
    "go_backwards": True,
    "stateful": True,
    "unroll": True,
    "zero_output_for_mask": True,
    "dtype": "mixed_bfloat16",
    "trainable": False,
    "name": "rnn",
}


@each_kind
def test_arguments_that_were_set_are_kept(kind):
    of_kind = {
        "lstm": {"unit_forget_bias": False, "seed": 4, "activity_regularizer": "l2"},
        "gru": {"reset_after": False, "seed": 4, "activity_regularizer": "l2"},
    }
    options = {**ARGUMENTS, **of_kind.get(kind.name, {})}
    if kind.name != "simple":
        options["recurrent_activation"] = "hard_sigmoid"
    stock = kind.stock(3, **options)
    copy, report = layer_normalize(stock)
    expected, found = stock.get_config(), copy.get_config()
    assert type(copy) is kind.layer
    assert {k: found[k] for k in expected} == expected
    assert report[0].note == "not built yet: no weights to keep"


def test_arguments_at_their_default_become_the_variants_own():
    copy, _ = layer_normalize(layers.GRU(3), variant="armkws_lngru")
    cell, written = copy.cell, LayerNormGRU(3, variant="armkws_lngru", name=copy.name)
    assert cell.variant == written.cell.variant
    assert copy.get_config() == written.get_config()


def test_a_model_that_is_not_built():
    model = keras.Sequential([layers.LSTM(3), layers.Dense(2)])
    copy, report = layer_normalize(model)
    assert not copy.built and type(copy.layers[0]) is LayerNormLSTM
    assert report[0].kept == ()
    assert copy(draw(2, 5, 4)).shape == (2, 2)
    assert not model.built


def test_stateful_layers_carry_their_own_states():
    layer = layers.LSTM(3, stateful=True)
    model = randomized(functional(layer, batch_size=2))
    x = draw(2, *SHAPE)
    first = to_numpy(model(x))
    copy, _ = layer_normalize(model, variant="none")
    assert_same_outputs(copy(x), first)
    assert_same_outputs(copy(x), model(x))
    copy.layers[-1].reset_state()
    assert_same_outputs(copy(x), first)


def test_shared_layers_stay_shared():
    copy, _ = layer_normalize(randomized(shared()))
    tower = next(layer for layer in copy.layers if isinstance(layer, layers.Bidirectional))
    assert len(tower._inbound_nodes) == 2
    copy, _ = layer_normalize(randomized(nested()))
    (inner,) = (m for m in copy.layers if isinstance(m, keras.Model) and len(m.layers) > 2)
    outside, inside = (
        next(m for m in model.layers if isinstance(m, keras.Sequential)) for model in (copy, inner)
    )
    assert outside is inside


def test_a_layer_both_inside_and_outside_a_wrapper_is_refused():
    inner = keras.Sequential([keras.Input((2, 2)), layers.LSTM(4)])

    def build(x):
        each = layers.TimeDistributed(inner)(layers.Reshape((6, 2, 2))(x))
        return each + inner(x[:, :2, :2])[:, None]

    with pytest.raises(ValueError, match="used elsewhere"):
        layer_normalize(functional(build))


def test_trainable_flags():
    model = encoder_decoder()
    model.layers[-1].trainable = False
    first, second = [layer for layer in model.layers if isinstance(layer, layers.LSTM)]
    first.trainable, second.cell.trainable = False, False
    model.compile("adam", "mse")
    copy, report = layer_normalize(model, keep_bias=False)
    names = {r.path for r in report if not copy.get_layer(r.path).trainable_variables}
    assert names == {first.name, second.name}
    assert copy.compiled and copy.optimizer.get_config() == model.optimizer.get_config()
    trained = [v for v in copy.optimizer.variables if "momentum" in v.path]
    assert len(trained) == len(copy.trainable_variables)

    frozen = nested()
    frozen.layers[1].trainable = False
    copy, _ = layer_normalize(frozen, variant="none")
    assert len(copy.trainable_variables) == len(frozen.trainable_variables) > 0


OPTIONS = {
    "norm_epsilon": 1e-3,
    "gain_initializer": "he_normal",
    "gain_regularizer": "l2",
    "norm_bias_initializer": "ones",
    "norm_bias_constraint": "non_neg",
    "zoneout": 0.1,
    "zoneout_cell": 0.2,
    "weight_dropout": 0.3,
    "recurrent_dropout_mode": "step",
    "recurrent_gradient_clip": 1.0,
    "engine": "portable",
}


def test_options_reach_the_layers_that_take_them():
    model = functional(lambda x: layers.GRU(3)(layers.LSTM(3, return_sequences=True)(x)))
    copy, _ = layer_normalize(model, keep_bias=False, **OPTIONS)
    for layer in copy.layers[1:]:
        options = dict(OPTIONS)
        if isinstance(layer, LayerNormGRU):
            del options["zoneout_cell"]
        options |= {"name": layer.name, "return_sequences": layer.return_sequences}
        written = type(layer)(3, **options)
        assert layer.get_config() == written.get_config()


def test_wrong_arguments():
    model = functional(layers.LSTM(3))
    with pytest.raises(TypeError, match="got units"):
        layer_normalize(model, units=3)
    with pytest.raises(TypeError, match="got list"):
        layer_normalize([model])
    with pytest.raises(ValueError, match="'haste_lnlstm'"):
        layer_normalize(model, variant="haste_lnlstn")
    with pytest.raises(ValueError, match="'SimpleRNN', 'LSTM', 'GRU'; got 'lstm'"):
        layer_normalize(model, variant={"lstm": None})
    with pytest.raises(ValueError, match="use the LSTM"):
        layer_normalize(model, variant={"GRU": "haste_lnlstm"})
    with pytest.raises(ValueError, match="keeps the width of h"):
        layer_normalize(model, variant="tf1_lnlstm_peephole_proj")
    with pytest.raises(ValueError, match="zoneout is a probability"):
        layer_normalize(model, zoneout=1.0)


def three():
    def build(x):
        for layer in (layers.SimpleRNN, layers.LSTM, layers.GRU):
            x = layer(3, return_sequences=True)(x)
        return x

    return randomized(functional(build))


@pytest.mark.parametrize(
    ("variant", "replaced", "reason"),
    [
        ("tfa_lnlstm", [LayerNormLSTM], "variant='tfa_lnlstm' computes no GRU"),
        (Variant(cell="gru", norms=(Norm("x"),)), [LayerNormGRU], "Variant(cell='gru', ...)"),
        ({"GRU": None, "SimpleRNN": "none"}, [LayerNormSimpleRNN, LayerNormGRU], "not name LSTM"),
        (None, [LayerNormSimpleRNN, LayerNormLSTM, LayerNormGRU], "3 replaced, 0 left"),
    ],
)
def test_which_classes_a_variant_replaces(variant, replaced, reason):
    model = three()
    copy, report = layer_normalize(model, variant=variant)
    assert [type(layer) for layer in copy.layers if type(layer) in FORMS.values()] == replaced
    assert [r.after for r in report.replaced] == [c.__name__ for c in replaced]
    assert len(report) == 3
    assert reason in str(report)
    for layer, other in zip(model.layers, copy.layers, strict=True):
        if type(layer) is type(other):
            for a, e in zip(other.get_weights(), layer.get_weights(), strict=True):
                np.testing.assert_array_equal(a, e)


@keras.saving.register_keras_serializable(package="tests")
class MyLSTM(layers.LSTM):
    """An LSTM of the user's."""


@keras.saving.register_keras_serializable(package="tests")
class LeakyCell(layers.Layer):
    """A cell of the user's."""

    state_size = output_size = 3

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], 3))

    def call(self, inputs, states):
        h = 0.5 * states[0] + inputs @ self.kernel
        return h, [h]


class Hiding(layers.Layer):
    """A layer of the user's that makes an LSTM of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.rnn = layers.LSTM(3, return_sequences=True)

    def build(self, input_shape):
        self.rnn.build(input_shape)

    def call(self, x):
        return self.rnn(x)


LEFT = {
    "subclass": (lambda: MyLSTM(3), "my_lstm", "derived from LSTM"),
    "wrapped": (
        lambda: layers.Bidirectional(MyLSTM(3)),
        "bidirectional/forward_my_lstm",
        "derived from LSTM",
    ),
    "cell": (lambda: layers.RNN(LeakyCell()), "rnn", "its cell, LeakyCell, is none"),
    "in_stack": (
        lambda: layers.RNN([layers.LSTMCell(3), LeakyCell()]),
        "rnn/stacked_rnn_cells/leaky_cell",
        "none of Keras's three",
    ),
    "hidden": (Hiding, "hiding/lstm", "config does not name it"),
    "convolution": (
        lambda: keras.Sequential([layers.Reshape((6, 4, 1)), layers.ConvLSTM1D(2, 3)]),
        "sequential/conv_lstm1d",
        "its cell, ConvLSTMCell, is none",
    ),
    "ours": (lambda: LayerNormGRU(3), "layer_norm_gru", "layer-normalised already"),
    "our_cell": (
        lambda: layers.RNN(LayerNormGRUCell(3)),
        "rnn/layer_norm_gru_cell",
        "layer-normalised already",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_keeps_its_weights_and_has_a_reason(name):
    build, path, reason = LEFT[name]
    model = randomized(functional(build()))
    copy, report = layer_normalize(model, variant="none")
    left = {r.path: r for r in report.left}
    assert reason in left[path].reason
    assert_same_outputs(copy(inputs_of(model)), model(inputs_of(model)))


def test_a_subclassed_model_without_a_config_is_refused():
    class Plain(keras.Model):
        def __init__(self, units):
            super().__init__()
            self.rnn = layers.LSTM(units)

        def call(self, x):
            return self.rnn(x)

    with pytest.raises(ValueError, match="a Plain, which cannot be"):
        layer_normalize(Plain(3))
    with pytest.raises(ValueError, match="a Plain, which cannot be"):
        layer_normalize(keras.Sequential([keras.Input(SHAPE), Plain(3)]))


def test_the_report_reads_well():
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both"),
            LayerNormLSTM(3, name="ours"),
            layers.Dense(1),
        ],
    )
    forward = model.layers[0].forward_layer.name
    report = layer_normalize(randomized(model)).report
    lines = str(report).splitlines()
    assert lines[0].split() == ["layer", "was", "is", "note"]
    assert lines[1].startswith(f"both/{forward}  ")
    assert "LSTM           LayerNormLSTM  kept kernel, recurrent_kernel, bias; new" in lines[1]
    assert lines[3].split()[:3] == ["ours", "LayerNormLSTM", "LayerNormLSTM"]
    assert lines[3].endswith("it is layer-normalised already")
    assert lines[4] == "2 replaced, 1 left"
    assert str(layer_normalize(layers.Dense(1)).report) == "The model has no recurrent layers."


def gradient_after_zeros(model, steps=64):
    """The largest gradient of a model's weights after leading steps of zeros."""
    x = np.concatenate([np.zeros((2, steps, 4), "float32"), draw(2, 3, 4)], axis=1)
    return max(np.abs(g).max() for g in gradients(model, x).values())


@pytest.mark.parametrize("layer", [layers.LSTM, layers.GRU])
def test_biases_never_trained_meet_zeros(layer):
    model = functional(layer(8), (None, 4))
    with pytest.warns(UserWarning, match=f"biases of {model.layers[-1].name} are the same for all"):
        kept, _ = layer_normalize(model)
    assert not gradient_after_zeros(kept) < 1e3
    fresh, report = layer_normalize(model, keep_bias=False)
    assert gradient_after_zeros(fresh) < 1e3
    assert report[0].kept == ("kernel", "recurrent_kernel")


def test_no_warning_where_biases_do_no_harm(recwarn):
    layer_normalize(functional(layers.SimpleRNN(8)))
    layer_normalize(functional(layers.LSTM(8)), variant="none")
    layer_normalize(functional(layers.GRU(8, use_bias=False)))
    layer_normalize(randomized(functional(layers.LSTM(8))))
    assert not [w for w in recwarn if "the same for all" in str(w.message)]
