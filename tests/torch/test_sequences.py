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
    UNITS,
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


def spread(module: Any, batch: int = BATCH) -> Any:
    """The learned states of a module in the form of `hx`."""
    states = [
        torch.stack([getattr(module, f"initial_{name}{s}") for s in module._stems])
        for name in module.variant.states
    ]
    states = [s.unsqueeze(1).expand(-1, batch, -1) for s in states]
    return tuple(states) if len(states) > 1 else states[0]


@each_kind
@both_directions
def test_episodes_begin_in_the_state_that_resets_go_to(kind: Kind, bidirectional: bool) -> None:
    module = made(kind, bidirectional=bidirectional)
    x, hx, again = draw(STEPS, BATCH, INPUTS), states_of(module), states_of(module)
    y, _ = module(x, hx, mask=MASK, reset=RESET, reset_state=again)
    for b in range(BATCH - 1):
        found = episodes(b, MASK, RESET)
        valid = [t for t in range(STEPS) if MASK[t, b]]
        first = again if RESET[valid[0], b] else hx
        # each direction has its first episode from hx
        for direction in range(module._directions):
            begun = [again] * len(found)
            begun[-1 if direction else 0] = hx if direction else first
            for episode, start in zip(found, begun, strict=True):
                expected, _ = module(x[episode, b : b + 1], one(start, b))
                side = slice(direction * UNITS, (direction + 1) * UNITS)
                assert_same(y[episode, b : b + 1, side], expected[..., side])


@each_kind
@both_directions
def test_learned_states_stand_where_none_is_given(kind: Kind, bidirectional: bool) -> None:
    """At the beginning and at resets, and they gather the gradients of both."""
    options: dict[str, Any] = dict(num_layers=2, bidirectional=bidirectional)
    learns, plain = made(kind, learn_initial_state=True, **options), made(kind, **options)
    plain.load_state_dict(learns.state_dict(), strict=False)
    x, named = draw(STEPS, BATCH, INPUTS), dict(learns.named_parameters())
    given = spread(learns)
    found = learns(x, mask=MASK, reset=RESET)
    expected = plain(x, given, mask=MASK, reset=RESET, reset_state=given)
    assert_same(found, expected)
    states = {n: p for n, p in named.items() if n.startswith("initial")}
    assert len(states) == len(flat(given)) * len(learns._stems)
    same = states | dict(plain.named_parameters())
    assert_same(gradients(found, named), gradients(expected, same), gradient=True)
    hx = states_of(learns)
    assert_same(learns(x, hx), plain(x, hx))


@each_kind
def test_steps_begin_in_the_learned_state(kind: Kind) -> None:
    module = made(kind, num_layers=2, learn_initial_state=True)
    x = draw(STEPS, BATCH, INPUTS)
    whole, outputs, state = module(x), [], None
    for now in x:
        y, state = module.step(now, state)
        outputs.append(y)
    assert_same([torch.stack(outputs), state], whole)
    cell = kind.cell(INPUTS, UNITS, learn_initial_state=True, dtype=torch.float64)
    layer = kind.layer(INPUTS, UNITS, learn_initial_state=True, dtype=torch.float64)
    layer.load_params(cell.params())
    assert_same(cell(x[0]), [s[0] for s in flat(layer(x[:1])[1])])
    assert_same(cell(x[0, 0]), [s[0] for s in flat(layer(x[:1, 0])[1])])


@each_kind
@pytest.mark.parametrize("learns", [False, True])
def test_steps_begin_episodes(kind: Kind, learns: bool) -> None:
    """In zeros or the learned states, or in those given; batched or not."""
    module = made(kind, num_layers=2, learn_initial_state=learns)
    x, hx, given = draw(STEPS, BATCH, INPUTS), states_of(module), states_of(module)
    parameters = dict(module.named_parameters())
    for again in (None,) if learns else (None, given):
        expected, states, outputs = module(x, hx, reset=RESET, reset_state=again), hx, []
        for x_t, reset in zip(x, RESET, strict=True):
            y, states = module.step(x_t, states, reset=reset, reset_state=again)
            outputs.append(y)
        found = [torch.stack(outputs), states]
        assert_same(found, expected)
        wanted = gradients(expected, parameters)
        assert_same(gradients(found, parameters), wanted, gradient=True)
    alone = [s[:, 0] for s in flat(hx)]
    hx = tuple(alone) if len(alone) > 1 else alone[0]
    assert_same(module.step(x[0, 0], hx, reset=torch.tensor(True)), module.step(x[0, 0]))


@each_kind
def test_burn_in(kind: Kind) -> None:
    """Steps that bring the states, and none of the gradient."""
    module = made(kind, num_layers=2, recurrent_dropout=0.3, recurrent_dropout_mode="step")
    parameters = dict(module.named_parameters())
    x, hx = draw(STEPS, BATCH, INPUTS).requires_grad_(), states_of(module)
    options = {"mask": MASK, "reset": RESET, "reset_state": states_of(module)}

    def run(**more: Any) -> Any:
        torch.manual_seed(1)  # the same masks
        return module(x, hx, **options, **more)

    whole, (y, states) = run(), run(burn_in=3)
    assert_same([y, states], whole)
    quiet = torch.autograd.grad(y[:3].sum(), x, retain_graph=True)[0]
    assert not quiet.any()
    module.eval()
    first = {n: v if n == "reset_state" else v[:3] for n, v in options.items()}
    rest = {n: v if n == "reset_state" else v[3:] for n, v in options.items()}
    between = module(x[:3], hx, **first)[1]
    between = tuple(s.detach() for s in between) if isinstance(between, tuple) else between.detach()
    expected = module(x[3:], between, **rest)
    y, states = run(burn_in=3)
    found = gradients([y[3:], states], parameters, x)
    assert not found[0][:3].any()
    assert_same(found, gradients(expected, parameters, x), gradient=True)


def test_burn_in_keeps_nothing() -> None:
    """Neither of the first steps, nor in the engine."""
    module, shapes = made(KINDS["lstm"], engine="native"), []

    def pack(t: Tensor) -> Tensor:
        shapes.append(tuple(t.shape))
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        module(draw(9, BATCH, INPUTS), burn_in=6)
    assert (3, BATCH, 4 * UNITS) in shapes
    assert not any(6 in shape for shape in shapes)


@each_kind
def test_burn_in_of_both_directions(kind: Kind) -> None:
    """The reverse direction comes last to the steps without gradient."""
    module = made(kind, bidirectional=True)
    x = draw(STEPS, BATCH, INPUTS)
    reverse = {n: p for n, p in module.named_parameters() if n.endswith("_reverse")}
    (whole, _), (y, _) = module(x, lengths=LENGTHS), module(x, lengths=LENGTHS, burn_in=4)
    assert_same(y, whole)
    assert not torch.autograd.grad(y[:4].sum(), module.weight_ih_l0, retain_graph=True)[0].any()
    assert_same(gradients(y[4:], reverse), gradients(whole[4:], reverse), gradient=True)


def test_calls_that_do_not_fit() -> None:
    module = made(KINDS["gru"])
    x = draw(STEPS, BATCH, INPUTS)
    with pytest.raises(ValueError, match="got it without reset"):
        module(x, reset_state=states_of(module))
    with pytest.raises(ValueError, match=r"reset_state has the shape \(1, 4, 5\)"):
        module(x, reset=RESET, reset_state=torch.zeros(1, 3, UNITS, dtype=torch.float64))
    with pytest.raises(ValueError, match="burn_in is below the number of steps"):
        module(x, burn_in=STEPS)
    with pytest.raises(ValueError, match="burn_in is a"):
        module(x, burn_in=-1)
    learns = made(KINDS["gru"], learn_initial_state=True)
    with pytest.raises(ValueError, match="make the layer with learn_initial_state=True"):
        module.load_params(learns.params())
    with pytest.raises(ValueError, match="make the layer with learn_initial_state=False"):
        learns.load_params(module.params())
