"""Processes on PyTorch, with a copy of the model each, by DistributedDataParallel."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

import keras
import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from lnrnn.train.world import World


class TorchWorld(World):
    """The process group of `torch.distributed`: NCCL between GPUs, gloo between processors."""

    def __enter__(self) -> TorchWorld:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group(rank=self.rank, world_size=self.processes)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        distributed.destroy_process_group()

    def gather(self, *numbers: float) -> np.ndarray:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        own = torch.tensor(numbers, dtype=torch.float64, device=device)
        rows = [torch.empty_like(own) for _ in range(self.processes)]
        distributed.all_gather(rows, own)
        return torch.stack(rows).cpu().numpy()

    def spread(self, model: Any) -> None:
        parallel = DistributedDataParallel(model)

        def step(data: tuple[Any, ...]) -> dict[str, Any]:
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            logits = parallel(x, training=True)
            model.zero_grad()
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
