"""What every competitor computes at a point, and the gate that its results pass first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lnrnn.bench.settings import Point
from lnrnn.frontends import families
from lnrnn.params import Sizes
from lnrnn.testing import assert_close, random_params
from lnrnn.variant import Variant

Array = np.ndarray
FAMILIES = {"lstm": families.LSTM, "gru": families.GRU, "simple": families.SIMPLE}
NORMALISED, PLAIN, LIMIT = "normalised", "un-normalised", "limit"
OURS = "lnrnn native"  # what all others are compared with
# the recurrence is kept from chaos, in which rounding errors of float32 would grow with T
_RECURRENT = {"h_norm_gain": 0.25, "sum_norm_gain": 0.5, "recurrent_kernel": 0.5}


class Problem:
    """Inputs, upstream gradients and weights, the same for all competitors.

    Args:
        cell: `"lstm"`, `"gru"` or `"simple"`.
        point: T, B, H.
    """

    def __init__(self, cell: str, point: Point) -> None:
        self.cell, self.point = cell, point
        self.variants: dict[str, Variant] = {
            NORMALISED: families.find(FAMILIES[cell], None)[0],
            PLAIN: families.plain(FAMILIES[cell]),
        }
        rng = np.random.default_rng(0)
        self.x: Array = rng.standard_normal(point, np.float32)  # (T, B, I)
        self.dy: Array = rng.standard_normal(point, np.float32)  # (T, B, H)
        sizes = Sizes(point.units, point.units, point.units)
        self.params = {
            kind: {
                name: (value * _RECURRENT.get(name, 1.0)).astype(np.float32)
                for name, value in random_params(variant, sizes, rng).items()
            }
            for kind, variant in self.variants.items()
        }

    @property
    def product(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The shapes of the factors of one large product: (T B, I) and (I, G H)."""
        steps, batch, units = self.point
        gates = len(self.variants[PLAIN].gates)
        return (steps * batch, units), (units, gates * units)


class Runs(NamedTuple):
    """A competitor that is ready to run.

    Args:
        forward: computes the outputs and returns when they are there.
        training: computes outputs and the gradients of x and of all weights, likewise.
        y: from what `forward` returned to (T, B, H); None where there is nothing to compare.
        gradients: from what `training` returned to the gradients of `x` (T, B, I) and of the
            canonical `kernel` (I, G H) and `recurrent_kernel` (H, G H); None likewise.
    """

    forward: Callable[[], Any]
    training: Callable[[], Any]
    y: Callable[[Any], Array] | None = None
    gradients: Callable[[Any], Mapping[str, Array]] | None = None


def _everywhere(point: Point) -> bool:
    return True


@dataclass(frozen=True)
class Competitor:
    """Something that is measured.

    Args:
        name: in the tables.
        kind: whose results it has: `NORMALISED`, `PLAIN` or `LIMIT`.
        build: makes it ready for a problem.
        at: whether it is measured at a point.
    """

    name: str
    kind: str
    build: Callable[[Problem], Runs]
    at: Callable[[Point], bool] = _everywhere


class DisagreementError(Exception):
    """Competitors computed different numbers, so that there are no figures."""


def check(ready: Mapping[str, tuple[str, Runs]], bases: Mapping[str, str]) -> None:
    """Raise unless all competitors of a kind compute the same outputs and gradients.

    Args:
        ready: kind and runs by name.
        bases: kind to the name of the competitor that all others of it are compared with.

    Raises:
        DisagreementError: two do not agree to the tolerance of float32.
    """
    for kind, base in bases.items():
        expected = _results(ready[base][1])
        for name, (own, runs) in ready.items():
            if own != kind or name == base:
                continue
            for what, value in _results(runs).items():
                try:
                    assert_close(what, value, expected[what], "float32", gradient=what != "y")
                except AssertionError as error:
                    raise DisagreementError(f"{name} disagrees with {base}: {error}") from error


def _results(runs: Runs) -> dict[str, Array]:
    found: dict[str, Array] = {}
    if runs.y:
        found["y"] = runs.y(runs.forward())
    if runs.gradients:
        found |= {f"d{n}": g for n, g in runs.gradients(runs.training()).items()}
    return found


def reordered(array: Array, gates: str, canonical: str) -> Array:
    """Columns of gates in the order `gates` put into canonical order.

    Args:
        array: (..., G H).
        gates: the order that it has.
        canonical: the order wanted.

    Example:
        >>> reordered(np.array([1, 2, 3]), "zrn", "rzn").tolist()
        [2, 1, 3]
    """
    blocks = np.split(array, len(gates), axis=-1)
    return np.concatenate([blocks[gates.index(g)] for g in canonical], axis=-1)
