"""`lnrnn bench` at tiny sizes: the gate, the figures and the files; no time is judged."""

from __future__ import annotations

import csv
import math
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from lnrnn import cli
from lnrnn.bench import competitors, machine, measure, memory, problem, program, report
from lnrnn.bench.problem import NORMALISED, PLAIN, Competitor, DisagreementError, Problem, Runs
from lnrnn.bench.settings import FULL, GRIDS, OVERHEAD, TASKS, Point, Settings, parse_points
from lnrnn.engines.native import core

BACKEND = keras.backend.backend()
TINY, STEP = Point(6, 3, 8), Point(1, 3, 8)
OURS = "lnrnn native"


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """All processors, and what a run sets for its process set back."""
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    torch: Any = sys.modules.get("torch")
    before = torch and torch.get_num_threads()
    yield core.available_threads()
    if torch:
        torch.set_num_threads(before)


def settings(threads: int, cell: str = "lstm", **options: Any) -> Settings:
    return Settings(framework=BACKEND, threads=threads, cell=cell, points=(TINY,), **options)


def ready(given: Settings, point: Point = TINY, wrong: str | None = None) -> dict[Competitor, Runs]:
    """All competitors at a point, the one named `wrong` with other weights."""
    projected = TASKS[given.task].projected
    return {
        c: c.build((Wrong if c.name == wrong else Problem)(given.cell, point, projected))
        for c in competitors.of(given)
        if c.at(point)
    }


@pytest.mark.parametrize("cell", ["lstm", "gru", "simple"])
@pytest.mark.parametrize("point", [TINY, OVERHEAD], ids=str)
def test_all_competitors_compute_the_same(cell: str, point: Point, threads: int) -> None:
    found = ready(settings(threads, cell), point)
    kinds = [c.kind for c in found]
    assert kinds.count(NORMALISED) >= 3 and kinds.count(PLAIN) >= 2
    assert ("lnrnn core" in [c.name for c in found]) == (point == OVERHEAD)
    problem.check(found)


USES = [
    *(("packed", cell, "float32") for cell in ("lstm", "gru", "simple")),
    *(("step", cell, "float32") for cell in ("lstm", "gru", "simple")),
    *(("sequence", cell, "bfloat16") for cell in ("lstm", "gru", "simple")),
    ("packed", "lstm", "bfloat16"),
    *(("projected", "lstm", dtype) for dtype in ("float32", "bfloat16")),
    ("blocks", "block_gru", "float32"),
    ("step", "gru", "bfloat16"),
    ("fit", "gru", "float32"),
    ("fit", "lstm", "bfloat16"),
]


@pytest.mark.parametrize("task, cell, dtype", USES)
def test_they_do_in_other_uses(task: str, cell: str, dtype: str, threads: int) -> None:
    given = settings(threads, cell, task=task, dtype=dtype)
    found = ready(given, STEP if task == "step" else TINY)
    bases = [c.kind for c in found if c.base]
    assert sorted(bases) == [NORMALISED, PLAIN][: 1 if task == "blocks" else 2]
    assert {c.dtype for c in found if c.name in ("lnrnn", "lnrnn portable")} <= {dtype}
    for runs in found.values():
        assert tuple(runs.calls) == TASKS[task].calls
    problem.check(found)


class Wrong(Problem):
    """A problem with one weight that is not that of the others."""

    spoilt: tuple[str, int] = ("", 0)
    factor = 1.01

    def __init__(self, cell: str, point: Point, projected: bool = False) -> None:
        super().__init__(cell, point, projected)
        name, column = self.spoilt
        for params in self.params.values():
            if name in params:
                params[name][..., column] *= self.factor


@pytest.mark.parametrize("name", [OURS, "lnrnn un-normalised"])
@pytest.mark.parametrize("spoilt", [("recurrent_kernel", 3), ("kernel", 0), ("bias", 30)])
def test_the_gate_sees_a_wrong_weight(
    name: str, spoilt: tuple[str, int], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Wrong, "spoilt", spoilt)
    with pytest.raises(DisagreementError, match=f"^{name} disagrees with "):
        problem.check(ready(settings(threads), wrong=name))


@pytest.mark.parametrize(
    "name, options, factor",
    [
        ("lnrnn native", {"task": "packed"}, 1.01),
        ("TorchScript loop", {"task": "packed"}, 1.01),
        ("lnrnn native", {"task": "projected"}, 1.01),
        ("lnrnn native", {"task": "blocks", "cell": "block_gru"}, 1.01),
        ("lnrnn cell", {"task": "step"}, 1.01),
        ("torch.nn.LSTMCell", {"task": "step"}, 1.01),
        ("lnrnn", {"task": "fit"}, 1.01),
        ("lnrnn un-normalised", {"task": "fit"}, 1.01),
        ("lnrnn", {"dtype": "bfloat16"}, 3.0),
        ("torch.nn.LSTM", {"dtype": "bfloat16"}, 3.0),
    ],
    ids=str,
)
def test_the_gate_sees_it_in_other_uses(
    name: str,
    options: dict[str, Any],
    factor: float,
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocks = options.get("task") == "blocks"
    spoilt = ("gate_kernel", 2) if blocks else ("recurrent_kernel", 3)
    monkeypatch.setattr(Wrong, "spoilt", spoilt)
    monkeypatch.setattr(Wrong, "factor", factor)
    point = STEP if options.get("task") == "step" else TINY
    with pytest.raises(DisagreementError, match=f"^{name} disagrees with "):
        problem.check(ready(settings(threads, **options), point, wrong=name))


@pytest.mark.parametrize(
    "task, gradient",
    [
        ("sequence", "x"),
        ("sequence", "kernel"),
        ("sequence", "recurrent_kernel"),
        ("packed", "x"),
        ("blocks", "hidden_gain"),
        ("fit", "kernel"),
        ("fit", "recurrent_kernel"),
    ],
)
def test_the_gate_sees_a_wrong_gradient(task: str, gradient: str, threads: int) -> None:
    found = ready(settings(threads, TASKS[task].cell or "lstm", task=task))
    ours = next(iter(found))
    right = found[ours].gradients
    assert right is not None

    def wrong() -> dict[str, np.ndarray]:
        gradients = {n: np.array(g) for n, g in right().items()}
        gradients[gradient].flat[5] += 1e-3 * np.abs(gradients[gradient]).max()
        return gradients

    found[ours] = found[ours]._replace(gradients=wrong)
    with pytest.raises(DisagreementError, match=rf"{ours.name} disagrees .* d{gradient}\["):
        problem.check(found)


def test_a_fit_leaves_the_weights_of_the_gate(threads: int) -> None:
    """The gate's steps are large, and what is timed afterwards starts where it started."""
    runs = next(iter(ready(settings(threads, task="fit")).values()))
    assert runs.y and runs.gradients
    before, first = runs.y(), runs.gradients()
    np.testing.assert_array_equal(runs.y(), before)
    assert all(np.abs(g).max() > 0.1 for g in first.values())


def test_no_figure_is_given_after_a_disagreement(
    tmp_path: Path,
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    every = competitors.of

    def with_a_wrong_one(given: Settings) -> list[Competitor]:
        monkeypatch.setattr(Wrong, "spoilt", ("recurrent_kernel", 0))
        return [
            replace(c, build=lambda p, c=c: c.build(Wrong(p.cell, p.point)))
            if c.name == OURS
            else c
            for c in every(given)
        ]

    monkeypatch.setattr(competitors, "of", with_a_wrong_one)
    options = ["--grid", "6,3,8", "--repeats", "1", "--no-memory", "--out", str(tmp_path)]
    assert cli.main(["bench", "--framework", BACKEND, *options]) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"lnrnn: {OURS} disagrees with lnrnn portable: y[")
    assert "median" not in out and not list(tmp_path.iterdir())


def test_a_run_on_the_cpu_does_not_see_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(program, "_one", lambda _: seen.append(os.environ["CUDA_VISIBLE_DEVICES"]))
    monkeypatch.setattr(report, "write", lambda *_: None)
    assert cli.main(["bench", "--framework", BACKEND, "--out", str(tmp_path)]) == 0
    assert seen == [""]


def test_a_run_over_all_frameworks_writes_its_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--grid", "4,2,8", "--repeats", "2", "--no-memory", "--cell", "simple"]
    options += ["--out", str(tmp_path)]
    assert cli.main(["bench", *options]) == 0
    out = capfd.readouterr().out
    files = {"bench.md", "bench.csv", "bench.json", "bench.png"}
    assert {p.name for p in tmp_path.iterdir()} == files
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    results = report.read(tmp_path)
    assert {r.settings.framework for r in results} == {"torch", "jax", "tensorflow"}
    assert (tmp_path / "bench.md").read_text(encoding="utf-8") == report.markdown(results)
    rows = [row for result in results for row in result.rows]
    with (tmp_path / "bench.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [float(line["minimum_ms"]) for line in table] == [row.minimum_ms for row in rows]
    assert {line["processor"] for line in table} == {machine.processor()}
    for line in table:
        ours = line["competitor"].startswith("lnrnn")
        assert line["engine"] in (("native", "portable") if ours else ("",))
    assert {line["instruction_set"] for line in table} == {core.instruction_set()}
    peers = {"torch.nn.RNN", "TorchScript loop", "keras.layers.RNN(cell)", "jax.lax.scan"}
    assert peers < {row.competitor for row in rows}
    for row in rows:
        assert 0 < row.minimum_ms <= row.median_ms and row.timings == 2
        assert row.point in (Point(4, 2, 8), OVERHEAD)
        assert row.competitor in out
        ours = next(r for r in rows if r[:7] == row[:7] and r.competitor == OURS)
        assert math.isclose(row.ratio_to_ours * ours.minimum_ms, row.minimum_ms)


def test_a_run_on_a_device_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but the device, the kernels and their clock."""
    from lnrnn.bench import on_cuda

    def clock(run: Any, calls: int) -> float:
        run()
        return calls * 0.25

    for name, fake in {
        "missing": lambda: None,
        "described": lambda: "a device",
        "versions": lambda: {"CUDA": "none"},
        "seconds": clock,
        "peak": lambda run: 2**20,
        "competitors": lambda given: on_cuda.on_device(given, "native"),
    }.items():
        monkeypatch.setattr(on_cuda, name, fake)
    options = ["--dtype", "bfloat16", "--grid", "4,2,8", "--repeats", "2", "--out", str(tmp_path)]
    assert cli.main(["bench", "--device", "cuda", *options]) == 0
    assert "a device." in capsys.readouterr().out
    (found,) = report.read(tmp_path)
    assert found.settings.device == "cuda" and found.versions["CUDA"] == "none"
    assert {r.competitor for r in found.rows} == {
        "lnrnn triton", "lnrnn un-normalised", "torch.nn.LSTM", "lnrnn portable, float32",
        "torch.nn.LSTM, float32",
    }  # fmt: skip
    assert {(r.minimum_ms, r.peak_MiB, r.point) for r in found.rows} == {
        (250.0, 1.0, Point(4, 2, 8))
    }


def test_a_model_is_measured_on_all_frameworks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--task", "fit", "--cell", "simple", "--grid", "4,2,8", "--threads", "1"]
    options += ["--repeats", "1", "--out", str(tmp_path)]
    assert cli.main(["bench", *options]) == 0
    out = capfd.readouterr().out
    results = report.read(tmp_path)
    assert {r.settings.framework for r in results} == {"torch", "jax", "tensorflow"}
    for result in results:
        found = {(row.call, row.competitor) for row in result.rows}
        assert {call for call, _ in found} == set(TASKS["fit"].calls)
        assert len(found) == len(result.rows) == 4 * 5
        assert {"lnrnn", "keras.layers.SimpleRNN"} < {name for _, name in found}
    by_torch = {row.competitor: row.engine for row in results[-1].rows}
    assert by_torch["lnrnn"] == "native" and by_torch["lnrnn portable"] == "portable"
    assert by_torch["keras.layers.SimpleRNN"] == ""
    assert "T,B,H = 4,2,8; engine of lnrnn: native" in out
    assert "keras.layers.SimpleRNN" in out and "/ limit" not in out and "MiB" not in out


def row(call: str, competitor: str, milliseconds: float, peak: float | None = None) -> report.Row:
    given = Settings(framework="torch", threads=2)
    times = measure.Times(1, [milliseconds / 1e3, milliseconds / 500])
    entry = Competitor(competitor, NORMALISED, lambda problem: Runs({}))
    made = report.Row.of(given, TINY, call, entry, "native", times, None)
    return made._replace(peak_MiB=peak)


def test_tables_for_a_page() -> None:
    rows = [row("forward", "lnrnn native", 2.0, 1.0), row("forward", "peer", 5.0)]
    rows += [row("training", "lnrnn native", 20.0, 7.25), row("training", "peer", 123.4)]
    given = Settings(framework="torch", threads=2)
    result = report.Measurement(
        given,
        {"torch": "9.8"},
        "A processor (family 1, model 2)",
        ["avx2", "amx"],
        "avx2",
        report.with_ratios(rows),
    )
    first, second = report.markdown([result]).split("MiB at the peak:")
    assert "lstm, float32, on torch 9.8. 2 thread(s) of A processor (family 1, model 2)" in first
    assert "which has avx2, amx; the native engine used avx2." in first
    assert first.splitlines()[2:] == [
        "| T, B, H |  | `lnrnn native` | `peer` |",
        "| --- | --- | --- | --- |",
        "| 6, 3, 8 | forward | 2 (1.00) | 5 (2.50) |",
        "| 6, 3, 8 | training | 20 (1.00) | 123 (6.17) |",
        "",
    ]
    assert second.splitlines()[-2:] == [
        "| 6, 3, 8 | forward | 1.0 |",
        "| 6, 3, 8 | training | 7.2 |",
    ]


CPUINFO = """processor : 0
cpu family\t: 26
model\t\t: 2
model name\t: AMD EPYC
flags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile

processor : 1
model name\t: another
"""


def test_the_processor_is_named(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(CPUINFO)
    assert machine.processor(file) == "AMD EPYC (family 26, model 2)"
    assert machine.instruction_sets(file) == ["avx2", "avx512", "avx512_bf16", "amx"]
    file.write_text("processor : 0\nFeatures : fp asimd bf16\n")
    assert machine.instruction_sets(file) == ["neon", "bf16"]
    for other in (file, tmp_path / "absent"):  # as Linux on ARM, and systems without the file
        assert machine.processor(other) in (platform.processor(), platform.machine())
    assert machine.instruction_sets(tmp_path / "absent") == []


def test_timings_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(measure, "_SECONDS_OF_A_TIMING", 0.0)
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = measure.interleaved(runs, 3)
    assert "".join(calls) == "aabb" * (1 + 3)
    assert [len(t.seconds) for t in times.values()] == [3, 3]
    monkeypatch.setattr(measure, "_MOST_SECONDS", 0.0)
    assert [len(t.seconds) for t in measure.interleaved(runs, 3).values()] == [1, 1]


def test_the_peak_is_that_of_one_call() -> None:
    size = 32 * 2**20

    def run() -> Any:
        kept = np.ones(0, np.uint8)
        for _ in range(3):  # one after the other, of which the first two are freed
            kept = np.ones(size, np.uint8)
        return kept[:1].copy()

    assert size <= memory.peak(run) < 2.5 * size


def test_memory_is_measured_in_a_process_of_its_own(threads: int) -> None:
    point = Point(64, 64, 128)  # the product has 4096 rows and 512 columns
    given = Settings(framework=BACKEND, threads=threads, points=(point,))
    peaks = memory.of(given, "limit")
    assert set(peaks) == {(point, "forward"), (point, "training")}
    assert all(7 * 2**20 < peak < 64 * 2**20 for peak in peaks.values())


def test_grids() -> None:
    assert parse_points("small") == (Point(100, 32, 128), Point(100, 1, 128))
    assert parse_points("full") == GRIDS["full"] == FULL and len(set(FULL)) == 9
    assert Point(1024, 16, 768) in parse_points("cuda")
    assert parse_points("7,2,3") == (Point(7, 2, 3),)


BAD = {
    "--grid 1,2": "small, full, cuda or T,B,H, three whole numbers from 1; got '1,2'",
    "--grid 0,1,2": "got '0,1,2'",
    "--grid small large": "got 'large'",
    "--repeats 0": "--repeats: it is a whole number from 1",
    "--threads 100000": "--threads is at most the",
    "--framework numpy": "invalid choice: 'numpy'",
    "--task packed --framework jax": "--task packed is measured on torch alone; got 'jax'",
    "--task projected --cell gru": "--task projected is of one cell, lstm; got 'gru' as --cell",
    "--task blocks --cell lstm": "--task blocks is of one cell, block_gru; got 'lstm' as --cell",
    "--task blocks --dtype bfloat16": "--task blocks is in float32; got 'bfloat16' as --dtype",
    "--task step --grid 1,1,8 100,2,8": "--task step is one step, a point 1,B,H; got 100,2,8",
    "--dtype float16": "add --device cuda",
    "--device cuda --framework jax": "--device cuda is measured from torch",
    "--device cuda --task step": "--device cuda is measured from torch, a sequence; got",
    "--device cuda": "The Triton engine cannot be measured: ",
    "--cell rnn": "invalid choice: 'rnn'",
}


@pytest.mark.parametrize("options", BAD)
def test_a_bad_option_is_refused(
    options: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["bench", "--out", str(out), *options.split()]) == 2
    printed, error = capsys.readouterr()
    assert printed == "" and not out.exists()
    assert BAD[options] in error and error.endswith(".\n") and error.count("\n") == 1


def test_a_framework_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lnrnn.train import program as training

    monkeypatch.setattr(training, "find_spec", lambda name: None if name == BACKEND else object())
    monkeypatch.setattr(competitors, "_limit_threads", lambda threads: None)
    assert cli.main(["bench", "--framework", BACKEND, "--out", str(tmp_path)]) == 2
    assert f"pip install 'lnrnn[{BACKEND}]', or choose another --framework." in (
        capsys.readouterr().err
    )
