"""From form to form: the same function, or a refusal that names the difference."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from convert_samples import equal_bits, rng, weights_of

from lnrnn import reference
from lnrnn.convert import FileError, Weights, rewrite
from lnrnn.convert.forms import FORMS, form
from lnrnn.testing import VARIANTS, assert_close, random_inputs
from lnrnn.variant import Norm, Variant


def outputs(weights: Weights, given: Any) -> Any:
    params = {n: np.asarray(v, np.float64) for n, v in weights.params.items()}
    return reference.forward(weights.variant, params, given.x, given.h0, given.c0)


def assert_same_function(weights: Weights, target: Variant) -> Weights:
    """Rewrite to a variant and compare outputs and states over a random sequence."""
    found = rewrite(weights, target)
    assert found.variant == target and found.sizes.units == weights.sizes.units
    given = random_inputs(weights.variant, weights.sizes, rng())
    one, other = outputs(weights, given), outputs(found, given)
    assert_close("y", other.y, one.y, "float64")
    assert_close("h", other.h, one.h, "float64")
    if one.c is not None:
        assert_close("c", other.c, one.c, "float64")
    return found


# what a variant can become without a change of its function
WIDER = {
    "keep": lambda v: {"update": "keep"},
    "new": lambda v: {"update": "new"},
    "bias": lambda v: {"bias": True},
    "all_biases": lambda v: {"bias": True, "bias_x": True, "bias_h": True, "tied_bias": False},
    "no_forget_constant": lambda v: {"bias": True, "forget_bias": 0.0},
    "forget_constant": lambda v: {"bias": True, "forget_bias": 1.0},
    "update_constant": lambda v: {"bias": True, "update_bias": -1.0},
    "affine": lambda v: {
        "norms": tuple(dataclasses.replace(n, gain=True, bias=True) for n in v.norms),
        **({} if v.cell_norm == "none" else {"cell_norm_gain": True, "cell_norm_bias": True}),
    },
    "tied": lambda v: {"bias": True, "tied_bias": True, "bias_x": False, "norms": tuple(
        dataclasses.replace(n, bias=True) for n in v.norms)},
    "peephole": lambda v: {"peephole": "after" if v.peephole == "none" else v.peephole},
    "projection": lambda v: {"projection": True, "projection_bias": True},
    "uncoupled": lambda v: {
        "coupled": False,
        "bias": True,
        "norms": tuple(
            m
            for n in v.norms
            for m in ((dataclasses.replace(n, gates="i"), n) if n.gates == "f" else (n,))
        ),
    },
}  # fmt: skip


def pairs() -> list[Any]:
    found = []
    for name, variant in VARIANTS.items():
        for change, fields in WIDER.items():
            try:
                target = variant.replace(**fields(variant))
            except (ValueError, TypeError):
                continue
            if target != variant:
                found.append(pytest.param(variant, target, id=f"{name}-{change}"))
    return found


@pytest.mark.parametrize(("variant", "target"), pairs())
def test_a_wider_form_computes_the_same(variant, target):
    weights = weights_of(variant, "float64")
    refusal = forbidden(variant, target)
    if refusal is None:
        assert_same_function(weights, target)
        return
    with pytest.raises(FileError, match=refusal):
        rewrite(weights, target)


def forbidden(variant: Variant, target: Variant) -> str | None:
    """Why the rules themselves forbid a change, told apart without the code under test."""
    if variant.cell == "gru" and variant.coupled:
        if not target.coupled:
            return "coupled is True here"
        return "update is" if variant.update != target.update else None
    if variant.coupled and not target.coupled:
        shared = any("f" in n.gates and n.gates != "f" for n in variant.norms)
        return "statistics of its own" if shared else None
    if variant.update != target.update:
        shared = any("z" in n.gates and n.gates != "z" and not n.gain for n in target.norms)
        return "no gain at site" if shared else None
    return None


@pytest.mark.parametrize("name", FORMS)
def test_forms_become_each_other_or_are_refused_by_name(name):
    """With the epsilon of the source, from each form to all of its cell."""
    source = form(name)
    weights = weights_of(source.variant, "float64")
    for other in FORMS.values():
        if other.variant.cell != source.variant.cell:
            continue
        target = other.variant.replace(epsilon=source.variant.epsilon)
        try:
            rewrite(weights, target)
        except FileError as error:
            assert str(error).endswith(".") and "\n" not in str(error)
            continue
        assert_same_function(weights, target)


KNOWN = [
    ("kiros_lnlstm", "sockeye_lnlstm", None),
    ("haste_lngru", "sockeye_lngru", None),
    ("tfa_lnlstm", "pytorch_fastrnns_lnlstm", None),
    ("kiros_lngru", "tfmodels_skipthoughts_lngru", "has no bias there"),
    ("nematus_lngru", "kiros_lngru", None),
    ("tfa_lnsimplernn", "book_lnsimplernn", None),
    ("lingvo_lnlstm_simple", "tflite_lnlstm", "cell_clip is 10.0"),
    ("baselines_lnlstm", "tfa_lnlstm", "cell_norm is 'output' here and 'carry'"),
    ("tf1_lnlstm_peephole_clip", "tflite_lnlstm_peephole", "cell_norm is 'carry' here"),
    ("torchaudio_customlstm", "pytorch_fastrnns_lnlstm", "together at site 'sum'"),
    ("lstmspth_lnlstm", "tfa_lnlstm", "ddof is 1 here and 0"),
    ("nematus_rmsgru", "nematus_lngru", "norm is 'rms' here and 'layer'"),
    ("icefall_lngru", "armkws_lngru", "reset is 'inside' here and 'before'"),
    ("kerasln_lstm1_hard_sigmoid", "kerasln_lstm1_sigmoid", "recurrent_activation is"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "target", "refusal"), KNOWN)
def test_known_pairs(source, target, refusal):
    weights = weights_of(form(source).variant, "float64")
    wanted = form(target).variant.replace(epsilon=weights.variant.epsilon)
    if refusal is None:
        assert_same_function(weights, wanted)
        return
    with pytest.raises(FileError, match=refusal):
        rewrite(weights, wanted)


def test_epsilon_is_part_of_the_function():
    weights = weights_of(form("tfa_lnlstm").variant)
    with pytest.raises(FileError, match=r"epsilon is 0\.001 here and 1e-05"):
        rewrite(weights, form("pytorch_fastrnns_lnlstm").variant)


def test_what_only_moves_keeps_every_bit():
    weights = weights_of(form("haste_lngru").variant)
    there = rewrite(weights, weights.variant.replace(update="new", bias=True))
    back = rewrite(there, weights.variant.replace(bias=True))
    given = dict(back.params)
    assert not given.pop("bias").any()
    assert equal_bits(given, dict(weights.params))


def test_a_constant_shift_inside_a_centring_norm_is_dropped():
    variant = form("book_lnsimplernn").variant
    weights = weights_of(variant, "float64")
    shifted = {**weights.params, "bias_x": np.full_like(weights.params["bias_x"], 0.75)}
    without = variant.replace(bias_x=False)
    assert_same_function(Weights(variant, shifted), without)
    with pytest.raises(FileError, match="bias_x of gate 'n' stands inside a norm"):
        rewrite(weights, without)
    rms = variant.replace(norm="rms")
    with pytest.raises(FileError, match="stands inside a norm"):
        rewrite(Weights(rms, shifted), rms.replace(bias_x=False))


def test_an_update_gate_of_another_activation_is_not_turned_round():
    variant = Variant(cell="gru", norms=(Norm("x"), Norm("h")), recurrent_activation="tanh")
    with pytest.raises(FileError, match=r"turned round where f\(-a\) = 1 - f\(a\)"):
        rewrite(weights_of(variant), variant.replace(update="new"))


def test_what_the_reset_gate_multiplies_does_not_fold():
    """The recurrent bias of n is multiplied by r; those of r and z add to the others."""
    variant = Variant(cell="gru", norms=(Norm("x"), Norm("h")), bias=True)
    weights = weights_of(variant, "float64")
    without = variant.replace(norms=(Norm("x"), Norm("h", bias=False)))
    with pytest.raises(FileError, match="Gate 'n' has a bias that the wanted form has no"):
        rewrite(weights, without)
    params = dict(weights.params)
    params["h_norm_bias"] = params["h_norm_bias"] * np.repeat([1, 1, 0], 5)
    assert_same_function(Weights(variant, params), without)
    plain = Variant(cell="gru", bias_x=True, bias_h=True)
    with pytest.raises(FileError, match="Gate 'n' has a bias"):
        rewrite(weights_of(plain), plain.replace(bias_h=False))


def test_weights_that_are_not_neutral_are_not_left_out():
    plain = Variant(cell="lstm", norms=(Norm("x"), Norm("h")), cell_norm="output", bias=True)
    for fields, name in (
        ({"peephole": "after"}, "peephole of this layer"),
        ({"projection": True}, "projection cannot be left out"),
    ):
        with pytest.raises(FileError, match=name):
            rewrite(weights_of(plain.replace(**fields)), plain)
    lean = plain.replace(cell_norm_gain=False)
    with pytest.raises(FileError, match="cell_norm_gain of this layer is not all 1"):
        rewrite(weights_of(plain), lean)


def test_an_indrnn_is_a_simple_cell_with_a_diagonal_matrix():
    variant = form("haste_lnindrnn").variant
    weights = weights_of(variant, "float64")
    assert_same_function(weights, variant.replace(cell="simple"))
