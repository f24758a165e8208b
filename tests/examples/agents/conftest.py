"""The examples with libraries for agents, in the environment that `make test-examples` makes."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))

# the suite of the package itself does not have these libraries, but after `make test-peers` TorchRL
if find_spec("stable_baselines3") is None:
    collect_ignore_glob = ["test_*.py"]
