"""Keras's HDF5 files, legacy and new, and its .keras archives."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lnrnn.convert.containers import keras_config, npz
from lnrnn.convert.errors import FileError
from lnrnn.convert.safetensors import parse_json
from lnrnn.convert.tensors import Container, Entry, check_expansion, count_bytes, natural
from lnrnn.frontends.keras_weights import MARK

Array = np.ndarray

MAGIC = b"\x89HDF\r\n\x1a\n"
_LEVELS = 64
_OTHERS = ("optimizer/", "optimizer_weights/", "metrics/")
_OBJECTS = 1_000_000


def read(path: Path) -> Container:
    """The datasets of an HDF5 file, by the names that Keras gave to the weights.

    Raises:
        FileError: h5py is not installed, a damaged file, or one that points to others.
    """
    return _container("h5", path, path.stat().st_size, {})


def read_keras(path: Path) -> Container:
    """The weights of a .keras archive, with what its configuration says about the layers."""
    held = npz.members(path)
    config = npz.member(path, "config.json") if "config.json" in held else b"{}"
    raw = npz.member(path, "model.weights.h5")
    if not raw.startswith(MAGIC):
        raise FileError("The weights of a .keras file are in HDF5; these are not.")
    facts = keras_config.layers(parse_json(config, "config.json"))
    return _container("keras", raw, path.stat().st_size, facts)


def _container(kind: str, source: Path | bytes, size: int, facts: Mapping[str, Any]) -> Container:
    try:
        import h5py
    except ImportError as error:
        raise FileError("To read HDF5, h5py has to be installed.") from error

    def opened() -> Any:
        return h5py.File(io.BytesIO(source) if isinstance(source, bytes) else source, "r")

    try:
        with opened() as file:
            order = _layer_names(file)
            found = dict(sorted(_datasets(h5py, file), key=lambda pair: _rank(pair[0], order)))
            size_of_all = sum(count_bytes(d.shape, d.dtype) for d in found.values())
            check_expansion(size_of_all, size)
            found = {p: d for p, d in found.items() if not _is_other(p)}
            config = _text(file.attrs.get("model_config"))
            entries = {
                _clean(path): Entry(d.shape, d.dtype, _loader(opened, path))
                for path, d in found.items()
                if d.dtype.kind in "fiub"
            }
            names = {_clean(path) for path in found if found[path].dtype.kind in "fiub"}
    except FileError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        # h5py reports a damaged file by any of these
        raise _damaged(error) from error
    if len(names) < sum(d.dtype.kind in "fiub" for d in found.values()):
        raise FileError("A weight has one place in a file; two of this file have the same name.")
    if config:
        try:
            raw = config.encode()
        except UnicodeEncodeError as error:
            raise FileError("JSON in UTF-8 is due in model_config; this is not.") from error
        facts = keras_config.layers(parse_json(raw, "model_config"), entries)
    if not entries:
        raise FileError("A file of weights holds arrays; this one has none.")
    return Container(kind, entries, facts, ordered=bool(order))


def _datasets(h5py: Any, file: Any) -> Iterator[tuple[str, Any]]:
    """All datasets under a file, without following any link that leads elsewhere."""
    stack, left, seen = [("", file, 0)], _OBJECTS, set()
    while stack:
        path, group, level = stack.pop()
        for name in group:
            left -= 1
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink) or left < 0 or level > _LEVELS:
                raise FileError(
                    f"Weights lie in the file itself, in at most {_LEVELS} levels; "
                    f"{(path + name)[:80]!r} does not."
                )
            value = group.get(name)
            if isinstance(value, h5py.Group):
                address = h5py.h5o.get_info(value.id).addr
                if address in seen:
                    raise FileError(f"The group {(path + name)[:80]!r} stands in the file twice.")
                seen.add(address)
                stack.append((f"{path}{name}/", value, level + 1))
            elif isinstance(value, h5py.Dataset):
                if value.is_virtual or value.external:
                    raise FileError(
                        f"Weights lie in the file itself; {(path + name)[:80]!r} is in another."
                    )
                if value.shape is not None:
                    yield path + name, value


def _layer_names(file: Any) -> list[str]:
    """The layers of a legacy file in the order of the model; none in a new one."""
    group = file.get("model_weights", file)
    names = group.attrs.get("layer_names", ())
    return [_text(n) for n in np.asarray(names).ravel().tolist()]


def _is_other(path: str) -> bool:
    """Whether a dataset is no weight: of an optimiser, a metric, or the mark of an order."""
    return path.startswith(_OTHERS) or path.endswith(f"/{MARK}")


def _rank(path: str, order: list[str]) -> tuple[int, list[tuple[int, str]]]:
    first = path.removeprefix("model_weights/").partition("/")[0]
    return order.index(first) if first in order else len(order), natural(path)


def _loader(opened: Any, path: str) -> Any:
    def load() -> Array:
        try:
            with opened() as file:
                return np.asarray(file[path][()])
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise _damaged(error) from error

    return load


def _clean(path: str) -> str:
    """A dataset's path as the weight's name: `first/first/cell/kernel:0` is `first/cell/kernel`."""
    path = path.removeprefix("model_weights/").removesuffix(":0")
    first, _, rest = path.partition("/")
    return rest if rest.startswith(first + "/") else path


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def _damaged(error: BaseException) -> FileError:
    text = " ".join(str(error).split()).rstrip(".")[:120]
    return FileError(f"The HDF5 file is damaged: {text or type(error).__name__}.")
