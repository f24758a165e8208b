"""The example of a recurrent agent, shortened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "memory_agent.py"


def test_agents_of_both_cells_train(tmp_path: Path) -> None:
    options = ["--updates", "3", "--seeds", "1", "--plot", str(tmp_path / "curves.png")]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    names = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert names == ["LN-GRU", "GRU"]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
