"""The weights of a Keras layer: Keras's own names, shapes and gate order, then those of the norms.

`kernel`, `recurrent_kernel` and `bias` are as in `keras.layers`: the gates of a GRU stand in the
order z, r, h there, and its two biases are the rows of one weight.  All other weights keep
their canonical names, their gates in the order of the kernel's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lnrnn.params import Sizes, columns, gates_of, shapes
from lnrnn.variant import Variant

Array = Any

KERAS, CANONICAL = "keras", "canonical"
ORDERS = (KERAS, CANONICAL)
MARK = "weight_order"  # name of the order beside the weights in a file
_STOCK = ("kernel", "recurrent_kernel", "bias")
_GATES = {"gru": "zrn"}
# what `bias` holds: the first of these that the variant has, each with columns for all gates
_BIASES = (
    ("bias",),
    ("bias_x", "bias_h"),
    ("bias_x",),
    ("bias_h",),
    ("x_norm_bias", "h_norm_bias"),
    ("sum_norm_bias",),
    ("x_norm_bias",),
    ("h_norm_bias",),
)


class Held(NamedTuple):
    """One weight of a layer.

    Args:
        shape: of the weight.
        names: the canonical weight that it is, or the two that are its rows.
    """

    shape: tuple[int, ...]
    names: tuple[str, ...]


class KerasLayout:
    """How a Keras layer holds the weights of a variant.

    Args:
        variant: the cell.
        sizes: I, H and R.
        order: `"keras"`, or `"canonical"` as files of lnrnn 0.1.0 have it: the names, shapes and
            order of [lnrnn.params][].
        learned_state: whether the state that a sequence begins with is among the weights.

    Example:
        >>> gru = Variant(cell="gru", bias_x=True, bias_h=True)
        >>> layout = KerasLayout(gru, Sizes(3, 8, 8))
        >>> layout.gates, layout.weights["bias"]
        ('zrn', Held(shape=(2, 24), names=('bias_x', 'bias_h')))
    """

    def __init__(
        self, variant: Variant, sizes: Sizes, order: str = KERAS, learned_state: bool = False
    ) -> None:
        self.variant = variant
        stock = _GATES.get(variant.cell, variant.gates) if order == KERAS else variant.gates
        self.gates = "".join(g for g in stock if g in variant.gates)
        expected = shapes(variant, sizes, learned_state)
        self.names = tuple(expected)
        first = self.names[:2]
        self.weights = {name: Held(expected[name], (name,)) for name in first}
        bias = _bias(expected) if order == KERAS else ()
        if bias:
            shape = expected[bias[0]]
            self.weights["bias"] = Held((2, *shape) if len(bias) == 2 else shape, bias)
        for name, shape in expected.items():
            if name not in (*first, *bias):
                self.weights[name] = Held(shape, (name,))

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the weights, in their order."""
        return [held.shape for held in self.weights.values()]

    @property
    def beyond_stock(self) -> bool:
        """Whether there are weights that a layer of Keras has not."""
        return not set(self.weights) <= set(_STOCK)

    def gates_of(self, name: str) -> str:
        """The gates of a canonical weight in the order in which they stand here."""
        having = gates_of(self.variant, name)
        return "".join(g for g in self.gates if g in having)

    def split(self, held: Mapping[str, Array]) -> dict[str, Array]:
        """Canonical names for arrays of the layer; the gates stay in the order of `gates`."""
        found: dict[str, Array] = {}
        for name, (_, names) in self.weights.items():
            rows = [held[name]] if len(names) == 1 else [held[name][0], held[name][1]]
            found |= dict(zip(names, rows, strict=True))
        return found

    def to_canonical(self, held: Mapping[str, Array], ops: Any = np) -> dict[str, Array]:
        """Canonical weights from those of the layer; `ops` as of `from_canonical`."""
        found = self.split(held)
        return {n: self._turned(n, found[n], ops, back=True) for n in self.names}

    def from_canonical(self, params: Mapping[str, Array], ops: Any = np) -> dict[str, Array]:
        """The weights of the layer from canonical ones.

        Args:
            params: canonical name to array.
            ops: a module with `concatenate` and `stack`: NumPy, or `keras.ops` for tensors.
        """
        found: dict[str, Array] = {}
        for name, (_, names) in self.weights.items():
            rows = [self._turned(n, params[n], ops) for n in names]
            found[name] = rows[0] if len(rows) == 1 else ops.stack(rows)
        return found

    def _turned(self, name: str, value: Array, ops: Any, back: bool = False) -> Array:
        """An array with its gates in the order of the layer, or back in the canonical one."""
        canonical, here = gates_of(self.variant, name), self.gates_of(name)
        if canonical == here:
            return value
        given, wanted = (here, canonical) if back else (canonical, here)
        units = value.shape[-1] // len(here)
        return ops.concatenate([value[..., columns(given, g, units)] for g in wanted], axis=-1)


def _bias(expected: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """The canonical weights that `bias` holds."""
    wide = expected["kernel"][-1:]
    found = (names for names in _BIASES if all(expected.get(n) == wide for n in names))
    return next(found, ())
