"""Files that TensorFlow Addons wrote: every container gives its predictions."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from convert_samples import equal_bits
from tfa_model import (
    EPSILONS,
    PATHS,
    RELATIVE_FILES,
    WRAPPED,
    WRAPPED_PATHS,
    keras_predictions,
    predict,
    predictions,
    relatives_outputs,
    with_epsilons,
    wrapped,
    wrapped_outputs,
)

import lnrnn.keras
from lnrnn.convert import Checkpoint, collect, read, restore
from lnrnn.keras import LayerNormLSTM, LayerNormSimpleRNN
from lnrnn.testing import assert_close

FILES = Path(__file__).parent / "files" / "tfa"
WITH_CONFIGURATION = ("model.keras", "model.h5")
WITHOUT = (
    "model.weights.h5",
    "legacy_weights.h5",
    "weights.npz",
    "weights.ckpt",
    "weights.ckpt.index",
    "saved_model",
)


@pytest.mark.parametrize("name", WITH_CONFIGURATION)
def test_a_model_brings_its_epsilons(name):
    layers, said = read(FILES / name)
    assert list(layers) == PATHS
    assert tuple(w.variant.epsilon for w in layers.values()) == EPSILONS
    assert not any("assumed" in sentence for sentence in said)
    x, y = predictions(FILES)
    assert_close("predictions", predict(FILES, layers, x), y, "float32")


@pytest.mark.parametrize("name", WITHOUT)
def test_a_file_of_weights_needs_the_epsilons(name):
    said = read(FILES / name)[1]
    assert any("assumed epsilon=0.001" in sentence for sentence in said)
    chosen = with_epsilons(FILES / name)
    x, y = predictions(FILES)
    assert_close("predictions", predict(FILES, chosen, x), y, "float32")


@pytest.mark.parametrize(
    "name", ["legacy_weights.h5", "weights.npz", "weights.ckpt", "saved_model"]
)
def test_layers_stand_in_the_order_of_the_model(name):
    assert list(read(FILES / name)[0]) == PATHS


def test_every_container_has_the_same_bits():
    first, *others = (read(FILES / name)[0] for name in (*WITH_CONFIGURATION, *WITHOUT))
    wanted = {w.sizes: dict(w.params) for w in first.values()}
    for other in others:
        found = {w.sizes: dict(w.params) for w in other.values()}
        assert all(equal_bits(found[sizes], wanted[sizes]) for sizes in wanted)


@pytest.mark.parametrize("name", WITH_CONFIGURATION)
def test_keras_3_loads_the_model_by_its_registered_names(name):
    model = keras.saving.load_model(FILES / name, compile=False)
    x, y = predictions(FILES)
    assert_close("predictions", keras_predictions(model, x), y, "float32")


@pytest.mark.parametrize("name", RELATIVE_FILES)
def test_relatives_give_their_outputs(name):
    """Cells of keras-layernorm-rnn and of the book, in every file of Keras 2."""
    folder = FILES.parent / "keras2"
    with np.load(folder / "relatives.npz") as kept:
        assert_close("outputs", relatives_outputs(folder, name), kept["y"], "float32")


def loaded() -> keras.Model:
    model = keras.saving.load_model(FILES / "model.h5", compile=False)
    assert isinstance(model, keras.Model)
    return model


def same(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two files have the same layers, mathematics and bits."""
    return list(one) == list(other) and all(
        one[at].variant == other[at].variant and equal_bits(dict(one[at].params), dict(w.params))
        for at, w in other.items()
    )


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("name", ["model.h5", "wrapped.keras"])
def test_a_loaded_model_saves_and_loads_again(name, ending, tmp_path):
    model = keras.saving.load_model(FILES / name, compile=False)
    assert isinstance(model, keras.Model)
    again = tmp_path / f"again{ending}"
    model.save(again)
    assert same(read(again)[0], read(FILES / name)[0])
    x, y = wrapped(FILES) if name in WRAPPED else predictions(FILES)
    loaded_again = keras.saving.load_model(again, compile=False)
    assert_close(name, keras_predictions(loaded_again, x), y, "float32")


@pytest.mark.parametrize("name", WRAPPED)
def test_cells_in_wrappers_and_stacks_give_their_outputs(name):
    layers, said = read(FILES / name)
    assert list(layers) == WRAPPED_PATHS
    assert not any("assumed" in sentence for sentence in said)
    x, y = wrapped(FILES)
    assert_close("outputs", wrapped_outputs(layers, x), y, "float32")
    model = keras.saving.load_model(FILES / name, compile=False)
    assert_close("outputs", keras_predictions(model, x), y, "float32")
    assert same(collect(model), layers)


@pytest.mark.parametrize("name", ["model.weights.h5", "legacy_weights.h5"])
def test_weights_load_into_a_model_with_those_cells(name):
    model = loaded()
    model.set_weights([0 * w for w in model.get_weights()])
    model.load_weights(FILES / name)
    x, y = predictions(FILES)
    assert_close("predictions", keras_predictions(model, x), y, "float32")


def test_cells_of_the_loaded_model_are_those_of_the_file():
    cells = [model_cell.cell for model_cell in (loaded().layers[1], loaded().layers[3])]
    assert [type(c) for c in cells] == [lnrnn.keras.AddonsLSTMCell, lnrnn.keras.AddonsSimpleRNNCell]
    weights = list(read(FILES / "model.h5")[0].values())
    for cell, one in zip(cells, (weights[0], weights[3]), strict=True):
        assert cell.variant == one.variant
        assert equal_bits(cell.params(), dict(one.params))


def test_converted_layers_drop_into_a_new_model():
    layers, _ = read(FILES / "model.keras")
    with np.load(FILES / "weights.npz") as arrays:
        dense = [arrays["out/kernel"], arrays["out/bias"]]
    both = layers["layers.1.forward"]
    model = keras.Sequential(
        [
            keras.Input((None, 5)),
            LayerNormLSTM.from_params(layers["layers.0.forward"], return_sequences=True),
            # Keras makes new layers of the one that it is given here
            keras.layers.Bidirectional(
                LayerNormLSTM(both.sizes.units, variant=both.variant, return_sequences=True)
            ),
            LayerNormSimpleRNN.from_params(layers["layers.2.forward"]),
            keras.layers.Dense(2),
        ]
    )
    restore(model, layers)
    model.layers[-1].set_weights(dense)
    x, y = predictions(FILES)
    assert_close("predictions", keras_predictions(model, x), y, "float32")


def test_options_of_the_old_cells_are_understood():
    lstm = lnrnn.keras.AddonsLSTMCell.from_config(
        {
            "units": 4,
            "recurrent_activation": "hard_sigmoid",
            "use_bias": False,
            "norm_gamma_initializer": "zeros",
            "norm_beta_initializer": "ones",
            "norm_epsilon": 0.25,
        }
    )
    assert lstm.variant.recurrent_activation == "keras2_hard_sigmoid"
    assert lstm.variant.epsilon == 0.25 and not lstm.variant.bias
    lstm.build((None, 3))
    params = lstm.params()
    assert not params["x_norm_gain"].any() and params["h_norm_bias"].all()
    simple = lnrnn.keras.AddonsSimpleRNNCell.from_config(
        {"units": 4, "gamma_initializer": "zeros", "layernorm_epsilon": 0.5, "activation": "relu"}
    )
    assert simple.variant.activation == "relu" and simple.variant.epsilon == 0.5


ADDONS = {"lstm": lnrnn.keras.AddonsLSTMCell, "simple": lnrnn.keras.AddonsSimpleRNNCell}


@pytest.mark.parametrize("name", ADDONS)
def test_the_constructor_makes_the_cell_of_tensorflow_addons(name, tmp_path):
    cell = ADDONS[name](4)
    assert cell.variant == lnrnn.dialects.get(cell.dialect).variant
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.RNN(cell)])
    rng = np.random.default_rng(0)
    model.set_weights([rng.standard_normal(w.shape) for w in model.get_weights()])
    for ending in (".keras", ".h5"):
        model.save(tmp_path / f"m{ending}")
        again = keras.saving.load_model(tmp_path / f"m{ending}")
        assert isinstance(again, keras.Model)
        for one, other in zip(again.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_constructor_takes_the_arguments_of_tensorflow_addons():
    lstm = lnrnn.keras.AddonsLSTMCell(
        4, "relu", "hard_sigmoid", False, norm_gamma_initializer="zeros", norm_epsilon=0.25
    )
    assert lstm.variant.recurrent_activation == "keras2_hard_sigmoid" and not lstm.variant.bias
    assert lstm.variant.activation == "relu" and lstm.variant.epsilon == 0.25
    # there the norms keep their biases
    assert any(norm.bias for norm in lstm.variant.norms)
    simple = lnrnn.keras.AddonsSimpleRNNCell(4, layernorm_epsilon=0.5, gamma_initializer="zeros")
    assert simple.variant.epsilon == 0.5
    simple.build((None, 3))
    assert not simple.params()["sum_norm_gain"].any()


def test_a_variant_with_other_weights_is_refused():
    with pytest.raises(ValueError, match="sum_norm_bias: use LayerNormSimpleRNNCell"):
        lnrnn.keras.AddonsSimpleRNNCell(4, variant="book_lnsimplernn")


def test_other_recurrent_layers_are_read_as_before():
    layer = keras.layers.RNN(keras.layers.LSTMCell(3))
    assert keras.layers.RNN.from_config(layer.get_config()).cell.units == 3
    with pytest.raises(ValueError, match="time_major"):
        keras.layers.RNN.from_config({**layer.get_config(), "time_major": False})
