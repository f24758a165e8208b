"""The core's block GRU on JAX: what the primitives of `fused.jax_op` have to know of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from lnrnn.engines.fused import block
from lnrnn.engines.fused.block import Inputs, Numbers
from lnrnn.engines.fused.jax_op import Arrays, bind, varying
from lnrnn.engines.native import block as call
from lnrnn.engines.native.jax_op import core_call
from lnrnn.engines.portable import ops_jax as ops
from lnrnn.relatives.relative import Relative

# the axes of every array: time t, batch b, units h, projection p, blocks k, units of a block n and
# m; those of all later layers o and q, of all layers g, of the gates of a block v and of all u;
# what is kept of a row w
_AXES = {
    "hidden_kernel": "hp",
    "hidden_bias": "p",
    "hidden_gain": "p",
    "state_kernel": "knm",
    "projected_kernel": "ph",
    "layer_kernel": "kno",
    "layer_bias": "q",
    "gain": "g",
    "gate_kernel": "knv",
    "gate_bias": "u",
    "x": "tbh",
    "h0": "bh",
    "mask": "tb",
    "reset": "tb",
    "h": "tbh",
    "h_last": "bh",
    "kept": "tbw",
}


class How(NamedTuple):
    """What is static of a call: the words, the scalars, and which inputs are there."""

    words: tuple[int, ...]
    numbers: Numbers
    names: tuple[str, ...]

    @property
    def platforms(self) -> tuple[str, ...]:
        return ("cpu",)

    @property
    def target(self) -> str:
        return "lnrnn_block"

    @property
    def arrays(self) -> tuple[str, ...]:
        return call.ARRAYS

    @property
    def results(self) -> tuple[str, ...]:
        return ("h", "h_last")

    @property
    def kept(self) -> tuple[str, ...]:
        return ("kept",)

    @property
    def differentiable(self) -> tuple[str, ...]:
        return tuple(n for n in self.names if n in block.DIFFERENTIABLE)

    def axes(self, name: str, rank: int | None = None) -> str:
        return _AXES[name] if name in _AXES else _AXES[name.removeprefix("d")]

    def turned(self, name: str) -> bool:
        return False

    def inputs(self, arrays: Arrays) -> Inputs:
        given = dict(zip(self.names, arrays, strict=True))
        return Inputs(*(given.get(name) for name in Inputs._fields))  # pyright: ignore

    def lengths(self, arrays: Arrays) -> dict[str, int]:
        length: dict[str, int] = {}
        for name, array in zip(self.names, arrays, strict=True):
            length |= dict(zip(self.axes(name), array.shape, strict=True))
        return length | {"w": block.kept_width(self.inputs(arrays))}

    def like(self, arrays: Arrays, name: str) -> jax.Array:
        return arrays[0]

    def attributes(self, arrays: Arrays) -> dict[str, Any]:
        sizes = call.words_of(self.words, self.inputs(arrays))
        return dict(
            spec=np.zeros(0, np.int64), sizes=np.array(sizes), numbers=np.array(self.numbers)
        )

    def define(self, arrays: Arrays) -> tuple[jax.Array, ...]:
        relative, rounding = call.decode(self.words, self.numbers), call.rounding_of(self.words)
        like = jax.numpy.zeros((), rounding) if rounding else None
        return block.definition(ops, relative, self.inputs(arrays), like)

    def call(
        self, which: str, names: tuple[str, ...], results: tuple[str, ...]
    ) -> Callable[..., tuple[jax.Array, ...]]:
        return core_call(which, self, names, results)


def recurrence(
    relative: Relative, numbers: Numbers, inputs: Inputs, rounding: str
) -> tuple[Any, ...]:
    """All h (T, B, H) and the last."""
    given = varying({n: a for n, a in inputs._asdict().items() if a is not None})
    how = How(call.encode(relative, rounding), numbers, tuple(given))
    block.check(how.inputs(list(given.values())), np.dtype(bool))
    return tuple(bind(how, given))
