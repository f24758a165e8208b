"""Leading zero steps: default layers keep finite gradients where the published ones do not."""

from __future__ import annotations

import numpy as np
import pytest
from keras_cases import LSTM, draw, each_kind, gradients

# zero steps before the first input; the row without any is a long random sequence
PREFIXES = (0, 1, 8, 64, 1000)
STEPS, INPUTS = 1010, 4


def _gradients(layer):
    """Of a loss on all outputs, so that every step has a gradient of its own."""
    x = draw(len(PREFIXES), STEPS, INPUTS, seed=11)
    for row, zeros in enumerate(PREFIXES):
        x[row, :zeros] = 0
    layer.build(x.shape)
    return gradients(layer, x, training=True)


def _finite_rows(dx):
    """The prefixes whose sequences have a finite gradient."""
    return {zeros for zeros, g in zip(PREFIXES, dx, strict=True) if np.isfinite(g).all()}


@each_kind
@pytest.mark.parametrize("units", [32, 128, 512])
def test_default_layers_bear_leading_zeros(kind, units):
    found = _gradients(kind.layer(units, return_sequences=True))
    assert {g.dtype for g in found.values()} == {np.dtype("float32")}
    assert _finite_rows(found["x"]) == set(PREFIXES)
    assert all(np.isfinite(g).all() for g in found.values())
    assert all(np.abs(g).max() > 0 for g in found.values())


def test_published_initial_values_do_not():
    """Zero biases and gains of one: a zero step multiplies the gradient by 1 / sqrt(epsilon)."""
    found = _gradients(LSTM.layer(32, return_sequences=True, variant="haste_lnlstm"))
    assert not {64, 1000} & _finite_rows(found["x"])
    assert not np.isfinite(found["kernel"]).all()
