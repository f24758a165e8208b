"""A model on the Hugging Face Hub, whose configuration says the mathematics of its layer.

    python examples/hugging_face_hub.py            # trains, saves, and loads again

The mixin writes the arguments of `__init__` into `config.json` and the weights into
`model.safetensors`.  A `Variant` is such an argument: it is plain JSON, and comes back checked.
`push_to_hub` sends the same two files; here they stay in a folder.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from huggingface_hub import PyTorchModelHubMixin  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn

from lnrnn import Norm, Variant
from lnrnn.torch import LayerNormGRU

# DreamerV2's GRU, with the root mean square in place of layer normalisation
RMS = Variant(cell="gru", norms=(Norm("sum"),), norm="rms", reset="whole", bias_x=True)


class SequenceClassifier(nn.Module, PyTorchModelHubMixin):
    """The classes of sequences (B, T, I), from the last state of a recurrent layer."""

    def __init__(self, inputs: int, classes: int, units: int = 32, variant: Variant = RMS) -> None:
        super().__init__()
        self.recurrent = LayerNormGRU(inputs, units, batch_first=True, variant=variant)
        self.head = nn.Linear(units, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        _, h = self.recurrent(x)
        return self.head(h[-1])


def draw(count: int, steps: int = 20) -> tuple[Tensor, Tensor]:
    """Random walks (B, T, 1), and whether each ends above where it was half way."""
    x = torch.randn(count, steps, 1).cumsum(1)
    return x, (x[:, -1, 0] > x[:, steps // 2, 0]).long()


def train(model: SequenceClassifier, updates: int) -> float:
    """Train, and return the share of new walks that are told right."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(updates):
        x, classes = draw(128)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), classes).backward()
        optimizer.step()
    x, classes = draw(4096)
    with torch.no_grad():
        return (model(x).argmax(-1) == classes).float().mean().item()


def main() -> None:
    """Train a model, save it, load it, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--folder", help="where the model is saved; a temporary one by default")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = SequenceClassifier(1, 2)
    print(f"told right: {train(model, options.updates):.3f}")

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        model.save_pretrained(folder)
        loaded = SequenceClassifier.from_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
    x, _ = draw(5)
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)
    print(f"config.json: {', '.join(config)}; variant.norms: {config['variant']['norms']}")
    print("loaded: the same outputs")


if __name__ == "__main__":
    main()
