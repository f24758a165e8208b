"""The random masks of a recurrence: which there are, of what shapes."""

from __future__ import annotations

from typing import NamedTuple

from lnrnn.variant import Variant

RECURRENT_DROPOUT_MODES = ("sequence", "step", "candidate")


class Draw(NamedTuple):
    """A random mask.

    Args:
        shape: of the mask.
        keep: the probability of a one.
        scale: what a one is in place of 1.
    """

    shape: tuple[int, ...]
    keep: float
    scale: float = 1.0


def plan(
    leading: tuple[int, ...],
    hidden: int,
    units: int,
    training: bool,
    *,
    zoneout: float = 0.0,
    zoneout_cell: float = 0.0,
    recurrent_dropout: float = 0.0,
    recurrent_dropout_mode: str = "sequence",
) -> dict[str, float | Draw]:
    """Zoneout and the dropout of the recurrence, for one sequence or one step.

    Args:
        leading: (T, B) of a sequence, (B,) of a step.
        hidden: R, the width of h.
        units: H.
        training: whether masks are drawn; zoneout is its expectation otherwise.
        zoneout: rate for h.
        zoneout_cell: rate for c.
        recurrent_dropout: rate of the dropout of the mode.
        recurrent_dropout_mode: one of `RECURRENT_DROPOUT_MODES`.

    Returns:
        Keywords of [lnrnn.engines.portable.sequence.sequence][], each a number or a mask to
            draw.
    """
    found: dict[str, float | Draw] = {}
    for name, rate, width in (("take_h", zoneout, hidden), ("take_c", zoneout_cell, units)):
        if rate:
            found[name] = Draw((*leading, width), 1 - rate) if training else 1 - rate
    if recurrent_dropout and training:
        name, shape = {
            "sequence": ("recurrent_mask", (leading[-1], hidden)),
            "step": ("recurrent_mask", (*leading, hidden)),
            "candidate": ("candidate_mask", (*leading, units)),
        }[recurrent_dropout_mode]
        keep = 1 - recurrent_dropout
        found[name] = Draw(shape, keep, 1 / keep)
    return found


def check_mode(mode: str, variant: Variant) -> None:
    """Raise unless `recurrent_dropout_mode` is one of the modes, and one that the cell has."""
    if mode not in RECURRENT_DROPOUT_MODES:
        raise ValueError(
            f"recurrent_dropout_mode is one of {RECURRENT_DROPOUT_MODES}; got {mode!r}."
        )
    if mode == "candidate" and variant.cell in ("simple", "indrnn"):
        raise ValueError(
            "recurrent_dropout_mode='candidate' drops the update of a gated cell; got cell "
            f"{variant.cell!r}: use 'sequence' or 'step'."
        )
