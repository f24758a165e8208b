"""How far gradients reach back, and how long states last: the two time scales of a layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from lnrnn import reference
from lnrnn.insight.trace import LayerTrace

Array = np.ndarray[Any, Any]


def gradient_by_distance(layer: LayerTrace, seed: int = 0) -> Array:
    """The norm of a gradient of the final state against the distance in time, (T, B).

    A random direction of the last h goes back through the steps; entry d of a sequence is the
    norm of its derivative with respect to the states d steps before the last, over that at the
    last.  With an lstm both states count.
    """
    run = layer.run
    random = np.random.default_rng(seed)
    start = random.normal(size=run.h.shape)
    with np.errstate(all="ignore"):
        found = reference.backward(run, np.zeros_like(run.y), start)
        square = (found.h**2).sum(-1)
        if found.c is not None:
            square = square + (found.c**2).sum(-1)
        norms = np.sqrt(square)[::-1]  # (T,B), by distance
        return norms / np.where(norms[:1] > 0, norms[:1], 1.0)


def kept_shares(layer: LayerTrace) -> Array | None:
    """The share of its state that each unit keeps at each step, (T, B, H), of gated cells."""
    if "f" in layer:
        return layer["f"]
    if "z" in layer:
        return layer["z"] if layer.variant.update == "keep" else 1 - layer["z"]
    return None


def forget_times(layer: LayerTrace) -> Array | None:
    """The time constant of each unit in steps, (H,), 1 / -log of its mean share kept."""
    shares = kept_shares(layer)
    if shares is None:
        return None
    mean = shares[layer.mask].mean(0) if layer.mask.any() else shares.mean((0, 1))
    with np.errstate(divide="ignore"):
        return 1 / -np.log(np.clip(mean, 1e-30, 1 - 1e-12))
