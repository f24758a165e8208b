"""Exported models: loaded where nothing of ours is, with another batch and length."""

# pyright: reportArgumentType=false
# (Keras hints a string for `verbose` and `jit_compile`)

from __future__ import annotations

import keras
import numpy as np
from keras_cases import BACKEND, INPUTS, KINDS, UNITS, in_fresh_process, mixed, sequences

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
