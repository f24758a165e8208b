"""Trains a model with one of two processes' share of a batch; run by test_distributed."""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from lnrnn import engines
from lnrnn.torch import LayerNormGRU, LayerNormLSTM

STEPS, BATCH, INPUTS, UNITS = 5, 6, 3, 6


class Model(nn.Module):
    """Two recurrent modules of different kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = LayerNormLSTM(INPUTS, UNITS, bidirectional=True)
        self.second = LayerNormGRU(2 * UNITS, UNITS)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)[0])[0]


def optimizer_of(model: Any) -> torch.optim.Optimizer:
    """One with a state."""
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def train(
    model: Any, x: Tensor, target: Tensor, optimizer: torch.optim.Optimizer, steps: int
) -> None:
    """Steps on the mean square error."""
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        optimizer.step()


def save(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> None:
    """Each process writes its part of the weights and moments."""
    weights, moments = get_state_dict(model, optimizer)
    save_parts({"model": weights, "optimizer": moments}, checkpoint_id=folder)


def load(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> None:
    """Read what any number of processes wrote."""
    weights, moments = get_state_dict(model, optimizer)
    state = {"model": weights, "optimizer": moments}
    load_parts(state, checkpoint_id=folder, no_dist=not dist.is_initialized())
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)


def data(seed: int = 1) -> tuple[Model, Tensor, Tensor]:
    """The same in every process."""
    torch.manual_seed(seed)
    return (
        Model().double(),
        torch.randn(STEPS, BATCH, INPUTS, dtype=torch.float64),
        torch.randn(STEPS, BATCH, UNITS, dtype=torch.float64),
    )


def from_meta(mesh: Any, like: Model, rank: int) -> Model:
    """A model sharded on meta, then filled: drawn anew, and at last with the weights of another."""
    with torch.device("meta"):
        model = Model().double()
    parts = ((model.first, like.first), (model.second, like.second))
    for part, _ in parts:
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    for part, other in parts:
        torch.manual_seed(5 + rank)  # the draws of the first process are those of all
        part.reset_parameters()
        drawn, weights = part.params(), other.params()
        torch.manual_seed(5)
        expected = copy.deepcopy(other)
        expected.reset_parameters()
        for name, value in expected.params().items():
            np.testing.assert_array_equal(drawn[name], value)
        part.load_params(weights)
        for name, value in part.params().items():
            np.testing.assert_array_equal(value, weights[name])
    # what is set while the weights are gathered is not lost with the gathered copy
    gathered: Any = model.first
    gathered.unshard()
    gathered.params(reverse=True)
    gathered.load_params(like.first.params(reverse=True), reverse=True)
    gathered.reshard()
    return model


def main(rank: int, folder: Path, way: str) -> None:
    """Train on half of the batch; the first process saves the weights."""
    dist.init_process_group("gloo", init_method=f"file://{folder / way}", rank=rank, world_size=2)
    model, x, target = data()
    mesh = init_device_mesh("cpu", (2,))
    if way == "ddp":
        trained = DistributedDataParallel(model)
    else:
        trained = model = from_meta(mesh, model, rank)
    half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    optimizer, share = optimizer_of(trained), (x[:, half], target[:, half])
    train(trained, *share, optimizer, 2)
    if way == "fsdp2":  # goes on in another model, of other weights
        save(folder / "saved", model, optimizer)
        trained = model = from_meta(mesh, Model().double(), rank)
        optimizer = optimizer_of(model)
        load(folder / "saved", model, optimizer)
    train(trained, *share, optimizer, 1)
    # two directions and one, three times
    assert engines.runs(backward=True) == {("native", "torch"): 9}
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=options)
    if rank == 0:
        torch.save(weights, folder / f"{way}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    # FSDP2 leaves the destroyed group's threads running, under which an interpreter that
    # finalises may abort (pytorch/pytorch#190489)
    os._exit(0)
