"""Variants that span the whole space, with random weights and inputs for them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lnrnn.params import Sizes, shapes
from lnrnn.variant import Norm, Site, Variant

Array = NDArray[np.float64]
Extra = Literal["mask", "reset", "zoneout", "recurrent_mask", "candidate_mask", "reset_states"]


def _each(site: Site, gates: str, gain: bool = True, bias: bool = True) -> tuple[Norm, ...]:
    """One norm for each gate."""
    return tuple(Norm(site, gate, gain, bias) for gate in gates)


_X_H = (Norm("x"), Norm("h"))
_GAINS = (Norm("x", bias=False), Norm("h", bias=False))
_BOTH_SIDES = {"bias_x": True, "bias_h": True}


def _simple(*norms: Norm, **fields: Any) -> Variant:
    return Variant(cell="simple", norms=norms, **fields)


def _ligru(*norms: Norm, **fields: Any) -> Variant:
    return Variant(cell="ligru", norms=norms, **fields)


def _gru(*norms: Norm, **fields: Any) -> Variant:
    return Variant(cell="gru", norms=norms, **fields)


def _lstm(*norms: Norm, **fields: Any) -> Variant:
    return Variant(cell="lstm", norms=norms, **fields)


# name: cell, sites (with the gates that share statistics), then what is special
VARIANTS: dict[str, Variant] = {
    "simple": _simple(bias=True),
    "simple_x_h": _simple(*_X_H, **_BOTH_SIDES),
    "simple_x_relu": _simple(Norm("x"), bias=True, activation="relu"),
    "simple_h": _simple(Norm("h"), bias_h=True, epsilon=1e-3),
    "simple_sum": _simple(Norm("sum"), bias_x=True, epsilon=1e-3),
    "simple_sum_gain": _simple(Norm("sum", bias=False), bias=True, activation="sigmoid"),
    "simple_pre_linear": _simple(Norm("pre"), bias=True, activation="linear"),
    "simple_x_h_tied_bias": _simple(*_X_H, bias=True, tied_bias=True),
    "indrnn": _simple(bias=True, bias_h=True).replace(cell="indrnn"),
    "indrnn_x": Variant(cell="indrnn", norms=(Norm("x", bias=False),), bias=True),
    "ligru": _ligru(bias_x=True, bias_h=True, activation="relu"),
    "ligru_x": _ligru(Norm("x"), activation="relu"),
    "ligru_x_h_no_affine": _ligru(Norm("x"), Norm("h", gain=False, bias=False)),
    "ligru_sum_new": _ligru(Norm("sum"), update="new", update_bias=-1.0, bias=True),
    "ligru_mixed_sites": _ligru(*_each("sum", "z"), *_each("x", "n"), *_each("h", "n")),
    "ligru_pre_rms": _ligru(Norm("pre", bias=False), norm="rms", bias=True),
    "gru": _gru(bias_x=True, bias_h=True),
    "gru_x_h": _gru(*_X_H),
    "gru_x_h_inner_bias": _gru(*_X_H, **_BOTH_SIDES, epsilon=1e-6),
    "gru_x_h_groups": _gru(
        *(Norm(site, gates) for site in ("x", "h") for gates in ("rz", "n")), bias_x=True
    ),
    "gru_x_h_new_hard_sigmoid": _gru(*_X_H, update="new", recurrent_activation="hard_sigmoid"),
    "gru_x_h_rms": _gru(*_GAINS, norm="rms", bias_x=True, bias=True),
    "gru_x_h_crossed_groups": _gru(
        Norm("x", "rn", bias=False), Norm("x", "z"), Norm("h", "zn"), Norm("h", "r", gain=False)
    ),
    "gru_mixed_sites": _gru(*_each("sum", "rz"), *_each("x", "n"), *_each("h", "n"), bias=True),
    "gru_inside_sum_each": _gru(*_each("sum", "rzn"), **_BOTH_SIDES, reset="inside"),
    "gru_inside_groups": _gru(*_each("sum", "n"), Norm("x", "rz"), Norm("h", "rz"), reset="inside"),
    "gru_before": _gru(**_BOTH_SIDES, bias=True, reset="before"),
    "gru_before_sum_each_clip": _gru(
        *_each("sum", "rzn", bias=False),
        bias=True,
        bias_h=True,
        epsilon=1e-8,
        reset="before",
        update="new",
        cell_clip=0.5,
    ),
    "gru_before_x_h_groups": _gru(
        Norm("x"), Norm("h", "rz"), Norm("h", "n"), bias=True, bias_h=True, reset="before"
    ),
    "gru_whole_sum": _gru(
        Norm("sum"), bias_x=True, epsilon=1e-3, reset="whole", update="new", update_bias=-1.0
    ),
    "gru_whole_x_h": _gru(*_X_H, bias=True, reset="whole"),
    "gru_whole_pre": _gru(
        Norm("pre"), bias=True, epsilon=1e-4, reset="whole", update="new", update_bias=-1.0
    ),
    "gru_after_pre_rms": _gru(Norm("pre", bias=False), norm="rms", bias=True),
    "gru_minimal_before_hidden": _gru(
        Norm("x"), Norm("h", "z"), coupled=True, reset="before", hidden_norm=True
    ),
    "gru_minimal_inside": _gru(*_each("sum", "zn"), coupled=True, reset="inside", update="new"),
    "gru_x_h_deviation": _gru(*_X_H, epsilon=1e-2, epsilon_at="deviation", ddof=1),
    "lstm": _lstm(bias=True, forget_bias=1.0),
    "lstm_linear_output": _lstm(bias=True, output_activation="linear", activation="relu"),
    "lstm_x_h": _lstm(*_GAINS, bias=True),
    "lstm_x_h_groups": _lstm(
        *(Norm(site, gates) for site in ("x", "h") for gates in ("ifo", "g")), bias=True
    ),
    "lstm_x_h_cell_output": _lstm(*_GAINS, bias=True, cell_norm="output"),
    "lstm_x_h_cell_output_tied_bias": _lstm(
        *_X_H, bias=True, tied_bias=True, bias_h=True, cell_norm="output"
    ),
    "lstm_x_h_cell_carry": _lstm(*_X_H, bias=True, cell_norm="carry", epsilon=1e-3),
    "lstm_x_h_cell_carry_ddof": _lstm(
        *_X_H, **_BOTH_SIDES, cell_norm="carry", epsilon=1e-6, ddof=1
    ),
    "lstm_x_h_cell_carry_rms": _lstm(
        *_GAINS, cell_norm="carry", cell_norm_bias=False, norm="rms", bias=True
    ),
    "lstm_x_h_cell_carry_only": _lstm(
        Norm("x"), Norm("h", bias=False), cell_norm="carry_only", forget_bias=1.0
    ),
    "lstm_x_h_cell_after_tanh": _lstm(*_X_H, **_BOTH_SIDES, cell_norm="after_tanh"),
    "lstm_cell_output_deviation": _lstm(
        bias=True, cell_norm="output", epsilon=1e-2, epsilon_at="deviation"
    ),
    "lstm_x_h_hidden": _lstm(*_X_H, cell_norm="carry", hidden_norm=True),
    "lstm_x_h_capped_clip_carried": _lstm(
        *_GAINS,
        bias=True,
        capped=True,
        cell_norm="output",
        peephole="after",
        cell_clip=0.6,
        cell_clip_at="carried",
    ),
    "lstm_pre_cell_output": _lstm(Norm("pre", gain=False), bias=True, cell_norm="output"),
    "lstm_sum": _lstm(Norm("sum"), bias=True, forget_bias=1.0),
    "lstm_sum_cell_carry": _lstm(Norm("sum"), cell_norm="carry"),
    "lstm_sum_epsilon_zero": _lstm(*_each("sum", "ifgo"), bias=True, epsilon=0.0),
    "lstm_sum_each_hard_sigmoid": _lstm(
        *_each("sum", "ifgo", bias=False), bias=True, recurrent_activation="keras2_hard_sigmoid"
    ),
    "lstm_sum_each_cell_output": _lstm(
        *_each("sum", "ifgo"), cell_norm="output", cell_norm_gain=False, forget_bias=1.0
    ),
    "lstm_sum_each_cell_carry_projection": _lstm(
        *_each("sum", "ifgo"), **_BOTH_SIDES, cell_norm="carry", projection=True
    ),
    "lstm_sum_each_clip_linear": _lstm(
        *_each("sum", "ifgo"), cell_clip=0.6, output_activation="linear", bias=True
    ),
    "lstm_sum_each_clip_cell_output": _lstm(
        *_each("sum", "ifgo"), cell_clip=0.6, cell_norm="output", cell_norm_bias=False
    ),
    "lstm_mixed_sites": _lstm(
        Norm("sum", "if"), Norm("x", "go"), *_each("h", "go", bias=False), cell_norm="carry_only"
    ),
    "lstm_peephole_projection_clip": _lstm(
        bias=True, peephole="after", cell_clip=0.7, projection=True, projection_clip=0.3
    ),
    "lstm_peephole_clip_after_norm": _lstm(
        *_each("sum", "ifgo"),
        cell_norm="carry",
        forget_bias=1.0,
        epsilon=1e-12,
        peephole="after",
        cell_clip=1.0,
        cell_clip_at="after_norm",
    ),
    "lstm_peephole_cell_carry_only": _lstm(
        *_X_H, peephole="after", cell_norm="carry_only", cell_clip=0.8
    ),
    "lstm_peephole_cell_output": _lstm(*_X_H, peephole="after", cell_norm="output"),
    "lstm_peephole_in_cell_incoming_clips": _lstm(
        Norm("sum"),
        bias=True,
        forget_bias=1.0,
        peephole="after",
        output_peephole="cell",
        cell_clip=0.7,
        cell_clip_at="incoming",
        hidden_clip=0.3,
        projection=True,
    ),
    "lstm_peephole_inside": _lstm(
        *_each("sum", "ifgo"),
        epsilon=1e-8,
        peephole="inside",
        cell_clip=0.8,
        projection=True,
        projection_bias=True,
        projection_clip=0.4,
    ),
    "lstm_peephole_inside_cell_carry": _lstm(
        Norm("sum", "ifg"), Norm("sum", "o"), peephole="inside", cell_norm="carry", bias=True
    ),
    "lstm_coupled": _lstm(bias=True, coupled=True, forget_bias=1.0),
    "lstm_coupled_x_h_cell_output": _lstm(*_GAINS, coupled=True, bias=True, cell_norm="output"),
    "lstm_coupled_peephole": _lstm(
        *_each("sum", "fgo"), coupled=True, peephole="after", cell_norm="carry", forget_bias=1.0
    ),
    "lstm_coupled_peephole_inside": _lstm(
        *_each("sum", "fgo"), coupled=True, peephole="inside", cell_clip=0.8, bias=True
    ),
    "lstm_projection_hidden": _lstm(
        Norm("sum"), projection=True, projection_bias=True, hidden_norm=True, bias=True
    ),
}


def sizes_for(variant: Variant, inputs: int = 3, units: int = 5, projected: int = 4) -> Sizes:
    """Sizes I, H and R; R is `projected` with a projection and `units` without."""
    return Sizes(inputs, units, projected if variant.projection else units)


def random_params(
    variant: Variant, sizes: Sizes, rng: np.random.Generator, learned_state: bool = False
) -> dict[str, Array]:
    """Weights in float64 without any symmetry: a swapped pair of gates is always seen.

    Matrices are normal over the square root of their rows, gains about 1, all else about 0.

    Args:
        variant: the cell.
        sizes: I, H and R.
        rng: the source of randomness.
        learned_state: with the states that a sequence begins with.

    Returns:
        A dict from name to array, as [lnrnn.params.shapes][] says.
    """
    params: dict[str, Array] = {}
    for name, shape in shapes(variant, sizes, learned_state).items():
        value = rng.standard_normal(shape)
        if len(shape) == 2:
            params[name] = value / np.sqrt(shape[0])
        elif name.endswith("_gain"):
            params[name] = 1 + 0.4 * value
        else:
            params[name] = 0.5 * value
    return params


class Inputs(NamedTuple):
    """A sequence and the gradients of its results; `extras` are keywords of `forward`.

    x (T,B,I), h0 (B,R), c0 (B,H; None unless lstm), dy (T,B,R), dh (B,R), dc (B,H; lstm).
    """

    x: Array
    h0: Array
    c0: Array | None
    dy: Array
    dh: Array
    dc: Array | None
    extras: dict[str, Any]


def random_inputs(
    variant: Variant,
    sizes: Sizes,
    rng: np.random.Generator,
    steps: int = 5,
    batch: int = 3,
    extras: Collection[Extra] = (),
) -> Inputs:
    """Random inputs, states, gradients and, where asked for, masks.

    Args:
        variant: the cell.
        sizes: I, H and R.
        rng: the source of randomness.
        steps: T.
        batch: B.
        extras: `"mask"` and `"reset"` (T,B); `"zoneout"`: take_h (T,B,R) and, for an lstm,
            take_c (T,B,H), zeros and ones; `"recurrent_mask"` (B,R) and `"candidate_mask"`
            (T,B,H), 0 or 1.25, the latter left out where the cell has no place for it;
            `"reset_states"`: reset_h (B,R) and, for an lstm, reset_c (B,H).

    Returns:
        the inputs in float64.
    """
    units, hidden, lstm = sizes.units, sizes.hidden, variant.cell == "lstm"
    x = rng.standard_normal((steps, batch, sizes.inputs))
    h0, dh = 0.5 * rng.standard_normal((batch, hidden)), rng.standard_normal((batch, hidden))
    c0, dc = rng.standard_normal((2, batch, units))
    dy = rng.standard_normal((steps, batch, hidden))
    gated = variant.cell not in ("simple", "indrnn")
    drawn: dict[str, Any] = {}
    if "mask" in extras:
        drawn["mask"] = rng.random((steps, batch)) < 0.7
    if "reset" in extras:
        drawn["reset"] = rng.random((steps, batch)) < 0.2
    if "zoneout" in extras:
        drawn["take_h"] = (rng.random((steps, batch, hidden)) < 0.7).astype(float)
        if lstm:
            drawn["take_c"] = (rng.random((steps, batch, units)) < 0.7).astype(float)
    if "recurrent_mask" in extras:
        drawn["recurrent_mask"] = 1.25 * (rng.random((batch, hidden)) < 0.8)
    if "candidate_mask" in extras and gated:
        drawn["candidate_mask"] = 1.25 * (rng.random((steps, batch, units)) < 0.8)
    if "reset_states" in extras:
        drawn["reset_h"] = 0.5 * rng.standard_normal((batch, hidden))
        if lstm:
            drawn["reset_c"] = rng.standard_normal((batch, units))
    return Inputs(x, h0, c0 if lstm else None, dy, dh, dc if lstm else None, drawn)
