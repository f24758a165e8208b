"""Whole sequences: resets, zoneout, masks and the loop over time, and its way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from lnrnn.params import STATES, learned_states, sizes_of
from lnrnn.reference.cells import STEPS, Step
from lnrnn.reference.norm import Array
from lnrnn.reference.parts import Cell, Totals
from lnrnn.variant import Variant

MaskedOutput = Literal["repeat", "hold", "zero"]
# zeros, an argument, or the weights `initial_h` and `initial_c`
Origin = Literal["zeros", "given", "learned"]


@dataclass(frozen=True)
class Forward:
    """What a forward pass returns, and what its backward pass needs.

    Args:
        y: outputs (T,B,R).
        h: final h (B,R).
        c: final c (B,H) of an lstm, None otherwise.
        cell: the variant with its weights in float64.
        steps: one step per time step.
        keep: (T,B,1), 0 where the incoming states are reset.
        begins: whence the states before the first step are.
        begins_anew: whence the states are that a reset goes to.
        take_h: (T,B,R), the share of the new h; 0 where masked.
        take_c: (T,B,H), the share of the new c; 0 where masked; of width 0 without a c.
        emit: (T,B,1), 0 where a masked step emits zeros.
        inside: of each step what lies inside it, as of [lnrnn.reference.parts.Cell][], and its
            states `h` and `c`.
    """

    y: Array
    h: Array
    c: Array | None
    cell: Cell
    steps: tuple[Step, ...]
    keep: Array
    begins: Origin
    begins_anew: Origin
    take_h: Array
    take_c: Array
    emit: Array
    inside: tuple[dict[str, Array], ...]


@dataclass(frozen=True)
class Gradients:
    """Gradients of x (T,B,I), h0 (B,R), c0 (B,H; lstm) and of every weight by name.

    `h` (T,B,R) and `c` (T,B,H; lstm) are those of the states after each step.
    Those of reset_h (B,R) and reset_c (B,H; lstm) are None where these were not given.
    """

    x: Array
    h0: Array
    c0: Array | None
    params: dict[str, Array]
    h: Array
    c: Array | None
    reset_h: Array | None = None
    reset_c: Array | None = None


def forward(
    variant: Variant,
    params: Mapping[str, ArrayLike],
    x: ArrayLike,
    h0: ArrayLike | None = None,
    c0: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    reset_h: ArrayLike | None = None,
    reset_c: ArrayLike | None = None,
    masked_output: MaskedOutput = "repeat",
    take_h: ArrayLike | None = None,
    take_c: ArrayLike | None = None,
    recurrent_mask: ArrayLike | None = None,
    candidate_mask: ArrayLike | None = None,
) -> Forward:
    r"""Run a cell over a sequence, in float64.

    With $\hat h = k_t h_{t-1} + (1 - k_t) r$, where $k_t$ is zero at a reset and r the state
    that it goes to, the new state of a step is
    $h_t = a_t h' + (1 - a_t) \hat h$, where $a_t$ is the share that zoneout takes, and
    zero where masked; c likewise. The output is $y_t = s_t h_t$.  Weights that have a learned
    initial state begin there, and return there, where no other is given.

    Args:
        variant: the cell.
        params: its weights, as [lnrnn.params][] names them.
        x: (T,B,I).
        h0: (B,R); None is the learned one, or zeros.
        c0: (B,H), of an lstm; None is zeros, or the learned one if h0 is None.
        mask: (T,B), True where a step is valid; a masked step holds the states.
        reset: (T,B), True where the incoming states are replaced before the step; it
            has no effect on a masked step.
        reset_h: (B,R), the h that a reset goes to; None as of h0.
        reset_c: (B,H), the same of c, of an lstm.
        masked_output: what a masked step emits: `"repeat"` the last output, and zeros
            before the first valid step; `"hold"` the held h; `"zero"` zeros.
        take_h: zoneout, the share of the new h: a number (inference) or (T,B,R) of
            zeros and ones (training).
        take_c: zoneout, the share of the new c: a number or (T,B,H); lstm.
        recurrent_mask: (B,R) or (T,B,R), multiplies h where it enters the recurrent
            projection.
        candidate_mask: (B,H) or (T,B,H), multiplies the activated candidate.

    Returns:
        outputs, final states and what `backward` needs.

    Raises:
        ValueError: an array of another shape, or an option that the cell lacks.

    Example:
        >>> import numpy as np
        >>> cell = Variant(cell="simple")
        >>> weights = {"kernel": np.ones((1, 1)), "recurrent_kernel": np.zeros((1, 1))}
        >>> forward(cell, weights, np.zeros((2, 1, 1))).y.ravel()
        array([0., 0.])
    """
    weights = {name: np.asarray(value, np.float64) for name, value in params.items()}
    sizes = sizes_of(variant, weights)
    x = np.asarray(x, np.float64)
    if x.ndim != 3 or x.shape[2] != sizes.inputs:
        raise ValueError(
            f"x has the shape (T, B, {sizes.inputs}), as the kernel has {sizes.inputs} rows; "
            f"got {x.shape}: put time first."
        )
    steps, batch, _ = x.shape
    _check_options(
        variant,
        masked_output,
        c0=c0,
        reset_c=reset_c,
        take_c=take_c,
        candidate_mask=candidate_mask,
    )

    wide_h = (steps, batch, sizes.hidden)
    wide_c = (steps, batch, sizes.units if variant.cell == "lstm" else 0)
    wide_n = (steps, batch, sizes.units)
    shapes = wide_h[1:], wide_c[1:]
    begins, h, c = _states({"h0": h0, "c0": c0}, weights, shapes)
    begins_anew, fresh_h, fresh_c = _states(
        {"reset_h": reset_h, "reset_c": reset_c}, weights, shapes
    )
    valid = _filled("mask", mask, True, [wide_h[:2]]).astype(bool)
    x = np.where(valid[..., None], x, 0.0)  # whatever stands there: zero times NaN is NaN
    # a masked step is no step: it does not reset either
    fresh = valid & _filled("reset", reset, False, [wide_h[:2]]).astype(bool)
    keep = 1.0 - fresh[..., None]
    share = valid[..., None].astype(np.float64)  # (T,B,1)
    shares_h = share * _filled("take_h", take_h, 1.0, [wide_h, ()])
    shares_c = share * _filled("take_c", take_c, 1.0, [wide_c, ()])
    recurrent = _filled("recurrent_mask", recurrent_mask, 1.0, [wide_h, wide_h[1:]])
    candidate = _filled("candidate_mask", candidate_mask, 1.0, [wide_n, wide_n[1:]])
    emit = {
        "repeat": np.maximum.accumulate(share, axis=0),  # 1 from the first valid step on
        "hold": np.ones_like(share),
        "zero": share,
    }[masked_output]

    cell = Cell(variant, weights, sizes)
    y = np.zeros(wide_h)
    tape, inside = [], []
    for t in range(steps):
        h = keep[t] * h + (1 - keep[t]) * fresh_h
        c = keep[t] * c + (1 - keep[t]) * fresh_c
        here = replace(cell, inside={})
        step = STEPS[variant.cell](here, x[t], h, c, recurrent[t], candidate[t])
        h = shares_h[t] * step.h + (1 - shares_h[t]) * h
        c = shares_c[t] * step.c + (1 - shares_c[t]) * c
        y[t] = emit[t] * h
        here.see(h=h, **({"c": c} if variant.cell == "lstm" else {}))
        tape.append(step)
        inside.append(here.inside)
    final_c = c if variant.cell == "lstm" else None
    return Forward(
        y,
        h,
        final_c,
        cell,
        tuple(tape),
        keep,
        begins,
        begins_anew,
        shares_h,
        shares_c,
        emit,
        tuple(inside),
    )


def backward(
    run: Forward,
    dy: ArrayLike,
    dh: ArrayLike | None = None,
    dc: ArrayLike | None = None,
    *,
    recurrent_gradient_clip: float | None = None,
) -> Gradients:
    """Run a sequence backwards: from the gradients of its results to those of its inputs.

    Args:
        run: what `forward` returned.
        dy: gradient of the outputs (T,B,R).
        dh: gradient of the final h (B,R); None is zeros.
        dc: gradient of the final c (B,H), of an lstm; None is zeros.
        recurrent_gradient_clip: a bound on every element of the gradients of the raw
            recurrent products of each step (h U; for reset "before" also (r h) U_n, for an
            indrnn u h, for a norm of [x, h] the whole product; of peepholes w c), and of
            what a norm of the cell or of the output normalises; None for none.

    Returns:
        gradients of x, h0, c0, the weights and the states that resets go to.

    Raises:
        ValueError: a gradient of another shape, or a bound that is not positive.

    Example:
        >>> import numpy as np
        >>> cell = Variant(cell="simple", activation="linear")
        >>> weights = {"kernel": np.ones((1, 1)), "recurrent_kernel": np.full((1, 1), 0.5)}
        >>> run = forward(cell, weights, np.ones((3, 1, 1)))
        >>> backward(run, np.zeros((3, 1, 1)), dh=np.ones((1, 1))).x.ravel()
        array([0.25, 0.5 , 1.  ])
    """
    cell, (steps, batch, hidden) = run.cell, run.y.shape
    lstm = cell.variant.cell == "lstm"
    if not lstm and dc is not None:
        raise ValueError(f"Only an lstm has a c; got dc for cell={cell.variant.cell!r}: leave it.")
    if recurrent_gradient_clip is not None and not recurrent_gradient_clip > 0:
        raise ValueError(
            f"recurrent_gradient_clip is a positive bound; got {recurrent_gradient_clip}: use None."
        )
    dy = _filled("dy", dy, 0.0, [(steps, batch, hidden)])
    gh = _filled("dh", dh, 0.0, [(batch, hidden)])
    gc = _filled("dc", dc, 0.0, [(batch, cell.sizes.units if lstm else 0)])
    dx = np.zeros((steps, batch, cell.sizes.inputs))
    d_reset_h, d_reset_c = np.zeros_like(gh), np.zeros_like(gc)
    all_h, all_c = np.zeros((steps, *gh.shape)), np.zeros((steps, *gc.shape))
    totals = Totals({n: np.zeros_like(w) for n, w in cell.weights.items()}, recurrent_gradient_clip)
    for t in reversed(range(steps)):
        gh = gh + run.emit[t] * dy[t]
        all_h[t], all_c[t] = gh, gc
        new_h, new_c = run.take_h[t] * gh, run.take_c[t] * gc
        dx[t], old_h, old_c = run.steps[t].back(new_h, new_c, totals)
        gh, gc = old_h + (gh - new_h), old_c + (gc - new_c)
        d_reset_h += (1 - run.keep[t]) * gh
        d_reset_c += (1 - run.keep[t]) * gc
        gh, gc = run.keep[t] * gh, run.keep[t] * gc
    for origin, dh_of, dc_of in (
        (run.begins, gh, gc),
        (run.begins_anew, d_reset_h, d_reset_c),
    ):
        if origin == "learned":
            totals.params[STATES["h"]] += dh_of.sum(0)
            if lstm:
                totals.params[STATES["c"]] += dc_of.sum(0)
    found = Gradients(dx, gh, gc if lstm else None, totals.params, all_h, all_c if lstm else None)
    if run.begins_anew != "given":
        return found
    return replace(found, reset_h=d_reset_h, reset_c=d_reset_c if lstm else None)


def _states(
    given: dict[str, ArrayLike | None],
    weights: Mapping[str, Array],
    shapes: tuple[tuple[int, ...], ...],
) -> tuple[Origin, Array, Array]:
    """Whence h and c are, and the two: given, or else learned, or zeros."""
    learned = learned_states(weights)
    origin = "learned" if learned else "zeros"
    states = [*learned, None, None]
    if any(state is not None for state in given.values()):
        origin, states = "given", list(given.values())
    h, c = (
        _filled(name, state, 0.0, [shape, shape[1:]] if origin == "learned" else [shape])
        for name, state, shape in zip(given, states, shapes, strict=False)
    )
    return origin, h, c


def _check_options(variant: Variant, masked_output: str, **given: Any) -> None:
    """Refuse what this cell has no place for."""
    if masked_output not in get_args(MaskedOutput):
        raise ValueError(
            f"masked_output is one of {', '.join(map(repr, get_args(MaskedOutput)))}; "
            f"got {masked_output!r}."
        )
    places = {
        "c0": ("lstm",),
        "reset_c": ("lstm",),
        "take_c": ("lstm",),
        "candidate_mask": ("lstm", "gru", "ligru"),
    }
    for name, cells in places.items():
        if given[name] is not None and variant.cell not in cells:
            raise ValueError(
                f"{name} belongs to cell={' or '.join(map(repr, cells))}; got it for "
                f"cell={variant.cell!r}: leave it at None."
            )


def _filled(
    name: str, value: ArrayLike | None, default: float, shapes: list[tuple[int, ...]]
) -> Array:
    """`value` or `default` in the first of the shapes; it may have any of them."""
    array = np.asarray(default if value is None else value, np.float64)
    if value is not None and array.shape not in shapes:
        raise ValueError(
            f"{name} has the shape {' or '.join(map(str, shapes))} here; got {array.shape}."
        )
    return np.broadcast_to(array, shapes[0])
