"""Trains small models with TensorFlow Addons and others and saves them each way that Keras can.

Runs in an environment of its own (tensorflow 2.15, tensorflow-addons 0.23, and where it is
installed keras-layernorm-rnn 0.2.1), without lnrnn: `python tfa_program.py DIR`.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib.util import find_spec
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


class BookCell(tf.keras.layers.Layer):
    """A simple cell whose sum is normed before its activation, by layers of Keras."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.state_size = self.output_size = units
        self.simple_rnn_cell = tf.keras.layers.SimpleRNNCell(units, activation=None)
        self.layer_norm = tf.keras.layers.LayerNormalization()

    def call(self, inputs: Any, states: Any) -> Any:  # pyright: ignore
        summed, _ = self.simple_rnn_cell(inputs, states)
        h = tf.keras.activations.tanh(self.layer_norm(summed))
        return h, [h]


def relatives() -> Any:
    """Cells of keras-layernorm-rnn, and the book's."""
    import keras_layernorm_rnn as kln  # pyright: ignore[reportMissingImports]

    def run(cell: Any, hidden: Any) -> Any:
        return tf.keras.layers.RNN(cell, return_sequences=True)(hidden)

    inputs = tf.keras.Input((None, 5))
    hidden = run(kln.LayernormLSTM1Cell(7), inputs)
    hidden = run(kln.LayernormLSTM3Cell(6, recurrent_activation="sigmoid"), hidden)
    hidden = run(kln.LayernormSimpleRNNCell(4), hidden)
    return tf.keras.Model(inputs, run(BookCell(3), hidden))


def wrapped() -> Any:
    """Cells inside a TimeDistributed and in stacks, of both directions and of the other one."""
    layers, lstm = tf.keras.layers, tfa.rnn.LayerNormLSTMCell
    inputs = tf.keras.Input((3, 6, 5))
    hidden = layers.TimeDistributed(layers.RNN(lstm(4, norm_epsilon=0.5, activation="relu")))(
        inputs
    )
    stack = [lstm(3, norm_epsilon=0.25), lstm(2, recurrent_activation="hard_sigmoid")]
    hidden = layers.Bidirectional(layers.RNN(layers.StackedRNNCells(stack), return_sequences=True))(
        hidden
    )
    last = tfa.rnn.LayerNormSimpleRNNCell(2, layernorm_epsilon=0.125)
    return tf.keras.Model(inputs, layers.RNN(last, go_backwards=True)(hidden))


def save_wrapped(folder: Path, rng: Any) -> None:
    """Save the model of wrapped cells with its configuration, inputs and outputs."""
    x = rng.standard_normal((4, 3, 6, 5)).astype("float32")
    net = wrapped()
    net.set_weights([w + 0.3 * rng.standard_normal(w.shape) for w in net.get_weights()])
    np.savez(folder / "wrapped.npz", x=x, y=net.predict(x, verbose=0))
    net.save(folder / "wrapped.keras")
    net.save(folder / "wrapped.h5")


def save_relatives(folder: Path, x: Any, rng: Any) -> None:
    """Save the model of relatives in all files but the SavedModel, and its outputs."""
    net = relatives()
    net.set_weights([w + 0.1 * rng.standard_normal(w.shape) for w in net.get_weights()])
    np.savez(folder / "relatives.npz", y=net.predict(x, verbose=0))
    net.save(folder / "relatives.keras")
    net.save_weights(folder / "relatives.weights.h5")
    net.save_weights(folder / "relatives_legacy.h5", save_format="h5")
    net.save_weights(folder / "relatives.ckpt", save_format="tf")


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
    tf.keras.backend.clear_session()
    save_wrapped(folder, np.random.default_rng(8))
    if find_spec("keras_layernorm_rnn"):
        tf.keras.backend.clear_session()
        save_relatives(folder, x, rng)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
