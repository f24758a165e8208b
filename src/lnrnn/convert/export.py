"""Weights out, in the names, layouts and files of the original programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lnrnn.convert import safetensors
from lnrnn.convert.containers import lite_model, tensorflow
from lnrnn.convert.errors import FileError
from lnrnn.convert.forms import form
from lnrnn.convert.rewrite import rewrite
from lnrnn.convert.weights import Checkpoint, Weights
from lnrnn.train.files import replacing

Array = np.ndarray


def originals(
    weights: Weights, name: str, scope: str | None = None, settings: Mapping[str, Any] | None = None
) -> dict[str, Array]:
    """The weights as the original program of a form names and packs them.

    Args:
        weights: of the layer.
        name: of the form.
        scope: what to put before each name; None takes that of the origin, or the dialect's own.
        settings: fields of the variant in which the original was, or will be, built otherwise than
            the form says, such as `epsilon`.

    Returns:
        Original name to array.  Of weights that came from that form every bit is as it came,
        except where the canonical weights have changed since.

    Raises:
        FileError: the form computes another function; the message says in what they differ.

    Example:
        >>> from lnrnn import dialects
        >>> from lnrnn.params import Sizes, shapes
        >>> haste = dialects.get("haste_lnlstm").variant
        >>> ones = {n: np.ones(s) for n, s in shapes(haste, Sizes(3, 8, 8)).items()}
        >>> originals(Weights(haste, ones), "haste_lnlstm")["gamma"].shape
        (2, 32)
    """
    dialect, origin = form(name), weights.origin
    target = dialect.variant.replace(**(settings or {}))
    own = origin is not None and origin.dialect == name
    if own and not settings:
        target = weights.variant
    if weights.variant != target:
        weights = rewrite(weights, target)
    before = (origin.scope if own and origin else dialect.scope) if scope is None else scope
    found = dialect.from_canonical(weights.params, "")
    if own and origin:
        kept = {n: np.asarray(v) for n, v in origin.kept.items() if n in found}
        if any(kept[n].shape != found[n].shape for n in kept):
            raise FileError("The original weights that a file kept do not have their shapes.")
        again = dialect.from_canonical(dialect.to_canonical({**found, **kept}), "")
        for n, value in kept.items():
            unchanged = again[n] == found[n]
            found[n] = np.where(unchanged, value, found[n].astype(value.dtype))
        for n, dtype in origin.dtypes.items():
            if n in found:
                found[n] = found[n].astype(dtype)
    return {before + n: value for n, value in found.items()}


def write(
    path: Path,
    checkpoint: Checkpoint,
    name: str,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write layers in the form of another program, in the file that the path's ending names.

    Args:
        path: `.safetensors`, `.npz`, `.pt` or `.pth` (needs torch), `.h5` (needs h5py), `.ckpt` (a
            TensorFlow checkpoint) or `.tflite` (a single layer; needs flatbuffers).
        checkpoint: the layers; several get their paths as scopes, unless they came with others.
        name: of the form.
        settings: as of [originals][lnrnn.convert.originals].

    Raises:
        FileError: another ending, a form that computes another function, or a library that is
            not installed.
    """
    if path.suffix not in _WRITERS and path.suffix != ".tflite":
        raise FileError(
            f"Other programs' files end in {', '.join([*_WRITERS, '.tflite'])}; got {path.name!r}."
        )
    if path.suffix == ".tflite":
        _write_lite(path, checkpoint.single, name, settings)
        return
    arrays: dict[str, Array] = {}
    for at, weights in checkpoint.items():
        scope = None
        if len(checkpoint) > 1 and (weights.origin is None or weights.origin.dialect != name):
            scope = f"{at}."
        found = originals(weights, name, scope, settings)
        twice = sorted(set(found) & set(arrays))
        if twice:
            raise FileError(
                f"The weights of two layers would have the same name, {twice[0]!r}: write one at a "
                "time."
            )
        arrays |= found
    _WRITERS[path.suffix](path, arrays)


def _write_lite(
    path: Path, weights: Weights, name: str, settings: Mapping[str, Any] | None
) -> None:
    if not name.startswith("tflite_"):
        raise FileError(f"A .tflite file holds a form of TensorFlow Lite; got {name!r}.")
    arrays = originals(weights, name, "", settings)
    variant = form(name).variant.replace(**(settings or {}))
    if weights.origin is not None and weights.origin.dialect == name and not settings:
        variant = weights.variant
    data = lite_model.model(arrays, variant, weights.sizes, (1, 1))
    with replacing(path) as file:
        file.write_bytes(data)


def _safetensors(path: Path, arrays: Mapping[str, Array]) -> None:
    safetensors.write(path, arrays, {"format": "np"})


def _npz(path: Path, arrays: Mapping[str, Array]) -> None:
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def _torch(path: Path, arrays: Mapping[str, Array]) -> None:
    try:
        import torch
    except ImportError as error:
        raise FileError("To write a file of PyTorch, torch has to be installed.") from error
    state = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    with replacing(path) as file:
        torch.save(state, file)


def _hdf5(path: Path, arrays: Mapping[str, Array]) -> None:
    """One dataset for each weight, its name as the path and `:0` as Keras puts it."""
    try:
        import h5py
    except ImportError as error:
        raise FileError("To write HDF5, h5py has to be installed.") from error
    with replacing(path) as file, h5py.File(file, "w") as opened:
        for name, value in arrays.items():
            opened.create_dataset(f"{name}:0", data=value)


_WRITERS: dict[str, Callable[[Path, Mapping[str, Array]], None]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".pt": _torch,
    ".pth": _torch,
    ".h5": _hdf5,
    ".ckpt": tensorflow.write,
}
