"""Every golden file, values and gradients, through the PyTorch modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from lnrnn.testing import adapters, golden

FILES = Path(__file__).parents[1] / "golden"
PATHS = [path for path in golden.find([FILES]) if golden.read(path) is not None]


def test_no_file_is_left_out() -> None:
    assert len(PATHS) == 238


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_file(path: Path) -> None:
    file = golden.read(path)
    assert file is not None
    assert golden.compare(file, adapters.choose(frontend="torch")) is None
