"""Traces: what lies inside layers is what the reference says, whoever computed them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import lnrnn
import lnrnn.jax
from lnrnn import dialects, reference
from lnrnn.convert.weights import collect
from lnrnn.engines import runs
from lnrnn.nnx import LayerNormGRU as NnxGRU
from lnrnn.testing import assert_close
from lnrnn.torch import LayerNormGRU, LayerNormLSTM, LayerNormLSTMCell

T, B, INPUTS, H = 6, 3, 4, 5


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def spread(module: torch.nn.Module) -> Any:
    """The module with random asymmetric weights, gains and biases too."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return module


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


@pytest.mark.parametrize("engine", ["auto", "portable"])
def test_derivatives_are_those_of_autograd(engine: str) -> None:
    """Of stacks in both directions, with masks, resets, states and zoneout."""
    options: Any = dict(num_layers=2, bidirectional=True, zoneout=0.2, engine=engine)
    module = spread(LayerNormLSTM(INPUTS, H, **options, dtype=torch.float64)).eval()
    x = draw(T, B, INPUTS).requires_grad_()
    hx = draw(4, B, H), draw(4, B, H)
    mask, reset = torch.rand(T, B) < 0.8, torch.rand(T, B) < 0.3
    weights = draw(T, B, 2 * H), draw(4, B, H)

    def loss(found: Any) -> torch.Tensor:
        y, (_, c) = found
        return (y * weights[0]).sum() + (c * weights[1]).sum()

    before = runs()
    found = lnrnn.trace(module, x, hx, mask=mask, reset=reset, loss=loss)
    name = "native" if engine == "auto" else "portable"
    assert set(runs() - before) == {(name, "torch")}
    directions = ("forward", "reverse")
    assert list(found) == [f"layers.{k}.{d}" for k in (0, 1) for d in directions]
    value = loss(module(x, hx, mask=mask, reset=reset))
    value.backward()
    assert x.grad is not None
    assert_close("", found.loss, value.item(), "float64")
    forward, backward = (found[f"layers.0.{d}"]["dx"] for d in directions)
    assert_close("", forward + backward[::-1], x.grad.numpy(), "float64")
    assert all(layer.difference < 1e-12 for layer in found.values())


def test_names_of_what_lies_inside() -> None:
    """Against the equations of haste, written out."""
    module = spread(LayerNormLSTM(INPUTS, H, dtype=torch.float64))
    x = draw(T, B, INPUTS)
    found = lnrnn.trace(module, x, loss=lambda out: out[0].sum()).single
    assert found.norms == ("x_norm[ifgo]", "h_norm[ifgo]", "cell_norm")
    weights = module.params()
    v = x.numpy() @ weights["kernel"]
    assert_close("", found["x_norm[ifgo].mean"][..., 0], v.mean(-1), "float64")
    assert_close("", found["x_norm[ifgo].variance"][..., 0], v.var(-1), "float64")
    assert_close("", found["o"], 1 / (1 + np.exp(-found["pre.o"])), "float64")
    c = np.concatenate([np.zeros((1, B, H)), found["c"][:-1]])
    assert_close("", found["c"], found["f"] * c + found["i"] * found["g"], "float64")
    assert_close("", found["h"], module(x)[0].detach().numpy(), "float64")
    assert found["dh"].shape == found["dc"].shape == (T, B, H)
    # the last h is nothing but the last output
    assert_close("", found["dh"][-1], np.ones((B, H)), "float64")
    with pytest.raises(KeyError, match="'z' is not in this trace, which has x, y"):
        found["z"]


@pytest.mark.parametrize("name", ["haste_lngru", "sockeye_lngru", "speechbrain_ligru_ln_tanh"])
def test_gates_of_every_cell_are_there(name: str) -> None:
    variant = dialects.get(name).variant
    rng = np.random.default_rng(0)
    params = lnrnn.jax.init(jax.random.key(0), variant, INPUTS, H)
    params = {n: np.asarray(p) + 0.1 * rng.normal(size=p.shape) for n, p in params.items()}
    run = reference.forward(variant, params, rng.normal(size=(T, B, INPUTS)))
    assert {*variant.gates, "h"} <= set(run.inside[0])


def test_functions_of_jax_are_heard_inside_jit() -> None:
    params = lnrnn.jax.init(jax.random.key(1), "gru", INPUTS, H)
    x = jnp.asarray(draw(B, T, INPUTS).numpy(), jnp.float32)

    def run(x: Any) -> Any:
        return lnrnn.jax.apply(params, x, variant="gru")

    def loss(found: Any) -> Any:
        return (found[0] ** 2).sum()

    found = lnrnn.trace(jax.jit(run), x, loss=loss).single
    expected = np.asarray(jax.grad(lambda x: loss(run(x)))(x))
    assert_close("", found["dx"].transpose(1, 0, 2), expected, "float32", gradient=True)


def test_modules_of_flax_by_their_paths() -> None:
    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first, self.second = (NnxGRU(n, H, rngs=rngs) for n in (INPUTS, H))

        def __call__(self, x: Any) -> Any:
            return self.second(self.first(x))

    model = Model(nnx.Rngs(0))
    x = jnp.asarray(draw(B, T, INPUTS).numpy(), jnp.float32)
    found = lnrnn.trace(model, x, loss=lambda y: (y**2).sum())
    assert set(found) == {"first", "second"}
    expected = np.asarray(jax.grad(lambda x: (model(x) ** 2).sum())(x))
    assert_close("", found["first"]["dx"].transpose(1, 0, 2), expected, "float32", gradient=True)


def test_weights_without_a_framework() -> None:
    module = spread(LayerNormLSTM(INPUTS, H, num_layers=2, bidirectional=True))
    weights = collect(module)
    x = draw(T, B, INPUTS)
    found = lnrnn.trace(weights, x.numpy())
    assert_close("", found.output, module.double()(x)[0].detach().numpy(), "float32", gradient=True)
    lengths = torch.tensor([T, T - 2, T - 3])
    mask = (torch.arange(T)[:, None] < lengths).numpy()
    found = lnrnn.trace(weights, x.numpy(), mask=mask, masked_output="zero")
    expected = module(x, lengths=lengths)[0].detach().numpy()
    assert_close("masked", found.output, expected, "float32", gradient=True)
    with pytest.raises(ValueError, match="have no derivatives of a loss"):
        lnrnn.trace(weights, x.numpy(), loss=sum)


def test_what_has_no_sequences_is_refused() -> None:
    cell = LayerNormLSTMCell(INPUTS, H)
    with pytest.raises(ValueError, match="got none in LayerNormLSTMCell"):
        lnrnn.trace(cell, torch.randn(B, INPUTS))
    with pytest.raises(ValueError, match="got int: pass one of them"):
        lnrnn.trace(3)


def test_a_traced_module_is_as_before() -> None:
    module = LayerNormGRU(INPUTS, H, dtype=torch.float64)
    x = draw(T, B, INPUTS)
    lnrnn.trace(module, x, loss=lambda out: out[0].sum())
    assert all(p.grad is None for p in module.parameters())
    before = runs()
    module(x)
    assert set(runs() - before) == {("native", "torch")}
