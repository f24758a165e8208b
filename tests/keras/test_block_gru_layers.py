"""Dreamer's block GRU in Keras: the reference's numbers, masks, states, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras_cases import to_numpy

from lnrnn.engines import runs, select
from lnrnn.keras import DreamerBlockGRU
from lnrnn.reference import relatives as reference
from lnrnn.relatives.weights import sizes_of
from lnrnn.testing import adapters, golden
from lnrnn.testing.tolerances import assert_close

BACKEND = keras.backend.backend()
FILES = [
    path
    for name in ("dreamerv3_block_core__c", "r2dreamer_deter__a", "torchrl_dreamerv3_blockgru__a")
    for path in golden.find([Path(__file__).parents[1] / "golden"])
    if path.name == f"{name}__f32"
]
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


def by_layer(relative: Any, params: Any, given: adapters.Pass) -> adapters.Results:
    """A golden file by the layer, forward and backward."""
    sizes = sizes_of(relative, params)
    made = DreamerBlockGRU(
        sizes.units,
        projection=sizes.projection,
        blocks=sizes.blocks,
        layers=sizes.layers,
        actions=sizes.actions,
        activation=relative.activation,
        norm_epsilon=relative.epsilon,
        update_bias=relative.update_bias,
        return_sequences=True,
        return_state=True,
        dtype=given.dtype,
    )
    made.build((None, None, sizes.inputs))

    def function(tensors: Any, constant: Any) -> Any:
        mapping = [(getattr(made.cell, n), tensors[n]) for n in params]
        with keras.StatelessScope(state_mapping=mapping):
            x = keras.ops.transpose(tensors["x"], (1, 0, 2))
            y, h = made(x, initial_state=[tensors["h0"]])
        return keras.ops.transpose(y, (1, 0, 2)), h

    return adapters.differentiate(BACKEND, function, relative, params, given)


def test_files_of_the_original_programs_pass_natively():
    before = runs(), runs(backward=True)
    report = golden.run(FILES, by_layer)
    assert report.failed == report.skipped == {} and len(report.passed) == len(FILES) == 3
    assert runs() - before[0] == runs(backward=True) - before[1] == {("native", BACKEND): 3}


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16"])
def test_half_precision_is_the_native_engines(policy):
    gru, whole = layer(return_state=True, dtype=policy), layer(return_state=True)
    whole.load_params(gru.params())
    random = np.random.default_rng(5)
    x, h0 = random.normal(size=(B, T, INPUTS)), random.normal(size=(B, H))
    before = runs()
    found = gru(x, initial_state=[h0])
    assert runs() - before == {("native", BACKEND): 1}
    assert isinstance(gru.engine_report()["native"], select.Yes)
    dtype = policy.removeprefix("mixed_")
    for name, ours, theirs in zip("yh", found, whole(x, initial_state=[h0]), strict=True):
        assert keras.backend.standardize_dtype(ours.dtype) == dtype
        ours = keras.ops.cast(ours, "float32")
        assert_close(name, to_numpy(ours), to_numpy(theirs), dtype)


def test_the_engine_is_of_the_layer():
    gru = layer(engine="native")
    assert DreamerBlockGRU.from_config(gru.get_config()).engine == gru.engine
    before = runs()
    gru(np.ones((B, T, INPUTS), "float32"))
    assert runs() - before == {("native", BACKEND): 1}
    with pytest.raises(ValueError, match="engine is one of"):
        layer(engine="fast")
