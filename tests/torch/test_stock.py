"""With variant="none" our modules are PyTorch's: parameters, numbers, gradients, all options."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence
from torch_cases import (
    BATCH,
    INPUTS,
    KINDS,
    STEPS,
    UNITS,
    Kind,
    assert_same,
    draw,
    each_kind,
    flat,
    gradients,
)

from lnrnn import dialects
from lnrnn.dialects import DIALECTS

NEW = ("gain_", "shift_", "peephole")
CLASSES = {"simple": "rnn", "indrnn": "rnn", "lstm": "lstm", "gru": "gru", "ligru": "gru"}

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_bias": {"bias": False},
    "two_layers": {"num_layers": 2},
    "bidirectional": {"bidirectional": True},
    "all": {"num_layers": 3, "bidirectional": True, "batch_first": True},
}


def pair(kind: Kind, *sizes: Any, **options: Any) -> tuple[Any, Any]:
    """PyTorch's module and ours with its state dict."""
    stock = kind.stock(*(sizes or (INPUTS, UNITS)), dtype=torch.float64, **options)
    ours = kind.layer(*(sizes or (INPUTS, UNITS)), dtype=torch.float64, variant="none", **options)
    ours.load_state_dict(stock.state_dict())
    return stock, ours


def compare(stock: Any, ours: Any, *arguments: Any) -> None:
    """Outputs, states, and gradients by parameters and by all floating inputs."""
    for a in flat(arguments):
        a.requires_grad_(a.is_floating_point())
    inputs = [a for a in flat(arguments) if a.requires_grad]
    theirs, mine = stock(*arguments), ours(*arguments)
    floating = [[t for t in flat(y) if t.is_floating_point()] for y in (theirs, mine)]
    assert_same(floating[1], floating[0])
    by_name = dict(stock.named_parameters()), dict(ours.named_parameters())
    expected, found = (gradients(y, p, *inputs) for y, p in zip(floating, by_name, strict=True))
    assert_same(found, expected, gradient=True)


def hx_of(kind: Kind, stock: Any, batch: int | None = BATCH) -> Any:
    count = stock.num_layers * (2 if stock.bidirectional else 1)
    middle = () if batch is None else (batch,)
    h = draw(count, *middle, stock.proj_size or UNITS)
    return (h, draw(count, *middle, UNITS)) if kind.stock is nn.LSTM else h


@each_kind
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_all_options(kind: Kind, options: dict[str, Any]) -> None:
    stock, ours = pair(kind, **options)
    compare(stock, ours, draw(BATCH, STEPS, INPUTS))
    axes = (BATCH, STEPS) if stock.batch_first else (STEPS, BATCH)
    compare(stock, ours, draw(*axes, INPUTS), hx_of(kind, stock))


@each_kind
def test_without_batch(kind: Kind) -> None:
    stock, ours = pair(kind, num_layers=2, bidirectional=True, batch_first=True)
    compare(stock, ours, draw(STEPS, INPUTS), hx_of(kind, stock, batch=None))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_projection(bidirectional: bool) -> None:
    stock, ours = pair(KINDS["lstm"], num_layers=2, bidirectional=bidirectional, proj_size=2)
    compare(stock, ours, draw(STEPS, BATCH, INPUTS), hx_of(KINDS["lstm"], stock))


def test_relu() -> None:
    stock, ours = pair(KINDS["rnn"], 3, 5, 2, "relu")
    compare(stock, ours, draw(STEPS, BATCH, INPUTS))


@each_kind
@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packed_sequences(kind: Kind, enforce_sorted: bool) -> None:
    stock, ours = pair(kind, num_layers=2, bidirectional=True)
    lengths = [7, 5, 5, 1] if enforce_sorted else [5, 1, 7, 5]
    packed = pack_padded_sequence(
        draw(STEPS, BATCH, INPUTS), lengths, enforce_sorted=enforce_sorted
    )
    hx = hx_of(kind, stock)
    (theirs, their_states), (mine, my_states) = stock(packed, hx), ours(packed, hx)
    assert_same([mine.data, *flat(my_states)], [theirs.data, *flat(their_states)])
    assert mine.batch_sizes.tolist() == theirs.batch_sizes.tolist()
    if enforce_sorted:
        assert mine.sorted_indices is None and mine.unsorted_indices is None
    else:
        assert torch.equal(mine.sorted_indices, theirs.sorted_indices)
        assert torch.equal(mine.unsorted_indices, theirs.unsorted_indices)
    by_name = dict(stock.named_parameters()), dict(ours.named_parameters())
    found = gradients([mine.data, my_states], by_name[1])
    assert_same(found, gradients([theirs.data, their_states], by_name[0]), gradient=True)


def test_packed_sequences_without_states() -> None:
    stock, ours = pair(KINDS["gru"])
    packed = pack_sequence([draw(n, INPUTS) for n in (2, 6, 3)], enforce_sorted=False)
    (theirs, h), (mine, my_h) = stock(packed), ours(packed)
    assert_same([mine.data, my_h], [theirs.data, h])


@each_kind
def test_float32_and_an_empty_batch(kind: Kind) -> None:
    stock, ours = kind.stock(INPUTS, UNITS), kind.layer(INPUTS, UNITS, variant="none")
    ours.load_state_dict(stock.state_dict())
    for batch in (BATCH, 0):
        x = torch.randn(STEPS, batch, INPUTS)
        assert_same(ours(x), stock(x), "float32")


@each_kind
def test_dropout_acts_between_layers_in_training(kind: Kind) -> None:
    _, ours = pair(kind, num_layers=2, dropout=0.5)
    x = draw(STEPS, BATCH, INPUTS)
    assert not torch.equal(ours(x)[0], ours(x)[0])
    once = kind.layer(INPUTS, UNITS, dtype=torch.float64, variant="none")
    once.load_state_dict({n: p for n, p in ours.state_dict().items() if "_l0" in n})
    # the states of the first layer know nothing of it
    first = flat(ours(x)[1])[0][0]
    assert_same(first, flat(once(x)[1])[0][0])
    assert torch.equal(ours.eval()(x)[0], ours(x)[0])
    with pytest.warns(UserWarning, match="dropout acts between layers"):
        kind.layer(3, 5, dropout=0.1)


@each_kind
def test_dropout_draws_as_pytorch_does(kind: Kind) -> None:
    stock, ours = pair(kind, num_layers=2, dropout=0.5)
    x = draw(STEPS, BATCH, INPUTS)
    torch.manual_seed(5)
    theirs = stock(x)
    torch.manual_seed(5)
    assert_same(ours(x), theirs)


@each_kind
def test_dropout_of_all_outputs(kind: Kind) -> None:
    stock, ours = pair(kind, num_layers=2, dropout=1.0)
    compare(stock, ours, draw(STEPS, BATCH, INPUTS))


@each_kind
@pytest.mark.parametrize("bias", [False, True])
def test_cells(kind: Kind, bias: bool) -> None:
    stock = kind.stock_cell(INPUTS, UNITS, bias, dtype=torch.float64)
    ours = kind.cell(INPUTS, UNITS, bias, dtype=torch.float64, variant="none")
    ours.load_state_dict(stock.state_dict())
    for axes in ((BATCH,), ()):
        x, h, c = draw(*axes, INPUTS), draw(*axes, UNITS), draw(*axes, UNITS)
        hx = (h, c) if kind.stock is nn.LSTM else h
        compare(stock, ours, x)
        compare(stock, ours, x, hx)


@each_kind
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "bias": False}])
def test_parameters_are_drawn_named_and_ordered_as_in_pytorch(
    kind: Kind, options: dict[str, Any]
) -> None:
    torch.manual_seed(1)
    stock = dict(kind.stock(INPUTS, UNITS, **options).named_parameters())
    torch.manual_seed(1)
    ours = dict(kind.layer(INPUTS, UNITS, variant="none", **options).named_parameters())
    assert list(stock) == list(ours)
    assert all(torch.equal(stock[n], ours[n]) for n in stock)


@each_kind
def test_a_state_dict_of_pytorch_loads_and_only_norms_are_missing(kind: Kind) -> None:
    stock = kind.stock(INPUTS, UNITS, 2, bidirectional=True)
    ours = kind.layer(INPUTS, UNITS, 2, bidirectional=True)
    report = ours.load_state_dict(stock.state_dict(), strict=False)
    assert report.unexpected_keys == [] and report.missing_keys
    assert all(name.startswith(NEW) for name in report.missing_keys)
    assert torch.equal(ours.weight_hh_l1_reverse, stock.weight_hh_l1_reverse)


@pytest.mark.parametrize("name", DIALECTS)
def test_a_state_dict_of_pytorch_loses_nothing_in_any_dialect(name: str) -> None:
    """Where the gates are the same; with others the shapes differ, and loading raises.

    Biases have no place in a variant without any before its gates, and are named.
    """
    variant = dialects.get(name).variant
    kind = KINDS[CLASSES[variant.cell]]
    options = {"proj_size": 2} if variant.projection else {}
    stock, ours = kind.stock(3, 5, **options), kind.layer(3, 5, variant=name, **options)
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[CLASSES[variant.cell]]
    if len(variant.gates) != gates or variant.cell == "indrnn":
        with pytest.raises(RuntimeError, match=r"size mismatch for (weight|scale)_hh_l0"):
            ours.load_state_dict(stock.state_dict(), strict=False)
        return
    report = ours.load_state_dict(stock.state_dict(), strict=False)
    places = ("bias", "shift_ih", "shift_hh", "shift_sum", "shift_pre")
    placed = any(parameter.startswith(places) for parameter in ours.state_dict())
    assert report.unexpected_keys == ([] if placed else ["bias_ih_l0", "bias_hh_l0"])
    assert all(missing.startswith(NEW) for missing in report.missing_keys)


def test_a_projection_loads_as_well() -> None:
    stock, ours = nn.LSTM(3, 5, proj_size=2), KINDS["lstm"].layer(3, 5, proj_size=2)
    report = ours.load_state_dict(stock.state_dict(), strict=False)
    assert report.unexpected_keys == []
    assert all(name.startswith(NEW) for name in report.missing_keys)


@each_kind
def test_positional_arguments_are_those_of_pytorch(kind: Kind) -> None:
    order = ["input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout"]
    if kind.stock is nn.RNN:
        order.insert(3, "nonlinearity")
    assert list(inspect.signature(kind.layer).parameters)[: len(order)] == order
    values = [3, 5, 2, "relu", False, True] if kind.stock is nn.RNN else [3, 5, 2, False, True]
    for module in (kind.stock(*values), kind.layer(*values)):
        assert (module.num_layers, module.bias, module.batch_first) == (2, False, True)
