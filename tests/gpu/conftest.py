"""The Triton engine's tests, with kernels that Triton interprets on the CPU.

They have an environment of their own (`make test`): Triton and TensorFlow do not load into one
process.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

# Triton reads it when kernels are defined
os.environ.setdefault("TRITON_INTERPRET", "1")

# the environment of the other tests does not have it
if not find_spec("triton"):
    collect_ignore_glob = ["test_*.py"]
