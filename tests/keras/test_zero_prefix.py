"""Leading zero steps: default layers keep finite gradients where the published ones do not."""

from __future__ import annotations

import numpy as np
import pytest
from keras_cases import KINDS, LSTM, draw, gradients

BATCH, STEPS, INPUTS = 2, 10, 4
PREFIXES = (0, 1, 8, 64, 1000)
SIZES = (32, 128, 512)


def _finite(layer, x) -> bool:
    layer.build(x.shape)
    found = gradients(layer, x, training=True)
    assert all(g.dtype == np.float32 for g in found.values())
    return all(np.isfinite(g).all() for g in found.values())


def _prefixed(zeros):
    x = np.zeros((BATCH, zeros + STEPS, INPUTS), "float32")
    x[:, zeros:] = draw(BATCH, STEPS, INPUTS, seed=11)
    return x


@pytest.mark.parametrize("units", SIZES)
@pytest.mark.parametrize("name", KINDS)
def test_default_layers_bear_leading_zeros(name, units):
    failed = [n for n in PREFIXES if not _finite(KINDS[name].layer(units), _prefixed(n))]
    assert not failed


@pytest.mark.parametrize("name", KINDS)
def test_default_layers_bear_long_random_sequences(name):
    assert _finite(KINDS[name].layer(128), draw(BATCH, 1000, INPUTS, seed=12))


def test_published_initial_values_do_not():
    """Zero biases and gains of one: each zero step multiplies the gradient by 1/sqrt(epsilon)."""
    layer = LSTM.layer(32, variant="haste_lnlstm")
    assert _finite(LSTM.layer(32, variant="haste_lnlstm"), _prefixed(0))
    assert not _finite(layer, _prefixed(64))
