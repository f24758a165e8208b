"""Zoneout, the three recurrent dropouts, DropConnect and the gradient clip."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
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
    made,
    states_of,
)

from lnrnn import reference
from lnrnn.torch import LayerNormLSTM

X = torch.randn(
    STEPS, BATCH, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
)


def defined(module: Any, hx: Any, **options: Any) -> list[Tensor]:
    """What the reference gives for a layer of one direction: outputs and final states."""
    states = [s[0].numpy() for s in flat(hx)]
    options = {n: v.numpy() if isinstance(v, Tensor) else v for n, v in options.items()}
    run = reference.forward(module.variant, module.params(), X.numpy(), *states, **options)
    return [torch.as_tensor(a) for a in (run.y, run.h, run.c) if a is not None]


def check(module: Any, **options: Any) -> None:
    hx = states_of(module)
    y, states = module(X, hx)
    assert_same([y, *(s[0] for s in flat(states))], defined(module, hx, **options))


def spied(module: Any) -> dict[str, Any]:
    """Let a module tell the masks that it draws."""
    seen: dict[str, Any] = {}
    drawn = module.noise

    def noise(*arguments: Any) -> dict[str, Any]:
        seen.clear()
        seen.update(drawn(*arguments))
        return dict(seen)

    module.noise = noise
    return seen


@each_kind
def test_zoneout(kind: Kind) -> None:
    module = made(kind, zoneout=0.4)
    seen = spied(module)
    hx = states_of(module)
    found = module(X, hx)
    take = seen["take_h"]
    assert take.shape == (STEPS, BATCH, UNITS) and set(take.unique().tolist()) == {0, 1}
    assert abs(take.mean().item() - 0.6) < 0.15
    expected = defined(module, hx, take_h=take)
    assert_same([found[0], *(s[0] for s in flat(found[1]))], expected)
    check(made(kind, zoneout=0.4).eval(), take_h=0.6)


def test_zoneout_of_the_cell() -> None:
    module = made(KINDS["lstm"], zoneout_cell=0.3)
    seen, hx = spied(module), states_of(made(KINDS["lstm"]))
    found = module(X, hx)
    expected = defined(module, hx, take_c=seen["take_c"])
    assert_same([found[0], *(s[0] for s in flat(found[1]))], expected)
    check(made(KINDS["lstm"], zoneout=0.1, zoneout_cell=0.3).eval(), take_h=0.9, take_c=0.7)


MODES = {
    "sequence": ("recurrent_mask", (BATCH, UNITS)),
    "step": ("recurrent_mask", (STEPS, BATCH, UNITS)),
    "candidate": ("candidate_mask", (STEPS, BATCH, UNITS)),
}


@each_kind
@pytest.mark.parametrize("mode", MODES)
def test_recurrent_dropout(kind: Kind, mode: str) -> None:
    if kind is KINDS["rnn"] and mode == "candidate":
        return
    module = made(kind, recurrent_dropout=0.5, recurrent_dropout_mode=mode)
    name, shape = MODES[mode]
    seen, hx = spied(module), states_of(module)
    found = module(X, hx)
    assert list(seen) == [name] and seen[name].shape == shape
    assert set(seen[name].unique().tolist()) == {0, 2}
    assert_same([found[0], *(s[0] for s in flat(found[1]))], defined(module, hx, **seen))
    check(module.eval())


@each_kind
def test_weight_dropout(kind: Kind) -> None:
    module, plain = made(kind, weight_dropout=0.5), made(kind)
    torch.manual_seed(3)
    found = module(X)
    torch.manual_seed(3)
    with torch.no_grad():
        plain.weight_hh_l0.copy_(torch.nn.functional.dropout(module.weight_hh_l0, 0.5))
    assert (plain.weight_hh_l0 == 0).any()
    assert_same(found, plain(X))
    check(module.eval())


@each_kind
@pytest.mark.parametrize("bound", [None, 0.05])
def test_recurrent_gradient_clip(kind: Kind, bound: float | None) -> None:
    module = made(kind, recurrent_gradient_clip=bound)
    x, dy = X.clone().requires_grad_(), draw(STEPS, BATCH, UNITS)
    (slope,) = torch.autograd.grad((module(x)[0] * dy).sum(), x)
    run = reference.forward(module.variant, module.params(), X.numpy())
    expected = reference.backward(run, dy.numpy(), recurrent_gradient_clip=bound).x
    assert_same(slope, torch.as_tensor(expected), gradient=True)
    if bound is not None:
        free = reference.backward(run, dy.numpy()).x
        assert abs(free - expected).max() > 1e-3


def test_recurrent_gradient_clip_compiled() -> None:
    """In the traced scan as in the loop, against the reference."""
    module = made(KINDS["rnn"], recurrent_gradient_clip=0.05, engine="portable")
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x, dy = X.clone().requires_grad_(), draw(STEPS, BATCH, UNITS)
    (slope,) = torch.autograd.grad((compiled(x)[0] * dy).sum(), x)
    run = reference.forward(module.variant, module.params(), X.numpy())
    expected = reference.backward(run, dy.numpy(), recurrent_gradient_clip=0.05).x
    assert_same(slope, torch.as_tensor(expected), gradient=True)


def test_an_export_with_the_clip_is_for_inference() -> None:
    module = made(KINDS["rnn"], recurrent_gradient_clip=0.05)
    with pytest.raises(
        ValueError, match=r"does not clip gradients .* recurrent_gradient_clip=0.05"
    ):
        torch.export.export(module, (X,))
    program = torch.export.export(module.eval(), (X,)).module()
    assert_same(program(X), module(X))


def test_a_cell_draws_at_each_call() -> None:
    cell = KINDS["gru"].cell(INPUTS, UNITS, recurrent_dropout=0.5, dtype=torch.float64)
    h = draw(BATCH, UNITS)
    assert not torch.equal(cell(X[0], h), cell(X[0], h))
    assert torch.equal(cell.eval()(X[0], h), cell(X[0], h))


def test_manual_seed_repeats_the_masks() -> None:
    module = LayerNormLSTM(INPUTS, UNITS, zoneout=0.3, recurrent_dropout=0.3).double()
    torch.manual_seed(9)
    first = module(X)
    torch.manual_seed(9)
    assert_same(module(X), first)
