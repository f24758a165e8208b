"""The checksum CRC-32C of TensorFlow's checkpoints, over many lanes at once with NumPy.

A buffer is cut into equal lanes, each is folded byte by byte with all others, and neighbours
are joined pairwise: the checksum of a joined pair is that of the first, shifted by the length
of the second, xor that of the second.
"""

from __future__ import annotations

from functools import cache

import numpy as np

Array = np.ndarray

_POLYNOMIAL = 0x82F63B78
_LANE = 1024  # bytes
_MASK = 0xA282EAD8


def masked(data: bytes) -> int:
    """The checksum as checkpoints store it: rotated by 15 bits, plus a constant."""
    value = checksum(data)
    return ((value >> 15 | value << 17) + _MASK) & 0xFFFFFFFF


def checksum(data: bytes) -> int:
    """CRC-32C of some bytes.

    Example:
        >>> hex(checksum(b"123456789"))
        '0xe3069283'
    """
    count = len(data) // _LANE
    value = 0xFFFFFFFF
    if count:
        lanes = np.frombuffer(data, np.uint8, count * _LANE).reshape(count, _LANE)
        folded = np.zeros(count, np.uint32)
        folded[0] = value
        for column in np.ascontiguousarray(lanes.T):
            folded = _table()[(folded ^ column) & 0xFF] ^ (folded >> 8)
        value = _join(folded)
    for byte in data[count * _LANE :]:
        value = int(_table()[(value ^ byte) & 0xFF]) ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _join(folded: Array) -> int:
    """The state after all lanes, from that of each started at zero (the first at its own)."""
    length = _LANE
    while folded.size > 1:
        if folded.size % 2:
            # a leading lane of zeros changes nothing
            folded = np.concatenate([np.zeros(1, np.uint32), folded])
        folded = _shift(folded[::2], length) ^ folded[1::2]
        length *= 2
    return int(folded[0])


def _shift(values: Array, length: int) -> Array:
    """The states after `length` more bytes of zeros."""
    found = np.zeros_like(values)
    for bit, image in enumerate(_images(length)):
        found ^= np.where(values >> np.uint32(bit) & np.uint32(1), image, np.uint32(0))
    return found


@cache
def _images(length: int) -> Array:
    """What each single bit becomes after `length` bytes of zeros; a power of two times a lane."""
    if length > _LANE:
        half = _images(length // 2)
        return _shift_by(half, half)
    states = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(length):
        states = _table()[states & 0xFF] ^ (states >> 8)
    return states


def _shift_by(values: Array, images: Array) -> Array:
    found = np.zeros_like(values)
    for bit in range(32):
        found ^= np.where(values >> np.uint32(bit) & np.uint32(1), images[bit], np.uint32(0))
    return found


@cache
def _table() -> Array:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table
