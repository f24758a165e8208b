"""The portable definition of what a fused engine computes, for what that has no rule for.

Second derivatives, forward mode, vectorised maps and export differentiate or trace this.
"""

from __future__ import annotations

from typing import Any

from lnrnn.engines.fused.call import Inputs, Numbers, dtype_name
from lnrnn.engines.portable.recurrence import Recurrence
from lnrnn.engines.portable.sequence import Course, loop
from lnrnn.engines.sites import Affine
from lnrnn.variant import Site, Variant

Array = Any


def recurrence(
    ops: Any, variant: Variant, numbers: Numbers, a: Inputs, gates: str = ""
) -> tuple[Array, ...]:
    """All h (T, B, R), the last h and, of an lstm, the last c, in a framework's operations.

    The gates of the weights stand in the order `gates`; empty for the canonical one.
    """
    like, single = a.x, a.kernel
    if like.dtype != single.dtype:  # of half precision: rounded operands, the rest in float32
        ops = Rounding(ops, dtype_name(like.dtype))
    params = {
        "kernel": a.kernel,
        "recurrent_scale" if variant.cell == "indrnn" else "recurrent_kernel": a.recurrent,
        "bias_h": a.bias_h,
        "cell_norm_gain": a.gain_c,
        "cell_norm_bias": a.shift_c,
        "peephole": a.peephole,
        "pre_norm_gain": a.gain_pre,
        "pre_norm_bias": a.shift_pre,
        "hidden_norm_gain": a.gain_hidden,
        "hidden_norm_bias": a.shift_hidden,
        "projection_kernel": a.projection,
        "projection_bias": a.projection_bias,
    }
    params = {name: weight for name, weight in params.items() if weight is not None}
    sites: dict[Site, Affine] = {
        "x": Affine(a.gain_x, a.shift_x),
        "h": Affine(a.gain_h, a.shift_h),
        "sum": Affine(a.gain_sum, a.shift_sum),
    }
    step = Recurrence(ops, variant, params, sites, None, numbers.clip or None, gates)

    def project(x: Array) -> Array:
        if variant.norms_at("pre"):
            return x
        projected = ops.matmul(x, a.kernel)
        return step.x_norm(projected if a.bias_x is None else projected + a.bias_x)

    takes = (
        given if given is not None else None if number == 1.0 else number
        for given, number in ((a.take_h, numbers.take_h), (a.take_c, numbers.take_c))
    )
    take_h, take_c = takes
    course = Course(
        mask=a.mask,
        reset=a.reset,
        reset_states=_reset_states(a),
        take_h=take_h,
        take_c=take_c,
        recurrent_mask=a.recurrent_mask,
        candidate_mask=a.candidate_mask,
    )
    final, h = loop(step, a.x, (a.h0,) if a.c0 is None else (a.h0, a.c0), course, project)
    return (ops.cast(h, like), *final)


def _reset_states(a: Inputs) -> tuple[Array, ...] | None:
    if a.reset_h is None:
        return None
    return (a.reset_h,) if a.c0 is None else (a.reset_h, a.reset_c)


class Rounding:
    """Operations whose products have their operands rounded to the dtype of a name."""

    def __init__(self, ops: Any, dtype: str) -> None:
        self._ops, self._dtype = ops, dtype

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def matmul(self, a: Array, b: Array) -> Array:
        return self._ops.matmul(self._rounded(a), self._rounded(b))

    def einsum(self, equation: str, a: Array, b: Array) -> Array:
        return self._ops.einsum(equation, self._rounded(a), self._rounded(b))

    def _rounded(self, v: Array) -> Array:
        return self._ops.rounded(v, self._dtype)
