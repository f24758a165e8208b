"""Copies and pickles of modules, however their weights are held, and whatever was done before."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.optim.swa_utils import AveragedModel
from torch_cases import Kind, assert_same, each_kind, flat

from lnrnn.torch import LayerNormGRUCell, LayerNormLSTM


class LowRank(nn.Module):
    """A weight with a trained product of two small matrices added to it."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.randn(rows, 2))
        self.right = nn.Parameter(torch.randn(2, columns))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.left @ self.right


def _low_rank(module: nn.Module, name: str) -> None:
    step = LowRank(*getattr(module, name).shape)
    parametrize.register_parametrization(module, name, step)


PARAMETRISATIONS: dict[str, Callable[[nn.Module, str], Any]] = {
    "low_rank": _low_rank,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}
MADE = pytest.mark.parametrize("made", ["layer", "cell"])
SIZES = (3, 5)


def _parametrised(kind: Kind, made: str, stock: bool, parametrise: Any) -> Any:
    suffix = "_l0" if made == "layer" else ""
    form = {"layer": kind.stock, "cell": kind.stock_cell} if stock else vars(kind)
    module = form[made](*SIZES)
    parametrise(module, f"weight_hh{suffix}")
    return module.eval()


def _check_copy(module: Any, other: Any) -> None:
    """Raise unless it is of the same kind, computes the same, and shares no weights."""
    x = torch.randn(2, *SIZES[:1])
    x = x if isinstance(module, nn.RNNCellBase) else x.unsqueeze(0)
    assert isinstance(other, nn.Module) and str(other) == str(module)
    assert_same(other(x), module(x), "float32")
    for name, parameter in other.named_parameters():
        assert parameter is not dict(module.named_parameters())[name]
    sum(t.sum() for t in flat(other(x))).backward()  # pyright: ignore
    assert all(p.grad is not None for p in other.parameters())
    assert all(p.grad is None for p in module.parameters())


@MADE
@each_kind
@pytest.mark.parametrize("parametrise", PARAMETRISATIONS.values(), ids=PARAMETRISATIONS)
def test_a_parametrised_module_is_copied(kind: Kind, made: str, parametrise: Any) -> None:
    module = _parametrised(kind, made, False, parametrise)
    _check_copy(module, copy.deepcopy(module))
    # and after a call, which may leave something behind
    _check_copy(module, copy.deepcopy(copy.deepcopy(module)))


@MADE
@each_kind
def test_a_parametrised_module_is_pickled_as_pytorchs_is(kind: Kind, made: str) -> None:
    for stock in (True, False):
        module = _parametrised(kind, made, stock, _low_rank)
        for attempt in (
            lambda m: pickle.dumps(m),
            lambda m: torch.save(m, io.BytesIO()),
            copy.copy,
        ):
            with pytest.raises(RuntimeError, match="only supported through state_dict"):
                attempt(module)


@each_kind
def test_an_average_of_a_parametrised_model(kind: Kind) -> None:
    model = nn.Sequential(_parametrised(kind, "layer", False, _low_rank))
    average = AveragedModel(model)
    for _ in range(2):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        average.update_parameters(model)
    mean = dict(average.module.named_parameters())  # of what the model had after each step
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(mean[name], parameter - 0.5)
    assert average(torch.ones(4, 2, 3))[0].shape == (4, 2, 5)


def _saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("made", [LayerNormLSTM, LayerNormGRUCell])
def test_a_module_is_copied_and_pickled_after_calls_with_hooks_and_compiled(made: Any) -> None:
    module = made(*SIZES).eval()
    x = torch.randn(*(4, 2, 3)[made is LayerNormGRUCell :])
    hook = CountCalls()
    module.register_forward_hook(hook)
    module(x)
    module.compile(backend="eager")
    module(x)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), _saved(module)):
        module.zero_grad()
        held: Any = next(iter(other._forward_hooks.values()))
        assert held.calls == 2
        _check_copy(module, other)


class CountCalls:
    """A hook with a state."""

    calls = 0

    def __call__(self, module: nn.Module, given: Any, result: Any) -> None:
        self.calls += 1


@MADE
@each_kind
def test_a_shallow_copy_shares_what_pytorchs_shares(kind: Kind, made: str) -> None:
    for form in (vars(kind)[made], kind.stock if made == "layer" else kind.stock_cell):
        module = form(*SIZES)
        other = copy.copy(module)
        assert other._parameters is module._parameters
        x = torch.randn(4, 2, 3) if made == "layer" else torch.randn(2, 3)
        assert_same(other(x), module(x), "float32")


def _answer(modules: Any, x: Tensor, answers: Any) -> None:
    answers.put([flat(module(x))[0].detach().numpy() for module in modules])


def test_modules_go_to_a_process_that_is_spawned() -> None:
    context = torch.multiprocessing.get_context("spawn")
    modules, x = [LayerNormLSTM(3, 5).eval(), LayerNormGRUCell(3, 5)], torch.randn(2, 3)
    expected = [flat(module(x))[0] for module in modules]
    answers = context.SimpleQueue()
    process = context.Process(target=_answer, args=(modules, x, answers))
    process.start()
    found = answers.get()
    process.join()
    assert process.exitcode == 0
    assert_same([torch.from_numpy(a) for a in found], expected, "float32")


@each_kind
def test_a_replica_of_data_parallel_computes_with_the_weights_it_is_given(kind: Kind) -> None:
    module = kind.layer(*SIZES, 2)
    replica = module._replicate_for_data_parallel()
    for name, parameter in module.named_parameters():
        setattr(replica, name, 2 * parameter)  # as the function that replicates sets copies
    x, doubled = torch.randn(4, 2, 3), copy.deepcopy(module)
    with torch.no_grad():
        for parameter in doubled.parameters():
            parameter.mul_(2)
    assert_same(replica(x), doubled(x), "float32")
    replica(x)[0].sum().backward()
    assert all(p.grad is not None for p in module.parameters())
