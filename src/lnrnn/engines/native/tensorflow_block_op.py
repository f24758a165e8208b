"""The core's block GRU on TensorFlow, by the passes of `tensorflow_op`."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from lnrnn.engines.fused import block
from lnrnn.engines.fused.block import Inputs, Numbers
from lnrnn.engines.native import block as call
from lnrnn.engines.native.tensorflow_op import Pass, bind, by_definition
from lnrnn.engines.portable import ops_tensorflow as ops
from lnrnn.relatives.relative import Relative


def recurrence(
    relative: Relative, numbers: Numbers, inputs: Inputs, rounding: str
) -> tuple[Any, ...]:
    """All h (T, B, H) and the last."""
    cell = call.cell_of(call.encode(relative, rounding))
    block.check(inputs, tf.bool)
    if by_definition():
        return cell.define(ops, numbers, inputs)
    given = {n: tf.convert_to_tensor(a) for n, a in inputs._asdict().items() if a is not None}
    return tuple(bind(Pass(cell, numbers, tuple(given)), [*given.values()]))
