"""What every competitor computes at a point, and the gate that its results pass first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lnrnn.bench.settings import Point
from lnrnn.frontends import families
from lnrnn.params import Sizes
from lnrnn.relatives import weights as of_relatives
from lnrnn.relatives.relative import DREAMER
from lnrnn.testing import assert_close, random_params
from lnrnn.variant import Variant

Array = np.ndarray
FAMILIES = {"lstm": families.LSTM, "gru": families.GRU, "simple": families.SIMPLE}
NORMALISED, PLAIN, LIMIT = "normalised", "un-normalised", "limit"
BLOCK_GRU, BLOCKS = "block_gru", 8
# the recurrence is kept from chaos, in which rounding errors of float32 would grow with T
_RECURRENT = {"h_norm_gain": 0.25, "sum_norm_gain": 0.5, "recurrent_kernel": 0.5}


class Problem:
    """Inputs, upstream gradients and weights, the same for all competitors.

    Args:
        cell: `"lstm"`, `"gru"`, `"simple"` or `"block_gru"`.
        point: T, B, H.
        projected: whether h is projected to R, half of the units; of an LSTM.
    """

    def __init__(self, cell: str, point: Point, projected: bool = False) -> None:
        self.cell, self.point, self.projected = cell, point, projected
        self.variants: dict[str, Variant] = {}
        if cell != BLOCK_GRU:
            self.variants[NORMALISED] = families.find(FAMILIES[cell], None)[0]
            self.variants[PLAIN] = families.plain(FAMILIES[cell])
        if projected:
            self.variants = {k: v.replace(projection=True) for k, v in self.variants.items()}
        self.hidden = max(point.units // 2, 1) if projected else point.units  # R
        rng = np.random.default_rng(0)
        self.x: Array = rng.standard_normal(point, np.float32)  # (T, B, I)
        self.dy: Array = rng.standard_normal((*point[:2], self.hidden), np.float32)  # (T, B, R)
        # from T down to T / 2, and which steps of the batch they leave, (T, B, 1)
        self.lengths: Array = np.linspace(point.steps, (point.steps + 1) // 2, point.batch)
        self.lengths = self.lengths.astype(np.int64)
        self.valid: Array = (np.arange(point.steps)[:, None] < self.lengths)[..., None]
        sizes = Sizes(point.units, point.units, self.hidden)
        self.params = {
            kind: {
                name: (value * _RECURRENT.get(name, 1.0)).astype(np.float32)
                for name, value in random_params(variant, sizes, rng).items()
            }
            for kind, variant in self.variants.items()
        }
        if cell == BLOCK_GRU:
            self.params[NORMALISED] = _block_gru(point.units, rng)
        shape = point.batch, point.units
        names = self.variants[PLAIN].states if self.variants else ()
        self.states: list[Array] = [  # (B, H) each, of the step before
            np.tanh(rng.standard_normal(shape, np.float32)) for _ in names
        ]

    @property
    def product(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The shapes of the factors of one large product: (T B, I) and (I, G H)."""
        steps, batch, units = self.point
        gates = len(self.variants[PLAIN].gates)
        return (steps * batch, units), (units, gates * units)


def _block_gru(units: int, rng: np.random.Generator) -> dict[str, Array]:
    """Weights of Dreamer's block GRU as it begins, and biases; projections as wide as h."""
    sizes = of_relatives.Sizes(units, units, units, min(BLOCKS, units), 1)
    found = {}
    for name, shape in of_relatives.shapes(DREAMER, sizes).items():
        mean, deviation = of_relatives.start(name, shape)
        found[name] = mean + (deviation or 0.1) * rng.standard_normal(shape, np.float32)
    return found


class Runs(NamedTuple):
    """A competitor that is ready to run.

    Args:
        calls: what is timed, by the names of the task, in order; each returns when its results
            are there.
        y: the outputs (T, B, H) that it computes; None where there is nothing to compare.
        gradients: the gradients of canonical weights, as `kernel` (I, G H) and `recurrent_kernel`
            (H, G H), and of `x` (T, B, I) where it gives them; None likewise.
    """

    calls: Mapping[str, Callable[[], Any]]
    y: Callable[[], Array] | None = None
    gradients: Callable[[], Mapping[str, Array]] | None = None


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
        dtype: the precision of its products.
        base: whether all others of its kind are compared with it.
    """

    name: str
    kind: str
    build: Callable[[Problem], Runs]
    at: Callable[[Point], bool] = _everywhere
    dtype: str = "float32"
    base: bool = False


class DisagreementError(Exception):
    """Competitors computed different numbers, so that there are no figures."""


def check(ready: Mapping[Competitor, Runs]) -> None:
    """Raise unless all competitors of a kind compute what the base of it does.

    Args:
        ready: competitors and their runs.

    Raises:
        DisagreementError: one does not agree with its base to the tolerance of its dtype.
    """
    for base in filter(lambda c: c.base, ready):
        expected = _results(ready[base])
        for other, runs in ready.items():
            if other.kind != base.kind or other is base:
                continue
            for what, value in _results(runs).items():
                try:
                    assert_close(what, value, expected[what], other.dtype, gradient=what != "y")
                except AssertionError as error:
                    raise DisagreementError(
                        f"{other.name} disagrees with {base.name}: {error}"
                    ) from error


def _results(runs: Runs) -> dict[str, Array]:
    found: dict[str, Array] = {"y": runs.y()} if runs.y else {}
    if runs.gradients:
        found |= {f"d{n}": g for n, g in runs.gradients().items()}
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
