"""The canonical weights of relatives: names and shapes, sizes read off them, initial values.

Matrices are (in, out).  Those of a block product are (K, in, out), and its vectors stand block
after block.

A `block_gru` has for each source of hidden (h), input and, where there are actions, action:
`<source>_kernel` (H, I or A; P), `<source>_bias`, `<source>_gain` (P,); for each layer l
`block_kernel_<l>` (K, H/K, H/K), of the first (K, H/K + 2P or 3P, H/K), `block_bias_<l>`,
`block_gain_<l>` (H,); `gate_kernel` (K, H/K, 3H/K) and `gate_bias` (3H,), r n z in each block.

`atr`, `lrn`, `olrn`, `sru`, `sru_carry` and `gru_twice` have `kernel` (I, G H), G gates side by
side.  All but the sru_carry norm its product: `x_norm_gain` and `x_norm_bias` (G H,).  Beside these
have

- an atr `recurrent_kernel` (H, H), `bias`, `h_norm_gain` and `h_norm_bias` (H,);
- an sru `peephole_f` and `peephole_r` (H,);
- an sru_carry gain and bias (H,) of `f_norm` and `r_norm`, `cell_norm_gain` (H,), and `bias` (H,)
  of the fourth part;
- a gru_twice `recurrent_kernel` (H, 3H), `h_norm_gain`, `h_norm_bias`, `bias_x` and `bias_h` (3H,),
  and gain and bias (H,) of `n_norm`.

The LSTMs have gain and bias of `sum_norm` (4H,), i f g o, and of `cell_norm` (H,).

- A hyper_lstm has `kernel` (I, 4H) and `recurrent_kernel` (H, 4H); of its small LSTM, each behind
  `hyper_`, `kernel` (I, 4E), `h_kernel` (H, 4E), `recurrent_kernel` (E, 4E), gain and bias of
  its norms and, with `hyper_bias`, `bias_h` (4E,); for what scales the products of x and of h and
  for the shift, `<x_scale, h_scale or shift>_embedding_kernel` (E, 4P) and `<...>_kernel` (P, 4H),
  with `<...>_embedding_bias` (4P,) of the scales and `shift_bias` (4H,).
- A double_projection has `joint_kernel` (I, P), `joint_h_kernel` (R, P), `kernel` (P, 4H) and
  `projection_kernel` (H, R).

A root mean square has no biases: there is no weight with the end `norm_bias`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lnrnn.relatives.relative import Relative

Shapes = dict[str, tuple[int, ...]]


class Sizes(NamedTuple):
    """Sizes of a relative.

    Args:
        inputs: I, with the actions.
        units: H.
        projection: P, of a block_gru's projections, a hyper_lstm's embeddings or a
            double_projection's [x; h].
        blocks: of a block_gru.
        layers: of a block_gru.
        actions: how many of the inputs are actions, of a block_gru.
        hyper: E, units of the small LSTM.
        outputs: R, of a double_projection.
    """

    inputs: int
    units: int
    projection: int = 0
    blocks: int = 1
    layers: int = 1
    actions: int = 0
    hyper: int = 0
    outputs: int = 0

    @property
    def hidden(self) -> int:
        """The width of h."""
        return self.outputs or self.units


def widths(relative: Relative, sizes: Sizes) -> dict[str, int]:
    """Name and width of every state.

    Example:
        >>> widths(Relative(cell="double_projection"), Sizes(3, 8, 4, outputs=5))
        {'h': 5, 'c': 8}
    """
    every = {"h": sizes.hidden, "c": sizes.units, "hyper_h": sizes.hyper, "hyper_c": sizes.hyper}
    return {name: every[name] for name in relative.states}


def shapes(relative: Relative, sizes: Sizes) -> Shapes:
    """Name and shape of every weight.

    Raises:
        ValueError: the units do not divide into the blocks, or the inputs are not more than
            the actions.

    Example:
        >>> shapes(Relative(cell="lrn"), Sizes(3, 8))["kernel"]
        (3, 24)
    """
    found = _SHAPES[relative.cell](relative, sizes)
    if relative.norm == "rms":
        return {name: shape for name, shape in found.items() if not name.endswith("norm_bias")}
    return found


def _of_one_product(relative: Relative, sizes: Sizes) -> Shapes:
    inputs, units = sizes.inputs, sizes.units
    wide = units * len(relative.gates)
    found: Shapes = {"kernel": (inputs, wide)}
    if relative.cell == "sru_carry":
        return (
            found
            | _norm("f", units)
            | _norm("r", units)
            | dict.fromkeys(("cell_norm_gain", "bias"), (units,))
        )
    found |= _norm("x", wide)
    if relative.cell == "sru":
        found |= dict.fromkeys(("peephole_f", "peephole_r"), (units,))
    if relative.cell in ("atr", "gru_twice"):
        found |= {"recurrent_kernel": (units, wide), **_norm("h", wide)}
    if relative.cell == "atr":
        found["bias"] = (units,)
    if relative.cell == "gru_twice":
        found |= {"bias_x": (wide,), "bias_h": (wide,), **_norm("n", units)}
    return found


def _of_hyper_lstm(relative: Relative, sizes: Sizes) -> Shapes:
    inputs, units, small, embedded = sizes.inputs, sizes.units, sizes.hyper, sizes.projection
    found: Shapes = {"kernel": (inputs, 4 * units), "recurrent_kernel": (units, 4 * units)}
    found |= _norm("sum", 4 * units) | _norm("cell", units)
    found |= {"hyper_kernel": (inputs, 4 * small), "hyper_h_kernel": (units, 4 * small)}
    found["hyper_recurrent_kernel"] = (small, 4 * small)
    found |= {"hyper_bias_h": (4 * small,)} if relative.hyper_bias else {}
    found |= _norm("hyper_sum", 4 * small) | _norm("hyper_cell", small)
    for name in ("x_scale", "h_scale", "shift"):
        found[f"{name}_embedding_kernel"] = (small, 4 * embedded)
        found[f"{name}_kernel"] = (embedded, 4 * units)
    scales = ("x_scale_embedding_bias", "h_scale_embedding_bias")
    return found | dict.fromkeys(scales, (4 * embedded,)) | {"shift_bias": (4 * units,)}


def _of_double_projection(relative: Relative, sizes: Sizes) -> Shapes:
    units, wide = sizes.units, sizes.projection
    found: Shapes = {"joint_kernel": (sizes.inputs, wide), "joint_h_kernel": (sizes.hidden, wide)}
    found |= {"kernel": (wide, 4 * units), "projection_kernel": (units, sizes.hidden)}
    return found | _norm("sum", 4 * units) | _norm("cell", units)


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}_norm_gain": (width,), f"{name}_norm_bias": (width,)}


def _of_block_gru(relative: Relative, sizes: Sizes) -> Shapes:
    units, blocks, wide = sizes.units, sizes.blocks, sizes.projection
    if blocks < 1 or units % blocks:
        near = max(1, blocks) * math.ceil(units / max(1, blocks))
        raise ValueError(
            f"The units divide into the blocks; got {units} units and {blocks} blocks: "
            f"use for example {near} units."
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


_SHAPES: Mapping[str, Callable[[Relative, Sizes], Shapes]] = {
    **dict.fromkeys(("atr", "lrn", "olrn", "sru", "sru_carry", "gru_twice"), _of_one_product),
    "block_gru": _of_block_gru,
    "hyper_lstm": _of_hyper_lstm,
    "double_projection": _of_double_projection,
}


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

    def size(name: str, axis: int, axes: int = 2) -> int:
        if len(given.get(name, ())) != axes:
            raise ValueError(
                f"A {relative.cell} has the weight {name!r}; got {given}: pass all its weights."
            )
        return given[name][axis]

    if relative.cell == "block_gru":
        actions = size("action_kernel", 0) if "action_kernel" in given else 0
        sizes = Sizes(
            inputs=size("input_kernel", 0) + actions,
            units=size("hidden_kernel", 0),
            projection=size("input_kernel", 1),
            blocks=size("gate_kernel", 0, 3),
            layers=sum(name.startswith("block_kernel_") for name in given),
            actions=actions,
        )
    elif relative.cell == "hyper_lstm":
        sizes = Sizes(
            inputs=size("kernel", 0),
            units=size("recurrent_kernel", 0),
            projection=size("shift_kernel", 0),
            hyper=size("hyper_recurrent_kernel", 0),
        )
    elif relative.cell == "double_projection":
        sizes = Sizes(
            inputs=size("joint_kernel", 0),
            units=size("projection_kernel", 0),
            projection=size("joint_kernel", 1),
            outputs=size("projection_kernel", 1),
        )
    else:
        sizes = Sizes(size("kernel", 0), size("kernel", 1) // len(relative.gates))
    check(relative, params, sizes)
    return sizes


def check(relative: Relative, params: Mapping[str, Any], sizes: Sizes) -> None:
    """Refuse weights of other names or shapes than `shapes(relative, sizes)` gives.

    Raises:
        ValueError: names both.
    """
    given = {name: tuple(value.shape) for name, value in params.items()}
    wanted = shapes(relative, sizes)
    # name by name: torch.compile cannot compare dicts whose sizes are symbols
    if given.keys() != wanted.keys() or any(given[n] != shape for n, shape in wanted.items()):
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
