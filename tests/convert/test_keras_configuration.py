"""What a Keras configuration says of a cell is taken or refused, and never passed over."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from convert_samples import equal_bits, numbers, one_sentence, weights_of
from tfa_model import run

import lnrnn
from lnrnn import cli
from lnrnn.convert import FileError, collect, read, restore
from lnrnn.keras import (
    LayerNormGRU,
    LayerNormGRUCell,
    LayerNormLSTM,
    LayerNormLSTMCell,
    LayerNormSimpleRNN,
)
from lnrnn.testing import assert_close

FILES = Path(__file__).parent / "files" / "tfa"


def walked(config: Any, change: Callable[[dict[str, Any]], None]) -> Any:
    """A configuration with its first cell changed."""
    left = [config]
    while left:
        value = left.pop(0)
        if isinstance(value, dict):
            if str(value.get("registered_name")).endswith("LayerNormLSTMCell"):
                change(value)
                return config
            left += value.values()
        elif isinstance(value, list):
            left += value
    raise AssertionError("the configuration has no such cell")


def changed(folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a model with the configuration of its first cell changed."""
    path = folder / name
    path.write_bytes((FILES / name).read_bytes())
    if name.endswith(".h5"):
        with h5py.File(path, "r+") as file:
            config: Any = file.attrs["model_config"]
            file.attrs["model_config"] = json.dumps(walked(json.loads(config), change))
        return path
    with zipfile.ZipFile(FILES / name) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.namelist():
            data = old.read(member)
            if member == "config.json":
                data = json.dumps(walked(json.loads(data), change)).encode()
            new.writestr(member, data)
    return path


def setting(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda cell: cell["config"].update(fields)


OBJECT = {"module": "builtins", "class_name": "function", "config": "mish"}
# change of the configuration, what the message names, the settings that answer it
UNCLEAR: dict[str, tuple[Callable[[dict[str, Any]], None], str, dict[str, Any]]] = {
    "swish": (
        setting(activation="swish"),
        "activation='swish'",
        {"activation": "relu", "output_activation": "relu"},
    ),
    "object": (setting(activation=OBJECT), "activation={'module'", {}),
    "gates": (
        setting(recurrent_activation="softplus"),
        "recurrent_activation='softplus'",
        {"recurrent_activation": "hard_sigmoid"},
    ),
    "auto": (setting(recurrent_activation="auto"), "recurrent_activation='auto'", {}),
    "negative": (setting(norm_epsilon=-1), "norm_epsilon=-1", {"epsilon": 0.5}),
    "text": (setting(norm_epsilon="1e-3"), "norm_epsilon='1e-3'", {"epsilon": 0.5}),
    "huge": (setting(norm_epsilon=10**400), "norm_epsilon=1000", {}),
    "flag": (setting(norm_epsilon=True), "norm_epsilon=True", {}),
    "class": (
        lambda cell: cell.update(registered_name="mine>LayerNormLSTMCell"),
        "the class 'mine>LayerNormLSTMCell'",
        {},
    ),
    "kind": (
        lambda cell: cell.update(registered_name="Addons>LayerNormSimpleRNNCell"),
        "the class 'Addons>LayerNormSimpleRNNCell', whose weights these are not",
        {},
    ),
    "variant": (setting(variant="tfa_lnlstm", norm_epsilon=-2.0), "norm_epsilon=-2.0", {}),
    "weights": (
        setting(variant={"cell": "lstm", "bias": True}),
        "whose weights these are not",
        {},
    ),
}


@pytest.mark.parametrize("container", ["model.keras", "model.h5"])
@pytest.mark.parametrize("name", UNCLEAR)
def test_what_no_form_expresses_is_refused_by_name(name, container, tmp_path):
    change, message, answer = UNCLEAR[name]
    path = changed(tmp_path, container, change)
    with pytest.raises(FileError) as caught:
        read(path)
    assert message in str(caught.value) and one_sentence(str(caught.value))
    assert "--from FORM" in str(caught.value) or "--set" in str(caught.value)
    if answer:
        select = "layers/rnn/" if container == "model.keras" else "first/"
        found = read(path, select=select, settings=answer)[0].single.variant
        assert {n: getattr(found, n) for n in answer} == answer


def test_a_foreign_class_is_read_by_the_form_that_it_is_said_to_be(tmp_path, capsys):
    path = changed(tmp_path, "model.keras", UNCLEAR["class"][0])
    assert cli.main(["inspect", str(path)]) == 0
    assert "has the class 'mine>LayerNormLSTMCell', which no form here" in capsys.readouterr().out
    found, said = read(path, "tfa_lnlstm")
    assert "assumed epsilon=0.001, activation=tanh" in said[0]
    wanted = read(FILES / "model.keras")[0]["layers.0.forward"].params
    assert equal_bits(dict(found["layers.0.forward"].params), dict(wanted))


def test_a_cell_without_its_weights_leaves_others_unclear(tmp_path):
    """Another cell's epsilon is not guessed where one cell's place is unknown."""
    path = changed(tmp_path, "model.h5", setting(name="renamed"))
    with pytest.raises(FileError, match="LSTMCell' at another place"):
        read(path)


@keras.saving.register_keras_serializable("lnrnn_tests")
def squared(x: Any) -> Any:
    return keras.ops.square(keras.ops.tanh(x))


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("activation", ["gelu", squared])
def test_an_activation_of_our_layers_that_has_no_name_is_refused(activation, ending, tmp_path):
    layer = LayerNormLSTM(4, activation=activation)
    layer.build((None, None, 3))
    model = keras.Sequential([keras.Input((None, 3)), layer])
    model.save(tmp_path / f"m{ending}")
    with pytest.raises(FileError, match=r"has activation=.*no form here expresses"):
        read(tmp_path / f"m{ending}")


def stack() -> Any:
    cells = [LayerNormLSTMCell(4, norm_epsilon=0.5, activation="relu"), LayerNormGRUCell(3)]
    return keras.layers.RNN(cells, return_sequences=True)


WRAPPERS: dict[str, tuple[Callable[[], Any], tuple[int | None, ...]]] = {
    "stack": (stack, (None, 3)),
    "distributed": (
        lambda: keras.layers.TimeDistributed(
            LayerNormGRU(4, norm_epsilon=0.5, return_sequences=True, engine="portable")
        ),
        (2, 5, 3),
    ),
    "distributed_stack": (lambda: keras.layers.TimeDistributed(stack()), (2, 5, 3)),
    "distributed_model": (
        lambda: keras.layers.TimeDistributed(
            keras.Sequential(
                [
                    keras.Input((5, 3)),
                    LayerNormSimpleRNN(4, return_sequences=True, engine="portable"),
                ]
            )
        ),
        (2, 5, 3),
    ),
}


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_our_cells_in_wrappers_and_stacks(name, ending, tmp_path):
    make, shape = WRAPPERS[name]
    model = keras.Sequential([keras.Input(shape), make()])
    rng = np.random.default_rng(5)
    model.set_weights([rng.standard_normal(w.shape) for w in model.get_weights()])
    model.save(tmp_path / f"m{ending}")
    found, said = read(tmp_path / f"m{ending}")
    assert not any("assumed" in sentence for sentence in said)
    x = rng.standard_normal((2, *(s or 5 for s in shape)))
    inner = y = np.moveaxis(x.reshape(-1, 5, 3), 1, 0)
    for weights in found.values():
        y = run(weights, y)
    wanted = numbers(model(x.astype("float32"))).reshape(inner.shape[1], 5, -1)
    assert_close("outputs", np.moveaxis(y, 0, 1), wanted, "float32")
    kept = collect(model)
    assert list(kept) == list(found)
    for at, weights in found.items():
        assert kept[at].variant == weights.variant
        assert equal_bits(dict(kept[at].params), dict(weights.params))


def backwards(**options: Any) -> Any:
    layer = LayerNormGRU(4, go_backwards=True, engine="portable", **options)
    layer.build((None, None, 3))
    layer.load_params(weights_of(layer.cell.variant, sizes=collect(layer).single.sizes).params)
    return layer


def test_a_layer_that_goes_backwards_stays_one(tmp_path):
    old = backwards(return_sequences=True)
    lnrnn.save(tmp_path / "w.safetensors", old)
    loaded = lnrnn.load(tmp_path / "w.safetensors")
    assert list(loaded) == ["layers.0.reverse"]
    new = LayerNormGRU.from_params(loaded, return_sequences=True, engine="portable")
    assert new.go_backwards
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype("float32")
    np.testing.assert_array_equal(numbers(new(x)), numbers(old(x)))
    y = run(loaded.single, np.moveaxis(x, 1, 0)[::-1])
    assert_close("outputs", np.moveaxis(y, 0, 1), numbers(old(x)), "float32")
    ahead = LayerNormGRU(4)
    ahead.build((None, None, 3))
    with pytest.raises(FileError, match=r"got layers\.0\.reverse for layers\.0\.forward"):
        restore(ahead, loaded)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_model_with_a_layer_that_goes_backwards(ending, tmp_path):
    model = keras.Sequential([keras.Input((None, 3)), backwards(return_sequences=True)])
    model.add(keras.layers.RNN(LayerNormGRUCell(2), go_backwards=True))
    model.save(tmp_path / f"m{ending}")
    paths = ["layers.0.reverse", "layers.1.reverse"]
    assert list(read(tmp_path / f"m{ending}")[0]) == list(collect(model)) == paths


def test_directions_that_no_path_says_are_refused(tmp_path):
    both = keras.layers.Bidirectional(
        LayerNormGRU(4, go_backwards=True, engine="portable"),
        backward_layer=LayerNormGRU(4, engine="portable"),
    )
    model = keras.Sequential([keras.Input((None, 3)), both])
    with pytest.raises(FileError, match="got reverse and forward: save"):
        lnrnn.save(tmp_path / "w.safetensors", model)
    model.save(tmp_path / "m.keras")
    with pytest.raises(FileError, match="has go_backwards the other way round"):
        read(tmp_path / "m.keras")
    with pytest.raises(FileError, match="ends in reverse; got 'encoder'"):
        collect({"encoder": backwards()})
    assert list(collect({"encoder.reverse": backwards()})) == ["encoder.reverse"]


@pytest.mark.parametrize("given", [{}, None, "w.safetensors"])
def test_what_has_no_variant_makes_no_layer(given):
    with pytest.raises(ValueError, match=r"takes what lnrnn\.load gives") as caught:
        LayerNormGRU.from_params(given)
    assert one_sentence(str(caught.value).replace("lnrnn.load", "load"))
