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
    ops: Any, variant: Variant, params: Mapping[str, Array], units: int
) -> dict[Site, Affine]:
    """Gain and shift at the sites `"x"`, `"h"` and `"sum"`.

    Args:
        ops: a framework's operations, see [lnrnn.engines.portable.ops][].
        variant: the cell.
        params: canonical weights, tensors of one dtype.
        units: H.

    Returns:
        One `Affine` for each site.
    """

    def spread(site: Site, which: str, fill: float) -> Array | None:
        gates = affine_gates(variant, site, which)
        if not gates:
            return None
        vector = params[f"{site}_norm_{which}"]
        if gates == variant.gates:
            return vector
        missing = ops.constants(vector, np.full(units, fill))
        return ops.concat(
            [vector[columns(gates, g, units)] if g in gates else missing for g in variant.gates]
        )

    def only(vector: Array | None, gates: str) -> Array | None:
        if vector is None or not gates or gates == variant.gates:
            return vector if gates else None
        keep = np.repeat([float(g in gates) for g in variant.gates], units)
        return vector * ops.constants(vector, keep)

    shift = _outer_shift(ops, variant, params, units)
    summed = variant.gates_at("sum")
    apart = "".join(g for g in variant.gates if g not in summed)
    shifts: dict[Site, Array | None] = {
        "x": only(shift, apart),
        "h": None,
        "sum": only(shift, summed),
    }
    return {
        site: Affine(spread(site, "gain", 1.0), _add(spread(site, "bias", 0.0), added))
        for site, added in shifts.items()
    }


def _outer_shift(
    ops: Any, variant: Variant, params: Mapping[str, Array], units: int
) -> Array | None:
    """What is added to each gate after its norms: the bias and the constants."""
    constants = {"f": variant.forget_bias, "z": variant.update_bias}
    values = [constants.get(g, 0.0) for g in variant.gates]
    bias = params.get("bias")
    if not any(values):
        return bias
    return _add(ops.constants(params["kernel"], np.repeat(values, units)), bias)


def _add(a: Array | None, b: Array | None) -> Array | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
