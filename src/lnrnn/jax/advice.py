"""What is said of weights where they start, as under `jit` they have no values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.core
import numpy as np

from lnrnn.frontends import advice
from lnrnn.variant import Variant


def about(
    variant: Variant, params: Mapping[str, Any], recurrent_gradient_clip: float | None = None
) -> str | None:
    """A sentence about weights from which training fails or learns nothing, or None.

    Weights that are traced, or that lie in other processes, are left alone.
    """
    values = params.values()
    if any(isinstance(v, jax.core.Tracer) or not v.is_fully_addressable for v in values):
        return None
    held = {name: np.asarray(value) for name, value in params.items()}
    return advice.about_weights(variant, held, recurrent_gradient_clip)
