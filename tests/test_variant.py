"""Variants: every rule refuses with its reason, the order of gates, and plain fields."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from lnrnn import Norm, Variant
from lnrnn.params import Sizes, shapes, sizes_of
from lnrnn.testing import VARIANTS

X, H, SUM, PRE = Norm("x"), Norm("h"), Norm("sum"), Norm("pre")
SUM_EACH = tuple(Norm("sum", gate) for gate in "ifgo")


# fields, then a part of the message that names what was given, then the remedy
REFUSED = [
    ({"cell": "rnn"}, "got 'rnn'", "cell is one of 'simple', 'indrnn', 'ligru', 'lstm', 'gru'"),
    ({"cell": "gru", "ddof": True}, "got True", "ddof is one of 0, 1"),
    ({"cell": "gru", "bias": 1}, "got 1", "bias is True or False"),
    ({"cell": "gru", "epsilon": "small"}, "got 'small'", "epsilon is a number"),
    ({"cell": "gru", "epsilon": None}, "got None", "epsilon is a number"),
    ({"cell": "lstm", "cell_clip": True}, "got True", "cell_clip is a number"),
    ({"cell": "gru", "norms": "x"}, "got 'x'", "norms is a tuple of Norm"),
    ({"cell": "gru", "norms": ("x",)}, "got ('x',)", "norms is a tuple of Norm"),
    ({"cell": "gru", "epsilon": -1.0}, "got -1.0", "use a small positive number"),
    ({"cell": "gru", "epsilon": float("nan")}, "got nan", "use a small positive number"),
    ({"cell": "lstm", "cell_clip": 0.0}, "got 0.0", "use None"),
    ({"cell": "lstm", "hidden_clip": -1}, "got -1", "use None"),
    ({"cell": "gru", "norm": "rms", "ddof": 1}, "norm='rms' with ddof=1", "use ddof=0"),
    # options of other cells
    ({"cell": "gru", "cell_norm": "carry"}, "cell_norm='carry'", "leave it at 'none'"),
    ({"cell": "gru", "cell_norm_gain": False}, "cell_norm_gain=False", "leave it at True"),
    ({"cell": "gru", "cell_norm_bias": False}, "cell_norm_bias=False", "leave it at True"),
    ({"cell": "gru", "capped": True}, "capped=True", "leave it at False"),
    ({"cell": "lstm", "coupled": True, "capped": True}, "coupled=True, capped=True", "use one of"),
    ({"cell": "gru", "forget_bias": 1.0}, "forget_bias=1.0", "leave it at 0.0"),
    ({"cell": "ligru", "coupled": True, "norms": (X,)}, "coupled=True", "leave it at False"),
    ({"cell": "gru", "peephole": "after"}, "peephole='after'", "leave it at 'none'"),
    ({"cell": "gru", "output_peephole": "cell"}, "output_peephole='cell'", "leave it at 'gate'"),
    ({"cell": "gru", "cell_clip_at": "incoming"}, "cell_clip_at='incoming'", "leave it at"),
    ({"cell": "gru", "hidden_clip": 1.0}, "hidden_clip=1.0", "leave it at None"),
    ({"cell": "gru", "projection": True}, "projection=True", "leave it at False"),
    ({"cell": "gru", "projection_bias": True}, "projection_bias=True", "leave it at False"),
    ({"cell": "gru", "projection_clip": 1.0}, "projection_clip=1.0", "leave it at None"),
    ({"cell": "gru", "output_activation": "relu"}, "output_activation='relu'", "leave it at"),
    (
        {"cell": "ligru", "reset": "before"},
        "cell='ligru' with reset='before'",
        "leave it at 'after'",
    ),
    ({"cell": "lstm", "update": "new"}, "cell='lstm' with update='new'", "leave it at 'keep'"),
    ({"cell": "simple", "update_bias": 1.0}, "update_bias=1.0", "leave it at 0.0"),
    ({"cell": "simple", "recurrent_activation": "relu"}, "cell='simple'", "leave it at 'sigmoid'"),
    ({"cell": "ligru", "cell_clip": 1.0}, "cell='ligru' with cell_clip=1.0", "leave it at None"),
    # biases
    ({"cell": "lstm", "tied_bias": True}, "bias=False, bias_x=False", "use bias=True"),
    (
        {"cell": "lstm", "tied_bias": True, "bias": True, "bias_x": True},
        "bias=True, bias_x=True",
        "use bias=True, bias_x=False",
    ),
    # norms
    ({"cell": "lstm", "norms": (Norm("x", "z"),)}, "Norm('x', 'z')", "use only those letters"),
    (
        {"cell": "lstm", "coupled": True, "norms": (Norm("sum", "i"),)},
        "coupled lstm has the gates 'fgo'",
        "leave gates empty",
    ),
    (
        {"cell": "gru", "norms": (Norm("x", "rz"), Norm("x", "zn"))},
        "gate 'z' twice at site 'x'",
        "name each gate in one norm only",
    ),
    ({"cell": "lstm", "norms": (X, SUM)}, "gate 'f' at the sites 'x' and 'sum'", "drop one"),
    ({"cell": "lstm", "norms": (SUM, Norm("h", "o"))}, "gate 'o' at the sites 'h'", "drop one"),
    ({"cell": "gru", "norms": (PRE, H)}, "got 2 norms", "use norms=(Norm('pre'),)"),
    ({"cell": "gru", "norms": (Norm("pre", "rz"),)}, "on 'rz'", "use norms=(Norm('pre'),)"),
    ({"cell": "gru", "norms": (PRE,), "bias_h": True}, "bias_h=True", "use bias=True"),
    ({"cell": "indrnn", "norms": (X, H)}, "got site 'h'", "use Norm('x')"),
    # lstm
    (
        {"cell": "lstm", "cell_clip": 1.0, "cell_clip_at": "after_norm", "cell_norm": "output"},
        "cell_norm='output'",
        "cell_clip_at='before_norm'",
    ),
    ({"cell": "lstm", "peephole": "inside", "norms": (SUM,)}, "(sum:ifgo)", "peephole='after'"),
    ({"cell": "lstm", "peephole": "inside", "norms": (X, H)}, "(x:ifgo, h:ifgo)", "one Norm('sum'"),
    (
        {"cell": "lstm", "peephole": "inside", "output_peephole": "cell", "norms": SUM_EACH},
        "got peephole='inside'",
        "use output_peephole='gate'",
    ),
    ({"cell": "lstm", "output_peephole": "cell"}, "got peephole='none'", "use peephole='after'"),
    ({"cell": "lstm", "projection_bias": True}, "projection=False", "use projection=True"),
    ({"cell": "lstm", "projection_clip": 1.0}, "projection=False", "use projection=True"),
    # gru
    ({"cell": "gru", "norms": (SUM,)}, "(sum:rzn)", "use reset='inside' or 'whole'"),
    ({"cell": "gru", "reset": "inside"}, "got norms ()", "use Norm('sum', 'n')"),
    ({"cell": "gru", "reset": "inside", "norms": (SUM,)}, "(sum:rzn)", "use Norm('sum', 'n')"),
    ({"cell": "gru", "reset": "before", "norms": (SUM,)}, "(sum:rzn)", "its own Norm(site, 'n')"),
    ({"cell": "gru", "reset": "before", "norms": (X, H)}, "(x:rzn, h:rzn)", "its own Norm"),
    ({"cell": "gru", "reset": "before", "norms": (PRE,)}, "(pre:rzn)", "its own Norm"),
]


@pytest.mark.parametrize("fields, seen, remedy", REFUSED, ids=lambda v: str(v)[:50])
def test_refused(fields, seen, remedy):
    with pytest.raises(ValueError) as raised:
        Variant(**fields)
    message = str(raised.value)
    assert seen in message
    assert remedy in message
    assert message.endswith(".") and "\n" not in message


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"site": "cell"}, "site is one of 'x', 'h', 'sum', 'pre'; got 'cell'."),
        ({"site": "x", "gates": "ii"}, "got gates='ii': write each letter once."),
        ({"site": "x", "gates": 3}, "gates is a string of gate letters; got 3."),
        ({"site": "x", "gain": 1}, "gain is True or False; got 1."),
    ],
)
def test_refused_norms(fields, message):
    with pytest.raises(ValueError) as raised:
        Norm(**fields)
    assert str(raised.value).endswith(message)


@pytest.mark.parametrize(
    "cell, gates",
    [("simple", "n"), ("indrnn", "n"), ("ligru", "zn"), ("lstm", "ifgo"), ("gru", "rzn")],
)
def test_gates_of_a_cell(cell, gates):
    variant = Variant(cell=cell)
    assert variant.gates == gates
    assert variant.states == (("h", "c") if cell == "lstm" else ("h",))


def test_gates_are_in_canonical_order():
    variant = Variant(cell="lstm", norms=(Norm("x", "ogi"), Norm("h", ""), Norm("x", "f")))
    assert [n.gates for n in variant.norms] == ["igo", "ifgo", "f"]
    assert variant.gates_at("x") == "ifgo"
    assert variant.norms_at("x") == (Norm("x", "igo"), Norm("x", "f"))
    assert variant == Variant(
        cell="lstm", norms=(Norm("x", "gio"), Norm("h", "gofi"), Norm("x", "f"))
    )
    assert Variant(cell="lstm", coupled=True, norms=(SUM,)).norms[0].gates == "fgo"


def test_peephole_gates():
    assert Variant(cell="lstm").peephole_gates == ""
    assert Variant(cell="lstm", peephole="after").peephole_gates == "ifo"
    assert Variant(cell="lstm", peephole="after", coupled=True).peephole_gates == "fo"


@pytest.mark.parametrize("name", VARIANTS)
def test_round_trip_through_json(name):
    variant = VARIANTS[name]
    assert Variant.from_dict(json.loads(json.dumps(variant.to_dict()))) == variant
    # what takes any dataclass apart knows no Norm when it puts it together
    assert Variant(**json.loads(json.dumps(dataclasses.asdict(variant)))) == variant
    assert len({*VARIANTS.values()}) == len(VARIANTS)


def test_from_dict_refuses_unknown_fields():
    with pytest.raises(ValueError, match=r"no field 'dropout'; its fields are activation, bias,"):
        Variant.from_dict({"cell": "gru", "dropout": 0.1})


def test_replace_validates():
    plain = Variant(cell="gru", bias=True)
    assert plain.replace(bias=False) == Variant(cell="gru")
    assert plain.bias
    with pytest.raises(ValueError, match="leave it at False"):
        plain.replace(projection=True)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Variant(cell="gru").bias = True  # pyright: ignore[reportAttributeAccessIssue]


def test_shapes_of_weights():
    variant = VARIANTS["gru_x_h_crossed_groups"]
    assert shapes(variant, Sizes(3, 5, 5)) == {
        "kernel": (3, 15),
        "recurrent_kernel": (5, 15),
        "x_norm_gain": (15,),
        "x_norm_bias": (5,),
        "h_norm_gain": (10,),
        "h_norm_bias": (15,),
    }
    inside = shapes(VARIANTS["lstm_peephole_inside"], Sizes(3, 5, 4))
    assert inside["peephole"] == (15,)
    assert inside["recurrent_kernel"] == (4, 20)
    assert inside["projection_kernel"] == (5, 4)
    assert inside["projection_bias"] == (4,)


@pytest.mark.parametrize(
    "sizes, message",
    [(Sizes(0, 5, 5), "1 or more"), (Sizes(3, 5, 4), "got units=5, hidden=4")],
)
def test_refused_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        shapes(Variant(cell="gru"), sizes)


def test_refused_weights():
    variant = Variant(cell="gru", bias=True)
    weights = {name: np.zeros(shape) for name, shape in shapes(variant, Sizes(3, 5, 5)).items()}
    assert sizes_of(variant, weights) == (3, 5, 5)
    for broken, message in (
        ({"kernel": weights["kernel"]}, "has the weight 'recurrent_kernel'"),
        (weights | {"gain": np.ones(5)}, r"missing \[\], unknown \['gain'\]"),
        (weights | {"bias": np.ones(5)}, r"bias has the shape \(15,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            sizes_of(variant, broken)
