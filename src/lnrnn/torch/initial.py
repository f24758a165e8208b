"""Initial values of the weights, drawn with PyTorch's generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lnrnn.dialects import Dialect
from lnrnn.dialects.dialect import Initializer
from lnrnn.frontends import initial
from lnrnn.params import Sizes
from lnrnn.variant import Variant


def draw(
    variant: Variant,
    dialect: Dialect | None,
    sizes: Sizes,
    device: torch.device,
    learned_state: bool = False,
) -> dict[str, Tensor]:
    """Initial values of all canonical weights, in float32."""
    found = {}
    for name, start in initial.starts(variant, dialect, sizes, learned_state).items():
        empty = (torch.empty(shape, device=device) for shape in start.shapes)
        drawn = [_fill(block, start.initializer) for block in empty]
        found[name] = torch.cat([drawn[i][..., columns] for i, columns in start.places], dim=-1)
        if start.forget is not None:
            columns, value = start.forget
            found[name][columns] = value
    return found


def _fill(weight: Tensor, given: Initializer) -> Tensor:
    """Fill a weight as a Keras identifier, a number or a Keras config says."""
    if isinstance(given, (int, float)):
        return nn.init.constant_(weight, given)
    if isinstance(given, str):
        return _NAMED[given](weight)
    return _CONFIGURED[given["class_name"]](weight, **given["config"])


def _scaled(weight: Tensor, scale: float, mode: str, distribution: str) -> Tensor:
    deviation = initial.deviation(tuple(weight.shape), scale, mode)
    if distribution == "uniform":
        return _uniform(weight, -math.sqrt(3) * deviation, math.sqrt(3) * deviation)
    deviation /= initial.TRUNCATED
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
