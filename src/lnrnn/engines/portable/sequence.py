"""The loop over time, with masks, resets and zoneout, on any framework's operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from lnrnn.engines.portable.ops import Array, Ops, States, unrolled
from lnrnn.engines.portable.recurrence import Noise, Recurrence
from lnrnn.engines.sites import site_vectors
from lnrnn.params import sizes_of
from lnrnn.variant import Variant

MaskedOutput = Literal["repeat", "hold", "zero"]


class Course(NamedTuple):
    """What course a sequence, for every engine that runs one.

    Args:
        mask: (T, B), True at valid steps; a masked step holds the states.
        reset: (T, B), True where the states are replaced before the step.
        reset_states: what they are replaced by, as the initial ones; None is zeros.
        masked_output: what a masked step emits: `"repeat"` the previous output, zeros
            before the first valid step; `"hold"` the held h; `"zero"` zeros.
        take_h: zoneout, the share of the new h: (T, B, R) in training, a number in
            inference.
        take_c: the same of c, (T, B, H) or a number.
        recurrent_mask: factor on h in the recurrent projection, (B, R) or (T, B, R).
        candidate_mask: factor on the activated candidate, (B, H) or (T, B, H).
        unroll: a Python loop in place of the framework's; needs a static T.  A fused engine has
            nothing to unroll.
        return_sequences: whether all outputs are returned or the last only.
    """

    mask: Array | None = None
    reset: Array | None = None
    reset_states: States | None = None
    masked_output: MaskedOutput = "repeat"
    take_h: Array | float | None = None
    take_c: Array | float | None = None
    recurrent_mask: Array | None = None
    candidate_mask: Array | None = None
    unroll: bool = False
    return_sequences: bool = True

    def shown(self, ops: Ops, output: Array) -> Array:
        """What is emitted of every output (T, B, R) or the last (B, R) that steps gave."""
        if self.mask is None or self.masked_output == "hold":
            return output
        seen = ops.running_any(self.mask) if self.masked_output == "repeat" else self.mask
        seen = seen if len(output.shape) == 3 else seen[-1]
        return ops.where(seen[..., None], output, 0.0)


def sequence(
    ops: Ops,
    variant: Variant,
    params: Mapping[str, Array],
    x: Array,
    states: States,
    *,
    recurrent_gradient_clip: float | None = None,
    functions: Mapping[str, Callable[[Array], Array]] | None = None,
    gates: str = "",
    **options: Any,
) -> tuple[Array, States]:
    """Run a cell over a sequence.

    Args:
        ops: a framework's operations.
        variant: the cell.
        params: canonical weights, see [lnrnn.params][].
        x: inputs (T, B, I).
        states: initial h (B, R), and c (B, H) of an lstm.
        recurrent_gradient_clip: bound on the derivatives that return at each step.
        functions: activations in place of those that the variant names, by the name of
            the variant's field.
        gates: their order in the weights; empty for the canonical one.
        **options: see [Course][lnrnn.engines.portable.sequence.Course].

    Returns:
        Outputs (T, B, R), or the last (B, R), and the final states.
    """
    ops.count()
    sites = site_vectors(ops, variant, params, sizes_of(variant, params).units, gates)
    recurrence = Recurrence(ops, variant, params, sites, functions, recurrent_gradient_clip, gates)
    return run(recurrence, x, states, Course(**options))


def run(steps: Any, x: Array, states: States, course: Course) -> tuple[Array, States]:
    """Outputs and final states of the steps of a cell over inputs (T, B, I)."""
    final, h = loop(steps, x, states, course, steps.inputs)
    return course.shown(steps.ops, h if course.return_sequences else final[0]), final


def loop(
    recurrence: Recurrence,
    x: Array,
    states: States,
    course: Course,
    project: Callable[[Array], Array] | None = None,
) -> tuple[States, Any]:
    """Final states, and every h (T, B, R) if the course asks for it.

    `project` makes of x what steps take; without it x is that.
    """
    ops = recurrence.ops
    if project is not None and ops.projects_ahead:
        x, project = project(x), None
    noise = dict(
        take_h=course.take_h,
        take_c=course.take_c,
        recurrent=course.recurrent_mask,
        candidate=course.candidate_mask,
    )
    fixed = {
        k: ops.number(v) if _is_number(v) else v
        for k, v in noise.items()
        if v is not None and not _moves(v)
    }
    moving = {k: v for k, v in noise.items() if v is not None and _moves(v)}
    flags = (("mask", course.mask), ("reset", course.reset))
    moving |= {k: v[..., None] for k, v in flags if v is not None}
    spread = ops.spread(recurrence.vectors(), x)
    begun = (0.0,) * len(states) if course.reset_states is None else course.reset_states

    def body(states: States, slices: tuple[Array, ...]) -> States:
        now: dict[str, Any] = dict(zip([*moving, *spread], slices[1:], strict=True))
        vectors = {name: now.pop(name) for name in spread}
        steps = recurrence.with_vectors(vectors) if vectors else recurrence
        valid, fresh = now.pop("mask", None), now.pop("reset", None)
        before = states
        if fresh is not None:
            states = tuple(ops.where(~fresh, s, b) for s, b in zip(states, begun, strict=True))
        given = slices[0] if project is None else project(slices[0])
        new = steps.step(given, states, Noise(**fixed, **now))
        if valid is None:
            return new
        return tuple(ops.where(valid, n, s) for n, s in zip(new, before, strict=True))

    scan = ops.scan if not course.unroll else lambda *a: unrolled(ops, *a)
    slices = (x, *moving.values(), *spread.values())
    return scan(body, tuple(states), slices, course.return_sequences)


def step(
    ops: Ops,
    variant: Variant,
    params: Mapping[str, Array],
    x: Array,
    states: States,
    *,
    take_h: Array | float | None = None,
    take_c: Array | float | None = None,
    recurrent_mask: Array | None = None,
    candidate_mask: Array | None = None,
    recurrent_gradient_clip: float | None = None,
    functions: Mapping[str, Callable[[Array], Array]] | None = None,
    gates: str = "",
) -> States:
    """Run a cell for one step.

    Args:
        ops: a framework's operations.
        variant: the cell.
        params: canonical weights, see [lnrnn.params][].
        x: inputs (B, I).
        states: h (B, R), and c (B, H) of an lstm.
        take_h: zoneout, the share of the new h, (B, R) or a number.
        take_c: the same of c, (B, H) or a number.
        recurrent_mask: factor on h in the recurrent projection, (B, R).
        candidate_mask: factor on the activated candidate, (B, H).
        recurrent_gradient_clip: bound on the derivatives that return at each step.
        functions: activations in place of those that the variant names, by the name of
            the variant's field.
        gates: their order in the weights; empty for the canonical one.

    Returns:
        The new states; h is the output.
    """
    ops.count()
    sites = site_vectors(ops, variant, params, sizes_of(variant, params).units, gates)
    recurrence = Recurrence(ops, variant, params, sites, functions, recurrent_gradient_clip, gates)
    noise = Noise(take_h, take_c, recurrent_mask, candidate_mask)
    return recurrence.step(recurrence.inputs(x), tuple(states), noise)


def _moves(value: Array) -> bool:
    """Whether noise differs from step to step: (T, B, .) and not (B, .) or a number."""
    return not _is_number(value) and len(value.shape) == 3


def _is_number(value: Array | float) -> bool:
    return isinstance(value, (int, float))
