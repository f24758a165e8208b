"""The example runs, with small settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


def printed(program: str, *arguments: str, **environment: str) -> list[str]:
    """The lines that a program prints."""
    return subprocess.run(
        [sys.executable, str(ROOT / program), *arguments],
        check=True,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.splitlines()


def write_recordings(folder: Path) -> None:
    """A package named aeon with some recordings in the form of its files."""
    data = folder / "aeon" / "datasets" / "data" / "JapaneseVowels"
    data.mkdir(parents=True)
    (folder / "aeon" / "__init__.py").touch()
    for part in ("TRAIN", "TEST"):
        lines = ["@problemName JapaneseVowels", "@data"]
        for i in range(18):
            values = torch.randn(12, 7 + i % 5).tolist()
            lines.append(":".join([*(",".join(map(str, v)) for v in values), str(i % 9 + 1)]))
        (data / f"JapaneseVowels_{part}.ts").write_text("\n".join(lines), encoding="utf-8")


def test_japanese_vowels(tmp_path: Path) -> None:
    write_recordings(tmp_path)
    options = ("--steps", "8", "--seeds", "1")
    lines = printed("examples/japanese_vowels.py", *options, PYTHONPATH=str(tmp_path))
    assert lines[0].split()[-7:] == ["step", "1", "step", "2", "step", "8", "seconds"]
    trained, streams = lines[1:5], lines[5:]
    assert [line.split()[:2] for line in trained] == [
        [name, which] for name in ("nn.LSTM", "LayerNormLSTM") for which in ("0", "mean")
    ]
    assert all(0 <= float(value) <= 1 for line in trained for value in line.split()[2:5])
    end = trained[-1].split()[-1]
    assert streams[0].split() == ["its", "stream", "mean", end, "float32"]
    assert [line.split()[-1] for line in streams] == ["float32", "bfloat16", "int8"]
