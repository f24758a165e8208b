"""Lightning and Accelerate: a run that went on from a checkpoint ends with the same weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

EXAMPLES = Path(__file__).parents[3] / "examples"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def of_lightning(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "last.ckpt", weights_only=False)["state_dict"]


def of_accelerate(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("launch", "name", "weights"),
    [([], "lightning_vowels", of_lightning), (TORCHRUN, "accelerate_vowels", of_accelerate)],
    ids=["lightning", "accelerate"],
)
def test_resumed(
    launch: list[str], name: str, weights: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    def run(folder: str, epochs: int) -> str:
        options = ["--epochs", str(epochs), "--folder", str(tmp_path / folder)]
        command = [sys.executable, *launch, str(EXAMPLES / f"{name}.py"), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "2 processes, 2 epochs, from the start" in run("whole", 2)
    run("parts", 1)
    first = weights(tmp_path / "parts")
    assert "2 processes, 2 epochs, resumed" in run("parts", 2)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(parts[name], value) for name, value in whole.items())
    assert not all(torch.equal(first[name], value) for name, value in whole.items())
