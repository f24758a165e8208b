"""Exported models: loaded where nothing of ours is, with another batch and length."""

# pyright: reportArgumentType=false
# (Keras hints a string for `verbose` and `jit_compile`)

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras_cases import (
    BACKEND,
    INPUTS,
    KINDS,
    UNITS,
    each_kind,
    in_fresh_process,
    mixed,
    sequences,
    to_numpy,
)

from lnrnn.testing import assert_close

_SERVE = """
import sys
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
assert "lnrnn" not in sys.modules
np.save(sys.argv[3], model.serve(tf.constant(np.load(sys.argv[2]))).numpy())
"""

# keras.Model.export writes this format with these backends
if BACKEND in ("tensorflow", "jax"):

    def _check(model, x, tmp_path):
        model.export(str(tmp_path / "model"), verbose=False)
        np.save(tmp_path / "x.npy", x)
        in_fresh_process(_SERVE, tmp_path / "model", tmp_path / "x.npy", tmp_path / "y.npy")
        expected = model.predict(x, verbose=0)
        assert_close("y", np.load(tmp_path / "y.npy"), expected, "float32")

    def test_saved_model(tmp_path):
        """All three layers, both directions and a cell."""
        model = keras.Sequential(
            [
                keras.Input((None, INPUTS)),
                *(kind.layer(UNITS, return_sequences=True) for kind in KINDS.values()),
                keras.layers.Bidirectional(KINDS["gru"].layer(4, return_sequences=True)),
                keras.layers.RNN(KINDS["lstm"].cell(3)),
            ]
        )
        mixed(model.layers[1], inputs=UNITS)
        _check(model, sequences(2, 9), tmp_path)

    def test_saved_model_with_masks(tmp_path):
        model = keras.Sequential(
            [
                keras.Input((None, INPUTS)),
                keras.layers.Masking(-7.0),
                KINDS["lstm"].layer(UNITS, return_sequences=True),
                keras.layers.Bidirectional(KINDS["simple"].layer(UNITS)),
            ]
        )
        x = sequences(2, 9)
        x[0, 3:5] = x[1, :2] = x[1, 7:] = -7.0
        _check(model, x, tmp_path)


if BACKEND == "torch":
    import onnxruntime

    @each_kind
    # Keras exports with PyTorch's older exporter, which distrusts every Python number
    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
    def test_onnx(kind, tmp_path):
        """As with Keras's own layers, for any batch and a fixed length."""
        model = keras.Sequential(
            [
                keras.Input((4, INPUTS)),
                keras.layers.Masking(-7.0),
                keras.layers.Bidirectional(kind.layer(UNITS, return_sequences=True)),
                kind.layer(3),
            ]
        )
        mixed(model.layers[-1], inputs=2 * UNITS)
        x = sequences(2, 4)
        x[0, 1:3] = -7.0
        expected = to_numpy(model(x))
        model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        (found,) = session.run(None, {session.get_inputs()[0].name: x})
        assert_close("y", found, expected, "float32")
