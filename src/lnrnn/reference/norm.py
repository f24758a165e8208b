"""Normalisation of a row vector, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lnrnn.variant import Variant

Array = NDArray[Any]  # of float64


class Norm(NamedTuple):
    """A row normalised.

    Args:
        u: (B, n), centred and scaled.
        mean: (B,1), what was taken away; zeros of a root mean square.
        variance: (B,1), q.
        scale: (B,1), s.
        back: from du to dv.
    """

    u: Array
    mean: Array
    variance: Array
    scale: Array
    back: Callable[[Array], Array]


def standardise(v: Array, variant: Variant) -> Norm:
    r"""Centre (layer norm only) and scale every row of `v`.

    $$u = \frac{d}{s},\quad d = v - \bar v,\quad q = \frac{\sum d^2}{n - \mathrm{ddof}},\quad
    s = \sqrt{q + \epsilon}\ \text{ or }\ \sqrt{q} + \epsilon$$

    With a root mean square, $d = v$.

    Args:
        v: (B, n).
        variant: says which norm, which epsilon and where it is added.

    Returns:
        u, what of v it is made with, and the function from du to dv.
    """
    centred = variant.norm == "layer"
    count = v.shape[-1] - variant.ddof
    mean = v.mean(-1, keepdims=True) if centred else np.zeros((*v.shape[:-1], 1))
    d = v - mean
    q = (d**2).sum(-1, keepdims=True) / count  # (B,1)
    if variant.epsilon_at == "variance":
        root = scale = np.sqrt(q + variant.epsilon)
    else:
        root = np.sqrt(q)
        scale = root + variant.epsilon
    u = d / scale

    def back(du: Array) -> Array:
        # ds/dd = d / (count root); a row of equal numbers has d = 0, and ds = 0 is its limit
        ds_dd = np.divide(d, count * root, out=np.zeros_like(d), where=root != 0)
        dd = (du - (du * u).sum(-1, keepdims=True) * ds_dd) / scale
        return dd - dd.mean(-1, keepdims=True) if centred else dd

    return Norm(u, mean, q, scale, back)
