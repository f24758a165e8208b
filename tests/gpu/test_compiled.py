"""A few entries of the kernel table, compiled without a GPU; `make kernels` takes all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_kernels_spill_nothing_and_are_as_recorded(tmp_path):
    command = [sys.executable, str(Path(__file__).with_name("compiled.py")), "--few"]
    environment = dict(os.environ, TRITON_CACHE_DIR=str(tmp_path))
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
