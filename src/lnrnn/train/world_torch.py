"""Processes on PyTorch, with a copy of the model each or a part of it, by DDP or FSDP2."""

from __future__ import annotations

import os
import warnings
from typing import Any

import keras
import numpy as np
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from lnrnn.train.settings import Settings
from lnrnn.train.world import World


class TorchWorld(World):
    """The process group of `torch.distributed`: NCCL between GPUs, gloo between processors."""

    def __enter__(self) -> TorchWorld:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group(rank=self.rank, world_size=self.processes)
        return self

    def __exit__(self, *raised: object) -> None:
        distributed.destroy_process_group()

    def gather(self, *numbers: float) -> np.ndarray:
        own = torch.tensor(numbers, dtype=torch.float64, device=_device())
        rows = [torch.empty_like(own) for _ in range(self.processes)]
        distributed.all_gather(rows, own)
        return torch.stack(rows).cpu().numpy()

    def spread(self, model: Any) -> None:
        self._train(model, DistributedDataParallel(model))

    def _train(self, model: Any, parallel: nn.Module) -> None:
        """Let the training steps of a Keras model run a module in its place."""

        def step(data: tuple[Any, ...]) -> dict[str, Any]:
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            logits = parallel(x, training=True)
            parallel.zero_grad()
            loss = model.compute_loss(x=x, y=y, y_pred=logits, training=True)
            loss.backward()
            variables = model.trainable_variables
            with torch.no_grad():
                model.optimizer.apply([v.value.grad for v in variables], variables)
            return {"loss": loss.detach()}

        model.train_step = step

    def differ(self, model: Any) -> None:
        for variable in model.non_trainable_variables:
            if variable.path.endswith("seed_generator_state"):
                seed = np.array(keras.ops.convert_to_numpy(variable))
                variable.assign(seed + np.array([self.rank, 0], seed.dtype))

    def lost(self, error: Exception) -> bool:
        return isinstance(error, distributed.DistError) or "gloo" in str(error)


class ShardedWorld(TorchWorld):
    """The same, with the weights, gradients and moments divided among the processes."""

    def spread(self, model: Any) -> None:
        # nothing here writes into what a layer gives
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
        mesh = init_device_mesh(_device(), (self.processes,))
        sharded = _Sharded(model, mesh)
        for variable in model.optimizer.variables:
            if variable.shape:
                own = distribute_tensor(variable.value.data, mesh, [Shard(0)], src_data_rank=None)
                variable._value = nn.Parameter(own, requires_grad=False)
        model.call = lambda x, training=None, mask=None: sharded(x, training)
        self._train(model, sharded)

    def whole(self, variable: Any) -> Any:
        value = variable.value.detach()
        return value.full_tensor() if isinstance(value, DTensor) else value

    def own(self, variable: Any, value: np.ndarray) -> Any:
        held = variable.value
        if not isinstance(held, DTensor):
            return value
        whole = torch.as_tensor(value, device=held.device)
        return distribute_tensor(whole, held.device_mesh, held.placements, src_data_rank=None)

    def describe(self, settings: Settings) -> str:
        return f"{super().describe(settings)}, the weights divided among them"


class _Sharded(nn.Module):
    """The layers of a Keras model, one after the other, each gathered while it computes."""

    def __init__(self, model: Any, mesh: Any) -> None:
        super().__init__()
        layers = [_Layer(layer) for layer in model.layers[1:]]
        for layer in layers:
            layer.shard(mesh)
        self.layers = nn.ModuleList(layers)
        fully_shard(self, mesh=mesh)

    def forward(self, hidden: torch.Tensor, training: bool | None) -> torch.Tensor:
        for layer in self.layers:
            hidden = layer(hidden, training)
        return hidden


class _Layer(nn.Module):
    """A layer of Keras with its weights as parameters, which are those that FSDP2 exchanges."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.computed = (layer,)  # in a tuple, so that it is no part of this module
        self.weights = nn.ParameterList(v.value for v in layer.trainable_variables)

    def shard(self, mesh: Any) -> None:
        """Keep a part of the weights, in the variables of Keras too."""
        wholes = list(self.weights)
        if wholes:
            fully_shard(self, mesh=mesh)
        variables = self.computed[0].trainable_variables
        for variable, whole, own in zip(variables, wholes, self.weights, strict=True):
            variable._value = own
            whole.data = whole.data.new_empty(0)  # Keras's modules still name it

    def forward(self, hidden: torch.Tensor, training: bool | None) -> torch.Tensor:
        (layer,) = self.computed
        gathered = list(zip(layer.trainable_variables, self.weights, strict=True))
        with keras.StatelessScope(gathered) as scope:
            found = layer(hidden, training=training)
        for seed in layer.non_trainable_variables:
            drawn = scope.get_current_value(seed)
            if drawn is not None:
                seed.assign(drawn)
        return found[0] if isinstance(found, (list, tuple)) else found  # without the last states


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
