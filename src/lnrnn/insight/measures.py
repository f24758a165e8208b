"""Numbers that a trace comes to: the reach of gradients, saturation, variances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lnrnn import reference
from lnrnn.insight.diagnose import SATURATED, VANISHES
from lnrnn.insight.reach import gradient_by_distance
from lnrnn.insight.trace import LayerTrace
from lnrnn.params import gates_of, shapes, sizes_of


def without_norms(layer: LayerTrace) -> LayerTrace:
    """The same inputs through the cell that is left when all norms are taken away.

    A bias of a norm becomes a bias of the projection that was normed; gains are dropped.  It
    begins in zero states, and holds its run alone.

    Args:
        layer: of a trace.
    """
    variant, params = layer.variant, layer.params
    biases = {"bias_x": ("bias_x", "x_norm_bias"), "bias_h": ("bias_h", "h_norm_bias")}
    biases["bias"] = ("bias", "sum_norm_bias")
    plain = variant.replace(
        norms=(),
        cell_norm="none",
        cell_norm_gain=True,
        cell_norm_bias=True,
        hidden_norm=False,
        tied_bias=False,
        reset="after" if variant.reset == "inside" else variant.reset,
        peephole="after" if variant.peephole == "inside" else variant.peephole,
        cell_clip_at="before_norm"
        if variant.cell_clip_at == "after_norm"
        else variant.cell_clip_at,
        **{name: any(part in params for part in parts) for name, parts in biases.items()},
    )
    sizes = sizes_of(variant, params)
    kept: dict[str, np.ndarray] = {}
    for name, shape in shapes(plain, sizes).items():
        if name not in biases:
            kept[name] = np.asarray(params[name], np.float64)
            continue
        kept[name] = np.zeros(shape)
        for part in biases[name]:
            if part in params:
                gates = [variant.gates.index(g) for g in gates_of(variant, part)]
                kept[name].reshape(-1, sizes.units)[gates] += np.reshape(
                    params[part], (-1, sizes.units)
                )
    with np.errstate(all="ignore"):
        run = reference.forward(plain, kept, layer["x"], mask=layer.mask)
    return replace(layer, variant=plain, params=kept, arrays={}, run=run)


def carried_back(layer: LayerTrace) -> np.ndarray:
    """The norm of a gradient of the last outputs, carried back from one valid step to another.

    Args:
        layer: of a trace.

    Returns:
        (T',), by distance: the first is 1; the root of the mean square over the sequences that
            have so many valid steps.
    """
    by_distance, valid = gradient_by_distance(layer), layer.mask[::-1]  # (T,B)
    counts = valid.sum(0)
    aligned = np.full((counts.max(initial=0), len(counts)), np.nan)
    for sequence, count in enumerate(counts):
        aligned[:count, sequence] = by_distance[valid[:, sequence], sequence]
    with np.errstate(all="ignore"):
        return np.sqrt(np.nanmean(aligned**2, 1))


def reach(norms: np.ndarray) -> int:
    """The steps back over which a gradient is at least a millionth of what it was.

    Args:
        norms: (T',), of `carried_back`.

    Example:
        >>> reach(np.array([1.0, 1e-2, 1e-4, 1e-6, 1e-8]))
        3
    """
    below = np.flatnonzero(norms < VANISHES)
    return int(below[0]) - 1 if len(below) else len(norms) - 1


def saturated(layer: LayerTrace) -> float:
    """The share of all values of gates that are within a hundredth of 0 or 1; NaN without gates."""
    found = [layer[gate][layer.mask] for gate in layer.variant.gates if gate not in "gn"]
    if not found:
        return np.nan
    values = np.stack(found)
    return float(np.mean((values < SATURATED) | (values > 1 - SATURATED)))


def least_variances(layer: LayerTrace) -> dict[str, float]:
    """The least variance (mean square, of a root mean square) that each norm met."""
    return {
        name: float(layer[f"{name}.variance"][layer.mask].min(initial=np.inf))
        for name in layer.norms
    }
