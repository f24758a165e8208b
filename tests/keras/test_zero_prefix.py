"""Leading zero steps: default layers keep finite gradients where the published ones do not."""

# pyright: reportArgumentType=false
# (Keras hints a string for `verbose` and `jit_compile`)

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras_cases import GRU, LSTM, SIMPLE, draw, each_kind, gradients

# zero steps before the first input; the row without any is a long random sequence
SAID = "A zero input at a zero state multiplies the gradient by about"
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
@pytest.mark.parametrize("units", [32, 512])
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


def _trained(layer, zeros):
    """The losses of learning the sum of three values that come after some zero steps."""
    values = draw(32, 3, 2, seed=12)
    x = np.concatenate([np.zeros((32, zeros, 2), "float32"), values], 1)
    model = keras.Sequential([keras.Input((zeros + 3, 2)), layer, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.03), "mse")
    target = np.tanh(values[:, :, 0].sum(1, keepdims=True))
    return model.fit(x, target, batch_size=32, epochs=40, verbose=0).history["loss"]


@each_kind
def test_training_converges_behind_zeros(kind):
    losses = _trained(kind.layer(8), zeros=40)
    assert losses[-1] < 0.25 * losses[0]


def test_training_from_published_initial_values_does_not():
    losses = _trained(LSTM.layer(8, variant="haste_lnlstm"), zeros=40)
    assert not np.isfinite(losses[-1])


def test_the_clip_of_each_step_makes_them_finite_too():
    options = {"variant": "haste_lnlstm", "recurrent_gradient_clip": 1.0}
    found = _gradients(LSTM.layer(32, return_sequences=True, **options))
    assert _finite_rows(found["x"]) == set(PREFIXES)
    assert all(np.isfinite(g).all() for g in found.values())


def _fitted(*layers):
    """What is said while a model is trained; it has predicted before, which says nothing."""
    x = draw(4, 2, INPUTS, seed=13)
    model = keras.Sequential([keras.Input((2, INPUTS)), *layers])
    model.compile("sgd", "mse")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        y = model.predict(x, verbose=0)
        assert not [w for w in found if issubclass(w.category, UserWarning)]
        model.fit(x, y + 1, epochs=2, verbose=0)
    return [w for w in found if issubclass(w.category, UserWarning)]


def _kinds(**options):
    """A layer of each kind, the last one a cell in Keras's own layer."""
    return (
        SIMPLE.layer(4, return_sequences=True, **options),
        LSTM.layer(4, return_sequences=True, **options),
        keras.layers.RNN(GRU.cell(4, **options), return_sequences=True),
    )


ZEROS = {"bias_initializer": "zeros", "norm_bias_initializer": "zeros"}


def test_zero_biases_are_said_once_in_training():
    found = _fitted(*_kinds(**ZEROS))
    assert len(found) == 3
    assert all(SAID in str(w.message) and w.filename == __file__ for w in found)


def test_nothing_is_said_where_it_is_not_so():
    assert not _fitted(*_kinds(), *_kinds(**ZEROS, recurrent_gradient_clip=1.0))


def test_weights_count_as_they_are_when_training_begins():
    emptied, noisy = LSTM.layer(4, return_sequences=True), LSTM.layer(4, variant="haste_lnlstm")
    for layer, inputs in ((emptied, INPUTS), (noisy, 4)):
        layer.build((None, 2, inputs))
        biases = {n: p for n, p in layer.params().items() if "bias" in n}
        fresh = draw(2, 64, seed=14)
        changed = {n: (layer is noisy) * fresh[0, : p.size] for n, p in biases.items()}
        layer.load_params(layer.params() | changed)
    (found,) = _fitted(emptied, noisy)
    assert SAID in str(found.message)


def test_gains_of_zero_are_said():
    """Of a model that `fit` builds, too."""
    model = keras.Sequential(
        [
            LSTM.layer(4, return_sequences=True),
            SIMPLE.layer(4, return_sequences=True, **ZEROS),
            GRU.layer(4, gain_initializer="zeros"),
        ]
    )
    model.compile("sgd", "mse")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        model.fit(draw(4, 2, INPUTS, seed=13), np.zeros((4, 4)), epochs=2, verbose=0)
    zeros, gains = (str(w.message) for w in found if issubclass(w.category, UserWarning))
    assert SAID in zeros and "All gains of a norm are zero" in gains
