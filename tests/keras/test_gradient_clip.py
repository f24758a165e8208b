"""Gradients of a layer, with and without the clip at each step, are those of the reference."""

from __future__ import annotations

import numpy as np
import pytest
from keras import ops
from keras_cases import (
    BATCH,
    GRU,
    LSTM,
    STEPS,
    UNITS,
    draw,
    each_kind,
    gradients,
    mixed,
    sequences,
)

from lnrnn.reference import backward, forward
from lnrnn.testing import VARIANTS, assert_close

MASK = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 1], [1, 1, 1, 0, 0]], bool)


@each_kind
@pytest.mark.parametrize("bound", [None, 0.05], ids=["unbounded", "clipped"])
@pytest.mark.parametrize("unroll", [False, True], ids=["loop", "unrolled"])
def test_gradients(kind, bound, unroll):
    layer = mixed(
        kind.layer(UNITS, return_sequences=True, recurrent_gradient_clip=bound, unroll=unroll)
    )
    x, dy = sequences(), draw(BATCH, STEPS, UNITS, seed=5)
    found = gradients(layer, x, lambda y: ops.sum(ops.multiply(y, dy)), mask=MASK)
    run = forward(layer.cell.variant, layer.params(), x.swapaxes(0, 1), mask=MASK.T)
    expected = backward(run, dy.swapaxes(0, 1), recurrent_gradient_clip=bound)
    free = backward(run, dy.swapaxes(0, 1))
    assert_close("x", found.pop("x"), expected.x.swapaxes(0, 1), "float32", gradient=True)
    for name, gradient in layer.cell.layout.to_canonical(found).items():
        assert_close(name, gradient, expected.params[name], "float32", gradient=True)
    if bound is not None:
        assert np.abs(free.params["kernel"] - expected.params["kernel"]).max() > 0.1


@pytest.mark.parametrize("name", ["lstm_x_h_cell_carry", "lstm_peephole_inside_cell_carry"])
def test_norms_of_states_and_peepholes_are_bounded(name):
    options = {"variant": VARIANTS[name], "recurrent_gradient_clip": 0.05}
    layer = mixed(LSTM.layer(UNITS, return_sequences=True, **options))
    x, dy = sequences(), draw(BATCH, STEPS, UNITS, seed=5)
    found = gradients(layer, x, lambda y: ops.sum(ops.multiply(y, dy)))
    run = forward(layer.cell.variant, layer.params(), x.swapaxes(0, 1))
    expected = backward(run, dy.swapaxes(0, 1), recurrent_gradient_clip=0.05).params
    for weight, gradient in expected.items():
        assert_close(weight, found[weight], gradient, "float32", gradient=True)


def test_a_norm_by_the_deviation_has_a_derivative_at_equal_numbers():
    variant = VARIANTS["gru_x_h_deviation"]
    layer = GRU.layer(UNITS, variant=variant, bias_initializer="zeros", engine="portable")
    x = np.zeros_like(sequences())
    layer.build(x.shape)
    found = gradients(layer, x, ops.sum)
    assert all(np.isfinite(gradient).all() for gradient in found.values())
