"""The safetensors container: eight bytes of length, a JSON header, and the tensors.

Written and read here without the library of that name, so that saving needs NumPy only and
every rule of the header is checked before a byte is allocated.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lnrnn.convert.errors import FileError
from lnrnn.convert.tensors import Container, Entry, whole
from lnrnn.files import replacing

Array = np.ndarray

HEADER_LIMIT = 16 << 20  # bytes; a header takes some hundred for each tensor
_CODES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_ALIGNMENT = 8


def write(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write float arrays and string metadata, whole or not at all."""
    with replacing(path) as file, file.open("wb") as stream:
        for piece in pieces(arrays, metadata):
            stream.write(piece)


def pieces(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> Iterator[bytes]:
    """The bytes of a file, part by part."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name, array in arrays.items():
        end = start + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield struct.pack("<Q", len(text)) + text
    yield from map(_bytes, arrays.values())


def _bytes(array: Array) -> bytes:
    if array.dtype.name == "bfloat16":
        array = array.view(np.uint16)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def read(path: Path) -> Container:
    """The tensors of a file, not yet loaded, with its string metadata as `facts`.

    Raises:
        FileError: a header that breaks a rule of the container.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        header = _header(stream, size)
        begin = stream.tell()
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FileError("The metadata of a safetensors file are strings by name; these are not.")
    places = {name: _place(name, entry) for name, entry in header.items()}
    expected = 0
    for name, (_, _, start, end) in sorted(places.items(), key=lambda p: p[1][2:]):
        if start != expected:
            raise FileError(
                "The tensors of a safetensors file stand one after the other without gaps; "
                f"{name!r} begins at byte {start} where {expected} was due."
            )
        expected = end
    if begin + expected != size:
        raise FileError(
            f"The header describes {expected} bytes of tensors, the file has {size - begin}: it is "
            "cut short or has something appended."
        )

    def loader(code: str, shape: tuple[int, ...], start: int) -> Any:
        def load() -> Array:
            with path.open("rb") as stream:
                stream.seek(begin + start)
                raw = whole(stream, math.prod(shape) * np.dtype(_CODES[code]).itemsize)
            return _decode(raw, code).reshape(shape)

        return load

    entries = {
        name: Entry(shape, _dtype(code), loader(code, shape, start))
        for name, (code, shape, start, _) in places.items()
    }
    return Container("safetensors", entries, facts=metadata)


def _dtype(code: str) -> np.dtype[Any]:
    return np.dtype("<f4" if code == "BF16" else _CODES[code])


def _decode(raw: bytes, code: str) -> Array:
    array = np.frombuffer(raw, _CODES[code])
    if code == "BF16":
        # the upper half of a float32
        return (array.astype("<u4") << 16).view("<f4")
    return array.copy()


def _header(stream: BinaryIO, size: int) -> dict[str, Any]:
    if size < 8:
        raise FileError(f"A safetensors file begins with 8 bytes of length; this one has {size}.")
    (length,) = struct.unpack("<Q", whole(stream, 8))
    if length > min(size - 8, HEADER_LIMIT):
        raise FileError(
            f"The header of a safetensors file fits into it and into {HEADER_LIMIT} bytes; this "
            f"one claims {length} bytes in a file of {size}."
        )
    found = parse_json(whole(stream, length), "the header")
    if not isinstance(found, dict):
        raise FileError("The header of a safetensors file is a JSON object; this one is not.")
    return found


def _place(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Code, shape, first and last byte of a tensor."""
    try:
        code, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        item = np.dtype(_CODES[code]).itemsize
        numbers = all(type(n) is int and n >= 0 for n in (*shape, start, end))
    except (TypeError, KeyError, ValueError) as error:
        raise FileError(
            f"A tensor of a safetensors file has a known dtype, a shape and two offsets; {name!r} "
            "has not."
        ) from error
    if len(entry) != 3 or not numbers or len(shape) > 32 or math.prod(shape) * item != end - start:
        raise FileError(
            f"The offsets of a tensor span its shape; {name!r} of {code} and shape "
            f"{str(list(shape))[:60]} spans bytes {start} to {end}."
        )
    return code, shape, start, end


def parse_json(raw: bytes, what: str) -> Any:
    """JSON without duplicate names and without numbers that JSON has not.

    Raises:
        FileError: what is not that.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(n for n in names if names.count(n) > 1)
            raise FileError(f"A name stands once in {what}; {twice[:80]!r} stands there twice.")
        return found

    def refuse(name: str) -> Any:
        raise FileError(f"Numbers are finite in {what}; it has {name}.")

    try:
        return json.loads(raw.decode(), object_pairs_hook=unique, parse_constant=refuse)
    except FileError:
        raise
    except (ValueError, RecursionError) as error:
        raise FileError(f"JSON in UTF-8 is due in {what}: {_brief(error)}.") from error


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text[:120] or type(error).__name__
