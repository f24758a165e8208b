"""Streams of Keras layers and models; steps of Keras cells on the torch backend."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np
import pytest
import torch

import lnrnn
from lnrnn.engines import runs
from lnrnn.keras import LayerNormGRU, LayerNormGRUCell, LayerNormLSTM
from lnrnn.testing import assert_close


def model_of(*layers: Any) -> Any:
    model = keras.Sequential([keras.Input((None, 6)), *layers])
    rng = np.random.default_rng(0)
    model.set_weights([w + 0.3 * rng.standard_normal(w.shape) for w in model.get_weights()])
    return model


def test_a_model_of_recurrent_layers() -> None:
    model = model_of(
        LayerNormGRU(9, return_sequences=True, zoneout=0.1),
        keras.layers.Dropout(0.5),
        LayerNormLSTM(5, return_sequences=True, unit_forget_bias=True),
    )
    x = np.random.default_rng(1).standard_normal((2, 30, 6)).astype(np.float32)
    expected = np.asarray(model(x).detach()).swapaxes(0, 1)
    found = lnrnn.Stream(model, batch=2)(x.swapaxes(0, 1))
    np.testing.assert_array_equal(found, expected)


def test_layers_that_would_be_lost_are_refused() -> None:
    model = model_of(LayerNormGRU(4), keras.layers.Dense(3))
    with pytest.raises(ValueError, match="got Dense in Sequential: give the recurrent layers"):
        lnrnn.Stream(model)
    with pytest.raises(ValueError, match="reverse direction"):
        lnrnn.Stream(model_of(keras.layers.Bidirectional(LayerNormGRU(4))))
    with pytest.raises(ValueError, match="reverse direction"):
        lnrnn.Stream(model_of(LayerNormGRU(4, go_backwards=True)))
    with pytest.raises(ValueError, match="got GRU in Sequential"):
        lnrnn.Stream(model_of(keras.layers.GRU(4)))


def test_a_cell_takes_the_native_step_where_its_weights_stand_still() -> None:
    cell, plain = LayerNormGRUCell(7), LayerNormGRUCell(7, engine="portable")
    for one in (cell, plain):
        one.build((None, 4))
    x, h = torch.randn(3, 4), torch.randn(3, 7)
    ran = []
    for scale in (1.0, 1.0, 1.0, 2.0, 2.0):
        cell.set_weights([scale * w for w in plain.get_weights()])
        before = runs()
        with torch.no_grad():
            y, _ = cell(x, [h])
        ran.append(next(iter(runs() - before)))
        plain.set_weights(cell.get_weights())
        with torch.no_grad():
            expected, _ = plain(x, [h])
        assert_close("y", y.numpy(), expected.numpy(), "float32")
        plain.set_weights([w / scale for w in plain.get_weights()])
    native, portable = ("native", "torch"), ("portable", "torch")
    assert Counter(ran) == Counter({native: 3, portable: 2}) and ran[3] == portable
