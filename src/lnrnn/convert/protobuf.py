"""The wire format of protocol buffers, as far as checkpoints need it."""

from __future__ import annotations

from collections.abc import Iterator

from lnrnn.convert.errors import FileError

Field = tuple[int, int | bytes]

_WIDTH = {1: 8, 5: 4}
_VARINT, _BYTES = 0, 2


def varint(data: bytes, at: int) -> tuple[int, int]:
    """An integer of variable length, and where the next thing begins."""
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise FileError("The file is damaged: an integer of a checkpoint does not end.")


def fields(data: bytes) -> Iterator[Field]:
    """Number and value of each field of a message; fixed widths as unsigned integers."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = varint(data, at)
        elif kind == _BYTES:
            length, at = varint(data, at)
            value, at = _take(data, at, length), at + length
        elif kind in _WIDTH:
            value, at = int.from_bytes(_take(data, at, _WIDTH[kind]), "little"), at + _WIDTH[kind]
        else:
            raise FileError(f"The file is damaged: a message has a field of kind {kind}.")
        yield number, value


def put_varint(value: int) -> bytes:
    """The bytes of an integer."""
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def put(number: int, value: int | bytes) -> bytes:
    """The bytes of a field: an integer of variable length, or bytes."""
    if isinstance(value, int):
        return put_varint(number << 3 | _VARINT) + put_varint(value)
    return put_varint(number << 3 | _BYTES) + put_varint(len(value)) + value


def put_fixed32(number: int, value: int) -> bytes:
    """The bytes of a field of four bytes."""
    return put_varint(number << 3 | 5) + value.to_bytes(4, "little")


def _take(data: bytes, at: int, length: int) -> bytes:
    if at + length > len(data):
        raise FileError("The file is damaged: a field of a checkpoint is longer than the rest.")
    return data[at : at + length]
