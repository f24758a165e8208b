"""Leading zero steps: the bound that keeps gradients finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lnrnn import reference
from lnrnn.engines import select
from lnrnn.engines.native import call
from lnrnn.testing import VARIANTS, assert_close, random_inputs, random_params, sizes_for
from lnrnn.variant import Variant

Arrays = dict[str, np.ndarray]
SUPPORTED = [n for n, v in VARIANTS.items() if call.refusal(v) is None]
BOTH_ENGINES = [*(("portable", n) for n in VARIANTS), *(("native", n) for n in SUPPORTED)]
each_engine = pytest.mark.parametrize(("engine", "name"), BOTH_ENGINES)


def _gradients(
    engine: str, variant: Variant, params: Arrays, inputs: Any, bound: float, graph: bool = False
) -> tuple[dict[str, Tensor], Tensor]:
    """Of the outputs and the final states, weighted, in the dtype of the inputs; and h0."""
    dtype = torch.as_tensor(inputs.x).dtype
    arrays = {"x": inputs.x, "h0": inputs.h0, "c0": inputs.c0, **params}
    leaves = {
        n: torch.tensor(a, dtype=dtype, requires_grad=True)
        for n, a in arrays.items()
        if a is not None
    }
    request = select.Request(variant, "torch", str(dtype).removeprefix("torch."))
    y, final = select.choose(engine, request).load(request)(
        variant,
        {n: leaves[n] for n in params},
        leaves["x"],
        tuple(leaves[n] for n in ("h0", "c0") if n in leaves),
        recurrent_gradient_clip=bound,
    )
    weights = (inputs.dy, inputs.dh, inputs.dc)
    total = torch.zeros((), dtype=dtype)
    for value, weight in zip((y, *final), weights, strict=False):
        total = total + (value * torch.as_tensor(weight, dtype=dtype)).sum()
    found = torch.autograd.grad(
        total, list(leaves.values()), create_graph=graph, materialize_grads=True
    )
    return dict(zip(leaves, found, strict=True)), leaves["h0"]


@each_engine
def test_the_bound_is_the_reference_s(engine: str, name: str) -> None:
    variant, rng = VARIANTS[name], np.random.default_rng(3)
    params = random_params(variant, sizes_for(variant), rng)
    inputs = random_inputs(variant, sizes_for(variant), rng)
    run = reference.forward(variant, params, inputs.x, inputs.h0, inputs.c0)
    incoming = (inputs.dy, inputs.dh, inputs.dc)
    held = reference.backward(run, *incoming, recurrent_gradient_clip=0.05)
    free = reference.backward(run, *incoming)
    found, _ = _gradients(engine, variant, params, inputs, 0.05)
    states = {"x": held.x, "h0": held.h0} | ({} if held.c0 is None else {"c0": held.c0})
    for key, expected in {**states, **held.params}.items():
        assert_close(key, found[key].detach().numpy(), expected, "float64", gradient=True)
    assert np.abs(free.h0 - held.h0).max() > 1e-2


def test_second_derivatives_are_bounded_alike() -> None:
    """The native engine takes them from the portable definition."""
    variant, rng = VARIANTS["lstm_x_h_cell_carry"], np.random.default_rng(6)
    params = random_params(variant, sizes_for(variant), rng)
    inputs = random_inputs(variant, sizes_for(variant), rng)
    second = {}
    for engine, bound in (("native", 0.2), ("portable", 0.2), ("free", 1e6)):
        named = "portable" if engine == "free" else engine
        first, leaf = _gradients(named, variant, params, inputs, bound, graph=True)
        total = torch.stack([g.square().sum() for g in first.values()]).sum()
        (second[engine],) = torch.autograd.grad(total, leaf)
    native, portable, free = (second[n].numpy() for n in ("native", "portable", "free"))
    assert_close("of h0", native, portable, "float64", gradient=True)
    assert np.abs(free - portable).max() > 1


@each_engine
def test_the_bound_holds_behind_zeros(engine: str, name: str) -> None:
    """In float32, from zero biases and unit gains, with the smallest epsilon of any dialect."""
    variant, rng = VARIANTS[name].replace(epsilon=1e-12), np.random.default_rng(4)
    params = random_params(variant, sizes_for(variant), rng)
    for weight, value in params.items():
        if weight.endswith("_gain"):
            value[:] = 1
        elif "bias" in weight:
            value[:] = 0
    inputs = random_inputs(variant, sizes_for(variant), rng, steps=10)
    inputs.x[:9], inputs.h0[:] = 0, 0
    if inputs.c0 is not None:
        inputs.c0[:] = 0
    found, _ = _gradients(
        engine, variant, params, inputs._replace(x=inputs.x.astype("float32")), 1.0
    )
    for key, gradient in found.items():
        assert gradient.isfinite().all(), key


def test_a_norm_by_the_deviation_has_a_derivative_at_equal_numbers() -> None:
    """The root of the variance has none there: engines take the limit."""
    variant = VARIANTS["gru_x_h_deviation"]
    params = random_params(variant, sizes_for(variant), np.random.default_rng(4))
    params = {n: a if n.endswith("kernel") else 0 * a + ("gain" in n) for n, a in params.items()}
    inputs = random_inputs(variant, sizes_for(variant), np.random.default_rng(5), steps=2)
    inputs.x[:], inputs.h0[:] = 0, 0
    run = reference.forward(variant, params, inputs.x, inputs.h0)
    expected = reference.backward(run, inputs.dy, inputs.dh).h0
    for engine in ("portable", "native"):
        found, _ = _gradients(engine, variant, params, inputs, 1e6)
        assert_close(engine, found["h0"].detach().numpy(), expected, "float64", gradient=True)
