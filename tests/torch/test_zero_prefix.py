"""Leading zero steps: the bound that keeps gradients finite, and what is said without it."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch_cases import INPUTS, KINDS, UNITS, Kind, each_kind

from lnrnn import reference
from lnrnn.engines import select
from lnrnn.testing import VARIANTS, assert_close, random_inputs, random_params, sizes_for
from lnrnn.variant import Variant

Arrays = dict[str, np.ndarray]
BOTH_ENGINES = [(engine, n) for engine in ("portable", "native") for n in VARIANTS]
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


X = torch.randn(4, 2, INPUTS)
SAID = "A zero input at a zero state multiplies the gradient by about"
# of each kind a dialect with zero biases
TRAPPED = {"lstm": "haste_lnlstm", "gru": "haste_lngru", "rnn": "tfa_lnsimplernn"}
each_trapped = pytest.mark.parametrize(("name", "dialect"), TRAPPED.items())


def _said(call: Callable[[], Any]) -> list[warnings.WarningMessage]:
    """The warnings of a call, repeated ones too."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [w for w in found if issubclass(w.category, UserWarning)]


@each_trapped
def test_zero_biases_are_said_once_at_the_first_training_call(name: str, dialect: str) -> None:
    module = KINDS[name].layer(INPUTS, UNITS, variant=dialect, num_layers=2, bidirectional=True)
    assert not _said(lambda: module.eval()(X))
    module.train()
    with torch.no_grad():
        assert not _said(lambda: module(X))
    (found,) = _said(lambda: module(X))
    assert SAID in str(found.message) and found.filename == __file__
    assert not _said(lambda: module(X))
    assert not _said(lambda: copy.deepcopy(module)(X))
    assert not _said(lambda: pickle.loads(pickle.dumps(module))(X))


@each_trapped
def test_steps_and_cells_say_it_too(name: str, dialect: str) -> None:
    module = KINDS[name].layer(INPUTS, UNITS, variant=dialect)
    cell = KINDS[name].cell(INPUTS, UNITS, variant=dialect)
    for step in (lambda: module.step(X[0]), lambda: cell(X[0])):
        (found,) = _said(step)
        assert SAID in str(found.message) and found.filename == __file__
        assert not _said(step)


@each_kind
def test_nothing_is_said_where_it_is_not_so(kind: Kind) -> None:
    packed = nn.utils.rnn.pack_padded_sequence(X, torch.tensor([4, 2]))
    dialect = next(d for n, d in TRAPPED.items() if KINDS[n] is kind)
    for options in ({}, {"variant": "none"}, {"variant": dialect, "recurrent_gradient_clip": 1.0}):
        for given in (X, packed, X[:, 0]):
            module = kind.layer(INPUTS, UNITS, **options)
            assert not _said(lambda m=module, x=given: m(x))
            assert not _said(lambda m=module: m.step(X[0]))
        assert not _said(lambda o=options: kind.cell(INPUTS, UNITS, **o)(X[0]))


@each_kind
def test_recipes_are_seen(kind: Kind) -> None:
    """Gains and biases count, not how they came."""
    module = kind.layer(INPUTS, UNITS)
    for name, parameter in module.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)
    # the norm of a simple cell's sum keeps the noise of its own shift
    said = [str(w.message) for w in _said(lambda: module(X))]
    assert [SAID in sentence for sentence in said] == [True] * (
        "shift_sum_l0" not in module._parameters
    )
    module = kind.layer(INPUTS, UNITS)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            nn.init.zeros_(parameter)
    (found,) = _said(lambda: module(X))
    assert "All gains of a norm are zero" in str(found.message)


@pytest.mark.parametrize("name", ["gain_hh_l0", "gain_ih_l1_reverse"])
def test_gains_of_any_layer_are_seen_beside_a_parametrised_matrix(name: str) -> None:
    module = KINDS["lstm"].layer(INPUTS, UNITS, num_layers=2, bidirectional=True)
    nn.init.zeros_(module.get_parameter(name))
    parametrizations.spectral_norm(module, "weight_hh_l0")
    parametrizations.spectral_norm(module, "weight_hh_l1_reverse")
    (found,) = _said(lambda: module(X))
    assert f"All gains of a norm are zero ({name})" in str(found.message)


def test_weights_that_cannot_be_read_are_left_alone() -> None:
    module = KINDS["rnn"].layer(INPUTS, UNITS, variant="tfa_lnsimplernn")
    values = dict(module.named_parameters())

    def loss(values: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(module, values, (X,))[0].sum()

    assert not _said(lambda: torch.func.grad(loss)(values))
    assert not _said(lambda: torch.compile(module, backend="eager", fullgraph=True)(X))
    empty = copy.deepcopy(module).to("meta")
    assert not _said(lambda: empty(X.to("meta")))
    (found,) = _said(lambda: module(X))  # so far nothing was looked at
    assert SAID in str(found.message)
    drawn = parametrizations.spectral_norm(
        KINDS["rnn"].layer(INPUTS, UNITS, variant="tfa_lnsimplernn"), "weight_hh_l0"
    )
    assert not _said(lambda: drawn(X))


@each_kind
def test_one_unit_is_said_at_construction(kind: Kind) -> None:
    for make in (kind.layer, kind.cell):
        found = _said(lambda make=make: make(INPUTS, 1))
        assert len(found) == (kind is not KINDS["gru"])  # whose norms are over all three gates
        assert all(w.filename == __file__ for w in found)
        assert all("A norm over one number gives its bias" in str(w.message) for w in found)
        assert not _said(lambda make=make: make(INPUTS, 1, variant="none"))
