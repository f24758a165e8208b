"""A loop of one's own with Accelerate: two processes, bfloat16, checkpoints, on from the last.

    pip install '.[examples-series]'
    torchrun --nproc-per-node 2 examples/accelerate_vowels.py --epochs 10   # again with --epochs 20

`accelerate launch` starts it as well.  After each epoch the folder has the state of the model, the
optimiser and the random numbers; a run that finds one goes on from it, to the weights of a run
that was not broken off.  The data are those of `japanese_vowels.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator  # pyright: ignore[reportMissingImports]
from accelerate.utils import DataLoaderConfiguration, set_seed  # pyright: ignore[reportMissingImports]
from japanese_vowels import LEARNING_RATE, UNITS, Classifier, read
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lnrnn.torch import LayerNormLSTM


class Progress:
    """How many epochs are done, kept in the checkpoints."""

    epochs = 0

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epochs = state["epochs"]


def batched(samples: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], Tensor]:
    """Recordings (T, 12), T unequal, which the classifier packs, and their speakers (B,)."""
    series, speakers = zip(*samples, strict=True)
    return list(series), torch.stack(speakers)


def loader(part: str, shuffle: bool) -> DataLoader:
    """Batches of 16 recordings for each process."""
    data = list(zip(*read(part), strict=True))
    return DataLoader(data, batch_size=16, shuffle=shuffle, collate_fn=batched)  # pyright: ignore


def main() -> None:
    """Train from the last checkpoint, if there is one, and test."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=20, help="in all, those before included")
    parser.add_argument("--folder", type=Path, default=Path("runs/accelerate"))
    given = parser.parse_args()
    # the order of an epoch by its number, not by the random numbers that were drawn before
    loading = DataLoaderConfiguration(use_seedable_sampler=True)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16", dataloader_config=loading)
    set_seed(0)
    model: Any = Classifier(LayerNormLSTM(12, UNITS))
    optimizer: Any = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    model, optimizer, train, test = accelerator.prepare(
        model, optimizer, loader("TRAIN", True), loader("TEST", False)
    )
    progress = Progress()
    accelerator.register_for_checkpointing(progress)
    begun = given.folder.exists()
    if begun:
        accelerator.load_state(str(given.folder))
    while progress.epochs < given.epochs:
        train.set_epoch(progress.epochs)
        for series, speakers in train:
            optimizer.zero_grad()
            accelerator.backward(nn.functional.cross_entropy(model(series), speakers))
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        progress.epochs += 1
        accelerator.save_state(str(given.folder))
    model.eval()
    right = []
    with torch.no_grad():
        for series, speakers in test:
            right.append(accelerator.gather_for_metrics(model(series).argmax(-1) == speakers))
    how = "resumed" if begun else "from the start"
    accelerator.print(
        f"{accelerator.num_processes} processes, {progress.epochs} epochs, {how}: "
        f"test accuracy {torch.cat(right).float().mean():.3f}"
    )
    accelerator.end_training()


if __name__ == "__main__":
    main()
