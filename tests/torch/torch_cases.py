"""The three modules as a table, and the helpers that most tests of the front end need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lnrnn.params import Sizes
from lnrnn.testing import assert_close, random_params
from lnrnn.torch import (
    LayerNormGRU,
    LayerNormGRUCell,
    LayerNormLSTM,
    LayerNormLSTMCell,
    LayerNormRNN,
    LayerNormRNNCell,
)

STEPS, BATCH, INPUTS, UNITS = 7, 4, 3, 5


@dataclass(frozen=True)
class Kind:
    """One of the three modules, its cell, and those of PyTorch that they replace."""

    layer: Any
    cell: Any
    stock: Any
    stock_cell: Any
    dialect: str


KINDS = {
    "lstm": Kind(LayerNormLSTM, LayerNormLSTMCell, nn.LSTM, nn.LSTMCell, "tfa_lnlstm"),
    "gru": Kind(LayerNormGRU, LayerNormGRUCell, nn.GRU, nn.GRUCell, "dreamerv2_gru"),
    "rnn": Kind(LayerNormRNN, LayerNormRNNCell, nn.RNN, nn.RNNCell, "tfa_lnsimplernn"),
}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def made(kind: Kind, *sizes: int, **options: Any) -> Any:
    """A layer in float64 whose weights are random without any symmetry."""
    options.setdefault("dtype", torch.float64)
    return randomized(kind.layer(*(sizes or (INPUTS, UNITS)), **options))


def randomized(module: Any, seed: int = 7) -> Any:
    """Give a layer random weights, gains about one."""
    rng = np.random.default_rng(seed)
    for suffix in module._stems:
        layer, reverse = int(suffix.split("_")[1][1:]), suffix.endswith("_reverse")
        inputs = getattr(module, f"weight_ih{suffix}").shape[1]
        sizes = Sizes(inputs, module.hidden_size, module.output_size)
        params = random_params(module.variant, sizes, rng, module.learn_initial_state)
        module.load_params(params, layer, reverse)
    return module


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype)


def flat(nested: Any) -> list[Tensor]:
    """The tensors of outputs and states, in order."""
    if isinstance(nested, Tensor):
        return [nested]
    return [tensor for part in nested if part is not None for tensor in flat(part)]


def assert_same(actual: Any, expected: Any, dtype: str = "float64", gradient: bool = False) -> None:
    """Raise unless two nests of tensors agree to the tolerance of a dtype."""
    a, e = flat(actual), flat(expected)
    assert len(a) == len(e)
    for i, (one, other) in enumerate(zip(a, e, strict=True)):
        left, right = (t.detach().cpu().double().numpy() for t in (one, other))
        assert_close(f"tensor {i}", left, right, dtype, gradient)


def gradients(outputs: Any, parameters: Mapping[str, Tensor], *inputs: Tensor) -> list[Tensor]:
    """Gradients of a loss without symmetry by inputs, then by parameters in the order of names."""
    loss = torch.zeros((), dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    for output in flat(outputs):
        weight = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        loss = loss + (output * weight).sum()
    wanted = [*inputs, *(parameters[n] for n in sorted(parameters))]
    return list(torch.autograd.grad(loss, wanted))


def states_of(module: Any, batch: int = BATCH, make: Callable[..., Tensor] = draw) -> Any:
    """Random initial states in the form of `hx`."""
    count = len(module._stems)
    h = 0.5 * make(count, batch, module.output_size)
    if len(module.variant.states) == 1:
        return h
    return h, make(count, batch, module.hidden_size)
