"""Watching modules while they train: what is written, and how training ends."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from lnrnn import trace
from lnrnn.insight.torch import Watch
from lnrnn.insight.watch import NotFiniteError, figures
from lnrnn.torch import LayerNormGRU, LayerNormLSTM


class Model(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.rnn = LayerNormLSTM(3, 5, **options)
        self.head = nn.Linear(5 * (2 if self.rnn.bidirectional else 1), 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.dropout(x))[0][-1])


def train(model: nn.Module, x: torch.Tensor, steps: int, **options: Any) -> Watch | None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watch = Watch(model, optimizer, **options) if options else None
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    return watch


def test_figures_of_every_layer_and_direction_are_written(tmp_path):
    path = tmp_path / "new" / "watch.csv"
    model = Model(num_layers=2, bidirectional=True)
    watch = train(model, torch.randn(7, 6, 3), 5, to=path, every=2)
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["step"] for row in rows} == {"2", "4"}
    layers = {f"rnn.layers.{n}.{d}" for n in (0, 1) for d in ("forward", "reverse")}
    assert {row["layer"] for row in rows} == {"", *layers}
    assert [row["figure"] for row in rows if row["step"] == "4" and row["layer"] == ""] == [
        "gradient_norm"
    ]
    last = [row for row in rows if row["step"] == "4" and row["layer"] == "rnn.layers.1.reverse"]
    assert watch is not None
    assert {r["figure"]: float(r["value"]) for r in last} == watch.latest["rnn.layers.1.reverse"]
    assert set(watch.latest["rnn.layers.0.forward"]) == {
        "reach", "gradient_per_step", "forget_time", "saturated", "least_variance/x_norm[ifgo]",
        "least_variance/h_norm[ifgo]", "least_variance/cell_norm",
    }  # fmt: skip


@pytest.mark.parametrize("form", ["time first", "batch first", "packed", "lengths", "unbatched"])
def test_figures_are_those_of_the_first_sequences_before_the_step(form):
    module = LayerNormGRU(3, 5, batch_first=form == "batch first")
    x = torch.randn(7, 6, 3)
    lengths = torch.tensor([7, 2, 5, 3, 7, 6])
    options: dict[str, Any] = {"hx": torch.randn(1, 6, 5)}
    first: dict[str, Any] = {"hx": options["hx"][:, :4]}
    given, few = x, x[:, :4]
    if form == "batch first":
        given, few = x.transpose(0, 1), x.transpose(0, 1)[:4]
    elif form == "unbatched":
        given = few = x[:, 0]
        options = first = {"hx": torch.randn(1, 5)}
    elif form == "packed":
        given = pack_padded_sequence(x, lengths, enforce_sorted=False)
        first["lengths"] = lengths[:4]
    elif form == "lengths":
        options["lengths"], first["lengths"] = lengths, lengths[:4]
    expected = figures(trace(module.eval(), few, **first).single)
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), 1.0)
    watch = Watch(module, optimizer, every=1)
    y, _ = module(given, **options)
    (y.data if form == "packed" else y).square().sum().backward()
    optimizer.step()
    assert watch.latest["layers.0.forward"] == pytest.approx(expected)
    total = torch.cat([g.flatten() for p in module.parameters() if (g := p.grad) is not None])
    assert watch.latest[""]["gradient_norm"] == pytest.approx(float(total.norm()))


def test_a_watch_changes_nothing():
    """Neither weights nor draws, and after it is closed it does not look."""
    torch.manual_seed(0)
    model = Model(zoneout=0.2)
    state = {n: p.clone() for n, p in model.state_dict().items()}
    x = torch.randn(7, 6, 3)
    found = []
    for options in ({}, {"every": 1}):
        model.load_state_dict(state)
        torch.manual_seed(1)
        watch = train(model, x, 3, **options)
        found.append({n: p.clone() for n, p in model.state_dict().items()})
        assert model.rnn.training
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name])
    assert watch is not None
    latest = watch.latest
    watch.close()
    train(model, x, 1)
    assert watch.latest is latest


def test_training_ends_with_the_diagnosis_before_weights_are_lost():
    """Blank first steps, with initial values under which gradients explode."""
    model = nn.Sequential(LayerNormLSTM(3, 8, variant="tf1_lnbasiclstm"))
    optimizer = torch.optim.Adam(model.parameters())
    watch = Watch(model, optimizer)
    x = torch.randn(30, 4, 3)
    x[:20] = 0
    before = [p.clone() for p in model.parameters()]
    model(x)[0][-1].square().sum().backward()
    with pytest.raises(
        NotFiniteError, match=r"The gradient of 0\.\w+ is not finite at step 1"
    ) as e:
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    found = e.value.diagnoses["0"]
    assert found.findings and str(found) in str(e.value)
    watch.close()


def test_scalars_go_to_a_writer_or_a_function():
    class Writer:
        def __init__(self) -> None:
            self.seen: list[tuple[str, int]] = []

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.seen.append((name, step))

    writer, names = Writer(), []
    x = torch.randn(4, 2, 3)
    train(Model(), x, 1, to=writer, every=1)
    train(Model(), x, 1, to=lambda name, value, step: names.append((name, step)), every=1)
    assert writer.seen == names and ("rnn.layers.0.forward/reach", 1) in names


def test_what_cannot_be_watched_is_refused(tmp_path: Path):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters())
    with pytest.raises(ValueError, match=r"layers of lnrnn.torch; got none in LSTM"):
        Watch(nn.LSTM(1, 2), optimizer)
    lstm = LayerNormLSTM(2, 3)
    with pytest.raises(ValueError, match="every is a number of steps, 1 or more; got 0"):
        Watch(lstm, optimizer, every=0)
    with pytest.raises(ValueError, match=r"Figures go to a path, .*; got to=3"):
        Watch(lstm, optimizer, to=3)
    watch = Watch(lstm, optimizer)
    with pytest.raises(ValueError, match="before any of them was called in training mode"):
        optimizer.step()
    watch.close()
