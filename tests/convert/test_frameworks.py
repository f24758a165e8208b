"""From framework to framework through a file, without a changed bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from convert_samples import equal_bits, numbers, weights_of

import lnrnn
import lnrnn.torch
from lnrnn.convert import collect, restore
from lnrnn.keras import LayerNormGRU, LayerNormLSTM, LayerNormSimpleRNN
from lnrnn.testing import assert_close

KERAS: dict[str, Any] = {
    "LayerNormLSTM": LayerNormLSTM,
    "LayerNormGRU": LayerNormGRU,
    "LayerNormSimpleRNN": LayerNormSimpleRNN,
}
# class, arguments that both front ends take, size of the projection
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "lstm": ("LayerNormLSTM", {}, 0),
    "tfa": ("LayerNormLSTM", {"variant": "tfa_lnlstm"}, 0),
    "projection": ("LayerNormLSTM", {}, 4),
    "gru": ("LayerNormGRU", {"variant": "dreamerv2_gru"}, 0),
    "kiros_gru": ("LayerNormGRU", {"variant": "kiros_lngru"}, 0),
    "zoneout": ("LayerNormGRU", {"zoneout": 0.25}, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_keras_to_torch_and_back(name, tmp_path):
    kind, options, projected = CASES[name]
    wider = {"projection_units": projected} if projected else {}
    layer = KERAS[kind](5, return_sequences=True, **options, **wider)
    layer.build((None, None, 3))
    layer.load_params(weights_of(layer.cell.variant, sizes=collect(layer).single.sizes).params)
    lnrnn.save(tmp_path / "keras.safetensors", layer)

    loaded = lnrnn.load(tmp_path / "keras.safetensors")
    wider = {"proj_size": projected} if projected else {}
    variant = {"variant": loaded.single.variant}
    module = getattr(lnrnn.torch, kind)(3, 5, **{**options, **variant}, **wider)
    module.eval()
    restore(module, loaded)
    lnrnn.save(tmp_path / "torch.safetensors", module)

    again = lnrnn.load(tmp_path / "torch.safetensors")
    assert again.single.zoneout == loaded.single.zoneout == options.get("zoneout", 0.0)
    assert equal_bits(dict(again.single.params), dict(loaded.single.params))
    assert (tmp_path / "torch.safetensors").read_bytes() == (
        tmp_path / "keras.safetensors"
    ).read_bytes()
    back = KERAS[kind].from_params(again, return_sequences=True)
    assert equal_bits(back.params(), layer.params())

    x = np.random.default_rng(0).standard_normal((2, 7, 3)).astype("float32")
    with torch.no_grad():
        y = module(torch.from_numpy(np.swapaxes(x, 0, 1).copy()))[0].numpy()
    assert_close("outputs", np.swapaxes(y, 0, 1), numbers(back(x)), "float32")


def test_a_deep_bidirectional_stack(tmp_path):
    """Two bidirectional Keras layers are one module of torch with two layers."""
    path = tmp_path / "stack.safetensors"

    def network() -> Any:
        return keras.Sequential(
            [
                keras.Input((None, 3)),
                *(
                    keras.layers.Bidirectional(LayerNormLSTM(5, return_sequences=True))
                    for _ in range(2)
                ),
            ]
        )

    old, new = network(), network()
    lnrnn.save(path, old)
    module = lnrnn.torch.LayerNormLSTM(3, 5, num_layers=2, bidirectional=True)
    restore(module, lnrnn.load(path))
    lnrnn.save(tmp_path / "torch.safetensors", torch.nn.Sequential(module))
    assert (tmp_path / "torch.safetensors").read_bytes() == path.read_bytes()
    restore(new, lnrnn.load(tmp_path / "torch.safetensors"))
    x = np.random.default_rng(0).standard_normal((2, 7, 3)).astype("float32")
    np.testing.assert_array_equal(numbers(new(x)), numbers(old(x)))
    with torch.no_grad():
        y = module(torch.from_numpy(np.swapaxes(x, 0, 1).copy()))[0].numpy()
    assert_close("outputs", np.swapaxes(y, 0, 1), numbers(old(x)), "float32")


def test_cells_of_torch_are_saved(tmp_path: Path):
    cell = lnrnn.torch.LayerNormGRUCell(3, 5)
    lnrnn.save(tmp_path / "cell.safetensors", cell)
    found = lnrnn.load(tmp_path / "cell.safetensors").single
    assert equal_bits(dict(found.params), cell.params())
