"""What one does with a module: save, copy, move, parametrise, cast, checkpoint, transform."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, stack_module_state, vmap
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint
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
    randomized,
    states_of,
)

from lnrnn.engines.native import torch_op
from lnrnn.testing import garbage_of
from lnrnn.torch import LayerNormLSTM

ALL = {"num_layers": 2, "bidirectional": True}


@each_kind
def test_state_dicts_save_and_load_strictly(kind: Kind) -> None:
    module, other = made(kind, **ALL), made(kind, **ALL)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    nn.init.zeros_(other.weight_ih_l0)
    assert str(other.load_state_dict(torch.load(file, weights_only=True))) == (
        "<All keys matched successfully>"
    )
    x = draw(STEPS, BATCH, INPUTS)
    assert_same(other(x), module(x))


@each_kind
def test_copies_and_pickles(kind: Kind) -> None:
    module = made(kind, **ALL, zoneout=0.2).eval()
    x = draw(STEPS, BATCH, INPUTS)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert_same(other(x), module(x))
        assert str(other) == str(module)
        nn.init.zeros_(other.weight_ih_l0)
        assert module.weight_ih_l0.any()


def test_a_pickle_loads_in_a_fresh_process(tmp_path) -> None:
    module = LayerNormLSTM(INPUTS, UNITS, variant="tfa_lnlstm")
    torch.save({"module": module, "y": module(torch.ones(2, 1, INPUTS))[0]}, tmp_path / "file.pt")
    program = (
        "import sys, torch\n"
        "found = torch.load(sys.argv[1], weights_only=False)\n"
        f"y = found['module'](torch.ones(2, 1, {INPUTS}))[0]\n"
        "assert torch.equal(y, found['y'])\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "file.pt")], check=True)


@each_kind
def test_meta_device(kind: Kind) -> None:
    module = kind.layer(INPUTS, UNITS, **ALL, device="meta")
    y, _ = module(torch.empty(STEPS, BATCH, INPUTS, device="meta"))
    assert y.is_meta and y.shape == (STEPS, BATCH, 2 * UNITS)
    real = module.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in real.parameters():
            parameter.fill_(torch.nan)
    real.reset_parameters()
    assert all(p.isfinite().all() for p in flat(real(torch.ones(STEPS, BATCH, INPUTS))))
    skipped = nn.utils.skip_init(kind.layer, INPUTS, UNITS)
    assert list(skipped.state_dict()) == list(kind.layer(INPUTS, UNITS).state_dict())


@each_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(kind: Kind, dtype: torch.dtype) -> None:
    module = made(kind, bidirectional=True)
    x, hx = draw(STEPS, BATCH, INPUTS), states_of(module)
    expected = module(x, hx)
    module.to(dtype)
    hx = [s.to(dtype) for s in flat(hx)]
    found = module(x.to(dtype), tuple(hx) if len(hx) > 1 else hx[0])
    assert {t.dtype for t in flat(found)} == {dtype}
    assert_same(found, expected, str(dtype).removeprefix("torch."))
    built = kind.layer(INPUTS, UNITS, dtype=dtype)
    assert {p.dtype for p in built.parameters()} == {dtype}


@each_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(kind: Kind, dtype: torch.dtype) -> None:
    module = made(kind, **ALL).float()
    x, hx = torch.randn(STEPS, BATCH, INPUTS), states_of(module)
    hx = [s.float() for s in flat(hx)]
    hx = tuple(hx) if len(hx) > 1 else hx[0]
    expected = module(x, hx)
    name, parameters = str(dtype).removeprefix("torch."), dict(module.named_parameters())
    with torch.autocast("cpu", dtype):
        found = module(x, hx)
        assert module(x)[0].dtype == dtype
        # what the layer before hands over is in this dtype already
        assert_same(module(x.to(dtype), hx), expected, name)
    assert {t.dtype for t in flat(found)} == {dtype}
    assert_same(found, expected, name)
    slopes = gradients(found, parameters)
    assert {g.dtype for g in slopes} == {torch.float32}
    assert_same(slopes, gradients(expected, parameters), name, gradient=True)


def test_autocast_of_a_cell_and_a_step() -> None:
    module = LayerNormLSTM(INPUTS, UNITS)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = module.step(torch.ones(BATCH, INPUTS))
    assert y.dtype == torch.bfloat16


@each_kind
def test_frozen_parts(kind: Kind) -> None:
    module = made(kind)
    module.weight_ih_l0.requires_grad_(False)
    module(draw(STEPS, BATCH, INPUTS))[0].sum().backward()
    assert module.weight_ih_l0.grad is None and module.weight_hh_l0.grad.any()


@each_kind
def test_parametrizations(kind: Kind) -> None:
    module, plain = made(kind), made(kind)
    x = draw(STEPS, BATCH, INPUTS)
    parametrizations.weight_norm(module, "weight_hh_l0")
    assert_same(module(x), plain(x))
    with torch.no_grad():
        module.parametrizations.weight_hh_l0.original0.mul_(2)
        plain.weight_hh_l0.mul_(2)
        # a norm on the recurrent side forgets the scale, a sum of the two does not
        plain.weight_ih_l0.mul_(3)
    parametrize.register_parametrization(module, "weight_ih_l0", _Triple())
    assert_same(module(x), plain(x))
    module(x)[0].sum().backward()
    assert module.parametrizations.weight_hh_l0.original1.grad.any()


class _Triple(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 3 * weight


class _Signed(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return -weight

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return -weight


@each_kind
@pytest.mark.parametrize("variant", [None, "none"])
def test_parametrised_weights_are_set_through_the_right_inverse(kind: Kind, variant: Any) -> None:
    module = made(kind, variant=variant)
    parametrizations.weight_norm(module, "weight_ih_l0")
    parametrize.register_parametrization(module, "weight_hh_l0", _Signed())
    wanted = randomized(kind.layer(INPUTS, UNITS, variant=variant).double(), seed=8).params()
    module.load_params(wanted)
    for name, value in module.params().items():
        assert_same(torch.tensor(value), torch.tensor(wanted[name]))
    x = draw(STEPS, BATCH, INPUTS)
    before = module(x)[0]
    torch.manual_seed(3)
    module.reset_parameters()
    plain = made(kind, variant=variant)
    torch.manual_seed(3)
    plain.reset_parameters()
    assert not torch.allclose(module(x)[0], before)
    assert_same(module(x), plain(x))


def test_weights_that_cannot_be_set_are_named() -> None:
    module = LayerNormLSTM(INPUTS, UNITS)
    parametrize.register_parametrization(module, "weight_hh_l0", _Triple())
    before = module.params()
    other = {name: value + 1 for name, value in before.items()}
    with pytest.raises(ValueError, match=r"got weight_hh_l0 with _Triple, which has none"):
        module.load_params(other)
    with pytest.raises(ValueError, match="through the right inverse"):
        module.reset_parameters()
    assert all((value == before[name]).all() for name, value in module.params().items())
    pruned = prune.random_unstructured(LayerNormLSTM(INPUTS, UNITS), "weight_ih_l0", 0.5)
    with pytest.raises(ValueError, match="got weight_ih_l0, which a hook computes"):
        pruned.load_params(other)


@each_kind
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_draws_the_same_masks_again(kind: Kind, use_reentrant: bool) -> None:
    module = made(kind, num_layers=2, zoneout=0.3, recurrent_dropout=0.2, dropout=0.2)
    x, parameters = draw(STEPS, BATCH, INPUTS).requires_grad_(), list(module.parameters())
    slopes = []
    for run in (module, lambda x: checkpoint(module, x, use_reentrant=use_reentrant)):
        module.zero_grad()
        x.grad = None
        torch.manual_seed(1)
        run(x)[0].square().sum().backward()
        slopes.append([x.grad, *(p.grad for p in parameters)])
    assert_same(slopes[1], slopes[0], gradient=True)


@each_kind
def test_functional_call_and_vmap_over_models(kind: Kind) -> None:
    models = [randomized_again(kind, seed) for seed in range(3)]
    params, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")
    x = draw(STEPS, BATCH, INPUTS)

    def call(p: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(base, (p, b), (x,))[0]

    found = vmap(call)(params, buffers)
    assert_same(list(found), [model(x)[0] for model in models])

    def loss(p: dict[str, torch.Tensor], sample: torch.Tensor) -> torch.Tensor:
        return functional_call(models[0], p, (sample,))[0].square().sum()

    own = {n: p.detach() for n, p in models[0].named_parameters()}
    per_sample = vmap(grad(loss), in_dims=(None, 1))(own, x)
    for b in range(BATCH):
        expected = grad(loss)(own, x[:, b])
        assert_same([per_sample[n][b] for n in own], [expected[n] for n in own], gradient=True)


def randomized_again(kind: Kind, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return kind.layer(INPUTS, UNITS, dtype=torch.float64, bidirectional=True)


@each_kind
def test_forward_derivatives(kind: Kind) -> None:
    """Along a direction, against the gradient of backpropagation."""
    module = made(kind, num_layers=2)
    x, direction = draw(STEPS, BATCH, INPUTS).requires_grad_(), draw(STEPS, BATCH, INPUTS)
    weight = draw(STEPS, BATCH, UNITS)
    tangent = jvp(lambda v: module(v)[0], (x,), (direction,))[1]
    (slope,) = torch.autograd.grad((module(x)[0] * weight).sum(), x)
    assert_same((weight * tangent).sum(), (slope * direction).sum(), gradient=True)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.detach(), direction)
        assert_same(forward_ad.unpack_dual(module(dual)[0]).tangent, tangent)


@each_kind
def test_double_backward(kind: Kind) -> None:
    """A gradient penalty has the gradient that central differences give."""
    module = made(kind, bidirectional=True)
    x = draw(3, 2, INPUTS).requires_grad_()

    def slope(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        y, _ = functional_call(module, {"weight_hh_l0": weight}, (x,))
        return torch.autograd.grad(y.square().sum(), x, create_graph=True)[0].square().sum()

    weight = module.weight_hh_l0.detach().requires_grad_()
    assert torch.autograd.gradcheck(slope, (x, weight))


@each_kind
def test_gradients_in_evaluation_and_second_use(kind: Kind) -> None:
    module = made(kind).eval()
    x = draw(STEPS, BATCH, INPUTS)
    first = gradients(module(x), dict(module.named_parameters()))
    assert_same(gradients(module(x), dict(module.named_parameters())), first)


def test_repr_shows_what_was_given() -> None:
    assert str(LayerNormLSTM(3, 5)) == "LayerNormLSTM(3, 5)"
    shown = str(LayerNormLSTM(3, 5, 2, bias=False, variant="tfa_lnlstm", zoneout=0.1))
    assert (
        shown == "LayerNormLSTM(3, 5, num_layers=2, bias=False, zoneout=0.1, variant='tfa_lnlstm')"
    )


def test_engine_report() -> None:
    from lnrnn.engines.select import Yes

    assert LayerNormLSTM(3, 5).engine_report()["portable"] == Yes()


def test_scripting_is_refused_by_pytorch_itself() -> None:
    """There is no torch.jit.script; torch.export takes its place."""
    with (
        pytest.warns(DeprecationWarning, match="torch.export"),
        pytest.raises(Exception, match="keyword-only arguments"),
    ):
        torch.jit.script(LayerNormLSTM(3, 5))


GARBAGE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "native": ({"engine": "native", "recurrent_gradient_clip": 1.0}, {}),
    "portable": ({"engine": "portable", "recurrent_gradient_clip": 1.0}, {}),
    "masks": ({"engine": "portable", "zoneout": 0.2, "weight_dropout": 0.1}, {"lengths": [3, 1]}),
}


@each_kind
@pytest.mark.parametrize("case", [*GARBAGE, "autocast", "cell", "step", "packed"])
def test_no_call_leaves_garbage(kind: Kind, case: str) -> None:
    """All that a call has made is gone when its results are, without the cyclic collector."""
    options, flags = GARBAGE.get(case, ({}, {}))
    module = (kind.cell if case == "cell" else kind.layer)(INPUTS, UNITS, **options)
    x: Any = torch.randn(3, 2, INPUTS)
    x = x[0] if case in ("cell", "step") else x
    x = pack_padded_sequence(x, [3, 1]) if case == "packed" else x

    def train() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
            found = module.step(x) if case == "step" else module(x, **flags)
        found = [found[0].data, found[1]] if case == "packed" else found
        torch.stack([t.sum() for t in flat(found)]).sum().backward()

    assert not garbage_of(train)


@each_kind
@pytest.mark.parametrize("engine", ["native", "portable"])
def test_parameters_may_be_swapped_after_training(kind: Kind, engine: str) -> None:
    """Which PyTorch refuses while anything else refers to them."""
    modules = kind.layer(INPUTS, UNITS, engine=engine), kind.cell(INPUTS, UNITS)
    torch.__future__.set_swap_module_params_on_conversion(True)
    gc.disable()
    try:
        for module, x in zip(
            modules, (torch.randn(3, 2, INPUTS), torch.randn(2, INPUTS)), strict=True
        ):
            torch.stack([t.sum() for t in flat(module(x))]).sum().backward()
            module.to(torch.float64)
            assert {p.dtype for p in module.parameters()} == {torch.float64}
    finally:
        gc.enable()
        torch.__future__.set_swap_module_params_on_conversion(False)


@each_kind
@pytest.mark.parametrize("case", ["native", "operator", "portable", "batch_first", "cell"])
def test_results_may_be_changed_in_place(
    kind: Kind, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of stock layers; the gradients are those of a program that makes new tensors."""
    if case == "operator":
        monkeypatch.setattr(torch_op.recurrence, "eager", lambda tensors: False)
    options: dict[str, Any] = {"engine": "portable"} if case == "portable" else {}
    options |= {"batch_first": True} if case == "batch_first" else {}
    module = (kind.cell if case == "cell" else kind.layer)(INPUTS, UNITS, **options)
    x, found = torch.randn(*((2,) if case == "cell" else (3, 2)), INPUTS), []
    for in_place in (False, True):
        module.zero_grad()
        given = x.clone().requires_grad_()
        results = flat(module(given))
        # h of a simple cell is what its tanh keeps, in PyTorch's own cell as well
        first = int(case == "cell" and kind is KINDS["rnn"])
        for i, t in enumerate(results[first:], first):
            results[i] = torch.relu_(t.mul_(2).add_(0.1)) if in_place else torch.relu(2 * t + 0.1)
        torch.stack([t.square().sum() for t in results]).sum().backward()
        found.append([given.grad, *(p.grad for p in module.parameters())])
    assert_same(found[1], found[0], "float32", gradient=True)
