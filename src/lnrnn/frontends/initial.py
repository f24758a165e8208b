"""How weights start: as in a dialect, or so that gradients survive zero inputs."""

from __future__ import annotations

import math
from typing import NamedTuple

from lnrnn.dialects import Dialect
from lnrnn.dialects.dialect import Initializer
from lnrnn.params import STATES, Sizes, columns, gates_of, shapes
from lnrnn.variant import Variant

# A zero state meets a zero input in zero biases: every pre-norm vector is constant, and each
# norm multiplies the gradient by 1 / sqrt(epsilon).  Small random biases give the norms a
# variance; small gains on the recurrent part keep the Jacobian of a step below one.
# Where states are learned, a small random one does that for biases of zero as well.
RECURRENT_GAINS = {"h_norm_gain": 0.1, "sum_norm_gain": 0.25}
BIAS_DEVIATION = 0.1
STATE_DEVIATION = 0.1

# the part of a normal distribution within two deviations has this deviation
TRUNCATED = 0.87962566103423978

# weights that can hold an initial forget bias, the first that a variant has
FORGET_BIASES = ("bias", "sum_norm_bias", "h_norm_bias", "x_norm_bias", "bias_x")


def initializer(name: str, variant: Variant, dialect: Dialect | None) -> Initializer:
    """The initialiser of a canonical weight, in the form of `Dialect.initializers`."""
    if dialect is not None and name in dialect.initializers:
        return dialect.initializers[name]
    if name in STATES.values():
        return {"class_name": "RandomNormal", "config": {"stddev": STATE_DEVIATION}}
    if name in RECURRENT_GAINS:
        return RECURRENT_GAINS[name]
    if name.endswith("gain"):
        return "ones"
    if name in ("bias", "bias_x", "bias_h", "x_norm_bias", "sum_norm_bias") and variant.norms:
        return {"class_name": "RandomNormal", "config": {"stddev": BIAS_DEVIATION}}
    if name.endswith("bias") or name in ("bias_x", "bias_h"):
        return "zeros"
    if name == "recurrent_scale":
        return {"class_name": "RandomUniform", "config": {"minval": -0.5, "maxval": 0.5}}
    return "orthogonal" if name == "recurrent_kernel" else "glorot_uniform"


def forget_start(name: str, variant: Variant, dialect: Dialect | None) -> float | None:
    """The initial value of the forget columns of a bias, where it has one of its own."""
    if "bias" not in name or "f" not in gates_of(variant, name):
        return None
    if dialect is not None:
        return dialect.forget_bias_init.get(name)
    holder = next(n for n in FORGET_BIASES if "f" in gates_of(variant, n))
    return 1.0 if variant.forget_bias == 0 and name == holder else None


class Start(NamedTuple):
    """How one weight starts.

    Args:
        shapes: of what is drawn, one after the other.
        places: which of these, and which columns of it, stand side by side in the weight.
        initializer: in the form of `Dialect.initializers`.
        forget: the columns of the forget gate and their value, where they have one of their own.
    """

    shapes: list[tuple[int, ...]]
    places: list[tuple[int, slice]]
    initializer: Initializer
    forget: tuple[slice, float] | None


def starts(
    variant: Variant, dialect: Dialect | None, sizes: Sizes, learned_state: bool = False
) -> dict[str, Start]:
    """How each canonical weight starts, by name."""
    found = {}
    for name, shape in shapes(variant, sizes, learned_state).items():
        drawn, places = divided(shape, variant.gates, groups(name, variant, dialect))
        value, forget = forget_start(name, variant, dialect), None
        if value is not None:
            forget = columns(gates_of(variant, name), "f", sizes.units), value
        found[name] = Start(drawn, places, initializer(name, variant, dialect), forget)
    return found


def groups(name: str, variant: Variant, dialect: Dialect | None) -> tuple[str, ...]:
    """The gates whose columns of a weight are drawn together; empty where all are."""
    if dialect is None or name not in dialect.per_gate:
        return ()
    together = "".join(g for g in variant.gates if g in dialect.drawn_together)
    apart = [g for g in variant.gates if g not in together]
    return (together, *apart) if together else tuple(apart)


def divided(
    shape: tuple[int, ...], gates: str, groups: tuple[str, ...]
) -> tuple[list[tuple[int, ...]], list[tuple[int, slice]]]:
    """The shapes and places of a `Start` whose gates are drawn in groups."""
    if not groups:
        return [shape], [(0, slice(None))]
    units = shape[-1] // len(gates)
    shapes = [(*shape[:-1], len(group) * units) for group in groups]
    of_gate = {g: (i, k * units) for i, group in enumerate(groups) for k, g in enumerate(group)}
    return shapes, [(i, slice(first, first + units)) for i, first in map(of_gate.get, gates)]


def deviation(shape: tuple[int, ...], scale: float, mode: str) -> float:
    """That of a `VarianceScaling`: the variance is the scale over a fan; n numbers have n and n."""
    fan_in, fan_out = shape[0], shape[-1]
    fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    return math.sqrt(scale / fans[mode])
