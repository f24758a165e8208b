"""Diagnoses of the cases that people reported: the right finding first, and no false one."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

import lnrnn
from lnrnn.torch import LayerNormGRU, LayerNormLSTM, LayerNormRNN

T, B, INPUTS, H = 60, 6, 12, 24


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def blank(steps: int = 20) -> torch.Tensor:
    """Sequences such as the rows of images, the first of which are empty."""
    x = torch.randn(T, B, INPUTS)
    x[:steps] = 0
    return x


@pytest.mark.parametrize("layer", [LayerNormLSTM, LayerNormGRU, LayerNormRNN])
def test_a_healthy_layer_gives_one_line(layer: Any) -> None:
    for x in (torch.randn(T, B, INPUTS), blank()):
        found = lnrnn.diagnose(layer(INPUTS, H), x, loss=lambda out: (out[0] ** 2).mean())
        assert not found.findings
        assert str(found).startswith("Nothing found. Gradients reach back, layers.0.forward: ")
        assert "\n" not in str(found)


@pytest.mark.parametrize("name", ["tf1_lnbasiclstm", "haste_lnlstm"])
def test_blank_rows_before_a_published_cell(name: str) -> None:
    found = lnrnn.diagnose(LayerNormLSTM(INPUTS, H, variant=name), blank()).findings
    first, second = found
    assert first.number > 1e6
    assert first.place.startswith("layers.0.forward, step ")
    assert first.sentence.startswith("a gradient of the last state is ")
    assert second.place.startswith("layers.0.forward, steps 0 to ")
    assert second.number >= 20
    assert "where the input is zero" in second.sentence or "_norm" in second.place
    assert second.page == "zero-prefixes"
    # not where nothing is blank
    healthy = lnrnn.diagnose(LayerNormLSTM(INPUTS, H, variant=name), torch.randn(T, B, INPUTS))
    assert not healthy.findings


def test_biases_that_a_recipe_set_to_zero() -> None:
    module = LayerNormLSTM(INPUTS, H, num_layers=2)
    for name, p in module.named_parameters():
        if "bias" in name or "shift" in name:
            torch.nn.init.zeros_(p)
    found = lnrnn.diagnose(module, blank()).findings
    assert "times as large" in found[0].sentence
    assert {f.place.split(",")[0] for f in found} == {"layers.0.forward", "layers.1.forward"}
    assert all("All biases are zero" in f.cure for f in found if "epsilon" in f.sentence)
    assert any("epsilon" in f.sentence for f in found)


def test_a_univariate_series_on_the_default_layer() -> None:
    with pytest.warns(UserWarning, match="single feature"):
        module = LayerNormLSTM(1, H)
    (found,) = lnrnn.diagnose(module, torch.randn(T, B, 1)).findings
    assert "little more than the sign of a single feature" in found.sentence
    assert "magenta_lnlstm" in found.cure


def test_padding_without_a_mask() -> None:
    x = torch.randn(T, B, INPUTS)
    lengths = torch.tensor([T - 6 * b for b in range(B)])
    for b, length in enumerate(lengths):
        x[int(length) :, b] = 0
    module = LayerNormLSTM(INPUTS, H)
    (found,) = lnrnn.diagnose(module, x).findings
    assert (
        found.sentence
        == f"5 of {B} sequences end with zeros, up to 30 steps, and there is no mask."
    )
    assert not lnrnn.diagnose(module, x, lengths=lengths).findings


def test_forget_gates_that_never_open() -> None:
    module: Any = LayerNormLSTM(INPUTS, H)
    with torch.no_grad():
        module.bias_ih_l0[H : 2 * H] = -6
    first, *_ = lnrnn.diagnose(module, torch.randn(T, B, INPUTS)).findings
    assert first.place == "layers.0.forward, gate f"
    assert first.number < 0.25
    assert "forget within" in first.sentence


@pytest.mark.parametrize(
    ("layer", "recurrent", "shift", "value", "keeping"),
    [
        (LayerNormLSTM, "gain_hh_l0", "bias_ih_l0", -9, "Start the bias of the forget gate at one"),
        (LayerNormGRU, "gain_hh_l0", "bias_ih_l0", -9, "Start the bias of the update gate at one"),
        (
            partial(LayerNormGRU, variant="dreamerv2_gru"),
            *("weight_hh_l0", "shift_sum_l0", 9),
            "Start the bias of the update gate at minus one",
        ),
        (
            LayerNormRNN,
            *("weight_hh_l0", None, 0),
            "Use an LSTM or a GRU, whose gates keep the state",
        ),
    ],
)
def test_the_cure_of_what_forgets_is_of_its_cell(
    layer: Any, recurrent: str, shift: str | None, value: float, keeping: str
) -> None:
    module = layer(INPUTS, H)
    with torch.no_grad():
        getattr(module, recurrent).mul_(1e-4)
        if shift:
            getattr(module, shift)[H : 2 * H] = value  # f or z
    found = lnrnn.diagnose(module, torch.randn(T, B, INPUTS)).findings
    cures = {f.sentence.split()[0]: f.cure for f in found if f.rank in (3, 4)}
    assert cures.pop("a") == f"{keeping}, or raise the gains of recurrent norms."
    assert list(cures.values()) == ([f"{keeping}."] if shift else [])


def test_what_is_not_finite_is_named_at_its_first_step() -> None:
    x = torch.randn(T, B, INPUTS)
    x[7, 2, 1] = float("nan")
    first, *_ = lnrnn.diagnose(LayerNormGRU(INPUTS, H), x).findings
    assert (first.rank, first.place) == (0, "layers.0.forward, step 7")
    assert first.sentence.startswith("the input is not finite")


def test_gains_at_zero_units_that_stand_still_and_gates_at_an_end() -> None:
    module: Any = LayerNormLSTM(INPUTS, H)
    with torch.no_grad():
        module.gain_hh_l0.zero_()
    (found,) = lnrnn.diagnose(module, torch.randn(T, B, INPUTS)).findings
    assert "All gains of a norm are zero" in found.sentence
    module: Any = LayerNormLSTM(INPUTS, H)
    with torch.no_grad():
        module.bias_ih_l0[3 * H :] = -30
    places = [f.place for f in lnrnn.diagnose(module, torch.randn(T, B, INPUTS)).findings]
    assert "layers.0.forward, gate o" in places


def test_a_trace_is_diagnosed_as_it_is() -> None:
    trace = lnrnn.trace(LayerNormGRU(INPUTS, H), blank())
    assert lnrnn.diagnose(trace).trace is trace
