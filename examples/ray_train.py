"""`lnrnn train` on the workers of a Ray cluster.

    pip install 'lnrnn[torch,cli]' 'ray[train]'
    python examples/ray_train.py 2 --backend torch --batch 64 --steps 100 --out /shared/run

The first argument is the number of workers, the others are those of `lnrnn train`.  Ray places the
workers and tells each its rank; the command, in a process of its own, does the rest.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import os
import subprocess
import sys

from ray import train
from ray.train.torch import TorchTrainer

PORT = 29500  # not MASTER_PORT, where the group of processes listens that Ray makes for itself


def work(options: dict[str, list[str]]) -> None:
    """One worker; MASTER_ADDR, the machine of the first one, is set by Ray."""
    here = train.get_context()
    names = {
        "RANK": here.get_world_rank(),
        "LOCAL_RANK": here.get_local_rank(),
        "WORLD_SIZE": here.get_world_size(),
        "MASTER_PORT": PORT,
    }
    command = [sys.executable, "-m", "lnrnn", "train", *options["arguments"]]
    environment = os.environ | {name: str(value) for name, value in names.items()}
    subprocess.run(command, env=environment, check=True)


def main(workers: str, *arguments: str) -> None:
    """Train, and wait until all workers are done."""
    scaling = train.ScalingConfig(num_workers=int(workers))
    TorchTrainer(
        work, train_loop_config={"arguments": list(arguments)}, scaling_config=scaling
    ).fit()


if __name__ == "__main__":
    main(*sys.argv[1:])
