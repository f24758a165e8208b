"""Who spoke? Nine speakers by two vowels, recordings of unequal lengths, LSTM beside LN-LSTM.

    pip install '.[torch]' && pip install --no-deps aeon==1.6.0
    python examples/japanese_vowels.py

JapaneseVowels (Kudo, Toyama and Shimbo 1999): 12 coefficients of linear prediction at 7 to 29
steps, 270 recordings for training and 370 for the test.  The files come with aeon; only they
are read.  Each model reads packed sequences and classifies the last state.  The layer-normalised
one then reads them step by step as well, as a stream with its weights in fewer and fewer bits.
"""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from lnrnn import Stream
from lnrnn.torch import LayerNormLSTM

UNITS, BATCH, LEARNING_RATE = 48, 32, 3e-3
FORMS = ("float32", "bfloat16", "int8")
Recordings = tuple[list[Tensor], Tensor]


def read(part: str) -> Recordings:
    """The recordings (T, 12) and the speakers of `"TRAIN"` or `"TEST"`."""
    package = find_spec("aeon")
    if package is None or package.origin is None:
        raise SystemExit("The data come with aeon: pip install --no-deps aeon==1.6.0")
    folder = Path(package.origin).parent / "datasets" / "data" / "JapaneseVowels"
    lines = (folder / f"JapaneseVowels_{part}.ts").read_text(encoding="utf-8").splitlines()
    series, speakers = [], []
    for line in lines[lines.index("@data") + 1 :]:
        *channels, speaker = line.split(":")
        values = [[float(value) for value in channel.split(",")] for channel in channels]
        series.append(torch.tensor(values).T)
        speakers.append(int(speaker) - 1)
    return series, torch.tensor(speakers)


class Classifier(nn.Module):
    """A recurrent module and a linear layer on its last h."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn
        self.head = nn.Linear(UNITS, 9)

    def forward(self, series: list[Tensor]) -> Tensor:
        _, (h, _) = self.rnn(pack_sequence(series, enforce_sorted=False))
        return self.head(h[-1])


def accuracy(model: nn.Module, data: Recordings) -> float:
    """The share of recordings whose speaker is found."""
    with torch.no_grad():
        return (model(data[0]).argmax(-1) == data[1]).float().mean().item()


def streamed(model: Classifier, data: Recordings, weights: str) -> float:
    """The accuracy where the recurrent module reads as a stream, its weights in some form."""
    stream, found = Stream(model.rnn, weights=weights), []
    for recording in data[0]:
        stream.reset()
        found.append(torch.from_numpy(stream(recording[:, None].numpy())[-1, 0]))
    with torch.no_grad():
        return (model.head(torch.stack(found)).argmax(-1) == data[1]).float().mean().item()


def train(
    make: type[nn.Module], seed: int, steps: int, marks: tuple[int, ...]
) -> tuple[Classifier, list[float]]:
    """A model, and the test accuracy after each of some numbers of steps."""
    torch.manual_seed(seed)
    (series, speakers), test = read("TRAIN"), read("TEST")
    model = Classifier(make(12, UNITS))
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    found = []
    for step in range(1, steps + 1):
        chosen = torch.randint(len(series), (BATCH,))
        optimizer.zero_grad()
        output = model([series[i] for i in chosen.tolist()])
        nn.functional.cross_entropy(output, speakers[chosen]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step in marks:
            found.append(accuracy(model, test))
    return model, found


def main() -> None:
    """Train both for three seeds and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    marks = (given.steps // 8, given.steps // 4, given.steps)
    test, streams = read("TEST"), []
    columns = "".join(f"{f'step {m}':>10}" for m in marks)
    print(f"test accuracy        seed{columns}   seconds")
    for name, make in (("nn.LSTM", nn.LSTM), ("LayerNormLSTM", LayerNormLSTM)):
        runs, start = [], time.perf_counter()
        for seed in range(given.seeds):
            model, accuracies = train(make, seed, given.steps, marks)
            runs.append(accuracies)
            if make is LayerNormLSTM:
                streams.append([streamed(model, test, form) for form in FORMS])
            spent = (time.perf_counter() - start) / (seed + 1)
            print(
                f"{name:<18}{seed:>7}"
                + "".join(f"{a:>10.3f}" for a in runs[-1])
                + f"{spent:>10.1f}"
            )
        means = torch.tensor(runs).mean(0).tolist()
        print(f"{name:<18}{'mean':>7}" + "".join(f"{a:>10.3f}" for a in means))
    for form, mean in zip(FORMS, torch.tensor(streams).mean(0).tolist(), strict=True):
        print(f"{'its stream':<18}{'mean':>7}{mean:>30.3f}   {form}")


if __name__ == "__main__":
    main()
