"""Lengths, masks and resets: as if each sequence, and each episode, had been run alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
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
    gradients,
    made,
    states_of,
)

from lnrnn import dialects
from lnrnn.testing.contract import verify_contract
from lnrnn.testing.frontends import front_end

LENGTHS = [5, 1, 7, 0]
MASK = torch.tensor(
    [
        [0, 1, 1, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [1, 1, 1, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 1, 1, 0],
    ],
    dtype=torch.bool,
)
RESET = torch.tensor(
    [
        [0, 1, 0, 1],
        [0, 0, 1, 0],
        [1, 0, 1, 1],  # also at valid steps that follow masked ones
        [0, 1, 1, 1],
        [0, 1, 0, 0],
        [0, 0, 0, 0],
        [0, 1, 1, 0],
    ],
    dtype=torch.bool,
)
both_directions = pytest.mark.parametrize("bidirectional", [False, True])


def one(hx: Any, b: int) -> Any:
    """The states of one sequence of the batch, as a batch of one."""
    states = tuple(s[:, b : b + 1] for s in flat(hx))
    return states if isinstance(hx, tuple) else states[0]


def alone(module: Any, x: Tensor, hx: Any, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Each sequence by itself without its masked steps; zeros where they were."""
    outputs, finals = [], []
    for b in range(x.shape[1]):
        valid = mask[:, b]
        y = torch.zeros(x.shape[0], 1, module.output_size * module._directions, dtype=x.dtype)
        final = one(hx, b)
        if valid.any():
            y[valid], final = module(x[valid, b : b + 1], final)
        outputs.append(y)
        finals.append(flat(final))
    return torch.cat(outputs, 1), [torch.cat(s, 1) for s in zip(*finals, strict=True)]


@each_kind
@both_directions
@pytest.mark.parametrize("layers", [1, 2])
def test_a_mask_of_any_pattern(kind: Kind, bidirectional: bool, layers: int) -> None:
    module = made(kind, num_layers=layers, bidirectional=bidirectional)
    x, hx = draw(STEPS, BATCH, INPUTS).requires_grad_(), states_of(module)
    parameters = dict(module.named_parameters())
    expected, found = alone(module, x, hx, MASK), module(x, hx, mask=MASK)
    assert_same(found, expected)
    assert_same(gradients(found, parameters, x), gradients(expected, parameters, x), gradient=True)


@each_kind
@both_directions
def test_lengths(kind: Kind, bidirectional: bool) -> None:
    module = made(kind, num_layers=2, bidirectional=bidirectional)
    x, hx = draw(STEPS, BATCH, INPUTS), states_of(module)
    valid = torch.arange(STEPS)[:, None] < torch.tensor(LENGTHS)
    expected = alone(module, x, hx, valid)
    for lengths in (LENGTHS, torch.tensor(LENGTHS), torch.tensor(LENGTHS, dtype=torch.int32)):
        assert_same(module(x, hx, lengths=lengths), expected)
    assert_same(module(x, hx, lengths=LENGTHS, mask=MASK), alone(module, x, hx, valid & MASK))


@each_kind
@both_directions
def test_a_packed_sequence_gives_what_lengths_give(kind: Kind, bidirectional: bool) -> None:
    module = made(kind, num_layers=2, bidirectional=bidirectional)
    x, hx, lengths = draw(STEPS, BATCH, INPUTS), states_of(module), [3, 7, 1, 5]
    packed, states = module(pack_padded_sequence(x, lengths, enforce_sorted=False), hx)
    output, found = pad_packed_sequence(packed)
    assert found.tolist() == lengths
    assert_same([output, states], module(x, hx, lengths=lengths))


def episodes(b: int, valid: Tensor, reset: Tensor) -> list[list[int]]:
    """The valid steps of a sequence, cut where an episode begins."""
    steps = [t for t in range(STEPS) if valid[t, b]]
    cuts = [i for i, t in enumerate(steps) if reset[t, b] and i > 0]
    return [steps[i:j] for i, j in pairwise([0, *cuts, len(steps)])]


@each_kind
@both_directions
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
def test_resets(kind: Kind, bidirectional: bool, mask: Tensor | None) -> None:
    """Every episode is as if alone, in both directions."""
    module = made(kind, bidirectional=bidirectional)
    x = draw(STEPS, BATCH, INPUTS)
    y, states = module(x, mask=mask, reset=RESET)
    valid = torch.ones_like(MASK) if mask is None else mask
    for b in range(BATCH - 1):  # the last one of MASK has no valid step
        runs = [(e, *module(x[e, b : b + 1])) for e in episodes(b, valid, RESET)]
        for episode, expected, _ in runs:
            assert_same(y[episode, b : b + 1], expected)
        # forwards the last episode ends last, backwards the first
        for direction, run in enumerate((runs[-1], runs[0])[: module._directions]):
            assert_same(
                [s[direction, b] for s in flat(states)], [s[direction, 0] for s in flat(run[2])]
            )


@each_kind
def test_given_states_reach_the_episode_at_their_end(kind: Kind) -> None:
    module = made(kind, bidirectional=True)
    x, hx = draw(STEPS, BATCH, INPUTS), states_of(module)
    h = flat(hx)[0].requires_grad_()
    y, _ = module(x, hx, mask=MASK, reset=RESET)
    for b in range(BATCH - 1):
        runs = episodes(b, MASK, RESET)
        forwards = runs[0] if not RESET[runs[0][0], b] else []
        for t in range(STEPS):
            (slope,) = torch.autograd.grad(y[t, b].sum(), h, retain_graph=True)
            assert slope[0, b].any() == (t in forwards)
            assert slope[1, b].any() == (t in runs[-1])


@each_kind
def test_layouts_of_flags(kind: Kind) -> None:
    """batch_first, and no batch at all, mean the same numbers."""
    module, turned = (
        made(kind, bidirectional=True),
        made(kind, bidirectional=True, batch_first=True),
    )
    x, hx = draw(STEPS, BATCH, INPUTS), states_of(module)
    y, states = module(x, hx, mask=MASK, reset=RESET)
    other, same = turned(x.transpose(0, 1), hx, mask=MASK.T, reset=RESET.T)
    assert_same([other.transpose(0, 1), same], [y, states])
    b = 1
    single = tuple(s[:, b] for s in flat(hx))
    single = single if isinstance(hx, tuple) else single[0]
    other, same = turned(x[:, b], single, mask=MASK[:, b], reset=RESET[:, b])
    assert_same([other, *flat(same)], [y[:, b], *(s[:, b] for s in flat(states))])
    shorter = module(x[:, b], single, lengths=torch.tensor(4))
    assert_same(shorter[1], module(x[:4, b], single)[1])
    assert not shorter[0][4:].any()


def test_lengths_under_vmap() -> None:
    """Each call of the batch has lengths, and a mask, of its own."""
    module = made(KINDS["gru"], bidirectional=True)
    x, lengths = draw(3, STEPS, BATCH, INPUTS), torch.tensor([[7, 1, 3, 0], [5, 5, 2, 7], [1] * 4])
    masks = torch.rand(3, STEPS, BATCH) < 0.6

    def call(x: Tensor, lengths: Tensor, mask: Tensor) -> Any:
        return module(x, lengths=lengths, mask=mask, reset=RESET)

    found = torch.vmap(call)(x, lengths, masks)
    for i, given in enumerate(zip(x, lengths, masks, strict=True)):
        assert_same([t[i] for t in flat(found)], call(*given))


@pytest.mark.parametrize("engine", [None, "portable"])
@each_kind
def test_contract(kind: Kind, engine: str | None) -> None:
    verify_contract(front_end("torch", engine), dialects.get(kind.dialect).variant)
