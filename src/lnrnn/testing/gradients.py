"""A gradient check that needs no framework: central differences along random directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lnrnn.testing.tolerances import CENTRAL_DIFFERENCE, SMALLEST_SCALE


def check_gradients(
    loss: Callable[[Mapping[str, NDArray[Any]]], float],
    arrays: Mapping[str, NDArray[Any]],
    gradients: Mapping[str, NDArray[Any]],
    rng: np.random.Generator,
    *,
    step: float = 1e-6,
    tolerance: float = CENTRAL_DIFFERENCE,
) -> None:
    r"""Compare the gradient of every array with the slope of the loss along a direction.

    $$\langle g, d \rangle = \frac{L(a + s d) - L(a - s d)}{2 s}$$

    One array at a time, so that an error names its array.  A random direction meets every
    entry: a wrong entry goes unseen with probability zero.  The error is relative to
    the length of g, which is the spread of $\langle g, d \rangle$ over directions.

    Args:
        loss: a function of all arrays, in float64.
        arrays: name to array.
        gradients: name to gradient, of the same names and shapes.
        rng: draws the directions.
        step: s.
        tolerance: the largest error.

    Raises:
        AssertionError: names or shapes differ, or a gradient is wrong; the message has its
            name and both slopes.
    """
    if set(gradients) != set(arrays):
        raise AssertionError(f"Gradients are of {sorted(arrays)}; got {sorted(gradients)}.")
    for name, array in arrays.items():
        gradient = np.asarray(gradients[name])
        if gradient.shape != array.shape:
            raise AssertionError(
                f"The gradient of {name} has the shape {gradient.shape}, expected {array.shape}."
            )
        direction = rng.standard_normal(array.shape)
        up, down = (loss({**arrays, name: array + sign * step * direction}) for sign in (1.0, -1.0))
        difference = (up - down) / (2 * step)
        product = float((gradient * direction).sum())
        error = abs(product - difference) / max(float(np.linalg.norm(gradient)), SMALLEST_SCALE)
        if not error <= tolerance:
            raise AssertionError(
                f"The gradient of {name} gives the slope {product:.9g} along a direction where "
                f"the loss has {difference:.9g}: an error of {error:.1e} of its length, above "
                f"{tolerance:.0e}."
            )
