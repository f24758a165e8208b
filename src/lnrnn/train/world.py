"""The processes and devices that train one model together."""

from __future__ import annotations

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
        >>> with World() as world:
        ...     world.first, world.gather(1.0, 2.0)
        (True, array([[1., 2.]]))
    """

    def __init__(self, rank: int = 0, processes: int = 1) -> None:
        self.rank = rank
        self.processes = processes

    def __enter__(self) -> World:
        return self

    def __exit__(self, *raised: object) -> None:
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

    def whole(self, variable: Any) -> Any:
        """The value of a Keras variable; every process must ask."""
        return variable.value

    def own(self, variable: Any, value: np.ndarray) -> Any:
        """What this process holds of a variable of that value."""
        return value

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
