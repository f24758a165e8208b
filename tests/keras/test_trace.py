"""Traces of Keras layers and models, on every backend."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops
from keras_cases import BATCH, INPUTS, STEPS, UNITS, to_numpy

import lnrnn
from lnrnn.keras import LayerNormGRU, LayerNormLSTM
from lnrnn.testing import assert_close


def test_layers_of_a_model_by_their_paths() -> None:
    """Masks from layers before, both directions, the last output only, and derivatives."""
    rng = np.random.default_rng(5)
    gru = LayerNormGRU(UNITS, return_sequences=True, name="gru")
    model = keras.Sequential(
        [
            keras.Input((STEPS, INPUTS)),
            keras.layers.Masking(),
            keras.layers.Bidirectional(gru),
            LayerNormLSTM(UNITS, zoneout=0.2, zero_output_for_mask=True, name="lstm"),
        ],
        name="model",
    )
    for weight in model.weights:
        weight.assign(weight + 0.3 * rng.normal(size=weight.shape))
    x = rng.normal(size=(BATCH, STEPS, INPUTS)).astype("float32")
    x[1, 3:] = 0
    scale = ops.convert_to_tensor(rng.normal(size=(BATCH, UNITS)), "float32")

    found = lnrnn.trace(model, x, loss=lambda y: ops.sum(y * scale))
    assert [p.rsplit("/")[-1] for p in found] == ["forward_gru", "backward_gru", "lstm"]
    forward, backward, last = found.values()
    assert last.mask.sum() == BATCH * STEPS - 2
    for layer in found.values():
        assert layer.difference < 1e-5
    joined = np.concatenate([forward["y"], backward["y"][::-1]], axis=-1)
    assert_close("x of the last", last["x"] * last.mask[..., None], joined, "float32")
    assert_close("output", to_numpy(found.output), last["y"][-1], "float32")
    # the derivative with respect to x from differences, in one random direction
    direction = rng.normal(size=x.shape)
    direction[1, 3:] = 0
    dx = forward["dx"] + backward["dx"][::-1]
    ahead, behind = (to_numpy(model((x + s * 1e-2 * direction).astype("float32"))) for s in (1, -1))
    expected = ((ahead - behind) * to_numpy(scale)).sum() / 2e-2
    given = (dx.transpose(1, 0, 2) * direction).sum()
    # a difference of float32 numbers over a step of 1e-2
    assert_close("derivative", given, expected, "float16")
    # no trace is left in the layers
    assert "inner_loop" not in vars(model.layers[-1])
