"""The file format: what is written is what is read, and nothing else is accepted."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.numpy
import torch
from convert_samples import equal_bits, numbers, one_sentence, weights_of

import lnrnn
import lnrnn.torch
from lnrnn.convert import (
    Checkpoint,
    FileError,
    Origin,
    Weights,
    collect,
    originals,
    restore,
    rewrite,
)
from lnrnn.keras import LayerNormGRU, LayerNormLSTM, LayerNormSimpleRNN
from lnrnn.testing import VARIANTS, assert_close, random_params, sizes_for
from lnrnn.variant import Norm, Variant

FILES_0_1_0 = Path(__file__).parent.parent / "files_0_1_0"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_comes_back_bit_for_bit(name, file):
    before = weights_of(VARIANTS[name])
    lnrnn.save(file, before)
    after = lnrnn.load(file).single
    assert after.variant == before.variant
    assert equal_bits(dict(after.params), dict(before.params))


def test_files_of_0_1_0_mean_what_they_meant(file):
    modules: dict[str, Any] = {
        "encoder": lnrnn.torch.LayerNormLSTM(3, 4, num_layers=2, bidirectional=True, zoneout=0.1),
        "gru": lnrnn.torch.LayerNormGRU(3, 4, variant="dreamerv2_gru"),
        "projected": lnrnn.torch.LayerNormLSTM(3, 4, proj_size=2, variant="tf1_lnlstm"),
    }
    named = lnrnn.load(FILES_0_1_0 / "layers.safetensors")
    assert named.notes == {"epoch": 3}
    found = {n: Checkpoint({"layers.0.forward": layer}) for n, layer in named.items()}
    found["encoder"] = lnrnn.load(FILES_0_1_0 / "encoder.safetensors")
    with np.load(FILES_0_1_0 / "layers.npz") as kept:
        for name, module in modules.items():
            restore(module, found[name])
            y = module.eval()(torch.tensor(kept["x"]))[0]
            assert_close(name, y.detach().numpy(), kept[name], "float32")
            lnrnn.save(file, module)
            again = lnrnn.load(file)
            assert list(again) == list(found[name])
            for at, layer in again.items():
                assert equal_bits(dict(layer.params), dict(found[name][at].params))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtypes_come_back(dtype, file):
    before = weights_of(VARIANTS["lstm_x_h_cell_output"], dtype)
    lnrnn.save(file, before)
    assert equal_bits(dict(lnrnn.load(file).single.params), dict(before.params))


def test_bfloat16_comes_back_as_the_float32_that_holds_it(file):
    import ml_dtypes

    before = weights_of(VARIANTS["gru_x_h"])
    narrow = {n: v.astype(ml_dtypes.bfloat16) for n, v in before.params.items()}
    lnrnn.save(file, Weights(before.variant, narrow))
    for name, value in lnrnn.load(file).single.params.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, narrow[name].astype(np.float32))


@pytest.mark.parametrize("name", ["gru_x_h", "lstm_peephole_projection_clip"])
def test_learned_states_come_back_and_go_nowhere_else(name, file):
    """No other program's form has them; rewritten, they are what they were."""
    variant = VARIANTS[name]
    sizes = sizes_for(variant)
    drawn = random_params(variant, sizes, np.random.default_rng(0), learned_state=True)
    before = Weights(variant, {n: p.astype(np.float32) for n, p in drawn.items()})
    assert [n for n in before.params if n.startswith("initial")] == [
        f"initial_{state}" for state in variant.states
    ]
    lnrnn.save(file, before)
    assert equal_bits(dict(lnrnn.load(file).single.params), dict(before.params))
    turned = rewrite(before, variant.replace(update="new") if name == "gru_x_h" else variant)
    np.testing.assert_array_equal(turned.params["initial_h"], before.params["initial_h"])
    form = "haste_lngru" if name == "gru_x_h" else "tf1_lnlstm_peephole_proj"
    with pytest.raises(FileError, match="got a learned initial state"):
        originals(before, form)
    with pytest.raises(FileError, match="initial_h"):
        Weights(variant, {**before.params, "initial_h": np.zeros(2, np.float32)})


def test_everything_beside_the_weights_comes_back(file):
    given = weights_of(VARIANTS["lstm"])
    kept = {"gate/unused": np.array([1.5, -0.0], "float32")}
    origin = Origin("tfa_lnlstm", "rnn/", "model.h5", "h5", {"bias": "float64"}, kept)
    weights = Weights(given.variant, given.params, 0.1, 0.25, origin)
    layers = {"encoder.layers.0.forward": weights, "encoder.layers.0.reverse": given}
    lnrnn.save(file, layers, notes={"epoch": 3})
    after = lnrnn.load(file)
    assert list(after) == list(layers) and after.notes == {"epoch": 3}
    first = after["encoder.layers.0.forward"]
    assert (first.zoneout, first.zoneout_cell) == (0.1, 0.25)
    assert first.origin is not None and first.origin.scope == "rnn/"
    assert first.origin.dtypes == {"bias": "float64"}
    assert equal_bits(dict(first.origin.kept), kept)
    assert after["encoder.layers.0.reverse"].origin is None


def test_the_bytes_are_those_of_the_documentation(file):
    """The layout byte for byte: a change of it is a change of the version."""
    params = {"kernel": np.ones((1, 2), "f4"), "recurrent_kernel": np.full((2, 2), 2, "f4")}
    lnrnn.save(file, Weights(Variant(cell="simple"), params))
    description = (
        '{"version":1,"requires":[],"layers":{"layers.0.forward":{"variant":{"cell":"simple"},'
        '"sizes":[1,2,2],"zoneout":[0.0,0.0],"origin":null}},"notes":{}}'
    )
    header = {
        "__metadata__": {"format": "np", "lnrnn": description},
        "layers.0.forward.kernel": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
        "layers.0.forward.recurrent_kernel": {
            "dtype": "F32",
            "shape": [2, 2],
            "data_offsets": [8, 24],
        },
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = np.array([1, 1, 2, 2, 2, 2], "<f4").tobytes()
    assert file.read_bytes() == struct.pack("<Q", len(text)) + text + data


def test_the_safetensors_library_reads_our_files(file):
    weights = weights_of(VARIANTS["ligru_x"])
    lnrnn.save(file, weights)
    found = safetensors.numpy.load_file(file)
    assert equal_bits(found, {f"layers.0.forward.{n}": v for n, v in weights.params.items()})


def test_we_read_the_files_of_the_safetensors_library(file):
    weights = weights_of(VARIANTS["gru_x_h"])
    lnrnn.save(file, weights)
    with safetensors.safe_open(file, "np") as opened:  # pyright: ignore[reportPrivateImportUsage]
        metadata = opened.metadata()
    tensors = {f"layers.0.forward.{n}": v for n, v in weights.params.items()}
    safetensors.numpy.save_file(tensors, file, metadata)
    assert equal_bits(dict(lnrnn.load(file).single.params), dict(weights.params))


def built(layer: Any, inputs: int = 3) -> Any:
    layer.build((None, None, inputs))
    return layer


LAYERS = {
    "lstm": lambda: built(LayerNormLSTM(5, zoneout=0.1, zoneout_cell=0.2)),
    "lstm_projection": lambda: built(LayerNormLSTM(5, projection_units=4)),
    "tfa": lambda: built(LayerNormLSTM(5, variant="tfa_lnlstm")),
    "gru": lambda: built(LayerNormGRU(5, variant="dreamerv2_gru")),
    "simple": lambda: built(LayerNormSimpleRNN(5, variant="haste_lnindrnn")),
}


@pytest.mark.parametrize("name", LAYERS)
def test_keras_to_file_to_keras_is_bit_exact(name, file):
    layer = LAYERS[name]()
    layer.load_params(weights_of(layer.cell.variant, sizes=collect(layer).single.sizes).params)
    lnrnn.save(file, layer)
    again = type(layer).from_params(lnrnn.load(file), return_sequences=True)
    assert equal_bits(again.params(), layer.params())
    assert again.cell.variant == layer.cell.variant
    x = np.random.default_rng(0).standard_normal((2, 4, 3)).astype("float32")
    np.testing.assert_array_equal(numbers(again(x))[:, -1], numbers(layer(x)))


def test_from_params_refuses_another_class(file):
    lnrnn.save(file, LAYERS["gru"]())
    with pytest.raises(ValueError, match=r"computes cells 'lstm'; got variant=.*use the GRU"):
        LayerNormLSTM.from_params(lnrnn.load(file))


def stack() -> Any:
    return keras.Sequential(
        [
            keras.Input((None, 3)),
            LayerNormLSTM(4, return_sequences=True),
            keras.layers.Bidirectional(LayerNormGRU(5, return_sequences=True)),
            keras.layers.RNN(LayerNormLSTM.cell_class(2)),
            keras.layers.Dense(1),
        ]
    )


def test_models_are_saved_and_restored_layer_by_layer(file):
    old, new = stack(), stack()
    lnrnn.save(file, old)
    found = lnrnn.load(file)
    assert list(found) == [
        "layers.0.forward",
        "layers.1.forward",
        "layers.1.reverse",
        "layers.2.forward",
    ]
    assert not equal_bits(*(dict(collect(m)["layers.1.reverse"].params) for m in (old, new)))
    restore(new, found)
    for path, weights in collect(new).items():
        assert equal_bits(dict(weights.params), dict(found[path].params))
    assert equal_bits(dict(found["layers.1.reverse"].params), old.layers[1].backward_layer.params())


def test_restore_refuses_what_does_not_fit():
    one, other = collect(LAYERS["lstm"]()), LAYERS["tfa"]()
    before = other.params()
    with pytest.raises(FileError, match="same variant"):
        restore(other, one)
    with pytest.raises(FileError, match="same paths"):
        restore([other, LAYERS["tfa"]()], one)
    unzoned = Weights(one.single.variant, one.single.params)
    with pytest.raises(FileError, match="same zoneout"):
        restore(LAYERS["lstm"](), Checkpoint({"layers.0.forward": unzoned}))
    assert equal_bits(other.params(), before)


def test_what_is_no_layer_is_refused(file):
    layer = built(LayerNormLSTM(4, activation=keras.ops.softplus))
    for thing, message in ((object(), "recurrent layer"), (layer, "activation"), ({}, "got none")):
        with pytest.raises(FileError, match=message) as caught:
            lnrnn.save(file, thing)
        assert one_sentence(str(caught.value))
    assert not file.exists()


def test_weights_have_to_fit_their_variant():
    weights = weights_of(VARIANTS["gru_x_h"])
    params = dict(weights.params)
    cases = {
        "one dtype": {**params, "kernel": params["kernel"].astype("f8")},
        "float16": {**params, "kernel": params["kernel"].astype(int)},
        "shape": {**params, "x_norm_gain": params["x_norm_gain"][:-1]},
        "missing": {n: v for n, v in params.items() if n != "x_norm_gain"},
        "unknown": {**params, "bias": params["x_norm_bias"]},
    }
    for message, given in cases.items():
        with pytest.raises(FileError, match=message):
            Weights(weights.variant, given)
    with pytest.raises(FileError, match="zoneout is a probability"):
        Weights(weights.variant, params, zoneout=1.5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_are_finite(value):
    weights = weights_of(VARIANTS["gru_x_h"])
    kernel = weights.params["kernel"].copy()
    kernel[1, 2] = value
    with pytest.raises(FileError, match="'kernel' with 1 of 45 values infinite"):
        Weights(weights.variant, {**weights.params, "kernel": kernel})


def described(file: Path) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """The header, the description in it, and the data of a file."""
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["lnrnn"]), raw[8 + length :]


def rewritten(file: Path, header: dict[str, Any], description: Any, data: bytes) -> None:
    header["__metadata__"]["lnrnn"] = json.dumps(description)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


CHANGES: dict[str, tuple[str, Any]] = {
    "newer": ("version 2; use|the file has version 2", lambda d: d.update(version=2)),
    "version_text": ("the file has version", lambda d: d.update(version="1")),
    "version_true": ("the file has version", lambda d: d.update(version=True)),
    "feature": ("needs features", lambda d: d.update(requires=["quantised"])),
    "unknown_field": ("fields of the description", lambda d: d.update(colour="red")),
    "missing_field": ("fields of the description", lambda d: d.pop("notes")),
    "layers_list": ("JSON objects", lambda d: d.update(layers=[1])),
    "layer_field": ("fields of the layer", lambda d: d["layers"]["layers.0.forward"].pop("sizes")),
    "variant_field": (
        "no field 'warp'",
        lambda d: d["layers"]["layers.0.forward"]["variant"].update(warp=1),
    ),
    "variant_value": (
        "no valid variant",
        lambda d: d["layers"]["layers.0.forward"]["variant"].update(cell=["gru"]),
    ),
    "sizes": (
        "sizes of a layer are three whole numbers",
        lambda d: d["layers"]["layers.0.forward"].update(sizes=[3, 5.0, 5]),
    ),
    "absurd_sizes": (
        "has the shape",
        lambda d: d["layers"]["layers.0.forward"].update(sizes=[3, 10**15, 10**15]),
    ),
    "zoneout": (
        "zoneout of a layer is two probabilities",
        lambda d: d["layers"]["layers.0.forward"].update(zoneout=[2, 0]),
    ),
    "zoneout_number": (
        "zoneout of a layer is two probabilities",
        lambda d: d["layers"]["layers.0.forward"].update(zoneout=[10**400, 0]),
    ),
    "sizes_many": (
        "sizes of a layer are three whole numbers",
        lambda d: d["layers"]["layers.0.forward"].update(sizes=[3, 5, 5, 5]),
    ),
    "sizes_number": (
        "sizes of a layer are three whole numbers",
        lambda d: d["layers"]["layers.0.forward"].update(sizes=[10**400, 5, 5]),
    ),
    "sizes_none": (
        "sizes of a layer are three whole numbers",
        lambda d: d["layers"]["layers.0.forward"].update(sizes=7),
    ),
    "epsilon": (
        "epsilon is a finite number; got an integer beyond all floats",
        lambda d: d["layers"]["layers.0.forward"]["variant"].update(epsilon=10**400),
    ),
    "kept": ("a list of words", lambda d: origin_of(d).update(kept=[["a"]])),
    "dtype_unknown": (
        "dtypes of an origin are of float16.*'garbage'",
        lambda d: origin_of(d).update(dtypes={"kernel": "garbage"}),
    ),
    "dtype_integer": (
        "dtypes of an origin are of float16.*'int8'",
        lambda d: origin_of(d).update(dtypes={"kernel": "int8"}),
    ),
    "dtype_list": (
        r"dtypes of an origin are of float16.*\['float32'\]",
        lambda d: origin_of(d).update(dtypes={"kernel": ["float32"]}),
    ),
    "path": (
        "path of a layer",
        lambda d: d.update(layers={"../up": d["layers"].pop("layers.0.forward")}),
    ),
    "none": ("belongs to a layer", lambda d: d.update(layers={})),
}


def origin_of(description: Any) -> dict[str, Any]:
    """The origin of the layer, made if there is none."""
    origin = {"dialect": "haste_lngru", "scope": "", "file": "", "container": ""}
    origin |= {"dtypes": {}, "kept": []}
    return description["layers"]["layers.0.forward"].update(origin=origin) or origin


@pytest.mark.parametrize("name", CHANGES)
def test_a_description_that_is_not_known_is_refused(name, file):
    message, change = CHANGES[name]
    lnrnn.save(file, weights_of(VARIANTS["gru_x_h"]))
    header, description, data = described(file)
    change(description)
    if name == "path":
        header = {n.replace("layers.0.forward", "../up"): e for n, e in header.items()}
    rewritten(file, header, description, data)
    with pytest.raises(FileError, match=message) as caught:
        lnrnn.load(file)
    assert len(str(caught.value)) < 500


def test_a_tensor_without_a_layer_is_refused(file):
    lnrnn.save(file, weights_of(VARIANTS["gru_x_h"]))
    header, description, data = described(file)
    header["stray"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}
    rewritten(file, header, description, data + bytes(4))
    with pytest.raises(FileError, match="'stray' does not"):
        lnrnn.load(file)


def test_a_field_at_its_default_is_not_written(file):
    """So that programs of today read files of tomorrow that use no field of tomorrow."""
    lnrnn.save(file, weights_of(Variant(cell="gru", norms=(Norm("x"),), epsilon=1e-3)))
    variant = described(file)[1]["layers"]["layers.0.forward"]["variant"]
    assert set(variant) == {"cell", "norms", "epsilon"}


def test_a_failed_save_leaves_the_old_file(file, monkeypatch):
    lnrnn.save(file, weights_of(VARIANTS["gru_x_h"]))
    before = file.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        lnrnn.save(file, weights_of(VARIANTS["lstm"]))
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_notes_are_json(file):
    with pytest.raises(FileError, match="Notes are JSON"):
        lnrnn.save(file, weights_of(VARIANTS["gru_x_h"]), notes={"when": object()})
    assert not file.exists()
