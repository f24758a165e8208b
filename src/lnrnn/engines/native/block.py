"""What the C++ core is told of a block GRU: its words, and arrays in a fixed order."""

from __future__ import annotations

from functools import cache
from typing import get_args

from lnrnn.engines.fused import block
from lnrnn.engines.fused.call import HALVES
from lnrnn.engines.fused.block import DIFFERENTIABLE, Inputs, Numbers
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


@cache
def decode(words: tuple[int, ...], numbers: Numbers) -> Relative:
    """The block GRU of these words."""
    return Relative(
        cell="block_gru", norm="rms", activation=_ACTIVATIONS[words[0]], **numbers._asdict()
    )


def rounding_of(words: tuple[int, ...]) -> str:
    """The name of the dtype to which the operands of products are rounded, or ""."""
    return _ROUNDINGS[words[1]]


def refusal(relative: Relative) -> str | None:
    """Why the core does not compute a relative, or None."""
    if relative.cell != "block_gru" or relative.norm != "rms":
        return f"of the relatives it computes the block_gru, with rms, not the {relative.cell}"
    return None


def words_of(cell: tuple[int, ...], a: Inputs) -> list[int]:
    """The sizes of a call in the order of csrc/core/block_run.h, and the words of its cell."""
    sizes = block.sizes_of(a)
    return [*a.x.shape[:2], sizes.units, sizes.projection, sizes.blocks, sizes.layers, *cell]
