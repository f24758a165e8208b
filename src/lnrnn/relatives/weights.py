"""The canonical weights of relatives: names and shapes, sizes read off them, initial values.

Matrices are (in, out).  Those of a block product are (K, in, out), and its vectors stand block
after block.

A `block_gru` has for each source of hidden (h), input and, where there are actions, action:
`<source>_kernel` (H, I or A; P), `<source>_bias`, `<source>_gain` (P,); for each layer l
`block_kernel_<l>` (K, H/K, H/K), of the first (K, H/K + 2P or 3P, H/K), `block_bias_<l>`,
`block_gain_<l>` (H,); `gate_kernel` (K, H/K, 3H/K) and `gate_bias` (3H,), r n z in each block.

The others have `kernel` (I, G H), `x_norm_gain` and `x_norm_bias` (G H,), with G 1 of an atr, 3 of
an lrn, 4 of olrn and sru; an atr also `recurrent_kernel` (H, H), `bias`, `h_norm_gain` and
`h_norm_bias` (H,); an sru `peephole_f` and `peephole_r` (H,).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from lnrnn.relatives.relative import Relative

Shapes = dict[str, tuple[int, ...]]


class Sizes(NamedTuple):
    """Sizes of a relative: inputs I (with the actions), units H, and those of a block_gru."""

    inputs: int
    units: int
    projection: int = 0
    blocks: int = 1
    layers: int = 1
    actions: int = 0

    @property
    def hidden(self) -> int:
        """The width of h."""
        return self.units


def shapes(relative: Relative, sizes: Sizes) -> Shapes:
    """Name and shape of every weight.

    Raises:
        ValueError: the units do not divide into the blocks, or the inputs are not more than
            the actions.

    Example:
        >>> shapes(Relative(cell="lrn"), Sizes(3, 8))["kernel"]
        (3, 24)
    """
    inputs, units = sizes.inputs, sizes.units
    if relative.cell == "block_gru":
        return _of_block_gru(sizes)
    if relative.cell == "atr":
        vectors = ("bias", "x_norm_gain", "x_norm_bias", "h_norm_gain", "h_norm_bias")
        found: Shapes = {"kernel": (inputs, units), "recurrent_kernel": (units, units)}
        return found | dict.fromkeys(vectors, (units,))
    wide = units * (3 if relative.cell == "lrn" else 4)
    found = {"kernel": (inputs, wide), "x_norm_gain": (wide,), "x_norm_bias": (wide,)}
    peepholes = ("peephole_f", "peephole_r") if relative.cell == "sru" else ()
    return found | dict.fromkeys(peepholes, (units,))


def _of_block_gru(sizes: Sizes) -> Shapes:
    units, blocks, wide = sizes.units, sizes.blocks, sizes.projection
    if units % blocks:
        raise ValueError(
            f"The units divide into the blocks; got {units} units and {blocks} blocks: "
            f"use for example {blocks * math.ceil(units / blocks)} units."
        )
    if not 0 <= sizes.actions < sizes.inputs:
        raise ValueError(
            f"The actions are the last of the inputs; got {sizes.actions} of {sizes.inputs}: "
            "use fewer."
        )
    sources = {"hidden": units, "input": sizes.inputs - sizes.actions}
    sources |= {"action": sizes.actions} if sizes.actions else {}
    found: Shapes = {}
    for name, size in sources.items():
        found[f"{name}_kernel"] = (size, wide)
        found[f"{name}_bias"] = found[f"{name}_gain"] = (wide,)
    one = units // blocks
    for layer in range(sizes.layers):
        rows = one if layer else one + len(sources) * wide
        found[f"block_kernel_{layer}"] = (blocks, rows, one)
        found[f"block_bias_{layer}"] = found[f"block_gain_{layer}"] = (units,)
    found["gate_kernel"] = (blocks, one, 3 * one)
    found["gate_bias"] = (3 * units,)
    return found


def sizes_of(relative: Relative, params: Mapping[str, Any]) -> Sizes:
    """The sizes, read off the weights (arrays or anything with a `shape`).

    Raises:
        ValueError: a weight is missing, unknown, or of another shape than the others give it.

    Example:
        >>> import numpy as np
        >>> weights = {n: np.ones(s) for n, s in shapes(Relative(cell="lrn"), Sizes(3, 8)).items()}
        >>> sizes_of(Relative(cell="lrn"), weights).units
        8
    """
    given = {name: tuple(value.shape) for name, value in params.items()}
    first = "input_kernel" if relative.cell == "block_gru" else "kernel"
    needed = (first, "gate_kernel", "hidden_kernel") if relative.cell == "block_gru" else (first,)
    absent = [name for name in needed if len(given.get(name, ())) != (3 if "gate" in name else 2)]
    if absent:
        raise ValueError(
            f"A {relative.cell} has the weight {absent[0]!r}; got {given}: pass all its weights."
        )
    inputs, wide = given[first]
    if relative.cell == "block_gru":
        actions = given.get("action_kernel", (0,))[0]
        layers = sum(name.startswith("block_kernel_") for name in given)
        blocks = given["gate_kernel"][0]
        sizes = Sizes(inputs + actions, given["hidden_kernel"][0], wide, blocks, layers, actions)
    else:
        gates = {"atr": 1, "lrn": 3}.get(relative.cell, 4)
        sizes = Sizes(inputs, wide // gates)
    check(relative, params, sizes)
    return sizes


def check(relative: Relative, params: Mapping[str, Any], sizes: Sizes) -> None:
    """Refuse weights of other names or shapes than `shapes(relative, sizes)` gives.

    Raises:
        ValueError: names both.
    """
    given = {name: tuple(value.shape) for name, value in params.items()}
    wanted = shapes(relative, sizes)
    if given != wanted:
        raise ValueError(
            f"The weights of a {relative.cell} of {sizes} have the shapes {wanted}; got {given}: "
            "pass weights of one cell."
        )


def start(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and deviation of a weight's initial values, normal and cut at two deviations.

    Gains are 1 and biases 0; a matrix has the deviation 1.1368 / sqrt(fan in), as Dreamer draws
    it, where the fan of a block product is its whole input.

    Example:
        >>> start("gate_bias", (24,))
        (0.0, 0.0)
    """
    if "kernel" in name:
        return 0.0, 1.1368 / math.sqrt(math.prod(shape[:-1]))
    return (1.0 if "gain" in name else 0.0), 0.0
