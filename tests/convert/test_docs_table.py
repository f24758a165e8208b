"""The table of what was tested has every dialect, and claims a program only where one is run."""

from __future__ import annotations

import re
from pathlib import Path

from lnrnn.convert.programs import program_of
from lnrnn.dialects import DIALECTS

PAGE = Path(__file__).parents[2] / "docs" / "converting.md"
# in the peers' environments, but with no entry among the programs that --check runs
_BY_MODEL = {"book_lnsimplernn"}


def rows() -> list[list[str]]:
    text = PAGE.read_text(encoding="utf-8").split("## What was tested")[1]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_dialect_stands_in_one_row():
    named = [name for row in rows() for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(named) == sorted(DIALECTS)


def test_a_program_is_claimed_where_one_is_run():
    for names, _, _, outputs in rows():
        for name in re.findall(r"`(\w+)`", names):
            found = program_of(name)
            runs = name in _BY_MODEL or (found is not None and found[0] != "haste_pytorch")
            assert (outputs == "program") == runs, name
