"""TensorFlow's checkpoints and the variables of a SavedModel, without TensorFlow.

A checkpoint is an index, `<name>.index`, a sorted table of names in the manner of LevelDB, and
the raw tensors, `<name>.data-00000-of-00001`.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lnrnn.convert.errors import FileError
from lnrnn.convert.protobuf import fields, put, put_fixed32, put_varint, varint
from lnrnn.convert.tensors import Container, Entry, natural, whole
from lnrnn.files import replacing

Array = np.ndarray

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_INDEX_LIMIT = 256 << 20
_DTYPES = {
    1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 14: "<u2",
    17: "<u2", 19: "<f2", 22: "<u4", 23: "<u8",
}  # fmt: skip
_CODES = {"float32": 1, "float64": 2, "float16": 19}
_STRING, _BFLOAT16 = 7, 14
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_ATTRIBUTE = "/.ATTRIBUTES/VARIABLE_VALUE"


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies: dtype code, shape, shard, first byte, bytes, checksum."""

    code: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


def index_of(path: Path) -> Path | None:
    """The index of the checkpoint that a path means, None if it means none."""
    if path.is_dir():
        inner = path / "variables" / "variables.index"
        if not inner.is_file():
            raise FileError(
                f"A folder is read where it is a SavedModel; {path.name!r} has no "
                "variables/variables.index: name the checkpoint itself."
            )
        return inner
    if path.name.endswith(".index"):
        return path
    beside = path.with_name(path.name + ".index")
    return beside if not path.is_file() and beside.is_file() else None


def read(index: Path) -> Container:
    """The variables of a checkpoint.

    Names are those of the object graph (`layer_with_weights-0/cell/kernel`), or, where that
    only numbers them, those of the variables.  Slots of optimizers are left out.

    Raises:
        FileError: a damaged file, or a tensor in parts.
    """
    prefix = index.name.removesuffix(".index")
    table = dict(_table(index))
    shards = _header(table.pop(b"", b""))
    # the parts of a partitioned variable have keys of their own, which begin with a zero
    names = {_utf8(key): value for key, value in table.items() if not key.startswith(b"\0")}
    places = {name: _place(name, value) for name, value in names.items()}
    files = {
        i: index.with_name(f"{prefix}.data-{i:05d}-of-{shards:05d}")
        for i in {place.shard for place in places.values()}
    }
    sizes = {i: file.stat().st_size for i, file in files.items()}
    for name, place in places.items():
        if place.offset + place.size > sizes[place.shard]:
            raise FileError(
                f"The data of the checkpoint are cut short: {name[:80]!r} ends at byte "
                f"{place.offset + place.size} of {sizes[place.shard]}."
            )
    graph = places.pop(_GRAPH, None)
    full_names = _full_names(_string(files[graph.shard], graph)) if graph else {}
    entries: dict[str, Entry] = {}
    for key in sorted(places, key=natural):
        place = places[key]
        name = _name(key, full_names)
        if name is None or place.code not in _DTYPES:
            continue
        dtype = np.dtype("<f4" if place.code == _BFLOAT16 else _DTYPES[place.code])
        if math.prod(place.shape) * np.dtype(_DTYPES[place.code]).itemsize != place.size:
            raise FileError(
                f"A tensor takes the space of its shape; {name[:80]!r} of shape "
                f"{str(place.shape)[:60]} takes {place.size} bytes."
            )
        entries[name] = Entry(place.shape, dtype, _loader(name, files[place.shard], place))
    if not entries:
        raise FileError("A checkpoint holds variables; this one has none.")
    return Container("tensorflow", entries, ordered=True)


def write(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a checkpoint of plain names, as `tf.compat.v1.train.Saver` does.

    The index is written last, so a checkpoint is there once it is whole.
    """
    offset, entries = 0, {b"": put(1, 1) + put(3, put(1, 1))}
    blocks = []
    for name in sorted(arrays, key=str.encode):
        array = arrays[name]
        raw = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        shape = b"".join(put(2, put(1, n)) for n in array.shape)
        entries[name.encode()] = (
            put(1, _CODES[array.dtype.name])
            + put(2, shape)
            + put(4, offset)
            + put(5, len(raw))
            + put_fixed32(6, _checksum(raw))
        )
        blocks.append(raw)
        offset += len(raw)
    with replacing(path.with_name(path.name + ".data-00000-of-00001")) as file:
        file.write_bytes(b"".join(blocks))
    with replacing(path.with_name(path.name + ".index")) as file:
        file.write_bytes(_sorted_table(entries))


def _table(index: Path) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a sorted table."""
    size = index.stat().st_size
    if not _FOOTER <= size <= _INDEX_LIMIT:
        raise FileError(
            f"The index of a checkpoint has {_FOOTER} to {_INDEX_LIMIT} bytes; this one has {size}."
        )
    data = index.read_bytes()
    footer = data[-_FOOTER:]
    if struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise FileError("The index of a checkpoint ends with its mark; this file does not.")
    at = 0
    for _ in range(2):  # the handle of a table of metadata, which is empty
        _, at = varint(footer, at)
    start, at = varint(footer, at)
    length, _ = varint(footer, at)
    seen: set[bytes] = set()
    for _, handle in _entries(_block(data, start, length)):
        start, at = varint(handle, 0)
        length, _ = varint(handle, at)
        for key, value in _entries(_block(data, start, length)):
            if key in seen:
                raise FileError(f"A name stands once in a checkpoint; {key[:80]!r} stands twice.")
            seen.add(key)
            yield key, value


def _block(data: bytes, start: int, length: int) -> bytes:
    block, trailer = data[start : start + length], data[start + length : start + length + 5]
    if len(block) != length or len(trailer) != 5:
        raise FileError("The index of the checkpoint is cut short or damaged.")
    if trailer[0] != 0:
        raise FileError(
            "The index of a checkpoint is not compressed as TensorFlow writes it; this one is."
        )
    if _checksum(block + trailer[:1]) != int.from_bytes(trailer[1:], "little"):
        raise FileError("The index of the checkpoint is damaged: a checksum is wrong.")
    return block


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; a key repeats the start of the one before."""
    restarts = 4 * (1 + int.from_bytes(block[-4:], "little"))
    if len(block) < 4 or restarts > len(block):
        raise FileError("The index of the checkpoint is damaged: a block has no end.")
    body, at, key = block[:-restarts], 0, b""
    while at < len(body):
        shared, at = varint(body, at)
        fresh, at = varint(body, at)
        length, at = varint(body, at)
        if shared > len(key) or at + fresh + length > len(body):
            raise FileError("The index of the checkpoint is damaged: an entry exceeds its block.")
        key = key[:shared] + body[at : at + fresh]
        at += fresh
        yield key, body[at : at + length]
        at += length


def _header(raw: bytes) -> int:
    """The number of shards."""
    found = dict(fields(raw))
    shards = found.get(1, 0)
    if not isinstance(shards, int) or not 1 <= shards <= 99999 or found.get(2, 0) != 0:
        raise FileError(
            "A checkpoint is little-endian and in one part or more; this one says otherwise."
        )
    return shards


def _place(name: str, raw: bytes) -> _Place:
    numbers: dict[int, int] = {}
    shape: list[int] = []
    for number, value in fields(raw):
        if isinstance(value, int):
            numbers[number] = value
        elif number == 2:
            for inner, size in fields(value):
                if inner == 2 and isinstance(size, bytes):
                    dims = [v for n, v in fields(size) if n == 1]
                    shape += [d for d in dims[:1] if isinstance(d, int)] or [0]
        elif number == 7:
            raise FileError(
                f"A variable lies in one piece; {name[:80]!r} is partitioned: save it merged."
            )
    get = numbers.get
    return _Place(get(1, 0), tuple(shape), get(3, 0), get(4, 0), get(5, 0), get(6, 0))


def _loader(name: str, file: Path, place: _Place):
    def load() -> Array:
        raw = _raw(name, file, place)
        array = np.frombuffer(raw, _DTYPES[place.code])
        if place.code == _BFLOAT16:
            array = (array.astype("<u4") << 16).view("<f4")
        return array.reshape(place.shape).copy()

    return load


def _raw(name: str, file: Path, place: _Place) -> bytes:
    with file.open("rb") as stream:
        stream.seek(place.offset)
        raw = whole(stream, place.size)
    if _checksum(raw) != place.checksum:
        raise FileError(f"The checkpoint is damaged: the checksum of {name[:80]!r} is wrong.")
    return raw


def _string(file: Path, place: _Place) -> bytes:
    """The one string of a scalar: its length, a checksum of that, and the string."""
    with file.open("rb") as stream:
        stream.seek(place.offset)
        raw = whole(stream, place.size)
    length, at = varint(raw, 0)
    text = raw[at + 4 :]
    if len(text) != length:
        raise FileError("The checkpoint is damaged: its object graph is cut short.")
    return text


def _full_names(graph: bytes) -> dict[str, str]:
    """Key in the checkpoint to name of the variable, from the object graph."""
    found: dict[str, str] = {}
    for number, node in fields(graph):
        if number != 1 or not isinstance(node, bytes):
            continue
        for inner, attribute in fields(node):
            if inner == 2 and isinstance(attribute, bytes):
                parts = {n: v for n, v in fields(attribute) if isinstance(v, bytes)}
                if 2 in parts and 3 in parts:
                    found[_utf8(parts[3])] = _utf8(parts[2])
    counts = Counter(found.values())
    return {key: name for key, name in found.items() if counts[name] == 1}


def _name(key: str, full_names: Mapping[str, str]) -> str | None:
    """What a variable is called here; None for what is no weight."""
    path = key.removesuffix(_ATTRIBUTE)
    if ".OPTIMIZER_SLOT" in path or path.startswith(("optimizer/", "keras_api/")):
        return None
    if path.startswith("variables/"):
        return full_names.get(key, path)
    return path


def _utf8(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise FileError("Names in a checkpoint are UTF-8; one of this file is not.") from error


def _sorted_table(entries: Mapping[bytes, bytes]) -> bytes:
    """A table of one block, every key written in full."""
    body, restarts = bytearray(), []
    for key, value in sorted(entries.items()):
        restarts.append(len(body))
        body += b"\0" + put_varint(len(key)) + put_varint(len(value)) + key + value
    data = _with_trailer(bytes(body), restarts)
    first, meta_start = put_varint(0) + put_varint(len(data) - 5), len(data)
    data += _with_trailer(b"", [0])
    index_start = len(data)
    last = max(entries) + b"\0"
    row = b"\0" + put_varint(len(last)) + put_varint(len(first)) + last + first
    data += _with_trailer(row, [0])
    handles = b"".join(
        put_varint(n)
        for n in (
            meta_start,
            index_start - meta_start - 5,
            index_start,
            len(data) - index_start - 5,
        )
    )
    return data + handles.ljust(_FOOTER - 8, b"\0") + struct.pack("<Q", _MAGIC)


def _with_trailer(body: bytes, restarts: list[int]) -> bytes:
    block = body + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
    return block + b"\0" + _checksum(block + b"\0").to_bytes(4, "little")


def _checksum(data: bytes) -> int:
    """CRC-32C as checkpoints store it: rotated by 15 bits, plus a constant."""
    try:
        import google_crc32c
    except ImportError as error:
        raise FileError(
            "To read or write a checkpoint, google-crc32c has to be installed."
        ) from error
    value = google_crc32c.value(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
