"""Golden files, values and gradients, through the PyTorch modules.

Every case once: in float64 where there is such a file, which is the sharper test; and the
first of each dialect with the portable engine, where the native one is the choice otherwise.  The
command `python -m lnrnn.testing.golden tests/golden --frontend torch` runs all files.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lnrnn.engines import runs
from lnrnn.testing import adapters, golden

FILES = Path(__file__).parents[1] / "golden"
EVERY = [path for path in golden.find([FILES]) if golden.read(path) is not None]
NAMES = {path.name for path in EVERY}
PATHS = [
    path
    for path in EVERY
    if path.name.endswith("__f64") or path.name.replace("__f32", "__f64") not in NAMES
]


def test_no_case_is_left_out() -> None:
    assert len(EVERY) == 350
    assert {name[:-5] for name in NAMES} == {path.name[:-5] for path in PATHS}


def dialect_of(path: Path) -> str:
    file = golden.read(path)
    assert file is not None
    return file.dialect.name


FIRST = {dialect_of(path): path for path in reversed(PATHS)}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_file(path: Path) -> None:
    file = golden.read(path)
    assert file is not None
    before = runs()
    assert golden.compare(file, adapters.choose(frontend="torch")) is None
    assert set(runs() - before) == {("native", "torch")}


@pytest.mark.parametrize("dialect", FIRST)
def test_file_of_each_dialect_with_the_portable_engine(dialect: str) -> None:
    file = golden.read(FIRST[dialect])
    assert file is not None
    assert golden.compare(file, adapters.choose("portable", "torch")) is None
