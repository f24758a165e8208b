"""Weights of relatives from other programs' files into layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lnrnn import cli
from lnrnn.convert import FileError, relatives
from lnrnn.reference.relatives import forward
from lnrnn.testing.tolerances import assert_close

GOLDEN = Path(__file__).parents[1] / "golden"
FORMS = ("dreamerv3_block_core", "r2dreamer_deter", "torchrl_dreamerv3_blockgru")


def save_beside(path: Path, name: str, *prefixes: str) -> dict[str, np.ndarray]:
    """A file with the weights of a golden file behind prefixes, and others that are not its."""
    with np.load(GOLDEN / f"{name}__c__f32.npz") as file:
        arrays = {n: file[n] for n in file.files}
    weights = {n[2:]: a for n, a in arrays.items() if n.startswith("w/")}
    every = {f"{p}{n}": a for p in prefixes for n, a in weights.items()}
    others: dict[str, Any] = {"enc/kernel": np.ones((2, 3), np.float32)}
    np.savez(path, **every, **others)
    return arrays


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_gives_the_originals_outputs(form, tmp_path, capsys):
    arrays = save_beside(tmp_path / "agent.npz", form, "agent/dyn/")
    out = tmp_path / "core.safetensors"
    assert cli.main(["convert", str(tmp_path / "agent.npz"), "--to", str(out), "--from", form]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    relative, params = relatives.load(out)
    assert_close(
        "y", forward(relative, params, arrays["x"], [arrays["h0"]]).y, arrays["y"], "float32"
    )


def test_of_several_cells_one_is_selected(tmp_path, capsys):
    form, source, out = FORMS[2], tmp_path / "two.npz", tmp_path / "core.safetensors"
    save_beside(source, form, "online.", "target.")
    command = ["convert", str(source), "--to", str(out), "--from", form]
    assert cli.main(command) == 2
    assert "the file has 2" in capsys.readouterr().err
    assert cli.main([*command, "--select", "target."]) == 0
    assert cli.main([*command, "--select", "target.", "--set", "eps=1e-3"]) == 2
    assert "--set is for layers with a variant" in capsys.readouterr().err


def test_other_files_are_refused(tmp_path):
    save_beside(tmp_path / "agent.npz", FORMS[0], "dyn/")
    with pytest.raises(FileError):
        relatives.load(tmp_path / "agent.npz")
    relative, params = relatives.Relative(cell="lrn"), {"kernel": np.ones((3, 12), np.float32)}
    with pytest.raises(ValueError, match="have the shapes"):
        relatives.save(tmp_path / "lrn.safetensors", relative, params)
