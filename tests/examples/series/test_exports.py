"""The table of exports in docs/keras.md, compared with what a program finds on each backend."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "keras.md"
PROGRAM = Path(__file__).parent / "exports.py"


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_table(backend: str) -> None:
    lines = PAGE.read_text(encoding="utf-8").split("\n## Exports\n")[1].splitlines()
    rows = [line for line in lines if f"| {backend} |" in line]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    command = [sys.executable, str(PROGRAM)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("|")] == rows
