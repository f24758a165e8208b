"""The file format of this package: canonical weights, variants and origins in safetensors."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lnrnn.convert import safetensors
from lnrnn.convert.errors import FileError
from lnrnn.convert.tensors import DIMENSION, Container
from lnrnn.convert.weights import DTYPES, Checkpoint, Origin, Weights, check_float, collect
from lnrnn.params import STATES, Sizes, shapes
from lnrnn.variant import Variant

Array = np.ndarray

KEY = "lnrnn"
VERSION = 1
_DESCRIPTION = {"version", "requires", "layers", "notes"}
_LAYER = {"variant", "sizes", "zoneout", "origin"}
_ORIGIN = {"dialect", "scope", "file", "container", "dtypes", "kept"}
_STATES = ("h", "c")


def save(path: str | os.PathLike[str], layers: Any, notes: Mapping[str, Any] | None = None) -> None:
    """Write recurrent layers, or their weights, to a file.

    The file is in the safetensors format, readable by any program of that format, and is written
    whole or not at all.

    Args:
        path: of the file, by custom ending in `.safetensors`.
        layers: a layer of this package, a sequence of them (a stack), a Keras model or
            wrapper around them, [Weights][lnrnn.convert.Weights], or a mapping from path to
            any of these.
        notes: JSON values to keep with them.

    Raises:
        FileError: a layer that no file can describe, or weights that are not finite.

    Example:
        >>> from lnrnn.keras import LayerNormLSTM
        >>> layer = LayerNormLSTM(8)
        >>> layer.build((None, None, 3))
        >>> save("layer.safetensors", layer)
        >>> load("layer.safetensors").single.sizes
        Sizes(inputs=3, units=8, hidden=8)
    """
    safetensors.write(Path(path), *contents(collect(layers), notes or {}))


def contents(
    checkpoint: Checkpoint, notes: Mapping[str, Any]
) -> tuple[dict[str, Array], dict[str, str]]:
    """The tensors and the metadata of a file of layers, see `docs/file-format.md`.

    Args:
        checkpoint: the layers.
        notes: beside those of the checkpoint.
    """
    arrays: dict[str, Array] = {}
    described: dict[str, Any] = {}
    for at, weights in checkpoint.items():
        arrays |= {f"{at}.{name}": value for name, value in weights.params.items()}
        described[at] = _describe(weights)
        if weights.origin is not None:
            kept = weights.origin.kept
            arrays |= {f"{at}.original.{name}": value for name, value in kept.items()}
    for name, value in arrays.items():
        check_float(name, value)
    description = {
        "version": VERSION,
        "requires": [],
        "layers": described,
        "notes": {**checkpoint.notes, **notes},
    }
    try:
        text = json.dumps(description, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise FileError(f"Notes are JSON values; these are not: {error}.") from error
    return arrays, {"format": "np", KEY: text}


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a file that [save][lnrnn.convert.save] wrote.

    Args:
        path: of the file.

    Returns:
        The layers by path, as NumPy arrays; nothing of the file is executed.  Weights in
        bfloat16 come as float32, which holds them exactly.

    Raises:
        FileError: another format, a newer version, a damaged file, or weights that do not fit
            the variant.

    Example:
        >>> params = {"kernel": np.ones((3, 4)), "recurrent_kernel": np.ones((4, 4))}
        >>> save("simple.safetensors", Weights(Variant(cell="simple"), params))
        >>> list(load("simple.safetensors"))
        ['layers.0.forward']
    """
    return from_container(safetensors.read(Path(path)))


def is_ours(container: Container) -> bool:
    """Whether a container describes its layers as this format does."""
    return container.kind == "safetensors" and KEY in container.facts


def from_container(container: Container) -> Checkpoint:
    """The layers of a safetensors file of this format."""
    if not is_ours(container):
        raise FileError(
            f"A file of this format has the metadata {KEY!r}; this one has not: use lnrnn inspect "
            "and lnrnn convert, or lnrnn.convert.relatives.load for a relative."
        )
    text = container.facts[KEY].encode()
    description = safetensors.parse_json(text, f"the metadata {KEY!r}")
    _check_names(description, _DESCRIPTION, "the description")
    version, requires = description["version"], description["requires"]
    if version != VERSION or type(version) is not int:
        raise FileError(
            f"This program reads version {VERSION} of the format; the file has version "
            f"{_brief(version)}: use a newer lnrnn."
        )
    if requires != []:
        raise FileError(
            f"The file needs features that this program does not know, {_brief(requires)}: use a "
            "newer lnrnn."
        )
    entries = dict(container.entries)
    layers = {}
    if not isinstance(description["layers"], dict) or not isinstance(description["notes"], dict):
        raise FileError("The layers and notes of the description are JSON objects; these are not.")
    for at, about in description["layers"].items():
        layers[at] = _layer(at, about, entries)
    if entries:
        raise FileError(
            f"Each tensor belongs to a layer of the description; {next(iter(entries))[:80]!r} does "
            "not."
        )
    return Checkpoint(layers, description["notes"])


def _describe(weights: Weights) -> dict[str, Any]:
    origin = None
    if weights.origin is not None:
        origin = {f.name: getattr(weights.origin, f.name) for f in dataclasses.fields(Origin)}
        origin |= {"dtypes": dict(origin["dtypes"]), "kept": list(weights.origin.kept)}
    return {
        "variant": _changes(weights.variant),
        "sizes": list(weights.sizes),
        "zoneout": [weights.zoneout, weights.zoneout_cell],
        "origin": origin,
    }


def _changes(variant: Variant) -> dict[str, Any]:
    """The fields that are not at their defaults, so that new fields leave old files as they are."""
    defaults = {f.name: f.default for f in dataclasses.fields(Variant)}
    return {n: v for n, v in variant.to_dict().items() if v != defaults[n] and v != []}


def _layer(at: str, about: Any, entries: dict[str, Any]) -> Weights:
    """One layer of the description; its tensors are taken out of `entries`."""
    _check_names(about, _LAYER, f"the layer {at!r}")
    try:
        variant = Variant.from_dict(about["variant"])
    except (TypeError, ValueError, AttributeError) as error:
        why = str(error) if isinstance(error, ValueError) else "its fields are not as described."
        raise FileError(f"The layer {_brief(at)} has no valid variant: {why[:300]}") from error
    given, rates = about["sizes"], about["zoneout"]
    if not _is_list(given, 3) or not all(type(n) is int and 0 < n < DIMENSION for n in given):
        raise FileError(
            f"The sizes of a layer are three whole numbers, 1 or more; {_brief(at)} has "
            f"{_brief(given)}."
        )
    if not _is_list(rates, 2) or not all(type(r) in (int, float) and 0 <= r < 1 for r in rates):
        raise FileError(
            f"The zoneout of a layer is two probabilities below 1; {_brief(at)} has "
            f"{_brief(rates)}."
        )
    zoneout, zoneout_cell = map(float, rates)
    try:
        learned = f"{at}.{STATES['h']}" in entries
        expected = shapes(variant, Sizes(*given), learned)
    except ValueError as error:
        raise FileError(f"The layer {_brief(at)} has no valid sizes: {error}") from error
    params = {}
    for name, shape in expected.items():
        entry = entries.pop(f"{at}.{name}", None)
        if entry is None or entry.shape != shape:
            given = "is missing" if entry is None else f"has {entry.shape}"
            raise FileError(
                f"The weight {name!r} of the layer {at!r} has the shape {shape}; in the file it "
                f"{given}."
            )
        params[name] = entry.load()
    origin = _origin(at, about["origin"], entries)
    return Weights(variant, params, zoneout, zoneout_cell, origin)


def _origin(at: str, about: Any, entries: dict[str, Any]) -> Origin | None:
    if about is None:
        return None
    _check_names(about, _ORIGIN, f"the origin of {at!r}")
    words = [about[n] for n in ("dialect", "scope", "file", "container")]
    names, dtypes = about["kept"], about["dtypes"]
    if (
        not all(isinstance(w, str) for w in words)
        or not isinstance(names, list)
        or not all(isinstance(n, str) for n in names)
        or not isinstance(dtypes, dict)
    ):
        raise FileError(
            f"The origin of {_brief(at)} is words, a list of words and an object; this one is not."
        )
    unknown = [d for d in dtypes.values() if d not in DTYPES]
    if unknown:
        raise FileError(
            f"The dtypes of an origin are of {', '.join(DTYPES)}; that of {_brief(at)} has "
            f"{_brief(unknown[0])}."
        )
    kept = {}
    for name in names:
        entry = entries.pop(f"{at}.original.{name}", None)
        if entry is None:
            raise FileError(f"The original weight {name[:80]!r} of {at!r} is missing.")
        kept[name] = entry.load()
        check_float(name, kept[name])
    return Origin(*words, dtypes=dtypes, kept=kept)


def _check_names(given: Any, names: set[str], what: str) -> None:
    if not isinstance(given, dict) or set(given) != names:
        found = sorted(given) if isinstance(given, dict) else type(given).__name__
        raise FileError(
            f"The fields of {what} are {', '.join(sorted(names))}; got {_brief(found)}."
        )


def _is_list(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length


def _brief(value: Any) -> str:
    """A value of a file, short enough for a sentence."""
    try:
        text = ascii(value)
    except ValueError:  # whole numbers of thousands of digits
        return "a number"
    return text if len(text) <= 80 else f"{text[:77]}..."
