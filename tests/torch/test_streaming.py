"""Step by step: the numbers of the whole sequence."""

from __future__ import annotations

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
