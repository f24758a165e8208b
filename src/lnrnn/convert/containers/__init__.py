"""Readers of the files that other programs write; nothing in a file is ever executed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lnrnn.convert import safetensors
from lnrnn.convert.containers import hdf5, npz, pytorch, tensorflow, tflite
from lnrnn.convert.errors import FileError
from lnrnn.convert.tensors import Container

KINDS = (
    "safetensors, .npz, PyTorch, .keras, .h5, TensorFlow checkpoints and SavedModels, .tflite, and "
    "the .zip of Stable Baselines 2"
)


def open_file(path: Path) -> Container:
    """The tensors of a file, found by its content and not by its name.

    Args:
        path: of a file; of a TensorFlow checkpoint the path without `.index`, that file, or the
            folder of a SavedModel.

    Raises:
        FileError: a file of no known kind, or a damaged one.
        OSError: there is no such file, or it cannot be read.
    """
    index = tensorflow.index_of(path)
    if index is not None:
        return tensorflow.read(index)
    with path.open("rb") as stream:
        start = stream.read(16)
    return _reader(start)(path)


def _reader(start: bytes) -> Callable[[Path], Container]:
    """What reads a file with these first bytes."""
    if start.startswith(hdf5.MAGIC):
        return hdf5.read
    if start.startswith(b"PK\x03\x04"):
        return _archive
    if start[4:8] == tflite.MAGIC:
        return tflite.read
    if start[8:9] == b"{":
        return safetensors.read
    if start.startswith(pytorch.OLD_MAGIC):
        return pytorch.read
    raise FileError(
        f"The readers know {KINDS}; the file begins with {start[:8]!r}, which is none of these."
    )


def _archive(path: Path) -> Container:
    """A zip file: of NumPy, Keras, PyTorch or Stable Baselines."""
    names = npz.members(path)
    if "model.weights.h5" in names:
        return hdf5.read_keras(path)
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return pytorch.read(path)
    if {"parameters", "parameter_list"} <= set(names):
        return npz.read_stable_baselines(path)
    return npz.read(path)
