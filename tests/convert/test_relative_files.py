"""Weights of relatives from other programs' files into layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lnrnn
from lnrnn import cli
from lnrnn.convert import FileError, read, relatives
from lnrnn.convert.tensors import Container, Entry
from lnrnn.reference.relatives import forward
from lnrnn.relatives import RELATIVES
from lnrnn.testing import adapters
from lnrnn.testing.tolerances import assert_close

GOLDEN = Path(__file__).parents[1] / "golden"
TORCHRL = "torchrl_dreamerv3_blockgru"


def save_beside(path: Path, name: str, *prefixes: str) -> dict[str, np.ndarray]:
    """A file with the weights of a golden file behind prefixes, and others that are not its."""
    with np.load(GOLDEN / f"{name}__a__f32.npz") as file:
        arrays = {n: file[n] for n in file.files}
    weights = {n[2:]: a for n, a in arrays.items() if n.startswith("w/")}
    every = {f"{p}{n}": a for p in prefixes for n, a in weights.items()}
    others: dict[str, Any] = {"enc/kernel": np.ones((2, 3), np.float32)}
    np.savez(path, **every, **others)
    return arrays


@pytest.mark.parametrize("form", RELATIVES)
def test_a_checkpoint_gives_the_originals_outputs(form, tmp_path, capsys):
    arrays = save_beside(tmp_path / "agent.npz", form, "agent/dyn/")
    source, out = str(tmp_path / "agent.npz"), tmp_path / "core.safetensors"
    assert cli.main(["inspect", source]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("agent/")]
    scope, name, cell, *sizes = row.split()
    assert (name, cell) == (form, RELATIVES[form].relative.cell)
    assert cli.main(["convert", source, "--to", str(out)]) == 0
    said = f"{form}: I={sizes[0]} H={sizes[1]}\nwrote {out}\n"
    assert capsys.readouterr().out == said
    assert cli.main(["convert", source, "--to", str(out), "--from", form, "--select", scope]) == 0
    assert capsys.readouterr().out == said
    relative, params = relatives.load(out)
    states = adapters.apart(adapters.widths(relative, params), arrays["h0"], arrays.get("c0"))
    run = forward(relative, params, arrays["x"], list(states.values()))
    assert_close("y", run.y, arrays["y"][..., : run.y.shape[2]], "float32")


@pytest.mark.parametrize("form", RELATIVES)
def test_weights_go_back_to_the_original(form, tmp_path, capsys):
    save_beside(tmp_path / "agent.npz", form, "")
    ours, back = str(tmp_path / "core.safetensors"), str(tmp_path / "back.npz")
    assert cli.main(["convert", str(tmp_path / "agent.npz"), "--to", ours]) == 0
    assert cli.main(["convert", ours, "--to", back, "--as", form]) == 0
    with np.load(tmp_path / "agent.npz") as before, np.load(back) as after:
        assert set(after.files) == {*before.files} - {"enc/kernel"}
        for name in after.files:
            read = slice(len(before[name]) // 4, None) if name == "b" else slice(None)
            assert_close(name, after[name][read], before[name][read], "float32")
    capsys.readouterr()
    other = next(n for n in RELATIVES if RELATIVES[n].relative != RELATIVES[form].relative)
    assert cli.main(["convert", ours, "--to", back, "--as", other]) == 2
    assert f"got --as {other}" in capsys.readouterr().err


def test_a_file_of_ours_is_inspected(tmp_path, capsys):
    save_beside(tmp_path / "agent.npz", "lingvo_lnlstm_doubleproj", "")
    ours = str(tmp_path / "core.safetensors")
    assert cli.main(["convert", str(tmp_path / "agent.npz"), "--to", ours]) == 0
    capsys.readouterr()
    assert cli.main(["inspect", ours]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["double_projection", "5", "8", "5"]
    with pytest.raises(FileError, match=r"convert\.relatives\.load"):
        lnrnn.load(ours)
    with pytest.raises(FileError, match=r"convert\.relatives\.load"):
        read(Path(ours))


def test_a_cell_within_a_relative_is_not_taken_for_a_layer(tmp_path, capsys):
    """The small LSTM of a HyperLSTM has the weights of an LSTM of the same program."""
    source, out = tmp_path / "hyper.npz", str(tmp_path / "out.safetensors")
    save_beside(source, "labml_hyperlstm", "")
    with pytest.raises(FileError, match="has a relative, labml_hyperlstm at the top"):
        read(source)
    assert cli.main(["inspect", str(source)]) == 0
    assert "labml_lnlstm" not in capsys.readouterr().out
    small = read(source, "labml_lnlstm", "hyper.")[0].single
    assert small.sizes.units == 6
    with np.load(source) as hyper, np.load(GOLDEN / "haste_lnlstm__a__f32.npz") as file:
        layer = {f"net.{n[2:]}": file[n] for n in file.files if n.startswith("w/")}
        np.savez(source, **hyper, **layer)
    assert cli.main(["convert", str(source), "--to", out]) == 2
    assert "with --from labml_hyperlstm reads it" in capsys.readouterr().err
    assert cli.main(["convert", str(source), "--to", out, "--select", "net."]) == 0


def unread() -> Any:
    raise AssertionError("Nothing is read to tell what is in a file.")


@pytest.mark.parametrize("shape", [(), (0, 3, 4), (0, 1 << 40, 1), (2, 7, 4)])
def test_wrong_shapes_are_no_relative(shape):
    with np.load(GOLDEN / f"{TORCHRL}__a__f32.npz") as file:
        shapes = {n[2:]: file[n].shape for n in file.files if n.startswith("w/")}
    for name in shapes:
        given = shapes | {name: shape}
        entries = {n: Entry(s, np.dtype("f4"), unread) for n, s in given.items()}
        assert relatives.find(Container("npz", entries)) == []


def test_of_several_cells_one_is_selected(tmp_path, capsys):
    form, source, out = TORCHRL, tmp_path / "two.npz", tmp_path / "core.safetensors"
    save_beside(source, form, "online.", "target.")
    command = ["convert", str(source), "--to", str(out), "--from", form]
    assert cli.main(command) == 2
    assert "the file has 2" in capsys.readouterr().err
    assert cli.main([*command, "--select", "target."]) == 0
    assert cli.main([*command, "--select", "target.", "--set", "eps=1e-3"]) == 2
    assert "--set is for layers with a variant" in capsys.readouterr().err


def test_other_files_are_refused(tmp_path):
    save_beside(tmp_path / "agent.npz", "dreamerv3_block_core", "dyn/")
    with pytest.raises(FileError):
        relatives.load(tmp_path / "agent.npz")
    relative, params = relatives.Relative(cell="lrn"), {"kernel": np.ones((3, 12), np.float32)}
    with pytest.raises(ValueError, match="have the shapes"):
        relatives.save(tmp_path / "lrn.safetensors", relative, params)
