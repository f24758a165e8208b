"""All devices of all processes as one mesh of JAX, by Keras's DataParallel."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

from lnrnn.train.world import World


class JaxWorld(World):
    """A copy of the model on each device; a step is one program over all of them."""

    def __enter__(self) -> JaxWorld:
        if self.processes > 1:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            jax.distributed.initialize(address, self.processes, self.rank)
        self._before = keras.distribution.distribution()
        if self.devices > 1:
            keras.distribution.set_distribution(
                keras.distribution.DataParallel(auto_shard_dataset=False)
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        keras.distribution.set_distribution(self._before)

    @property
    def devices(self) -> int:
        return jax.device_count()

    def gather(self, *numbers: float) -> np.ndarray:
        if self.processes == 1:
            return super().gather(*numbers)
        rows = multihost_utils.process_allgather(np.array(numbers, np.float32))
        return np.asarray(rows, np.float64)

    def leave(self) -> None:
        keras.distribution.set_distribution(None)

    def lost(self, error: RuntimeError) -> bool:
        return isinstance(error, jax.errors.JaxRuntimeError) and self.processes > 1
