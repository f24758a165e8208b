"""The gains and shifts of each site of normalisation, over all gates.

What a step adds to a gate after its norms (the norms' own bias, the outer bias, the
constants of forget and update gates) is one vector at the site of the sum, or of the input
projection for gates that no sum norm covers.  Engines need not know where it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lnrnn.params import affine_gates, columns
from lnrnn.variant import Site, Variant

Array = Any


class Affine(NamedTuple):
    """Gain and shift of a site, (G H) each; None is 1 and 0."""

    gain: Array | None
    shift: Array | None


def site_vectors(
    ops: Any, variant: Variant, params: Mapping[str, Array], units: int, gates: str = ""
) -> dict[Site, Affine]:
    """Gain and shift at the sites `"x"`, `"h"` and `"sum"`.

    Args:
        ops: a framework's operations, see [lnrnn.engines.portable.ops][].
        variant: the cell.
        params: canonical weights, tensors of one dtype.
        units: H.
        gates: their order in the weights and in the result; empty for the canonical one.

    Returns:
        One `Affine` for each site.
    """
    gates = gates or variant.gates

    def spread(site: Site, which: str, fill: float) -> Array | None:
        having = [g for g in gates if g in affine_gates(variant, site, which)]
        if not having:
            return None
        vector = params[f"{site}_norm_{which}"]
        if len(having) == len(gates):
            return vector
        missing = ops.constants(vector, np.full(units, fill))
        own = "".join(having)
        return ops.concat([vector[columns(own, g, units)] if g in own else missing for g in gates])

    def affine(site: Site, added: Array | None) -> Affine:
        return Affine(spread(site, "gain", 1.0), _add(spread(site, "bias", 0.0), added))

    apart, summed = _outer_shifts(ops, variant, params, units, gates)
    return {"x": affine("x", apart), "h": affine("h", None), "sum": affine("sum", summed)}


def _outer_shifts(
    ops: Any, variant: Variant, params: Mapping[str, Array], units: int, gates: str
) -> tuple[Array | None, Array | None]:
    """What is added to the gates that no sum norm covers, and to those that one does."""
    shift = _outer_shift(ops, variant, params, units, gates)
    summed = variant.gates_at("sum")
    if shift is None or not summed:
        return shift, None
    if summed == variant.gates:
        return None, shift
    covered = np.repeat([float(g in summed) for g in gates], units)
    return shift * ops.constants(shift, 1 - covered), shift * ops.constants(shift, covered)


def _outer_shift(
    ops: Any, variant: Variant, params: Mapping[str, Array], units: int, gates: str
) -> Array | None:
    """What is added to each gate after its norms: the bias and the constants."""
    bias = params.get("bias")
    if not (variant.forget_bias or variant.update_bias):
        return bias
    constants = {"f": variant.forget_bias, "z": variant.update_bias}
    values = [constants.get(g, 0.0) for g in gates]
    return _add(ops.constants(params["kernel"], np.repeat(values, units)), bias)


def _add(a: Array | None, b: Array | None) -> Array | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
