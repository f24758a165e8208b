"""A TensorFlow Lite model of one layer-normalised LSTM, for TensorFlow Lite to run."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lnrnn.convert.containers.tflite import MAGIC, ROLES
from lnrnn.convert.errors import FileError
from lnrnn.params import Sizes
from lnrnn.variant import Variant

Array = np.ndarray

_ACTIVATIONS = {"linear": 0, "relu": 1, "tanh": 4}
_SEQUENCE_LSTM = 44
_INT8 = 9  # of the types of tensors
_OPTIONS_OF_SEQUENCE_LSTM = 71


def model(
    weights: Mapping[str, Array],
    variant: Variant,
    sizes: Sizes,
    shape: tuple[int, int],
    int8: bool = False,
) -> bytes:
    """The bytes of a model with one operator.

    Args:
        weights: role to array, as [tflite][lnrnn.convert.containers.tflite] names them.
        variant: of the layer.
        sizes: I, H and R.
        shape: steps and batch of its input, (T, B, I) time-major.
        int8: matrices and peepholes are whole numbers of 8 bits with one scale for each, which
            the operator's hybrid kernel multiplies; norms, biases and states are float32.

    Raises:
        FileError: flatbuffers is not installed, or a variant that the operator has not.
    """
    try:
        import flatbuffers
    except ImportError as error:
        raise FileError("To write a .tflite file, flatbuffers has to be installed.") from error
    if variant.activation not in _ACTIVATIONS or variant.output_activation != variant.activation:
        raise FileError(
            f"The operator has one activation of {', '.join(_ACTIVATIONS)}; the layer has "
            f"{variant.activation!r} and {variant.output_activation!r}."
        )
    steps, batch = shape
    builder = flatbuffers.Builder(1024)
    states = {"output_state": (batch, sizes.hidden), "cell_state": (batch, sizes.units)}
    given: dict[str, Array | tuple[int, ...]] = {"input": (steps, batch, sizes.inputs)}
    given |= {name: np.ascontiguousarray(value, "<f4") for name, value in weights.items()} | states
    given["output"] = (steps, batch, sizes.hidden)
    names = list(given)

    buffers = [_table(builder, {})]
    tensors = []
    for name, value in given.items():
        at = 0
        quantised: dict[int, tuple[str, Any]] = {}
        if int8 and isinstance(value, np.ndarray) and name.endswith("_weights"):
            value, scale = _rounded(value)
            scales = builder.CreateNumpyVector(np.array([scale], "<f4"))
            zeros = builder.CreateNumpyVector(np.zeros(1, "<i8"))
            about = _table(builder, {2: ("offset", scales), 3: ("offset", zeros)})
            quantised = {1: ("byte", _INT8), 4: ("offset", about)}
        if isinstance(value, np.ndarray):
            at = len(buffers)
            buffers.append(_table(builder, {0: ("offset", _bytes(builder, value.tobytes()))}))
        dims = value.shape if isinstance(value, np.ndarray) else value
        shape_at = _ints(builder, dims)
        label = builder.CreateString(name)
        variable = {5: ("bool", True)} if name in states else {}
        fields = {0: ("offset", shape_at), 2: ("uint", at), 3: ("offset", label), **variable}
        fields |= quantised
        tensors.append(_table(builder, fields))

    clips = {
        1: ("float", variant.cell_clip or 0.0),
        2: ("float", variant.projection_clip or 0.0),
        3: ("bool", True),
    }
    options = _table(builder, {0: ("byte", _ACTIVATIONS[variant.activation]), **clips})
    inputs = _ints(builder, [names.index(r) if r in given else -1 for r in ROLES])
    outputs = _ints(builder, [names.index("output")])
    operator = _table(
        builder,
        {
            1: ("offset", inputs),
            2: ("offset", outputs),
            3: ("ubyte", _OPTIONS_OF_SEQUENCE_LSTM),
            4: ("offset", options),
        },
    )
    tensors_at = _tables(builder, tensors)
    graph_inputs, graph_outputs = _ints(builder, [0]), _ints(builder, [names.index("output")])
    operators = _tables(builder, [operator])
    graph = _table(
        builder,
        {
            0: ("offset", tensors_at),
            1: ("offset", graph_inputs),
            2: ("offset", graph_outputs),
            3: ("offset", operators),
        },
    )
    code = _table(builder, {0: ("byte", _SEQUENCE_LSTM), 3: ("int", _SEQUENCE_LSTM)})
    root = {
        1: ("offset", _tables(builder, [code])),
        2: ("offset", _tables(builder, [graph])),
        4: ("offset", _tables(builder, buffers)),
    }
    builder.Finish(_table(builder, {0: ("uint", 3), **root}), MAGIC)
    return bytes(builder.Output())


def _rounded(value: Array) -> tuple[Array, float]:
    """A matrix as whole numbers from -127 to 127, and their scale."""
    scale = float(np.abs(value).max(initial=0.0)) / 127 or 1.0
    return np.rint(value / scale).astype(np.int8), scale


_PUT = {
    "offset": "PrependUOffsetTRelativeSlot", "uint": "PrependUint32Slot",
    "int": "PrependInt32Slot", "byte": "PrependInt8Slot", "ubyte": "PrependUint8Slot",
    "bool": "PrependBoolSlot", "float": "PrependFloat32Slot",
}  # fmt: skip


def _table(builder: Any, fields: Mapping[int, tuple[str, Any]]) -> int:
    builder.StartObject(max(fields, default=0) + 1)
    for number, (kind, value) in fields.items():
        getattr(builder, _PUT[kind])(number, value, 0)
    return builder.EndObject()


def _ints(builder: Any, values: Sequence[int]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependInt32(value)
    return builder.EndVector()


def _tables(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _bytes(builder: Any, raw: bytes) -> int:
    # float data begin at multiples of 16, as the interpreter maps them
    builder.StartVector(1, len(raw), 16)
    builder.head -= len(raw)
    builder.Bytes[builder.head : builder.head + len(raw)] = raw
    return builder.EndVector()


def little_endian_float(value: float) -> float:
    """A number as the operator's options hold it."""
    return struct.unpack("<f", struct.pack("<f", value))[0]
