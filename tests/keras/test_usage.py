"""Code as it stands in books and answers, with our classes in place of the others."""

# pyright: reportArgumentType=false
# (Keras hints a string for `verbose` and `jit_compile`)

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras_cases import draw, each_kind

from lnrnn.keras import LayerNormSimpleRNNCell

# as it stands there; Keras 3 would have an Input
pytestmark = pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`")


def _series(samples=16, steps=8):
    """Noisy sums of waves; the last ten values are what is to be forecast."""
    rng = np.random.default_rng(42)
    frequency, offset = rng.random((2, samples, 1))
    time = np.linspace(0, 1, steps + 10)
    series = 0.5 * np.sin((time - offset) * (frequency * 10 + 10)) + 0.1 * (
        rng.random((samples, steps + 10)) - 0.5
    )
    return series[..., np.newaxis].astype("float32")


def test_book():
    series = _series()
    x, y = series[:, :8], np.stack([series[:, i : i + 8, 0] for i in range(1, 11)], -1)
    model = keras.models.Sequential(
        [
            keras.layers.RNN(
                LayerNormSimpleRNNCell(20), return_sequences=True, input_shape=[None, 1]
            ),
            keras.layers.RNN(LayerNormSimpleRNNCell(20), return_sequences=True),
            keras.layers.TimeDistributed(keras.layers.Dense(10)),
        ]
    )

    def last_time_step_mse(y_true, y_pred):
        return keras.losses.mean_squared_error(y_true[:, -1], y_pred[:, -1])

    model.compile(loss="mse", optimizer="sgd", metrics=[last_time_step_mse])
    history = model.fit(x, y, epochs=3, validation_data=(x, y), verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert np.isfinite(history["val_last_time_step_mse"]).all()
    assert model.predict(x, verbose=0).shape == (16, 8, 10)


@each_kind
def test_answer_on_the_web(kind):
    """Stacked cells, the last one giving the answer."""
    model = keras.Sequential()
    model.add(keras.layers.RNN(kind.cell(8), return_sequences=True, input_shape=(5, 3)))
    model.add(keras.layers.RNN(kind.cell(8)))
    model.add(keras.layers.Dense(1))
    model.compile(loss="mse", optimizer="sgd")
    history = model.fit(draw(16, 5, 3), np.ones((16, 1)), epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]


@each_kind
def test_keras_3(kind):
    model = keras.Sequential(
        [
            keras.Input(shape=(None, 3)),
            keras.layers.Bidirectional(kind.layer(8, return_sequences=True)),
            kind.layer(8, dropout=0.1),
            keras.layers.Dense(1),
        ]
    )
    model.compile(loss="mse", optimizer="adam")
    history = model.fit(draw(16, 5, 3), np.ones((16, 1)), epochs=3, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    model.summary(print_fn=lambda *_, **__: None)


@each_kind
def test_first_layer_with_an_input_shape(kind):
    model = keras.Sequential([kind.layer(4, input_shape=[None, 3]), keras.layers.Dense(1)])
    assert model.output_shape == (None, 1)
