"""The processes and devices that train one model together."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np

from lnrnn.train.settings import Settings, UserError


class World:
    """A process alone, and the form of those that are not.

    Every process of a world takes its part of each batch, in the order of the ranks; the
    gradients are those of the whole batch, so that all keep the same weights.

    Args:
        rank: of this process.
        processes: how many there are.

    Example:
        >>> with join("torch", os.environ) as world:
        ...     print(world.rank, world.processes)
    """

    def __init__(self, rank: int = 0, processes: int = 1) -> None:
        self.rank = rank
        self.processes = processes

    def __enter__(self) -> World:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    @property
    def devices(self) -> int:
        """Devices of all processes, each with the same part of a batch."""
        return self.processes

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows figures."""
        return self.rank == 0

    def part(self, *rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """This process's part of arrays (B, ...), each (B / processes, ...)."""
        size = len(rows[0]) // self.processes
        return tuple(r[self.rank * size : (self.rank + 1) * size] for r in rows)

    def gather(self, *numbers: float) -> np.ndarray:
        """The numbers of all processes, a row for each; every process must ask."""
        return np.array([numbers])

    def spread(self, model: Any) -> None:
        """Let the training steps of a Keras model take the gradients of the whole batch."""

    def differ(self, model: Any) -> None:
        """Let a model draw other masks than those of the other processes."""

    def leave(self) -> None:
        """Let what is built from now on compute in this process alone."""

    def lost(self, error: Exception) -> bool:
        """Whether an error says that another process has stopped."""
        return False

    def check_batch(self, settings: Settings) -> None:
        """Raise UserError unless a batch has an equal part for each device."""
        if settings.batch % self.devices:
            raise UserError(
                f"--batch is the number of windows in a step of all {self.devices} devices "
                f"together, and a multiple of it; got {settings.batch}: give "
                f"{-(-settings.batch // self.devices) * self.devices}."
            )

    def describe(self, settings: Settings) -> str:
        """The size of the world and of its batches, for people."""
        if self.devices == 1:
            return ""
        return (
            f"{self.processes} {'process' if self.processes == 1 else 'processes'}, "
            f"{self.devices} devices: {settings.batch} windows a step, "
            f"{settings.batch // self.devices} on each device"
        )


def join(backend: str, environment: Mapping[str, str]) -> World:
    """The world that the environment names, as `torchrun` does: a context.

    Args:
        backend: of Keras.
        environment: with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; without
            WORLD_SIZE, this process is alone.

    Raises:
        UserError: the environment is incomplete, or the backend knows no other processes.
    """
    processes = _number(environment, "WORLD_SIZE", 1)
    if processes > 1:
        needed = ("RANK", "MASTER_ADDR", "MASTER_PORT")
        missing = [name for name in needed if name not in environment]
        if missing:
            raise UserError(
                f"With WORLD_SIZE={processes} each process needs {', '.join(needed)} as well; "
                f"{' and '.join(missing)} is not set: set it, or start the processes by torchrun."
            )
        if _number(environment, "RANK", 0) >= processes:
            raise UserError(
                f"RANK is a number below WORLD_SIZE={processes}; got {environment['RANK']}: number "
                "the processes from 0."
            )
    rank = _number(environment, "RANK", 0) if processes > 1 else 0
    if backend == "torch" and processes > 1:
        from lnrnn.train.world_torch import TorchWorld

        return TorchWorld(rank, processes)
    if backend == "jax":
        from lnrnn.train.world_jax import JaxWorld

        if processes > 1 and "TORCHELASTIC_RUN_ID" in environment:
            raise UserError(
                "torchrun keeps MASTER_PORT to itself, and JAX needs it: start each process with "
                "RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or choose --backend torch."
            )
        return JaxWorld(rank, processes)
    if processes > 1:
        raise UserError(
            f"Several processes train on torch or jax; got --backend {backend} with "
            f"WORLD_SIZE={processes}: choose one of these, or unset WORLD_SIZE."
        )
    return World()


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not text.isdecimal():
        raise UserError(f"{name} is a whole number from 0; got {text!r}: correct or unset it.")
    return int(text)
