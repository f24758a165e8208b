"""Whole sequences: resets, zoneout, masks and the loop over time, and its way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from lnrnn.params import sizes_of
from lnrnn.reference.cells import STEPS, Step
from lnrnn.reference.norm import Array
from lnrnn.reference.parts import Cell, Totals
from lnrnn.variant import Variant

MaskedOutput = Literal["repeat", "hold", "zero"]


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
    take_h: Array
    take_c: Array
    emit: Array
    inside: tuple[dict[str, Array], ...]


@dataclass(frozen=True)
class Gradients:
    """Gradients of x (T,B,I), h0 (B,R), c0 (B,H; lstm) and of every weight by name.

    `h` (T,B,R) and `c` (T,B,H; lstm) are those of the states after each step.
    """

    x: Array
    h0: Array
    c0: Array | None
    params: dict[str, Array]
    h: Array
    c: Array | None


def forward(
    variant: Variant,
    params: Mapping[str, ArrayLike],
    x: ArrayLike,
    h0: ArrayLike | None = None,
    c0: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    masked_output: MaskedOutput = "repeat",
    take_h: ArrayLike | None = None,
    take_c: ArrayLike | None = None,
    recurrent_mask: ArrayLike | None = None,
    candidate_mask: ArrayLike | None = None,
) -> Forward:
    r"""Run a cell over a sequence, in float64.

    With $\hat h = k_t h_{t-1}$ (zero where reset), the new state of a step is
    $h_t = a_t h' + (1 - a_t) \hat h$, where $a_t$ is the share that zoneout takes, and
    zero where masked; c likewise. The output is $y_t = s_t h_t$.

    Args:
        variant: the cell.
        params: its weights, as [lnrnn.params][] names them.
        x: (T,B,I).
        h0: (B,R); None is zeros.
        c0: (B,H), of an lstm; None is zeros.
        mask: (T,B), True where a step is valid; a masked step holds the states.
        reset: (T,B), True where the incoming states are set to zero before the step; it
            has no effect on a masked step.
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
    _check_options(variant, masked_output, c0=c0, take_c=take_c, candidate_mask=candidate_mask)

    wide_h = (steps, batch, sizes.hidden)
    wide_c = (steps, batch, sizes.units if variant.cell == "lstm" else 0)
    wide_n = (steps, batch, sizes.units)
    h = _filled("h0", h0, 0.0, [wide_h[1:]])
    c = _filled("c0", c0, 0.0, [wide_c[1:]])
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
        h, c = keep[t] * h, keep[t] * c
        here = replace(cell, inside={})
        step = STEPS[variant.cell](here, x[t], h, c, recurrent[t], candidate[t])
        h = shares_h[t] * step.h + (1 - shares_h[t]) * h
        c = shares_c[t] * step.c + (1 - shares_c[t]) * c
        y[t] = emit[t] * h
        here.see(h=h, **({"c": c} if variant.cell == "lstm" else {}))
        tape.append(step)
        inside.append(here.inside)
    final_c = c if variant.cell == "lstm" else None
    return Forward(y, h, final_c, cell, tuple(tape), keep, shares_h, shares_c, emit, tuple(inside))


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
        gradients of x, h0, c0 and the weights.

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
    all_h, all_c = np.zeros((steps, *gh.shape)), np.zeros((steps, *gc.shape))
    totals = Totals({n: np.zeros_like(w) for n, w in cell.weights.items()}, recurrent_gradient_clip)
    for t in reversed(range(steps)):
        gh = gh + run.emit[t] * dy[t]
        all_h[t], all_c[t] = gh, gc
        new_h, new_c = run.take_h[t] * gh, run.take_c[t] * gc
        dx[t], old_h, old_c = run.steps[t].back(new_h, new_c, totals)
        gh = run.keep[t] * (old_h + (gh - new_h))
        gc = run.keep[t] * (old_c + (gc - new_c))
    return Gradients(dx, gh, gc if lstm else None, totals.params, all_h, all_c if lstm else None)


def _check_options(variant: Variant, masked_output: str, **given: Any) -> None:
    """Refuse what this cell has no place for."""
    if masked_output not in get_args(MaskedOutput):
        raise ValueError(
            f"masked_output is one of {', '.join(map(repr, get_args(MaskedOutput)))}; "
            f"got {masked_output!r}."
        )
    places = {
        "c0": ("lstm",),
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
