"""What constructors and calls take and refuse, and what modules show, beside PyTorch's own."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils.rnn import pack_sequence
from torch_cases import KINDS, Kind, assert_same, each_kind

from lnrnn.frontends.errors import ArgumentTypeError, TensorError
from lnrnn.torch import LayerNormGRU, LayerNormLSTM, LayerNormLSTMCell, LayerNormRNN

X = torch.zeros(7, 4, 3)
H = torch.zeros(1, 4, 5)


def raised(call: Callable[..., Any], *given: Any, **named: Any) -> Exception | None:
    """What a call raises; errors that PyTorch meets by accident are left out."""
    try:
        call(*given, **named)
    except (AttributeError, IndexError):
        return None
    except Exception as error:
        return error
    return None


def check_alike(
    stock: Callable[..., Any], ours: Callable[..., Any], *given: Any, **named: Any
) -> None:
    """Raise unless ours raises a ValueError that a clause around PyTorch's call catches too."""
    theirs, error = raised(stock, *given, **named), raised(ours, *given, **named)
    assert isinstance(error, ValueError), error
    for caught in (RuntimeError, TypeError):
        assert isinstance(error, caught) or not isinstance(theirs, caught), repr(theirs)
    assert "; got " in str(error) and str(error).endswith(".")


# what constructors refuse: arguments of PyTorch's layers, and of its cells, then ours
OF_LAYERS: dict[str, list[Any]] = {
    "num_layers": [0, -1, 1.5, 2.0, "2", None, True],
    "proj_size": [-1, 2.0, "2", None, True],
    "batch_first": ["False", 0, None, np.True_],
    "bidirectional": ["yes", "1", 2, -1, 1.0, None],
    "dropout": [True, False, 1.5, -0.1, "a", "0.5", None, [0.1], float("nan"), 0.5j],
}
OF_CELLS: dict[str, list[Any]] = {
    "input_size": [0, -1, 2.0, "3", None, True, np.float64(2), np.True_, torch.ones(2)],
    "hidden_size": [0, -1, 5.0, "5", None, True, torch.tensor(5.0)],
    "bias": [0, 1, "True", "relu", None, np.True_],
    "nonlinearity": ["swish", 3, True],
}
OURS: dict[str, list[Any]] = {
    "zoneout": [True, "0.1", None, 1.0, float("nan")],
    "zoneout_cell": [True, "0.1", None, -0.1],
    "weight_dropout": [True, "0.1", None, 1.0],
    "recurrent_dropout": [True, "0.1", None, 1.0],
    "recurrent_dropout_mode": ["all", 1, None],
    "recurrent_gradient_clip": [True, "1", 0.0, -1.0, float("nan")],
    "norm_epsilon": [True, "1e-5", -1e-5],
    "engine": ["fast", None, 1],
    "variant": [3, True],
}


@each_kind
def test_constructors_refuse_what_pytorchs_refuse(kind: Kind) -> None:
    for name, values in {**OF_LAYERS, **OF_CELLS, **OURS}.items():
        for value in values:
            given = {"input_size": 3, "hidden_size": 5, name: value}
            stock = dict if name in OURS else kind.stock
            check_alike(stock, kind.layer, **given)
            if name in OF_LAYERS or (name == "nonlinearity" and kind.stock is not nn.RNN):
                continue
            stock = dict if name in OURS else kind.stock_cell
            check_alike(stock, kind.cell, **given)


def test_types_are_told_in_a_sentence() -> None:
    with pytest.raises(TypeError, match=r"bias is True or False; got 'relu': pass a bool, by name"):
        LayerNormLSTM(3, 4, 1, "relu")  # pyright: ignore
    with pytest.raises(TypeError, match=r"batch_first is True or False; got 'False'"):
        LayerNormGRU(3, 4, batch_first="False")  # pyright: ignore
    with pytest.raises(ValueError, match=r"dropout is a number; got True: pass a float"):
        LayerNormGRU(3, 4, dropout=True)
    with pytest.raises(TypeError, match=r"num_layers is a positive integer; got 2.0: use for"):
        LayerNormGRU(3, 4, 2.0)  # pyright: ignore
    for error in (TensorError, ArgumentTypeError):
        assert issubclass(error, ValueError)


@each_kind
def test_sizes_are_integers_of_any_kind(kind: Kind) -> None:
    three, five, two = np.prod((3, 1)), np.int32(5), torch.tensor(2)
    options = {"proj_size": np.uint8(2)} if kind.stock is nn.LSTM else {}
    layer = kind.layer(three, five, two, **options)
    cell = kind.cell(three, five)
    for module in (layer, cell):
        sizes = [v for n, v in vars(module).items() if n.endswith("_size") or n == "num_layers"]
        assert {type(size) for size in sizes} == {int}
        assert (module.input_size, module.hidden_size) == (3, 5)
    assert layer.num_layers == 2 and layer(X)[0].shape == (7, 4, layer.output_size)
    assert str(layer) == str(kind.layer(3, 5, 2, **{n: int(v) for n, v in options.items()}))
    rates = kind.layer(3, 5, 2, dropout=np.float32(0.5), zoneout=np.float64(0.25), norm_epsilon=1)
    assert (type(rates.dropout), rates.zoneout, rates.variant.epsilon) == (float, 0.25, 1.0)


def test_bidirectional_is_a_flag_of_any_kind() -> None:
    for given in (1, 0, np.True_, np.False_, np.int64(1), True):
        layer = LayerNormLSTM(3, 5, bidirectional=given)  # pyright: ignore
        assert layer.bidirectional is bool(given)
        assert layer(X)[0].shape == nn.LSTM(3, 5, bidirectional=bool(given))(X)[0].shape


def states_of(kind: Kind, h: Any) -> Any:
    return (h, h) if kind.stock is nn.LSTM else h


def bad_calls(kind: Kind, cell: bool) -> list[tuple[Any, ...]]:
    """What neither a layer takes, nor a cell of the last step of the same."""
    x, h = (X[0], H[0]) if cell else (X, H)
    changed: list[Any] = [h[..., :4], h[..., :3, :], h[None], h.double(), h.long(), h.to("meta")]
    inputs = [x[None, None], x[..., :2], x.double(), x.half(), x.long(), x.to("meta")]
    calls = [(v,) for v in [*inputs, None, x.numpy(), x.tolist(), "x"]]
    calls += [(x, states_of(kind, v)) for v in [*changed, h.numpy(), "h"]]
    calls += [(x, h if kind.stock is nn.LSTM else (h, h)), (x, (h, h, h))]
    if kind.stock is nn.LSTM:  # one tensor, of which PyTorch takes the rows
        calls += [(x, torch.zeros(s)) for s in ((5,), (2, 5), (2, 4, 5), (2, 1, 5), (2, 1, 4, 5))]
    return calls


@each_kind
def test_calls_refuse_what_pytorchs_refuse(kind: Kind) -> None:
    stock, ours = kind.stock(3, 5), kind.layer(3, 5)
    states = states_of(kind, H)
    packed = [X[:, 0, :2], X[:, 0].double(), X[:, 0].long()]
    calls = [
        *bad_calls(kind, cell=False),
        *[(X[:0],), (X[:0, 0],), (X[0, 0],), (X[:, 0], states), (X, states_of(kind, H[0]))],
        *((pack_sequence([v]),) for v in packed),
        (pack_sequence([X[:, 0]]), states),
        *(
            (v, H.expand(2, 4, 5))
            for v in (X[:, 0], pack_sequence([X[:, 0]]))
            if kind.stock is nn.LSTM
        ),
    ]
    for given in calls:
        check_alike(stock, ours, *given)
    stock, ours = kind.stock_cell(3, 5), kind.cell(3, 5)
    for given in [*bad_calls(kind, cell=True), (X,), (X[0, 0], states_of(kind, H[0]))]:
        check_alike(stock, ours, *given)
    if kind.stock is nn.LSTM:
        check_alike(stock, ours, X[0, 0], H.expand(2, 4, 5).mT)


def test_all_of_ours_that_takes_tensors_raises_what_is_caught_as_pytorchs() -> None:
    gru = LayerNormGRU(3, 5)
    bare: Any = X[0].numpy()
    flags = torch.ones(7, 4, dtype=torch.bool)
    for call in (
        lambda: gru.step(X[0, :, :2]),
        lambda: gru.step(X[0].double()),
        lambda: gru(X, mask=flags.T),
        lambda: gru(X, reset=flags.float()),
        lambda: gru(X, lengths=torch.ones(3, dtype=torch.int64)),
        lambda: gru(X, lengths=[8, 1, 1, 1]),
        lambda: gru._function("step", torch.int32, X.device),
    ):
        with pytest.raises(RuntimeError, match="; got ") as found:
            call()
        assert isinstance(found.value, ValueError)
    for call in (
        lambda: gru(X, mask=flags.tolist()),
        lambda: gru.step(bare),
        *(lambda given=v: gru(X, lengths=given) for v in ("4567", [[1], [2, 3]], [None] * 4)),
    ):
        with pytest.raises(TypeError, match="; got ") as found:
            call()
        assert isinstance(found.value, ValueError)


SHOWN: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_bias": {"bias": False},
    "all": {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.5},
}


@each_kind
@pytest.mark.parametrize("options", SHOWN.values(), ids=SHOWN)
def test_layers_show_what_pytorchs_show(kind: Kind, options: dict[str, Any]) -> None:
    for more in ({}, {"proj_size": 2}) if kind.stock is nn.LSTM else ({},):
        stock = kind.stock(3, 5, **options, **more)
        # the default has a place for every bias; other parameters of it are not listed
        ours = kind.layer(3, 5, **options, **more).double()
        assert len(list(ours.parameters())) > len(list(stock.parameters()))
        assert isinstance(ours, nn.RNNBase)
        for name in (
            "mode",
            "_all_weights",
            "_flat_weights_names",
            *vars(type(stock)).get("x", ()),
        ):
            assert getattr(ours, name) == getattr(stock, name)
        for layer, other in zip(ours.all_weights, stock.all_weights, strict=True):
            assert [w.shape for w in layer] == [w.shape for w in other]
        flat_weights = [w for layer in ours.all_weights for w in layer]
        assert all(map(operator.is_, ours._flat_weights, flat_weights))
        listed = [getattr(ours, name) for name in ours._flat_weights_names]
        assert all(map(operator.is_, listed, flat_weights))
        public = {n for n in dir(stock) if not n.startswith("_")}
        assert public <= set(dir(ours))
        plain = (n for n, v in vars(stock).items() if isinstance(v, (bool, int, float, str)))
        assert all(getattr(ours, n) == getattr(stock, n) for n in plain)
        ours.flatten_parameters()


@each_kind
def test_checks_of_a_layer_are_pytorchs(kind: Kind) -> None:
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "batch_first": True}
    stock, ours = kind.stock(3, 5, **options), kind.layer(3, 5, **options)
    x, h, order = torch.zeros(4, 7, 3), torch.randn(4, 4, 5), torch.tensor([2, 0, 3, 1])
    hidden, sizes = states_of(kind, h), torch.tensor([4, 2])
    for name, given in (
        ("get_expected_hidden_size", (x, None)),
        ("get_expected_hidden_size", (x, sizes)),
        *([("get_expected_cell_size", (x, None))] if kind.stock is nn.LSTM else []),
        ("check_input", (x, None)),
        ("check_forward_args", (x, hidden, None)),
        ("check_hidden_size", (h, (4, 4, 5))),
    ):
        assert getattr(ours, name)(*given) == getattr(stock, name)(*given)
    assert_same(ours.permute_hidden(hidden, order), stock.permute_hidden(hidden, order))
    assert ours.permute_hidden(hidden, None) is hidden
    for name, given in (
        ("check_input", (x[..., :2], None)),
        ("check_forward_args", (x, states_of(kind, h[:3]), None)),
        ("check_hidden_size", (h, (4, 3, 5))),
    ):
        for module in (stock, ours):
            with pytest.raises(RuntimeError):
                getattr(module, name)(*given)


def test_the_lists_follow_what_is_done_to_the_parameters() -> None:
    lstm = LayerNormLSTM(3, 5, 2)
    before = lstm._flat_weights
    lstm.weight_hh_l1 = nn.Parameter(torch.zeros(20, 5))
    assert lstm._flat_weights[5] is lstm.weight_hh_l1 and lstm._flat_weights[0] is before[0]
    assert lstm.double().all_weights[1][1].dtype == torch.float64
    doubled = {name: 2 * value for name, value in lstm.state_dict().items()}
    x = X.double() + 1
    expected = functional_call(lstm, doubled, (x,))[0]
    # the recipe for the forget gate that goes by the lists
    for names in lstm._all_weights:
        for name in (n for n in names if "bias" in n):
            bias = getattr(lstm, name)
            bias.data[bias.size(0) // 4 : bias.size(0) // 2].fill_(1.0)
    assert (lstm.params(1)["bias"][5:10] == 2).all()
    lstm.load_state_dict(doubled)
    assert_same(lstm(x)[0], expected)


@each_kind
def test_a_weight_is_replaced_as_in_pytorchs_layers(kind: Kind) -> None:
    """As DropConnect is published for `nn.LSTM`: delete, set a plain tensor, mend the list."""
    for layer in (kind.stock(3, 5), kind.layer(3, 5)):
        expected = copy.deepcopy(layer)
        weight, other = layer.weight_hh_l0, nn.Parameter(layer.weight_hh_l0.detach() * 2)
        del layer.weight_hh_l0
        layer.register_parameter("weight_hh_l0_raw", nn.Parameter(weight.detach()))
        layer.weight_hh_l0 = 2 * layer.weight_hh_l0_raw
        layer._flat_weights = [getattr(layer, name) for name in layer._flat_weights_names]
        layer.flatten_parameters = lambda: None
        expected.weight_hh_l0 = other
        assert_same(layer(X + 1), expected(X + 1), "float32")
        layer(X + 1)[0].sum().backward()
        assert layer.weight_hh_l0_raw.grad.any()


@each_kind
@pytest.mark.parametrize("bias", [False, True])
def test_cells_show_what_pytorchs_show(kind: Kind, bias: bool) -> None:
    stock, ours = kind.stock_cell(3, 5, bias), kind.cell(3, 5, bias)
    assert isinstance(ours, nn.RNNCellBase)
    assert {n for n in dir(stock) if not n.startswith("_")} <= set(dir(ours))
    for name in ("input_size", "hidden_size", "bias", "nonlinearity"):
        assert getattr(ours, name, None) == getattr(stock, name, None)
    assert (ours.bias_ih is None, ours.bias_hh is None) == (not bias, not bias)
    assert set(stock.state_dict()) <= set(ours.state_dict())


def test_the_nonlinearity_is_that_which_is_computed() -> None:
    for made in (KINDS["rnn"].layer, KINDS["rnn"].cell):
        assert made(3, 4).nonlinearity == "tanh"
        assert str(made(3, 4)) == f"{made.__name__}(3, 4)"
        relu = made(3, 4, nonlinearity="relu")
        assert relu.nonlinearity == "relu" and "nonlinearity='relu'" in str(relu)
        variant = made(3, 4, nonlinearity="sigmoid").variant
        of_variant = made(3, 4, variant=variant)
        assert of_variant.nonlinearity == "sigmoid"
        assert "nonlinearity" not in str(of_variant).split("variant=")[0]
        assert made(3, 4, variant=variant, nonlinearity="relu").nonlinearity == "relu"
    assert LayerNormRNN(3, 4, nonlinearity="relu").mode == "RNN_RELU"
    assert not hasattr(LayerNormLSTM(3, 4), "nonlinearity")
    assert not hasattr(LayerNormLSTMCell(3, 4), "nonlinearity")
