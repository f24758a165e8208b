"""Containers against the libraries that define them."""

from __future__ import annotations

import importlib
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import torch
from convert_samples import equal_bits, original_weights, prefixed, weights_of

from lnrnn.convert import FileError, collect, read, write
from lnrnn.convert.containers import open_file, tensorflow
from lnrnn.convert.forms import form
from lnrnn.keras import AddonsLSTMCell, LayerNormGRU, LayerNormGRUCell, LayerNormLSTM

tf = importlib.import_module("tensorflow")


def test_tensorflow_reads_our_checkpoints(tmp_path):
    given = prefixed("rnn/cell/", original_weights("tf1_lnlstm"))
    path = tmp_path / "model.ckpt"
    tensorflow.write(path, given)
    reader = tf.train.load_checkpoint(str(path))
    found = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    assert equal_bits(found, given)


def test_we_read_tensorflows_checkpoints(tmp_path):
    """Of TensorFlow 1's saver, with a slot of an optimizer and a counter beside."""
    given = prefixed("rnn/layer_norm_basic_lstm_cell/", original_weights("tf1_lnbasiclstm"))
    names = [*given, "rnn/layer_norm_basic_lstm_cell/kernel/Adam", "global_step"]
    values = [*given.values(), np.ones((8, 20), "f4"), np.array(7, "i8")]
    path = str(tmp_path / "model.ckpt")
    tf.raw_ops.SaveV2(
        prefix=path,
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(v) for v in values],
    )
    layers, _ = read(tmp_path / "model.ckpt", "tf1_lnbasiclstm")
    assert equal_bits(
        dict(layers.single.params),
        form("tf1_lnbasiclstm").to_canonical(given),
    )


def test_a_checkpoint_of_many_blocks_is_read(tmp_path):
    names = [f"scope_{i:05d}/some/long/name/of/a/variable" for i in range(3000)]
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "many"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(np.float32(i)) for i in range(len(names))],
    )
    entries = open_file(tmp_path / "many").entries
    assert [float(entries[n].load()) for n in names] == list(map(float, range(3000)))


def test_bfloat16_and_partitioned_variables(tmp_path):
    path = str(tmp_path / "a")
    value = tf.constant([1.5, -2.0, 3.25], tf.bfloat16)
    tf.raw_ops.SaveV2(prefix=path, tensor_names=["v"], shape_and_slices=[""], tensors=[value])
    np.testing.assert_array_equal(open_file(tmp_path / "a").entries["v"].load(), [1.5, -2, 3.25])
    tf.raw_ops.SaveV2(
        prefix=path,
        tensor_names=["v", "v"],
        shape_and_slices=["4 0,2", "4 2,2"],
        tensors=[tf.zeros(2), tf.ones(2)],
    )
    with pytest.raises(FileError, match="'v' is partitioned"):
        open_file(tmp_path / "a")


@pytest.mark.parametrize("old", [False, True])
def test_torch_state_dictionaries(old, tmp_path):
    given = original_weights("pytorch_fastrnns_lnlstm")
    state = {
        "epoch": 3,
        "model": {f"rnn.layers.0.cell.{n}": torch.from_numpy(v) for n, v in given.items()},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
    }
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
    layers, _ = read(tmp_path / "w.pt", "pytorch_fastrnns_lnlstm")
    assert layers.single.origin is not None
    assert layers.single.origin.scope == "model.rnn.layers.0.cell."
    assert equal_bits(
        dict(layers.single.params), form("pytorch_fastrnns_lnlstm").to_canonical(given)
    )


def stable_baselines(path: Path, arrays: dict[str, np.ndarray], data: bytes = b"{}") -> Path:
    """A model as Stable Baselines 2.8 and later saves it: JSON, an .npz and the order of names."""
    packed = io.BytesIO()
    np.savez(packed, **arrays)  # pyright: ignore[reportArgumentType]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", data)
        archive.writestr("parameters", packed.getvalue())
        archive.writestr("parameter_list", json.dumps(list(arrays)))
    return path


def test_a_model_of_stable_baselines(tmp_path):
    """An MlpLnLstmPolicy, with what lies beside its recurrent layer."""
    given = original_weights("stablebaselines_lnlstm")
    dense = {
        f"model/{n}/{w}:0": np.ones(3, "f4") for n in ("pi_fc0", "pi", "q", "vf") for w in "wb"
    }
    named = {f"model/lstm1/{name}:0": value for name, value in given.items()}
    path = stable_baselines(tmp_path / "agent.zip", dense | named)
    layers, _ = read(path, "stablebaselines_lnlstm")
    assert layers.single.origin is not None and layers.single.origin.scope == "model/lstm1/"
    assert equal_bits(
        dict(layers.single.params), form("stablebaselines_lnlstm").to_canonical(given)
    )
    # one whose arrays were taken out reads alike
    np.savez(tmp_path / "w.npz", **dense, **named)  # pyright: ignore[reportArgumentType]
    assert equal_bits(dict(read(tmp_path / "w.npz")[0].single.params), dict(layers.single.params))


def test_of_stable_baselines_nothing_but_arrays_is_read(tmp_path):
    """Pickles in `data`, or as a parameter, and an inner archive that would not fit."""
    path = tmp_path / "agent.zip"
    with pytest.raises(FileError, match=r"Arrays of Python objects are pickles"):
        open_file(stable_baselines(path, {"m/a:0": np.array([None])}, b"\x80 no JSON"))
    with pytest.raises(FileError, match=r"'m/a' is there twice"):
        open_file(stable_baselines(path, {"m/a:0": np.ones(1), "m/a": np.ones(1)}))
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(1 << 26))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("parameters", inner.getvalue())
        archive.writestr("parameter_list", "[]")
    with pytest.raises(FileError, match=r"unpacks to at most 8 times its size"):
        open_file(path)


def test_torch_writes_what_torch_loads(tmp_path):
    layers = collect(weights_of(form("torchaudio_customlstm").variant))
    write(tmp_path / "w.pt", layers, "torchaudio_customlstm")
    state = torch.load(tmp_path / "w.pt", weights_only=True)
    assert tuple(state["x2g.weight"].shape) == (20, 3)


def test_bfloat16_of_torch_is_widened(tmp_path):
    state = {
        n: torch.from_numpy(v).bfloat16()
        for n, v in original_weights("torchaudio_customlstm").items()
    }
    torch.save(state, tmp_path / "w.pt")
    found = read(tmp_path / "w.pt")[0].single.params["kernel"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, state["x2g.weight"].float().numpy().T)


def own_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((None, 3)),
            LayerNormGRU(4, variant="dreamerv2_gru", return_sequences=True, zoneout=0.1),
            keras.layers.Bidirectional(
                LayerNormLSTM(5, projection_units=2, norm_epsilon=0.25, return_sequences=True)
            ),
            keras.layers.RNN(LayerNormGRUCell(6, activation="relu")),
            keras.layers.Dense(1),
        ]
    )


def test_models_of_our_own_layers_are_found(tmp_path):
    model = own_model()
    model.save(tmp_path / "m.keras")
    found, _ = read(tmp_path / "m.keras")
    wanted = collect(model)
    assert list(found) == list(wanted)
    for path, weights in wanted.items():
        assert found[path].variant == weights.variant
        assert found[path].zoneout == weights.zoneout
        assert equal_bits(dict(found[path].params), dict(weights.params))


def test_nested_models_are_found(tmp_path):
    inner = keras.Sequential([keras.Input((None, 3)), LayerNormGRU(4)])
    model = keras.Sequential([keras.Input((None, 3)), inner, keras.layers.Dense(1)])
    model.save(tmp_path / "m.keras")
    found, _ = read(tmp_path / "m.keras")
    assert equal_bits(dict(found.single.params), inner.layers[0].params())


@pytest.mark.parametrize("scope", ["first/lstm_cell/", "layers/rnn/cell/"])
def test_keras_loads_the_hdf5_that_we_write(scope, tmp_path):
    given = prefixed(scope, original_weights("tfa_lnlstm"))
    np.savez(tmp_path / "w.npz", **given)  # pyright: ignore[reportArgumentType]
    layers, _ = read(tmp_path / "w.npz")
    write(tmp_path / "w.h5", layers, "tfa_lnlstm")
    cell = AddonsLSTMCell.from_config({"units": layers.single.sizes.units})
    inputs = keras.Input((None, layers.single.sizes.inputs))
    model = keras.Model(inputs, keras.layers.RNN(cell, name="first")(inputs))
    model.load_weights(tmp_path / "w.h5")
    assert equal_bits(cell.params(), dict(layers.single.params))


def test_several_layers_in_hdf5_have_a_group_each(tmp_path):
    layer = LayerNormLSTM(4, variant="tfa_lnlstm")
    other = LayerNormLSTM(2, variant="tfa_lnlstm")
    layer.build((None, None, 3))
    other.build((None, None, 4))
    write(tmp_path / "w.h5", collect([layer, other]), "tfa_lnlstm")
    with h5py.File(tmp_path / "w.h5") as file:
        names: Any = file.attrs["layer_names"]
        assert list(names) == ["layers.0.forward", "layers.1.forward"]
    found, said = read(tmp_path / "w.h5")
    for weights, one in zip(found.values(), (layer, other), strict=True):
        assert equal_bits(dict(weights.params), one.params())
    assert not any("alphabet" in sentence for sentence in said)


def test_an_order_that_the_file_does_not_tell_is_said(tmp_path):
    one = prefixed("b/", original_weights("haste_lngru"))
    save_file(one | prefixed("a/", original_weights("haste_lngru", seed=2)), tmp_path / "w.h5")
    found, said = read(tmp_path / "w.h5", "haste_lngru")
    assert said[-1].endswith("their numbers follow the alphabet.")
    assert [w.origin.scope for w in found.values() if w.origin] == ["a/", "b/"]
    assert said[0].endswith("activation=tanh, recurrent_activation=sigmoid, zoneout=0")
    assert len(read(tmp_path / "w.h5", "haste_lngru", "a/")[1]) == 1


def save_file(arrays: dict[str, np.ndarray], path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file[name] = value


def test_a_checkpoint_without_its_library_says_so(tmp_path, monkeypatch):
    given = original_weights("tf1_lnlstm")
    tensorflow.write(tmp_path / "model.ckpt", given)
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    for attempt in (
        lambda: open_file(tmp_path / "model.ckpt"),
        lambda: tensorflow.write(tmp_path / "other.ckpt", given),
    ):
        with pytest.raises(FileError, match="checkpoint, google-crc32c has to be installed"):
            attempt()
    assert not list(tmp_path.glob("other*"))
