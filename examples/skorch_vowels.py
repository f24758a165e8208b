"""A recurrent classifier among the tools of scikit-learn, by skorch, LSTM beside LN-LSTM.

    pip install '.[examples-series]'
    python examples/skorch_vowels.py             # about two minutes on two cores

The data are those of `japanese_vowels.py`: nine speakers, recordings of 7 to 29 steps.  A pipeline
scales the coefficients and trains a network on packed sequences; `cross_val_score` judges it on
five folds of the training recordings, and `GridSearchCV` chooses among variants.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from japanese_vowels import read
from sklearn.base import BaseEstimator, TransformerMixin  # pyright: ignore[reportMissingImports]
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score  # pyright: ignore[reportMissingImports]
from sklearn.pipeline import Pipeline  # pyright: ignore[reportMissingImports]
from skorch import NeuralNetClassifier  # pyright: ignore[reportMissingImports]
from skorch.callbacks import GradientNormClipping  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from lnrnn import dialects
from lnrnn.torch import LayerNormLSTM

# the variants themselves, so that all start from our initial values
VARIANTS = {n: dialects.get(n).variant for n in ("haste_lnlstm", "tfa_lnlstm", "magenta_lnlstm")}


class Scale(TransformerMixin, BaseEstimator):
    """Every feature to mean zero and variance one, over all steps of all sequences."""

    def fit(self, X: Any, y: Any = None) -> Scale:
        steps = np.concatenate(list(X))
        self.mean_, self.deviation_ = steps.mean(0), steps.std(0)
        return self

    def transform(self, X: Any) -> np.ndarray:
        return ragged([(x - self.mean_) / self.deviation_ for x in X])


class Speaker(nn.Module):
    """A recurrent module, and a linear layer on its last h."""

    def __init__(self, rnn: type[nn.Module], units: int = 48, **options: Any) -> None:
        super().__init__()
        self.rnn = rnn(12, units, **options)
        self.head = nn.Linear(units, 9)

    def forward(self, series: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(series, lengths, batch_first=True, enforce_sorted=False)
        _, (h, _) = self.rnn(packed)
        return self.head(h[-1])


def ragged(sequences: list[np.ndarray]) -> np.ndarray:
    """Sequences (T, I) of unequal T as an array of objects (B,), which scikit-learn can index."""
    found = np.empty(len(sequences), object)
    found[:] = sequences
    return found


def padded(samples: list[tuple[np.ndarray, Any]]) -> tuple[dict[str, Tensor], Tensor]:
    """A batch of a loader: what the module takes, and the speakers (B,)."""
    sequences, speakers = zip(*samples, strict=True)
    series = pad_sequence([torch.from_numpy(s) for s in sequences], batch_first=True)
    lengths = torch.tensor([len(s) for s in sequences])
    return {"series": series, "lengths": lengths}, torch.tensor(np.array(speakers))


def pipeline(rnn: type[nn.Module], epochs: int, **options: Any) -> Pipeline:
    """A scaler and a network, untrained."""
    network = NeuralNetClassifier(
        Speaker,
        module__rnn=rnn,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=3e-3,
        batch_size=32,
        max_epochs=epochs,
        train_split=None,
        iterator_train__shuffle=True,
        iterator_train__collate_fn=padded,
        iterator_valid__collate_fn=padded,
        callbacks=[("clip", GradientNormClipping(1.0))],
        verbose=0,
        **{f"module__{name}": value for name, value in options.items()},
    )
    return Pipeline([("scale", Scale()), ("network", network)])


def recordings(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Sequences and speakers, as scikit-learn takes them."""
    series, speakers = read(part)
    return ragged([s.numpy() for s in series]), speakers.numpy()


def main() -> None:
    """Judge both networks, then search for a variant."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--folds", type=int, default=5)
    given = parser.parse_args()
    X, y = recordings("TRAIN")
    folds = StratifiedKFold(given.folds, shuffle=True, random_state=0)
    for rnn in (nn.LSTM, LayerNormLSTM):
        torch.manual_seed(0)
        scores = cross_val_score(pipeline(rnn, given.epochs), X, y, cv=folds)
        shown = " ".join(f"{score:.3f}" for score in scores)
        print(f"{rnn.__name__:<14} mean {scores.mean():.3f} of folds {shown}", flush=True)
    torch.manual_seed(0)
    search = GridSearchCV(
        pipeline(LayerNormLSTM, given.epochs),
        {"network__module__variant": list(VARIANTS.values())},
        cv=folds,
    )
    search.fit(X, y)
    for name, score in zip(VARIANTS, search.cv_results_["mean_test_score"], strict=True):
        print(f"{name:<14} mean {score:.3f}")
    print(f"the best on the test recordings {search.score(*recordings('TEST')):.3f}")


if __name__ == "__main__":
    main()
