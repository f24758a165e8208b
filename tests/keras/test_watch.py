"""The callback that watches a model: what it writes, and how `fit` ends."""

from __future__ import annotations

import csv
from typing import Any

import keras
import numpy as np
import pytest

from lnrnn import trace
from lnrnn.insight.keras import Watch
from lnrnn.insight.watch import NotFiniteError, figures
from lnrnn.keras import LayerNormGRU, LayerNormLSTM

RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 6, 3)).astype("float32")
Y = RNG.standard_normal((12, 1)).astype("float32")


def model(*layers: Any, rate: float = 0.1) -> Any:
    made = keras.Sequential([keras.Input((None, 3)), *layers, keras.layers.Dense(1)])
    made.compile(keras.optimizers.SGD(rate), "mse")
    return made


def test_figures_are_written_every_so_many_steps(tmp_path):
    path = tmp_path / "watch.csv"
    watched = model(
        keras.layers.Bidirectional(LayerNormGRU(4, return_sequences=True)),
        LayerNormLSTM(5, zoneout=0.2),
    )
    watch = Watch(X[:3], Y[:3], to=path, every=4)
    watched.fit(X, Y, batch_size=4, epochs=3, verbose=0, callbacks=[watch])
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert sorted({int(row["step"]) for row in rows}) == [0, 4, 8]
    # nine steps: the weights are now a step beyond the last look
    watched.fit(X[:4], Y[:4], batch_size=4, verbose=0, callbacks=[watch])
    layers = trace(watched, X[:3], training=False)
    assert len(layers) == 3 and set(watch.latest) == set(layers)
    assert {row["layer"] for row in rows} == set(layers)
    Watch.on_train_begin(watch)
    for path_of, layer in layers.items():
        assert watch.latest[path_of] == pytest.approx(figures(layer))


def test_a_watch_changes_nothing():
    found = []
    for watching in (False, True):
        keras.utils.set_random_seed(1)
        watched = model(LayerNormLSTM(5, dropout=0.2, zoneout=0.1))
        callbacks = [Watch(X[:2], every=1)] * watching
        watched.fit(X, Y, batch_size=4, verbose=0, callbacks=callbacks, shuffle=False)
        found.append([np.array(w) for w in watched.get_weights()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_fit_ends_with_the_diagnosis_and_finite_weights():
    """Blank first steps, with initial values under which gradients explode."""
    x = X.repeat(5, axis=1)
    x[:, :20] = 0
    watched = model(LayerNormLSTM(8, variant="tf1_lnbasiclstm"))
    watch = Watch(x[:3], Y[:3])
    with pytest.raises(NotFiniteError, match="The loss is nan after step") as error:
        watched.fit(x, Y, batch_size=4, epochs=3, verbose=0, callbacks=[watch])
    (found,) = error.value.diagnoses.values()
    assert found.findings and str(found) in str(error.value)
    assert all(np.isfinite(w).all() for w in watched.get_weights())


def test_a_model_without_our_layers_is_refused():
    watched = model(keras.layers.LSTM(3))
    with pytest.raises(ValueError, match="A trace is of layers"):
        watched.fit(X, Y, verbose=0, callbacks=[Watch(X[:1])])
