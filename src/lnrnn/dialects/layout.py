"""How the weights of a published cell are laid out: a small vocabulary of rearrangements.

Each entry says where one original weight sits in the canonical ones.  An entry is
written in one direction only, from canonical to original (`pack`); the other direction
follows by packing the numbers of the elements in place of their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lnrnn.params import affine_gates, columns
from lnrnn.variant import Variant


@dataclass(frozen=True)
class Parts:
    """Canonical arrays of a variant, seen block by block.

    Args:
        variant: the cell.
        arrays: canonical name to array.
        offsets: whether a gain stored minus one is shifted; False for gradients.
    """

    variant: Variant
    arrays: Mapping[str, np.ndarray]
    offsets: bool = True

    def block(self, name: str, letter: str) -> np.ndarray:
        """The columns of one gate, or of `x` or `h` in a norm of `[x, h]`."""
        array = self.arrays[name]
        if name.startswith("pre_norm"):
            inputs = self.arrays["kernel"].shape[0]
            return array[:inputs] if letter == "x" else array[inputs:]
        letters = self._letters(name)
        return array[..., columns(letters, letter, array.shape[-1] // len(letters))]

    def _letters(self, name: str) -> str:
        if name == "peephole":
            return self.variant.peephole_gates
        site, _, which = name.partition("_norm_")
        if site == "x" or site == "h" or site == "sum":
            return affine_gates(self.variant, site, which)
        return self.variant.gates


class Layout(Protocol):
    """Where one original weight sits in the canonical weights."""

    def pack(self, parts: Parts) -> np.ndarray:
        """The original weight, made of canonical parts."""
        ...


@dataclass(frozen=True)
class Columns:
    """Columns of a canonical weight, gate by gate.

    Args:
        param: the canonical name.
        gates: the gates in the original's order, side by side; `x` and `h` are the two
            parts of a norm of `[x, h]`; empty takes the weight as it is.
    """

    param: str
    gates: str = ""

    def pack(self, parts: Parts) -> np.ndarray:
        if not self.gates:
            return parts.arrays[self.param]
        return np.concatenate([parts.block(self.param, g) for g in self.gates], axis=-1)


@dataclass(frozen=True)
class Transposed:
    """A matrix stored as (out, in)."""

    of: Layout

    def pack(self, parts: Parts) -> np.ndarray:
        return self.of.pack(parts).T


@dataclass(frozen=True, init=False)
class Stacked:
    """Matrices one above the other, or vectors one after the other, as one weight."""

    of: tuple[Layout, ...]

    def __init__(self, *of: Layout) -> None:
        object.__setattr__(self, "of", of)

    def pack(self, parts: Parts) -> np.ndarray:
        return np.concatenate([layout.pack(parts) for layout in self.of])


@dataclass(frozen=True, init=False)
class Rows:
    """Vectors as the rows of a matrix, one vector n as (1, n); matrices (m, n) as (m, k, n)."""

    of: tuple[Layout, ...]

    def __init__(self, *of: Layout) -> None:
        object.__setattr__(self, "of", of)

    def pack(self, parts: Parts) -> np.ndarray:
        return np.stack([layout.pack(parts) for layout in self.of], axis=-2)


@dataclass(frozen=True)
class Pixel:
    """A weight of a convolution at a single pixel: two more axes of length 1."""

    of: Layout

    def pack(self, parts: Parts) -> np.ndarray:
        return self.of.pack(parts)[..., None, None]


@dataclass(frozen=True)
class Shared:
    """One vector that stands for several of ours: the rows of `of` are its copies.

    Only here is the original smaller than the canonical weight.  Read, it is repeated;
    written, the copies have to be equal; its gradient is the sum of theirs.
    """

    of: Rows

    def pack(self, parts: Parts) -> np.ndarray:
        """The copies (k, n), which the dialect makes one."""
        return self.of.pack(parts)


@dataclass(frozen=True)
class MinusOne:
    """A gain stored minus one: the original is zero where the gain is one."""

    of: Layout

    def pack(self, parts: Parts) -> np.ndarray:
        packed = self.of.pack(parts)
        return packed - packed.dtype.type(1) if parts.offsets else packed


@dataclass(frozen=True)
class Unused:
    """A weight that the original stores and never reads: zeros, shaped as `like`."""

    like: Layout

    def pack(self, parts: Parts) -> np.ndarray:
        return np.zeros_like(self.like.pack(parts))


def per_gate(
    template: str,
    param: str,
    names: Mapping[str, str],
    wrap: type[MinusOne] | type[Transposed] | None = None,
) -> dict[str, Layout]:
    """One entry for each gate: `template` with the gate's name, for the gate's columns.

    Args:
        template: an original name with `{}` for the gate's name.
        param: the canonical weight.
        names: gate letter to the original's name of that gate.
        wrap: an entry put around each, such as `Transposed`.

    Returns:
        Original name to layout.

    Example:
        >>> per_gate("gamma_{}", "sum_norm_gain", {"f": "forget"})
        {'gamma_forget': Columns(param='sum_norm_gain', gates='f')}
    """
    found: dict[str, Layout] = {}
    for gate, name in names.items():
        part = Columns(param, gate)
        found[template.format(name)] = wrap(part) if wrap else part
    return found
