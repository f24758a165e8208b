"""Initial values of the weights, drawn with PyTorch's generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lnrnn.dialects import Dialect
from lnrnn.dialects.dialect import Initializer
from lnrnn.frontends import initial
from lnrnn.frontends.families import bias_gates
from lnrnn.params import Sizes, columns, shapes
from lnrnn.variant import Variant

# the part of a normal distribution within two deviations has this deviation
_TRUNCATED = 0.87962566103423978


def draw(
    variant: Variant,
    dialect: Dialect | None,
    sizes: Sizes,
    device: torch.device,
    learned_state: bool = False,
) -> dict[str, Tensor]:
    """Initial values of all canonical weights, in float32."""
    found = {}
    for name, shape in shapes(variant, sizes, learned_state).items():
        given = initial.initializer(name, variant, dialect)
        gates = len(variant.gates) if dialect and name in dialect.per_gate else 1
        block = (*shape[:-1], shape[-1] // gates)
        blocks = [_fill(torch.empty(block, device=device), given) for _ in range(gates)]
        found[name] = torch.cat(blocks, dim=-1)
        forget = initial.forget_start(name, variant, dialect)
        if forget is not None:
            found[name][columns(bias_gates(variant, name), "f", sizes.units)] = forget
    return found


def _fill(weight: Tensor, given: Initializer) -> Tensor:
    """Fill a weight as a Keras identifier, a number or a Keras config says."""
    if isinstance(given, (int, float)):
        return nn.init.constant_(weight, given)
    if isinstance(given, str):
        return _NAMED[given](weight)
    return _CONFIGURED[given["class_name"]](weight, **given["config"])


def _scaled(weight: Tensor, scale: float, mode: str, distribution: str) -> Tensor:
    """The variance is the scale over a fan; a vector of n has the fans n and n."""
    fan_in, fan_out = weight.shape[0], weight.shape[-1]
    fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    deviation = math.sqrt(scale / fans[mode])
    if distribution == "uniform":
        return _uniform(weight, -math.sqrt(3) * deviation, math.sqrt(3) * deviation)
    deviation /= _TRUNCATED
    return nn.init.trunc_normal_(weight, 0.0, deviation, -2 * deviation, 2 * deviation)


def _glorot(weight: Tensor) -> Tensor:
    return _scaled(weight, 1.0, "fan_avg", "uniform")


def _normal(weight: Tensor, stddev: float) -> Tensor:
    return nn.init.normal_(weight, 0.0, stddev)


def _uniform(weight: Tensor, minval: float, maxval: float) -> Tensor:
    return nn.init.uniform_(weight, minval, maxval)


_NAMED = {
    "zeros": nn.init.zeros_,
    "ones": nn.init.ones_,
    "orthogonal": nn.init.orthogonal_,
    "glorot_uniform": _glorot,
}
_CONFIGURED = {"VarianceScaling": _scaled, "RandomNormal": _normal, "RandomUniform": _uniform}
