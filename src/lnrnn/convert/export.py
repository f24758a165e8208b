"""Weights out, in the names, layouts and files of the original programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lnrnn.convert import safetensors
from lnrnn.convert.containers import lite_model, tensorflow
from lnrnn.convert.errors import FileError, TargetError
from lnrnn.convert.forms import form
from lnrnn.convert.rewrite import rewrite
from lnrnn.convert.weights import Checkpoint, Weights
from lnrnn.dialects import Dialect
from lnrnn.files import replacing
from lnrnn.params import Sizes, learned_states, shapes
from lnrnn.variant import Variant

Array = np.ndarray

_LITE_OPTIONS = ("cell_clip", "projection_clip", "activation", "output_activation")


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
    if learned_states(weights.params):
        raise FileError(
            f"A sequence begins with zeros in {name}; got a learned initial state: write a file of "
            "lnrnn, or train without learn_initial_state."
        )
    target = _target(weights, dialect, settings or {})
    own = origin is not None and origin.dialect == name
    _check_zoneout(weights, dialect)
    if weights.variant != target:
        weights = rewrite(weights, target)
    before = (origin.scope if own and origin else dialect.scope) if scope is None else scope
    try:
        found = dialect.from_canonical(weights.params, "")
    except ValueError as error:
        raise FileError(str(error)) from error
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


def _target(weights: Weights, dialect: Dialect, settings: Mapping[str, Any]) -> Variant:
    """The variant that the weights of a layout are to have."""
    base, origin = dialect.variant, weights.origin
    if origin is not None and origin.dialect == dialect.name and not settings:
        return weights.variant if _held(weights.variant) == _held(base) else base
    unknown = [n for n in settings if n not in {f.name for f in dataclasses.fields(Variant)}]
    if unknown:
        raise FileError(
            f"A form is built with fields of Variant; got {unknown[0]!r}, which is no part of the "
            "weights: set it in the other program."
        )
    try:
        target = base.replace(**settings)
    except (TypeError, ValueError) as error:
        raise FileError(f"The settings do not fit {dialect.name}: {error}") from error
    if _held(target) != _held(base):
        given = ", ".join(f"{n}={v}" for n, v in settings.items())
        raise FileError(
            f"The weights of {dialect.name} are always the same ones; got {given}, with which "
            "they would be others: set constants and functions only, or name another form."
        )
    return target


def _held(variant: Variant) -> tuple[Any, ...]:
    """What a layout of weights stands for: which there are, in which places."""
    named = shapes(variant, Sizes(3, 5, 4 if variant.projection else 5))
    return variant.cell, variant.norms, variant.tied_bias, tuple(named.items())


def _check_zoneout(weights: Weights, dialect: Dialect) -> None:
    """Refuse a rate that the other program does not apply."""
    rates = {"h": weights.zoneout, "c": weights.zoneout_cell}
    for letter, name in (("h", "zoneout"), ("c", "zoneout_cell")):
        if rates[letter] and letter not in dialect.zoneout:
            raise FileError(
                f"{name} is {rates[letter]:g} here, and {dialect.name} has none: the two compute "
                f"different functions, unless you give it up with --set {name}=0."
            )
    if dialect.zoneout == "hc" and rates["h"] != rates["c"]:
        raise FileError(
            f"{dialect.name} has one zoneout of h and c; got {rates['h']:g} and {rates['c']:g}: "
            "the two compute different functions."
        )


def write(
    path: Path,
    checkpoint: Checkpoint,
    name: str,
    settings: Mapping[str, Any] | None = None,
    int8: bool = False,
) -> None:
    """Write layers in the form of another program, in the file that the path's ending names.

    Args:
        path: `.safetensors`, `.npz`, `.pt` or `.pth` (needs torch), `.h5` (needs h5py), `.ckpt` (a
            TensorFlow checkpoint; needs google-crc32c) or `.tflite` (a single layer; needs
            flatbuffers).
        checkpoint: the layers; several get their paths as scopes, unless they came with others.
        name: of the form.
        settings: as of [originals][lnrnn.convert.originals].
        int8: of a `.tflite` file: matrices and peepholes are whole numbers of 8 bits with one scale
            for each, a quarter of the size; all else is float32.

    Raises:
        FileError: another ending, a form that computes another function, or a library that is
            not installed.
    """
    check_ending(path)
    if path.suffix == ".tflite":
        _write_lite(path, checkpoint.single, name, settings, int8)
        return
    if int8:
        raise TargetError(f"Weights of 8 bits are those of a .tflite file; got {path.name!r}.")
    arrays: dict[str, Array] = {}
    layers: dict[str, str] = {}
    for at, weights in checkpoint.items():
        scope = None
        if len(checkpoint) > 1 and (weights.origin is None or weights.origin.dialect != name):
            scope = f"{at}/" if path.suffix == ".h5" else f"{at}."
        found = originals(weights, name, scope, settings)
        twice = sorted(set(found) & set(arrays))
        if twice:
            raise FileError(
                f"The weights of two layers would have the same name, {twice[0]!r}: write one at a "
                "time."
            )
        arrays |= found
        first = next(iter(form(name).layout))
        layers |= dict.fromkeys(found, _layer_of(next(iter(found)).removesuffix(first)))
    write_arrays(path, arrays, layers)


def write_arrays(path: Path, arrays: Mapping[str, Array], layers: Mapping[str, str]) -> None:
    """Write weights in the file that the path's ending names, but for `.tflite`.

    Args:
        path: of the file.
        arrays: name to values.
        layers: name to the layer of Keras that has the weight, in a `.h5` file.
    """
    if path.suffix == ".h5":
        _hdf5(path, arrays, layers)
    else:
        _WRITERS[path.suffix](path, arrays)


def check_ending(path: Path) -> None:
    """Raise FileError unless a file of another program can have this ending."""
    endings = (*_WRITERS, ".h5", ".tflite")
    if path.suffix not in endings:
        raise TargetError(f"Other programs' files end in {', '.join(endings)}; got {path.name!r}.")


def _write_lite(
    path: Path, weights: Weights, name: str, settings: Mapping[str, Any] | None, int8: bool
) -> None:
    if not name.startswith("tflite_"):
        raise FileError(f"A .tflite file holds a form of TensorFlow Lite; got {name!r}.")
    arrays = originals(weights, name, "", settings)
    base = form(name).variant
    variant = _target(weights, form(name), settings or {})
    fixed = variant.replace(**{n: getattr(base, n) for n in _LITE_OPTIONS})
    if fixed != base:
        named = (f.name for f in dataclasses.fields(Variant))
        changed = next(n for n in named if getattr(fixed, n) != getattr(base, n))
        raise FileError(
            f"TensorFlow Lite has {changed}={getattr(base, changed)} fixed; got "
            f"{getattr(variant, changed)}: keep it, or write the weights into another file."
        )
    data = lite_model.model(arrays, variant, weights.sizes, (1, 1), int8)
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
    with replacing(path) as file, file.open("wb") as stream:
        torch.save(state, stream)


def _hdf5(path: Path, arrays: Mapping[str, Array], layers: Mapping[str, str]) -> None:
    """Weights with the lists of names by which Keras finds them.

    Args:
        path: of the file.
        arrays: name to values.
        layers: name to the layer of Keras that has the weight, which begins the name.
    """
    try:
        import h5py
    except ImportError as error:
        raise FileError("To write HDF5, h5py has to be installed.") from error
    with (
        replacing(path) as file,
        file.open("w+b") as stream,
        h5py.File(stream, "w") as opened,
    ):
        names: dict[str, list[str]] = {}
        for name, value in arrays.items():
            opened.create_dataset(f"{name}:0", data=value)
            names.setdefault(layers[name], []).append(f"{name.removeprefix(layers[name])}:0")
        if "" in names:
            # in no layer's group, where Keras does not look
            return
        opened.attrs["layer_names"] = [layer.rstrip("/") for layer in names]
        opened.attrs["keras_version"], opened.attrs["backend"] = "2.15.0", "tensorflow"
        for layer, held in names.items():
            opened[layer].attrs["weight_names"] = held


def _layer_of(scope: str) -> str:
    """The part of a scope that is a layer of Keras: `first/` of `first/lstm_cell/`."""
    parts = scope.split("/")
    count = 2 if parts[0] == "layers" else 1
    return "/".join([*parts[:count], ""]) if len(parts) > count else ""


_WRITERS: dict[str, Callable[[Path, Mapping[str, Array]], None]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".pt": _torch,
    ".pth": _torch,
    ".ckpt": tensorflow.write,
}
