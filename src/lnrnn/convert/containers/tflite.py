"""TensorFlow Lite: the operators of layer-normalised LSTMs in a flatbuffer, read by hand.

The tensors of each operator are named by their role, as the operator's documentation does:
`operator_3/input_to_forget_weights`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lnrnn.convert.errors import FileError
from lnrnn.convert.tensors import Container, Entry

Array = np.ndarray

MAGIC = b"TFL3"
_LIMIT = 2 << 30  # a flatbuffer has 31-bit offsets
_LSTM = {16: "LSTM", 44: "UNIDIRECTIONAL_SEQUENCE_LSTM"}
_GATES = ("input", "forget", "cell", "output")
ROLES: tuple[str, ...] = (
    "input",
    *(f"input_to_{gate}_weights" for gate in _GATES),
    *(f"recurrent_to_{gate}_weights" for gate in _GATES),
    *(f"cell_to_{gate}_weights" for gate in ("input", "forget", "output")),
    *(f"{gate}_gate_bias" for gate in _GATES),
    "projection_weights",
    "projection_bias",
    "output_state",
    "cell_state",
    *(f"{gate}_layer_norm_coefficients" for gate in _GATES),
)
_STATES = ("input", "output_state", "cell_state")
_ACTIVATIONS = {0: "linear", 1: "relu", 4: "tanh"}
_FLOATS = {0: "<f4", 1: "<f2", 10: "<f8"}


def read(path: Path) -> Container:
    """The weights of all LSTM operators of a model.

    Raises:
        FileError: a damaged file, no such operator, or quantised weights.
    """
    size = path.stat().st_size
    if size > _LIMIT:
        raise FileError(f"A TensorFlow Lite model has at most {_LIMIT} bytes; this one has {size}.")
    data = path.read_bytes()
    try:
        return _read(data)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise FileError(f"The TensorFlow Lite model is damaged: {error}.") from error


def _read(data: bytes) -> Container:
    model = Table(data, Table.root(data))
    codes = [max(code.number(0, "b"), code.number(3, "i")) for code in model.tables(1)]
    buffers = list(model.tables(4))
    entries: dict[str, Entry] = {}
    facts: dict[str, Any] = {}
    place = 0
    for graph in model.tables(2):
        tensors = list(graph.tables(0))
        for operator in graph.tables(3):
            code = codes[operator.number(0, "I")]
            scope, place = f"operator_{place}/", place + 1
            if code not in _LSTM:
                continue
            inputs = operator.numbers(1, "i")
            for role, at in zip(ROLES, inputs, strict=False):
                if at < 0 or role in _STATES:
                    continue
                entries[scope + role] = _entry(scope + role, tensors[at], buffers)
            facts[scope] = {"lite": _options(operator.table(4))}
    if not entries:
        raise FileError("A model is read for its LSTM operators; this one has none.")
    return Container("tflite", entries, facts)


def _entry(name: str, tensor: Table, buffers: list[Table]) -> Entry:
    shape, kind = tuple(tensor.numbers(0, "i")), tensor.number(1, "b")
    if kind not in _FLOATS:
        raise FileError(
            f"Weights are floats; {name!r} is quantised: convert the model that it was made from."
        )
    raw = buffers[tensor.number(2, "I")].raw(0)
    dtype = np.dtype(_FLOATS[kind])
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(raw):
        raise FileError(
            f"A tensor takes the space of its shape; {name!r} of shape {str(shape)[:60]} has "
            f"{len(raw)} bytes: it is not a constant, or damaged."
        )
    return Entry(shape, dtype, lambda: np.frombuffer(raw, dtype).reshape(shape).copy())


def _options(options: Table | None) -> dict[str, Any]:
    """The fields of the variant that the operator's options set."""
    if options is None:
        return {"activation": "linear"}
    kind = options.number(0, "b")
    if kind not in _ACTIVATIONS:
        raise FileError(
            f"An operator's activation is one of {', '.join(_ACTIVATIONS.values())}; this one's "
            f"has the number {kind}."
        )
    clips = {"cell_clip": options.number(1, "f"), "projection_clip": options.number(2, "f")}
    if not all(math.isfinite(clip) for clip in clips.values()):
        raise FileError("The clips of an operator are finite; those of this one are not.")
    name = _ACTIVATIONS[kind]
    # the shortest decimal that is this float32, as a person wrote it
    bounds = {field: float(str(np.float32(clip))) or None for field, clip in clips.items()}
    return {"activation": name, "output_activation": name, **bounds}


class Table:
    """A table of a flatbuffer; every offset is checked against the length of the data."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self.fields = at - self._unpack("i", at)
        self.end = self._unpack("H", self.fields)

    @staticmethod
    def root(data: bytes) -> int:
        """Where the root table is."""
        return struct.unpack_from("<I", data, 0)[0]

    def _unpack(self, code: str, at: int) -> Any:
        if at < 0:
            raise FileError("The TensorFlow Lite model is damaged: an offset leads out of it.")
        return struct.unpack_from("<" + code, self.data, at)[0]

    def _field(self, number: int) -> int | None:
        slot = 4 + 2 * number
        offset = self._unpack("H", self.fields + slot) if slot + 2 <= self.end else 0
        return self.at + offset if offset else None

    def _target(self, number: int) -> int | None:
        at = self._field(number)
        return None if at is None else at + self._unpack("I", at)

    def number(self, number: int, code: str) -> Any:
        """A scalar; 0 where it is left out."""
        at = self._field(number)
        return 0 if at is None else self._unpack(code, at)

    def numbers(self, number: int, code: str) -> tuple[Any, ...]:
        """A vector of scalars."""
        at = self._target(number)
        if at is None:
            return ()
        count, width = self._unpack("I", at), struct.calcsize(code)
        if at + 4 + count * width > len(self.data):
            raise FileError("The TensorFlow Lite model is damaged: a vector exceeds it.")
        return struct.unpack_from(f"<{count}{code}", self.data, at + 4)

    def raw(self, number: int) -> bytes:
        """A vector of bytes."""
        at = self._target(number)
        if at is None:
            return b""
        count = self._unpack("I", at)
        found = self.data[at + 4 : at + 4 + count]
        if len(found) != count:
            raise FileError("The TensorFlow Lite model is cut short.")
        return found

    def table(self, number: int) -> Table | None:
        """A table."""
        at = self._target(number)
        return None if at is None else Table(self.data, at)

    def tables(self, number: int) -> Iterator[Table]:
        """A vector of tables."""
        at = self._target(number)
        if at is None:
            return
        count = self._unpack("I", at)
        if at + 4 + 4 * count > len(self.data):
            raise FileError("The TensorFlow Lite model is damaged: a vector exceeds it.")
        for place in range(at + 4, at + 4 + 4 * count, 4):
            yield Table(self.data, place + self._unpack("I", place))
