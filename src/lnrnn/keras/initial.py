"""Initial values of the weights: those of a dialect, or ours, which survive zero inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import initializers, ops

from lnrnn.dialects import Dialect
from lnrnn.frontends.initial import STATE_DEVIATION
from lnrnn.params import STATES, columns
from lnrnn.variant import Variant

# A zero state meets a zero input in zero biases: every pre-norm vector is constant, and each
# norm multiplies the gradient by 1 / sqrt(epsilon).  Small random biases give the norms a
# variance; small gains on the recurrent part keep the Jacobian of a step below one.
RECURRENT_GAINS = {"h_norm_gain": 0.1, "sum_norm_gain": 0.25}
BIAS_DEVIATION = 0.1


def default(name: str, variant: Variant) -> Any:
    """Our initialiser of a canonical weight."""
    if name in STATES.values():
        return initializers.RandomNormal(stddev=STATE_DEVIATION)
    if name in RECURRENT_GAINS:
        return initializers.Constant(RECURRENT_GAINS[name])
    if name.endswith("gain"):
        return "ones"
    if name in ("bias", "bias_x", "bias_h", "x_norm_bias", "sum_norm_bias"):
        return initializers.RandomNormal(stddev=BIAS_DEVIATION) if variant.norms else "zeros"
    if name.endswith("bias"):
        return "zeros"
    if name == "recurrent_scale":
        return initializers.RandomUniform(-0.5, 0.5)
    return "orthogonal" if name == "recurrent_kernel" else "glorot_uniform"


def of_dialect(name: str, dialect: Dialect) -> Any:
    """The initialiser that the original program uses for a canonical weight."""
    given = dialect.initializers[name]
    if isinstance(given, (int, float)):
        return initializers.Constant(given)
    return given if isinstance(given, str) else dict(given)


def gate_by_gate(given: Any, gates: str) -> Callable[..., Any]:
    """An initialiser that draws the columns of each gate apart, with their own fans."""

    def draw(shape: tuple[int, ...], dtype: Any = None) -> Any:
        block = (*shape[:-1], shape[-1] // len(gates))
        # a fresh object for each gate: a Keras initialiser repeats its values
        return ops.concatenate([_found(given)(block, dtype) for _ in gates], axis=-1)

    return draw


def rows(given: Sequence[Any]) -> Callable[..., Any]:
    """An initialiser of a weight whose rows are drawn apart."""

    def draw(shape: tuple[int, ...], dtype: Any = None) -> Any:
        return ops.stack([_found(one)(shape[1:], dtype) for one in given])

    return draw


def with_forget(given: Any, gates: str, value: float, row: int) -> Callable[..., Any]:
    """An initialiser of a bias, in a row of which the forget columns start at `value`."""
    initializer = _found(given)

    def draw(shape: tuple[int, ...], dtype: Any = None) -> Any:
        units = shape[-1] // len(gates)
        forget = np.zeros(shape, bool)
        forget.reshape(-1, shape[-1])[row, columns(gates, "f", units)] = True
        return ops.where(forget, ops.full(shape, value, dtype), initializer(shape, dtype))

    return draw


def _found(given: Any) -> Callable[..., Any]:
    return initializers.get(given)  # pyright: ignore[reportReturnType]
