"""The reference against central differences, textbooks and its own symmetries."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from lnrnn import Norm, Variant, dialects
from lnrnn.params import Sizes
from lnrnn.reference import Gradients, backward, forward
from lnrnn.testing import (
    VARIANTS,
    Inputs,
    adapters,
    assert_close,
    check_gradients,
    random_inputs,
    random_params,
    sizes_for,
)
from lnrnn.testing.contract import verify_contract
from lnrnn.variant import Site

EXTRAS = ("mask", "reset", "zoneout", "recurrent_mask", "candidate_mask", "reset_states")
SPAN = pytest.mark.parametrize("name", VARIANTS)
# one of each cell, and the LSTM with every state clipped, projected and normalised
FEW = pytest.mark.parametrize(
    "name",
    [
        "simple_x_h",
        "indrnn_x",
        "ligru_x",
        "gru_before_sum_each_clip",
        "lstm_x_h_hidden",
        "lstm_peephole_in_cell_incoming_clips",
    ],
)


def _drawn(variant, extras=(), steps=5, batch=3, seed=0):
    """Random weights and inputs, and the generator that drew them."""
    rng = np.random.default_rng(seed)
    sizes = sizes_for(variant)
    params = random_params(variant, sizes, rng)
    return params, random_inputs(variant, sizes, rng, steps, batch, extras), rng


def _case(name, extras=(), steps=5, batch=3):
    """A variant of the table and what is drawn for it."""
    seed = list(VARIANTS).index(name)
    return VARIANTS[name], *_drawn(VARIANTS[name], extras, steps, batch, seed)


def _named(gradients: Gradients) -> dict[str, np.ndarray]:
    """All gradients in one dict."""
    names = ("x", "h0", "c0", "reset_h", "reset_c")
    states = {name: getattr(gradients, name) for name in names}
    return gradients.params | {k: v for k, v in states.items() if v is not None}


def _check_gradients(variant: Variant, params, inputs: Inputs, rng, **options) -> None:
    """Every weight, x and both states against central differences."""

    def run(arrays):
        weights = {name: arrays[name] for name in params}
        states = arrays["h0"], arrays.get("c0")
        extras = {name: arrays.get(name, value) for name, value in inputs.extras.items()}
        return forward(variant, weights, arrays["x"], *states, **extras, **options)

    def loss(arrays) -> float:
        result = run(arrays)
        total = (result.y * inputs.dy).sum() + (result.h * inputs.dh).sum()
        return total if result.c is None else total + (result.c * inputs.dc).sum()

    arrays = params | {"x": inputs.x, "h0": inputs.h0}
    if inputs.c0 is not None:
        arrays["c0"] = inputs.c0
    arrays |= {n: v for n, v in inputs.extras.items() if n in ("reset_h", "reset_c")}
    gradients = backward(run(arrays), inputs.dy, inputs.dh, inputs.dc)
    check_gradients(loss, arrays, _named(gradients), rng)


@SPAN
@pytest.mark.parametrize("extras", [(), EXTRAS], ids=["plain", "masked"])
def test_gradients(name, extras):
    variant, params, inputs, rng = _case(name, extras)
    _check_gradients(variant, params, inputs, rng)


@FEW
@pytest.mark.parametrize("masked_output", ["repeat", "hold", "zero"])
def test_gradients_of_masked_outputs(name, masked_output):
    variant, params, inputs, rng = _case(name, ("mask", "reset"))
    _check_gradients(variant, params, inputs, rng, masked_output=masked_output)


@FEW
def test_gradients_of_fractional_zoneout(name):
    variant, params, inputs, rng = _case(name)
    shares = {"take_h": 0.7} | ({"take_c": 0.4} if variant.cell == "lstm" else {})
    _check_gradients(variant, params, inputs._replace(extras=shares), rng)


def test_gradients_without_epsilon():
    variant = VARIANTS["lstm_x_h_cell_carry"].replace(epsilon=0.0)
    _check_gradients(variant, *_drawn(variant))


@SPAN
def test_every_weight_counts(name):
    variant, params, inputs, _ = _case(name)
    run = forward(variant, params, inputs.x, inputs.h0, inputs.c0)
    for weight, gradient in _named(backward(run, inputs.dy, inputs.dh, inputs.dc)).items():
        assert np.abs(gradient).max() > 1e-3, f"{weight} of {name} has no effect"


BOUNDS = ("cell_clip", "hidden_clip", "projection_clip")


@pytest.mark.parametrize(
    "name, bound",
    [(name, bound) for name, v in VARIANTS.items() for bound in BOUNDS if getattr(v, bound)],
)
def test_clips_bind_some_values_and_not_others(name, bound):
    variant, params, inputs, _ = _case(name)
    run = forward(variant, params, inputs.x, inputs.h0, inputs.c0)
    free = variant.replace(**{bound: None})
    unbound = forward(free, params, inputs.x, inputs.h0, inputs.c0)
    tight = variant.replace(**{bound: 0.01})
    bound_all = forward(tight, params, inputs.x, inputs.h0, inputs.c0)
    assert np.abs(run.y - unbound.y).max() > 1e-2, "binds nothing"
    assert np.abs(run.y - bound_all.y).max() > 1e-2, "binds everything"


def test_variants_span_every_choice():
    hints = typing.get_type_hints(Variant)
    activations = set()
    for field in dataclasses.fields(Variant):
        used = {getattr(v, field.name) for v in VARIANTS.values()}
        if field.name.endswith("activation"):
            activations |= used
        elif typing.get_origin(hints[field.name]) is typing.Literal:
            assert used == set(typing.get_args(hints[field.name])), field.name
        else:
            assert len(used) > 1, field.name
    assert activations == set(typing.get_args(hints["activation"]))
    norms = [norm for v in VARIANTS.values() for norm in v.norms]
    assert {n.site for n in norms} == {"x", "h", "sum", "pre"}
    assert len({(n.gain, n.bias) for n in norms}) == 4


@SPAN
def test_whole_is_chunks_with_carried_state(name):
    variant, params, inputs, _ = _case(name, steps=7)
    whole = forward(variant, params, inputs.x, inputs.h0, inputs.c0)
    first = forward(variant, params, inputs.x[:3], inputs.h0, inputs.c0)
    second = forward(variant, params, inputs.x[3:], first.h, first.c)
    assert_close("y", np.concatenate([first.y, second.y]), whole.y, "float64")
    assert_close("h", second.h, whole.h, "float64")

    expected = _named(backward(whole, inputs.dy, inputs.dh, inputs.dc))
    late = backward(second, inputs.dy[3:], inputs.dh, inputs.dc)
    early = backward(first, inputs.dy[:3], late.h0, late.c0)
    actual = _named(early) | {
        "x": np.concatenate([early.x, late.x]),
        **{k: early.params[k] + late.params[k] for k in params},
    }
    for key, gradient in expected.items():
        assert_close(key, actual[key], gradient, "float64", gradient=True)


@SPAN
def test_masked_tail_is_a_shorter_sequence(name):
    variant, params, inputs, _ = _case(name, steps=6)
    mask = np.arange(6)[:, None] < np.array([6, 4, 1])
    run = forward(variant, params, inputs.x, inputs.h0, inputs.c0, mask=mask, masked_output="zero")
    gradients = backward(run, inputs.dy, inputs.dh, inputs.dc)
    for b, length in enumerate([6, 4, 1]):
        one = slice(b, b + 1)
        c0, dc = (None if a is None else a[one] for a in (inputs.c0, inputs.dc))
        short = forward(variant, params, inputs.x[:length, one], inputs.h0[one], c0)
        assert_close("y", run.y[:length, one], short.y, "float64")
        assert_close("h", run.h[one], short.h, "float64")
        assert not run.y[length:, b].any()
        expected = backward(short, inputs.dy[:length, one], inputs.dh[one], dc)
        assert_close("x", gradients.x[:length, one], expected.x, "float64", gradient=True)
        assert_close("h0", gradients.h0[one], expected.h0, "float64", gradient=True)
        assert not gradients.x[length:, b].any()


def test_masked_outputs():
    variant, params, inputs, _ = _case("gru_x_h", steps=4, batch=1)
    mask = np.array([[False], [True], [False], [True]])
    y = {
        kind: forward(variant, params, inputs.x, inputs.h0, mask=mask, masked_output=kind).y
        for kind in ("repeat", "hold", "zero")
    }
    valid = forward(variant, params, inputs.x[[1, 3]], inputs.h0).y
    nothing = np.zeros_like(valid[0])
    assert_close("repeat", y["repeat"], [nothing, valid[0], valid[0], valid[1]], "float64")
    assert_close("hold", y["hold"], [inputs.h0, valid[0], valid[0], valid[1]], "float64")
    assert_close("zero", y["zero"], [nothing, valid[0], nothing, valid[1]], "float64")


@FEW
def test_reset_is_a_fresh_start(name):
    variant, params, inputs, _ = _case(name, steps=5)
    reset = np.zeros((5, 3), bool)
    reset[2] = True
    run = forward(variant, params, inputs.x, inputs.h0, inputs.c0, reset=reset)
    fresh = forward(variant, params, inputs.x[2:])
    assert_close("y", run.y[2:], fresh.y, "float64")
    assert_close("h", run.h, fresh.h, "float64")
    later = backward(run, inputs.dy * (np.arange(5) > 1)[:, None, None], inputs.dh, inputs.dc)
    assert not later.h0.any() and not later.x[:2].any()


@FEW
def test_reset_goes_to_the_states_given(name):
    variant, params, inputs, _ = _case(name, ("reset_states",), steps=5)
    states = inputs.extras["reset_h"], inputs.extras.get("reset_c")
    reset = np.zeros((5, 3), bool)
    reset[2] = True
    run = forward(variant, params, inputs.x, inputs.h0, inputs.c0, reset=reset, **inputs.extras)
    fresh = forward(variant, params, inputs.x[2:], *states)
    assert_close("y", run.y[2:], fresh.y, "float64")
    dy = inputs.dy * (np.arange(5) > 1)[:, None, None]
    later = backward(run, dy, inputs.dh, inputs.dc)
    alone = backward(fresh, dy[2:], inputs.dh, inputs.dc)
    assert not later.h0.any() and not later.x[:2].any()
    assert later.reset_h is not None
    assert_close("gradient of reset_h", later.reset_h, alone.h0, "float64", gradient=True)


@FEW
def test_gradients_of_learned_states(name):
    """Of sequences that begin there, and of resets that go there."""
    variant, _, inputs, rng = _case(name, ("mask", "reset"))
    params = random_params(variant, sizes_for(variant), rng, learned_state=True)

    def run(weights):
        return forward(variant, weights, inputs.x, **inputs.extras)

    def loss(weights) -> float:
        result = run(weights)
        total = (result.y * inputs.dy).sum() + (result.h * inputs.dh).sum()
        return total if result.c is None else total + (result.c * inputs.dc).sum()

    found = backward(run(params), inputs.dy, inputs.dh, inputs.dc).params
    assert all(found[n].any() for n in params)
    check_gradients(loss, params, found, rng)
    begun = {n: np.tile(params[n], (3, 1)) for n in params if n.startswith("initial")}
    given = (begun["initial_h"], begun.get("initial_c"))
    plain = {n: p for n, p in params.items() if n not in begun}
    states = dict(zip(("reset_h", "reset_c"), given, strict=True))
    same = forward(variant, plain, inputs.x, *given, **inputs.extras, **states)
    assert_close("y", run(params).y, same.y, "float64")


@FEW
def test_the_batch_is_independent(name):
    variant, params, inputs, _ = _case(name, EXTRAS)
    order = [2, 0, 1]
    run = forward(variant, params, inputs.x, inputs.h0, inputs.c0, **inputs.extras)
    of_rows = ("recurrent_mask", "reset_h", "reset_c")
    extras = {k: v[order] if k in of_rows else v[:, order] for k, v in inputs.extras.items()}
    c0 = None if inputs.c0 is None else inputs.c0[order]
    shuffled = forward(variant, params, inputs.x[:, order], inputs.h0[order], c0, **extras)
    assert_close("y", shuffled.y, run.y[:, order], "float64")
    assert_close("h", shuffled.h, run.h[order], "float64")


@FEW
def test_batch_of_one_and_one_step(name):
    variant, params, inputs, rng = _case(name, steps=1, batch=1)
    _check_gradients(variant, params, inputs, rng)


@SPAN
def test_empty_batch(name):
    variant, params, inputs, _ = _case(name, steps=2, batch=0)
    run = forward(variant, params, inputs.x, inputs.h0, inputs.c0)
    assert run.y.shape == inputs.dy.shape
    gradients = backward(run, inputs.dy, inputs.dh, inputs.dc)
    assert not any(g.any() for g in gradients.params.values())


@FEW
def test_zoneout_and_masks_at_their_limits(name):
    variant, params, inputs, _ = _case(name)
    plain = forward(variant, params, inputs.x, inputs.h0, inputs.c0)
    ones = {"take_h": 1.0, "recurrent_mask": np.ones_like(inputs.h0)}
    same = forward(variant, params, inputs.x, inputs.h0, inputs.c0, **ones)
    assert_close("y", same.y, plain.y, "float64")
    kept = forward(variant, params, inputs.x, inputs.h0, inputs.c0, take_h=0.0)
    assert_close("h", kept.h, inputs.h0, "float64")


@FEW
def test_recurrent_mask_hides_h_from_its_projection(name):
    variant, params, inputs, _ = _case(name, steps=1)
    unseen = np.zeros_like(inputs.h0)
    run = forward(variant, params, inputs.x, inputs.h0, inputs.c0, recurrent_mask=unseen)
    deaf = params | {k: 0 * v for k, v in params.items() if k.startswith("recurrent_")}
    expected = forward(variant, deaf, inputs.x, inputs.h0, inputs.c0)
    assert_close("y", run.y, expected.y, "float64")


# ---- textbook cells, written again on purpose in another way


def _sigmoid(v):
    return 1 / (1 + np.exp(-v))


def _layer_norm(v, gain, bias: Any = 0.0, epsilon=1e-5):
    return (
        gain * (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + epsilon) + bias
    )


def test_plain_lstm_is_the_textbook_one():
    variant, w, inputs, _ = _case("lstm")
    h, c = inputs.h0, inputs.c0
    assert c is not None
    for x in inputs.x:
        i, f, g, o = np.split(x @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"], 4, 1)
        c = _sigmoid(f + 1) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
    run = forward(variant, w, inputs.x, inputs.h0, inputs.c0)
    assert_close("h", run.h, h, "float64")
    assert run.c is not None
    assert_close("c", run.c, c, "float64")


def test_plain_gru_is_the_textbook_one():
    variant, w, inputs, _ = _case("gru")
    h = inputs.h0
    for x in inputs.x:
        xr, xz, xn = np.split(x @ w["kernel"] + w["bias_x"], 3, 1)
        hr, hz, hn = np.split(h @ w["recurrent_kernel"] + w["bias_h"], 3, 1)
        z = _sigmoid(xz + hz)
        h = z * h + (1 - z) * np.tanh(xn + _sigmoid(xr + hr) * hn)
    assert_close("h", forward(variant, w, inputs.x, inputs.h0).h, h, "float64")


def test_layer_norm_lstm_of_the_paper():
    variant, w, inputs, _ = _case("lstm_x_h_cell_output")
    h, c = inputs.h0, inputs.c0
    assert c is not None
    for x in inputs.x:
        total = _layer_norm(x @ w["kernel"], w["x_norm_gain"])
        total = total + _layer_norm(h @ w["recurrent_kernel"], w["h_norm_gain"]) + w["bias"]
        i, f, g, o = np.split(total, 4, 1)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(_layer_norm(c, w["cell_norm_gain"], w["cell_norm_bias"]))
    run = forward(variant, w, inputs.x, inputs.h0, inputs.c0)
    assert_close("h", run.h, h, "float64")
    assert run.c is not None
    assert_close("c", run.c, c, "float64")


# what is carried and what is shown, of c' and a layer norm N
CELL_NORMS = {
    "none": lambda c, o, norm: (c, o * np.tanh(c)),
    "output": lambda c, o, norm: (c, o * np.tanh(norm(c))),
    "carry": lambda c, o, norm: (norm(c), o * np.tanh(norm(c))),
    "carry_only": lambda c, o, norm: (norm(c), o * np.tanh(c)),
    "after_tanh": lambda c, o, norm: (c, o * norm(np.tanh(c))),
}


@pytest.mark.parametrize("cell_norm", CELL_NORMS)
def test_cell_norms(cell_norm):
    variant = Variant(cell="lstm", cell_norm=cell_norm)
    w, inputs, _ = _drawn(variant)
    h, c = inputs.h0, inputs.c0
    assert c is not None

    def norm(v):
        return _layer_norm(v, w["cell_norm_gain"], w["cell_norm_bias"])

    for x in inputs.x:
        i, f, g, o = np.split(x @ w["kernel"] + h @ w["recurrent_kernel"], 4, 1)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        c, h = CELL_NORMS[cell_norm](c, _sigmoid(o), norm)
    run = forward(variant, w, inputs.x, inputs.h0, inputs.c0)
    assert run.c is not None
    assert_close("h", run.h, h, "float64")
    assert_close("c", run.c, c, "float64")


@pytest.mark.parametrize("peephole", ["after", "inside"])
def test_peepholes(peephole):
    norms = tuple(Norm("sum", gate, bias=False) for gate in "ifgo")
    variant = Variant(cell="lstm", norms=norms, peephole=peephole, cell_clip=0.8, forget_bias=1.0)
    w, inputs, _ = _drawn(variant)
    gains = dict(zip("ifgo", np.split(w["sum_norm_gain"], 4), strict=True))
    w_i, w_f, w_o = np.split(w["peephole"], 3)
    h, c = inputs.h0, inputs.c0
    assert c is not None

    def gate(v, peep, letter):
        if peephole == "inside":
            return _layer_norm(v + peep, gains[letter])
        return _layer_norm(v, gains[letter]) + peep

    for x in inputs.x:
        i, f, g, o = np.split(x @ w["kernel"] + h @ w["recurrent_kernel"], 4, 1)
        i, f = _sigmoid(gate(i, w_i * c, "i")), _sigmoid(gate(f, w_f * c, "f") + 1)
        c = np.clip(f * c + i * np.tanh(gate(g, 0, "g")), -0.8, 0.8)
        h = _sigmoid(gate(o, w_o * c, "o")) * np.tanh(c)
    assert_close("h", forward(variant, w, inputs.x, inputs.h0, inputs.c0).h, h, "float64")


@pytest.mark.parametrize("reset", ["after", "inside", "before", "whole"])
def test_resets(reset):
    norms = () if reset == "after" else tuple(Norm("sum", gate, bias=False) for gate in "rzn")
    variant = Variant(cell="gru", norms=norms, reset=reset, update="new", bias=True)
    w, inputs, _ = _drawn(variant)
    gains = np.split(w["sum_norm_gain"], 3) if norms else (None, None, None)
    b_r, b_z, b_n = np.split(w["bias"], 3)
    u_n = np.split(w["recurrent_kernel"], 3, 1)[2]

    def norm(v, gain):
        return v if gain is None else _layer_norm(v, gain)

    h = inputs.h0
    for x in inputs.x:
        xr, xz, xn = np.split(x @ w["kernel"], 3, 1)
        hr, hz, hn = np.split(h @ w["recurrent_kernel"], 3, 1)
        r = _sigmoid(norm(xr + hr, gains[0]) + b_r)
        z = _sigmoid(norm(xz + hz, gains[1]) + b_z)
        if reset == "whole":
            n = np.tanh(r * (norm(xn + hn, gains[2]) + b_n))
        else:
            hn = (r * h) @ u_n if reset == "before" else r * hn
            n = np.tanh(norm(xn + hn, gains[2]) + b_n)
        h = z * n + (1 - z) * h
    assert_close("h", forward(variant, w, inputs.x, inputs.h0).h, h, "float64")


@pytest.mark.parametrize(
    "cell, constant, gate",
    [("lstm", "forget_bias", "f"), ("gru", "update_bias", "z"), ("ligru", "update_bias", "z")],
)
def test_a_constant_is_a_bias_of_its_gate(cell, constant, gate):
    variant = Variant(cell=cell, norms=(Norm("x"), Norm("h")), bias=True)
    w, inputs, _ = _drawn(variant)
    bias = w["bias"].reshape(len(variant.gates), -1).copy()
    bias[variant.gates.index(gate)] += -0.7
    moved = forward(variant, w | {"bias": bias.ravel()}, inputs.x, inputs.h0, inputs.c0)
    named = forward(variant.replace(**{constant: -0.7}), w, inputs.x, inputs.h0, inputs.c0)
    assert_close("y", named.y, moved.y, "float64")


def test_a_tied_bias_is_two_equal_biases():
    tied = VARIANTS["lstm_x_h_cell_output_tied_bias"]
    w, inputs, _ = _drawn(tied)
    free = tied.replace(tied_bias=False, bias_x=True)
    results = [
        backward(forward(variant, weights, inputs.x, inputs.h0, inputs.c0), inputs.dy)
        for variant, weights in ((tied, w), (free, w | {"bias_x": w["bias"]}))
    ]
    both = results[1].params["bias"] + results[1].params["bias_x"]
    assert_close("x", results[0].x, results[1].x, "float64", gradient=True)
    assert_close("bias", results[0].params["bias"], both, "float64", gradient=True)


def test_a_coupled_gate_is_the_rest_of_the_forget_gate():
    variant = VARIANTS["lstm_coupled"]
    w, inputs, _ = _drawn(variant)
    full = {  # sigmoid(-v) = 1 - sigmoid(v), and the forget bias of 1 is in both
        name: np.concatenate([-np.split(value, 3, -1)[0], value], -1) for name, value in w.items()
    }
    full["bias"][: len(full["bias"]) // 4] -= 1
    expected = forward(variant.replace(coupled=False), full, inputs.x, inputs.h0, inputs.c0)
    run = forward(variant, w, inputs.x, inputs.h0, inputs.c0)
    assert_close("y", run.y, expected.y, "float64")


@pytest.mark.parametrize(
    "norm, epsilon_at, ddof, expected",
    [
        # of v = (1, 2, 6): mean 3, squared deviations 4 + 1 + 9 = 14, squares 41
        ("layer", "variance", 0, np.array([-2, -1, 3]) / np.sqrt(14 / 3 + 0.5)),
        ("layer", "variance", 1, np.array([-2, -1, 3]) / np.sqrt(14 / 2 + 0.5)),
        ("layer", "deviation", 0, np.array([-2, -1, 3]) / (np.sqrt(14 / 3) + 0.5)),
        ("layer", "deviation", 1, np.array([-2, -1, 3]) / (np.sqrt(14 / 2) + 0.5)),
        ("rms", "variance", 0, np.array([1, 2, 6]) / np.sqrt(41 / 3 + 0.5)),
        ("rms", "deviation", 0, np.array([1, 2, 6]) / (np.sqrt(41 / 3) + 0.5)),
    ],
)
def test_norm_by_hand(norm, epsilon_at, ddof, expected):
    variant = Variant(
        cell="simple",
        norms=(Norm("x", gain=False, bias=False),),
        norm=norm,
        epsilon=0.5,
        epsilon_at=epsilon_at,
        ddof=ddof,
        activation="linear",
    )
    params = {"kernel": np.array([[1.0, 2.0, 6.0]]), "recurrent_kernel": np.zeros((3, 3))}
    y = forward(variant, params, np.ones((1, 1, 1))).y
    assert_close("y", y[0, 0], expected, "float64")


@pytest.mark.parametrize(
    "activation, expected",
    [
        ("tanh", np.tanh([-4.0, -1.0, 0.5, 4.0])),
        ("sigmoid", 1 / (1 + np.exp([4.0, 1.0, -0.5, -4.0]))),
        ("relu", [0, 0, 0.5, 4]),
        ("hard_sigmoid", [0, 1 / 3, 7 / 12, 1]),
        ("keras2_hard_sigmoid", [0, 0.3, 0.6, 1]),
        ("linear", [-4, -1, 0.5, 4]),
    ],
)
def test_activation_by_hand(activation, expected):
    variant = Variant(cell="simple", activation=activation)
    params = {"kernel": np.array([[-4, -1, 0.5, 4]]), "recurrent_kernel": np.zeros((4, 4))}
    assert_close("y", forward(variant, params, np.ones((1, 1, 1))).y[0, 0], expected, "float64")


# ---- the bound on recurrent gradients


@SPAN
def test_a_huge_recurrent_gradient_clip_changes_nothing(name):
    variant, params, inputs, _ = _case(name, EXTRAS)
    run = forward(variant, params, inputs.x, inputs.h0, inputs.c0, **inputs.extras)
    expected = _named(backward(run, inputs.dy, inputs.dh, inputs.dc))
    clipped = backward(run, inputs.dy, inputs.dh, inputs.dc, recurrent_gradient_clip=1e12)
    for key, gradient in _named(clipped).items():
        np.testing.assert_array_equal(gradient, expected[key], err_msg=key)


@SPAN
def test_a_small_recurrent_gradient_clip_bounds(name):
    variant, params, inputs, _ = _case(name)
    bound = 1e-3
    run = forward(variant, params, inputs.x, inputs.h0, inputs.c0)
    free = backward(run, inputs.dy, inputs.dh, inputs.dc).params
    held = backward(run, inputs.dy, inputs.dh, inputs.dc, recurrent_gradient_clip=bound).params
    weight = "recurrent_scale" if variant.cell == "indrnn" else "recurrent_kernel"
    # every step and sample adds at most bound times what the projection sees, below 10
    limit = inputs.x.shape[0] * inputs.x.shape[1] * bound * 10
    assert np.abs(held[weight]).max() <= limit < np.abs(free[weight]).max()


def test_recurrent_gradient_clip_of_a_simple_step_by_hand():
    variant, w, inputs, _ = _case("simple", steps=1)
    run = forward(variant, w, inputs.x, inputs.h0)
    gradients = backward(run, inputs.dy, recurrent_gradient_clip=0.3)
    dp = inputs.dy[0] * (1 - run.y[0] ** 2)
    clipped = np.clip(dp, -0.3, 0.3)
    assert np.abs(dp).min() < 0.3 < np.abs(dp).max()
    assert_close(
        "recurrent_kernel", gradients.params["recurrent_kernel"], inputs.h0.T @ clipped, "float64"
    )
    assert_close("h0", gradients.h0, clipped @ w["recurrent_kernel"].T, "float64")
    assert_close("x", gradients.x[0], dp @ w["kernel"].T, "float64")
    assert_close("bias", gradients.params["bias"], dp.sum(0), "float64")


def test_recurrent_gradient_clip_of_an_indrnn_step_by_hand():
    variant, w, inputs, _ = _case("indrnn", steps=1)
    run = forward(variant, w, inputs.x, inputs.h0)
    gradients = backward(run, inputs.dy, recurrent_gradient_clip=0.3)
    dp = inputs.dy[0] * (1 - run.y[0] ** 2)
    clipped = np.clip(dp, -0.3, 0.3)
    assert_close("h0", gradients.h0, clipped * w["recurrent_scale"], "float64")
    scale = (clipped * inputs.h0).sum(0)
    assert_close("recurrent_scale", gradients.params["recurrent_scale"], scale, "float64")
    assert_close("bias_h", gradients.params["bias_h"], dp.sum(0), "float64")


def test_recurrent_gradient_clip_of_a_gru_with_reset_before_by_hand():
    variant, w, inputs, _ = _case("gru_before", steps=1)
    bound = 0.05
    gradients = backward(
        forward(variant, w, inputs.x, inputs.h0), inputs.dy, recurrent_gradient_clip=bound
    )
    h, u = inputs.h0, w["recurrent_kernel"]
    units = h.shape[1]
    u_rz, u_n = u[:, : 2 * units], u[:, 2 * units :]
    x_part = inputs.x[0] @ w["kernel"] + w["bias_x"] + w["bias_h"] + w["bias"]
    r, z = np.split(_sigmoid(x_part[:, : 2 * units] + h @ u_rz), 2, 1)
    n = np.tanh(x_part[:, 2 * units :] + (r * h) @ u_n)
    dy = inputs.dy[0]
    dn = np.clip(dy * (1 - z) * (1 - n**2), -bound, bound)
    drh = dn @ u_n.T
    drz = np.concatenate([drh * h * r * (1 - r), dy * (h - n) * z * (1 - z)], 1)
    drz = np.clip(drz, -bound, bound)
    assert_close("h0", gradients.h0, dy * z + drh * r + drz @ u_rz.T, "float64")
    recurrent = np.concatenate([h.T @ drz, (r * h).T @ dn], 1)
    assert_close("recurrent_kernel", gradients.params["recurrent_kernel"], recurrent, "float64")


def test_recurrent_gradient_clip_of_a_pre_norm_is_of_the_whole_product():
    variant, w, inputs, _ = _case("simple_pre_linear", steps=1)
    run = forward(variant, w, inputs.x, inputs.h0)
    gradients = backward(run, inputs.dy, recurrent_gradient_clip=0.3)
    joined = np.concatenate([inputs.x[0], inputs.h0], 1)
    normed = _layer_norm(joined, w["pre_norm_gain"], w["pre_norm_bias"])
    clipped = np.clip(inputs.dy[0], -0.3, 0.3)
    inputs_width = inputs.x.shape[2]
    assert_close(
        "kernel", gradients.params["kernel"], normed[:, :inputs_width].T @ clipped, "float64"
    )
    assert_close("bias", gradients.params["bias"], inputs.dy[0].sum(0), "float64")


def test_recurrent_gradient_clip_of_a_carried_cell_norm_by_hand():
    variant, w, inputs, _ = _case("lstm_x_h_cell_carry", steps=1)
    run = forward(variant, w, inputs.x, inputs.h0, inputs.c0)
    assert inputs.c0 is not None and inputs.dc is not None
    zeros, bound = np.zeros_like(inputs.dy), 1.0
    gradients = backward(run, zeros, dc=inputs.dc, recurrent_gradient_clip=bound)
    raw = [inputs.x[0] @ w["kernel"], inputs.h0 @ w["recurrent_kernel"]]
    normed = [
        _layer_norm(v, w[f"{site}_norm_gain"], w[f"{site}_norm_bias"], variant.epsilon)
        for v, site in zip(raw, "xh", strict=True)
    ]
    i, f, g, _ = np.split(normed[0] + normed[1] + w["bias"], 4, 1)
    cell = _sigmoid(f) * inputs.c0 + _sigmoid(i) * np.tanh(g)
    scale = np.sqrt(cell.var(1, keepdims=True) + variant.epsilon)
    u, du = (cell - cell.mean(1, keepdims=True)) / scale, inputs.dc * w["cell_norm_gain"]
    dcell = (du - du.mean(1, keepdims=True) - u * (du * u).mean(1, keepdims=True)) / scale
    assert np.abs(dcell).min() < bound < np.abs(dcell).max()
    clipped = np.clip(dcell, -bound, bound)
    assert gradients.c0 is not None
    assert_close("c0", gradients.c0, clipped * _sigmoid(f), "float64")
    dgain = (inputs.dc * u).sum(0)
    assert_close("cell_norm_gain", gradients.params["cell_norm_gain"], dgain, "float64")


def test_recurrent_gradient_clip_of_peepholes_by_hand():
    variant = VARIANTS["lstm"].replace(peephole="after")
    w, inputs, _ = _drawn(variant, steps=1)
    run = forward(variant, w, inputs.x, inputs.h0, inputs.c0)
    bound = 0.1
    gradients = backward(run, inputs.dy, recurrent_gradient_clip=bound)
    raw = inputs.x[0] @ w["kernel"] + inputs.h0 @ w["recurrent_kernel"] + w["bias"]
    (i, f, g, o), (w_i, w_f, w_o) = np.split(raw, 4, 1), np.split(w["peephole"], 3)
    assert inputs.c0 is not None
    i, f = _sigmoid(i + w_i * inputs.c0), _sigmoid(f + variant.forget_bias + w_f * inputs.c0)
    cell = f * inputs.c0 + i * np.tanh(g)
    o = _sigmoid(o + w_o * cell)
    dy = inputs.dy[0]
    do = np.clip(dy * np.tanh(cell) * o * (1 - o), -bound, bound)
    dcell = dy * o * (1 - np.tanh(cell) ** 2) + do * w_o
    di = np.clip(dcell * np.tanh(g) * i * (1 - i), -bound, bound)
    df = np.clip(dcell * inputs.c0 * f * (1 - f), -bound, bound)
    for clipped in (di, df, do):
        assert np.abs(clipped).min() < bound == np.abs(clipped).max()
    assert gradients.c0 is not None
    assert_close("c0", gradients.c0, dcell * f + di * w_i + df * w_f, "float64")
    peephole = [(d * c).sum(0) for d, c in ((di, inputs.c0), (df, inputs.c0), (do, cell))]
    assert_close("peephole", gradients.params["peephole"], np.concatenate(peephole), "float64")


@SPAN
def test_recurrent_gradient_clip_holds_behind_zeros(name):
    """Each norm multiplies by at most 1 / sqrt(epsilon), and no step does after another."""
    variant = VARIANTS[name].replace(epsilon=1e-12)
    w, inputs, _ = _drawn(variant, steps=63, batch=2)
    for weight in w:
        if weight.endswith("_gain"):
            w[weight] = np.ones_like(w[weight])
        elif "bias" in weight:
            w[weight] = np.zeros_like(w[weight])
    inputs.x[:60] = 0
    gradients = backward(forward(variant, w, inputs.x), inputs.dy, recurrent_gradient_clip=1.0)
    largest = max(np.abs(g).max() for g in _named(gradients).values() if g is not None)
    assert largest < (1e9 if variant.epsilon_at == "variance" else 1e15)


# ---- the door


@pytest.mark.parametrize(
    "cell, given, message",
    [
        ("lstm", {"x": np.zeros((2, 3))}, r"x has the shape \(T, B, 3\).*got \(2, 3\)"),
        ("lstm", {"x": np.zeros((2, 3, 4))}, r"x has the shape \(T, B, 3\)"),
        ("lstm", {"h0": np.zeros((3, 4))}, r"h0 has the shape \(3, 5\) here; got \(3, 4\)"),
        ("lstm", {"c0": np.zeros(5)}, "c0 has the shape"),
        ("gru", {"c0": np.zeros((3, 5))}, "c0 belongs to cell='lstm'; got it for cell='gru'"),
        ("gru", {"take_c": 0.5}, "take_c belongs to"),
        ("simple", {"candidate_mask": np.ones((3, 5))}, "candidate_mask belongs to"),
        ("indrnn", {"candidate_mask": np.ones((3, 5))}, "candidate_mask belongs to"),
        ("lstm", {"mask": np.ones((3, 2), bool)}, r"mask has the shape \(2, 3\)"),
        ("lstm", {"reset": np.ones((2, 3, 1), bool)}, "reset has the shape"),
        ("lstm", {"take_h": np.ones((3, 5))}, r"take_h has the shape \(2, 3, 5\) or \(\)"),
        ("lstm", {"recurrent_mask": 0.5}, r"recurrent_mask has the shape \(2, 3, 5\) or \(3, 5\)"),
        ("lstm", {"masked_output": "skip"}, "masked_output is one of 'repeat', 'hold', 'zero'"),
    ],
)
def test_forward_refuses(cell, given, message):
    variant = Variant(cell=cell)
    params = random_params(variant, Sizes(3, 5, 5), np.random.default_rng(0))
    with pytest.raises(ValueError, match=message):
        forward(variant, params, **({"x": np.zeros((2, 3, 3))} | given))


@pytest.mark.parametrize(
    "given, message",
    [
        ({"dy": np.zeros((2, 5))}, "dy has the shape"),
        ({"dh": np.zeros(5)}, "dh has the shape"),
        ({"dc": np.zeros((3, 5))}, "Only an lstm has a c"),
        ({"recurrent_gradient_clip": 0.0}, "recurrent_gradient_clip is a positive bound"),
    ],
)
def test_backward_refuses(given, message):
    variant, params, inputs, _ = _case("gru", steps=2)
    run = forward(variant, params, inputs.x)
    with pytest.raises(ValueError, match=message):
        backward(run, **({"dy": inputs.dy} | given))


# ---- any legal variant


def _norms(gates: str) -> st.SearchStrategy[tuple[Norm, ...]]:
    """Norms at any sites; gates with the same label share their statistics."""
    labels = st.lists(st.integers(0, 3), min_size=len(gates), max_size=len(gates))

    @st.composite
    def draw_norms(draw) -> tuple[Norm, ...]:
        if draw(st.integers(0, 9)) == 0:
            return (Norm("pre", "", draw(st.booleans()), draw(st.booleans())),)
        found: list[Norm] = []
        summed = draw(st.sampled_from(["", "", gates, gates[-1], gates[:-1]]))
        sites: tuple[tuple[Site, str], ...] = (("sum", summed), ("x", gates), ("h", gates))
        for site, covered in sites:
            label = dict(zip(gates, draw(labels), strict=True))
            for group in range(1 if site == "sum" else 0, 3):
                members = "".join(
                    g
                    for g in covered
                    if label[g] % 3 == group and (site == "sum" or g not in summed)
                )
                if members and draw(st.integers(0, 3)):
                    found.append(Norm(site, members, draw(st.booleans()), draw(st.booleans())))
        return tuple(found)

    return draw_norms()


@st.composite
def variants(draw) -> Variant:
    """Variants whose fields are all drawn; illegal ones are drawn again."""
    cell = draw(st.sampled_from(["lstm", "gru", "lstm", "gru", "ligru", "simple", "indrnn"]))
    hints = typing.get_type_hints(Variant)
    drawn = {
        "cell": st.just(cell),
        "epsilon": st.sampled_from([1e-2, 1e-5]),
        "forget_bias": st.sampled_from([0.0, 1.0]),
        "update_bias": st.sampled_from([0.0, -1.0]),
        "cell_clip": st.sampled_from([None, 0.7]),
        "hidden_clip": st.sampled_from([None, 0.5]),
        "projection_clip": st.sampled_from([None, 0.4]),
    }
    own = {
        "lstm": "cell_norm cell_norm_gain cell_norm_bias forget_bias coupled capped peephole "
        "output_peephole cell_clip cell_clip_at hidden_clip projection projection_bias "
        "projection_clip output_activation recurrent_activation",
        "gru": "reset update update_bias coupled recurrent_activation cell_clip",
        "ligru": "update update_bias recurrent_activation",
    }
    common = "norm epsilon epsilon_at ddof bias_x bias_h bias tied_bias hidden_norm activation"
    fields = {"cell": cell}
    for name in f"{common} {own.get(cell, '')}".split():
        options = typing.get_args(hints[name]) or (False, True)
        fields[name] = draw(drawn.get(name, st.sampled_from(options)))
    if fields.get("coupled"):
        fields["capped"] = False
    gates = Variant(cell=cell, coupled=fields.get("coupled", False)).gates
    norms = draw(_norms(gates))
    if fields.get("peephole") == "inside":
        norms = tuple(Norm("sum", g, draw(st.booleans()), draw(st.booleans())) for g in gates)
    # what would be refused too often to be drawn by chance
    if fields["norm"] == "rms":
        fields["ddof"] = 0
    if fields["tied_bias"]:
        fields |= {"bias": True, "bias_x": False}
    if any(norm.site == "pre" for norm in norms):
        fields |= {"bias_x": False, "bias_h": False, "tied_bias": False}
    if cell == "lstm":
        if not fields["projection"]:
            fields |= {"projection_bias": False, "projection_clip": None}
        if fields["peephole"] != "after":
            fields["output_peephole"] = "gate"
        if fields["cell_norm"] != "carry":
            fields["cell_clip_at"] = draw(st.sampled_from(["before_norm", "incoming", "carried"]))
    try:
        return Variant(**fields, norms=norms)
    except ValueError:
        reject()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(variant=variants(), seed=st.integers(0, 2**32 - 1), masked=st.booleans())
def test_gradients_of_any_variant(variant, seed, masked):
    rng = np.random.default_rng(seed)
    sizes = sizes_for(variant, 2, 4, 3)
    params = random_params(variant, sizes, rng)
    inputs = random_inputs(variant, sizes, rng, 3, 2, EXTRAS if masked else ())
    _check_gradients(variant, params, inputs, rng)


@pytest.mark.parametrize("dialect", ["haste_lnlstm", "nematus_lngru", "tfa_lnsimplernn"])
def test_contract(dialect: str) -> None:
    verify_contract(adapters.choose("reference"), dialects.get(dialect).variant)
