"""`lnrnn diagnose`: of a run of `lnrnn train`, or of a file of weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lnrnn.console import columns
from lnrnn.insight.diagnose import Diagnosis, diagnose

# sequences that stand for data where a file has none
_STEPS, _BATCH = 64, 16


def run(target: Path, out: Path | None) -> int:
    """Print the diagnosis of a run or a file, and draw the pictures.

    Args:
        target: folder of a run, or a file that [lnrnn.load][lnrnn.convert.load] reads.
        out: folder for the pictures; None draws none.

    Raises:
        UserError: a damaged or foreign folder.
        FileError: a file that `load` refuses.
    """
    found = _of_run(target) if target.is_dir() else _of_file(target)
    print(found)
    if out is not None:
        from lnrnn.insight.plot import plot

        out.mkdir(parents=True, exist_ok=True)
        drawn = plot(found.trace, out)
        rows = [(str(out / f"{name}.{kind}"),) for name in drawn for kind in ("png", "svg")]
        print("\n" + columns(("picture",), rows))
    return 0


def _of_file(file: Path) -> Diagnosis:
    from lnrnn.convert import load

    weights = load(file)
    inputs = next(iter(weights.values())).sizes.inputs
    x = np.random.default_rng(0).normal(size=(_STEPS, _BATCH, inputs))
    print(f"{file} has weights and no data: its layers read {_STEPS} steps of normal noise.")
    return diagnose(weights, x)


def _of_run(folder: Path) -> Diagnosis:
    """Of the layer-normalised model, as it reads what it has written."""
    from lnrnn.train.program import restored

    model, vocabulary = restored(folder)

    import keras

    text = [vocabulary.index(c) for c in (folder / "sample.txt").read_text(encoding="utf-8")]
    steps = min(_STEPS, len(text) // 2)
    batch = min(_BATCH, (len(text) - 1) // steps)
    cut = np.array(text[: batch * steps + 1])
    x, wanted = (cut[i : batch * steps + i].reshape(batch, steps) for i in (0, 1))

    def loss(logits: object) -> object:
        losses = keras.losses.sparse_categorical_crossentropy(wanted, logits, from_logits=True)
        return keras.ops.mean(losses)

    return diagnose(model, x, loss=loss)
