"""The C program of `examples/c`, built by `make test-c`, beside Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lnrnn.train import program as train

EXPORT = Path(__file__).parents[2] / "examples" / "c" / "export.py"


def trained(folder: Path) -> Path:
    text = folder / "text.txt"
    text.write_text(
        "Was it a car or a cat I saw? Élan, naïveté: no lemon, no melon. " * 60, "utf-8"
    )
    options = dict(
        text=str(text), units=24, layers=2, length=20, batch=4, steps=30, backend="torch"
    )
    assert train.train(folder / "run", options) == 0
    return folder / "run"


def test_the_example_writes_what_python_writes(tmp_path: Path, program: Path) -> None:
    run = trained(tmp_path)
    subprocess.run([sys.executable, EXPORT, run, tmp_path], check=True)
    arguments = [
        program,
        tmp_path / "layers.safetensors",
        tmp_path / "characters.safetensors",
        "80",
    ]
    written = subprocess.run(arguments, capture_output=True, check=True, encoding="utf-8")
    text = "".join(train.sample(run, None, "", 80, 0.0, 0))
    assert written.stdout == text + "\n"
    assert len(set(text)) > 3


def test_damaged_files_are_refused_in_one_sentence(tmp_path: Path, program: Path) -> None:
    path = tmp_path / "layers.safetensors"
    path.write_bytes(b"no file of layers")
    run = subprocess.run([program, path, path, "1"], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith("The header of a safetensors file fits into it")
    assert run.stdout == ""
