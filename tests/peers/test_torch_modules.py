"""What PyTorch asks of its own recurrent modules, asked of ours.

The samples (arguments of constructors, inputs, calls that have to fail) are those that the
installed PyTorch tests `torch.nn.RNN`, `GRU`, `LSTM` and their cells with.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.testing import assert_close
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.common_utils import gradcheck, gradgradcheck, noncontiguous_like
from torch.utils._pytree import tree_leaves, tree_map

import lnrnn.torch

OURS: dict[type, Any] = {
    nn.LSTM: lnrnn.torch.LayerNormLSTM,
    nn.GRU: lnrnn.torch.LayerNormGRU,
    nn.RNN: lnrnn.torch.LayerNormRNN,
    nn.LSTMCell: lnrnn.torch.LayerNormLSTMCell,
    nn.GRUCell: lnrnn.torch.LayerNormGRUCell,
    nn.RNNCell: lnrnn.torch.LayerNormRNNCell,
}
INFOS: dict[type, Any] = {i.module_cls: i for i in module_db if i.module_cls in OURS}
every_module = pytest.mark.parametrize("stock", OURS, ids=lambda stock: stock.__name__)
every_variant = pytest.mark.parametrize("variant", ["none", None])
pytestmark = [every_module, every_variant]


class Sample(NamedTuple):
    """A module, made anew at each call of `make`, and the arguments of its forward."""

    make: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    reference: Any

    def run(self, module: Any) -> Any:
        return module(*self.arguments, **self.named)


def samples(
    stock: type, variant: str | None, dtype: torch.dtype = torch.float64
) -> Iterator[Sample]:
    """PyTorch's own, for our class."""
    torch.manual_seed(7)
    info = INFOS[stock]
    for given in info.module_inputs_func(info, "cpu", dtype, True, True):
        constructor, forward = given.constructor_input, given.forward_input

        def make(constructor: Any = constructor, **options: Any) -> Any:
            options = {"variant": variant, "dtype": dtype, **constructor.kwargs, **options}
            return OURS[stock](*constructor.args, **options)

        yield Sample(make, forward.args, forward.kwargs, given.reference_fn)


def leaves(value: Any) -> list[Tensor]:
    """The tensors of inputs or results, that of a PackedSequence among them."""
    flat = tree_leaves(value, is_leaf=lambda v: isinstance(v, PackedSequence))
    found = [v.data if isinstance(v, PackedSequence) else v for v in flat]
    return [v for v in found if isinstance(v, Tensor)]


def gradients(sample: Sample, module: Any) -> list[Tensor | None]:
    """Of a sum of the results with different factors, by inputs and parameters."""
    by = [t for t in leaves((sample.arguments, sample.named)) if t.requires_grad]
    results = leaves(sample.run(module))
    loss = sum((y * torch.linspace(0.5, 1.5, y.numel()).view_as(y)).sum() for y in results)
    assert isinstance(loss, Tensor)
    return list(torch.autograd.grad(loss, [*by, *module.parameters()], allow_unused=True))


def test_there_are_samples(stock: type, variant: str | None) -> None:
    assert len(list(samples(stock, variant))) >= 2
    assert all(leaves(s.arguments) for s in samples(stock, variant))


def test_without_batch(stock: type, variant: str | None) -> None:
    """What PyTorch compares with: the same with a batch of one."""
    for sample in samples(stock, variant):
        if any(isinstance(a, PackedSequence) for a in sample.arguments):
            continue  # it has a batch, and PyTorch's reference is not for it
        module = sample.make()
        found = sample.run(module)
        expected = sample.reference(module, *sample.arguments, **sample.named)
        assert_close(leaves(found), leaves(expected))
        assert all(y.dtype == torch.float64 for y in leaves(found))


def test_inputs_stay_as_they_are(stock: type, variant: str | None) -> None:
    for sample in samples(stock, variant):
        given = leaves(sample.arguments)
        before = [(t._version, t.detach().clone()) for t in given]
        gradients(sample, sample.make())
        for tensor, (version, value) in zip(given, before, strict=True):
            assert tensor._version == version and tensor.equal(value)


def test_device_and_dtype(stock: type, variant: str | None) -> None:
    for sample in samples(stock, variant):
        for device in ("cpu", "meta"):
            for dtype in (torch.float32, torch.float64):
                module = sample.make(device=device, dtype=dtype)
                for tensor in (*module.parameters(), *module.buffers()):
                    assert (tensor.device.type, tensor.dtype) == (device, dtype)
        given = list(sample.make().parameters())
        assert [p.shape for p in given] == [p.shape for p in module.parameters()]
        with torch.device("meta"):
            assert all(p.is_meta for p in sample.make().parameters())


def test_repr(stock: type, variant: str | None) -> None:
    for sample in samples(stock, variant):
        module = sample.make()
        assert str(module) == repr(module) and type(module).__name__ in repr(module)


COPIES: dict[str, Callable[[Any, Any], Any]] = {
    "pickle": lambda module, new: pickle.loads(pickle.dumps(module)),
    "deepcopy": lambda module, new: copy.deepcopy(module),
    "save": lambda module, new: loaded(module, weights_only=False),
    "state dict": lambda module, new: with_state(new, loaded(module.state_dict())),
}


def loaded(thing: Any, **options: Any) -> Any:
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, **options)


def with_state(module: Any, state: dict[str, Any]) -> Any:
    module.load_state_dict(state)
    return module


@pytest.mark.parametrize("way", COPIES)
def test_copies(way: str, stock: type, variant: str | None) -> None:
    for sample in samples(stock, variant):
        module, new = sample.make(), sample.make()
        expected = gradients(sample, module)
        other = COPIES[way](module, new)
        assert type(other) is type(module)
        assert not {id(p) for p in other.parameters()} & {id(p) for p in module.parameters()}
        assert list(other.state_dict()) == list(module.state_dict())
        assert_close(leaves(sample.run(other)), leaves(sample.run(module)), rtol=0, atol=0)
        assert_close(gradients(sample, other), expected, rtol=0, atol=0)


def test_what_is_not_contiguous(stock: type, variant: str | None) -> None:
    for sample in samples(stock, variant):
        if any(isinstance(a, PackedSequence) for a in sample.arguments):
            continue  # is made contiguous by PyTorch
        module = sample.make()
        expected, by_all = leaves(sample.run(module)), gradients(sample, module)

        def strided(value: Any) -> Any:
            return noncontiguous_like(value) if isinstance(value, Tensor) else value

        other = sample._replace(arguments=tree_map(strided, sample.arguments))
        assert_close(leaves(other.run(module)), expected)
        assert_close(gradients(other, module), by_all)
        for parameter in module.parameters():
            parameter.data = noncontiguous_like(parameter.data)
        assert_close(leaves(other.run(module)), expected)
        assert_close(gradients(other, module), by_all)


@pytest.mark.parametrize("check, every", [(gradcheck, 1), (gradgradcheck, 3)])
def test_derivatives(
    check: Callable[..., bool], every: int, stock: type, variant: str | None
) -> None:
    """By inputs, states and parameters, against differences, and those of a batch of them."""
    for sample in list(samples(stock, variant))[::every]:
        module = sample.make()
        inputs = [t for t in leaves((sample.arguments, sample.named)) if t.requires_grad]

        def function(*_: Tensor, sample: Any = sample, module: Any = module) -> tuple[Tensor, ...]:
            return tuple(leaves(sample.run(module)))

        assert check(function, (*inputs, *module.parameters()))


def test_training_and_evaluation(stock: type, variant: str | None) -> None:
    for sample in samples(stock, variant):
        module = sample.make()
        assert module.training
        expected = leaves(sample.run(module))
        assert module.eval() is module and not module.training
        assert_close(leaves(sample.run(module)), expected)
        assert module.train().training


@pytest.mark.parametrize("swap", [False, True], ids=["set", "swap"])
@pytest.mark.parametrize("with_gradients", [False, True])
def test_to(
    with_gradients: bool,
    swap: bool,
    stock: type,
    variant: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another dtype, memory format, and device, in the same parameters."""
    monkeypatch.setattr(torch.__future__, "_swap_module_params_on_conversion", swap)
    for sample in samples(stock, variant):
        module = sample.make()
        if with_gradients:
            torch.stack([y.sum() for y in leaves(sample.run(module))]).sum().backward()
        # without the graph, which would keep the parameters
        with torch.no_grad():
            expected = leaves(sample.run(module))
        before = list(module.parameters())
        module.to(torch.float32).to(memory_format=torch.channels_last).to("cpu")
        after = list(module.parameters())
        assert all(a is b for a, b in zip(after, before, strict=True))
        assert all(p.dtype == torch.float32 and p.requires_grad for p in after)
        assert all((p.grad is not None) == with_gradients for p in after)
        single = tree_map(
            lambda v: v.detach().float() if isinstance(v, Tensor) else v, sample.arguments
        )
        with torch.no_grad():
            found = leaves(sample._replace(arguments=single).run(module))
        assert_close(found, [y.float() for y in expected], rtol=1e-4, atol=1e-4)
        sample._replace(arguments=single).run(module)
        module.to(torch.float64)
        assert_close(leaves(sample.run(module)), expected, rtol=1e-4, atol=1e-4)
        shapes = [p.shape for p in module.to("meta").parameters()]
        assert all(p.is_meta for p in module.parameters())
        assert [p.shape for p in module.to_empty(device="cpu").parameters()] == shapes


def test_calls_that_fail(stock: type, variant: str | None) -> None:
    """With the class of error that PyTorch's own raise, or for the type of an argument."""
    info = INFOS[stock]
    given = info.module_error_inputs_func(info, "cpu", torch.float32, False, True)
    assert given
    for wrong in given:
        constructor = wrong.module_error_input.constructor_input
        forward = wrong.module_error_input.forward_input

        def run(constructor: Any = constructor, forward: Any = forward) -> None:
            module = OURS[stock](*constructor.args, variant=variant, **constructor.kwargs)
            if forward is not None:
                module(*forward.args, **forward.kwargs)

        with pytest.raises((wrong.error_type, TypeError)):
            run()
