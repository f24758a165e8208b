"""Trains a small model with TensorFlow Addons and saves it each way that its Keras can.

Runs in an environment of its own (tensorflow 2.15, tensorflow-addons 0.23), without lnrnn:
`python tfa_program.py DIR`.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tensorflow_addons as tfa  # noqa: E402  # pyright: ignore[reportMissingImports]


def model() -> Any:
    """Two layer-normalised LSTMs, one of them in both directions, and a simple RNN."""
    inputs = tf.keras.Input((None, 5), name="inputs")
    hidden = tf.keras.layers.RNN(
        tfa.rnn.LayerNormLSTMCell(7, norm_epsilon=2e-3), return_sequences=True, name="first"
    )(inputs)
    hidden = tf.keras.layers.Bidirectional(
        tf.keras.layers.RNN(tfa.rnn.LayerNormLSTMCell(4), return_sequences=True), name="both"
    )(hidden)
    hidden = tf.keras.layers.RNN(
        tfa.rnn.LayerNormSimpleRNNCell(6, layernorm_epsilon=1e-4), name="last"
    )(hidden)
    return tf.keras.Model(inputs, tf.keras.layers.Dense(2, name="out")(hidden))


def main(folder: Path) -> None:
    """Train, save, and keep inputs and predictions in `predictions.npz`."""
    tf.keras.utils.set_random_seed(7)
    rng = np.random.default_rng(7)
    x = rng.standard_normal((24, 9, 5)).astype("float32")
    y = rng.standard_normal((24, 2)).astype("float32")
    net = model()
    net.compile(tf.keras.optimizers.Adam(0.03), "mse")
    net.fit(x, y, epochs=12, batch_size=8, verbose=0)
    # biases and gains without any symmetry, so that none can be mistaken for another
    net.set_weights([w + 0.1 * rng.standard_normal(w.shape) for w in net.get_weights()])

    np.savez(folder / "predictions.npz", x=x, y=net.predict(x, verbose=0))
    net.save(folder / "with_optimizer.keras")
    net.save(folder / "with_optimizer.h5")
    tf.train.Checkpoint(model=net, optimizer=net.optimizer).write(str(folder / "object.ckpt"))

    tf.keras.backend.clear_session()
    bare = model()
    bare.set_weights(net.get_weights())
    bare.save(folder / "model.keras")
    bare.save(folder / "model.h5")
    bare.save(folder / "saved_model", save_format="tf")
    bare.save_weights(folder / "model.weights.h5")
    bare.save_weights(folder / "legacy_weights.h5", save_format="h5")
    bare.save_weights(folder / "weights.ckpt", save_format="tf")
    names: dict[str, Any] = {w.name.removesuffix(":0"): w.numpy() for w in net.weights}
    np.savez(folder / "weights.npz", **names)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
