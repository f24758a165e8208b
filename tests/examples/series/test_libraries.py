"""Darts and skorch: models of these libraries train, are copied, and are saved with our modules."""

from __future__ import annotations

import pickle

import darts_forecasts
import numpy as np
import pytest
import skorch_vowels
import torch
from darts.models import BlockRNNModel
from sklearn.base import clone

from lnrnn.torch import LayerNormLSTM


@pytest.mark.parametrize("name", darts_forecasts.MODULES)
def test_forecasts(name: str) -> None:
    for read in (darts_forecasts.economy, darts_forecasts.sunspots):
        series = read(100)[:110]
        module = darts_forecasts.MODULES[name]
        errors = [darts_forecasts.error(module, series, 100, 3, 1, seed) for seed in (0, 0, 1)]
        assert np.isfinite(errors).all() and errors[0] == errors[1] != errors[2]


def test_saved_forecaster(tmp_path) -> None:
    series = darts_forecasts.economy(100)[:100]
    model = BlockRNNModel(
        8, 2, model=darts_forecasts.SumNormedBlock, n_epochs=1, dropout=0.5, n_rnn_layers=2
    )
    model.fit(series, verbose=False)
    model.save(str(tmp_path / "model.pt"))
    loaded = BlockRNNModel.load(str(tmp_path / "model.pt"), trusted=True)
    found, wanted = (m.predict(5, verbose=False).values() for m in (loaded, model))
    np.testing.assert_array_equal(found, wanted)


def test_classifier() -> None:
    """A clone has no weights, a pickle has them, and parameters reach the module."""
    X, y = skorch_vowels.recordings("TRAIN")
    variant = skorch_vowels.VARIANTS["tfa_lnlstm"]
    made = skorch_vowels.pipeline(LayerNormLSTM, 2, units=8, variant=variant)
    torch.manual_seed(0)
    trained = made.fit(X, y)
    module = trained["network"].module_.rnn
    assert module.variant == variant and module.hidden_size == 8
    losses = trained["network"].history[:, "train_loss"]
    assert losses[1] < losses[0]
    again = pickle.loads(pickle.dumps(trained))
    np.testing.assert_array_equal(again.predict_proba(X), trained.predict_proba(X))
    torch.manual_seed(0)
    copy = clone(trained).set_params(network__module__variant=None).fit(X, y)
    assert copy["network"].module_.rnn.variant == LayerNormLSTM(12, 8).variant != variant
