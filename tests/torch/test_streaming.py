"""Step by step: the numbers of the whole sequence."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch_cases import (
    BATCH,
    INPUTS,
    KINDS,
    STEPS,
    Kind,
    assert_same,
    draw,
    each_kind,
    flat,
    made,
    states_of,
)

from lnrnn.engines import runs
from lnrnn.testing import assert_close
from lnrnn.torch import LayerNormGRU, LayerNormLSTM, LayerNormRNN


@each_kind
def test_steps_are_a_sequence(kind: Kind) -> None:
    module = made(kind, num_layers=2, zoneout=0.2).eval()
    x, hx = draw(STEPS, BATCH, INPUTS), states_of(module)
    expected, states, outputs = module(x, hx), hx, []
    for x_t in x:
        output, states = module.step(x_t, states)
        outputs.append(output)
    assert_same([torch.stack(outputs), states], expected)


@each_kind
def test_steps_without_batch_from_zeros(kind: Kind) -> None:
    module = made(kind, num_layers=2)
    x = draw(STEPS, INPUTS)
    expected, states, outputs = module(x), None, []
    for x_t in x:
        output, states = module.step(x_t, states)
        outputs.append(output)
    assert_same([torch.stack(outputs), states], expected)


def test_a_projection_is_carried() -> None:
    module = made(KINDS["lstm"], num_layers=2, proj_size=2)
    x, hx = draw(STEPS, BATCH, INPUTS), states_of(module)
    expected, states = module(x, hx), hx
    for x_t in x:
        _, states = module.step(x_t, states)
    assert_same(states, expected[1])


@each_kind
def test_a_cell_is_a_step_of_a_layer(kind: Kind) -> None:
    layer, cell = made(kind), kind.cell(INPUTS, 5, dtype=torch.float64)
    cell.load_state_dict({n.removesuffix("_l0"): p for n, p in layer.state_dict().items()})
    cell.load_params(cell.params())
    x, hx = draw(BATCH, INPUTS), states_of(layer)
    states = [s[0] for s in flat(hx)]
    _, expected = layer.step(x, hx)
    found = cell(x, tuple(states) if len(states) > 1 else states[0])
    assert_same(found, [s[0] for s in flat(expected)])


@pytest.mark.parametrize("train", [False, True])
def test_dropout_between_layers_acts_in_training_only(train: bool) -> None:
    module = made(KINDS["gru"], num_layers=2, dropout=0.5).train(train)
    x = draw(BATCH, INPUTS)
    assert torch.equal(module.step(x)[0], module.step(x)[0]) is not train


@pytest.mark.parametrize("make", [LayerNormLSTM, LayerNormGRU, LayerNormRNN])
def test_steps_without_gradients_are_native_where_weights_stand_still(make: Any) -> None:
    torch.manual_seed(0)
    module = make(5, 7, num_layers=2, zoneout=0.1).eval()
    plain = make(5, 7, num_layers=2, zoneout=0.1, engine="portable").eval()

    def compare(ran: list[str]) -> None:
        plain.load_state_dict(module.state_dict())
        ours, theirs = None, None
        for x, engine in zip(torch.randn(len(ran), 3, 5), ran, strict=True):
            before = runs()
            with torch.no_grad():
                y, ours = module.step(x, ours)
            assert runs() - before == Counter({(engine, "torch"): 2})
            with torch.no_grad():
                expected, theirs = plain.step(x, theirs)
            assert_close("y", y.numpy(), expected.numpy(), "float32")

    compare(["portable", "native", "native"])
    # a change that counts no version
    module.weight_hh_l1.data[0, 0] += 1
    module.weight_ih_l0.data.neg_()
    compare(["portable", "native"])
    y, _ = module.step(torch.randn(3, 5))
    assert y.requires_grad
