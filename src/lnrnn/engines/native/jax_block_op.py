"""The core's block GRU on JAX: what differs from the cells of variants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lnrnn.engines.fused import block
from lnrnn.engines.fused.block import Inputs, Numbers
from lnrnn.engines.fused.jax_op import Arrays, bind, varying
from lnrnn.engines.native import block as call
from lnrnn.engines.native.jax_op import How
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


class BlockHow(How):
    """What is static of a call of the core's block GRU."""

    def axes(self, name: str, rank: int | None = None) -> str:
        return _AXES[name] if name in _AXES else _AXES[name.removeprefix("d")]

    def lengths(self, arrays: Arrays) -> dict[str, int]:
        length: dict[str, int] = {}
        for name, array in zip(self.names, arrays, strict=True):
            length |= dict(zip(self.axes(name), array.shape, strict=True))
        return length | {"w": block.kept_width(self.inputs(arrays))}

    def words(self, arrays: Arrays) -> tuple[Sequence[int], Sequence[int]]:
        return (), call.words_of(self.cell.words, self.inputs(arrays))


def recurrence(
    relative: Relative, numbers: Numbers, inputs: Inputs, rounding: str
) -> tuple[Any, ...]:
    """All h (T, B, H) and the last."""
    given = varying({n: a for n, a in inputs._asdict().items() if a is not None})
    how = BlockHow(call.cell_of(call.encode(relative, rounding)), numbers, tuple(given))
    block.check(how.inputs(list(given.values())), np.dtype(bool))
    return tuple(bind(how, given))
