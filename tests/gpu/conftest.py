"""The Triton engine's tests, with kernels that Triton interprets on the CPU.

They have an environment of their own (`make test`): Triton and TensorFlow do not load into one
process.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

# Triton reads it when kernels are defined
os.environ.setdefault("TRITON_INTERPRET", "1")
# for a batch that is divided among devices
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")

# the environment of the other tests does not have it
if not find_spec("triton"):
    collect_ignore_glob = ["test_*.py"]
