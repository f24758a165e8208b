"""Where the weights of a plain layer go in a layer-normalised one, and the report on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lnrnn.frontends import families
from lnrnn.frontends.families import Family
from lnrnn.frontends.warn import warn
from lnrnn.params import columns, gates_of
from lnrnn.variant import Site, Variant

Weights = dict[str, np.ndarray]

_BIASES = ("bias", "bias_x", "sum_norm_bias", "x_norm_bias", "h_norm_bias", "bias_h")
# where a weight of a plain layer goes: to the first of these that the variant has
_PLACES = {
    "kernel": ("kernel",),
    "recurrent_kernel": ("recurrent_kernel",),
    "bias": _BIASES,
    "bias_x": _BIASES,
    "bias_h": ("bias_h", "h_norm_bias", *_BIASES),
}
# the norms within which a bias stands
_AROUND: dict[str, tuple[Site, ...]] = {"bias_x": ("x", "sum"), "bias_h": ("h", "sum")}


class Replacement(NamedTuple):
    """What became of one recurrent layer or cell.

    Args:
        path: names of the layers that lead to it.
        before: the class that it was.
        after: the class that it is, or None if it was left as it was.
        kept: canonical weights that hold the old values.
        fresh: canonical weights with initial values.
        lost: old weights that have no place in the variant.
        reason: why it was left; empty if it was replaced.
    """

    path: str
    before: str
    after: str | None = None
    kept: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    reason: str = ""

    @property
    def note(self) -> str:
        """What happened to the weights, or why the layer was left."""
        parts = (("kept", self.kept), ("new", self.fresh), ("without", self.lost))
        weights = "; ".join(f"{verb} {', '.join(names)}" for verb, names in parts if names)
        return self.reason or weights or "not built yet: no weights to keep"


class Report(tuple[Replacement, ...]):
    """The recurrent layers of a model in order; `str` makes a table of them."""

    @property
    def replaced(self) -> tuple[Replacement, ...]:
        """Those that were replaced."""
        return tuple(r for r in self if r.after is not None)

    @property
    def left(self) -> tuple[Replacement, ...]:
        """Those that were left as they were."""
        return tuple(r for r in self if r.after is None)

    def __str__(self) -> str:
        if not self:
            return "The model has no recurrent layers."
        rows = [("layer", "was", "is", "note")]
        rows += [(r.path, r.before, r.after or r.before, r.note) for r in self]
        widths = [max(len(row[i]) for row in rows) for i in range(3)] + [0]
        lines = ["  ".join(map(str.ljust, row, widths)) for row in rows]
        total = f"{len(self.replaced)} replaced, {len(self.left)} left"
        return "\n".join([*lines, total])


def carry_over(
    old: Weights, gates: str, variant: Variant, fresh: Weights, keep_bias: bool = True
) -> tuple[Weights, tuple[str, ...], tuple[str, ...]]:
    """The weights of a variant with old values wherever it has a place for them.

    Args:
        old: canonical weights of a plain cell, without a projection.
        gates: the gates of `old`.
        variant: the cell to fill.
        fresh: its initial weights.
        keep_bias: whether the old biases have a place.

    Returns:
        All weights, the names of those that hold old values, and the old weights (or
            gates) that have no place.
    """
    if not keep_bias:
        old = {name: value for name, value in old.items() if name.endswith("kernel")}
    params = {name: np.array(value) for name, value in fresh.items()}
    units = old["kernel"].shape[-1] // len(gates)
    placed: dict[tuple[str, str], str] = {}  # old name and gate: new name
    for name, value in old.items():
        for gate in variant.gates:
            place = next((p for p in _PLACES[name] if gate in gates_of(variant, p)), None)
            if place is None:
                continue
            here = params[place][..., columns(gates_of(variant, place), gate, units)]
            # z of update="new" is 1 - z of the frameworks
            sign = -1 if gate == "z" and variant.update == "new" else 1
            taken = (place, gate) in {(p, g) for (_, g), p in placed.items()}
            here[...] = sign * value[..., columns(gates, gate, units)] + (here if taken else 0)
            placed[name, gate] = place
    for gate, constant in (("f", variant.forget_bias), ("z", variant.update_bias)):
        place = placed.get(("bias", gate)) or placed.get(("bias_x", gate))
        within = any(gate in variant.gates_at(site) for site in _AROUND.get(place or "", ()))
        if place and not within:
            params[place][columns(gates_of(variant, place), gate, units)] -= constant
    kept = tuple(name for name in params if name in placed.values())
    lost = [name for name in old if name not in {n for n, _ in placed}]
    lost += [f"gate {gate}" for gate in gates if gate not in variant.gates]
    return params, kept, tuple(lost)


def keeps_varied(params: Weights, fresh: Weights, variant: Variant) -> bool:
    """Whether biases differ between the units of a gate, where initial ones do."""
    return _vary(params, variant) or not _vary(fresh, variant)


def check_options(given: Collection[str], known: Sequence[str]) -> None:
    """Raise TypeError for an option that `layer_normalize` has not."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise TypeError(
            f"The options of layer_normalize are {', '.join(known)}; got {', '.join(unknown)}: "
            "set other arguments on the layers of the model."
        )


def taken(options: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """The options that a family takes."""
    return {n: v for n, v in options.items() if n != "zoneout_cell" or family is families.LSTM}


def warn_of_equal(paths: Sequence[str]) -> None:
    """Say of layers that they kept biases which are the same for all units."""
    if paths:
        warn(
            f"The biases of {', '.join(paths)} are the same for all units; kept, they let "
            "gradients explode on sequences that begin with zeros: pass keep_bias=False."
        )


def _vary(params: Weights, variant: Variant) -> bool:
    """Whether any bias differs between the units of a gate."""
    biases = [(params[b], len(gates_of(variant, b))) for b in _BIASES if b in params]
    return any(np.ptp(b.reshape(gates, -1), axis=1).any() for b, gates in biases)
