"""Dreamer's block GRU in PyTorch: the reference's numbers, masks, resets, steps, weights."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from lnrnn.engines import runs, select
from lnrnn.reference import relatives as reference
from lnrnn.testing.tolerances import assert_close
from lnrnn.torch import DreamerBlockGRU

T, B, INPUTS, H = 6, 3, 5, 8


def module(units: int = H, **options: Any) -> Any:
    options = {"projection_size": 3, "num_blocks": 2, "num_layers": 2, "action_size": 2} | options
    made = DreamerBlockGRU(INPUTS, units, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.3, 0.6)
    return made


# the engine, T, B, H, and the options: odd sizes, one block and many, rows of several chunks
CASES = [
    ("portable", T, B, H, {}),
    ("native", T, B, H, {}),
    ("native", 1, 1, 9, {"num_blocks": 1, "num_layers": 1, "activation": "gelu"}),
    ("native", 5, 4, 40, {"num_blocks": 8, "projection_size": 37, "num_layers": 3}),
    ("native", 70, 9, 34, {"num_blocks": 2, "projection_size": 65, "action_size": 0}),
    # one row: two workers have a block each
    ("native", 60, 1, 64, {"num_blocks": 2, "projection_size": 41}),
]


@pytest.mark.parametrize(("engine", "steps", "batch", "units", "options"), CASES)
def test_values_and_gradients_are_those_of_the_reference(engine, steps, batch, units, options):
    gru = module(units, engine=engine, **options)
    with torch.no_grad():  # no chaos where there are many units
        for parameter in gru.parameters():
            parameter.mul_(min(1.0, 20 / units))
    x = torch.randn(steps, batch, INPUTS, dtype=torch.float64, requires_grad=True)
    h0: Any = torch.randn(1, batch, units, dtype=torch.float64, requires_grad=True)
    mask, reset = torch.rand(steps, batch) > 0.3, torch.rand(steps, batch) > 0.6
    before = runs(), runs(backward=True)
    y, h = gru(x, h0, mask=mask, reset=reset)
    dy, dh = torch.randn_like(y), torch.randn_like(h)
    ((y * dy).sum() + (h * dh).sum()).backward()
    assert runs() - before[0] == {(engine, "torch"): 1}
    assert runs(backward=True) - before[1] == ({(engine, "torch"): 1} if engine == "native" else {})
    run = reference.forward(
        gru.relative, gru.params(), x.detach(), [h0.detach()[0]], mask=mask, reset=reset
    )
    found = reference.backward(run, dy, [dh[0]])
    assert_close("y", y.detach().numpy(), run.y, "float64")
    assert_close("h", h.detach()[0].numpy(), run.states[0], "float64")
    gradients = {"x": x.grad, "h0": h0.grad[0]}
    gradients |= {name: p.grad for name, p in gru.named_parameters()}
    for name, gradient in gradients.items():
        assert_close(name, gradient.numpy(), found[name], "float64", gradient=True)


def test_steps_and_chunks_are_the_sequence():
    gru = module(action_size=0)
    x = torch.randn(T, B, INPUTS, dtype=torch.float64)
    y, h = gru(x)
    first, state = gru(x[:2])
    outputs = [*first]
    for x_t in x[2:]:
        y_t, state = gru.step(x_t, state)
        outputs.append(y_t)
    assert_close("y", torch.stack(outputs).detach().numpy(), y.detach().numpy(), "float64")
    torch.testing.assert_close(state, h)
    reset = torch.tensor([[False] * B, [True, *[False] * (B - 1)]])
    y2, h2 = gru(x[:2], state, reset=reset)
    for now in range(2):
        y2_t, state = gru.step(x[now], state, reset=reset[now])
        torch.testing.assert_close(y2_t, y2[now])
    torch.testing.assert_close(state, h2)
    alone, last = gru(x[:, 1])
    assert_close("y", alone.detach().numpy(), y[:, 1].detach().numpy(), "float64")
    assert last.shape == (1, H)


def test_what_stands_at_skipped_steps_does_not_matter():
    gru = module(batch_first=True)
    x = torch.randn(B, T, INPUTS, dtype=torch.float64)
    x[1, 2:] = np.nan
    y, h = gru(x, lengths=[T, 2, 3])
    (y.sum() + h.sum()).backward()
    assert not y[1, 2:].any()
    torch.testing.assert_close(h[0, 1], y[1, 1])
    assert all(p.grad.isfinite().all() for p in gru.parameters())


def test_weights_copies_and_compilation():
    gru = module()
    other = module()
    other.load_params(gru.params())
    x = torch.randn(T, B, INPUTS, dtype=torch.float64)
    y, _ = gru(x)
    for same in (other, copy.deepcopy(gru), pickle.loads(pickle.dumps(gru))):
        torch.testing.assert_close(same(x)[0], y, rtol=0, atol=0)
    compiled = torch.compile(gru, backend="eager", fullgraph=True)
    assert_close("y", compiled(x)[0].detach().numpy(), y.detach().numpy(), "float64")
    with pytest.raises(ValueError, match="have the shapes"):
        gru.load_params({"gate_kernel": np.ones((2, 4, 12))})


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="divide into the blocks"):
        DreamerBlockGRU(3, 9)
    with pytest.raises(ValueError, match="input_size=5"):
        module()(torch.randn(T, B, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="h of hx has the shape"):
        module()(
            torch.randn(T, B, INPUTS, dtype=torch.float64), torch.zeros(B, H, dtype=torch.float64)
        )


def test_what_the_core_has_no_rule_for_is_the_definition():
    gru, portable = module(engine="native"), module(engine="portable")
    portable.load_params(gru.params())
    x = torch.randn(T, B, INPUTS, dtype=torch.float64, requires_grad=True)
    dx = torch.randn_like(x)

    def second(made: Any) -> Any:
        weights = list(made.parameters())
        y, _ = made(x)
        first = torch.autograd.grad((y**2).sum(), [x, *weights], create_graph=True)
        total = torch.stack([(g**2).sum() for g in first]).sum()
        return torch.autograd.grad(total, [x, *weights])

    def forward_mode(made: Any) -> Any:
        return torch.func.jvp(lambda x: made(x)[0], (x,), (dx,))

    def mapped(made: Any) -> Any:
        return (torch.func.vmap(lambda x: made(x)[0], 1)(x),)

    for function in (second, forward_mode, mapped):
        for ours, theirs in zip(function(gru), function(portable), strict=True):
            torch.testing.assert_close(ours, theirs)
    program = torch.export.export(gru.eval(), (x.detach(),))
    assert not any("lnrnn" in str(node.target) for node in program.graph.nodes)


def test_engines_and_why_not():
    for kind in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        assert module().to(kind).engine_report()["native"] == select.Yes()
    assert "not float8" in module().to(torch.float8_e5m2).engine_report()["native"].reason
    with pytest.raises(ValueError, match="engine is one of"):
        module(engine="fast")


def test_a_compiled_module_runs_the_core():
    gru = module()
    x = torch.randn(T, B, INPUTS, dtype=torch.float64)
    compiled = torch.compile(gru, backend="aot_eager", fullgraph=True)
    y, _ = gru(x)
    y.sum().backward()
    wanted = [p.grad.clone() for p in gru.parameters()]
    gru.zero_grad()
    before = runs(), runs(backward=True)
    compiled(x)[0].sum().backward()
    assert (runs() - before[0])["native", "torch"] == 1
    assert (runs(backward=True) - before[1])["native", "torch"] == 1
    for parameter, gradient in zip(gru.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
