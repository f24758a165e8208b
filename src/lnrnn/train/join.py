"""Which world a process belongs to, from its environment."""

from __future__ import annotations

from collections.abc import Mapping

from lnrnn.train.settings import UserError
from lnrnn.train.world import World


def join(backend: str, environment: Mapping[str, str], shard: bool = False) -> World:
    """The world that the environment names, as `torchrun` does: a context.

    Args:
        backend: of Keras.
        environment: with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; without
            WORLD_SIZE, this process is alone.
        shard: whether the processes divide the weights among them.

    Raises:
        UserError: the environment is incomplete, or the backend knows no other processes, or
            cannot divide weights.
    """
    if shard and backend != "torch":
        raise UserError(
            f"--shard divides the weights by FSDP2, which is PyTorch's; got --backend {backend}: "
            "choose --backend torch, or drop --shard."
        )
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
        from lnrnn.train.world_torch import ShardedWorld, TorchWorld

        return (ShardedWorld if shard else TorchWorld)(rank, processes)
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
