"""Dreamer's block GRU in Keras: the reference's numbers, masks, states, saving."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras_cases import to_numpy

from lnrnn.engines import runs
from lnrnn.keras import DreamerBlockGRU
from lnrnn.reference import relatives as reference
from lnrnn.testing.tolerances import assert_close

T, B, INPUTS, H = 6, 3, 5, 8


def layer(**options: Any) -> Any:
    made = DreamerBlockGRU(
        H, projection=3, blocks=2, layers=2, actions=2, return_sequences=True, **options
    )
    made.build((None, None, INPUTS))
    random = np.random.default_rng(1)
    made.load_params({n: random.normal(0.3, 0.6, p.shape) for n, p in made.params().items()})
    return made


@pytest.mark.parametrize("zero", [False, True])
def test_outputs_and_states_are_those_of_the_reference(zero):
    gru = layer(return_state=True, zero_output_for_mask=zero)
    random = np.random.default_rng(2)
    x, h0 = random.normal(size=(B, T, INPUTS)), random.normal(size=(B, H))
    mask = np.array([[0, 1, 1, 1, 1, 1], [1] * 6, [1, 0, 1, 1, 0, 0]], bool)
    y, h = gru(np.where(mask[..., None], x, np.nan), initial_state=[h0], mask=mask)
    run = reference.forward(gru.cell.relative, gru.params(), x.swapaxes(0, 1), [h0], mask=mask.T)
    wanted = run.y.swapaxes(0, 1)
    if not zero:
        wanted[2, 1], wanted[2, 4:] = wanted[2, 0], wanted[2, 3]
    assert_close("y", to_numpy(y), wanted, "float32")
    assert_close("h", to_numpy(h), run.states[0], "float32")


def test_a_model_trains_and_is_saved(tmp_path):
    model: Any = keras.Sequential(
        [keras.Input((T, INPUTS)), layer(name="core"), keras.layers.Dense(2)]
    )
    random = np.random.default_rng(3)
    x, y = random.normal(size=(8, T, INPUTS)), random.normal(size=(8, T, 2))
    before = model.layers[0].params()
    model.compile("adam", "mse")
    model.fit(x, y, epochs=1, verbose=0)
    after = model.layers[0].params()
    assert all(np.abs(after[name] - before[name]).max() > 0 for name in before)
    model.save(tmp_path / "model.keras")
    same: Any = keras.saving.load_model(tmp_path / "model.keras")
    outputs = [to_numpy(m(x)) for m in (model, same)]
    np.testing.assert_array_equal(*outputs)


def test_the_cell_in_kerass_own_layer_gives_the_same():
    gru = layer()
    x = np.random.default_rng(4).normal(size=(B, T, INPUTS)).astype("float32")
    whole = keras.layers.RNN(gru.cell, return_sequences=True)(x)
    assert_close("y", to_numpy(gru(x)), to_numpy(whole), "float32")


def test_the_engine_is_of_the_layer():
    backend = keras.backend.backend()
    native = backend != "tensorflow"
    gru = layer(engine="native" if native else "auto")
    assert DreamerBlockGRU.from_config(gru.get_config()).engine == gru.engine
    before = runs()
    gru(np.ones((B, T, INPUTS), "float32"))
    assert runs() - before == {("native" if native else "portable", backend): 1}
    report = gru.engine_report()
    assert native or "torch, jax, not tensorflow" in report["native"].reason
    with pytest.raises(ValueError, match="engine is one of"):
        layer(engine="fast")
