"""Damaged and hostile files: one clear error each, nothing executed, little allocated."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from convert_samples import one_sentence, original_weights, prefixed, save_npz, weights_of

import lnrnn
from lnrnn import cli
from lnrnn.convert import FileError, read, write
from lnrnn.convert.containers import open_file, tensorflow
from lnrnn.testing import VARIANTS

MEMORY = 200 << 20


class Bomb:
    """A pickle that makes a file when it is loaded without care."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.witness),)


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(start: int, end: int, shape: Any = (1,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


SAFETENSORS = {
    "empty": (b"", "begins with b''"),
    "short": (b"\x05\0\0\0\0\0\0\0{", "claims 5 bytes"),
    "huge_header": (safetensors(b"{", length=1 << 60), "claims 1152921504606846976 bytes"),
    "not_json": (safetensors(b"{]"), "JSON in UTF-8"),
    "not_utf8": (safetensors(b'{"\xff": 1}'), "JSON in UTF-8"),
    "deep": (safetensors(b'{"a":' + b"[" * 200_000), "JSON in UTF-8"),
    "nan": (safetensors(b'{"a": NaN}'), "Numbers are finite in the header; it has NaN"),
    "duplicate": (
        safetensors(b'{"a":%b,"a":%b}' % ((json.dumps(tensor(0, 4)).encode(),) * 2), bytes(4)),
        "'a' stands there twice",
    ),
    "unknown_dtype": (safetensors({"a": tensor(0, 4, dtype="F7")}, bytes(4)), "known dtype"),
    "dtype_list": (safetensors({"a": tensor(0, 4, dtype=["F32"])}, bytes(4)), "known dtype"),
    "no_shape": (safetensors({"a": {"dtype": "F32"}}), "known dtype"),
    "number": (safetensors({"a": 3}), "known dtype"),
    "negative": (safetensors({"a": tensor(0, 4, (-1, -1))}, bytes(4)), "span its shape"),
    "boolean": (safetensors({"a": tensor(0, 4, (True,))}, bytes(4)), "span its shape"),
    "float": (safetensors({"a": tensor(0, 4, (1.0,))}, bytes(4)), "span its shape"),
    "wrong_size": (safetensors({"a": tensor(0, 8)}, bytes(8)), "span its shape"),
    "overflow": (safetensors({"a": tensor(0, 0, (2**32, 2**32))}), "span its shape"),
    "many_axes": (safetensors({"a": tensor(0, 4, (1,) * 1000)}, bytes(4)), "span its shape"),
    "gap": (safetensors({"a": tensor(4, 8)}, bytes(8)), "where 0 was due"),
    "overlap": (
        safetensors({"a": tensor(0, 4), "b": tensor(0, 4)}, bytes(4)),
        "where 4 was due",
    ),
    "past_end": (safetensors({"a": tensor(0, 4)}, bytes(2)), "cut short"),
    "appended": (safetensors({"a": tensor(0, 4)}, bytes(9)), "something appended"),
    "metadata": (safetensors({"__metadata__": {"a": 1}}), "strings by name"),
    "endless": (safetensors({"a": tensor(0, 0, (0, 10**400))}), "below 2\\*\\*63; 'a' has others"),
    "absurd": (safetensors({"a": tensor(0, 4 * 10**15, (10**15,))}, bytes(4)), "cut short"),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_safetensors(name, tmp_path):
    raw, message = SAFETENSORS[name]
    refused(tmp_path, raw, message)


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def npy(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def claimed(shape: str, data: bytes = b"", descr: str = "'<f4'") -> bytes:
    """An .npy whose header says what it likes."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def twice() -> bytes:
    return zipped({"a.npy": npy(np.ones(2)), "b.npy": npy(np.zeros(2))}).replace(b"b.npy", b"a.npy")


def corrupted() -> bytes:
    raw = bytearray(zipped({"a.npy": npy(np.arange(64.0))}))
    at = raw.index(np.float64(7).tobytes())
    raw[at] ^= 1
    return bytes(raw)


def sparse() -> bytes:
    """A .keras whose weights, once unpacked, have room for far more than the archive has."""

    def fill(file: Any) -> None:
        file.create_dataset("a", (1 << 25,), "f4", chunks=(1 << 20,), compression="gzip")

    return zipped({"model.weights.h5": hdf5(fill) + bytes(15 << 20)}, zipfile.ZIP_DEFLATED)


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "pickle": (
        lambda: zipped({"a.npy": npy(np.array([{}]), allow_pickle=True)}),
        "pickles and are not read",
    ),
    "bomb": (
        lambda: zipped({"a.npy": claimed("(500000000,)", bytes(66 << 20))}, zipfile.ZIP_DEFLATED),
        "unpacks to at most 8 times its size",
    ),
    "absurd_shape": (lambda: zipped({"a.npy": claimed("(10**15,)")}), "archive is damaged"),
    "absurd_number": (
        lambda: zipped({"a.npy": claimed("(1000000000000000,)")}),
        "takes 4000000000000000 bytes and has 0",
    ),
    "overflow": (lambda: zipped({"a.npy": claimed(f"({2**40}, {2**40})")}), "and has 0"),
    "negative": (lambda: zipped({"a.npy": claimed("(-1,)", bytes(4))}), "no negative sizes"),
    "dtype": (lambda: zipped({"a.npy": claimed("(1,)", bytes(4), "'<f99'")}), "damaged"),
    "structured": (
        lambda: zipped({"a.npy": claimed("(1,)", bytes(8), "[('a','O')]")}),
        "pickles and are not read",
    ),
    "endless": (lambda: zipped({"a.npy": claimed(f"(0, {2**63})")}), "below 2\\*\\*63"),
    "unclosed": (lambda: zipped({"a.npy": claimed("((((")}), "the header of 'a.npy' is none"),
    "no_literal": (lambda: zipped({"a.npy": claimed("'\\n")}), "damaged"),
    "header": (lambda: zipped({"a.npy": b"\x93NUMPY\x01\x00\xff\xff{"}), "damaged"),
    "version": (lambda: zipped({"a.npy": b"\x93NUMPY\x09\x00"}), "versions 1.0 and 2.0"),
    "no_arrays": (lambda: zipped({"readme.txt": b"hello"}), "this archive has none"),
    "traversal": (lambda: zipped({"../../a.npy": npy(np.ones(2))}), "leads out of it"),
    "absolute": (lambda: zipped({"/etc/a.npy": npy(np.ones(2))}), "leads out of it"),
    "windows": (lambda: zipped({"..\\a.npy": npy(np.ones(2))}), "leads out of it"),
    "drive": (lambda: zipped({"C:/a.npy": npy(np.ones(2))}), "leads out of it"),
    "twice": (twice, "stands there twice"),
    "no_directory": (lambda: zipped({"a.npy": npy(np.ones(2))})[:-22], "archive is damaged"),
    "checksum": (corrupted, "archive is damaged: Bad CRC"),
    "keras_text": (lambda: zipped({"model.weights.h5": b"text"}), "in HDF5; these are not"),
    "keras_config": (
        lambda: zipped({"model.weights.h5": hdf5(lambda _: None), "config.json": b"{"}),
        "JSON in UTF-8 is due in config.json",
    ),
    "keras_sparse": (sparse, "unpacks to at most 8 times its size"),
    "keras_empty": (lambda: zipped({"model.weights.h5": hdf5(lambda _: None)}), "one has none"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives(name, tmp_path):
    make, message = ARCHIVES[name]
    refused(tmp_path, make(), message)


def hdf5(fill: Callable[[Any], Any]) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        fill(file)
    return stream.getvalue()


def external_storage(file: Any) -> None:
    file.create_dataset("a", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "a", (4,), "f4")
    file.create_virtual_dataset("a", layout)


def cycle(file: Any) -> None:
    group = file.create_group("a")
    group["b"] = group


def chunked(file: Any) -> None:
    file.create_dataset("a", (1 << 33,), "f4", chunks=(1 << 20,), compression="gzip")


def undecodable(file: Any) -> None:
    file.create_dataset("a", data=np.ones(3))
    file.attrs.create("model_config", b'{"\xff": 1}', dtype=h5py.string_dtype("utf-8"))


HDF5: dict[str, tuple[Callable[[], bytes], str]] = {
    "external_link": (
        lambda: hdf5(lambda f: f.__setitem__("a", h5py.ExternalLink("/etc/passwd", "/"))),
        "in the file itself",
    ),
    "soft_link": (
        lambda: hdf5(lambda f: f.__setitem__("a", h5py.SoftLink("/b"))),
        "in the file itself",
    ),
    "external_storage": (lambda: hdf5(external_storage), "is in another"),
    "virtual": (lambda: hdf5(virtual), "is in another"),
    "cycle": (lambda: hdf5(cycle), "stands in the file twice"),
    "expansion": (lambda: hdf5(chunked), "unpacks to at most 8 times its size"),
    "cut": (lambda: hdf5(lambda f: f.create_dataset("a", data=np.ones(999)))[:3000], "damaged"),
    "empty": (lambda: hdf5(lambda _: None), "this one has none"),
    "config": (
        lambda: hdf5(lambda f: f.attrs.__setitem__("model_config", "{")),
        "JSON in UTF-8 is due in model_config",
    ),
    "same_name": (
        lambda: hdf5(lambda f: [f.create_dataset(n, data=np.ones(3)) for n in ("a", "a:0")]),
        "two of this file have the same name",
    ),
    "strings": (lambda: hdf5(lambda f: f.create_dataset("a", data="text")), "has none"),
    "config_bytes": (
        lambda: hdf5(undecodable),
        "JSON in UTF-8 is due in model_config; this is not",
    ),
}


@pytest.mark.parametrize("name", HDF5)
def test_hdf5(name, tmp_path):
    make, message = HDF5[name]
    refused(tmp_path, make(), message)


def torch_file(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def repacked(raw: bytes, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return zipped({n: archive.read(n) for n in archive.namelist()}, compression)


def nested(depth: int) -> Any:
    value: Any = torch.ones(2)
    for _ in range(depth):
        value = {"a": value}
    return value


def doubled(times: int) -> Any:
    """A list that holds one list twice, and so on: 2**times paths in little space."""
    value: Any = [torch.ones(1)]
    for _ in range(times):
        value = [value, value]
    return value


def asking(pickled: bytes, name: str = "data.pkl") -> bytes:
    """A file of torch whose pickle is another, or that has another beside."""
    with zipfile.ZipFile(io.BytesIO(torch_file({"a": torch.ones(1)}))) as archive:
        held = {n: archive.read(n) for n in archive.namelist()}
    folder = next(iter(held)).partition("/")[0]
    return zipped({**held, f"{folder}/{name}": pickled})


def called(name: bytes, size: int) -> bytes:
    """A pickle that calls something with a number."""
    return b"\x80\x02c" + name + b"\n\x8a\x08" + struct.pack("<q", size) + b"\x85R."


def tarred() -> bytes:
    """A tar archive whose first name is five harmless pickles."""
    stream = io.BytesIO()
    with tarfile.open(
        fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT, encoding="latin-1"
    ) as archive:
        archive.addfile(tarfile.TarInfo("\x80\x02N." * 5))
    return stream.getvalue()


TORCH: dict[str, tuple[Callable[[], bytes], str]] = {
    "module": (lambda: torch_file(torch.nn.Linear(2, 2)), "torch does not read the file"),
    "cut": (lambda: torch_file({"a": torch.ones(999)})[:-200], "damaged|does not read"),
    "compressed": (lambda: repacked(torch_file({"a": torch.ones(9)})), "are not compressed"),
    "expanded": (
        lambda: torch_file({"a": torch.ones(1).expand(1 << 20, 1 << 14)}),
        "no larger than its file",
    ),
    "sparse": (lambda: torch_file({"a": torch.ones(2, 2).to_sparse()}), "dense"),
    "meta": (lambda: torch_file({"a": torch.ones(1 << 40, device="meta")}), "no larger|does not"),
    "nothing": (lambda: torch_file({"epoch": 3}), "this file has none"),
    "deep": (lambda: torch_file(nested(40)), "this one has more"),
    "doubled": (lambda: torch_file(doubled(28)), "has more|twice"),
    "bytearray": (
        lambda: asking(called(b"builtins\nbytearray", 1 << 28)),
        "more than tensors, builtins.bytearray",
    ),
    "bytearray_2": (
        lambda: asking(called(b"__builtin__\nbytearray", 1 << 28)),
        "more than tensors, __builtin__.bytearray",
    ),
    "bytearray_in_capitals": (
        lambda: asking(called(b"builtins\nbytearray", 1 << 28), "DATA.PKL"),
        "more than tensors, builtins.bytearray",
    ),
    "tensor_of_a_size": (
        lambda: asking(called(b"torch\nFloatTensor", 1 << 26)),
        "more than tensors, torch.FloatTensor",
    ),
    "old_bytearray": (
        lambda: torch_file({"a": bytearray(9)}, _use_new_zipfile_serialization=False),
        "more than tensors, (builtins|__builtin__).bytearray",
    ),
    "old_with_a_new_one_behind": (
        lambda: (
            torch_file({"a": bytearray(9)}, _use_new_zipfile_serialization=False)
            + torch_file({"a": torch.ones(1)})
        ),
        "more than tensors, (builtins|__builtin__).bytearray",
    ),
    "tar": (tarred, "it is a tar archive"),
    "pickle_cut": (lambda: asking(b"\x80\x02}q"), "its pickle is cut or damaged"),
}


@pytest.mark.parametrize("name", TORCH)
def test_torch_files(name, tmp_path):
    make, message = TORCH[name]
    refused(tmp_path, make(), message)


@pytest.mark.parametrize("old", [False, True])
def test_a_pickle_is_not_executed(old, tmp_path):
    witness = tmp_path / "executed"
    raw = torch_file({"a": Bomb(witness)}, _use_new_zipfile_serialization=not old)
    refused(tmp_path, raw, "torch does not read the file as weights")
    assert not witness.exists()
    pickle.loads(pickle.dumps(Bomb(witness)))
    assert witness.exists(), "the bomb has to be one"


@pytest.mark.parametrize("member", ["a.npy", "data.pkl", "archive/data.pkl"])
def test_a_pickle_in_an_archive_is_not_executed(member, tmp_path):
    witness = tmp_path / "executed"
    raw = zipped({member: pickle.dumps(Bomb(witness), 2), "archive/version": b"3\n"})
    refused(tmp_path, raw, "damaged|does not read")
    assert not witness.exists()


def test_a_configuration_is_not_executed(tmp_path):
    """Names of modules and classes in config.json are compared, and never imported."""
    name = tmp_path / "wicked_module.py"
    name.write_text("import os; os.mkdir('executed')")
    wicked = {"module": "wicked_module", "class_name": "X"}
    config = {
        "class_name": "Sequential",
        "config": {
            "layers": [
                {
                    "class_name": "RNN",
                    "config": {
                        "name": "rnn",
                        "cell": {
                            "module": "wicked_module",
                            "class_name": "LayerNormLSTMCell",
                            "registered_name": "lnrnn>LayerNormLSTMCell",
                            "config": {
                                "units": 4,
                                "kernel_initializer": wicked,
                                "activation": wicked,
                            },
                        },
                    },
                }
            ]
        },
    }
    weights = hdf5(lambda f: f.create_dataset("layers/rnn/cell/vars/0", data=np.ones((2, 3), "f4")))
    raw = zipped({"config.json": json.dumps(config).encode(), "model.weights.h5": weights})
    (tmp_path / "m.keras").write_bytes(raw)
    run = f"cli.main(['inspect', {str(tmp_path / 'm.keras')!r}])"
    script = f"from lnrnn import cli; raise SystemExit({run})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert "known recurrent layer" in done.stdout, done.stderr
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "config",
    [
        {"units": "many"},
        {"units": 4, "variant": {"cell": "gru", "norms": [1]}},
        {"units": 4, "variant": {"cell": "gru", "norms": 3}},
        {"units": 4, "activation": "no_such_function"},
        {"units": 4, "zoneout": "0.1"},
        {},
        [],
        None,
    ],
)
def test_a_configuration_that_makes_no_layer(config, tmp_path):
    layer = {"class_name": "LayerNormGRU", "registered_name": "lnrnn>LayerNormGRU"}
    model = {"class_name": "Sequential", "config": {"layers": [{**layer, "config": config}]}}
    weights = hdf5(
        lambda f: f.create_dataset("layers/layer_norm_gru/cell/vars/0", data=np.ones((2, 3), "f4"))
    )
    raw = zipped({"config.json": json.dumps(model).encode(), "model.weights.h5": weights})
    (tmp_path / "m.keras").write_bytes(raw)
    with pytest.raises(FileError, match=r"lnrnn>LayerNormGRU.* no form here expresses") as caught:
        read(tmp_path / "m.keras")
    assert one_sentence(str(caught.value))


def checkpoint(folder: Path) -> Path:
    tensorflow.write(folder / "w.ckpt", original_weights("tfa_lnlstm"))
    return folder / "w.ckpt.index"


CHECKPOINT: dict[str, tuple[Callable[[bytes, bytes], tuple[bytes, bytes]], str]] = {
    "data_cut": (lambda i, d: (i, d[:-1]), "data of the checkpoint are cut short"),
    "data_flipped": (lambda i, d: (i, d[:9] + b"\xff" + d[10:]), "checksum of 'bias' is wrong"),
    "index_cut": (lambda i, d: (i[:-1], d), "ends with its mark"),
    "index_flipped": (lambda i, d: (i[:30] + b"\xff" + i[31:], d), "a checksum is wrong"),
    "index_empty": (lambda _, d: (b"", d), "48 to"),
    "footer": (lambda i, d: (i[:-48] + b"\xff" * 40 + i[-8:], d), "does not end|cut short"),
}


@pytest.mark.parametrize("name", CHECKPOINT)
def test_checkpoints(name, tmp_path):
    change, message = CHECKPOINT[name]
    index = checkpoint(tmp_path)
    data = tmp_path / "w.ckpt.data-00000-of-00001"
    one, other = change(index.read_bytes(), data.read_bytes())
    index.write_bytes(one)
    data.write_bytes(other)
    with pytest.raises(FileError, match=message):
        read(index, "tfa_lnlstm")


def test_lite_models(tmp_path):
    source = save_npz(tmp_path / "w.npz", original_weights("tflite_lnlstm"))
    write(tmp_path / "m.tflite", read(source, "tflite_lnlstm")[0], "tflite_lnlstm")
    raw = (tmp_path / "m.tflite").read_bytes()
    for cut in range(8, len(raw), 37):
        (tmp_path / "cut.tflite").write_bytes(raw[:cut])
        with pytest.raises(FileError):
            open_file(tmp_path / "cut.tflite")


def test_files_of_no_known_kind(tmp_path):
    refused(tmp_path, b"#!/bin/sh\nexit", "is none of these")
    refused(tmp_path, b"\x80\x04K\x01.", "is none of these")
    with pytest.raises(FileError, match="is read where it is a SavedModel"):
        open_file(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value, tmp_path):
    given = original_weights("haste_lnlstm")
    given["gamma"][1, 3] = value
    path = save_npz(tmp_path / "w.npz", prefixed("rnn.", given))
    with pytest.raises(FileError, match=r"'rnn\.gamma' with 1 of 40 values infinite"):
        read(path)


def test_weights_that_are_no_floats(tmp_path):
    given = original_weights("haste_lnlstm")
    given["gamma"] = given["gamma"].astype("i4")
    with pytest.raises(FileError, match="'gamma' of int32"):
        read(save_npz(tmp_path / "w.npz", given))
    given["gamma"] = given["gamma"].astype("c8")
    with pytest.raises(FileError, match="'gamma' of complex64"):
        read(save_npz(tmp_path / "w.npz", given))


def test_shapes_that_would_be_absurd_together(tmp_path):
    """Shapes that fit no sizes are refused before anything of the implied size is made."""
    given = {
        "weight_ih": np.zeros((4 * 10**5, 1), "f2"),
        "weight_hh": np.zeros((1, 4 * 10**5), "f2"),
        **{f"layernorm_{k}.{n}": np.zeros(4, "f2") for k in "ihc" for n in ("weight", "bias")},
    }
    path = save_npz(tmp_path / "w.npz", given)

    def attempt() -> None:
        with pytest.raises(FileError):
            read(path)

    assert peak(attempt) < MEMORY


def refused(folder: Path, raw: bytes, message: str) -> None:
    """A file with these bytes gives one sentence, in little memory, and writes nothing."""
    path = folder / "file.bin"
    path.write_bytes(raw)
    before = sorted(folder.rglob("*"))

    def attempt() -> None:
        with pytest.raises(FileError, match=message) as caught:
            for entry in open_file(path).entries.values():
                entry.load()
        assert one_sentence(str(caught.value)), str(caught.value)

    assert peak(attempt) < MEMORY
    assert sorted(folder.rglob("*")) == before


def peak(attempt: Callable[[], Any]) -> int:
    """The most bytes that were allocated at a time."""
    tracemalloc.start()
    try:
        attempt()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_the_program_says_it_in_one_line_and_writes_nothing(command, tmp_path, capsys):
    path = tmp_path / "w.npz"
    path.write_bytes(zipped({"../a.npy": npy(np.ones(2))}))
    options = ["--to", str(tmp_path / "out.safetensors")] if command == "convert" else []
    assert cli.main([command, str(path), *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"lnrnn: {path}: ") and err.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()


def test_nothing_is_written_when_one_of_several_layers_fails(tmp_path):
    good, bad = original_weights("haste_lnlstm"), original_weights("haste_lnlstm", seed=3)
    bad["kernel"][0, 0] = np.nan
    path = save_npz(tmp_path / "w.npz", prefixed("a.", good) | prefixed("b.", bad))
    out = tmp_path / "out.safetensors"
    assert cli.main(["convert", str(path), "--to", str(out)]) == 2
    assert not out.exists()


def test_a_hostile_file_of_ours(tmp_path):
    path = tmp_path / "w.safetensors"
    lnrnn.save(path, weights_of(VARIANTS["gru_x_h"]))
    raw = path.read_bytes()
    for cut in (0, 7, 8, 100, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:cut])
        with pytest.raises(FileError):
            lnrnn.load(path)
