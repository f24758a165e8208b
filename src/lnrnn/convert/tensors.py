"""What every reader gives: named tensors of a file, of known shape, loaded on demand."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from lnrnn.convert.errors import FileError

Array = np.ndarray

# Compressed weights take about nine tenths of their size; zeros take next to nothing.
# Rearranging weights takes about ten times their size.
EXPANSION = 8
FREE = 16 << 20
DIMENSION = 1 << 63
# what stands between the parts of a name
SEPARATORS = "/._:"
_DIGITS = re.compile(r"(\d{1,18})")


@dataclass(frozen=True)
class Entry:
    """A tensor in a file.

    Args:
        shape: its shape.
        dtype: its dtype, as loaded.
        load: reads the values.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], Array]


@dataclass(frozen=True)
class Container:
    """The tensors of a file.

    Args:
        kind: of the file: `"npz"`, `"safetensors"`, `"torch"`, `"keras"`, `"h5"`,
            `"tensorflow"` or `"tflite"`.
        entries: name to tensor; parts of a name have `/` or `.` between them, as they came.
        facts: what else the file says about its layers, by the start of their names.
        ordered: whether the entries stand in the order of the model.
    """

    kind: str
    entries: Mapping[str, Entry]
    facts: Mapping[str, Any] = field(default_factory=dict)
    ordered: bool = False

    def __post_init__(self) -> None:
        for name, entry in self.entries.items():
            # beside a size of 0 others can be anything
            if not all(size < DIMENSION for size in entry.shape):
                raise FileError(f"The sizes of a tensor are below 2**63; {name[:80]!r} has others.")


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts `rnn.2` before `rnn.10`."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in _DIGITS.split(name)]


def whole(stream: BinaryIO, count: int) -> bytes:
    """Exactly `count` bytes.

    Raises:
        FileError: the file ends before.
    """
    raw = stream.read(count)
    if len(raw) != count:
        raise FileError(f"The file is cut short: {count} bytes are due, {len(raw)} are there.")
    return raw


def check_expansion(declared: int, size: int) -> None:
    """Refuse a file that would unpack to far more than its own size.

    Raises:
        FileError: more than 16 MiB and more than 8 times the size of the file.
    """
    if declared > max(FREE, EXPANSION * size):
        raise FileError(
            f"A file unpacks to at most {EXPANSION} times its size, or {FREE >> 20} MiB; this one "
            f"has {size} bytes and claims {declared}."
        )


def count_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Bytes of an array, in Python's integers, which do not overflow."""
    return math.prod(shape) * dtype.itemsize
