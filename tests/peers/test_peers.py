"""Against the real programs: files that they write now, and their answers on our weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from convert_samples import (  # pyright: ignore[reportMissingImports]
    original_weights,
    save_npz,
)
from tfa_model import (  # pyright: ignore[reportMissingImports]
    RELATIVE_FILES,
    WRAPPED,
    keras_predictions,
    predict,
    predictions,
    relatives_outputs,
    run,
    with_epsilons,
    wrapped,
    wrapped_outputs,
)

import lnrnn
import lnrnn.keras
from lnrnn import cli
from lnrnn.convert import read
from lnrnn.convert.check import check_layer
from lnrnn.convert.forms import FORMS
from lnrnn.convert.programs import program_of
from lnrnn.relatives import RELATIVES
from lnrnn.relatives.weights import Sizes
from lnrnn.relatives.weights import shapes as relative_shapes
from lnrnn.testing import assert_close

HERE = Path(__file__).parent
TFA, TORCH = os.environ["LNRNN_TFA_PYTHON"], os.environ["LNRNN_TORCH_PYTHON"]
MXNET = os.environ["LNRNN_MXNET_PYTHON"]
PYTHONS = {
    "tensorflow_addons": TFA,
    "keras_layernorm_rnn": TFA,
    "tensorflow": TFA,
    "sockeye": MXNET,
    "torchaudio": TORCH,
    "speechbrain": TORCH,
    "labml_nn": sys.executable,
    "torchrl": sys.executable,
}
# what is not in either environment, see the documentation
ABSENT = {"haste_pytorch"} - set(os.environ.get("LNRNN_PEERS", "").split(","))


def program(python: str, name: str, folder: Path) -> Path:
    command = [python, str(HERE / name), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def tfa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program(TFA, "tfa_program.py", tmp_path_factory.mktemp("tfa"))


@pytest.fixture(scope="module")
def torch_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program(TORCH, "torch_program.py", tmp_path_factory.mktemp("torch"))


MODELS = ("model.keras", "model.h5", "with_optimizer.keras", "with_optimizer.h5")


@pytest.mark.parametrize("name", MODELS)
def test_models_of_tensorflow_addons(name, tfa):
    x, y = predictions(tfa)
    layers, said = read(tfa / name)
    assert not any("assumed" in sentence for sentence in said)
    assert_close("predictions", predict(tfa, layers, x), y, "float32")


@pytest.mark.parametrize("name", MODELS)
def test_keras_3_loads_models_of_tensorflow_addons(name, tfa):
    x, y = predictions(tfa)
    model = keras.saving.load_model(tfa / name, compile=False)
    assert_close("predictions", keras_predictions(model, x), y, "float32")


@pytest.mark.parametrize(
    "name",
    [
        "model.weights.h5",
        "legacy_weights.h5",
        "weights.npz",
        "weights.ckpt",
        "object.ckpt",
        "saved_model",
    ],
)
def test_weights_of_tensorflow_addons(name, tfa):
    x, y = predictions(tfa)
    assert_close("predictions", predict(tfa, with_epsilons(tfa / name), x), y, "float32")


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_cells_of_tensorflow_addons(name, tfa):
    x, y = wrapped(tfa)
    assert_close("outputs", wrapped_outputs(read(tfa / name)[0], x), y, "float32")
    model = keras.saving.load_model(tfa / name, compile=False)
    assert_close("outputs", keras_predictions(model, x), y, "float32")


def test_through_a_file_of_ours(tfa, tmp_path):
    x, y = predictions(tfa)
    lnrnn.save(tmp_path / "ours.safetensors", read(tfa / "model.keras")[0])
    layers = lnrnn.load(tmp_path / "ours.safetensors")
    assert_close("predictions", predict(tfa, layers, x), y, "float32")


@pytest.mark.parametrize("name", RELATIVE_FILES)
def test_models_of_keras_layernorm_rnn_and_of_the_book(name, tfa):
    with np.load(tfa / "relatives.npz") as kept:
        assert_close("outputs", relatives_outputs(tfa, name), kept["y"], "float32")


def linear(kept: Any, name: str, x: np.ndarray) -> np.ndarray:
    weight, bias = kept[f"{name}/weight"], kept[f"{name}/bias"]
    return x @ weight.T.astype(np.float64) + bias


@pytest.mark.parametrize("ending", [".pt", "_old.pt"])
def test_models_of_torchaudio(ending, torch_files):
    with np.load(torch_files / "predictions.npz") as kept:
        layers, _ = read(torch_files / f"torchaudio{ending}", settings={"epsilon": 1e-3})
        x = kept["torchaudio/x"].astype(np.float64)
        for weights in layers.values():
            x = run(weights, x)
        y = linear(kept, "torchaudio", x)
        assert_close("predictions", y, kept["torchaudio/y"], "float32")


@pytest.mark.parametrize("ending", [".pt", "_old.pt"])
@pytest.mark.parametrize(
    ("name", "dialect"),
    [("ligru", "speechbrain_ligru_ln_relu"), ("sligru", "speechbrain_sligru_ln_relu-affine")],
)
def test_models_of_speechbrain(name, dialect, ending, torch_files):
    with np.load(torch_files / "predictions.npz") as kept:
        layers, _ = read(torch_files / f"{name}{ending}", dialect)
        x = np.swapaxes(kept[f"{name}/x"], 0, 1).astype(np.float64)
        for weights in layers.values():
            x = run(weights, x)
        y = np.swapaxes(linear(kept, name, x), 0, 1)
        assert_close("predictions", y, kept[f"{name}/y"], "float32")


def with_programs() -> list[str]:
    """The forms whose original program is in an environment."""
    programs = {name: program_of(name) for name in FORMS}
    return [name for name, found in programs.items() if found and found[0] not in ABSENT]


@pytest.mark.parametrize("name", with_programs())
def test_the_original_program_gives_our_outputs(name, tmp_path):
    """On random weights of the form, through the names and layout of the original."""
    path = save_npz(tmp_path / "w.npz", original_weights(name))
    weights = read(path, name)[0].single
    found = program_of(name)
    assert found is not None
    assert "gives the same outputs" in check_layer(weights, PYTHONS.get(found[0], TORCH))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("labml_hyperlstm", Sizes(5, 8, 3, hyper=4)),
        ("torchrl_dreamerv3_blockgru", Sizes(5, 12, 7, blocks=3, layers=2)),
    ],
)
def test_the_original_program_gives_the_outputs_of_a_relative(name, sizes, tmp_path, capsys):
    form, random = RELATIVES[name], np.random.default_rng(8)
    shapes = relative_shapes(form.relative, sizes)
    params = {n: random.normal(0.2, 0.5, s).astype(np.float32) for n, s in shapes.items()}
    source, out = tmp_path / "theirs.npz", str(tmp_path / "ours.safetensors")
    save_npz(source, form.from_canonical(params, "model."))
    assert cli.main(["convert", str(source), "--to", out, "--check"]) == 0
    assert "gives the same outputs" in capsys.readouterr().out
