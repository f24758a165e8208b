"""Files of lnrnn 0.1.0: read as they are meant, whatever container holds them."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras_cases import to_numpy
from old_model import FILES, data, many, nested, train, trained

from lnrnn.convert import read
from lnrnn.testing import assert_close

# the place in nested.keras that does not tell whose weights it holds
_UNTOLD = ["'layers/rnn/cell'"]


def _load(path: Path) -> Any:
    return keras.saving.load_model(path)


def _outputs(model: Any) -> np.ndarray:
    return to_numpy(model(data(0)))


def _expected(name: str) -> np.ndarray:
    with np.load(FILES / name) as kept:
        return kept["y"]


@pytest.mark.parametrize("name", ["many.keras", "many.h5", "nested.keras"])
def test_whole_models_load_and_save_again(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = _load(FILES / name)
    expected = _expected(f"{name.partition('.')[0]}.npz")
    assert_close("loaded", _outputs(model), expected, "float32")
    again = tmp_path / name
    model.save(again)
    assert_close("again", _outputs(_load(again)), _outputs(model), "float32")


@pytest.mark.parametrize("name", ["many.keras", "many.weights.h5"])
def test_weights_load_into_new_layers(name, tmp_path):
    model = many()
    model.load_weights(FILES / name)
    assert_close("loaded", _outputs(model), _expected("many.npz"), "float32")
    model.save_weights(tmp_path / "new.weights.h5")
    for other in (many(), _load(FILES / "many.keras")):
        other.load_weights(tmp_path / "new.weights.h5")
        assert_close("new", _outputs(other), _outputs(model), "float32")


def test_where_the_order_cannot_be_told_a_warning_says_what_is_taken():
    """Names tell most of these GRUs from stock ones; of a cell the user has chosen the name."""
    model = nested()
    with pytest.warns(UserWarning, match="read as Keras's own") as said:
        model.load_weights(FILES / "nested.keras")
    assert [str(one.message).split()[0] for one in said] == _UNTOLD
    cell = model.get_layer("rnn").cell
    cell.load_params(dict(zip(cell.params(), cell.get_weights(), strict=True)))
    assert_close("loaded", _outputs(model), _expected("nested.npz"), "float32")


def test_without_names_of_layers_no_nested_gru_is_told(tmp_path):
    """Older releases of Keras wrote none."""
    with zipfile.ZipFile(FILES / "nested.keras") as whole:
        whole.extract("model.weights.h5", tmp_path)
    with h5py.File(tmp_path / "model.weights.h5", "a") as file:
        file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
    model = nested()
    with pytest.warns(UserWarning, match="read as Keras's own") as said:
        model.load_weights(tmp_path / "model.weights.h5")
    assert len(said) == 6
    model = _load(FILES / "nested.keras")
    with pytest.warns(UserWarning, match="read as Keras's own") as said:
        model.load_weights(tmp_path / "model.weights.h5")
    # the layer that a user's class makes itself has no configuration of 0.1.0
    assert [str(one.message).split()[0] for one in said] == ["'layers/holder_1/inner/cell'"]


def test_training_goes_on_where_it_stopped():
    """Of the optimiser's state every moment still belongs to its weight."""
    model = _load(FILES / "trained.keras")
    train(model)
    assert_close("trained", _outputs(model), _expected("trained.npz"), "float32")


def test_an_old_model_holds_its_weights_as_it_did():
    old, new = _load(FILES / "trained.keras"), trained()
    assert [w.name for w in old.weights][2:] == ["bias_x", "sum_norm_gain", "sum_norm_bias"]
    assert [w.name for w in new.weights][2:] == ["bias", "sum_norm_gain", "sum_norm_bias"]
    assert (old.layers[0].cell.gates, new.layers[0].cell.gates) == ("rzn", "zrn")


@pytest.mark.parametrize("name", ["many.keras", "many.h5"])
def test_conversion_reads_them(name):
    layers, _ = read(FILES / name)
    held = _load(FILES / "many.keras").layers
    found = [layer.params() for layer in held if hasattr(layer, "params")]
    wanted = [one.params for at, one in layers.items()]
    alike = [any(_same(a, b) for b in wanted) for a in found]
    assert len(wanted) == 11 and len(alike) == 8 and all(alike)


def _same(one, other) -> bool:
    return set(one) == set(other) and all(np.array_equal(one[n], other[n]) for n in one)
