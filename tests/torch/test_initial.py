"""Initial values: of dialects as published, of the default so that gradients stay finite."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch_cases import KINDS, Kind, each_kind

import lnrnn.jax
from lnrnn import dialects
from lnrnn.dialects import DIALECTS
from lnrnn.frontends import initial
from lnrnn.params import gates_of
from lnrnn.torch import LayerNormLSTM

CLASSES = {"simple": "rnn", "indrnn": "rnn", "lstm": "lstm", "gru": "gru", "ligru": "gru"}


@pytest.mark.parametrize("steps", [16, 300])
@each_kind
def test_gradients_pass_leading_zeros(kind: Kind, steps: int) -> None:
    module = kind.layer(8, 64)
    x = torch.cat([torch.zeros(steps, 2, 8), torch.randn(10, 2, 8)])
    module(x)[0][-1].square().sum().backward()
    total = torch.cat([p.grad.flatten() for p in module.parameters()]).norm()
    assert total.isfinite() and total < 1e3


def test_ones_would_not_pass_them() -> None:
    module: Any = LayerNormLSTM(8, 64, variant="haste_lnlstm")
    x = torch.cat([torch.zeros(16, 2, 8), torch.randn(10, 2, 8)])
    module(x)[0][-1].square().sum().backward()
    assert module.weight_hh_l0.grad is not None
    assert not module.weight_hh_l0.grad.norm() < 1e6


@each_kind
def test_defaults(kind: Kind) -> None:
    module = kind.layer(40, 50)
    params = module.params()
    present = initial.RECURRENT_GAINS.keys() & params.keys()
    assert present and all((params[n] == initial.RECURRENT_GAINS[n]).all() for n in present)
    units = params["recurrent_kernel"].shape[0]
    product = params["recurrent_kernel"] @ params["recurrent_kernel"].T
    assert abs(product - torch.eye(units).numpy()).max() < 1e-5
    bound = math.sqrt(6 / sum(params["kernel"].shape))
    assert 0.95 * bound < abs(params["kernel"]).max() <= bound
    assert module.bias_ih_l0.std() > 0.05


def test_the_forget_gate_starts_open() -> None:
    module: Any = LayerNormLSTM(4, 6)
    assert (module.bias_ih_l0[6:12] + module.bias_hh_l0[6:12] == 1).all()
    assert not LayerNormLSTM(4, 6, bias=False).state_dict().keys() & {"bias_ih_l0", "bias_hh_l0"}


@pytest.mark.parametrize("name", DIALECTS)
def test_dialects_start_as_published(name: str) -> None:
    dialect = dialects.get(name)
    kind = KINDS[CLASSES[dialect.variant.cell]]
    proj_size = 20 if dialect.variant.projection else 0
    module = kind.layer(30, 40, proj_size=proj_size, variant=name)
    params = module.params()
    assert set(params) == set(dialect.initializers)
    for weight, given in dialect.initializers.items():
        value, forget = params[weight], dialect.forget_bias_init.get(weight)
        if forget is not None:
            gates = gates_of(dialect.variant, weight)
            blocks = value.reshape(len(gates), -1)
            assert (blocks[gates.index("f")] == forget).all()
            value = blocks[[g != "f" for g in gates]]
        constant = {"zeros": 0.0, "ones": 1.0}.get(str(given), given)
        if isinstance(constant, (int, float)):
            assert (value == constant).all()
        else:
            assert value.std() > 0.01 and abs(value.mean()) < 0.25 * value.std()
        if isinstance(given, dict) and given["class_name"] == "VarianceScaling":
            config, fans = given["config"], (params[weight].shape[0], params[weight].shape[-1])
            if weight in dialect.per_gate:
                fans = (fans[0], fans[1] // len(dialect.variant.gates))
            n = {"fan_in": fans[0], "fan_out": fans[1], "fan_avg": sum(fans) / 2}[config["mode"]]
            assert abs(value.std() / math.sqrt(config["scale"] / n) - 1) < 0.2


def check_draws(name: str, params: Any) -> None:
    """Kernels (60, G 40) and U have the fans and the orthogonality of what is drawn as one."""
    dialect = dialects.get(name)
    gates = dialect.variant.gates
    groups = [g for g in gates if g not in dialect.drawn_together]
    for group in ("".join(g for g in gates if g in dialect.drawn_together), *groups):
        columns = [k * 40 + i for k, g in enumerate(gates) if g in group for i in range(40)]
        kernel, recurrent = (params[n][:, columns] for n in ("kernel", "recurrent_kernel"))
        assert kernel.std() == pytest.approx(math.sqrt(2 / (60 + kernel.shape[1])), rel=0.05)
        if dialect.initializers["recurrent_kernel"] == "orthogonal":
            assert np.allclose(recurrent @ recurrent.T, np.eye(40), atol=1e-5)
        else:
            assert recurrent.std() == pytest.approx(
                math.sqrt(2 / (40 + recurrent.shape[1])), rel=0.05
            )


TOGETHER = sorted(n for n in DIALECTS if dialects.get(n).drawn_together)


@pytest.mark.parametrize("name", TOGETHER)
def test_gates_that_the_original_draws_as_one(name: str) -> None:
    variant = dialects.get(name).variant
    kind = KINDS[CLASSES[variant.cell]]
    torch.manual_seed(0)
    check_draws(name, kind.layer(60, 40, variant=name).params())
    drawn = lnrnn.jax.init(jax.random.key(0), name, 60, 40)
    check_draws(name, {n: np.asarray(p) for n, p in drawn.items()})


@each_kind
def test_two_layers_differ(kind: Kind) -> None:
    module = kind.layer(5, 5, 2, bidirectional=False)
    assert not torch.equal(module.weight_hh_l0, module.weight_hh_l1)
