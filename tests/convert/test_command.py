"""`lnrnn convert` and `lnrnn inspect` as a person uses them."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convert_samples import equal_bits, original_weights, prefixed, save_npz, weights_of

import lnrnn
from lnrnn import cli, dialects
from lnrnn.convert import read
from lnrnn.convert.command import parse
from lnrnn.convert.containers import open_file
from lnrnn.testing import VARIANTS

FILES = Path(__file__).parent / "files" / "tfa"


def run(*arguments: object) -> int:
    return cli.main([str(a) for a in arguments])


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The sentence with which the program refuses."""
    capsys.readouterr()
    assert run(*arguments) == 2
    _, err = capsys.readouterr()
    assert err.startswith("lnrnn: ") and err.endswith(".\n") and err.count("\n") == 1
    return err


def test_convert_reads_and_writes(tmp_path, capsys):
    out = tmp_path / "new" / "tfa.safetensors"
    assert run("convert", FILES / "model.keras", "--to", out) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "layers.0.forward: tfa_lnlstm at layers/rnn/cell/, I=5 H=7"
    assert said[-1] == f"wrote {out}"
    found = lnrnn.load(out)
    assert len(found) == 4 and found["layers.0.forward"].variant.epsilon == 2e-3
    origin = found["layers.2.forward"].origin
    assert origin is not None and origin.file == "model.keras" and origin.container == "keras"


def test_convert_selects_and_sets(tmp_path, capsys):
    out = tmp_path / "one.safetensors"
    arguments = ("--select", "first/", "--from", "tfa_lnlstm", "--set", "eps=2e-3")
    assert run("convert", FILES / "weights.npz", "--to", out, *arguments) == 0
    assert "assumed activation=tanh, recurrent_activation=sigmoid" in capsys.readouterr().out
    assert lnrnn.load(out).single.variant.epsilon == 2e-3


def test_convert_writes_for_another_program(tmp_path, capsys):
    ours = tmp_path / "ours.safetensors"
    run("convert", FILES / "model.keras", "--to", ours, "--select", "layers/rnn/")
    message = refusal(
        capsys, "convert", ours, "--to", tmp_path / "w.pt", "--as", "pytorch_fastrnns_lnlstm"
    )
    assert "epsilon is 0.002 here and 1e-05 in the wanted form" in message
    assert not (tmp_path / "w.pt").exists()
    arguments = ("--as", "pytorch_fastrnns_lnlstm", "--as-set", "eps=2e-3")
    assert run("convert", ours, "--to", tmp_path / "w.pt", *arguments) == 0
    again, _ = read(tmp_path / "w.pt", "pytorch_fastrnns_lnlstm")
    kernel = lnrnn.load(ours).single.params["kernel"]
    np.testing.assert_array_equal(again.single.params["kernel"], kernel)


def test_convert_and_back_is_the_identity(tmp_path):
    given = prefixed("a/b/", original_weights("tf1_cifg_ln_peephole"))
    source = save_npz(tmp_path / "w.npz", given)
    ours, back = tmp_path / "o.safetensors", tmp_path / "back.ckpt"
    assert run("convert", source, "--from", "tf1_cifg_ln_peephole", "--to", ours) == 0
    assert run("convert", ours, "--as", "tf1_cifg_ln_peephole", "--to", back) == 0
    assert equal_bits({n: e.load() for n, e in open_file(back).entries.items()}, given)


def test_inspect_lists_layers_and_forms(tmp_path, capsys):
    assert run("inspect", FILES / "model.h5") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "model.h5: h5, 33 tensors"
    assert lines[2].split() == ["--select", "--from", "cell", "I", "H", "assumed"]
    assert lines[3].split() == ["first/layer_norm_lstm_cell/", "tfa_lnlstm", "lstm", "5", "7"]
    source = save_npz(tmp_path / "w.npz", original_weights("speechbrain_ligru_ln_relu"))
    assert run("inspect", source) == 0
    out = capsys.readouterr().out
    assert "speechbrain_sligru_ln_tanh-affine" in out
    assert "(top) fits 4 forms; --from says which" in out


def test_inspect_lists_tensors_where_nothing_fits(tmp_path, capsys):
    source = save_npz(tmp_path / "w.npz", {"dense/kernel": np.ones((2, 3), "f4")})
    assert run("inspect", source) == 0
    out = capsys.readouterr().out
    assert "No tensors have the names and shapes of a known recurrent layer." in out
    assert "dense/kernel    2x3  float32" in out


def test_inspect_of_our_own_file(tmp_path, capsys):
    path = tmp_path / "o.safetensors"
    lnrnn.save(path, weights_of(VARIANTS["lstm_sum_each_cell_carry_projection"]))
    assert run("inspect", path) == 0
    assert capsys.readouterr().out.splitlines()[3].split() == [
        "layers.0.forward", "lstm", "3", "5", "4",
    ]  # fmt: skip


def test_inspect_shows_what_lies_beside(tmp_path, capsys):
    given = original_weights("torchaudio_customlstm") | {"p2g.bias": np.ones(20, "f4")}
    assert run("inspect", save_npz(tmp_path / "w.npz", given)) == 0
    assert "Beside the weights at (top): p2g.bias." in capsys.readouterr().out


def test_names_that_no_terminal_shows_are_escaped(tmp_path, capsys):
    """Control characters, and halves of characters, which JSON may hold and no encoding writes."""
    given = prefixed("\x1b[31m/\ud800/", original_weights("haste_lnlstm"))
    header: dict[str, Any] = {}
    data = b""
    for name, value in given.items():
        offsets = [len(data), len(data) + value.nbytes]
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": offsets}
        data += value.tobytes()
    text = json.dumps(header).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    for arguments in (
        ("inspect", path, "--tensors"),
        ("convert", path, "--to", tmp_path / "o.safetensors"),
    ):
        assert run(*arguments) == 0
        out = capsys.readouterr().out
        assert "\\x1b[31m/\\ud800/" in out and "\x1b" not in out


BAD: dict[str, tuple[list[str], str]] = {
    "missing": (["nowhere.npz"], "Cannot use"),
    "setting": (["FILE", "--set", "eps"], "A setting is NAME=VALUE"),
    "name": (["FILE", "--set", "epsilom=1"], "got 'epsilom=1'"),
    "cell": (["FILE", "--set", "cell=gru"], "got 'cell=gru'"),
    "number": (["FILE", "--set", "eps=small"], "epsilon is a number; got 'small'"),
    "choice": (["FILE", "--set", "cell_norm=both"], "cell_norm is one of none, output, carry"),
    "flag": (["FILE", "--set", "bias=1"], "bias is one of true, false; got '1'"),
    "negative": (["FILE", "--set", "eps=-1"], "epsilon is 0 or more"),
    "dialect": (["FILE", "--from", "tfa_lstm"], "no dialect named 'tfa_lstm'"),
    "relative": (["FILE", "--from", "lingvo_sru_ln"], "behind a prefix; the file has 0"),
    "ending": (["FILE", "--to", "out.pt"], "name another program's form with --as"),
    "select": (["FILE", "--select", "nothing"], "No tensors under 'nothing'"),
    "check": (["OURS", "--check"], "these weights name none"),
    "from_ours": (["OURS", "--from", "tfa_lnlstm"], "leave --from out"),
    "select_ours": (["OURS", "--select", "x"], "no layer whose path begins with 'x'"),
    "removes": (
        ["FILE", "--select", "layers/rnn/", "--set", "cell_norm=none"],
        "as the file has cell_norm_bias, cell_norm_gain",
    ),
    "adds": (
        ["FILE", "--select", "layers/rnn/", "--set", "peephole=after"],
        "as the file has no peephole",
    ),
    "removes_ours": (["OURS", "--set", "bias_x=true"], "as the file has no bias_x"),
    "projects": (["LSTM", "--set", "projection=true"], "as the file has no projection_kernel"),
    "infinite": (["LSTM", "--set", "eps=inf"], "epsilon is a finite number; got inf"),
    "no_number": (["LSTM", "--set", "forget_bias=nan"], "forget_bias is a finite number; got nan"),
    "as_set_alone": (["LSTM", "--as-set", "eps=1"], "lnrnn: --as-set goes with --as"),
    "as_zoneout": (
        ["LSTM", "--as", "tfa_lnlstm", "--as-set", "zoneout=0.1"],
        "got 'zoneout', which is no part of the weights",
    ),
    "as_negative": (["LSTM", "--as", "tfa_lnlstm", "--as-set", "eps=-1"], "epsilon is 0 or more"),
    "as_tied": (
        ["LSTM", "--as", "baselines_lnlstm", "--as-set", "tied_bias=true"],
        "got tied_bias=True, with which they would be others",
    ),
    "as_inner": (
        ["LSTM", "--as", "baselines_lnlstm", "--as-set", "bias_x=true"],
        "got bias_x=True, with which they would be others",
    ),
    "as_fewer": (
        ["LSTM", "--as", "tfa_lnlstm", "--as-set", "bias=false"],
        "got bias=False, with which they would be others",
    ),
    "as_epsilon_of_lite": (
        ["LITE", "--as", "tflite_lnlstm", "--as-set", "eps=0.1", "--to", "o.tflite"],
        "TensorFlow Lite has epsilon=1e-08 fixed; got 0.1",
    ),
    "held": (["HELD", "--as", "tfa_lnlstm"], "zoneout is 0.25 here, and tfa_lnlstm has none"),
    "to_ending": (["LSTM", "--to", "o.foo", "--as", "tfa_lnlstm"], "lnrnn: Other programs' files"),
    "to_folder": (
        ["LSTM", "--to", "folder.pt", "--as", "tfa_lnlstm"],
        "Cannot use folder.pt: Is a",
    ),
    "to_folder_ours": (
        ["LSTM", "--to", "folder.safetensors"],
        "folder.safetensors: Is a directory",
    ),
    **{
        f"to_nowhere{ending}": (
            ["LSTM", "--to", f"/proc/o{ending}", "--as", "tfa_lnlstm"],
            f"Cannot use /proc/o{ending}: No such file",
        )
        for ending in (".pt", ".h5", ".npz", ".safetensors")
    },
    "several": (["ALL", "--as", "tflite_lnlstm", "--to", "o.tflite"], "There are 4 layers here"),
}


@pytest.mark.parametrize("name", BAD)
def test_input_that_cannot_be_used_is_refused_in_one_sentence(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD[name]
    lnrnn.save("ours.safetensors", weights_of(VARIANTS["gru_x_h"]))
    lstm = weights_of(dialects.get("tfa_lnlstm").variant)
    lnrnn.save("lstm.safetensors", lstm)
    lnrnn.save("held.safetensors", dataclasses.replace(lstm, zoneout=0.25))
    lite = dialects.get("tflite_lnlstm").variant.replace(epsilon=0.1)
    lnrnn.save("lite.safetensors", weights_of(lite))
    Path("folder.pt").mkdir()
    Path("folder.safetensors").mkdir()
    before = sorted(p.name for p in tmp_path.iterdir())
    paths = {"FILE": FILES / "model.keras", "ALL": FILES / "model.h5"}
    paths |= {n: Path(f"{n.lower()}.safetensors") for n in ("OURS", "LSTM", "HELD", "LITE")}
    given: list[Any] = [paths.get(a, a) for a in arguments]
    if "--to" not in given:
        given += ["--to", "out.safetensors"]
    assert message in refusal(capsys, "convert", *given)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_settings_are_parsed():
    settings = ["eps=1e-3", "cell_clip=none", "bias=True", "ddof=1", "reset=whole", "zoneout=0.1"]
    assert parse(settings) == {
        "epsilon": 1e-3,
        "cell_clip": None,
        "bias": True,
        "ddof": 1,
        "reset": "whole",
        "zoneout": 0.1,
    }


def test_settings_change_a_file_of_ours(tmp_path):
    path, out = tmp_path / "o.safetensors", tmp_path / "p.safetensors"
    lnrnn.save(path, weights_of(VARIANTS["lstm_x_h"]))
    assert run("convert", path, "--to", out, "--set", "zoneout_cell=0.25", "--set", "eps=1") == 0
    found = lnrnn.load(out).single
    assert (found.zoneout_cell, found.variant.epsilon) == (0.25, 1.0)


def test_check_runs_tensorflow_lite(tmp_path, capsys):
    """The one original program that comes with the backends."""
    name = "tflite_lnlstm_peephole_proj_clip"
    source = save_npz(tmp_path / "w.npz", original_weights(name))
    out = tmp_path / "o.safetensors"
    assert run("convert", source, "--from", name, "--to", out, "--check") == 0
    assert "tensorflow gives the same outputs, to " in capsys.readouterr().out


def test_check_sees_a_difference(tmp_path, capsys):
    name = "tflite_lnlstm"
    source = save_npz(tmp_path / "w.npz", original_weights(name))
    out = tmp_path / "o.safetensors"
    arguments = ("--from", name, "--set", "eps=0.1", "--to", out, "--check")
    assert "gives other outputs" in refusal(capsys, "convert", source, *arguments)
    assert not out.exists()


def test_check_says_what_is_not_installed(tmp_path, capsys):
    for name, message in (
        ("torchaudio_customlstm", "torchaudio is not installed in"),
        ("baselines_lnlstm", "Original programs can be run of tfa_*"),
    ):
        source = save_npz(tmp_path / "w.npz", original_weights(name))
        arguments = ("--from", name, "--to", tmp_path / "o.safetensors", "--check")
        assert message in refusal(capsys, "convert", source, *arguments)
    python = tmp_path / "no_python"
    arguments = ("--from", "tfa_lnlstm", "--to", tmp_path / "o.safetensors", "--check", python)
    source = save_npz(tmp_path / "w.npz", original_weights("tfa_lnlstm"))
    assert "does not run tensorflow_addons" in refusal(capsys, "convert", source, *arguments)
