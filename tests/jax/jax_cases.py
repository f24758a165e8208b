"""Weights and sequences that the tests of the JAX front ends share."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnrnn.frontends import families
from lnrnn.params import Sizes
from lnrnn.testing import assert_close, random_params
from lnrnn.variant import Variant

STEPS, BATCH, INPUTS, UNITS = 5, 4, 3, 6
DIALECTS = {"lstm": "haste_lnlstm", "gru": "nematus_lngru", "simple": "tfa_lnsimplernn"}
each_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)


class Case(NamedTuple):
    """A cell with random weights, a sequence (B, T, I) and a state, in float64."""

    variant: Variant
    params: dict[str, Any]
    x: jax.Array
    state: Any


def case(dialect: str, seed: int = 5, learned_state: bool = False) -> Case:
    variant, _ = families.named(dialect)
    rng = np.random.default_rng(seed)
    sizes = Sizes(INPUTS, UNITS, UNITS)
    drawn = random_params(variant, sizes, rng, learned_state)
    params = {n: jnp.asarray(p) for n, p in drawn.items()}
    states = [jnp.asarray(0.5 * rng.standard_normal((BATCH, UNITS))) for _ in variant.states]
    x = jnp.asarray(rng.standard_normal((BATCH, STEPS, INPUTS)))
    return Case(variant, params, x, tuple(states) if len(states) > 1 else states[0])


def random_mask(seed: int = 3) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).random((BATCH, STEPS)) < 0.6)


def weighted(results: Any) -> Any:
    """A loss without symmetry of all results."""
    rng = np.random.default_rng(11)
    leaves = jax.tree.leaves(results)
    return sum((leaf * rng.standard_normal(leaf.shape)).sum() for leaf in leaves)


def assert_same(actual: Any, expected: Any, dtype: str = "float64", gradient: bool = False) -> None:
    """Raise unless two nests of arrays agree to the tolerance of a dtype."""
    a, e = jax.tree.leaves(actual), jax.tree.leaves(expected)
    assert len(a) == len(e)
    for i, (one, other) in enumerate(zip(a, e, strict=True)):
        assert_close(
            f"array {i}", np.asarray(one, float), np.asarray(other, float), dtype, gradient
        )
