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
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import keras
import numpy as np
import pytest

from lnrnn import cli, dialects
from lnrnn.console import columns
from lnrnn.files import replacing
from lnrnn.relatives import RELATIVES
from lnrnn.testing import assert_close
from lnrnn.train import checkpoint, corpus
from lnrnn.train.checkpoint import Progress, Row
from lnrnn.train.report import comparison
from lnrnn.train.settings import Settings
from lnrnn.train.world import World

TEXT = "\n".join(topics[name] for name in ("assert", "in", "raise", "while"))
OLD_FILES = Path(__file__).parent / "files_0_1_0"
SMALL = ["--units", "8", "--length", "8", "--batch", "4", "--every", "5"]
MODELS = ("LayerNormLSTM", "LSTM")
NOISY = ["--cell", "simple", "--dropout", "0.2", "--zoneout", "0.1"]


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


def test_train_in_half_precision(text: Path, tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        arguments = ("train", "--text", text, "--out", tmp_path / dtype, "--steps", 5, *SMALL)
        assert lnrnn(*arguments, "--dtype", dtype) == 0
    wide, narrow = (metrics(tmp_path / d)[-1] for d in ("float32", "bfloat16"))
    assert json.loads((tmp_path / "bfloat16" / "run.json").read_text())["settings"]["dtype"] == (
        "bfloat16"
    )
    # the products are rounded, and no more than that
    assert wide != narrow and abs(float(wide[3]) - float(narrow[3])) < 0.02


def test_train_writes_a_whole_run(run: Path) -> None:
    assert {p.name for p in run.iterdir()} == {
        "LayerNormSimpleRNN.keras",
        "bpc.png",
        "checkpoint.npz",
        "inside",
        "metrics.csv",
        "run.json",
        "sample.txt",
    }
    pictures = {f"{name}.{e}" for name in ("gates", "norms", "gradient") for e in ("png", "svg")}
    assert {p.name for p in (run / "inside").iterdir()} == {*pictures, "LayerNormSimpleRNN.csv"}
    heading, *rows = metrics(run)
    assert heading == ["model", "step", "training_bpc", "validation_bpc"]
    assert [row[:2] for row in rows] == [["LayerNormSimpleRNN", step] for step in ("5", "10", "12")]
    losses = [float(row[3]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert len((run / "sample.txt").read_text()) == 600


def test_the_summary_agrees_with_the_metrics(run: Path) -> None:
    summary = json.loads((run / "run.json").read_text())
    result = summary["models"]["LayerNormSimpleRNN"]
    assert summary["finished"] is True
    assert result["steps"] == 12
    assert result["validation_bpc"] == float(metrics(run)[-1][3])
    assert summary["settings"]["zoneout"] == 0.1
    assert summary["text"]["characters"] == len(TEXT)


def test_the_plot_is_a_png_of_two_panels(run: Path) -> None:
    head = (run / "bpc.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:]) == (1500, 600)


def test_a_run_shows_how_far_gradients_reach(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ("--text", text, "--out", out, "--steps", 5, *SMALL, "--compare")
    assert lnrnn("train", *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    with (out / "inside" / "LayerNormLSTM.csv").open(newline="") as stream:
        figures = {row["figure"]: row["value"] for row in csv.DictReader(stream)}
    (own, plain) = (next(x for x in lines if x.startswith(f"{n}  step 5/5")) for n in MODELS)
    assert f"  reach {float(figures['reach']):.0f} steps  " in own and "  reach -  " in plain
    for name in ("gates", "norms", "gradient", "forget_times"):
        assert any(x.startswith(str(out / "inside" / f"{name}.png")) for x in lines)
    assert lines[-1].startswith("Inside LayerNormLSTM: Nothing found. ")


def test_a_loss_that_is_no_number_ends_the_run_with_the_diagnosis(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ("--text", text, "--out", out, "--steps", 9, *SMALL, "--learning-rate", "1e38")
    assert lnrnn("train", *arguments) == 2
    message = capsys.readouterr().err
    assert "The loss of LayerNormLSTM is no number after step" in message
    assert "the checkpoint, of step 0, is whole. Its diagnosis:\nNothing found. " in message
    saved = checkpoint.read(out)
    assert saved.progress["LayerNormLSTM"].step == 0
    assert all(np.isfinite(a).all() for a in saved.arrays["LayerNormLSTM"])


def test_the_saved_model_is_the_one_validated(run: Path) -> None:
    import lnrnn.keras  # noqa: F401  its layers are found by name

    model: Any = keras.saving.load_model(run / "LayerNormSimpleRNN.keras")
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
    assert checkpoint.read(interrupted).progress["LayerNormSimpleRNN"].step == 7
    assert json.loads((interrupted / "run.json").read_text())["finished"] is False
    assert lnrnn("train", "--resume", interrupted) == 0
    assert metrics(interrupted) == metrics(run)
    whole, resumed = checkpoint.read(run), checkpoint.read(interrupted)
    for a, b in zip(
        whole.arrays["LayerNormSimpleRNN"], resumed.arrays["LayerNormSimpleRNN"], strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_run_that_is_made_longer_is_the_longer_run(text: Path, tmp_path: Path) -> None:
    """A validation more, where the shorter one ended, changes nothing."""
    noisy = ("--compare", "--cell", "gru", "--recurrent-dropout", "0.2")
    for name, steps in (("whole", 9), ("first", 7)):
        arguments = ("--text", text, "--out", tmp_path / name, "--steps", steps, *SMALL, *noisy)
        assert lnrnn("train", *arguments) == 0
    assert lnrnn("train", "--resume", tmp_path / "first", "--steps", 9) == 0
    whole, longer = (checkpoint.read(tmp_path / name).arrays for name in ("whole", "first"))
    for model, arrays in whole.items():
        for a, b in zip(arrays, longer[model], strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_run_of_0_1_0_goes_on_as_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its GRU holds the weights, and the optimiser's moments, in another order."""
    shutil.copytree(OLD_FILES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for steps in (8, 12):  # the second begins with what this release has written
        assert lnrnn("train", "--resume", "run", "--steps", steps) == 0
    with open("run/metrics_of_12_steps.csv", newline="") as stream:
        heading, *expected = [row[:-1] for row in csv.reader(stream)]
    found_heading, *found = metrics(Path("run"))
    assert found_heading == heading and [r[:2] for r in found] == [r[:2] for r in expected]
    bits, wanted = (np.array([r[2:] for r in rows], np.float32) for rows in (found, expected))
    assert_close("bits per character", bits, wanted, "float32")
    assert lnrnn("sample", "run", "--length", 9) == 0


def test_a_run_of_a_newer_format_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(run / checkpoint.FILE) as whole:
        arrays = dict(whole)
    state = json.loads(str(arrays["state"]))
    arrays["state"] = np.array(json.dumps({**state, "format": 3}))
    np.savez(tmp_path / checkpoint.FILE, allow_pickle=False, **arrays)
    assert "of the format 3: use the lnrnn that" in refused(capsys, "sample", tmp_path)


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


def test_ctrl_c_leaves_a_run_to_go_on_with(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    arguments = ["--text", text, "--out", out, "--compare", "--steps", "100000"]
    arguments += ["--backend", "jax"]  # as in the demo
    process = subprocess.Popen(
        [sys.executable, "-m", "lnrnn", "train", *map(str, arguments), *SMALL],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("LSTM  step 10/"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert f"lnrnn train --resume {out}" in rest
    assert rest.count("LayerNormLSTM reached") + rest.count("has not reached") == 1
    progress = checkpoint.read(out).progress
    assert list(progress) == ["LayerNormLSTM", "LSTM"]
    assert all(p.step >= 10 for p in progress.values())
    assert {p.name for p in out.iterdir()} >= {"LSTM.keras", "bpc.png", "sample.txt"}
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


BAD_TEXTS = {
    "missing": (None, "No such file"),
    "empty": (b" \n\n", "is empty"),
    "binary": (bytes(range(256)), "is not UTF-8 text"),
    "nul": (b"abc\0" * 999, "NUL"),
    "monotonous": (b"a" * 5000, "has no character but 'a'"),
    "short": (b"To be, or not to be" * 9, "has 171 characters, but --length 64 needs 1,320"),
}


@pytest.mark.parametrize("kind", BAD_TEXTS)
def test_a_bad_text_is_refused(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, reason = BAD_TEXTS[kind]
    if content is not None:
        (tmp_path / kind).write_bytes(content)
    error = refused(capsys, "train", "--text", tmp_path / kind, "--out", tmp_path / "out")
    assert kind in error and reason in error
    assert not (tmp_path / "out").exists()


BAD_OPTIONS = {
    "--units 0": "--units: it is a whole number from 1; got '0'",
    "--units many": "got 'many'",
    "--layers -1": "got '-1'",
    "--seconds 0": "--seconds: it is a number above 0",
    "--seconds inf": "got 'inf'",
    "--learning-rate nan": "got 'nan'",
    "--dropout 1": "--dropout: it is a number from 0 to below 1; got '1'",
    "--zoneout -0.1": "--zoneout",
    "--seed -1": "--seed: it is a whole number from 0",
    "--cell rnn": "invalid choice: 'rnn'",
    "--backend numpy": "invalid choice: 'numpy'",
    "--engine warp": "engine is one of 'auto'",
    "--variant hast_lnlstm": "nearest are 'haste_lnlstm'",
    "--cell gru --variant haste_lnlstm": "is a form of --cell lstm; got --cell gru",
    "--length": "expected one argument",
    "--colour blue": "unrecognized arguments: --colour blue",
}


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_a_bad_option_is_refused(
    options: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    error = refused(capsys, "train", "--text", text, "--out", out, *options.split())
    assert BAD_OPTIONS[options] in error
    assert not out.exists()


def test_a_directory_in_use_is_refused_and_left_alone(
    run: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def files() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}

    before = files()
    error = refused(capsys, "train", "--text", text, "--out", run)
    assert "is not empty" in error and f"--resume {run}" in error
    assert files() == before


def test_a_directory_that_cannot_be_made_is_refused(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Cannot write into" in refused(capsys, "train", "--text", text, "--out", text / "out")


def test_a_backend_that_is_not_there_is_refused(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lnrnn.train import program

    monkeypatch.setattr(program, "find_spec", lambda name: None if name == "torch" else object())
    options = ("--text", text, "--out", tmp_path / "out", "--backend", "torch")
    assert "pip install 'lnrnn[torch]'" in refused(capsys, "train", *options)


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "foreign", "arrays"])
def test_a_damaged_run_is_refused(
    damage: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (run / checkpoint.FILE).read_bytes()
    file = tmp_path / checkpoint.FILE
    file.write_bytes(
        {"cut": content[:-99], "noise": os.urandom(999), "empty": b""}.get(damage, b"")
    )
    if damage == "foreign":
        np.savez(file, state=np.array("[]"))
    if damage == "arrays":
        whole = checkpoint.read(run)
        whole.arrays["LayerNormSimpleRNN"].pop()
        checkpoint.write(tmp_path, whole)
    before = file.read_bytes()
    assert "damaged" in refused(capsys, "train", "--resume", tmp_path, "--steps", 20)
    assert "damaged" in refused(capsys, "sample", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.FILE]
    assert file.read_bytes() == before


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not a run" in refused(capsys, "train", "--resume", tmp_path)
    assert "is not a run" in refused(capsys, "sample", tmp_path / "nowhere")


def test_resume_keeps_settings_and_text(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "drop --units" in refused(capsys, "train", "--resume", run, "--units", 9)
    assert "drop --out" in refused(capsys, "train", "--resume", run, "--out", tmp_path)
    assert "is finished" in refused(capsys, "train", "--resume", run)

    other = shutil.copytree(run, tmp_path / "other")
    saved = checkpoint.read(other)
    saved.digest = "0" * 64
    checkpoint.write(other, saved)
    assert "another text" in refused(capsys, "train", "--resume", other, "--steps", 20)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(file) as path:
        path.write_text("half of the n")
        raise ZeroDivisionError
    assert file.read_text() == "old"
    with replacing(file) as path:
        path.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def sampled(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert lnrnn("sample", *arguments) == 0
    return capsys.readouterr().out.removesuffix("\n")


def test_sample_is_reproducible(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = (run, "--prompt", "The ", "--length", 40)
    first = sampled(capsys, *options, "--seed", 5)
    assert first.startswith("The ") and len(first) == 44
    assert sampled(capsys, *options, "--seed", 5) == first
    assert sampled(capsys, *options, "--seed", 6) != first


def test_the_likeliest_text_goes_on_from_its_own_beginning(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    likeliest = (run, "--temperature", 0)
    whole = sampled(capsys, *likeliest, "--prompt", "if ", "--length", 30)
    assert sampled(capsys, *likeliest, "--prompt", whole[:20], "--length", 13) == whole


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "SimpleRNN"])
@pytest.mark.parametrize("norm", ["LayerNorm", ""])
def test_steps_with_carried_states_are_the_model_on_the_whole(cell: str, norm: str) -> None:
    from lnrnn.train.model import build, single_step

    model = build(norm + cell, Settings(units=8, layers=2, dropout=0.5), characters=9)
    step = single_step(model)
    characters = np.random.default_rng(0).integers(0, 9, (2, 5))
    states = [np.zeros((2, 8), np.float32) for _ in step.inputs[1:]]
    logits = []
    for t in range(5):
        y, *states = step.predict_on_batch([characters[:, t : t + 1], *states])
        logits.append(y)
    whole = model.predict_on_batch(characters)
    np.testing.assert_allclose(np.concatenate(logits, axis=1), whole, rtol=1e-4, atol=1e-5)


def test_sample_refuses_what_it_cannot_use(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "the character 'ß'" in refused(capsys, "sample", run, "--prompt", "Spaß")
    assert "has no model 'LSTM': use LayerNormSimpleRNN" in refused(
        capsys, "sample", run, "--model", "LSTM"
    )
    assert "--temperature" in refused(capsys, "sample", run, "--temperature", "-1")


def test_info_names_frameworks_engines_and_dialects(capsys: pytest.CaptureFixture[str]) -> None:
    assert lnrnn("info") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["keras", keras.__version__] for line in lines)
    assert any(line.startswith(f"portable  {keras.backend.backend()}") for line in lines)
    # of the instruction sets one is in use, and of each other it says whether it could be
    heading = next(
        i for i, line in enumerate(lines) if line.split() == ["instruction", "set", "usable"]
    )
    sets = dict(line.split(maxsplit=1) for line in lines[heading + 1 : lines.index("", heading)])
    assert sorted(sets.values()).count("in use") == 1 and len(sets) > 1
    assert all(v in ("in use", "yes") or v.startswith("no: ") for v in sets.values())
    first_words = {line.split()[0] for line in lines if line}
    assert set(dialects.DIALECTS) | set(RELATIVES) <= first_words
    row = next(line for line in lines if line.startswith("tf1_cifg_ln "))
    assert row.split() == [
        *("tf1_cifg_ln", "lstm", "sum[f", "g", "o]", "carry", "1e-12"),
        *("tensorflow/tensorflow", "@1.15.5"),
    ]


def test_info_with_words_is_the_dialects_that_have_them_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def found(*words: str) -> set[str]:
        assert lnrnn("info", *words) == 0
        tables = capsys.readouterr().out.rstrip().split("\n\n")
        rows = [row.split() for table in tables for row in table.splitlines()]
        assert [row[:2] for row in rows if row[1] == "cell"] in (
            [["dialect", "cell"]],
            [["relative", "cell"]],
            [["dialect", "cell"], ["relative", "cell"]],
        )
        return {row[0] for row in rows if row[1] != "cell"}

    assert found("hyper") == {"magenta_hyperlstm", "labml_hyperlstm"}
    assert found("labml") == {"labml_lnlstm", "labml_hyperlstm"}
    assert found("block_gru", "torchrl") == {"torchrl_dreamerv3_blockgru"}
    assert found("GRU", "whole", "new", "1e-05") == {"transdreamer_lngru_v2"}
    assert found("rllib", "dreamer") == {"rllib_dreamerv3_gru"}
    assert found("h'", "lstm", "carry") == {"returnn_lnlstm_hidden"}
    assert lnrnn("info", "lstm", "nothing of the kind") == 2
    assert "No dialect or relative has 'lstm' and 'nothing of the kind'" in capsys.readouterr().err


def test_the_program_loads_no_framework_before_it_must() -> None:
    # not `info`, which asks TensorFlow whether it takes the native engine's operators
    code = (
        "import os, sys, lnrnn.cli; lnrnn.cli.main(['inspect', ''])\n"
        "print(os.environ['TF_CPP_MIN_LOG_LEVEL'])\nprint(sorted(sys.modules))"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    out = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    level, modules = out.stdout.splitlines()[-2:]
    assert level == "3"
    loaded = set(eval(modules))
    assert loaded.isdisjoint({"keras", "jax", "torch", "tensorflow", "matplotlib", "rich"})


def test_markdown_is_cleaned() -> None:
    markdown = (
        "## ACT I\n\n_Enter A\nand B_\n\n\n\n**A &amp; B**  \nSpeak, _\\[Aside]_ \\-\\-or not\n"
    )
    clean = "ACT I\n\nEnter A\nand B\n\nA & B\nSpeak, [Aside] --or not\n"
    assert corpus.clean_markdown(markdown) == clean


def test_without_the_plays_the_text_is_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "find_spec", lambda name: None)
    assert "pydoc_data" in corpus.load(None).name
    assert topics["lambda"] in corpus.load(None).text


def test_windows_are_text_and_the_held_out_part_is_apart() -> None:
    part = corpus.Corpus("", TEXT)
    settings = Settings(length=8, batch=4)
    x, y = part.batch(3, settings)
    assert x.shape == y.shape == (4, 8)
    np.testing.assert_array_equal(x[:, 1:], y[:, :-1])
    for row in np.concatenate([x, y[:, -1:]], axis=1):
        assert "".join(part.vocabulary[i] for i in row) in TEXT
    again, other = part.batch(3, settings)[0], part.batch(4, settings)[0]
    assert np.array_equal(x, again) and not np.array_equal(x, other)
    held_out = "".join(part.vocabulary[i] for i in part.held_out)
    assert TEXT.endswith(held_out) and len(part.training) + len(held_out) == len(TEXT)
    for row in part.validation(settings)[0]:
        assert "".join(part.vocabulary[i] for i in row) in held_out


def test_comparison_finds_the_first_step_as_good() -> None:
    def progress(*bpc: float) -> Progress:
        rows = [Row(10 * (i + 1), 0.0, b, 0.0) for i, b in enumerate(bpc)]
        return Progress(step=rows[-1].step, rows=rows)

    sentence = comparison({"A": progress(3.0, 2.0, 1.0), "B": progress(4.0, 2.5, 2.6)})
    assert sentence == "A reached the 2.500 of B after 20 of 30 steps."
    assert "has not reached" in comparison({"A": progress(3.0), "B": progress(2.0)})


def test_columns_line_up() -> None:
    lines = columns(("model", "BPC"), [("A", "2.5"), ("LSTM", "12.5")]).splitlines()
    assert lines == ["model   BPC", "A       2.5", "LSTM   12.5"]


@pytest.mark.parametrize("terminal", [True, False])
def test_the_display_shows_each_model(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lnrnn.train.display import Display

    monkeypatch.setenv("TTY_COMPATIBLE", str(int(terminal)))
    monkeypatch.setenv("COLUMNS", "120")
    row = Row(step=10, training_bpc=3.5, validation_bpc=3.25, seconds=2.0)
    progress = {"LSTM": Progress(step=10, seconds=2.0, rows=[row])}
    settings = Settings(steps=20, batch=2, length=50)
    with Display(settings, progress, World(), {"LSTM": 41}) as display:
        display.validation("LSTM")
    out = capsys.readouterr().out
    for figure in ("LSTM", "10/20", "3.500", "3.250", "500", "41 steps"):
        assert figure in out
    assert ("Ctrl-C" in out) == terminal
