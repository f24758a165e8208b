"""`torch.fx`: a call of a recurrent module is one node, and what a graph computes is the same."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.fx.proxy import TraceError
from torch_cases import KINDS, Kind, assert_same, draw, each_kind, gradients

from lnrnn.torch import LayerNormGRU, LayerNormLSTM


class Model(nn.Module):
    """A layer that is called with all arguments, a cell, and a layer that is stepped."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        options: dict[str, Any] = {"dtype": torch.float64, "zoneout": 0.3}
        self.layer = kind.layer(3, 4, 2, bidirectional=True, **options)
        self.cell = kind.cell(8, 5, **options)
        self.head = nn.Sequential(nn.Linear(5, 3, dtype=torch.float64), nn.ReLU())
        self.streams = nn.ModuleDict({"a": kind.layer(3, 4, **options)})

    def forward(self, x: Tensor, lengths: Tensor, mask: Tensor, reset: Tensor) -> Any:
        y, states = self.layer(x, lengths=lengths, mask=mask, reset=reset)
        new = self.cell(y[-1])
        new = self.cell(y[0], hx=new)
        h = new[0] if self.cell.variant.cell == "lstm" else new
        z = self.head(h)
        stream: Any = self.streams["a"]
        first, state = stream.step(z)
        second, state = stream.step(input=z, hx=state, reset=reset[0], reset_state=state)
        return first + second, states, state


def arguments() -> tuple[Tensor, ...]:
    mask, reset = torch.rand(6, 2) > 0.2, torch.rand(6, 2) > 0.8
    return draw(6, 2, 3), torch.tensor([6, 3]), mask, reset


@each_kind
def test_a_module_is_a_leaf_that_computes_the_same(kind: Kind) -> None:
    model = Model(kind).eval()
    traced = fx.symbolic_trace(model)
    traced.graph.lint()
    calls = [n.target for n in traced.graph.nodes if n.op in ("call_module", "call_method")]
    assert calls == ["layer", "cell", "cell", "head.0", "head.1", "step", "step"]
    given = arguments()
    expected = model(*given)
    for found in (traced, copy.deepcopy(traced)):
        assert_same(found(*given), expected)
        by_name = dict(model.named_parameters()), dict(found.named_parameters())
        wanted, got = (
            gradients(m(*given), p) for m, p in zip((model, found), by_name, strict=True)
        )
        assert_same(got, wanted, gradient=True)
    assert_same(fx.Interpreter(traced).run(*given), expected)
    # the modules are those of the model, so that training acts on both, and so does its mode
    assert traced.layer is model.layer
    assert any(
        not torch.equal(a, b) for a, b in zip(traced.train()(*given)[0], expected[0], strict=True)
    )


def test_calls_are_recorded_as_they_are_of_pytorch() -> None:
    class Called(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
            y, _ = self.layer(x)
            y, (h, c) = self.layer(y, (h, c))
            return self.layer(torch.zeros(2, 1, 4), (h, c))

    stock, ours = (fx.symbolic_trace(Called(made(4, 4))).code for made in (nn.LSTM, LayerNormLSTM))
    assert ours == stock


def test_passes_see_a_leaf() -> None:
    model = nn.Sequential(nn.Linear(3, 3), LayerNormGRU(3, 4))
    traced = fx.symbolic_trace(model)
    traced = pickle.loads(pickle.dumps(traced))
    ShapeProp(traced).propagate(torch.zeros(5, 2, 3))
    node = next(n for n in traced.graph.nodes if n.target == "1")
    assert node.meta["tensor_meta"][0].shape == (5, 2, 4)


def test_fx_quantisation_leaves_the_recurrence_and_takes_what_is_around() -> None:
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.lstm, self.after = (
                nn.Linear(3, 3),
                LayerNormLSTM(3, 4),
                nn.Linear(4, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.lstm(self.before(x))
            return self.after(y)

    model, x = Quantised().eval(), torch.randn(5, 2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.ao moves to another package
        from torch.ao.quantization import get_default_qconfig_mapping, quantize_dynamic
        from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

        prepared = prepare_fx(copy.deepcopy(model), get_default_qconfig_mapping("x86"), (x,))
        prepared(x)
        static, dynamic = convert_fx(prepared), quantize_dynamic(copy.deepcopy(model))
    for found in (static, dynamic):
        assert type(found.lstm) is LayerNormLSTM
        assert not isinstance(found.after, nn.Linear)
        assert (found(x) - model(x)).abs().max() < 0.2


class Derived(LayerNormLSTM):
    """A class of the user's with a call of its own."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:  # pyright: ignore
        return super().forward(2 * input, hx)[0]


def test_what_would_run_twice_is_refused() -> None:
    hooked = LayerNormLSTM(3, 4)
    hooked.register_forward_hook(lambda module, given, result: result)
    for layer, message in (
        (Derived(3, 4), "it within Derived.forward: make Derived a leaf"),
        (hooked, "one with forward hooks"),
    ):
        with pytest.raises(TraceError, match=message):
            fx.symbolic_trace(nn.Sequential(layer))
    with pytest.raises(TraceError, match="the module itself as what to trace"):
        fx.symbolic_trace(KINDS["gru"].cell(3, 4))

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, nn.RNNBase) or super().is_leaf_module(m, module_qualified_name)

    model, x = nn.Sequential(Derived(3, 4)), torch.randn(5, 2, 3)
    assert_same(fx.GraphModule(model, Tracer().trace(model))(x), model(x), "float32")
