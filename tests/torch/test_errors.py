"""What is refused, in a sentence with the rule, the values and what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from torch_cases import KINDS

from lnrnn import Norm, Variant
from lnrnn.torch import (
    LayerNormGRU,
    LayerNormGRUCell,
    LayerNormLSTM,
    LayerNormLSTMCell,
    LayerNormRNN,
)

LSTM = LayerNormLSTM(3, 5)
X = torch.zeros(7, 4, 3)
H, C = torch.zeros(1, 4, 5), torch.zeros(1, 4, 5)
ALL = torch.ones(7, 4, dtype=torch.bool)

CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "rank": ((X[None],), {}, r"axes \(T, I\) or \(T, B, I\); got the shape \(1, 7, 4, 3\)"),
    "vector": ((X[0, 0],), {}, r"got the shape \(3,\)"),
    "features": ((X[..., :2],), {}, r"input_size=3; got the shape \(7, 4, 2\)"),
    "no steps": ((X[:0],), {}, r"one step or more; got input of the shape \(0, 4, 3\)"),
    "dtype": ((X.double(),), {}, r"dtype of the weights; got torch.float64 and torch.float32"),
    "device": ((X.to("meta"),), {}, r"device of the weights; got meta and cpu"),
    "one state": ((X, H), {}, r"hx is \(h, c\); got Tensor: pass"),
    "three states": ((X, (H, C, C)), {}, r"hx is \(h, c\); got \(Tensor, Tensor, Tensor\): pass"),
    "state layers": ((X, (H.expand(2, 4, 5), C)), {}, r"h of hx has the shape \(1, 4, 5\)"),
    "state batch": ((X, (H, C[:, :3])), {}, r"c of hx has the shape \(1, 4, 5\) here; got \(1, 3"),
    "state rank": ((X[:, 0], (H, C)), {}, r"h of hx has the shape \(1, 5\) here; got \(1, 4, 5\)"),
    "state dtype": ((X, (H, C.double())), {}, r"c of hx has the dtype of the input; got"),
    "state device": ((X, (H.to("meta"), C)), {}, r"h of hx is on the device of the input; got"),
    "lengths over": ((X,), {"lengths": [7, 8, 1, 1]}, r"0 to the number of steps, 7; got \[7, 8"),
    "lengths under": ((X,), {"lengths": [7, -1, 1, 1]}, r"from 0 to the number of steps, 7"),
    "lengths count": ((X,), {"lengths": [7, 7, 7]}, r"shape \(4,\) here, one for each sequence"),
    "lengths dtype": ((X,), {"lengths": torch.ones(4)}, r"lengths are integers .* got torch.float"),
    "mask dtype": ((X,), {"mask": ALL.float()}, r"mask is boolean .* got torch.float32"),
    "mask shape": ((X,), {"mask": ALL.T}, r"axes \(T, B\) of the input, here \(7, 4\); got"),
    "mask device": ((X,), {"mask": ALL.to("meta")}, r"mask is on the device of the input"),
    "mask list": ((X,), {"mask": ALL.tolist()}, r"mask is a boolean tensor .* got list: convert"),
    "reset shape": ((X,), {"reset": ALL[0]}, r"reset is boolean and has the axes \(T, B\)"),
    "packed": ((pack_sequence([X[:, 0]]),), {"lengths": [7]}, r"A PackedSequence has its lengths"),
    "packed features": ((pack_sequence([X[:, 0, :2]]),), {}, r"input_size=3; got the shape"),
    "packed states": ((pack_sequence([X[:, 0]]), (H, C)), {}, r"h of hx has the shape \(1, 1, 5\)"),
}


@pytest.mark.parametrize("case", CALLS)
def test_calls(case: str) -> None:
    arguments, options, message = CALLS[case]
    with pytest.raises(ValueError, match=message):
        LSTM(*arguments, **options)


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "hidden_size": ({"hidden_size": 0}, "hidden_size is a positive integer; got 0"),
    "input_size": ({"input_size": 2.0}, "input_size is a positive integer; got 2.0"),
    "num_layers": ({"num_layers": 0}, "num_layers is a positive integer; got 0"),
    "proj_size": ({"proj_size": -1}, "proj_size is an integer, 0 or more; got -1"),
    "dropout": ({"dropout": 1.5}, "dropout is a probability, at least 0 and at most 1; got 1.5"),
    "dropout of words": ({"dropout": "a"}, "dropout is a number; got 'a': pass a float"),
    "weight_dropout": ({"weight_dropout": 1.0}, "weight_dropout is a probability, .* below 1; got"),
    "zoneout": ({"zoneout": -0.1}, "zoneout is a probability"),
    "mode": ({"recurrent_dropout_mode": "all"}, "recurrent_dropout_mode is one of"),
    "clip": ({"recurrent_gradient_clip": 0.0}, "recurrent_gradient_clip is a positive bound"),
    "engine": ({"engine": "fast"}, "engine is one of 'auto', "),
    "variant": ({"variant": "tfa_lnlstn"}, "no dialect named 'tfa_lnlstn'; the nearest are"),
    "cell": ({"variant": "haste_lngru"}, "use the GRU"),
    "type": ({"variant": 3}, "variant is the name of a dialect"),
    "nonlinearity": ({"nonlinearity": "relu"}, "nonlinearity is an argument of the simple RNN"),
    "projection": (
        {"variant": Variant(cell="lstm", projection=True)},
        "A variant with a projection needs its size; got proj_size=0",
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options(case: str) -> None:
    options, message = OPTIONS[case]
    arguments: dict[str, Any] = {"input_size": 3, "hidden_size": 5, **options}
    with pytest.raises(ValueError, match=message):
        LayerNormLSTM(**arguments)


@pytest.mark.parametrize("option", ["proj_size", "zoneout_cell"])
def test_options_of_an_lstm_alone(option: str) -> None:
    for kind in ("gru", "rnn"):
        with pytest.raises(ValueError, match=f"{option} is an argument of the LSTM"):
            KINDS[kind].layer(3, 5, **{option: {"proj_size": 2}.get(option, 0.1)})


def test_other_refusals() -> None:
    with pytest.raises(ValueError, match="drops the update of a gated cell; got cell 'simple'"):
        LayerNormRNN(3, 5, recurrent_dropout_mode="candidate")
    with pytest.raises(ValueError, match="activation is one of"):
        LayerNormRNN(3, 5, nonlinearity="swish")
    with pytest.raises(TypeError, match="unexpected keyword argument 'zone_out'"):
        LayerNormGRU(3, 5, zone_out=0.1)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValueError, match=r"\(B, T, I\)"):
        LayerNormGRU(3, 5, batch_first=True)(X[None])
    with pytest.raises(ValueError, match="The reverse direction begins at the end"):
        LayerNormGRU(3, 5, bidirectional=True).step(X[0])
    with pytest.raises(ValueError, match=r"layers 0 to 0, with 1 direction.*got layer=1"):
        LSTM.params(1)
    with pytest.raises(ValueError, match="This variant has the weights"):
        LSTM.load_params({})
    with pytest.raises(ValueError, match=r"Recurrent modules compute in float16, .* got int32"):
        LSTM._function("step", torch.int32, X.device)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_autocast_takes_floating_point_alone(dtype: torch.dtype) -> None:
    cell = LayerNormLSTMCell(3, 5)
    x = X.to(dtype)
    calls = (
        lambda: LSTM(x),
        lambda: LSTM(X, (H.to(dtype), C)),
        lambda: cell(x[0]),
        lambda: LSTM.step(x[0]),
        lambda: LSTM(pack_sequence([x[:, 0]])),
    )
    for call in calls:
        with (
            torch.autocast("cpu", torch.bfloat16),
            pytest.raises(ValueError, match=rf"has the dtype of the .*; got {dtype} and"),
        ):
            call()


def test_a_named_engine_runs_or_says_why_not() -> None:
    simple = Variant(cell="simple", norms=(Norm("pre"),))
    module = LayerNormRNN(3, 5, engine="triton", variant=simple)
    with pytest.raises(ValueError, match=r"engine='triton' cannot compute this layer \(triton: "):
        module(X)
    module = LayerNormLSTM(3, 5, engine="native", dtype=torch.bfloat16)
    assert module(X.bfloat16())[0].isfinite().all()


def test_cells() -> None:
    cell = LayerNormLSTMCell(3, 5)
    with pytest.raises(ValueError, match=r"axes \(I,\) or \(B, I\); got the shape \(7, 4, 3\)"):
        cell(X)
    with pytest.raises(ValueError, match=r"h of hx has the shape \(4, 5\) here; got \(1, 4, 5\)"):
        cell(X[0], (H, C))


class Derived(LayerNormRNN):
    """A class of the user's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)


@pytest.mark.parametrize("made", [LayerNormLSTM, LayerNormRNN, Derived, LayerNormGRUCell])
def test_warnings_point_at_the_line_of_the_caller(made: Any) -> None:
    cause: dict[str, Any] = {"variant": Variant(cell=made.family.cells[0], norms=(Norm("x"),))}
    with pytest.warns(UserWarning, match="little more than the sign of a single feature") as found:
        made(1, 5, **cause)
    assert found[0].filename == __file__
    if made is not LayerNormGRUCell:
        with pytest.warns(UserWarning, match="dropout acts between layers") as found:
            made(3, 5, dropout=0.1)
        assert found[0].filename == __file__
