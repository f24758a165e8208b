"""The regularisers of a recurrence: their options, and which random masks there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict

from lnrnn.frontends import arguments
from lnrnn.variant import Variant

RATES = ("recurrent_dropout", "zoneout", "zoneout_cell", "weight_dropout")
RECURRENT_DROPOUT_MODES = ("sequence", "step", "candidate")


class Options(TypedDict, total=False):
    """The regularisers of a recurrence; each front end says when they act."""

    zoneout: float
    zoneout_cell: float
    weight_dropout: float
    recurrent_dropout: float
    recurrent_dropout_mode: str
    recurrent_gradient_clip: float | None


class Regularized:
    """What has these options as attributes."""

    zoneout: float
    zoneout_cell: float
    weight_dropout: float
    recurrent_dropout: float
    recurrent_dropout_mode: str
    recurrent_gradient_clip: float | None

    def regularize(self, variant: Variant, options: Mapping[str, Any]) -> None:
        """Set them, as of `checked`."""
        for name, value in checked(variant, options).items():
            setattr(self, name, value)


def checked(variant: Variant, options: Mapping[str, Any]) -> dict[str, Any]:
    """All `Options`, those that were given in range and such as the cell has."""
    names = Options.__annotations__
    for name in options:
        if name not in names:
            raise arguments.ArgumentTypeError(
                f"Options are {', '.join(names)} and those that are documented here; got an "
                f"unexpected keyword argument {name!r}: use one of them."
            )
    found: dict[str, Any] = {n: arguments.rate(n, options.get(n, 0.0)) for n in RATES}
    if found["zoneout_cell"] and variant.cell != "lstm":
        raise ValueError(
            f"zoneout_cell is an option of an lstm; got cell {variant.cell!r}: use zoneout."
        )
    mode, clip = "recurrent_dropout_mode", "recurrent_gradient_clip"
    found[mode] = options.get(mode, "sequence")
    check_mode(found[mode], variant)
    return found | {clip: arguments.bound(clip, options.get(clip))}


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
