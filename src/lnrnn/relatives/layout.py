"""Where the weights of a published relative lie among the canonical ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, init=False)
class At:
    """The place of one original weight, which `read` and `write` take it to and from.

    Args:
        names: canonical weights that stand side by side, `{l}` for the number of a layer; empty
            for a part that the original never reads.
        gates: those of its columns, in the original's order; empty takes weights whole.
        below: the weights stand one above the other; that of h has a name that ends in
            `h_kernel`.
        turned: the axes are in reverse order.
        one_row: a vector is a matrix of one row.
        minus_one: a gain is stored minus one.
        inputs_first: the rows of a first block product are those of h, of the inputs, then of
            the projected h.
    """

    names: tuple[str, ...]
    gates: str
    below: bool
    turned: bool
    one_row: bool
    minus_one: bool
    inputs_first: bool

    def __init__(
        self,
        *names: str,
        gates: str = "",
        below: bool = False,
        turned: bool = False,
        one_row: bool = False,
        minus_one: bool = False,
        inputs_first: bool = False,
    ) -> None:
        given = {n: v for n, v in locals().items() if n != "self"}
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def read(self, array: Array, hidden: int) -> Iterator[tuple[str, str, Array]]:
        """Canonical name, gate (empty for a whole weight) and array of each part.

        Args:
            array: the original weight.
            hidden: R, rows of a matrix of h.
        """
        array = array.T if self.turned else array
        array = array[0] if self.one_row else array
        array = array + array.dtype.type(1) if self.minus_one else array
        if self.below:
            first = hidden if self.names[0].endswith("h_kernel") else len(array) - hidden
            weights = np.split(array, [first])
        else:
            weights = np.split(array, len(self.names), -1)
        for name, weight in zip(self.names, weights, strict=True):
            if name:
                columns = np.split(weight, len(self.gates) or 1, -1)
                yield from zip([name] * len(columns), self.gates or [""], columns, strict=True)

    def write(self, part: Callable[[str, str], Array], offsets: bool) -> Array:
        """The original weight.

        Args:
            part: from a canonical name and a gate to an array, as `read` gives.
            offsets: whether a gain stored minus one is shifted; False for gradients.
        """
        weights: dict[str, Array] = {}
        for name in filter(None, self.names):
            weights[name] = np.concatenate([part(name, gate) for gate in self.gates or [""]], -1)
        unread = np.zeros_like(next(iter(weights.values())))
        array = np.concatenate(
            [weights.get(name, unread) for name in self.names], 0 if self.below else -1
        )
        array = array - array.dtype.type(1) if self.minus_one and offsets else array
        array = array[None] if self.one_row else array
        return array.T if self.turned else array


def rolled(kernel: Array, start: int, size: int) -> Array:
    """A block kernel with its rows from `start` on so that their first `size` are the last."""
    head, first, rest = np.split(kernel, [start, start + size], 1)
    return np.concatenate([head, rest, first], 1)
