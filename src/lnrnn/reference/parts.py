"""The parts that cells are made of, each with its derivative beside it.

Two kinds: an elementwise map returns `(value, slope)`, and its backward pass is a
product with the slope; a part with weights or sums returns `(value, back)`, where
`back` takes the gradient of the value to that of the argument and adds the gradients
of the weights to a [Totals][lnrnn.reference.parts.Totals].

A part that a variant lacks is the identity and a bias that it lacks is zero, so the
cells need not ask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lnrnn.params import Sizes, affine_gates, columns
from lnrnn.reference.norm import Array, standardise
from lnrnn.variant import Activation, Site, Variant

ALL = slice(None)


@dataclass(frozen=True)
class Totals:
    """What a backward pass adds up: the gradient of every weight."""

    params: dict[str, Array]
    recurrent_gradient_clip: float | None

    def add(self, name: str, rows: Array, where: Any = ALL) -> None:
        """Add rows (B, n), summed over the batch, to the entries `where` of a weight."""
        if name in self.params:
            self.params[name][where] += rows.sum(0)

    def clip(self, gradient: Array) -> Array:
        """A gradient that would return at every step, element by element within the bound."""
        bound = self.recurrent_gradient_clip
        return gradient if bound is None else np.clip(gradient, -bound, bound)


Back = Callable[[Array, Totals], Array]


@dataclass(frozen=True)
class Cell:
    """A variant with its weights, and what lies inside the step that it takes.

    Args:
        variant: the cell.
        weights: canonical.
        sizes: I, H and R.
        inside: by name what `see` was told: a gate by its letter, its pre-activation as
            `pre.<letter>`, of a norm `<name>.mean`, `.variance` and `.scale`.
    """

    variant: Variant
    weights: Mapping[str, Array]
    sizes: Sizes
    inside: dict[str, Array] = field(default_factory=dict)

    def see(self, prefix: str = "", /, **values: Array) -> None:
        """Note values of this step, (B, .)."""
        self.inside.update({f"{prefix}{name}": value for name, value in values.items()})

    def columns(self, gates: str, among: str) -> Array:
        """Where the columns of `gates` are when the gates `among` stand side by side."""
        wide = np.arange(len(among) * self.sizes.units)
        return np.concatenate([wide[columns(among, g, self.sizes.units)] for g in gates])

    def vector(self, name: str, where: Any = ALL) -> Array | float:
        """Entries of a bias, or zero when the variant has no such bias."""
        return self.weights[name][where] if name in self.weights else 0.0

    def split(self, v: Array, gates: str) -> dict[str, Array]:
        """(B, g H) -> the (B, H) of each gate."""
        return {g: v[:, columns(gates, g, self.sizes.units)] for g in gates}


def join(parts: Mapping[str, Array], gates: str) -> Array:
    """The (B, H) of each gate -> (B, g H)."""
    return np.concatenate([parts[g] for g in gates], axis=1)


# ---- elementwise: (value, slope)


def _tanh(v: Array) -> tuple[Array, Array]:
    y = np.tanh(v)
    return y, 1 - y**2


def _sigmoid(v: Array) -> tuple[Array, Array]:
    y = 0.5 * (1 + np.tanh(0.5 * v))  # no overflow at either end
    return y, y * (1 - y)


def _relu(v: Array) -> tuple[Array, Array]:
    return np.maximum(v, 0), (v > 0).astype(v.dtype)


def _ramp(slope: float) -> Callable[[Array], tuple[Array, Array]]:
    """A hard sigmoid: 1/2 + slope v between 0 and 1."""

    def ramp(v: Array) -> tuple[Array, Array]:
        y = slope * v + 0.5
        return np.clip(y, 0, 1), slope * ((y > 0) & (y < 1))

    return ramp


def _linear(v: Array) -> tuple[Array, Array]:
    return v, np.ones_like(v)


ACTIVATIONS: dict[Activation, Callable[[Array], tuple[Array, Array]]] = {
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "relu": _relu,
    "hard_sigmoid": _ramp(1 / 6),
    "keras2_hard_sigmoid": _ramp(0.2),
    "linear": _linear,
}


def clip(v: Array, bound: float | None) -> tuple[Array, Array | float]:
    """`v` within [-bound, bound]; the slope is 1 where it was within, 0 elsewhere."""
    if bound is None:
        return v, 1.0
    return np.clip(v, -bound, bound), (np.abs(v) <= bound).astype(v.dtype)


# ---- with weights: (value, back)


def identity(v: Array) -> tuple[Array, Back]:
    return v, lambda dv, totals: dv


def affine_norm(
    cell: Cell, v: Array, name: str, gain: Any = ALL, bias: Any = ALL, of: str = ""
) -> tuple[Array, Back]:
    """gain * standardise(v) + bias, of the weights `name`_gain[gain], `name`_bias[bias].

    None for `gain` or `bias`: this norm has none.  `of` are the gates that it covers.
    """
    u, mean, variance, deviation, back_u = standardise(v, cell.variant)
    cell.see(f"{name}[{of}]." if of else f"{name}.", mean=mean, variance=variance, scale=deviation)
    names = (f"{name}_gain", f"{name}_bias")
    scale = cell.weights[names[0]][gain] if names[0] in cell.weights and gain is not None else 1.0
    shift = cell.vector(names[1], bias) if bias is not None else 0.0

    def back(dy: Array, totals: Totals) -> Array:
        if gain is not None:
            totals.add(names[0], dy * u, gain)
        if bias is not None:
            totals.add(names[1], dy, bias)
        return back_u(dy * scale)

    return u * scale + shift, back


def hidden_norm(cell: Cell, h: Array) -> tuple[Array, Back]:
    """The norm of the new h, (B,R), where a variant has one."""
    return state_norm(cell, h, "hidden_norm") if cell.variant.hidden_norm else identity(h)


def state_norm(cell: Cell, v: Array, name: str) -> tuple[Array, Back]:
    """The norm of a new c or h, (B,H); the gradient of what it normalises is bounded."""
    y, back_norm = affine_norm(cell, v, name)
    return y, lambda dy, totals: totals.clip(back_norm(dy, totals))


def site_norm(cell: Cell, site: Site, v: Array, gates: str) -> tuple[Array, Back]:
    """The norms at a site, on the columns v (B, g H) of `gates`."""
    y = v.copy()
    backs: list[tuple[Array, Back]] = []
    for norm in cell.variant.norms_at(site):
        if set(norm.gates) <= set(gates):
            here = cell.columns(norm.gates, gates)
            gain, bias = (
                cell.columns(norm.gates, affine_gates(cell.variant, site, which)) if has else None
                for which, has in (("gain", norm.gain), ("bias", norm.bias))
            )
            y[:, here], back = affine_norm(cell, v[:, here], f"{site}_norm", gain, bias, norm.gates)
            backs.append((here, back))

    def back_all(dy: Array, totals: Totals) -> Array:
        dv = dy.copy()
        for here, back in backs:
            dv[:, here] = back(dy[:, here], totals)
        return dv

    return y, back_all


def pre_norm(
    cell: Cell, x: Array, h: Array
) -> tuple[Array, Array, Callable[[Array, Array, Totals], tuple[Array, Array]]]:
    """The norm of the concatenated [x, h]: x (B,I), h (B,R) -> the same shapes."""
    norms = cell.variant.norms_at("pre")
    if not norms:
        return x, h, lambda dx, dh, totals: (dx, dh)
    (norm,) = norms
    y, back_y = affine_norm(
        cell,
        np.concatenate([x, h], axis=1),
        "pre_norm",
        ALL if norm.gain else None,
        ALL if norm.bias else None,
    )
    inputs = x.shape[1]

    def back(dx: Array, dh: Array, totals: Totals) -> tuple[Array, Array]:
        d = back_y(np.concatenate([dx, dh], axis=1), totals)
        return d[:, :inputs], d[:, inputs:]

    return y[:, :inputs], y[:, inputs:], back


def input_part(cell: Cell, x: Array) -> tuple[Array, Back]:
    """N_x(x W + b_x): (B,I) -> (B, G H)."""
    variant, kernel = cell.variant, cell.weights["kernel"]
    inner = ["bias_x"] + ["bias"] * variant.tied_bias
    raw = x @ kernel + sum(cell.vector(name) for name in inner)
    y, back_norm = site_norm(cell, "x", raw, variant.gates)

    def back(dy: Array, totals: Totals) -> Array:
        d = back_norm(dy, totals)
        for name in inner:
            totals.add(name, d)
        if variant.norms_at("pre"):  # there x W + h U is one product
            d = totals.clip(d)
        totals.params["kernel"][:] += x.T @ d
        return d @ kernel.T

    return y, back


def recurrent_part(cell: Cell, h: Array, gates: str) -> tuple[Array, Back]:
    """N_h(h U + b_h) of `gates`: (B,R) -> (B, g H); an indrnn multiplies by u instead."""
    here = cell.columns(gates, cell.variant.gates)
    diagonal = cell.variant.cell == "indrnn"
    matrix = cell.weights["recurrent_scale"] if diagonal else cell.weights["recurrent_kernel"]
    raw = h * matrix if diagonal else h @ matrix[:, here]
    y, back_norm = site_norm(cell, "h", raw + cell.vector("bias_h", here), gates)

    def back(dy: Array, totals: Totals) -> Array:
        d = back_norm(dy, totals)
        totals.add("bias_h", d, here)
        d = totals.clip(d)
        if diagonal:
            totals.add("recurrent_scale", h * d)
            return d * matrix
        totals.params["recurrent_kernel"][:, here] += h.T @ d
        return d @ matrix[:, here].T

    return y, back


def outer_part(cell: Cell, v: Array, gates: str) -> tuple[Array, Back]:
    """N_sum(v) + b of `gates`: (B, g H) -> (B, g H)."""
    here = cell.columns(gates, cell.variant.gates)
    y, back_norm = site_norm(cell, "sum", v, gates)

    def back(dy: Array, totals: Totals) -> Array:
        totals.add("bias", dy, here)
        return back_norm(dy, totals)

    return y + cell.vector("bias", here), back


def peephole(cell: Cell, gate: str, c: Array) -> tuple[Array | float, Back]:
    """w c with the peephole weight of a gate, (B,H); zero for a gate without one."""
    gates = cell.variant.peephole_gates
    if gate not in gates:
        return 0.0, lambda d, totals: np.zeros_like(c)
    here = columns(gates, gate, cell.sizes.units)
    w = cell.weights["peephole"][here]

    def back(d: Array, totals: Totals) -> Array:
        d = totals.clip(d)
        totals.add("peephole", d * c, here)
        return d * w

    return w * c, back


def projection(cell: Cell, h: Array) -> tuple[Array, Back]:
    """h W_p + b_p within the clip: (B,H) -> (B,P)."""
    if not cell.variant.projection:
        return identity(h)
    kernel = cell.weights["projection_kernel"]
    y, slope = clip(h @ kernel + cell.vector("projection_bias"), cell.variant.projection_clip)

    def back(dy: Array, totals: Totals) -> Array:
        d = dy * slope
        totals.add("projection_bias", d)
        totals.params["projection_kernel"][:] += h.T @ d
        return d @ kernel.T

    return y, back
