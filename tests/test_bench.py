"""`lnrnn bench` at tiny sizes: the gate, the figures and the files; no time is judged."""

from __future__ import annotations

import csv
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from lnrnn import cli
from lnrnn.bench import measure, memory, problem, program, report
from lnrnn.bench.problem import NORMALISED, OURS, PLAIN, Competitor, DisagreementError, Problem
from lnrnn.bench.settings import FULL, GRIDS, OVERHEAD, Point, Settings, parse_points
from lnrnn.engines.native import core

BACKEND = keras.backend.backend()
TINY = Point(6, 3, 8)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """All processors, and what a run sets for its process set back."""
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    torch: Any = sys.modules.get("torch")
    before = torch and torch.get_num_threads()
    yield core.available_threads()
    if torch:
        torch.set_num_threads(before)


def settings(threads: int, cell: str = "lstm") -> Settings:
    return Settings(framework=BACKEND, threads=threads, cell=cell, points=(TINY,))


@pytest.mark.parametrize("cell", ["lstm", "gru", "simple"])
@pytest.mark.parametrize("point", [TINY, OVERHEAD], ids=str)
def test_all_competitors_compute_the_same(cell: str, point: Point, threads: int) -> None:
    given = settings(threads, cell)
    here = [c for c in program.competitors(given) if c.at(point)]
    ready = {c.name: (c.kind, c.build(Problem(cell, point))) for c in here}
    assert sum(kind == NORMALISED for kind, _ in ready.values()) >= 3
    assert sum(kind == PLAIN for kind, _ in ready.values()) >= 2
    assert ("lnrnn core" in ready) == (point == OVERHEAD)
    problem.check(ready, program.bases(given))


class Wrong(Problem):
    """A problem with one weight that is not that of the others."""

    spoilt: tuple[str, int] = ("", 0)

    def __init__(self, cell: str, point: Point) -> None:
        super().__init__(cell, point)
        name, column = self.spoilt
        for params in self.params.values():
            if name in params:
                params[name][..., column] *= 1.01


@pytest.mark.parametrize("name", [OURS, "lnrnn un-normalised"])
@pytest.mark.parametrize("spoilt", [("recurrent_kernel", 3), ("kernel", 0), ("bias", 30)])
def test_the_gate_sees_a_wrong_weight(
    name: str, spoilt: tuple[str, int], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Wrong, "spoilt", spoilt)
    given = settings(threads)
    ready = {
        c.name: (c.kind, c.build((Wrong if c.name == name else Problem)("lstm", TINY)))
        for c in program.competitors(given)
        if c.at(TINY)
    }
    with pytest.raises(DisagreementError, match=f"^{name} disagrees with "):
        problem.check(ready, program.bases(given))


@pytest.mark.parametrize("gradient", ["x", "kernel", "recurrent_kernel"])
def test_the_gate_sees_a_wrong_gradient(gradient: str, threads: int) -> None:
    given = settings(threads)
    ready = {
        c.name: (c.kind, c.build(Problem("lstm", TINY)))
        for c in program.competitors(given)
        if c.at(TINY)
    }
    kind, runs = ready[OURS]
    right = runs.gradients
    assert right is not None

    def wrong(found: Any) -> dict[str, np.ndarray]:
        gradients = {n: np.array(g) for n, g in right(found).items()}
        gradients[gradient].flat[5] += 1e-3 * np.abs(gradients[gradient]).max()
        return gradients

    ready[OURS] = kind, runs._replace(gradients=wrong)
    with pytest.raises(DisagreementError, match=rf"{OURS} disagrees .* d{gradient}\["):
        problem.check(ready, program.bases(given))


def test_no_figure_is_given_after_a_disagreement(
    tmp_path: Path,
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    every = program.competitors

    def with_a_wrong_one(given: Settings) -> list[Competitor]:
        monkeypatch.setattr(Wrong, "spoilt", ("recurrent_kernel", 0))
        return [
            replace(c, build=lambda p, c=c: c.build(Wrong(p.cell, p.point)))
            if c.name == OURS
            else c
            for c in every(given)
        ]

    monkeypatch.setattr(program, "competitors", with_a_wrong_one)
    options = ["--grid", "6,3,8", "--repeats", "1", "--no-memory", "--out", str(tmp_path)]
    assert cli.main(["bench", "--framework", BACKEND, *options]) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"lnrnn: {OURS} disagrees with lnrnn portable: y[")
    assert "median" not in out and not list(tmp_path.iterdir())


def test_a_run_over_all_frameworks_writes_its_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--grid", "4,2,8", "--repeats", "2", "--no-memory", "--cell", "simple"]
    options += ["--out", str(tmp_path)]
    assert cli.main(["bench", *options]) == 0
    out = capfd.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {"bench.csv", "bench.json", "bench.png"}
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    results = report.read(tmp_path)
    assert {r.settings.framework for r in results} == {"torch", "jax", "tensorflow"}
    rows = [row for result in results for row in result.rows]
    with (tmp_path / "bench.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [float(line["minimum_ms"]) for line in table] == [row.minimum_ms for row in rows]
    peers = {"torch.nn.RNN", "TorchScript loop", "keras.layers.RNN(cell)", "jax.lax.scan"}
    assert peers < {row.competitor for row in rows}
    for row in rows:
        assert 0 < row.minimum_ms <= row.median_ms and row.timings == 2
        assert row.point in (Point(4, 2, 8), OVERHEAD)
        assert row.competitor in out
        ours = next(r for r in rows if r[:6] == row[:6] and r.competitor == OURS)
        assert math.isclose(row.ratio_to_ours * ours.minimum_ms, row.minimum_ms)


def test_timings_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(measure, "_SECONDS_OF_A_TIMING", 0.0)
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = measure.interleaved(runs, 3)
    assert "".join(calls) == "aabb" + "ab" * 3
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
    assert parse_points("7,2,3") == (Point(7, 2, 3),)


BAD = {
    "--grid 1,2": "small, full or T,B,H, three whole numbers from 1; got '1,2'",
    "--grid 0,1,2": "got '0,1,2'",
    "--grid small large": "got 'large'",
    "--repeats 0": "--repeats: it is a whole number from 1",
    "--threads 100000": "--threads is at most the",
    "--framework numpy": "invalid choice: 'numpy'",
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
    monkeypatch.setattr(program, "_limit_threads", lambda threads: None)
    assert cli.main(["bench", "--framework", BACKEND, "--out", str(tmp_path)]) == 2
    assert f"pip install 'lnrnn[{BACKEND}]', or choose another --framework." in (
        capsys.readouterr().err
    )
