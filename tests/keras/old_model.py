"""The models whose files lnrnn 0.1.0 wrote; run under that release, this writes them anew."""

# pyright: reportArgumentType=false
# (Keras hints a string for `verbose` and `jit_compile`)

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lnrnn.keras import LayerNormGRU, LayerNormGRUCell, LayerNormLSTM, LayerNormSimpleRNN

FILES = Path(__file__).parent / "files_0_1_0"


def branches() -> list[Any]:
    """Layers in which 0.1.0 held the weights otherwise, and some in which it did not."""
    return [
        LayerNormLSTM(2),
        LayerNormLSTM(2, variant="tf1_lnlstm"),
        LayerNormSimpleRNN(2),
        LayerNormGRU(2),
        LayerNormGRU(2, variant="none"),
        LayerNormGRU(2, variant="none", reset_after=False),
        LayerNormGRU(2, variant="none", use_bias=False),
        LayerNormGRU(2, variant="dreamerv2_gru"),
        keras.layers.Bidirectional(LayerNormGRU(2, reset_after=False)),
        keras.layers.RNN(LayerNormGRUCell(2, variant="dreamerv2_gru", use_bias=False)),
    ]


def many() -> keras.Model:
    """A model with all branches side by side."""
    x = keras.Input((None, 3))
    return keras.Model(x, keras.layers.Concatenate()([layer(x) for layer in branches()]))


def trained() -> keras.Model:
    """A small model that is trained with an optimiser that has a state."""
    layers = [keras.Input((None, 3)), LayerNormGRU(2, variant="dreamerv2_gru", engine="portable")]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=False)
    return model


def data(seed: int) -> np.ndarray:
    """Inputs (B, T, I)."""
    return np.random.default_rng(seed).standard_normal((4, 5, 3)).astype("float32")


def train(model: keras.Model) -> list[np.ndarray]:
    """The weights after a step of training."""
    model.train_on_batch(data(1), np.ones((4, 2), "float32"))
    return model.get_weights()


def write(folder: Path) -> None:
    """Write the files, and what 0.1.0 computes with them."""
    model, rng = many(), np.random.default_rng(0)
    model.set_weights([w + 0.5 * rng.standard_normal(w.shape) for w in model.get_weights()])
    for name in ("many.keras", "many.h5", "many.weights.h5"):
        (model.save_weights if ".weights." in name else model.save)(folder / name)
    x = data(0)
    small = trained()
    train(small)
    small.save(folder / "trained.keras")
    np.savez(folder / "many.npz", x=x, y=np.asarray(model.predict(x, verbose=0)))
    train(small)
    np.savez(folder / "trained.npz", y=np.asarray(small.predict(x, verbose=0)))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
