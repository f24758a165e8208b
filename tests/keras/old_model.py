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


@keras.saving.register_keras_serializable("old")
class Holder(keras.Model):
    """A model of a user's class with a layer that is given, or one that it makes itself."""

    def __init__(self, given: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.given = given
        self.inner = given or LayerNormGRU(2, variant="none", use_bias=False)

    def call(self, x: Any) -> Any:
        """The last output (B, 2)."""
        return self.inner(x)

    def get_config(self) -> dict[str, Any]:
        """The given layer, as Keras writes it."""
        return {**super().get_config(), "given": keras.saving.serialize_keras_object(self.given)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """The model that `get_config` described."""
        given = keras.saving.deserialize_keras_object(config["given"])
        return cls(**{**config, "given": given})


def nested() -> keras.Model:
    """GRUs whose shapes do not tell their order, where their place does not tell it either."""
    x = keras.Input((5, 3))
    none, before = {"variant": "none", "use_bias": False}, {"reset_after": False}
    outputs = [
        keras.layers.Bidirectional(LayerNormGRU(2, **none))(x),
        keras.layers.RNN(LayerNormGRUCell(2, variant="none", name="step", **before))(x),
        keras.layers.Flatten()(
            keras.layers.TimeDistributed(LayerNormGRU(2, variant="none", **before))(
                keras.layers.Reshape((5, 3, 1))(x)
            )
        ),
        Holder(LayerNormGRU(2, **none))(x),
        Holder()(x),
    ]
    return keras.Model(x, keras.layers.Concatenate()(outputs))


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
    x = data(0)
    for made, kinds in ((many, ("keras", "h5", "weights.h5")), (nested, ("keras",))):
        model, rng = made(), np.random.default_rng(0)
        model.set_weights([w + 0.5 * rng.standard_normal(w.shape) for w in model.get_weights()])
        for kind in kinds:
            path = folder / f"{made.__name__}.{kind}"
            (model.save_weights if kind == "weights.h5" else model.save)(path)
        np.savez(folder / f"{made.__name__}.npz", x=x, y=np.asarray(model.predict(x, verbose=0)))
    small = trained()
    train(small)
    small.save(folder / "trained.keras")
    train(small)
    np.savez(folder / "trained.npz", y=np.asarray(small.predict(x, verbose=0)))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
