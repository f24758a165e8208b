"""A sequence by a fused engine: the same call as the portable engine's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from lnrnn.engines.fused.call import Inputs, Numbers
from lnrnn.engines.portable import ops_numpy
from lnrnn.engines.portable.ops import Array, Ops, States
from lnrnn.engines.portable.recurrence import inner_bias, units_of
from lnrnn.engines.portable.sequence import Course
from lnrnn.engines.sites import Affine, site_vectors
from lnrnn.params import Sizes, gates_of, shapes
from lnrnn.variant import Site, Variant

Recurrence = Callable[[Variant, Numbers, Inputs, str], tuple[Array, ...]]


class Plan(NamedTuple):
    """The weights of a variant that are the arrays of a call as they are.

    Args:
        variant: the cell.
        names: the weight that each of `WEIGHTS` is, None for what is absent.
    """

    variant: Variant
    names: tuple[str | None, ...]


@cache
def plan(variant: Variant) -> Plan | None:
    """The plan of a variant; None where an array has to be computed of its weights."""
    size = Sizes(2, 3, 4 if variant.projection else 3)
    params = {name: np.zeros(shape) for name, shape in shapes(variant, size).items()}
    found = _weights(ops_numpy, variant, params, params["kernel"], sum(size[::2]), "")
    names = {id(array): name for name, array in params.items()}
    if any(array is not None and id(array) not in names for array in found):
        return None
    return Plan(variant, tuple(None if a is None else names[id(a)] for a in found))


def sequence(
    ops: Ops,
    recurrence: Recurrence,
    variant: Variant,
    params: Mapping[str, Array],
    x: Array,
    states: States,
    *,
    recurrent_gradient_clip: float | None = None,
    functions: Mapping[str, Callable[[Array], Array]] | None = None,
    gates: str = "",
    any_order: bool = False,
    plan: Plan | None = None,
    **options: Any,
) -> tuple[Array, States]:
    """Run a cell over a sequence, all of it in the engine.

    Args:
        ops: a framework's operations.
        recurrence: an engine's binding to a framework: variant, numbers, inputs and the order of
            the gates in weights, empty for the canonical one, to all h, the last h and, of an
            lstm, the last c.
        variant: the cell.
        params: canonical weights, see [lnrnn.params][].
        x: inputs (T, B, I).
        states: initial h (B, R), and c (B, H) of an lstm.
        recurrent_gradient_clip: bound on the derivatives that return at each step.
        functions: empty, as the engine says no to functions without a name.
        gates: their order in the weights; empty for the canonical one.
        any_order: whether `recurrence` reads the gates in any order, not in the canonical one only.
        plan: spares calls with its variant a look at each weight; of no effect with another.
        **options: see [Course][lnrnn.engines.portable.sequence.Course].

    Returns:
        Outputs (T, B, R), or the last (B, R), and the final states.
    """
    gates = "" if gates == variant.gates else gates
    if gates and not any_order:
        params, gates = _reordered(ops, variant, params, gates), ""
    if plan is not None and plan.variant is variant:
        weights: Any = [None if name is None else params[name] for name in plan.names]
    else:
        width = x.shape[-1] + states[0].shape[-1]
        weights = _weights(ops, variant, params, x, width, gates)
    course = Course(**options)
    numbers = Numbers(
        _number(course.take_h),
        _number(course.take_c),
        variant.epsilon,
        recurrent_gradient_clip or 0.0,
        variant.cell_clip or 0.0,
        variant.hidden_clip or 0.0,
        variant.projection_clip or 0.0,
    )
    arrays: Any = (
        x,
        states[0],
        states[1] if variant.cell == "lstm" else None,
        *_resets(course.reset, course.reset_states),
        course.mask,
        course.reset,
        _array(course.take_h),
        _array(course.take_c),
        course.recurrent_mask,
        course.candidate_mask,
    )
    h, *final = recurrence(variant, numbers, Inputs(*weights, *arrays), gates)
    return course.shown(ops, h if course.return_sequences else final[0]), tuple(final)


def _weights(
    ops: Any,
    variant: Variant,
    params: Mapping[str, Array],
    like: Array,
    width: int,
    gates: str,
) -> tuple[Array | None, ...]:
    """The arrays of weights, `WEIGHTS`; new ones are like an array, `width` is I + R."""
    units = units_of(variant, params)
    sites = site_vectors(ops, variant, params, units, gates)
    gain_c = params.get("cell_norm_gain")
    if variant.cell_norm != "none" and gain_c is None:
        gain_c = ops.constants(like, [1.0] * units)
    gain_pre = params.get("pre_norm_gain")
    if variant.norms_at("pre") and gain_pre is None:
        gain_pre = ops.constants(like, [1.0] * width)
    return (
        params["kernel"],
        params["recurrent_scale" if variant.cell == "indrnn" else "recurrent_kernel"],
        inner_bias(variant, params),
        params.get("bias_h"),
        *_affine(ops, variant, "x", sites, params),
        *_affine(ops, variant, "h", sites, params),
        *_affine(ops, variant, "sum", sites, params),
        gain_c,
        params.get("cell_norm_bias"),
        params.get("peephole"),
        gain_pre,
        params.get("pre_norm_bias"),
        params.get("hidden_norm_gain"),
        params.get("hidden_norm_bias"),
        params.get("projection_kernel"),
        params.get("projection_bias"),
    )


def _reordered(
    ops: Ops, variant: Variant, params: Mapping[str, Array], gates: str
) -> dict[str, Array]:
    """Weights whose gates stand in some order with those gates in canonical order."""
    found = dict(params)
    for name, value in params.items():
        own = gates_of(variant, name)
        given = [g for g in gates if g in own]
        if given != list(own):
            parts = dict(zip(given, ops.split(value, len(own)), strict=True))
            found[name] = ops.concat([parts[g] for g in own])
    return found


def _affine(
    ops: Ops,
    variant: Variant,
    site: Site,
    sites: Mapping[Site, Affine],
    params: Mapping[str, Array],
) -> Affine:
    """Gain and shift for kernels, which take a site without a gain for one without a norm."""
    gain, shift = sites[site]
    if gain is None and variant.norms_at(site):
        kernel = params["kernel"]
        gain = ops.constants(kernel, [1.0] * kernel.shape[-1])
    return Affine(gain, shift)


def _resets(reset: Array | None, states: States | None) -> tuple[Array | None, Array | None]:
    """The states that resets go to, if there are any: h and, of an lstm, c."""
    if reset is None or states is None:
        return None, None
    h, *c = states
    return h, c[0] if c else None


def _number(take: Array | float | None) -> float:
    return float(take) if isinstance(take, (int, float)) else 1.0


def _array(take: Array | float | None) -> Array | None:
    return None if isinstance(take, (int, float)) else take
