"""What an installation with NumPy alone does: a file, and the native engine in a stream.

With `--extras WHEEL`: whether the wheel's extras resolve, all of them together.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import lnrnn
from lnrnn import cli, reference
from lnrnn.convert import Weights
from lnrnn.testing import VARIANTS, random_params, sizes_for

_OTHERS = ("flax", "h5py", "jax", "keras", "matplotlib", "rich", "tensorflow", "torch")


def compute() -> None:
    """A file, a stream on the native engine, and the command."""
    found = [name for name in _OTHERS if find_spec(name)]
    assert not found, f"not alone: {found}"
    variant = VARIANTS["lstm_x_h_cell_output"]
    params = random_params(variant, sizes_for(variant), np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((5, 2, params["kernel"].shape[0]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "layer.safetensors")
        weights = Weights(variant, {name: p.astype("float32") for name, p in params.items()})
        lnrnn.save(file, weights)
        stream = lnrnn.Stream(file, batch=2)
    y = np.stack([stream(step.astype("float32")) for step in x])
    np.testing.assert_allclose(y, reference.forward(variant, params, x).y, atol=1e-5)
    assert cli.main(["info"]) == 0


def resolve(wheel: str) -> None:
    """Ask pip what it would install."""
    extras = ",".join(metadata("lnrnn").get_all("Provides-Extra") or ())
    command = ["-m", "pip", "install", "--quiet", "--dry-run", f"{wheel}[{extras}]"]
    subprocess.run([sys.executable, *command], check=True)
    print(f"All of {extras} resolve.")


if __name__ == "__main__":
    compute()
    if sys.argv[1:]:
        resolve(sys.argv[2])
