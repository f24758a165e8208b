"""layer_normalize: the same function without norms, the same weights with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch_cases import BATCH, INPUTS, KINDS, STEPS, UNITS, assert_same, draw, flat

from lnrnn import Norm, Variant
from lnrnn.torch import LayerNormGRU, LayerNormGRUCell, LayerNormLSTM, LayerNormRNN, layer_normalize


class Model(nn.Module):
    """Every class that is replaced, one of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(INPUTS, UNITS, 2, bidirectional=True, dropout=0.1)
        self.stack = nn.ModuleList([nn.GRU(2 * UNITS, UNITS, bias=False), nn.Linear(UNITS, UNITS)])
        self.rnn = nn.RNN(UNITS, UNITS, nonlinearity="relu")
        self.again = self.rnn
        self.cells = nn.ModuleDict(
            {"gru": nn.GRUCell(UNITS, UNITS), "rnn": nn.RNNCell(UNITS, UNITS)}
        )
        self.cell = nn.LSTMCell(UNITS, UNITS)
        self.projected = nn.LSTM(UNITS, UNITS, proj_size=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lstm(x)[0]
        x = self.stack[1](self.stack[0](x)[0])
        x = self.again(self.rnn(x)[0])[0]
        h, _ = self.cell(self.cells["rnn"](self.cells["gru"](x[-1])))
        return self.projected(x)[0].sum(-1, keepdim=True) + h


def model() -> Model:
    return Model().double().eval()


def test_without_norms_the_function_is_the_same() -> None:
    old = model()
    new, report = layer_normalize(old, variant="none")
    x = draw(STEPS, BATCH, INPUTS)
    assert_same(new(x), old(x))
    assert len(report.replaced) == 7 and not report.left
    assert isinstance(new.stack[0], LayerNormGRU) and not new.training
    assert new.rnn is new.again and isinstance(new.cells["gru"], LayerNormGRUCell)


def test_with_norms_weights_are_kept() -> None:
    old: Any = model()
    old.lstm.weight_ih_l1_reverse.requires_grad_(False)
    before = {name: weight.clone() for name, weight in old.state_dict().items()}
    new, report = layer_normalize(old)
    weights = dict(new.named_parameters())
    for name, weight in before.items():
        assert torch.equal(old.state_dict()[name], weight)
        if "weight" in name and not name.startswith("again"):
            assert torch.equal(weights[name], weight) and weights[name].dtype == torch.float64
    for side in ("bias_ih", "bias_hh"):
        assert torch.equal(weights[f"cells.gru.{side}"], before[f"cells.gru.{side}"])
    lstm = weights["lstm.bias_ih_l0"] + weights["lstm.bias_hh_l0"]
    assert torch.equal(lstm, before["lstm.bias_ih_l0"] + before["lstm.bias_hh_l0"])
    assert not weights["lstm.weight_ih_l1_reverse"].requires_grad
    assert weights["lstm.gain_hh_l0"].requires_grad
    assert new.lstm.dropout == 0.1 and new.rnn.nonlinearity == "relu"
    lines = str(report).splitlines()
    assert lines[1].split()[:3] == ["lstm", "LSTM", "LayerNormLSTM"]
    assert "kept kernel, recurrent_kernel, bias; new x_norm_gain" in lines[1]
    assert lines[-1] == "7 replaced, 0 left"
    assert new(draw(STEPS, BATCH, INPUTS)).isfinite().all()


def test_a_root_is_replaced() -> None:
    new, report = layer_normalize(nn.GRU(INPUTS, UNITS), zoneout=0.1, zoneout_cell=0.1)
    assert isinstance(new, LayerNormGRU) and new.zoneout == 0.1
    assert report[0].path == ""


@pytest.mark.parametrize(
    "variant",
    [
        Variant(cell="lstm", bias=True, forget_bias=1.0),
        Variant(cell="gru", bias_x=True, bias_h=True, update="new", update_bias=-1.0),
        Variant(cell="gru", bias_x=True, bias_h=True, update_bias=0.5),
    ],
)
def test_constants_and_signs_of_a_variant_are_taken_off(variant: Variant) -> None:
    kind = KINDS[variant.cell]
    old = kind.stock(INPUTS, UNITS, dtype=torch.float64)
    new, _ = layer_normalize(old, variant=variant)
    x = draw(STEPS, BATCH, INPUTS)
    assert_same(new(x), old(x))


def test_what_is_left_and_why() -> None:
    class Own(nn.LSTM):
        pass

    tied = nn.ModuleList([nn.GRU(3, 3), nn.GRU(3, 3)])
    tied[1].register_parameter("weight_hh_l0", tied[0].get_parameter("weight_hh_l0"))
    tree = nn.ModuleDict(
        {
            "own": Own(3, 3),
            "done": LayerNormLSTM(3, 3),
            "normed": parametrizations.weight_norm(nn.GRU(3, 3), "weight_hh_l0"),
            "tied": tied,
            "rnn": nn.RNN(3, 3),
            "lstm": nn.LSTM(3, 3),
        }
    )
    new, report = layer_normalize(tree, variant={"LSTM": "tfa_lnlstm", "GRU": None})
    why = {left.path: left.reason for left in report.left}
    assert why == {
        "own": "its class is derived from PyTorch's and may compute something else",
        "done": "it is layer-normalised already",
        "normed": "its class is derived from PyTorch's and may compute something else",
        "tied.0": "it shares parameters with another module",
        "tied.1": "it shares parameters with another module",
        "rnn": "variant= does not name RNN",
    }
    assert [r.path for r in report.replaced] == ["lstm"]
    assert isinstance(new["lstm"], LayerNormLSTM)
    found: Any = new["lstm"]
    assert found.variant.cell_norm == "carry"
    _, report = layer_normalize(tree, variant="haste_lngru")
    assert {r.reason for r in report.left} >= {"variant='haste_lngru' computes no LSTM"}


def test_zero_biases_are_warned_of_and_can_be_drawn_anew() -> None:
    old = nn.LSTM(INPUTS, UNITS)
    with torch.no_grad():
        for name, parameter in old.named_parameters():
            parameter.mul_(0 if "bias" in name else 1)
    with pytest.warns(UserWarning, match=r"biases of lstm .*keep_bias=False"):
        layer_normalize(nn.ModuleDict({"lstm": old}))
    new, _ = layer_normalize(old, keep_bias=False)
    assert new.bias_ih_l0.std() > 0.01
    assert torch.equal(new.weight_hh_l0, old.all_weights[0][1])


def test_hooks_and_attributes_are_on_the_replacement() -> None:
    seen: list[str] = []
    old: Any = nn.Sequential(nn.GRU(INPUTS, UNITS))
    old[0].register_forward_pre_hook(lambda *_: seen.append("before"))
    old[0].register_forward_hook(
        lambda module, given, options, _: seen.append(f"after {given[0].shape[0]}"),
        with_kwargs=True,
    )
    old[0].register_full_backward_hook(lambda *_: seen.append("backward"))
    old[0].role = {"encoder": 1}
    new, report = layer_normalize(old)
    assert len(report.replaced) == 1 and new[0].role == {"encoder": 1}
    new(torch.randn(STEPS, BATCH, INPUTS, requires_grad=True))[0].sum().backward()
    assert seen == ["before", f"after {STEPS}", "backward"]


def test_what_a_replacement_could_not_hold_is_left() -> None:
    tree = nn.ModuleDict({n: nn.GRU(3, 3) for n in ("buffer", "child", "weight", "hook", "pruned")})
    tree["buffer"].register_buffer("mean", torch.zeros(3))
    tree["child"].add_module("head", nn.Linear(3, 3))
    tree["weight"].register_parameter("scale", nn.Parameter(torch.ones(1)))
    tree["hook"].register_state_dict_post_hook(lambda *_: None)
    with torch.no_grad():  # or PyTorch could not copy it
        prune.identity(tree["pruned"], "weight_ih_l0")
    _, report = layer_normalize(tree)
    beside = "it has parameters, buffers or modules beside those of its class"
    assert {left.path: left.reason for left in report.left} == {
        **dict.fromkeys(("buffer", "child", "weight"), beside),
        "hook": "it has hooks on its state dict, which will have more names",
        "pruned": "its weights are computed from other parameters",
    }


@pytest.mark.parametrize("name", ["LSTM", "GRUCell"])
def test_a_module_on_meta_has_nothing_to_keep(name: str) -> None:
    with torch.device("meta"):
        old = nn.ModuleDict({"rnn": getattr(nn, name)(INPUTS, UNITS)})
    new, report = layer_normalize(old)
    assert not report[0].kept and "recurrent_kernel" in report[0].fresh
    assert all(p.is_meta for p in new.parameters())
    new.to_empty(device="cpu")["rnn"].reset_parameters()
    y = flat(new["rnn"](torch.randn(BATCH, INPUTS)))[0]
    assert y.isfinite().all() and not y.is_meta


def test_refusals() -> None:
    with pytest.raises(TypeError, match=r"takes an nn.Module; got function"):
        layer_normalize(layer_normalize)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"The options of layer_normalize are .*norm_epsilon"):
        layer_normalize(nn.GRU(3, 3), dropout=0.1)
    with pytest.raises(ValueError, match="keys 'LSTM', 'GRU', 'RNN'; got 'Lstm'"):
        layer_normalize(nn.GRU(3, 3), variant={"Lstm": None})
    with pytest.raises(ValueError, match="keeps the width of h"):
        layer_normalize(nn.LSTM(3, 3), variant=Variant(cell="lstm", projection=True))


def test_a_model_without_recurrent_modules() -> None:
    _, report = layer_normalize(nn.Linear(3, 3))
    assert str(report) == "The model has no recurrent layers."


def test_other_gates_lose_what_has_no_place() -> None:
    coupled = Variant(cell="lstm", coupled=True, norms=(Norm("x"), Norm("h")), bias=True)
    new, report = layer_normalize(nn.LSTM(INPUTS, UNITS), variant=coupled)
    assert report[0].lost == ("gate i",)
    assert new.weight_ih_l0.shape == (3 * UNITS, INPUTS)
    assert isinstance(layer_normalize(nn.RNN(3, 3))[0], LayerNormRNN)
