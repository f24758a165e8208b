"""Trains small models around cells of torchaudio and SpeechBrain, and saves them.

Runs in an environment of its own, without lnrnn: `python torch_program.py DIR`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speechbrain.nnet.RNN import (  # pyright: ignore[reportMissingImports]
    LiGRU,
    SLiGRU,
)
from torchaudio.models.rnnt import (  # pyright: ignore[reportMissingImports]
    _CustomLSTM,
)


class Torchaudio(torch.nn.Module):
    """Two of torchaudio's LSTMs and a linear layer; time-major."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            [
                _CustomLSTM(5, 7, layer_norm=True, layer_norm_epsilon=1e-3),
                _CustomLSTM(7, 6, layer_norm=True, layer_norm_epsilon=1e-3),
            ]
        )
        self.linear = torch.nn.Linear(6, 2)

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x, _ = layer(x, None)
        return self.linear(x)


class SpeechBrain(torch.nn.Module):
    """SpeechBrain's LiGRU or SLiGRU of two layers and a linear layer; batch first."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        norm = "normalization" if kind is LiGRU else "ff_normalization"
        self.rnn = kind(hidden_size=6, input_shape=(4, 9, 5), num_layers=2, **{norm: "layernorm"})
        self.linear = torch.nn.Linear(6, 2)

    def forward(self, x: Any) -> Any:
        return self.linear(self.rnn(x)[0])


def train(net: Any, x: Any, y: Any) -> None:
    """A few steps, then biases and gains without any symmetry."""
    optimizer = torch.optim.Adam(net.parameters(), 0.03)
    for _ in range(10):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    net.eval()


def main(folder: Path) -> None:
    """Train, save, and keep inputs and predictions."""
    torch.manual_seed(7)
    models = {
        "torchaudio": Torchaudio(),
        "ligru": SpeechBrain(LiGRU),
        "sligru": SpeechBrain(SLiGRU),
    }
    kept: dict[str, Any] = {}
    for name, net in models.items():
        x = torch.randn(4, 9, 5)
        train(net, x, torch.randn(4, 9, 2))
        with torch.no_grad():
            kept |= {f"{name}/x": x.numpy(), f"{name}/y": net(x).numpy()}
        kept |= {f"{name}/{n}": v.numpy() for n, v in net.linear.state_dict().items()}
        torch.save(net.state_dict(), folder / f"{name}.pt")
        old = folder / f"{name}_old.pt"
        torch.save({"model": net.state_dict()}, old, _use_new_zipfile_serialization=False)
    np.savez(folder / "predictions.npz", **kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
