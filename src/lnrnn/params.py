"""The canonical weights of a variant: names, shapes and the one gate order.

Every dialect, front end and engine speaks of weights as a dict of these names.
Matrices are (in, out); the gates stand side by side in the order of
[Variant.gates][lnrnn.Variant]; gains are plain (never stored minus one).

| name | shape | present when |
|---|---|---|
| `kernel` | (I, G H) | always |
| `recurrent_kernel` | (R, G H) | not an indrnn |
| `recurrent_scale` | (H,) | an indrnn |
| `bias_x`, `bias_h`, `bias` | (G H,) | the variant's flag of that name |
| `x_norm_gain`, `h_norm_gain`, `sum_norm_gain` | (g H,) | a norm at that site has a gain |
| `x_norm_bias`, `h_norm_bias`, `sum_norm_bias` | (g H,) | a norm at that site has a bias |
| `pre_norm_gain`, `pre_norm_bias` | (I + R,) | a norm of the concatenated input [x, h] |
| `peephole` | (3 H,) or (2 H,) | peepholes; i f o, or f o when coupled |
| `cell_norm_gain`, `cell_norm_bias` | (H,) | a cell norm |
| `hidden_norm_gain`, `hidden_norm_bias` | (R,) | `hidden_norm` |
| `projection_kernel`, `projection_bias` | (H, P), (P,) | `projection` |
| `initial_h`, `initial_c` | (R,), (H,) | the state that a sequence begins with is learned |

I is the input size, H the units, G the number of gates, R the size of h (P with a
projection, H otherwise), and g the number of gates whose norm at the site has a gain
(or bias); those gates stand in canonical order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lnrnn.variant import Site, Variant

SITES: tuple[Site, ...] = ("x", "h", "sum", "pre")
# the weights that are the states of a sequence before its first step
STATES = {"h": "initial_h", "c": "initial_c"}


class Sizes(NamedTuple):
    """Sizes of a layer: inputs I, units H, and R, the width of h."""

    inputs: int
    units: int
    hidden: int


def columns(gates: str, gate: str, units: int) -> slice:
    """The columns of one gate where several stand side by side.

    Args:
        gates: the gates side by side, in their order.
        gate: one of them.
        units: width of each, H.

    Returns:
        A slice of H columns.

    Raises:
        ValueError: `gate` is none of `gates`.

    Example:
        >>> columns("ifgo", "g", 8)
        slice(16, 24, None)
    """
    start = gates.index(gate) * units
    return slice(start, start + units)


def affine_gates(variant: Variant, site: Site, which: str) -> str:
    """The gates at a site whose norm has a gain, or a bias.

    Args:
        variant: the cell.
        site: where the norms sit.
        which: `"gain"` or `"bias"`.

    Returns:
        The letters of the gates in canonical order; empty if there is no such norm.

    Example:
        >>> from lnrnn.variant import Norm
        >>> affine_gates(Variant(cell="gru", norms=(Norm("h", "zr"),)), "h", "gain")
        'rz'
    """
    having = "".join([n.gates for n in variant.norms if n.site == site and getattr(n, which)])
    return having and "".join(g for g in variant.gates if g in having)


def gates_of(variant: Variant, name: str) -> str:
    """The gates whose columns stand side by side in a weight.

    Args:
        variant: the cell.
        name: of one of its weights.

    Returns:
        The letters of the gates in canonical order; empty for a weight without such columns,
            or one that the variant has not.

    Example:
        >>> gates_of(Variant(cell="gru", bias=True), "bias"), gates_of(Variant(cell="gru"), "bias")
        ('rzn', '')
    """
    if name == "peephole":
        return variant.peephole_gates
    if name == "kernel" or (name == "recurrent_kernel" and variant.cell != "indrnn"):
        return variant.gates
    if name in ("bias", "bias_x", "bias_h"):
        return variant.gates if getattr(variant, name) else ""
    site, _, which = name.partition("_norm_")
    if site == "pre" or site not in SITES:
        return ""
    return affine_gates(variant, site, which)


def learned_states(params: Mapping[str, Any]) -> list[Any]:
    """The states that a sequence begins with, where they are among the weights.

    Args:
        params: the weights by name.

    Returns:
        (R,) of h and, of an lstm, (H,) of c; empty where they are no weights.

    Example:
        >>> learned_states({"kernel": [[1.0]], "initial_h": [0.5]})
        [[0.5]]
    """
    return [params[name] for name in STATES.values() if name in params]


def shapes(
    variant: Variant, sizes: Sizes, learned_state: bool = False
) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of a variant, in canonical order.

    Args:
        variant: the cell.
        sizes: I, H and R; R equals H unless the variant has a projection.
        learned_state: whether the state that a sequence begins with is among the weights.

    Returns:
        A dict from name to shape.

    Raises:
        ValueError: R differs from H without a projection, or a size is below 1.

    Example:
        >>> shapes(Variant(cell="lstm", bias=True), Sizes(3, 8, 8))
        {'kernel': (3, 32), 'recurrent_kernel': (8, 32), 'bias': (32,)}
    """
    inputs, units, hidden = sizes
    if min(sizes) < 1:
        raise ValueError(f"Sizes are 1 or more; got {sizes}.")
    if hidden != units and not variant.projection:
        raise ValueError(
            f"h is as wide as the units unless projected; got units={units}, hidden={hidden}: "
            "use equal sizes or a variant with projection=True."
        )
    wide = len(variant.gates) * units
    found: dict[str, tuple[int, ...]] = {"kernel": (inputs, wide)}
    if variant.cell == "indrnn":
        found["recurrent_scale"] = (units,)
    else:
        found["recurrent_kernel"] = (hidden, wide)
    for name in ("bias_x", "bias_h", "bias"):
        if getattr(variant, name):
            found[name] = (wide,)
    for site in SITES:
        for which in ("gain", "bias"):
            gates = affine_gates(variant, site, which)
            if gates:
                size = inputs + hidden if site == "pre" else len(gates) * units
                found[f"{site}_norm_{which}"] = (size,)
    if variant.peephole_gates:
        found["peephole"] = (len(variant.peephole_gates) * units,)
    if variant.cell_norm != "none":
        for which in ("gain", "bias"):
            if getattr(variant, f"cell_norm_{which}"):
                found[f"cell_norm_{which}"] = (units,)
    if variant.hidden_norm:
        found["hidden_norm_gain"] = found["hidden_norm_bias"] = (hidden,)
    if variant.projection:
        found["projection_kernel"] = (units, hidden)
        if variant.projection_bias:
            found["projection_bias"] = (hidden,)
    if learned_state:
        widths = {"h": (hidden,), "c": (units,)}
        found |= {STATES[state]: widths[state] for state in variant.states}
    return found


def sizes_of(variant: Variant, params: Mapping[str, Any]) -> Sizes:
    """Read I, H and R off the shapes of `kernel` and the recurrent weights.

    Args:
        variant: the cell.
        params: its weights, arrays or anything with a `shape`.

    Returns:
        The sizes.

    Raises:
        ValueError: a weight is missing, unknown, or of another shape than the
            variant gives it.

    Example:
        >>> import numpy as np
        >>> weights = {"kernel": np.ones((3, 8)), "recurrent_kernel": np.ones((8, 8))}
        >>> sizes_of(Variant(cell="simple"), weights)
        Sizes(inputs=3, units=8, hidden=8)
    """
    recurrent = "recurrent_scale" if variant.cell == "indrnn" else "recurrent_kernel"
    for name in ("kernel", recurrent):
        if name not in params:
            raise ValueError(f"A {variant.cell} has the weight {name!r}; got {sorted(params)}.")
    inputs, wide = params["kernel"].shape
    sizes = Sizes(inputs, wide // len(variant.gates), params[recurrent].shape[0])
    check(variant, params, sizes)
    return sizes


def check(variant: Variant, params: Mapping[str, Any], sizes: Sizes) -> None:
    """Refuse weights of other names or shapes than `shapes(variant, sizes)` gives.

    Learned initial states may be among them.

    Args:
        variant: the cell.
        params: its weights, arrays or anything with a `shape`.
        sizes: I, H and R.

    Raises:
        ValueError: a weight is missing, unknown, or of another shape.

    Example:
        >>> import numpy as np
        >>> check(Variant(cell="simple"), {"kernel": np.ones((3, 8))}, Sizes(3, 8, 8))
        Traceback (most recent call last):
        ValueError: This variant has the weights ['kernel', 'recurrent_kernel']; got ...
    """
    expected = shapes(variant, sizes, bool(learned_states(params)))
    if set(expected) != set(params):
        raise ValueError(
            f"This variant has the weights {sorted(expected)}; got {sorted(params)}: "
            f"missing {sorted(set(expected) - set(params))}, "
            f"unknown {sorted(set(params) - set(expected))}."
        )
    for name, shape in expected.items():
        if tuple(params[name].shape) != shape:
            raise ValueError(
                f"{name} has the shape {shape} at I={sizes.inputs}, H={sizes.units}, "
                f"R={sizes.hidden}; got {tuple(params[name].shape)}."
            )
