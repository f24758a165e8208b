"""Numbers that a trace comes to: the reach of gradients, forget times, saturation, variances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lnrnn import reference
from lnrnn.params import gates_of, shapes, sizes_of
from lnrnn.variant import Variant

if TYPE_CHECKING:
    from lnrnn.insight.trace import LayerTrace

# of the gradient at the last step, what is still a gradient
LEAST_SHARE = 0.01
# of a sigmoid: nearer to its ends it has a slope below a hundredth
SATURATED = 0.01
# of a batch, that gradients are carried through
MOST_SEQUENCES = 4


class Plain(NamedTuple):
    """A layer without its norms: the same kernels, and all of its biases."""

    variant: Variant
    params: dict[str, np.ndarray]


def without_norms(variant: Variant, params: Mapping[str, Any]) -> Plain:
    """The cell that is left when all norms are taken away.

    A bias of a norm becomes a bias of the projection that was normed; gains are dropped.

    Args:
        variant: the cell.
        params: its canonical weights, see [lnrnn.params][].

    Example:
        >>> cell = Variant(cell="simple", norms=(Norm("sum", gain=False),))
        >>> weights = {
        ...     "kernel": np.ones((1, 1)), "recurrent_kernel": np.ones((1, 1)),
        ...     "sum_norm_bias": np.ones(1),
        ... }
        >>> without_norms(cell, weights).params["bias"]
        array([1.])
    """
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
    return Plain(plain, kept)


def carried(
    variant: Variant,
    params: Mapping[str, Any],
    x: np.ndarray,
    states: tuple[np.ndarray, ...] = (),
    **options: Any,
) -> np.ndarray:
    r"""The norm of a gradient of the last outputs, carried back from step to step.

    $$\left|\frac{\partial (v \cdot h_{T-1})}{\partial (h_{T-1-k}, c_{T-1-k})}\right|
    \Big/ |v|, \quad k = 0, \dots, T-1$$

    with one random direction v for each sequence, over its valid steps.

    Args:
        variant: the cell.
        params: its canonical weights.
        x: (T, B, I).
        states: initial h (B, R) and c (B, H); zeros where there are none.
        options: `mask`, `reset` and others of [lnrnn.reference.forward][].

    Returns:
        (T',), by distance: the first is 1; the root of the mean square over the sequences that
            have so many valid steps.
    """
    run = reference.forward(variant, params, x, *states, **options)
    dh = np.random.default_rng(0).standard_normal(run.h.shape)
    dh /= np.sqrt((dh**2).sum(1, keepdims=True))
    back = reference.backward(run, np.zeros_like(run.y), dh)
    squares = (back.h**2).sum(2)  # (T,B)
    if back.c is not None:
        squares = squares + (back.c**2).sum(2)
    mask = options.get("mask")
    valid = np.ones(squares.shape, bool) if mask is None else np.asarray(mask, bool)
    counts = valid.sum(0)
    aligned = np.full((counts.max(initial=0), len(counts)), np.nan)
    for sequence, count in enumerate(counts):
        aligned[:count, sequence] = squares[valid[:, sequence], sequence][::-1]
    return np.sqrt(np.nanmean(aligned, 1))


def carried_back(layer: LayerTrace, *, norms: bool = True) -> np.ndarray:
    """`carried` of a layer of a trace, from zero states, over a few sequences of its batch.

    Args:
        layer: of a trace.
        norms: False takes the norms away before.
    """
    cell = (layer.variant, layer.params)
    if not norms:
        cell = without_norms(*cell)
    x, mask = layer["x"][:, :MOST_SEQUENCES], layer.mask[:, :MOST_SEQUENCES]
    with np.errstate(all="ignore"):
        return carried(*cell, x, mask=mask)


def reach(norms: np.ndarray) -> int:
    """The largest distance at which a gradient is at least a hundredth of what it was.

    Args:
        norms: (T,), of `carried`.

    Example:
        >>> reach(np.array([1.0, 0.1, 0.01, 0.001]))
        2
    """
    return int(np.flatnonzero(norms >= LEAST_SHARE * norms[0])[-1])


def forget_gate(layer: LayerTrace) -> np.ndarray | None:
    """The share (T, B, H) of its state that each unit keeps, or None without such a gate."""
    if "f" in layer:
        return layer["f"]
    if "z" in layer:
        return layer["z"] if layer.variant.update == "keep" else 1 - layer["z"]
    return None


def forget_times(layer: LayerTrace) -> np.ndarray | None:
    r"""The steps in which each unit forgets, $-1 / \overline{\log f}$, or None without such a gate.

    Args:
        layer: of a trace.

    Returns:
        (H,): the steps after which $1/e$ of a unit's state is left, from the mean of log f
            over all valid steps.
    """
    kept = forget_gate(layer)
    if kept is None:
        return None
    with np.errstate(divide="ignore"):
        return -1 / np.log(kept[layer.mask]).mean(0)


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
