r"""From one form of a cell to another that computes the same function, exactly.

What can be rearranged: biases after the norms add up; a constant of the forget or update gate is
a bias; a gate is turned round, $\sigma(-a) = 1 - \sigma(a)$, by the signs of its gains and biases;
a missing gain is one, a missing bias or peephole zero, a missing projection the identity.
Everything else is another function, and is refused by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from lnrnn.convert.errors import FileError
from lnrnn.convert.weights import Weights
from lnrnn.params import STATES, Sizes, affine_gates, columns, shapes
from lnrnn.variant import Norm, Site, Variant

Array = np.ndarray

_SITES: tuple[Site, ...] = ("x", "h", "sum")
_ODD = ("sigmoid", "hard_sigmoid", "keras2_hard_sigmoid")  # f(-a) = 1 - f(a)
_NORMED = ("norm", "epsilon", "epsilon_at", "ddof")
_FUNCTION = (
    "capped", "cell_norm", "hidden_norm", "reset", "cell_clip", "hidden_clip", "projection_clip",
    "activation", "recurrent_activation", "output_activation",
)  # fmt: skip
_REASONS = {
    "cell_norm": "the two carry different cells from step to step",
    "epsilon": "outputs differ where variances are small",
    "norm": "one subtracts the mean",
    "reset": "r multiplies different parts of the candidate",
}


def rewrite(weights: Weights, target: Variant) -> Weights:
    """The weights that make another variant compute the same function.

    Args:
        weights: of the layer.
        target: the variant that is wanted.

    Returns:
        Weights of `target`, without an origin, in the same dtype.  Numbers that only change their
        place keep every bit; sums of biases are taken in float64 and rounded once.

    Raises:
        FileError: the two differ in more than a rearrangement; the message names in what.

    Example:
        >>> keep = Variant(cell="gru", norms=(Norm("x"), Norm("h")))
        >>> from lnrnn.params import Sizes
        >>> ones = {n: np.ones(s) for n, s in shapes(keep, Sizes(2, 3, 3)).items()}
        >>> new = rewrite(Weights(keep, ones), keep.replace(update="new"))
        >>> new.params["x_norm_gain"]  # the update gate, in the middle, is turned round
        array([ 1.,  1.,  1., -1., -1., -1.,  1.,  1.,  1.])
    """
    if weights.variant == target:
        return dataclasses.replace(weights, origin=None)
    if weights.variant.cell == "indrnn" and target.cell == "simple":
        weights = _as_matrix(weights)
    if weights.variant.cell == "lstm" and weights.variant.coupled and not target.coupled:
        weights = _uncouple(weights)
    source = weights.variant
    _check_function(source, target)
    parts = _Parts(weights)
    if source.update != target.update:
        parts.turn_round("z", target)
    found = _Filling(parts, target).params()
    found |= {n: weights.params[n] for n in STATES.values() if n in weights.params}
    dtype = weights.params["kernel"].dtype
    return Weights(
        target,
        {name: value.astype(dtype) for name, value in found.items()},
        weights.zoneout,
        weights.zoneout_cell,
    )


def _check_function(source: Variant, target: Variant) -> None:
    """Refuse variants between which no rearrangement leads."""
    normed = any(v.norms or v.cell_norm != "none" or v.hidden_norm for v in (source, target))
    for name in ("cell", "coupled", *(_NORMED if normed else ()), *_FUNCTION):
        _same(source, target, name)
    if source.cell_clip is not None:
        _same(source, target, "cell_clip_at")
    for one, other, verb in ((source, target, "has not"), (target, source, "has")):
        for site, gates in _groups(one) - _groups(other):
            raise FileError(
                f"A norm of the gates {''.join(sorted(gates))!r} together at site {site!r} is "
                f"something that the wanted form {verb}: the two are different functions."
            )
    if source.cell == "gru" and source.coupled:  # turned round, z would turn r round too
        _same(source, target, "update")
    if source.update != target.update and source.recurrent_activation not in _ODD:
        raise FileError(
            "The update gate is turned round where f(-a) = 1 - f(a); recurrent_activation="
            f"{source.recurrent_activation!r} is not so: keep update={source.update!r}."
        )
    if source.projection and not target.projection:
        raise FileError("A projection cannot be left out: the wanted form has none.")
    if "none" not in (source.peephole, target.peephole):
        _same(source, target, "peephole")
        _same(source, target, "output_peephole")


def _same(source: Variant, target: Variant, name: str) -> None:
    one, other = getattr(source, name), getattr(target, name)
    if one != other:
        why = _REASONS.get(name, "the two are different functions")
        raise FileError(f"{name} is {one!r} here and {other!r} in the wanted form: {why}.")


def _groups(variant: Variant) -> set[tuple[str, frozenset[str]]]:
    return {(norm.site, frozenset(norm.gates)) for norm in variant.norms}


class _Parts:
    """The weights gate by gate, in float64, with what is missing filled in."""

    def __init__(self, weights: Weights) -> None:
        self.variant = variant = weights.variant
        self.units = weights.sizes.units
        self.whole = {n: np.asarray(v, np.float64) for n, v in weights.params.items()}
        gates = variant.gates
        self.kernel = self._split("kernel", gates)
        self.recurrent = self._split("recurrent_kernel", gates)
        self.biases = {
            n: self._split(n, gates) for n in ("bias_x", "bias_h", "bias") if n in self.whole
        }
        if variant.tied_bias:
            self.biases["bias_x"] = dict(self.biases["bias"])
        self.gains: dict[Site, dict[str, Array]] = {}
        for site in _SITES:
            name = f"{site}_norm_gain"
            own = affine_gates(variant, site, "gain")
            given = self._split(name, own)
            covered = variant.gates_at(site)
            self.gains[site] = {g: given.get(g, np.ones(self.units)) for g in covered}
            name = f"{site}_norm_bias"
            if name in self.whole:
                self.biases[name] = self._split(name, affine_gates(variant, site, "bias"))
        self.constants = {"f": variant.forget_bias, "z": variant.update_bias}

    def _split(self, name: str, gates: str) -> dict[str, Array]:
        if name not in self.whole:
            return {}
        value = self.whole[name]
        return {g: value[..., columns(gates, g, self.units)] for g in gates}

    def turn_round(self, gate: str, target: Variant) -> None:
        """Negate the pre-activation of a gate."""
        for site in _SITES:
            if gate not in self.gains[site]:
                continue
            alone = any(n.site == site and n.gates == gate for n in self.variant.norms)
            if gate in affine_gates(target, site, "gain"):
                self.gains[site][gate] = -self.gains[site][gate]
            elif alone:
                self._negate_products(gate, site)
            else:
                raise FileError(
                    f"The gate {gate!r} is turned round by the sign of its gain; the wanted form "
                    f"has no gain at site {site!r}: choose one with the same update."
                )
        for site in ("x", "h"):
            if gate not in self.gains[site] and gate not in self.gains["sum"]:
                self._negate_products(gate, site)
        inner = _inner_names(self.variant, gate)
        for name, blocks in self.biases.items():
            if gate in blocks and name not in inner:
                blocks[gate] = -blocks[gate]
        self.constants[gate] = -self.constants[gate]

    def _negate_products(self, gate: str, site: Site) -> None:
        """Negate what a site's norm sees: products, and the biases inside the norm."""
        inner = _inner_names(self.variant, gate)
        for part, blocks in (("x", self.kernel), ("h", self.recurrent)):
            if site in (part, "sum") and gate in blocks:
                blocks[gate] = -blocks[gate]
                name = f"bias_{part}"
                if name in inner:
                    self.biases[name][gate] = -self.biases[name][gate]


def _inner_names(variant: Variant, gate: str) -> tuple[str, ...]:
    """The biases of a gate that stand inside a norm."""
    found = []
    sites: tuple[tuple[str, Site], ...] = (("bias_x", "x"), ("bias_h", "h"))
    for name, site in sites:
        given = getattr(variant, name) or (name == "bias_x" and variant.tied_bias)
        if given and (gate in variant.gates_at(site) or gate in variant.gates_at("sum")):
            found.append(name)
    return tuple(found)


class _Filling:
    """The target's weights, taken from the parts of the source."""

    def __init__(self, parts: _Parts, target: Variant) -> None:
        self.parts, self.target = parts, target
        self.found: dict[str, dict[str, Array]] = {}

    def params(self) -> dict[str, Array]:
        """All canonical weights of the target."""
        parts, target = self.parts, self.target
        self._fill_gains()
        for gate in target.gates:
            self._fill_inner(gate)
            self._fill_outer(gate)
        blocks = {"kernel": parts.kernel, "recurrent_kernel": parts.recurrent, **self.found}
        whole = self._whole()
        inputs = parts.whole["kernel"].shape[0]
        hidden = whole["projection_kernel"].shape[1] if target.projection else parts.units
        expected = shapes(target, Sizes(inputs, parts.units, hidden))
        params = {}
        for name, shape in expected.items():
            if name in whole:
                params[name] = whole[name]
            else:
                block = blocks[name]
                order = [g for g in target.gates if g in block]
                params[name] = np.concatenate([block[g] for g in order], axis=-1)
            if params[name].shape != shape:
                raise FileError(f"{name} has the shape {params[name].shape}; {shape} is due.")
        return params

    def _fill_gains(self) -> None:
        for site in _SITES:
            having = affine_gates(self.target, site, "gain")
            for gate, gain in self.parts.gains[site].items():
                if gate in having:
                    self._put(f"{site}_norm_gain", gate, gain)
                elif (gain != 1).any():
                    raise FileError(
                        f"The gains of gate {gate!r} at site {site!r} are not all one, and the "
                        "wanted form has none there."
                    )

    def _fill_inner(self, gate: str) -> None:
        """The biases inside the norms of a gate."""
        source, target, biases = self.parts.variant, self.target, self.parts.biases
        zero = np.zeros(self.parts.units)
        inside = {
            name: biases[name][gate] if name in _inner_names(source, gate) else zero
            for name in ("bias_x", "bias_h")
        }
        places = _inner_names(target, gate)
        apart = gate not in target.gates_at("sum") or (target.reset == "inside" and gate == "n")
        missing = [n for n in inside if n not in places and inside[n].any()]
        if missing and places and not apart:
            # both biases of a sum are one
            inside = {places[0]: inside["bias_x"] + inside["bias_h"]}
            missing = []
        for name in missing:
            if not self._is_constant(name, gate):
                raise FileError(
                    f"{name} of gate {gate!r} stands inside a norm, and the wanted form has no "
                    "bias there: no other bias can take its place."
                )
        for name in places:
            tied = name == "bias_x" and target.tied_bias
            self._put("bias" if tied else name, gate, inside.get(name, zero))

    def _is_constant(self, name: str, gate: str) -> bool:
        """Whether a bias shifts all that its norm sees by one number, which centring removes."""
        source, site = self.parts.variant, name[-1]
        if source.norm != "layer" or (source.reset == "inside" and gate == "n"):
            return False
        (norm,) = (n for n in source.norms if n.site in (site, "sum") and gate in n.gates)
        values = np.concatenate([self.parts.biases[name][g] for g in norm.gates])
        return bool((values == values[0]).all())

    def _fill_outer(self, gate: str) -> None:
        """What is added to a gate after the norms, and what the reset gate multiplies."""
        parts, target = self.parts, self.target
        after = target.cell == "gru" and target.reset == "after" and gate == "n"
        given = {
            name: blocks[gate]
            for name, blocks in parts.biases.items()
            if gate in blocks and name not in _inner_names(parts.variant, gate)
        }
        slots = self._slots(gate)
        by_reset = {"h_norm_bias", "bias_h"} if after else set()
        for names in (by_reset, {*given, *slots} - by_reset):
            constant = 0.0
            if names is not by_reset:
                constant = parts.constants.get(gate, 0.0) - _constants(target).get(gate, 0.0)
            self._fold(
                gate,
                {n: v for n, v in given.items() if n in names},
                [n for n in slots if n in names],
                constant,
            )

    def _slots(self, gate: str) -> list[str]:
        """The weights of the target that are added to a gate after its norms."""
        target = self.target
        inner = _inner_names(target, gate)
        found = ["bias"] if target.bias else []
        for site in ("sum", "x", "h"):
            if gate in affine_gates(target, site, "bias"):
                found.append(f"{site}_norm_bias")
        return found + [n for n in ("bias_x", "bias_h") if getattr(target, n) and n not in inner]

    def _fold(
        self, gate: str, given: Mapping[str, Array], slots: list[str], constant: float
    ) -> None:
        """Put biases into the slots of their names, and the sum of the rest into the first."""
        rest = np.full(self.parts.units, constant)
        free = list(slots)
        tied = self.target.tied_bias and "bias" in slots
        if tied:
            free.remove("bias")
        for name, value in given.items():
            if name not in free:
                rest = rest + value
        if tied and gate in self.found.get("bias", {}):
            # its value is that of the inner bias
            rest = rest - self.found["bias"][gate]
        elif tied:
            # without a norm between its two places it counts twice
            self._put("bias", gate, rest / 2)
            rest = np.zeros_like(rest)
        for name in free:
            self._put(name, gate, given.get(name, np.zeros(self.parts.units)))
        if rest.any() and not free:
            raise FileError(
                f"Gate {gate!r} has a bias that the wanted form has no place for: choose one with "
                "a bias after its norms."
            )
        if rest.any():
            self._put(free[0], gate, self.found[free[0]][gate] + rest)

    def _put(self, name: str, gate: str, value: Array) -> None:
        self.found.setdefault(name, {})[gate] = value

    def _whole(self) -> dict[str, Array]:
        """The weights that have no gates."""
        parts, target = self.parts, self.target
        given, units = parts.whole, parts.units
        found: dict[str, Array] = {}
        for name in ("recurrent_scale", "hidden_norm_gain", "hidden_norm_bias", "pre_norm_gain",
                     "pre_norm_bias"):  # fmt: skip
            if name in given:
                found[name] = given[name]
        if target.norms_at("pre"):
            (norm,) = target.norms_at("pre")
            wide = given["kernel"].shape[0] + given["recurrent_kernel"].shape[0]
            self._or_default("pre_norm_gain", norm.gain, np.ones(wide), found)
            self._or_default("pre_norm_bias", norm.bias, np.zeros(wide), found)
        if target.cell_norm != "none":
            self._or_default("cell_norm_gain", target.cell_norm_gain, np.ones(units), found)
            self._or_default("cell_norm_bias", target.cell_norm_bias, np.zeros(units), found)
        peepholes = np.zeros(len(target.peephole_gates or parts.variant.peephole_gates) * units)
        self._or_default("peephole", target.peephole != "none", peepholes, found)
        if target.projection:
            found["projection_kernel"] = given.get("projection_kernel", np.eye(units))
            wide = found["projection_kernel"].shape[1]
            self._or_default("projection_bias", target.projection_bias, np.zeros(wide), found)
        return found

    def _or_default(self, name: str, wanted: bool, default: Array, found: dict[str, Array]) -> None:
        """A weight, or its neutral value where the source has none."""
        value = self.parts.whole.get(name, default)
        found.pop(name, None)
        if wanted:
            found[name] = value
        elif (value != default).any():
            raise FileError(
                f"{name} of this layer is not all {default.flat[0]:g}, and the wanted form has "
                "none."
            )


def _constants(variant: Variant) -> dict[str, float]:
    return {"f": variant.forget_bias, "z": variant.update_bias}


def _as_matrix(weights: Weights) -> Weights:
    """An indrnn as a simple cell with a diagonal recurrent matrix."""
    params = dict(weights.params)
    scale = params.pop("recurrent_scale")
    params = {"kernel": params.pop("kernel"), "recurrent_kernel": np.diag(scale), **params}
    return dataclasses.replace(
        weights, variant=weights.variant.replace(cell="simple"), params=params, origin=None
    )


def _uncouple(weights: Weights) -> Weights:
    """A coupled LSTM with an input gate of its own, the forget gate turned round."""
    source = weights.variant
    if any("f" in norm.gates and norm.gates != "f" for norm in source.norms):
        raise FileError(
            "coupled is True here and False in the wanted form: an input gate can be made of the "
            "forget gate only where that has statistics of its own."
        )
    norms: list[Norm] = []
    for norm in source.norms:
        norms += [dataclasses.replace(norm, gates="i"), norm] if norm.gates == "f" else [norm]
    target = source.replace(coupled=False, norms=tuple(norms), bias=True)
    units = weights.sizes.units
    given = {n: np.asarray(v, np.float64) for n, v in weights.params.items()}
    given.setdefault("bias", np.zeros(3 * units))
    found: dict[str, Array] = {}
    for name in shapes(target, weights.sizes):
        value = given[name]
        site, _, which = name.partition("_norm_")
        if name in ("kernel", "recurrent_kernel", "bias_x", "bias_h", "bias"):
            letters, sign = "fgo", -1.0
        elif site in _SITES:
            letters, sign = affine_gates(source, site, which), -1.0 if which == "bias" else 1.0
        elif name == "peephole":
            letters, sign = "fo", -1.0
        else:
            letters, sign = "", 1.0
        if "f" in letters:
            block = sign * value[..., columns(letters, "f", units)]
            block = block - source.forget_bias if name == "bias" else block
            value = np.concatenate([block, value], axis=-1)
        found[name] = value
    dtype = weights.params["kernel"].dtype
    return dataclasses.replace(
        weights,
        variant=target,
        params={n: v.astype(dtype) for n, v in found.items()},
        origin=None,
    )
