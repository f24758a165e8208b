"""All devices of all processes as one mesh of JAX, by Keras's DataParallel."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
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

    def __exit__(self, *raised: object) -> None:
        keras.distribution.set_distribution(self._before)

    @property
    def devices(self) -> int:
        return jax.device_count()

    def gather(self, *numbers: float) -> np.ndarray:
        if self.processes == 1:
            return super().gather(*numbers)
        rows = multihost_utils.process_allgather(np.array(numbers, np.float32))
        return np.asarray(rows, np.float64)

    def spread(self, model: Any) -> None:
        if self.processes == 1:
            return
        variables = model.metrics_variables
        replicated = variables[0].value.sharding
        zeros = jax.jit(
            lambda: [jnp.zeros(v.shape, v.dtype) for v in variables], out_shardings=replicated
        )

        def reset() -> None:
            # numbers of the host would be compared between all processes, at each step
            for variable, zero in zip(variables, zeros(), strict=True):
                variable.assign(zero)

        model.reset_metrics = reset

    def leave(self) -> None:
        keras.distribution.set_distribution(None)

    def lost(self, error: Exception) -> bool:
        # one that finds out when a step begins gives a ValueError
        return self.processes > 1 and (
            isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)
        )
