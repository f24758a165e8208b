"""A layer-normalised LSTM in Lightning: two processes, bfloat16, checkpoints, and on from the last.

    pip install '.[examples-series]'
    python examples/lightning_vowels.py --epochs 10    # and again, with --epochs 20

Lightning starts the second process and joins both by DistributedDataParallel, each with its half
of every epoch.  After each epoch the folder has a checkpoint; a run that finds one goes on from
it, to the weights of a run that was not broken off.  The data are those of `japanese_vowels.py`.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import torch
from japanese_vowels import LEARNING_RATE, UNITS, Classifier, read
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lnrnn.torch import LayerNormLSTM

Batch = tuple[list[Tensor], Tensor]


class Speakers(LightningModule):
    """The classifier, its loss and its accuracy."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Classifier(LayerNormLSTM(12, UNITS))

    def training_step(self, batch: Batch, index: int) -> Tensor:
        series, speakers = batch
        return nn.functional.cross_entropy(self.model(series), speakers)

    def test_step(self, batch: Batch, index: int) -> None:
        series, speakers = batch
        found = (self.model(series).argmax(-1) == speakers).float().mean()
        self.log("accuracy", found, batch_size=len(speakers), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)


def batched(samples: list[tuple[Tensor, Tensor]]) -> Batch:
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
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/lightning"))
    given = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")  # of loaders with few workers
    seed_everything(0, verbose=False)
    last = given.folder / "last.ckpt"
    keep = ModelCheckpoint(given.folder, filename=last.stem, enable_version_counter=False)
    trainer = Trainer(
        accelerator="cpu",
        devices=given.processes,
        strategy="ddp",
        precision="bf16-mixed",
        max_epochs=given.epochs,
        gradient_clip_val=1.0,
        callbacks=[keep],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model, begun = Speakers(), last.exists()
    trainer.fit(model, loader("TRAIN", True), ckpt_path=last if begun else None)
    (found,) = trainer.test(model, loader("TEST", False), verbose=False)
    if trainer.is_global_zero:
        how = "resumed" if begun else "from the start"
        print(
            f"{given.processes} processes, {trainer.current_epoch} epochs, {how}: "
            f"test accuracy {found['accuracy']:.3f}"
        )


if __name__ == "__main__":
    main()
