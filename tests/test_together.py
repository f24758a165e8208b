"""Processes and devices that train one model together."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
from test_cli import SMALL, refused

from lnrnn import cli
from lnrnn.testing import tolerances
from lnrnn.train import checkpoint, corpus, tokens
from lnrnn.train.join import join
from lnrnn.train.settings import Settings, UserError
from lnrnn.train.world import World

PROGRAM = Path(__file__).with_name("together.py")
TEXT = "\n".join(topics[name] for name in ("assert", "in", "raise", "while"))
LAYERS = ["--layers", "2", "--cell", "lstm"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "python.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def start(
    processes: int,
    *arguments: object,
    devices: int = 1,
    stderr: int | None = None,
    first: dict[str, str] | None = None,
) -> list[subprocess.Popen[str]]:
    """The processes of a world, by the environment that torchrun gives."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "OMP_NUM_THREADS": "1",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    command = [sys.executable, str(PROGRAM), "train", *map(str, arguments)]
    return [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": str(rank)} | ({} if rank else first or {}),
            text=True,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
        for rank in range(processes)
    ]


def finish(world: list[subprocess.Popen[str]]) -> list[str]:
    """What the processes of a world printed, once all have succeeded."""
    printed = [process.communicate()[0] for process in world]
    assert [process.returncode for process in world] == [0] * len(world)
    return printed


def fail(world: list[subprocess.Popen[str]]) -> list[str]:
    """The errors of the processes of a world, none of which Python's end has aborted."""
    said = [process.communicate() for process in world]
    assert [process.returncode for process in world] == [2] * len(world), said
    assert all("ends by itself" not in printed for printed, _ in said)
    return [err for _, err in said]


def assert_same_state(a: Path, b: Path) -> None:
    """All weights and the optimizer's state, and the losses."""
    first, second = checkpoint.read(a), checkpoint.read(b)
    (arrays,), (others,) = first.arrays.values(), second.arrays.values()
    for place, (x, y) in enumerate(zip(arrays, others, strict=True)):
        tolerances.assert_close(f"array {place}", y, x, "float32")
    (progress,), (other,) = first.progress.values(), second.progress.values()
    assert progress.step == other.step
    last, same = progress.rows[-1], other.rows[-1]
    assert same.validation_bpc == pytest.approx(last.validation_bpc, rel=1e-5)


def test_two_processes_and_one_take_the_same_steps_and_each_others_run(
    text: Path, tmp_path: Path
) -> None:
    arguments = ("--text", text, "--backend", "torch", *SMALL, *LAYERS)
    finish(start(1, *arguments, "--out", tmp_path / "one", "--steps", 12))
    first, second = finish(start(2, *arguments, "--out", tmp_path / "two", "--steps", 7))
    assert "2 processes, 2 devices: 4 windows a step, 2 on each device" in first
    assert "on 2 devices" in first and "LayerNorm" not in second
    whole = held(second)
    finish(start(1, "--resume", tmp_path / "two", "--steps", 12))
    assert_same_state(tmp_path / "one", tmp_path / "two")
    # of the weights, gradients and moments a part each
    first, second = finish(
        start(2, *arguments, "--shard", "--out", tmp_path / "parts", "--steps", 7)
    )
    assert "the weights divided among them" in first and "LayerNorm" not in second
    assert held(second) < 0.6 * whole
    finish(start(2, "--resume", tmp_path / "parts", "--steps", 12))
    assert_same_state(tmp_path / "one", tmp_path / "parts")
    for err in fail(
        start(2, "--resume", tmp_path / "parts", "--steps", 12, stderr=subprocess.PIPE)
    ):
        assert "parts is finished: give a larger --steps" in err


def held(printed: str) -> int:
    """The bytes of all tensors when training ended."""
    return int(printed.split("holds ")[1].split()[0])


def test_two_devices_of_jax_take_the_steps_of_one(text: Path, tmp_path: Path) -> None:
    arguments = ("--text", text, "--backend", "jax", "--steps", 7, *SMALL, *LAYERS)
    # masks are those of the whole batch
    arguments += ("--dropout", 0.2, "--recurrent-dropout", 0.2)
    finish(start(1, *arguments, "--out", tmp_path / "one"))
    finish(start(1, *arguments, "--out", tmp_path / "devices", devices=2))
    first, second = finish(start(2, *arguments, "--out", tmp_path / "processes"))
    assert "2 processes, 2 devices: 4 windows a step" in first and "LayerNorm" not in second
    for folder in ("devices", "processes"):
        assert_same_state(tmp_path / "one", tmp_path / folder)


@pytest.mark.parametrize("shard", [(), ("--shard",)])
def test_a_killed_process_leaves_a_checkpoint_and_a_sentence(
    shard: tuple[str, ...], text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = ("--text", text, "--backend", "torch", "--out", out, "--steps", 10**6, *SMALL)
    first, second = world = start(2, *arguments, *shard, stderr=subprocess.PIPE)
    try:
        while not (out / "metrics.csv").exists() or len(checkpoint.read(out).progress) == 0:
            assert first.poll() is None and second.poll() is None
            time.sleep(0.1)
        second.kill()
        printed, err = first.communicate()
    finally:
        for process in world:
            process.kill()
            process.communicate()
    assert first.returncode == 2 and "ends by itself" not in printed
    sentence = f"{out / checkpoint.FILE} is whole: start all again with --resume {out}."
    assert f"lnrnn: Process 0 of 2 lost another one, and {sentence}" in err
    checkpoint.read(out)


@pytest.mark.parametrize("backend", [("torch", "--shard"), ("jax",)])
def test_a_full_disk_ends_all_processes_with_a_sentence(
    backend: tuple[str, ...], text: Path, tmp_path: Path
) -> None:
    arguments = ("--text", text, "--out", tmp_path / "run", *SMALL, "--backend", *backend)
    first, second = start(2, *arguments, stderr=subprocess.PIPE, first={"DISK": "full"})
    printed, err = first.communicate()
    said, lost = second.communicate()
    assert first.returncode == 2 and "ends by itself" not in printed
    assert f"lnrnn: Cannot use {tmp_path / 'run' / checkpoint.FILE}: No space left" in err
    if backend == ("jax",):  # JAX may end a process itself that has lost the first one
        assert second.returncode
    else:
        assert second.returncode == 2 and "ends by itself" not in said
        assert "Process 1 of 2 lost another one, and nothing was written" in lost


def test_a_signal_to_one_process_stops_all_after_the_same_step(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def of_two(world: World, *numbers: float) -> np.ndarray:
        nonlocal steps
        steps += len(numbers) == 3
        if len(numbers) == 1:
            return np.array([numbers, numbers])
        return np.array([numbers, (numbers[0] + 1, 1e6, signal.SIGTERM if steps == 7 else 0)])

    monkeypatch.setattr(World, "gather", of_two)
    monkeypatch.setattr("lnrnn.train.program._finish", lambda *_, **__: None)
    arguments = ["--text", str(text), "--out", str(tmp_path / "run"), "--steps", "12", *SMALL]
    assert cli.main(["train", *arguments]) == 128 + signal.SIGTERM
    (progress,) = checkpoint.read(tmp_path / "run").progress.values()
    assert progress.step == 7 and progress.seconds < 1e6
    # the loss is the mean of both: half a nat more than that of the first
    assert progress.rows[0].training_bpc == pytest.approx(np.log2(69) + 0.5 / np.log(2), abs=0.3)


@pytest.mark.parametrize(
    ("backend", "environment", "sentence"),
    [
        ("torch", {"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR and MASTER_PORT is not set"),
        ("torch", {"WORLD_SIZE": "two"}, "WORLD_SIZE is a whole number from 0; got 'two'"),
        ("torch", {"WORLD_SIZE": "2", "RANK": "2"}, "RANK is a number below WORLD_SIZE=2; got 2"),
        ("jax", {"WORLD_SIZE": "2", "RANK": "0", "TORCHELASTIC_RUN_ID": "x"}, "torchrun keeps"),
        ("tensorflow", {"WORLD_SIZE": "2", "RANK": "0"}, "train on torch or jax; got --backend"),
        ("jax", {"SHARD": "1"}, "FSDP2, which is PyTorch's; got --backend jax: choose"),
    ],
)
def test_a_world_that_cannot_be_is_refused(
    backend: str, environment: dict[str, str], sentence: str
) -> None:
    if "MASTER" not in sentence:
        environment = environment | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    with pytest.raises(UserError, match=re.escape(sentence)):
        join(backend, environment, "SHARD" in environment)


def test_parts_are_the_batch_in_the_order_of_the_ranks() -> None:
    rows = np.arange(12).reshape(6, 2)
    parts = [World(rank, 3).part(rows, -rows) for rank in range(3)]
    for whole, pieces in zip((rows, -rows), zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
    with pytest.raises(UserError, match="a multiple of it; got 4: give 6"):
        World(0, 3).check_batch(Settings(batch=4))


def test_files_on_the_disk_are_the_text_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tokens, "_PIECE", 7)  # pieces end within characters and line ends
    texts = [TEXT[:3000].replace("\n", "\r\n"), "żółw\N{SNOWMAN}\U0001f422\n", TEXT[3000:]]
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    for name, content in zip(("a.txt", "b/c.txt", "d.txt"), texts, strict=True):
        (folder / name).write_text(content, encoding="utf-8", newline="")
    (folder / ".hidden").write_text("\0")
    whole = corpus.Corpus("", "\n".join(texts).replace("\r\n", "\n"))
    disk = tokens.load([str(folder)])
    assert (disk.vocabulary, disk.digest) == (whole.vocabulary, whole.digest)
    assert disk.characters == len(whole.text) and disk.dtype == "uint8"
    settings = Settings(length=8, batch=4)
    for mine, theirs in (
        (disk.batch(3, settings), whole.batch(3, settings)),
        (disk.validation(settings), whole.validation(settings)),
    ):
        for a, b in zip(mine, theirs, strict=True):
            assert a.dtype == np.int32
            np.testing.assert_array_equal(a, b)
    # numbered once
    monkeypatch.setattr(tokens, "_write", None)
    assert tokens.load([str(folder)]) == disk
    assert tokens.load([str(folder / "a.txt"), str(folder / "b"), str(folder / "d.txt")]).digest


def test_a_run_on_files_goes_on_and_is_refused_what_it_cannot_read(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("lnrnn.train.program._finish", lambda *_, **__: None)
    out = tmp_path / "run"
    assert cli.main(["train", "--data", str(text), "--out", str(out), "--steps", "5", *SMALL]) == 0
    assert cli.main(["train", "--resume", str(out), "--steps", "6"]) == 0
    assert checkpoint.read(out).progress["LayerNormLSTM"].step == 6
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 and more")
    (tmp_path / "empty").mkdir()
    for path, sentence in (
        ("latin.txt", "is not UTF-8 text"),
        ("empty", "has no files"),
        ("none", "there is no such file"),
    ):
        arguments = ("train", "--data", tmp_path / path, "--out", tmp_path / "new")
        capsys.readouterr()
        assert cli.main([str(a) for a in arguments]) == 2
        assert sentence in capsys.readouterr().err
    both = ("train", "--data", text, "--text", text, "--out", tmp_path / "new")
    assert "give one of them" in refused(capsys, *both)
