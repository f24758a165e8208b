"""The model of a run of `lnrnn train`, for the C program beside this file.

    python examples/c/export.py runs/20260101-120000 model

writes `model/layers.safetensors`, the recurrent layers, and `model/characters.safetensors`: what
turns characters into their inputs and their outputs into the odds of the next character.
"""

from __future__ import annotations

import sys
from pathlib import Path

import lnrnn
from lnrnn.convert import safetensors
from lnrnn.train.program import restored


def export(run: Path, folder: Path) -> None:
    """Write both files."""
    from lnrnn.train.model import parts

    model, vocabulary = restored(run)
    embedding, layers, kernel, bias = parts(model)
    lnrnn.save(folder / "layers.safetensors", layers)
    arrays = {"embedding": embedding, "kernel": kernel, "bias": bias}
    safetensors.write(folder / "characters.safetensors", arrays, {"vocabulary": vocabulary})


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
