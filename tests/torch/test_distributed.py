"""Two processes that share a batch end with the weights of one process that has all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import distributed_program
import pytest
import torch
from torch_cases import assert_same


@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_two_processes(way: str, tmp_path: Path) -> None:
    program = [sys.executable, distributed_program.__file__]
    both = [subprocess.Popen([*program, str(rank), str(tmp_path), way]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    model, x, target = distributed_program.data()
    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    optimizer = distributed_program.optimizer_of(model)
    distributed_program.train(model, x, target, optimizer, 2)
    if way == "fsdp2":  # one process goes on from what two have written
        model, *_ = distributed_program.data(seed=2)
        optimizer = distributed_program.optimizer_of(model)
        distributed_program.load(tmp_path / "saved", model, optimizer)
    distributed_program.train(model, x, target, optimizer, 1)
    found, expected = torch.load(tmp_path / f"{way}.pt"), model.state_dict()
    assert found.keys() == expected.keys()
    assert_same([found[n] for n in expected], list(expected.values()))
    assert all(not torch.equal(expected[n], start[n]) for n in expected)
