"""What the C++ core is told: a cell as a list of integers, arrays in a fixed order.

The order of the words is that of `Spec` in `csrc/core/spec.h`, that of the arrays is that of
`Array` in `csrc/core/call.h`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol, get_args

from lnrnn.engines.fused import definition
from lnrnn.engines.fused.call import DIFFERENTIABLE, INCOMING, Array, Inputs, Numbers, Passes
from lnrnn.variant import Activation, Norm, Site, Variant

# an indrnn is a simple cell whose recurrent product is `diagonal`, a ligru a gru without a reset
CELLS = ("simple", "lstm", "gru")
CELL_NORMS = ("none", "output", "carry", "carry_only", "after_tanh")
RESETS = ("after", "inside", "before", "whole", "none")
PEEPHOLES = ("none", "after", "inside")
CLIPS_AT = ("before_norm", "after_norm", "incoming", "carried")
SITES: tuple[Site, ...] = ("x", "h", "sum")
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
GATES = 4
GATE_COUNTS = {"lstm": 4, "gru": 3}
# the word before those of the groups at each site
_ORDER = -1 - len(SITES) * GATES


OUTPUTS = ("h", "c", "xw", "hu", "h_last", "c_last")
KEPT = ("c", "xw", "hu")  # of a forward pass for its backward pass
# what is of half precision where x is; all else is then float32
LIKE_X = ("x", "h", "xw", "hu", "dh", "dx")
OUTGOING = tuple(f"d{name}" for name in DIFFERENTIABLE)
ARRAYS = (*Inputs._fields, *OUTPUTS, *INCOMING, *OUTGOING)


@cache
def encode(variant: Variant, gates: str = "") -> tuple[int, ...]:
    """The words of a variant; its epsilon and bounds are not among them, its biases are arrays.

    The gates of its weights stand in the order `gates`; empty for the canonical one.
    """
    cell = {"indrnn": "simple", "ligru": "gru"}.get(variant.cell, variant.cell)
    words = [
        CELLS.index(cell),
        len(variant.gates),
        variant.norm == "rms",
        variant.ddof,
        variant.epsilon_at == "deviation",
        CELL_NORMS.index(variant.cell_norm),
        RESETS.index("none" if variant.cell == "ligru" else variant.reset),
        variant.update == "keep",
        *(
            ACTIVATIONS.index(f)
            for f in (variant.activation, variant.recurrent_activation, variant.output_activation)
        ),
        variant.capped,
        PEEPHOLES.index(variant.peephole),
        variant.output_peephole == "cell",
        CLIPS_AT.index(variant.cell_clip_at),
        variant.hidden_norm,
        variant.projection,
        bool(variant.norms_at("pre")),
        variant.cell == "indrnn",
        sum(gates.index(g) << 2 * i for i, g in enumerate(variant.gates)) if gates else 0,
    ]
    for site in SITES:
        groups = [n.gates for n in variant.norms_at(site)]
        of_gate = [next((i for i, g in enumerate(groups) if k in g), -1) for k in variant.gates]
        words += of_gate + [-1] * (GATES - len(of_gate))
    return tuple(int(w) for w in words)


@cache
def decode(words: tuple[int, ...], numbers: Numbers) -> Variant:
    """A variant with the mathematics of the words; gains and biases are the arrays' matter."""
    kind, gates, rms, ddof, at_root, cell_norm, reset, keep, phi, sigma, psi, *rest = words
    capped, peephole, in_cell, clip_at, hidden_norm, projection, pre, diagonal, _, *groups = rest
    cell = "indrnn" if diagonal else "ligru" if RESETS[reset] == "none" else CELLS[kind]
    options: dict[str, Any] = {}
    if cell == "lstm":
        options = dict(
            cell_norm=CELL_NORMS[cell_norm],
            output_activation=ACTIVATIONS[psi],
            capped=bool(capped),
            peephole=PEEPHOLES[peephole],
            output_peephole="cell" if in_cell else "gate",
            cell_clip_at=CLIPS_AT[clip_at],
            hidden_clip=numbers.hidden_clip or None,
            projection=bool(projection),
            projection_clip=numbers.projection_clip or None,
        )
    if cell == "gru":
        options = {"reset": RESETS[reset]}
    if cell in ("lstm", "gru"):
        options |= dict(coupled=gates < GATE_COUNTS[cell], cell_clip=numbers.cell_clip or None)
    if cell in ("gru", "ligru"):
        options["update"] = "keep" if keep else "new"
    if cell not in ("simple", "indrnn"):
        options["recurrent_activation"] = ACTIVATIONS[sigma]
    plain = Variant(cell=cell, coupled=bool(options.get("coupled")))
    norms = [Norm("pre")] if pre else []
    for i, site in enumerate(SITES):
        of_gate = groups[i * GATES : (i + 1) * GATES][: len(plain.gates)]
        for group in sorted({g for g in of_gate if g >= 0}):
            named = "".join(k for k, g in zip(plain.gates, of_gate, strict=True) if g == group)
            norms.append(Norm(site, named))
    fields: dict[str, Any] = dict(
        cell=cell,
        norms=tuple(norms),
        norm="rms" if rms else "layer",
        ddof=ddof,
        epsilon=numbers.epsilon,
        epsilon_at="deviation" if at_root else "variance",
        activation=ACTIVATIONS[phi],
        hidden_norm=bool(hidden_norm),
        **options,
    )
    return Variant(**fields)


def order_of(words: tuple[int, ...], gates: str) -> str:
    """The order of the gates in weights, of which `gates` is the canonical one."""
    order = words[_ORDER]
    return "".join(sorted(gates, key=lambda g: order >> 2 * gates.index(g) & 3)) if order else gates


class Call(Passes, Protocol):
    """What the front ends of the core ask of the words of a call, hashable."""

    @property
    def words(self) -> tuple[int, ...]:
        """The cell."""
        ...

    @property
    def prefix(self) -> str:
        """What the names of its passes begin with."""
        ...

    @property
    def arrays(self) -> tuple[str, ...]:
        """The names of all arrays in the core's order."""
        ...

    @property
    def inputs(self) -> Any:
        """The tuple, by name, of those that a forward pass may be given."""
        ...

    def define(self, ops: Any, numbers: Any, a: Any) -> tuple[Array, ...]:
        """The results in a framework's operations."""
        ...


class Cell:
    """A call with the cell of a variant.

    Args:
        words: as of `encode`.
    """

    prefix = ""
    arrays = ARRAYS
    inputs = Inputs
    differentiable = DIFFERENTIABLE
    needs_dx = False

    def __init__(self, words: tuple[int, ...]) -> None:
        self.words = words
        self.lstm = CELLS[words[0]] == "lstm"
        self.gates = words[1]
        self.diagonal = bool(words[_ORDER - 1])
        self.results = ("h", "h_last", "c_last") if self.lstm else ("h", "h_last")
        self.kept = KEPT if self.lstm else KEPT[1:]

    def define(self, ops: Any, numbers: Numbers, a: Inputs) -> tuple[Array, ...]:
        """All h (T, B, R), the last h and, of an lstm, the last c, in a framework's operations."""
        variant = decode(self.words, numbers)
        order = order_of(self.words, variant.gates)
        return definition.recurrence(ops, variant, numbers, a, order)


@cache
def cell_of(words: tuple[int, ...]) -> Cell:
    """The cell of a list of words."""
    return Cell(words)


def sizes(
    cell: Cell,
    a: Inputs,
    batch_first: bool = False,
    h_batch_first: bool = False,
    kernel_turned: bool = False,
    recurrent_turned: bool = False,
    rounding: bool = False,
) -> list[int]:
    """The sizes of a call in the order of `Numbers` in `csrc/core/call.h`.

    Args:
        cell: the cell.
        a: the inputs.
        batch_first: whether x and its gradient are in memory as (B, T, I).
        h_batch_first: whether h and its gradient are in memory as (B, T, R).
        kernel_turned: whether W and its gradient are in memory as the transpose, (G H, I).
        recurrent_turned: the same of U, (G H, R).
        rounding: whether the operands of float32 products are rounded to bfloat16.

    Returns:
        T, B, I, H, R, whether the factors on h and on the candidate differ from step to step,
        and the arguments.
    """
    moves = (_moves(a.recurrent_mask), _moves(a.candidate_mask))
    flags = (batch_first, h_batch_first, kernel_turned, recurrent_turned, rounding)
    units = a.kernel.shape[1] // cell.gates
    return [*a.x.shape, units, a.h0.shape[1], *moves, *map(int, flags)]


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
    wide, hidden = a.kernel.shape[1], a.h0.shape[1]
    units = wide // cell.gates
    shapes = dict(h=(steps, batch, hidden), h_last=(batch, hidden))
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
