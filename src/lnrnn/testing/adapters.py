"""What runs a golden file: each engine and front end behind one small function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from lnrnn import reference
from lnrnn.variant import Variant

Array = np.ndarray


class Pass(NamedTuple):
    """One run over a sequence, and the loss weights of its results.

    Args:
        x: (T,B,I).
        h0: (B,R) or None.
        c0: (B,H) or None.
        options: `mask`, `masked_output`, `reset`, `take_h`, `take_c`, as
            [lnrnn.reference.forward][] names them.
        dy: (T,B,R), weights of y in the loss, or None.
        dh: (B,R), weights of the final h, or None.
        dc: (B,H), weights of the final c, or None.
        dtype: `"float32"` or `"float64"`.
    """

    x: Array
    h0: Array | None
    c0: Array | None
    options: Mapping[str, Any]
    dy: Array | None
    dh: Array | None
    dc: Array | None
    dtype: str

    @property
    def has_loss(self) -> bool:
        """Whether there is a loss to differentiate."""
        return self.dy is not None or self.dh is not None or self.dc is not None


class Results(NamedTuple):
    """What a run gives.

    Args:
        y: (T,B,R).
        h: final h (B,R).
        c: final c (B,H), None where the cell has none.
        gradients: of the loss by `x`, `h0`, `c0` and canonical weight names; None where
            the pass has no loss.
    """

    y: Array
    h: Array
    c: Array | None
    gradients: dict[str, Array] | None


class Adapter(Protocol):
    """Runs a variant over a sequence."""

    def __call__(self, variant: Variant, params: Mapping[str, Array], given: Pass) -> Results: ...


def run_reference(variant: Variant, params: Mapping[str, Array], given: Pass) -> Results:
    """The NumPy reference, always in float64."""
    run = reference.forward(variant, params, given.x, given.h0, given.c0, **given.options)
    if not given.has_loss:
        return Results(run.y, run.h, run.c, None)
    dy = np.zeros_like(run.y) if given.dy is None else given.dy
    found = reference.backward(run, dy, given.dh, given.dc)
    gradients = {"x": found.x, "h0": found.h0, **found.params}
    if found.c0 is not None:
        gradients["c0"] = found.c0
    return Results(run.y, run.h, run.c, gradients)


ENGINES: dict[str, Adapter] = {"reference": run_reference}
FRONTENDS: dict[str, Callable[[str | None], Adapter]] = {}


def choose(engine: str | None = None, frontend: str | None = None) -> Adapter:
    """The adapter of a front end with an engine; the reference if neither is named."""
    if frontend is not None:
        return FRONTENDS[frontend](engine)
    return ENGINES[engine or "reference"]
