"""What the C++ core is told: a cell as a list of integers, arrays in a fixed order.

The order of the words is that of `Spec` in `csrc/core/spec.h`, that of the arrays is that of
`Array` in `csrc/core/call.h`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

from lnrnn.engines.fused.call import DIFFERENTIABLE, INCOMING, Array, Inputs
from lnrnn.variant import Activation, Norm, Site, Variant

CELLS = ("simple", "lstm", "gru")
CELL_NORMS = ("none", "output", "carry", "carry_only", "after_tanh")
RESETS = ("after", "inside", "before", "whole")
SITES: tuple[Site, ...] = ("x", "h", "sum")
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
GATES = 4


OUTPUTS = ("h", "c", "xw", "hu", "h_last", "c_last")
KEPT = ("c", "xw", "hu")  # of a forward pass for its backward pass
# what is of half precision where x is; all else is then float32
LIKE_X = ("x", "h", "xw", "hu", "dh", "dx")
OUTGOING = tuple(f"d{name}" for name in DIFFERENTIABLE)
ARRAYS = (*Inputs._fields, *OUTPUTS, *INCOMING, *OUTGOING)


def refusal(variant: Variant) -> str | None:
    """Why the core does not compute a variant, or None."""
    if variant.cell not in CELLS:
        return f"it computes the cells {', '.join(CELLS)}, not {variant.cell}"
    if variant.norms_at("pre"):
        return "it has no norm of the concatenated input (site 'pre')"
    if variant.cell == "gru" and variant.coupled:
        return "it has no gru without a reset gate; the variant has coupled=True"
    for option in ("capped", "peephole", "projection", "hidden_norm", "cell_clip", "hidden_clip"):
        if getattr(variant, option) not in (None, False, "none"):
            return f"it has no {option}; the variant has {option}={getattr(variant, option)!r}"
    return None


@cache
def encode(variant: Variant) -> tuple[int, ...]:
    """The words of a variant; its epsilon is not among them, its biases are arrays."""
    words = [
        CELLS.index(variant.cell),
        len(variant.gates),
        variant.norm == "rms",
        variant.ddof,
        variant.epsilon_at == "deviation",
        CELL_NORMS.index(variant.cell_norm),
        RESETS.index(variant.reset),
        variant.update == "keep",
        *(
            ACTIVATIONS.index(f)
            for f in (variant.activation, variant.recurrent_activation, variant.output_activation)
        ),
    ]
    for site in SITES:
        groups = [n.gates for n in variant.norms_at(site)]
        of_gate = [next((i for i, g in enumerate(groups) if k in g), -1) for k in variant.gates]
        words += of_gate + [-1] * (GATES - len(of_gate))
    return tuple(int(w) for w in words)


@cache
def decode(words: tuple[int, ...], epsilon: float) -> Variant:
    """A variant with the mathematics of the words; gains and biases are the arrays' matter."""
    cell, gates, rms, ddof, at_root, cell_norm, reset, keep, *rest = words
    options: dict[str, Any] = {}
    if CELLS[cell] == "lstm":
        options = {"cell_norm": CELL_NORMS[cell_norm], "coupled": gates == 3}
        options["output_activation"] = ACTIVATIONS[rest[2]]
    if CELLS[cell] == "gru":
        options = {"reset": RESETS[reset], "update": "keep" if keep else "new"}
    if CELLS[cell] != "simple":
        options["recurrent_activation"] = ACTIVATIONS[rest[1]]
    plain = Variant(cell=CELLS[cell], coupled=bool(options.get("coupled")))
    norms = []
    for i, site in enumerate(SITES):
        of_gate = rest[3 + i * GATES : 3 + (i + 1) * GATES][: len(plain.gates)]
        for group in sorted({g for g in of_gate if g >= 0}):
            named = "".join(k for k, g in zip(plain.gates, of_gate, strict=True) if g == group)
            norms.append(Norm(site, named))
    fields: dict[str, Any] = dict(
        cell=CELLS[cell],
        norms=tuple(norms),
        norm="rms" if rms else "layer",
        ddof=ddof,
        epsilon=epsilon,
        epsilon_at="deviation" if at_root else "variance",
        activation=ACTIVATIONS[rest[0]],
        **options,
    )
    return Variant(**fields)


class Cell:
    """What the front ends of the core ask of a list of words."""

    def __init__(self, words: tuple[int, ...]) -> None:
        self.words = words
        self.lstm = CELLS[words[0]] == "lstm"
        self.gates = words[1]


@cache
def cell_of(words: tuple[int, ...]) -> Cell:
    """The cell of a list of words."""
    return Cell(words)


def sizes(
    a: Inputs,
    batch_first: bool = False,
    kernel_turned: bool = False,
    recurrent_turned: bool = False,
    rounding: bool = False,
) -> list[int]:
    """The sizes of a call in the order of `Numbers` in `csrc/core/call.h`.

    Args:
        a: the inputs.
        batch_first: whether x and its gradient are in memory as (B, T, I).
        kernel_turned: whether W and its gradient are in memory as the transpose, (G H, I).
        recurrent_turned: the same of U, (G H, H).
        rounding: whether the operands of float32 products are rounded to bfloat16.

    Returns:
        T, B, I, H, whether the factors on h and on the candidate differ from step to step,
        and the arguments.
    """
    moves = (_moves(a.recurrent_mask), _moves(a.candidate_mask))
    flags = (batch_first, kernel_turned, recurrent_turned, rounding)
    return [*a.x.shape, a.recurrent.shape[0], *moves, *map(int, flags)]


def listed(addresses: Mapping[str, int]) -> list[int]:
    """Addresses by name in the order of `ARRAYS`; 0 for what is not named."""
    return [addresses.get(name, 0) for name in ARRAYS]


def result_shapes(cell: Cell, a: Inputs, kept: bool) -> dict[str, tuple[int, ...]]:
    """What a forward pass gives, by name, and the shapes.

    Args:
        cell: the cell.
        a: the inputs.
        kept: with what a backward pass would have to compute again.
    """
    steps, batch, _ = a.x.shape
    units, wide = a.recurrent.shape
    shapes = dict(h=(steps, batch, units), h_last=(batch, units))
    if kept:
        shapes |= dict(xw=(steps, batch, wide), hu=(steps, batch, wide))
    if cell.lstm:
        shapes["c_last"] = (batch, units)
        if kept:
            shapes["c"] = (steps, batch, units)
    return {name: shapes[name] for name in OUTPUTS if name in shapes}


def gradient_shapes(a: Inputs) -> dict[str, tuple[int, ...]]:
    """The gradients that a backward pass gives, by name, and their shapes."""
    given = {n: getattr(a, n) for n in DIFFERENTIABLE}
    return {f"d{n}": tuple(array.shape) for n, array in given.items() if array is not None}


def _moves(factor: Array | None) -> int:
    return int(factor is not None and len(factor.shape) == 3)
