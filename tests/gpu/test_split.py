"""The split kernel: programs that share the columns of a row, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lnrnn.testing.tolerances import TOLERANCES

CASES = [
    "two programs", "a part of a program, two tiles of rows", "four programs", "no norms", "groups",
    "gru", "gru inside", "sum", "simple", "pairs, two tiles of rows",
]  # fmt: skip


@pytest.fixture(scope="module")
def results():
    command = [sys.executable, str(Path(__file__).with_name("together.py"))]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize("name", CASES)
def test_programs_compute_together_what_the_definition_says(results, name):
    found = results[name]
    allowed = TOLERANCES[found["dtype"]]
    assert found["values"] <= allowed.values
    for array, error in found["gradients"].items():
        assert error <= allowed.gradients, array


@pytest.mark.parametrize("peer", ["absent", "killed"])
def test_a_peer_that_never_sends_is_an_error(results, peer):
    assert "gave up" in results[peer]
