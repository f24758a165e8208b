"""A cell as the kernels see it: one value, known when they are compiled.

Letters: T time, B batch, I inputs, H units, G gates.  Gates stand in the order i f g o, f g o
(coupled), r z n, z n, or n.  Rows of gates are private buffers (G, pitch) whose last columns are
zero, so that odd sizes load as others do; `block` is the power of two that a tile covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

from lnrnn.variant import Norm, Site, Variant

CELLS = ("simple", "lstm", "gru", "ligru", "indrnn")
_MULTIPLE = 16
_SITES: tuple[Site, ...] = ("x", "h", "sum")
_GATES = 4
_FUNCTIONS = ("tanh", "sigmoid", "relu", "hard_sigmoid", "keras2_hard_sigmoid", "linear")
# fields of a variant that are one of several words
_WORDS: dict[str, tuple[Any, ...]] = {
    "cell": CELLS,
    "norm": ("layer", "rms"),
    "epsilon_at": ("variance", "deviation"),
    "ddof": (0, 1),
    "cell_norm": ("none", "output", "carry", "carry_only", "after_tanh"),
    "reset": ("after", "inside", "before", "whole"),
    "update": ("keep", "new"),
    "coupled": (False, True),
    "capped": (False, True),
    "peephole": ("none", "after"),
    "output_peephole": ("gate", "cell"),
    "hidden_norm": (False, True),
    "cell_clip_at": ("before_norm", "after_norm", "incoming", "carried"),
    "activation": _FUNCTIONS,
    "recurrent_activation": _FUNCTIONS,
    "output_activation": _FUNCTIONS,
}


@dataclass(frozen=True, eq=False)
class Cell:
    """What a kernel is compiled for, apart from its tiles.

    Args:
        kind: `"simple"`, `"lstm"` or `"gru"`; a Li-GRU is a GRU without r, an IndRNN a simple cell.
        diagonal: whether h is multiplied by a vector and not by a matrix.
        gates: G.
        groups: of each gate the group of its norm inside the recurrence, or -1; gates of a group
            share their statistics, and a group that must wait for r comes last.
        summed: of each gate whether that norm is of x W + h U, or of h U alone.
        sizes: how many numbers each group normalises.
        norms: how many groups there are.
        early_norms: how many of them need no r.
        of_x: of each gate the group of its norm of x W, or -1.
        x_sizes: how many numbers each of these groups normalises.
        x_norms: how many of these groups there are.
        centred: whether the norm is a layer norm; U comes centred then, so that groups have a
            mean of zero.
        ddof: squared deviations are divided by n - ddof.
        at_root: whether epsilon is added to the deviation and not to the variance.
        epsilon: of the norms.
        cell_norm: as in the variant.
        hidden_norm: as in the variant.
        reset: as in the variant; `"none"` without r.
        keep: whether z multiplies the old h.
        coupled: whether i is 1 - f, or r is z.
        capped: whether i is at most 1 - f.
        peepholes: `"none"`, `"gate"` where that of o is in its gate, `"cell"` where it is in psi.
        cell_clip: bound on c, or on the new h of a gru; 0 is none.
        cell_clip_at: as in the variant.
        hidden_clip: bound on the incoming h; 0 is none.
        phi: activation of the candidate.
        sigma: activation of the gates.
        psi: activation of the cell.
        bias_h: whether h U has a bias.
        limit: bound on the derivatives that return at each step; 0 is none.
        take_h: share of the new h that zoneout lets through, where it is one number.
        take_c: the same of c.
        moving_h: whether the factors on h differ from step to step.
        moving_n: the same of the factors on the candidate.
        units: H.
        pitch: columns of a gate in private buffers.
        block: columns of a tile.
        exact: whether products are of float32 numbers that were rounded, for the interpreter,
            whose product of bfloat16 is wrong.
        programs: how many programs share a row; `block` columns are each one's own then.
        peers: the power of two that holds them.
        polls: how often a program looks for what another sends before it gives up.
    """

    kind: str
    diagonal: bool
    gates: int
    groups: tuple[int, ...]
    summed: tuple[bool, ...]
    sizes: tuple[int, ...]
    norms: int
    early_norms: int
    of_x: tuple[int, ...]
    x_sizes: tuple[int, ...]
    x_norms: int
    centred: bool
    ddof: int
    at_root: bool
    epsilon: float
    cell_norm: str
    hidden_norm: bool
    reset: str
    keep: bool
    coupled: bool
    capped: bool
    peepholes: str
    cell_clip: float
    cell_clip_at: str
    hidden_clip: float
    phi: str
    sigma: str
    psi: str
    bias_h: bool
    limit: float
    take_h: float
    take_c: float
    moving_h: bool
    moving_n: bool
    units: int
    pitch: int
    block: int
    exact: bool
    programs: int = 1
    peers: int = 1
    polls: int = 0

    @property
    def lstm(self) -> bool:
        """Whether there is a c."""
        return self.kind == "lstm"

    @property
    def early(self) -> int:
        """How many gates the first product of a step serves: all but n where r comes before."""
        return self.gates - 1 if self.reset == "before" else self.gates

    @property
    def gated(self) -> bool:
        """Whether what r multiplies is kept: h U of n, or its pre-activation."""
        return self.reset in ("after", "inside", "whole")

    @property
    def apart(self) -> bool:
        """Whether r multiplies h U of n alone."""
        return self.reset in ("after", "inside")

    @property
    def norms_c(self) -> bool:
        """Whether the norm of the cell is of c, and not of psi(c)."""
        return self.cell_norm in ("output", "carry", "carry_only")

    @property
    def centred_ahead(self) -> tuple[bool, ...]:
        """Of each group whether U, and the input part of a sum, come centred over it.

        They do not where r multiplies h U within the group, which moves its mean.
        """
        groups = range(self.norms)
        return tuple(
            self.centred and not (self.reset == "inside" and self.groups[-1] == k) for k in groups
        )

    @property
    def centred_by_gate(self) -> tuple[bool, ...]:
        """Of each gate whether its columns of U come centred over its group."""
        return tuple(k >= 0 and self.centred_ahead[k] for k in self.groups)

    @property
    def norms_inputs(self) -> bool:
        """Whether the input part is more than x W and a bias."""
        return self.x_norms > 0 or (any(self.summed) and any(self.centred_ahead))

    @property
    def same(self) -> bool:
        """Whether the gradients of x W and of h U are the same."""
        alike = not self.x_norms and not self.apart and self.limit == 0
        return alike and all(s or k < 0 for s, k in zip(self.summed, self.groups, strict=True))

    @property
    def plain_u(self) -> bool:
        """Whether the way back wants U as it is, as limits act on gradients with their mean.

        Centred U needs no mean of them subtracted.
        """
        return self.limit > 0 and any(self.centred_ahead)

    @property
    def plain(self) -> bool:
        """Whether the gradient of h U is that of the pre-activations."""
        return self.norms == 0 and not self.gated and self.limit == 0

    @property
    def sums(self) -> int:
        """How many vectors of states have a gradient: see `step.open_back`."""
        peepholes = 0 if self.peepholes == "none" else self.gates - 1
        return 2 * (self.cell_norm != "none") + 2 * self.hidden_norm + peepholes

    @property
    def statistics(self) -> int:
        """Numbers a row and step: one a group, mean and scale of the cell's and hidden norm."""
        return self.norms + 2 * (self.cell_norm != "none") + 2 * self.hidden_norm


def refusal(variant: Variant) -> str | None:
    """Why the kernels do not compute a variant, or None."""
    if variant.cell not in CELLS:
        return f"it computes the cells {', '.join(CELLS)}, not {variant.cell}"
    if variant.norms_at("pre"):
        return "it has no norm of the concatenated input (site 'pre')"
    if variant.peephole == "inside":
        return "it has no peephole within a norm; the variant has peephole='inside'"
    if variant.projection:
        return "it has no projection of h; the variant has projection=True"
    return None


def encode(variant: Variant) -> tuple[float, ...]:
    """The mathematics of a variant as numbers, which an operator can take."""
    found = [float(words.index(getattr(variant, f))) for f, words in _WORDS.items()]
    found += [variant.epsilon, variant.cell_clip or 0.0, variant.hidden_clip or 0.0]
    for site in _SITES:
        norms = variant.norms_at(site)
        of = [_group(g, norms) for g in variant.gates]
        found += map(float, of + [-1] * (_GATES - len(of)))
    return tuple(found)


@cache
def decode(numbers: tuple[float, ...]) -> Variant:
    """A variant with the mathematics of the numbers; gains and biases are the arrays' matter."""
    n = len(_WORDS)
    fields: dict[str, Any] = {
        f: words[int(i)] for (f, words), i in zip(_WORDS.items(), numbers[:n], strict=True)
    }
    epsilon, cell_clip, hidden_clip, *groups = numbers[n:]
    gates = Variant(cell=fields["cell"], coupled=fields["coupled"]).gates
    norms = []
    for i, site in enumerate(_SITES):
        of = groups[i * _GATES : (i + 1) * _GATES][: len(gates)]
        for k in range(int(max(of)) + 1):
            norms.append(Norm(site, "".join(g for g, j in zip(gates, of, strict=True) if j == k)))
    return Variant(
        norms=tuple(norms),
        epsilon=epsilon,
        cell_clip=cell_clip or None,
        hidden_clip=hidden_clip or None,
        **fields,
    )


def _group(gate: str, norms: Sequence[Norm]) -> int:
    return next((k for k, n in enumerate(norms) if gate in n.gates), -1)


@lru_cache(maxsize=1024)
def describe(
    variant: Variant,
    units: int,
    bias_h: bool = False,
    limit: float = 0.0,
    take_h: float = 1.0,
    take_c: float = 1.0,
    moving_h: bool = False,
    moving_n: bool = False,
    exact: bool = False,
) -> Cell:
    """The one description of a variant with these options.

    Args:
        variant: the cell.
        units: H.
        bias_h: whether h U has a bias.
        limit: bound on the derivatives that return at each step; 0 is none.
        take_h: zoneout, the share of the new h, where it is one number.
        take_c: the same of c.
        moving_h: whether the factors on h differ from step to step.
        moving_n: the same of the factors on the candidate.
        exact: whether products are of float32 numbers that were rounded.
    """
    gates, gru = variant.gates, variant.cell in ("gru", "ligru")
    reset = variant.reset if variant.cell == "gru" else "none"
    inside = [*variant.norms_at("h"), *variant.norms_at("sum")]
    late = reset in ("before", "inside")
    inside.sort(key=lambda n: late and "n" in n.gates)
    of_x = variant.norms_at("x")

    return Cell(
        kind="gru" if gru else "lstm" if variant.cell == "lstm" else "simple",
        diagonal=variant.cell == "indrnn",
        gates=len(gates),
        groups=tuple(_group(g, inside) for g in gates),
        summed=tuple(g in variant.gates_at("sum") for g in gates),
        sizes=tuple(units * len(n.gates) for n in inside),
        norms=len(inside),
        early_norms=len([n for n in inside if not (late and "n" in n.gates)]),
        of_x=tuple(_group(g, of_x) for g in gates),
        x_sizes=tuple(units * len(n.gates) for n in of_x),
        x_norms=len(of_x),
        centred=variant.norm == "layer",
        ddof=variant.ddof,
        at_root=variant.epsilon_at == "deviation",
        epsilon=variant.epsilon,
        cell_norm=variant.cell_norm,
        hidden_norm=variant.hidden_norm,
        reset=reset,
        keep=variant.update == "keep",
        coupled=variant.coupled,
        capped=variant.capped,
        peepholes=variant.output_peephole if variant.peephole != "none" else "none",
        cell_clip=variant.cell_clip or 0.0,
        cell_clip_at=variant.cell_clip_at,
        hidden_clip=variant.hidden_clip or 0.0,
        phi=variant.activation,
        sigma=variant.recurrent_activation,
        psi=variant.output_activation,
        bias_h=bias_h,
        limit=limit,
        take_h=take_h,
        take_c=take_c,
        moving_h=moving_h,
        moving_n=moving_n,
        units=units,
        pitch=-(-units // _MULTIPLE) * _MULTIPLE,
        block=max(_MULTIPLE, 1 << (units - 1).bit_length()),
        exact=exact,
    )


@lru_cache(maxsize=1024)
def divided(cell: Cell, own: int, polls: int) -> Cell:
    """The cell of programs that share a row.

    Args:
        cell: the cell of whole rows.
        own: columns of a program, a power of two.
        polls: how often a program looks for what another sends before it gives up.
    """
    programs = -(-cell.units // own)
    peers = 1 << (programs - 1).bit_length()
    return replace(cell, block=own, programs=programs, peers=peers, polls=polls)
