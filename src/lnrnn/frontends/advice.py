"""What a layer says once: of sizes that its norms make nothing of, of weights that do not train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lnrnn.engines.portable import ops_numpy
from lnrnn.engines.portable.recurrence import Noise, Recurrence
from lnrnn.engines.sites import site_vectors
from lnrnn.params import Sizes, learned_states, sizes_of
from lnrnn.variant import Variant

# steps over which the growth is looked at, after the first, in which the state is exactly zero
_STEPS = 4
# within 150 steps such a growth is beyond float32
_MOST_GROWTH = 1.8

# of a matrix, converted at a time
_COLUMNS = 256

# variants whose norms are over several gates
_JOINT = {"lstm": "'sonnet1_lstm_ln' or ", "gru": "'haste_lngru' or ", "ligru": "'haste_lngru' or "}
_OF_ONE_NUMBER = {"layer": "gives its bias, whatever the number", "rms": "keeps only its sign"}


def about_inputs(variant: Variant, sizes: Sizes) -> Iterator[str]:
    """A sentence about a single feature of which a norm leaves little."""
    if sizes.inputs == 1 and variant.norms_at("x"):
        yield (
            "A norm of the input projection keeps little more than the sign of a single "
            "feature; use a variant that norms the sum, such as 'magenta_lnlstm', "
            "'dreamerv2_gru' or 'book_lnsimplernn'."
        )


def about_units(variant: Variant, sizes: Sizes) -> Iterator[str]:
    """A sentence about a single unit of which a norm leaves nothing; I does not matter."""
    found = []
    if sizes.units == 1:
        for site in ("x", "h", "sum"):
            alone = [n.gates for n in variant.norms_at(site) if len(n.gates) == 1]
            found += [f"{', '.join(alone)} at {site!r}"] * bool(alone)
        found += ["the cell"] * (variant.cell_norm != "none")
    found += ["the output"] * (variant.hidden_norm and sizes.hidden == 1)
    if found:
        effect = "is NaN where ddof is 1" if variant.ddof else _OF_ONE_NUMBER[variant.norm]
        yield (
            f"A norm over one number {effect}; got a width of one, and "
            f"norms of {' and of '.join(found)}: use more units, or the variant "
            f"{_JOINT.get(variant.cell, '')}'none'."
        )


def about_weights(
    variant: Variant, params: Mapping[str, Any], recurrent_gradient_clip: float | None
) -> str | None:
    """A sentence about weights from which training fails or learns nothing, or None.

    Args:
        variant: the cell.
        params: canonical weights as NumPy arrays, see [lnrnn.params][].
        recurrent_gradient_clip: the option of that name.
    """
    gains = {name: value for name, value in params.items() if name.endswith("_norm_gain")}
    return about_gains(gains) or about_growth(variant, params, recurrent_gradient_clip)


def about_gains(gains: Mapping[str, Any]) -> str | None:
    """A sentence about a norm, of those named, whose gains are all zero, or None."""
    for name, gain in gains.items():
        if not np.any(gain):
            return (
                f"All gains of a norm are zero ({name}), so that the output does not depend on "
                "what it normalises until they move: set them to one unless the variant is "
                "published so, and leave gains out of loops that set vectors to zero."
            )
    return None


def about_growth(
    variant: Variant, params: Mapping[str, Any], recurrent_gradient_clip: float | None
) -> str | None:
    """A sentence about weights with which gradients do not bear leading zeros, or None.

    The arguments are those of `about_weights`.
    """
    if not variant.norms and variant.cell_norm == "none" and not variant.hidden_norm:
        return None
    growth = growth_of_a_zero_step(variant, params)
    if growth is not None and np.isnan(growth):
        if variant.epsilon > 0:  # any step is NaN: weights that are, or a single unit, see above
            return None
        return (
            "A step with zero input from a zero state gives NaN, as a norm divides 0 by 0 where "
            f"epsilon is {variant.epsilon}: if sequences begin with zeros, pass norm_epsilon=1e-5."
        )
    if recurrent_gradient_clip is not None or growth is None or growth < _MOST_GROWTH:
        return None
    return (
        f"A zero input at a zero state multiplies the gradient by about {growth:.1g} at each step, "
        "as the biases give the norms no variance to divide by: if sequences begin with zeros, "
        "training ends in NaN; pass recurrent_gradient_clip=1.0, or start the biases from noise "
        "of deviation 0.1, or mask those steps."
    )


def growth_of_a_zero_step(variant: Variant, params: Mapping[str, Any]) -> float | None:
    """How much a zero step multiplies a small change of the state, and so a gradient.

    It is looked at over a few zero steps that follow the first one, which leaves the zero state,
    or the learned one.
    The change is a millionth of the smallest deviation that a norm tells from zero, so that
    factors beyond that of two such norms are found too small.

    Args:
        variant: the cell.
        params: canonical weights as NumPy arrays.

    Returns:
        The mean factor, NaN where a step is; None where at some step each norm of the
            recurrence met a variance above epsilon, or the change was gone.
    """
    sizes = sizes_of(variant, params)
    # matrices of float32 are converted where they are multiplied, a part at a time
    params = {
        n: p if p.ndim == 2 and p.itemsize > 2 else p.astype(np.float64) for n, p in params.items()
    }
    if not variant.norms_at("pre"):  # x W is zero
        sizes = sizes._replace(inputs=1)
        params["kernel"] = np.zeros((1, params["kernel"].shape[1]))
    ops: Any = _Watched(variant)
    sites = site_vectors(ops, variant, params, sizes.units)
    recurrence = Recurrence(ops, variant, params, sites)
    small = max(1e-6 * ops.floor**0.5, 1e-14)
    rng = np.random.default_rng(0)
    widths = (sizes.hidden, sizes.units)[: len(variant.states)]
    change = [rng.standard_normal(width) for width in widths]
    with np.errstate(all="ignore"):
        # three rows: a state, and the small change added to it and taken from it
        x = recurrence.inputs(np.zeros((3, sizes.inputs)))
        begun = learned_states(params) or [np.zeros(width) for width in widths]
        states = recurrence.step(x, tuple(np.tile(s, (3, 1)) for s in begun), Noise())
        factors = []
        for _ in range(1 + _STEPS):
            scale = small / _size(change)
            states = tuple(
                s[:1] + scale * np.stack([0 * d, d, -d])
                for s, d in zip(states, change, strict=True)
            )
            ops.still = False
            states = recurrence.step(x, states, Noise())
            change = [_smaller(s[1] - s[0], s[0] - s[2]) for s in states]
            factors.append(_size(change) / small)
            if factors[-1] == 0 or not ops.still:
                return None
    return float(np.exp(np.mean(np.log(factors[1:]))))


def _size(change: Sequence[np.ndarray]) -> float:
    return np.sqrt(sum((d**2).sum() for d in change))


def _smaller(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of the changes to the two sides: a ReLU at zero has the derivative 0."""
    return np.where(abs(a) < abs(b), a, b)


class _Watched:
    """NumPy's operations; notes whether a norm had a variance below epsilon."""

    def __init__(self, variant: Variant) -> None:
        at_variance = variant.epsilon_at == "variance"
        self.floor = variant.epsilon if at_variance else variant.epsilon**2
        self.still = False

    def __getattr__(self, name: str) -> Any:
        return getattr(ops_numpy, name)

    def matmul(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        columns = range(0, b.shape[1], _COLUMNS)
        return np.concatenate([a @ b[:, j : j + _COLUMNS] for j in columns], axis=-1)

    def norm(self, v: Any, gain: Any, bias: Any, variant: Variant) -> Any:
        spread = v[0].var(-1) if variant.norm == "layer" else (v[0] ** 2).mean(-1)
        self.still |= not bool(np.all(spread > self.floor))  # a NaN is not
        return ops_numpy.norm(v, gain, bias, variant)
