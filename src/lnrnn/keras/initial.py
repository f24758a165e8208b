"""Initial values of the weights: those of a dialect, or ours, which survive zero inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import initializers, ops

from lnrnn.dialects import Dialect
from lnrnn.frontends.initial import divided, initializer
from lnrnn.params import columns
from lnrnn.variant import Variant


def start(name: str, variant: Variant, dialect: Dialect | None) -> Any:
    """The initialiser of a canonical weight: of the dialect, or ours."""
    given = initializer(name, variant, dialect)
    if isinstance(given, (int, float)):
        return initializers.Constant(given)
    return given if isinstance(given, str) else dict(given)


def in_groups(given: Any, gates: str, groups: tuple[str, ...]) -> Callable[..., Any]:
    """An initialiser that draws the columns of each group of gates apart, with their own fans."""

    def draw(shape: tuple[int, ...], dtype: Any = None) -> Any:
        shapes, places = divided(shape, gates, groups)
        # a fresh object for each group: a Keras initialiser repeats its values
        drawn = [_found(given)(one, dtype) for one in shapes]
        return ops.concatenate([drawn[i][..., columns] for i, columns in places], axis=-1)

    return draw


def rows(given: Sequence[Any]) -> Callable[..., Any]:
    """An initialiser of a weight whose rows are drawn apart."""

    def draw(shape: tuple[int, ...], dtype: Any = None) -> Any:
        return ops.stack([_found(one)(shape[1:], dtype) for one in given])

    return draw


def with_forget(given: Any, gates: str, value: float, row: int) -> Callable[..., Any]:
    """An initialiser of a bias, in a row of which the forget columns start at `value`."""
    initializer = _found(given)

    def draw(shape: tuple[int, ...], dtype: Any = None) -> Any:
        units = shape[-1] // len(gates)
        forget = np.zeros(shape, bool)
        forget.reshape(-1, shape[-1])[row, columns(gates, "f", units)] = True
        return ops.where(forget, ops.full(shape, value, dtype), initializer(shape, dtype))

    return draw


def _found(given: Any) -> Callable[..., Any]:
    return initializers.get(given)  # pyright: ignore[reportReturnType]
