"""What a layer-normalised recurrent cell is: its mathematics, as one frozen value.

A [Variant][lnrnn.Variant] says where normalisation sits and which of the published
options a cell uses.  It knows nothing of frameworks, sizes or weight layouts.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

Cell = Literal["simple", "indrnn", "ligru", "lstm", "gru"]
Site = Literal["x", "h", "sum", "pre"]
Activation = Literal["tanh", "sigmoid", "relu", "hard_sigmoid", "keras2_hard_sigmoid", "linear"]

_CELL_GATES = {"simple": "n", "indrnn": "n", "ligru": "zn", "lstm": "ifgo", "gru": "rzn"}
_LSTM_ONLY = (
    "cell_norm",
    "cell_norm_gain",
    "cell_norm_bias",
    "forget_bias",
    "capped",
    "peephole",
    "output_peephole",
    "cell_clip_at",
    "hidden_clip",
    "projection",
    "projection_bias",
    "projection_clip",
    "output_activation",
)
_NUMBERS = (
    "epsilon", "forget_bias", "update_bias", "cell_clip", "hidden_clip", "projection_clip",
)  # fmt: skip
_GRU_ONLY = ("reset",)
_UPDATE_ONLY = ("update", "update_bias")


@dataclass(frozen=True)
class Norm:
    r"""One normalisation of a pre-activation: where it sits, which gates share it.

    $$\mathrm{LN}(v) = \gamma \odot \frac{v - \bar v}{\sqrt{\mathrm{var}(v) + \epsilon}} + \beta$$

    Mean and variance run over all columns of all gates named, per sample and per
    time step.

    Args:
        site: `"x"` normalises the input projection `x W`, `"h"` the recurrent
            projection `h U`, `"sum"` their sum, `"pre"` the concatenated input
            `[x, h]` before the product.
        gates: the gates that share one mean and variance, in any order; empty means
            all gates of the cell.
        gain: whether the norm has a gain $\gamma$.
        bias: whether the norm has a bias $\beta$.

    Example:
        >>> Norm("x")  # one mean and variance over all gates of x W
        Norm(site='x', gates='', gain=True, bias=True)
    """

    site: Site
    gates: str = ""
    gain: bool = True
    bias: bool = True

    def __post_init__(self) -> None:
        _check_types(self)
        if len(set(self.gates)) != len(self.gates):
            raise ValueError(
                f"Norm names each gate once; got gates={self.gates!r}: write each letter once."
            )


@dataclass(frozen=True, kw_only=True)
class Variant:
    r"""The mathematics of a recurrent cell with layer normalisation.

    With $X = x W + b_x$ and $H = h U + b_h$ (gates side by side), the pre-activation
    of each gate is $P = N_x(X) + N_h(H) + b$, or $P = N_\Sigma(X + H) + b$ where a
    `"sum"` norm covers it.  Absent norms are the identity, absent biases zero.

    - simple, indrnn: $h' = \phi(P_n)$; an indrnn has $H = u \odot h$.
    - lstm: $\tilde c = \sigma(P_f + b_{forget}) c + \sigma(P_i)\,\phi(P_g)$,
      $h' = \sigma(P_o)\,\psi(c')$, the cell norm between as `cell_norm` says.
    - gru, ligru: $h' = z h + (1 - z) n$ with $z = \sigma(P_z + b_{update})$ and $n$
      as `reset` says (a ligru has no reset gate: $n = \phi(P_n)$).

    Gates are named `i f g o` (lstm), `r z n` (gru), `z n` (ligru), `n` (simple, indrnn);
    a coupled cell has not the first of them.

    Args:
        cell: `"simple"`, `"indrnn"`, `"ligru"`, `"lstm"` or `"gru"`.
        norms: the norms of the pre-activations, or the fields of each as a mapping; empty for
            a plain cell.
        norm: `"layer"` (centred) or `"rms"` (root mean square, not centred).
        epsilon: added to the variance (or mean square); 0 or more.
        epsilon_at: `"variance"` adds epsilon under the root, `"deviation"` to the
            standard deviation.
        ddof: 0 divides the squared deviations by n, 1 by n - 1.
        cell_norm: lstm; `"none"`; `"output"`: $h' = o\,\psi(\mathrm{LN}(c'))$, $c'$ is
            carried; `"carry"`: the normalised cell is used and carried;
            `"carry_only"`: $h' = o\,\psi(c')$ and $\mathrm{LN}(c')$ is carried;
            `"after_tanh"`: $h' = o\,\mathrm{LN}(\psi(c'))$, $c'$ is carried.
        cell_norm_gain: whether the cell norm has a gain.
        cell_norm_bias: whether the cell norm has a bias.
        hidden_norm: normalise h' (gain and bias) before it is emitted and carried.
        bias_x: a bias inside the input norm, $b_x$.
        bias_h: a bias inside the recurrent norm, $b_h$ (with reset "after" and no norm
            the second bias of Keras's and PyTorch's GRU).
        bias: a bias after the norms, $b$.
        tied_bias: $b$ is added inside the input norm as well (Kiros's lnlstm).
        forget_bias: lstm; constant added to the forget gate after the norm.
        update_bias: gru, ligru; constant added to the update gate after the norm.
        reset: gru; `"after"`: $n = \phi(X_n + r H_n)$ of the normed parts; `"inside"`:
            $n = \phi(N_\Sigma(X_n + r H_n))$ of the raw parts; `"before"`: the
            recurrent projection of n is $(r h) U_n$; `"whole"`: $n = \phi(r P_n)$.
        update: gru, ligru; `"keep"`: $h' = z h + (1-z) n$; `"new"`: $h' = z n + (1-z) h$.
        coupled: one gate does the work of two: an lstm without an input gate,
            $i = 1 - f$ (CIFG); a gru without a reset gate, $r = z$ (the minimal gated unit).
        capped: lstm; the input gate is at most what f leaves, $i = \min(\sigma(P_i), 1 - f)$.
        peephole: lstm; `"after"` adds $w_i c$, $w_f c$ and $w_o c'$ after the norms,
            `"inside"` within them, where $c'$ is the cell as it is carried.
        output_peephole: `"gate"` adds $w_o c'$ to the output gate, `"cell"` to the
            argument of $\psi$.
        cell_clip: bound on |c| of an lstm (on |h'| of a gru), or None.
        cell_clip_at: lstm; clip `"before_norm"`, `"after_norm"` (of a carried norm), or
            the `"incoming"` c, or the `"carried"` one alone, which the output does not see.
        hidden_clip: lstm; bound on the incoming |h|, or None.
        projection: lstm; h' is multiplied by a projection matrix (H, P).
        projection_bias: whether the projection has a bias.
        projection_clip: bound on the projected |h'|, or None.
        activation: $\phi$, of the candidate.
        recurrent_activation: $\sigma$, of the gates.
        output_activation: lstm; $\psi$, of the cell.

    Raises:
        ValueError: a choice that contradicts another or the cell; the message names
            the rule, the values and what to write instead.

    Example:
        >>> haste = Variant(
        ...     cell="lstm",
        ...     norms=(Norm("x", bias=False), Norm("h", bias=False)),
        ...     cell_norm="output",
        ...     bias=True,
        ... )
        >>> haste.gates
        'ifgo'

    Source: Ba, Kiros and Hinton 2016, arXiv 1607.06450, and the programs listed in
    [lnrnn.dialects][].
    """

    cell: Cell
    norms: tuple[Norm, ...] = ()
    norm: Literal["layer", "rms"] = "layer"
    epsilon: float = 1e-5
    epsilon_at: Literal["variance", "deviation"] = "variance"
    ddof: Literal[0, 1] = 0
    cell_norm: Literal["none", "output", "carry", "carry_only", "after_tanh"] = "none"
    cell_norm_gain: bool = True
    cell_norm_bias: bool = True
    hidden_norm: bool = False
    bias_x: bool = False
    bias_h: bool = False
    bias: bool = False
    tied_bias: bool = False
    forget_bias: float = 0.0
    update_bias: float = 0.0
    reset: Literal["after", "inside", "before", "whole"] = "after"
    update: Literal["keep", "new"] = "keep"
    coupled: bool = False
    capped: bool = False
    peephole: Literal["none", "after", "inside"] = "none"
    output_peephole: Literal["gate", "cell"] = "gate"
    cell_clip: float | None = None
    cell_clip_at: Literal["before_norm", "after_norm", "incoming", "carried"] = "before_norm"
    hidden_clip: float | None = None
    projection: bool = False
    projection_bias: bool = False
    projection_clip: float | None = None
    activation: Activation = "tanh"
    recurrent_activation: Activation = "sigmoid"
    output_activation: Activation = "tanh"

    def __post_init__(self) -> None:
        if isinstance(self.norms, (tuple, list)):
            # as `dataclasses.asdict` leaves them, and JSON after it
            norms = tuple(Norm(**n) if isinstance(n, Mapping) else n for n in self.norms)
            object.__setattr__(self, "norms", norms)
        _check_types(self)
        self._check_numbers()
        self._check_options()
        object.__setattr__(self, "norms", tuple(self._named(n) for n in self.norms))
        self._check_norms()
        if self.cell == "lstm":
            self._check_lstm()
        if self.cell == "gru":
            self._check_reset()

    @property
    def gates(self) -> str:
        """The gate letters of the cell, in the canonical order of all weights."""
        gates = _CELL_GATES[self.cell]
        return gates[1:] if self.coupled else gates

    @property
    def states(self) -> tuple[str, ...]:
        """The carried states: `("h", "c")` for an lstm, `("h",)` otherwise."""
        return ("h", "c") if self.cell == "lstm" else ("h",)

    @property
    def peephole_gates(self) -> str:
        """The gates with a peephole, in the order of the `peephole` weight."""
        if self.peephole == "none":
            return ""
        return "fo" if self.coupled else "ifo"

    def norms_at(self, site: Site) -> tuple[Norm, ...]:
        """The norms at one site, in the order in which they were given."""
        return tuple(n for n in self.norms if n.site == site)

    def gates_at(self, site: Site) -> str:
        """The gates that a norm at `site` covers, in canonical order."""
        covered = {g for n in self.norms_at(site) for g in n.gates}
        return "".join(g for g in self.gates if g in covered)

    def replace(self, **changes: Any) -> Variant:
        """A copy with some fields changed, validated like a new one."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values; `Variant.from_dict` reverses it."""
        return dataclasses.asdict(self) | {"norms": [dataclasses.asdict(n) for n in self.norms]}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Variant:
        """The variant that `to_dict` described; unknown fields are refused."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - known)
        if unknown:
            raise ValueError(
                f"Variant has no field {unknown[0]!r}; its fields are {', '.join(sorted(known))}."
            )
        return cls(**fields)

    def _named(self, norm: Norm) -> Norm:
        stray = sorted(set(norm.gates) - set(self.gates))
        if stray:
            raise ValueError(
                f"A {self._kind} has the gates {self.gates!r}; got Norm({norm.site!r}, "
                f"{norm.gates!r}): use only those letters, or leave gates empty for all."
            )
        wanted = norm.gates or self.gates
        return dataclasses.replace(norm, gates="".join(g for g in self.gates if g in wanted))

    @property
    def _kind(self) -> str:
        return f"coupled {self.cell}" if self.coupled else self.cell

    def _check_numbers(self) -> None:
        if not self.epsilon >= 0:
            raise ValueError(
                f"epsilon is 0 or more, as it is added to a variance; got {self.epsilon}: "
                "use a small positive number such as 1e-5."
            )
        for name in ("cell_clip", "hidden_clip", "projection_clip"):
            bound = getattr(self, name)
            if bound is not None and not bound > 0:
                raise ValueError(f"{name} is a positive bound or None; got {bound}: use None.")
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is not None and not abs(value) <= sys.float_info.max:
                given = value if isinstance(value, float) else "an integer beyond all floats"
                raise ValueError(f"{name} is a finite number; got {given}: use a smaller one.")
        if self.norm == "rms" and self.ddof != 0:
            raise ValueError(
                "A root mean square has no mean to lose a degree of freedom to; got norm='rms' "
                f"with ddof={self.ddof}: use ddof=0."
            )

    def _check_options(self) -> None:
        """Options of one cell are left at their defaults on the others."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        for names, cells in (
            (_LSTM_ONLY, ("lstm",)),
            (_GRU_ONLY, ("gru",)),
            (_UPDATE_ONLY, ("gru", "ligru")),
            (("recurrent_activation",), ("lstm", "gru", "ligru")),
            (("cell_clip", "coupled"), ("lstm", "gru")),
        ):
            for name in names:
                if self.cell not in cells and getattr(self, name) != defaults[name]:
                    raise ValueError(
                        f"{name} is an option of cell={' or '.join(map(repr, cells))}; got "
                        f"cell={self.cell!r} with {name}={getattr(self, name)!r}: "
                        f"leave it at {defaults[name]!r}."
                    )
        if self.tied_bias and (self.bias_x or not self.bias):
            raise ValueError(
                "tied_bias uses `bias` a second time, in place of bias_x; got "
                f"bias={self.bias}, bias_x={self.bias_x}: use bias=True, bias_x=False."
            )

    def _check_norms(self) -> None:
        for site in ("x", "h", "sum", "pre"):
            letters = "".join(n.gates for n in self.norms_at(site))
            twice = sorted({g for g in letters if letters.count(g) > 1})
            if twice:
                raise ValueError(
                    f"Norms at one site share no gate; got gate {twice[0]!r} twice at site "
                    f"{site!r}: name each gate in one norm only."
                )
        for site in ("x", "h"):
            both = sorted(set(self.gates_at(site)) & set(self.gates_at("sum")))
            if both:
                raise ValueError(
                    f"A gate is normed on the sum or on its parts, not on both; got gate "
                    f"{both[0]!r} at the sites {site!r} and 'sum': drop one of the two."
                )
        if self.norms_at("pre") and (len(self.norms) > 1 or self.gates_at("pre") != self.gates):
            raise ValueError(
                "A norm of the concatenated input acts on all gates and stands alone; got "
                f"{len(self.norms)} norms, the 'pre' one on {self.gates_at('pre')!r}: "
                "use norms=(Norm('pre'),)."
            )
        if self.norms_at("pre") and (self.bias_x or self.bias_h or self.tied_bias):
            raise ValueError(
                "A norm of the concatenated input has no inner bias; got bias_x="
                f"{self.bias_x}, bias_h={self.bias_h}, tied_bias={self.tied_bias}: use bias=True."
            )
        if self.cell == "indrnn" and any(n.site != "x" for n in self.norms):
            raise ValueError(
                "An indrnn has no recurrent matrix, so only site 'x' can be normed; got site "
                f"{next(n.site for n in self.norms if n.site != 'x')!r}: use Norm('x')."
            )

    def _check_lstm(self) -> None:
        if self.capped and self.coupled:
            raise ValueError(
                "A coupled lstm has no input gate to bound; got coupled=True, capped=True: use "
                "one of the two."
            )
        if self.cell_clip_at == "after_norm" and self.cell_norm != "carry":
            raise ValueError(
                "cell_clip_at='after_norm' bounds the normalised cell that is carried; got "
                f"cell_norm={self.cell_norm!r}: use cell_norm='carry' or "
                "cell_clip_at='before_norm'."
            )
        if self.peephole == "inside":
            alone = any(n.gates == "o" for n in self.norms_at("sum"))
            if self.gates_at("sum") != self.gates or not alone:
                raise ValueError(
                    "A peephole inside the norm needs a 'sum' norm on every gate, with 'o' on "
                    f"its own, as it sees the new cell; got norms {_brief(self.norms)}: use "
                    "peephole='after' or one Norm('sum', gate) for each gate."
                )
            if self.output_peephole != "gate":
                raise ValueError(
                    "output_peephole='cell' goes with peephole='after'; got peephole='inside': "
                    "use output_peephole='gate'."
                )
        if self.peephole == "none" and self.output_peephole != "gate":
            raise ValueError(
                "output_peephole='cell' needs peepholes; got peephole='none': use peephole='after'."
            )
        if not self.projection and (self.projection_bias or self.projection_clip is not None):
            raise ValueError(
                "projection_bias and projection_clip belong to a projection; got "
                "projection=False: use projection=True."
            )

    def _check_reset(self) -> None:
        own_sum = any(n.gates == "n" for n in self.norms_at("sum"))
        own_h = any(n.gates == "n" for n in self.norms_at("h"))
        if self.reset == "after" and "n" in self.gates_at("sum"):
            raise ValueError(
                "reset='after' multiplies the normed recurrent part of n alone, which a 'sum' "
                f"norm does not have; got norms {_brief(self.norms)}: use reset='inside' or "
                "'whole', or norms at the sites 'x' and 'h'."
            )
        if self.reset == "inside" and not own_sum:
            raise ValueError(
                "reset='inside' multiplies within a 'sum' norm on n alone; got norms "
                f"{_brief(self.norms)}: use Norm('sum', 'n') or another reset."
            )
        if self.reset == "before":
            shared = ("n" in self.gates_at("sum") and not own_sum) or (
                "n" in self.gates_at("h") and not own_h
            )
            if shared or self.norms_at("pre"):
                raise ValueError(
                    "With reset='before' the projection of n comes after r, so n has norms of "
                    f"its own at the sites 'h' and 'sum'; got norms {_brief(self.norms)}: give "
                    "n its own Norm(site, 'n')."
                )


def _brief(norms: tuple[Norm, ...]) -> str:
    return "(" + ", ".join(f"{n.site}:{n.gates}" for n in norms) + ")"


def _check_types(value: Any) -> None:
    """Check a dataclass against its annotations: literals, numbers, flags."""
    hints = get_type_hints(type(value))
    for field in dataclasses.fields(value):
        given, hint = getattr(value, field.name), hints[field.name]
        choices = get_args(hint)
        if getattr(hint, "__origin__", None) is Literal:
            if given not in choices or isinstance(given, bool):
                raise ValueError(
                    f"{field.name} is one of {', '.join(map(repr, choices))}; got {given!r}."
                )
        elif hint is bool and not isinstance(given, bool):
            raise ValueError(f"{field.name} is True or False; got {given!r}.")
        elif hint is str and not isinstance(given, str):
            raise ValueError(f"{field.name} is a string of gate letters; got {given!r}.")
        elif hint in (float, float | None) and not (given is None and hint is not float):
            if isinstance(given, bool) or not isinstance(given, (int, float)):
                raise ValueError(f"{field.name} is a number; got {given!r}.")
        elif field.name == "norms" and not (
            isinstance(given, (tuple, list)) and all(isinstance(n, Norm) for n in given)
        ):
            raise ValueError(f"norms is a tuple of Norm; got {given!r}.")
