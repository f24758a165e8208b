"""The one table of tolerances, and the comparison that uses it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Tolerance(NamedTuple):
    """The largest error, relative to the scale of the array, that a dtype may have."""

    values: float
    gradients: float


# About ten times what honest programs of each precision differ by over ten steps:
# in float32 their values differ by 2e-6 of the scale, their gradients by 7e-6.
TOLERANCES = {
    "float64": Tolerance(values=1e-9, gradients=1e-9),
    "float32": Tolerance(values=2e-5, gradients=1e-4),
    "float16": Tolerance(values=1e-2, gradients=5e-2),
    "bfloat16": Tolerance(values=5e-2, gradients=2e-1),
}

# of a directional derivative in float64 against a central difference of step 1e-6
CENTRAL_DIFFERENCE = 1e-7

# An array whose entries are all below this is compared as if they reached it: it is
# a sum of terms of order one that cancel, and their rounding errors stay.
SMALLEST_SCALE = 0.1


def assert_close(
    name: str, actual: ArrayLike, expected: ArrayLike, dtype: str, gradient: bool = False
) -> None:
    r"""Raise unless two arrays agree to the tolerance of a dtype.

    $$\mathrm{error} = \frac{\max |a - e|}{\max(\max |e|,\ 0.1)}$$

    The error is relative to the scale of the whole array, because every entry is a sum
    whose terms have that scale: small entries come from cancellation and are no more
    accurate than the large ones, and large gradients (through the norm of a zero
    state) are no less accurate.

    Args:
        name: what the array is, for the message.
        actual: any shape.
        expected: the same shape.
        dtype: the precision that `actual` was computed in.
        gradient: whether to apply the tolerance of gradients.

    Raises:
        AssertionError: another shape, a NaN, or an error above the tolerance; the message
            has the name, the error and where it is.
        ValueError: a dtype that has no tolerance.

    Example:
        >>> assert_close("y", [1.0, 2.0], [1.0, 2.00001], "float32")
    """
    if dtype not in TOLERANCES:
        raise ValueError(f"Tolerances are for {', '.join(TOLERANCES)}; got dtype={dtype!r}.")
    bound = TOLERANCES[dtype].gradients if gradient else TOLERANCES[dtype].values
    a, e = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if a.shape != e.shape:
        raise AssertionError(f"{name} has the shape {a.shape}, expected {e.shape}.")
    if a.size == 0:
        return
    scale = max(np.abs(e).max(), SMALLEST_SCALE)
    errors = np.abs(a - e) / scale
    where = np.unravel_index(np.argmax(errors), errors.shape)  # a NaN counts as the largest
    if not errors[where] <= bound:
        kind = "gradient" if gradient else "value"
        raise AssertionError(
            f"{name}{[int(i) for i in where]} is {a[where]:.9g}, expected {e[where]:.9g}: an error "
            f"of {errors[where]:.2e} of the scale {scale:.3g}, above {bound:.0e} for a {dtype} "
            f"{kind}."
        )
