"""The program as a person uses it: what it writes, and what it says to bad input."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from pydoc_data.topics import topics

import keras
import numpy as np
import pytest

from lnrnn import cli, dialects
from lnrnn.train import checkpoint, corpus
from lnrnn.train.checkpoint import Progress, Row
from lnrnn.train.files import replacing
from lnrnn.train.report import columns, comparison
from lnrnn.train.settings import Settings, UserError

TEXT = "\n".join(topics[name] for name in ("assert", "in", "raise", "while"))
SMALL = "--units 8 --length 8 --batch 4 --every 5".split()
NOISY = "--dropout 0.2 --recurrent-dropout 0.1 --zoneout 0.1".split()


def lnrnn(*arguments: object) -> int:
    return cli.main([str(a) for a in arguments])


def metrics(folder: Path) -> list[list[str]]:
    """The rows of metrics.csv without the column of seconds."""
    with (folder / "metrics.csv").open(newline="") as stream:
        return [row[:-1] for row in csv.reader(stream)]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "python.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 12 steps with every source of chance in it."""
    folder = tmp_path_factory.mktemp("run") / "new"
    assert lnrnn("train", "--text", text, "--out", folder, "--steps", 12, *SMALL, *NOISY) == 0
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The sentence with which `lnrnn` refuses its arguments."""
    capsys.readouterr()
    assert lnrnn(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lnrnn: ") and err.endswith(".\n") and err.count("\n") == 1
    return err


def test_train_writes_a_whole_run(run: Path) -> None:
    assert {p.name for p in run.iterdir()} == {
        "LayerNormLSTM.keras",
        "bpc.png",
        "checkpoint.npz",
        "metrics.csv",
        "run.json",
        "sample.txt",
    }
    heading, *rows = metrics(run)
    assert heading == ["model", "step", "training_bpc", "validation_bpc"]
    assert [row[:2] for row in rows] == [["LayerNormLSTM", step] for step in ("5", "10", "12")]
    losses = [float(row[3]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert len((run / "sample.txt").read_text()) == 600


def test_the_summary_agrees_with_the_metrics(run: Path) -> None:
    summary = json.loads((run / "run.json").read_text())
    result = summary["models"]["LayerNormLSTM"]
    assert summary["finished"] is True
    assert result["steps"] == 12
    assert result["validation_bpc"] == float(metrics(run)[-1][3])
    assert summary["settings"]["zoneout"] == 0.1
    assert summary["text"]["characters"] == len(TEXT)


def test_the_plot_is_a_png_of_two_panels(run: Path) -> None:
    head = (run / "bpc.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:]) == (1500, 600)


def test_the_saved_model_is_the_one_validated(run: Path) -> None:
    import lnrnn.keras  # noqa: F401  its layers are found by name

    model = keras.saving.load_model(run / "LayerNormLSTM.keras")
    settings = checkpoint.read(run).settings
    held_out = corpus.Corpus("", TEXT).validation(settings)
    loss = model.evaluate(*held_out, batch_size=settings.batch, verbose=0)
    assert loss / np.log(2) == pytest.approx(float(metrics(run)[-1][3]), rel=1e-6)


def test_a_resumed_run_has_the_numbers_of_an_unbroken_one(
    run: Path, text: Path, tmp_path: Path
) -> None:
    # 7 is between two validations
    interrupted = tmp_path / "interrupted"
    arguments = ("train", "--text", text, "--out", interrupted, *SMALL, *NOISY)
    assert _stop_at(7, *arguments, "--steps", 12) == 128 + signal.SIGINT
    assert checkpoint.read(interrupted).progress["LayerNormLSTM"].step == 7
    assert json.loads((interrupted / "run.json").read_text())["finished"] is False
    assert lnrnn("train", "--resume", interrupted) == 0
    assert metrics(interrupted) == metrics(run)
    whole, resumed = checkpoint.read(run), checkpoint.read(interrupted)
    for a, b in zip(whole.arrays["LayerNormLSTM"], resumed.arrays["LayerNormLSTM"], strict=True):
        np.testing.assert_array_equal(a, b)


def _stop_at(step: int, *arguments: object) -> int:
    """Run with a SIGINT that comes in the midst of the step of that number, from 1."""
    batch = corpus.Corpus.batch
    calls = 0

    def counted(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == step + 1:  # the first call is for compilation
            signal.raise_signal(signal.SIGINT)
        return batch(*args)  # pyright: ignore[reportArgumentType]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus.Corpus, "batch", counted)
        return lnrnn(*arguments)
