"""What compares with original programs, run where their environments are named.

`make test-peers` makes them: LNRNN_TFA_PYTHON is a Python with TensorFlow 2.15, TensorFlow
Addons and keras-layernorm-rnn, LNRNN_TORCH_PYTHON one with torchaudio, SpeechBrain, SheepRL,
DI-engine and NeMo, LNRNN_MXNET_PYTHON one with Sockeye 1.  This one gets what PyTorch's own checks
import.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "convert"))

# the suite of the package itself does not have these programs
if not {f"LNRNN_{name}_PYTHON" for name in ("TFA", "TORCH", "MXNET")} <= set(os.environ):
    collect_ignore_glob = ["test_*.py"]
