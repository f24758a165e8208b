"""What the C++ core is told: a cell as a list of integers, arrays in a fixed order.

The order of the words is that of `Spec` in `csrc/core/spec.h`, that of the arrays is that of
`Array` in `csrc/core/call.h`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple, get_args

from lnrnn.variant import Activation, Norm, Site, Variant

Array = Any

CELLS = ("simple", "lstm", "gru")
CELL_NORMS = ("none", "output", "carry", "carry_only", "after_tanh")
RESETS = ("after", "inside", "before", "whole")
SITES: tuple[Site, ...] = ("x", "h", "sum")
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
GATES = 4


class Inputs(NamedTuple):
    """The arrays of a forward pass, weights first; None is one that is absent."""

    recurrent: Array
    bias_h: Array | None
    gain_x: Array | None
    shift_x: Array | None
    gain_h: Array | None
    shift_h: Array | None
    gain_sum: Array | None
    shift_sum: Array | None
    gain_c: Array | None
    shift_c: Array | None
    x: Array
    h0: Array
    c0: Array | None
    mask: Array | None
    reset: Array | None
    take_h: Array | None
    take_c: Array | None
    recurrent_mask: Array | None
    candidate_mask: Array | None


WEIGHTS = 10  # the first ones of `Inputs`
VECTORS = Inputs._fields[1:WEIGHTS]
FLAGS = ("mask", "reset")
OUTPUTS = ("h", "c", "s", "h_last", "c_last")
INCOMING = ("dh", "dh_last", "dc_last")
OUTGOING = ("dx", "ds", "rh", "dh0", "dc0", *(f"d{name}" for name in VECTORS))
ARRAYS = (*Inputs._fields, *OUTPUTS, *INCOMING, *OUTGOING)


class Numbers(NamedTuple):
    """The scalars of a call.

    Args:
        take_h: zoneout, the share of the new h, where it is one number.
        take_c: the same of c.
        epsilon: of the norms.
        clip: bound on the derivative of each recurrent projection; 0 is none.
    """

    take_h: float = 1.0
    take_c: float = 1.0
    epsilon: float = 1e-5
    clip: float = 0.0


def refusal(variant: Variant) -> str | None:
    """Why the core does not compute a variant, or None."""
    if variant.cell not in CELLS:
        return f"it computes the cells {', '.join(CELLS)}, not {variant.cell}"
    if variant.norms_at("pre"):
        return "it has no norm of the concatenated input (site 'pre')"
    for option in ("peephole", "projection", "hidden_norm", "cell_clip", "hidden_clip"):
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
        gru = CELLS[words[0]] == "gru"
        self.two_products = gru and RESETS[words[6]] == "before"
        self._apart = gru and RESETS[words[6]] in ("after", "inside")
        self._sites = {s: words[11 + i * GATES : 11 + (i + 1) * GATES] for i, s in enumerate(SITES)}

    def normed(self, site: Site) -> bool:
        """Whether any gate is normed at a site."""
        return any(g >= 0 for g in self._sites[site])

    def one_gradient(self, clip: float) -> bool:
        """Whether the gradients of x W and of h U are the same numbers."""
        return not (self.normed("x") or self.normed("h") or self._apart or clip)


@cache
def cell_of(words: tuple[int, ...]) -> Cell:
    """The cell of a list of words."""
    return Cell(words)


def sizes(cell: Cell, a: Inputs, turned: bool = False) -> list[int]:
    """T, B, H, whether the factors on h and on the candidate differ from step to step, and
    whether the array of U is in memory as its transpose, (G H, H)."""
    steps, batch, wide = a.x.shape
    return [steps, batch, wide // cell.gates, *(_moves(m) for m in a[-2:]), int(turned)]


def check(cell: Cell, a: Inputs, flag: Any) -> None:
    """Raise ValueError unless shapes and dtypes fit; the core reads the inputs unchecked.

    Args:
        cell: the cell.
        a: the inputs.
        flag: the framework's boolean dtype.
    """
    steps, batch, wide = a.x.shape
    units = wide // cell.gates
    sequence, state = (steps, batch, units), (batch, units)
    fits: dict[str, tuple[tuple[int, ...], ...]] = {
        "recurrent": ((units, wide),),
        **dict.fromkeys(VECTORS, ((wide,),)),
        **dict.fromkeys(("gain_c", "shift_c"), ((units,),)),
        "x": ((steps, batch, cell.gates * units),),
        **dict.fromkeys(("h0", "c0"), (state,)),
        **dict.fromkeys(("mask", "reset"), ((steps, batch),)),
        **dict.fromkeys(("take_h", "take_c"), (sequence,)),
        **dict.fromkeys(("recurrent_mask", "candidate_mask"), (state, sequence)),
    }
    for name, array in a._asdict().items():
        if array is not None and tuple(array.shape) not in fits[name]:
            raise ValueError(
                f"{name} has the shape {' or '.join(map(str, fits[name]))} at T={steps}, "
                f"B={batch}, H={units}; got {tuple(array.shape)}."
            )
        if array is not None and array.dtype != (flag if name in FLAGS else a.x.dtype):
            raise ValueError(
                f"The inputs of a recurrence are of one dtype, flags bool; got {name} "
                f"{array.dtype} beside {a.x.dtype}: convert it."
            )
    if steps < 1 or (cell.lstm and a.c0 is None):
        raise ValueError(f"A recurrence has one step or more and its states; got T={steps}.")


def outgoing_shapes(cell: Cell, a: Inputs, clip: float) -> dict[str, tuple[int, ...]]:
    """The gradients that a backward pass gives, by name, and their shapes."""
    steps, batch, wide = a.x.shape
    units = wide // cell.gates
    shapes: dict[str, tuple[int, ...]] = {}
    if not cell.one_gradient(clip):
        shapes["dx"] = (steps, batch, wide)
    shapes["ds"] = (steps, batch, wide)
    if cell.two_products:
        shapes["rh"] = (steps, batch, units)
    shapes["dh0"] = (batch, units)
    if cell.lstm:
        shapes["dc0"] = (batch, units)
    for name in VECTORS:
        vector = getattr(a, name)
        if vector is not None:
            shapes[f"d{name}"] = tuple(vector.shape)
    return shapes


def recurrent_gradient(
    ops: Any, outer: Any, cell: Cell, a: Inputs, h: Array, found: Mapping[str, Array]
) -> Array:
    """The gradient of U (H, G H), one large product over all steps.

    Args:
        ops: a framework's operations.
        outer: sums a (T, B, m) times b (T, B, n) over T and B, and adds what it is given
            as a third argument, (m, n).
        cell: the cell.
        a: the inputs of the forward pass.
        h: its outputs, (T, B, H).
        found: the gradients that the core gave, by name.
    """
    first, rest = a.h0[None], h[:-1]
    if a.reset is not None:
        kept = ~a.reset[..., None]
        first, rest = ops.where(kept[:1], first, 0.0), ops.where(kept[1:], rest, 0.0)
    if a.recurrent_mask is not None:
        moving = _moves(a.recurrent_mask)
        first = first * (a.recurrent_mask[:1] if moving else a.recurrent_mask)
        rest = rest * (a.recurrent_mask[1:] if moving else a.recurrent_mask)
    ds = found["ds"]
    early = ds[..., : 2 * h.shape[-1]] if cell.two_products else ds
    gradient = outer(rest, early[1:], outer(first, early[:1]))
    if not cell.two_products:
        return gradient
    return ops.concat([gradient, outer(found["rh"], ds[..., 2 * h.shape[-1] :])])


def _moves(factor: Array | None) -> int:
    return int(factor is not None and len(factor.shape) == 3)
