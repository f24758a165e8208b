"""What the C++ core is told of a block GRU: its words, and arrays in a fixed order."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

from lnrnn.engines.fused import block
from lnrnn.engines.fused.block import DIFFERENTIABLE, Inputs, Numbers
from lnrnn.engines.fused.call import HALVES, Array
from lnrnn.relatives.relative import Relative, SmoothActivation

# in the order of `Smooth` in csrc/core/spec.h
_ACTIVATIONS: tuple[SmoothActivation, ...] = get_args(SmoothActivation)
# in the order of `Rounding` in csrc/core/block.h
_ROUNDINGS = ("", *HALVES)
# in the order of `block::Array` in csrc/core/block_run.h
ARRAYS = (
    *Inputs._fields,
    *("h", "h_last", "kept", "dh", "dh_last"),
    *(f"d{name}" for name in DIFFERENTIABLE),
)


@cache
def encode(relative: Relative, rounding: str) -> tuple[int, ...]:
    """The words of a block GRU; its scalars are not among them.

    The operands of products are rounded to the dtype of the name `rounding`; "": they are not.
    """
    return _ACTIVATIONS.index(relative.activation), _ROUNDINGS.index(rounding)


class BlockGRU:
    """A call with a block GRU, as of [lnrnn.engines.native.call.Call][].

    Args:
        words: as of `encode`.
    """

    prefix = "block_"
    arrays = ARRAYS
    inputs = Inputs
    results = ("h", "h_last")
    kept = ("kept",)
    differentiable = DIFFERENTIABLE
    needs_dx = True

    def __init__(self, words: tuple[int, ...]) -> None:
        self.words = words

    def define(self, ops: Any, numbers: Numbers, a: Inputs) -> tuple[Array, ...]:
        """All h (T, B, H) and the last, in a framework's operations."""
        activation, rounding = self.words
        relative = Relative(
            cell="block_gru",
            norm="rms",
            activation=_ACTIVATIONS[activation],
            **numbers._asdict(),
        )
        return block.definition(ops, relative, a, _ROUNDINGS[rounding])


@cache
def cell_of(words: tuple[int, ...]) -> BlockGRU:
    """The cell of these words."""
    return BlockGRU(words)


def refusal(relative: Relative) -> str | None:
    """Why the core does not compute a relative, or None."""
    if relative.cell != "block_gru" or relative.norm != "rms":
        return f"of the relatives it computes the block_gru, with rms, not the {relative.cell}"
    return None


def words_of(cell: tuple[int, ...], a: Inputs) -> list[int]:
    """The sizes of a call in the order of csrc/core/block_run.h, and the words of its cell."""
    sizes = block.sizes_of(a)
    return [*a.x.shape[:2], sizes.units, sizes.projection, sizes.blocks, sizes.layers, *cell]
