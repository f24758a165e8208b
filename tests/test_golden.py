"""The golden runner: all files pass with the reference, and every fault is seen."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lnrnn.dialects import DIALECTS
from lnrnn.params import columns
from lnrnn.relatives import RELATIVES
from lnrnn.testing import adapters, golden

FILES = Path(__file__).parent / "golden"
REFERENCE = adapters.choose("reference")


def files(pattern: str) -> list[Path]:
    found = [path.with_suffix("") for path in sorted(FILES.glob(f"{pattern}.npz"))]
    return [path for path in found if golden.read(path) is not None]


def read(path: Path) -> golden.Golden:
    found = golden.read(path)
    assert found is not None
    return found


def one_of_each(case: str = "a", gates: int = 1) -> list[Path]:
    """One file of each dialect with enough gates, in float64 where there is one."""
    chosen: dict[str, Path] = {}
    for path in files(f"*__{case}__f32") + files(f"*__{case}__f64"):
        dialect = read(path).dialect
        if len(getattr(dialect.variant, "gates", "")) >= gates:
            chosen[dialect.name] = path
    return list(chosen.values())


# every condition, and what is rare among the variants
CONDITIONS = (
    "baselines_lnlstm_done__a__f64",
    "embodied_gru_prelayer__a__f32",
    "haste_lngru_lengths__a__f64",
    "haste_lnindrnn__a__f64",
    "haste_lnlstm_zoneout_train__a__f64",
    "lamb_lnlstm__a__f64",
    "lamb_lnlstm_clip__a__f64",
    "kiros_lnlstm_mask__a__f64",
    "lingvo_lnlstm_simple_padding__a__f32",
    "lingvo_lnlstm_simple_zoneout_eval__a__f64",
    "pytorchkaldi_minimalgru_ln_tanh__a__f64",
    "pytorchkaldi_rnn_ln_tanh__a__f64",
    "speechbrain_sligru_ln_tanh__a__f64",
    "tf1_lnbasiclstm_seqlen__a__f64",
    "tfa_lnlstm_mask__a__f64",
    "tflite_lnlstm_peephole_proj_clip__a__f32",
    "zero_lngru__a__f32",
)
ON_THE_BACKEND = pytest.mark.parametrize(
    ("engine", "frontend"), [("portable", None), (None, "keras")]
)


def changed(file: golden.Golden, **arrays: np.ndarray) -> golden.Golden:
    return dataclasses.replace(file, arrays={**file.arrays, **arrays})


def test_every_file_passes_with_the_reference() -> None:
    paths = golden.find([FILES])
    report = golden.run(paths, REFERENCE)
    assert report.failed == report.skipped == {}
    assert len(report.passed) == len(list(FILES.glob("*.npz"))) == 374
    names = {golden.base_name(name.split("__")[0]) for name in report.passed}
    assert names == {*DIALECTS, *RELATIVES}


@pytest.mark.parametrize("name", CONDITIONS)
@ON_THE_BACKEND
def test_files_pass_on_the_backend(name: str, engine: str | None, frontend: str | None) -> None:
    assert golden.compare(read(FILES / name), adapters.choose(engine, frontend)) is None


@pytest.mark.parametrize("array", ["y", "cT", "g/c0", "g/w/gamma_h"])
@ON_THE_BACKEND
def test_faults_are_seen_on_the_backend(
    array: str, engine: str | None, frontend: str | None
) -> None:
    file = read(FILES / "haste_lnlstm_zoneout_train__a__f64")
    wrong = changed(file, **{array: file.arrays[array] + 1e-6})
    message = golden.compare(wrong, adapters.choose(engine, frontend))
    assert message is not None and message.startswith(f"{array} ")


@pytest.mark.parametrize("path", one_of_each(gates=2), ids=lambda p: p.stem)
def test_two_swapped_gates_are_seen(path: Path) -> None:
    file: Any = read(path)
    gates = file.variant.gates
    weights = file.under("w/")
    params = file.dialect.to_canonical(weights)
    units = params["kernel"].shape[1] // len(gates)
    first, last = (columns(gates, gate, units) for gate in (gates[0], gates[-1]))
    kernel = params["kernel"].copy()
    kernel[:, first], kernel[:, last] = params["kernel"][:, last], params["kernel"][:, first]
    swapped = file.dialect.from_canonical(
        params | {"kernel": kernel}, file.dialect.scope_of(weights), unused=weights
    )
    assert golden.compare(changed(file, **{f"w/{n}": w for n, w in swapped.items()}), REFERENCE)


@pytest.mark.parametrize("path", one_of_each(), ids=lambda p: p.stem)
def test_each_dropped_weight_is_seen(path: Path) -> None:
    file = read(path)
    ones = {n: np.ones_like(p) for n, p in file.dialect.to_canonical(file.under("w/")).items()}
    used = file.dialect.gradients(ones, file.dialect.scope_of(file.under("w/")))
    for name, weight in file.under("w/").items():
        dropped = changed(file, **{f"w/{name}": np.where(used[name], 0, weight)})
        with np.errstate(invalid="ignore"):  # without epsilon a dropped kernel gives 0/0
            seen = golden.compare(dropped, REFERENCE)
        assert (seen is not None) == used[name].any(), f"dropping {name}: {seen}"


@pytest.mark.parametrize("path", one_of_each("eps"), ids=lambda p: p.stem)
def test_another_epsilon_is_seen(path: Path) -> None:
    file = read(path)
    option = next(n for n in ("eps", "norm_epsilon", "layernorm_epsilon") if n in file.config)
    config = {**file.config, option: 2 * file.config[option]}
    assert golden.compare(dataclasses.replace(file, config=config), REFERENCE)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("tf1_lnlstm__a__f64", "forget_bias", 0.5),
        ("lingvo_lnlstm_simple__a__f64", "forget_gate_bias", 0.5),
        ("lingvo_lnlstm_simple_fb1_cap__a__f64", "cell_value_cap", 0.7),
        ("tf1_lnlstm_peephole_clip__a__f64", "cell_clip", 0.9),
        ("tf1_lnlstm_peephole_proj__a__f64", "proj_clip", 0.5),
        ("tflite_lnlstm_peephole_proj_clip__a__f32", "cell_clip", 0),
        ("sonnet1_lstm_ln_peephole_proj__a__f64", "cell_clip_value", 0.6),
        ("sonnet1_lstm_ln_peephole_proj__a__f64", "hidden_clip_value", 0.5),
        ("lingvo_lnlstm_simple_proj_linear__a__f64", "output_nonlinearity", True),
        ("nm512_dreamerv3_gru__a__f64", "update_bias", 0.0),
        ("speechbrain_ligru_ln_relu__a__f64", "nonlinearity", "tanh"),
        ("kerasln_lstm1_sigmoid__a__f64", "recurrent_activation", "hard_sigmoid"),
        ("haste_lnlstm_zoneout_eval__a__f64", "zoneout", 0.0),
        ("lingvo_lnlstm_simple_zoneout_eval__a__f64", "zo_prob", 0.5),
        ("haste_lngru_lengths__a__f64", "lengths", [7, 5, 5]),
        ("tf1_lnbasiclstm_seqlen__a__f64", "sequence_length", [7, 5, 5]),
    ],
)
def test_another_option_is_seen(name: str, option: str, value: Any) -> None:
    file = read(FILES / name)
    assert option in file.config
    config = {**file.config, option: value}
    assert golden.compare(dataclasses.replace(file, config=config), REFERENCE)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("tfa_lnlstm_mask__a__f64", "mask"),
        ("kiros_lngru_mask__a__f64", "mask"),
        ("lingvo_lnlstm_simple_padding__a__f64", "padding"),
        ("baselines_lnlstm_done__a__f64", "done"),
        ("haste_lngru_zoneout_train__a__f64", "zoneout_mask"),
    ],
)
def test_another_condition_is_seen(name: str, array: str) -> None:
    file = read(FILES / name)
    flipped = 1 - file.arrays[array]
    assert golden.compare(changed(file, **{array: flipped}), REFERENCE)


@pytest.mark.parametrize(
    "array", ["y", "hT", "cT", "loss", "g/x", "g/h0", "g/c0", "g/w/bias", "g/w/gamma"]
)
def test_a_small_error_in_any_result_is_seen(array: str) -> None:
    file = read(FILES / "haste_lnlstm__a__f64")
    wrong = file.arrays[array].copy()
    wrong.flat[-1] += 1e-6
    message = golden.compare(changed(file, **{array: wrong}), REFERENCE)
    assert message is not None and message.startswith(f"{array} has a relative error of ")
    wrong.flat[-1] = np.nan
    assert golden.compare(changed(file, **{array: wrong}), REFERENCE)


def test_the_worst_array_is_named() -> None:
    file = read(FILES / "haste_lnlstm__a__f64")
    arrays = {"y": file.arrays["y"] + 1e-7, "g/x": file.arrays["g/x"] + 1e-2}
    message = golden.compare(changed(file, **arrays), REFERENCE)
    assert message is not None and message.startswith("g/x ")


def copy(name: str, to: Path) -> Path:
    for ending in (".npz", ".json"):
        shutil.copy(FILES / (name + ending), to)
    return to / name


def rewrite(path: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    with np.load(path.with_suffix(".npz")) as file:
        arrays = {n: file[n] for n in file.files}
    change(arrays)
    np.savez(path.with_suffix(".npz"), **arrays)


NAME = "haste_lngru__a__f64"


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def test_command_counts_and_returns_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy(NAME, tmp_path)
    copy("lingvo_sru_ln__a__f32", tmp_path)
    assert golden.main([str(tmp_path), "--frontend", "torch"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [
        "skipped, not computed here (a relative has no variant, which these layers compute): "
        "lingvo_sru_ln__a__f32",
        "1 passed, 0 failed, 1 skipped",
    ]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda a: a.pop("w/bias"), "no gradient, or no weight, of bias"),
        (lambda a: (a.pop("w/bias"), a.pop("g/w/bias")), "'haste_lngru' has the weights"),
        (lambda a: a.pop("g/w/kernel"), "no gradient, or no weight, of kernel"),
        (lambda a: a.pop("g/x"), "no gradient, or no weight, of x"),
        (lambda a: a.pop("Gy"), "gradients but no loss weights"),
        (lambda a: (a.pop("y"), a.pop("hT")), "neither outputs y nor final states hT"),
        (lambda a: a.pop("x"), "no x or no weights"),
        (lambda a: a.update(noise=a["y"]), "unknown arrays noise"),
        (lambda a: a.update(y=a["y"][1:]), "y has a relative error of inf"),
        (lambda a: a.update({"w/bias": a["w/bias"][1:]}), "which no sizes give"),
        (lambda a: a.update(x=a["x"][..., 1:]), "x has the shape"),
    ],
)
def test_incomplete_files_fail_with_a_reason(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, np.ndarray]], object],
    why: str,
) -> None:
    path = copy(NAME, tmp_path)
    rewrite(path, change)
    assert golden.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2 and out[0].startswith(f"FAILED {NAME}: ") and why in out[0]
    assert out[1] == "0 passed, 1 failed, 0 skipped"


@pytest.mark.parametrize("ending", [".npz", ".json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "noise"])
def test_damaged_files_fail_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str, damage: str
) -> None:
    copy("tfa_lnlstm__a__f64", tmp_path)
    path = copy(NAME, tmp_path).with_suffix(ending)
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "noise": b"\x80\x04."}.get(damage, b""))
    if damage == "missing":
        path.unlink()
    assert golden.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"FAILED {NAME}: cannot read the {ending}: ")
    assert out[-1] == "1 passed, 1 failed, 0 skipped"


def test_an_unknown_dialect_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy(NAME, tmp_path).with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dialect": "mystery_lngru"}))
    assert golden.main([str(tmp_path)]) == 1
    assert "no dialect is named 'mystery_lngru'" in capsys.readouterr().out


def test_a_front_end_has_no_reference(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        golden.main([str(FILES), "--engine", "reference", "--frontend", "keras"])
    assert stopped.value.code == 2
    assert "No front end computes with the reference" in capsys.readouterr().err


def test_nothing_to_run_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main([str(tmp_path)]) == 2
    assert golden.main([str(tmp_path / "absent")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        f"There are no golden files (.npz with .json) under {tmp_path}.",
        f"No such directory: {tmp_path / 'absent'}.",
    ]
