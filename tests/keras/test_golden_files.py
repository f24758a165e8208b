"""Golden files, values and gradients, through the Keras layers on this backend.

Every case once: in float64 where there is such a file, which is the sharper test.  The command
`python -m lnrnn.testing.golden tests/golden --frontend keras` runs all files.
"""

from __future__ import annotations

from pathlib import Path

import keras
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


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_file(path: Path) -> None:
    file = golden.read(path)
    assert file is not None
    before = runs(), runs(backward=True)
    assert golden.compare(file, adapters.choose(frontend="keras")) is None
    ran = runs() - before[0], runs(backward=True) - before[1]
    assert set(ran[0]) == {("native", keras.backend.backend())}
    assert ran[1] or not any(one.has_loss for one in file.passes())
