"""The core's block GRU on TensorFlow: what the passes of `tensorflow_op` have to know of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from lnrnn.engines.fused import block
from lnrnn.engines.fused.block import Inputs, Numbers
from lnrnn.engines.native import block as call
from lnrnn.engines.native.tensorflow_op import Arrays, bind, by_definition
from lnrnn.engines.portable import ops_tensorflow as ops
from lnrnn.relatives.relative import Relative


class How(NamedTuple):
    """A pass of a block GRU."""

    words: tuple[int, ...]
    numbers: Numbers
    given: tuple[str, ...]
    found: tuple[str, ...] = ()
    batch_first: bool = False

    @property
    def operator(self) -> str:
        return "lnrnn_block_recurrence"

    @property
    def arrays(self) -> tuple[str, ...]:
        return call.ARRAYS

    @property
    def inputs(self) -> tuple[str, ...]:
        return Inputs._fields

    @property
    def results(self) -> tuple[str, ...]:
        return ("h", "h_last")

    @property
    def kept(self) -> tuple[str, ...]:
        return ("kept",)

    def asked(self, of_x: bool) -> tuple[str, ...]:
        # the weights' gradients are made from that of x
        return tuple(n for n in self.given if n in block.DIFFERENTIABLE)

    def single(self, arrays: Arrays) -> Any:
        return arrays[0].dtype

    def dtypes(self, arrays: Arrays) -> list[Any]:
        return [self.single(arrays)] * len(self.found)

    def define(self, arrays: Arrays) -> tuple[Any, ...]:
        by_name = dict(zip(self.given, arrays, strict=True))
        a = Inputs(*(by_name.get(name) for name in Inputs._fields))  # pyright: ignore
        rounding = call.rounding_of(self.words)
        like = tf.zeros((), rounding) if rounding else None
        return block.definition(ops, call.decode(self.words, self.numbers), a, like)


def recurrence(
    relative: Relative, numbers: Numbers, inputs: Inputs, rounding: str
) -> tuple[Any, ...]:
    """All h (T, B, H) and the last."""
    given = {n: tf.convert_to_tensor(a) for n, a in inputs._asdict().items() if a is not None}
    block.check(inputs, tf.bool)
    how, arrays = How(call.encode(relative, rounding), numbers, tuple(given)), [*given.values()]
    return tuple(how.define(arrays) if by_definition() else bind(how, arrays))
