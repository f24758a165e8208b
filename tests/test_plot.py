"""Pictures of traces show the numbers of the traces, and the measures are what they say."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from lnrnn import Norm, Variant, dialects, plot, reference, trace
from lnrnn.insight import measures
from lnrnn.insight.reach import forget_times
from lnrnn.insight.trace import LayerTrace, Trace
from lnrnn.testing import VARIANTS, random_params, sizes_for

T, B, H = 12, 3, 5


def layer_of(variant: Variant, params: Any, x: np.ndarray, **given: Any) -> LayerTrace:
    weights = SimpleNamespace(variant=variant, params=params, zoneout=0.0, zoneout_cell=0.0)
    return trace(weights, x, **given).single


def traced(variant: Variant, mask: np.ndarray | None = None, seed: int = 0) -> LayerTrace:
    rng = np.random.default_rng(seed)
    sizes = sizes_for(variant, units=H)
    params = random_params(variant, sizes, rng)
    x = rng.standard_normal((T, B, sizes.inputs))
    return layer_of(variant, params, x, **({} if mask is None else {"mask": mask}))


def lengths(*counts: int) -> np.ndarray:
    return np.arange(T)[:, None] < np.array(counts)


LSTM, GRU, SIMPLE = (
    dialects.get(n).variant for n in ("haste_lnlstm", "haste_lngru", "book_lnsimplernn")
)


@pytest.mark.parametrize("name", ["lstm_x_h_hidden", "gru_before_sum_each_clip", "indrnn_x"])
def test_a_gradient_is_carried_back_as_differences_say(name):
    """Restart the sequence from a changed state, and see how much the last outputs change."""
    variant = VARIANTS[name]
    layer = traced(variant)
    norms = measures.carried_back(layer)
    v = np.random.default_rng(0).normal(size=layer["h"][-1].shape)
    v /= np.sqrt((v**2).sum(1, keepdims=True))
    small = 1e-6
    for step in (T - 2, T - 5):
        states = [layer[name][step] for name in variant.states]
        squares = np.zeros(B)
        for place, state in enumerate(states):
            for unit in range(state.shape[1]):
                ends = []
                for sign in (1, -1):
                    changed = [s.copy() for s in states]
                    changed[place][:, unit] += sign * small
                    run = reference.forward(variant, layer.params, layer["x"][step + 1 :], *changed)
                    ends.append((v * run.h).sum(1))
                squares += ((ends[0] - ends[1]) / (2 * small)) ** 2
        assert norms[T - 1 - step] == pytest.approx(np.sqrt(squares.mean()), rel=1e-5)
    assert norms[0] == pytest.approx(1.0)


def test_masked_steps_are_no_distance():
    """Padding, at either end and between, changes nothing."""
    layer = traced(SIMPLE)
    x = layer["x"][:4]
    padded, mask = np.full((9, *x.shape[1:]), 7.0), np.zeros((9, B), bool)
    for sequence, places in enumerate(([0, 1, 2, 3], [5, 6, 7, 8], [1, 4, 5, 7])):
        padded[places, sequence], mask[places, sequence] = x[:, sequence], True
    found = measures.carried_back(layer_of(SIMPLE, layer.params, padded, mask=mask))
    whole = measures.carried_back(layer_of(SIMPLE, layer.params, x))
    np.testing.assert_allclose(found, whole, rtol=1e-12)


def test_a_reach_ends_below_a_millionth():
    cell = Variant(cell="simple", activation="linear")
    weights = {"kernel": np.ones((1, 1)), "recurrent_kernel": np.full((1, 1), 0.5)}
    norms = measures.carried_back(layer_of(cell, weights, np.ones((25, 1, 1))))
    np.testing.assert_allclose(norms, 0.5 ** np.arange(25))
    assert measures.reach(norms) == 19
    assert measures.reach(norms[:9]) == 8


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_loses_its_norms_and_nothing_else(name):
    variant = VARIANTS[name]
    layer = traced(variant)
    plain = measures.without_norms(layer)
    assert not [name for name in plain.run.inside[0] if "norm" in name]
    shared = set(plain.params) & set(layer.params) - {"bias", "bias_x", "bias_h"}
    assert shared >= {"kernel"}
    for weight in shared:
        np.testing.assert_array_equal(plain.params[weight], layer.params[weight])


def test_biases_of_norms_stay():
    variant = Variant(
        cell="gru", norms=(Norm("x"), Norm("h", "rn"), Norm("h", "z", bias=False)), bias_h=True
    )
    layer = traced(variant)
    params, plain = layer.params, measures.without_norms(layer).params
    np.testing.assert_array_equal(plain["bias_x"], params["x_norm_bias"])
    r, n = np.split(params["h_norm_bias"], 2)
    expected = params["bias_h"] + np.concatenate([r, np.zeros(H), n])
    np.testing.assert_allclose(plain["bias_h"], expected, rtol=1e-12)


@pytest.mark.parametrize("update", ["keep", "new"])
def test_forget_times_are_of_what_is_kept(update):
    layer = traced(GRU.replace(update=update), lengths(T, 4, 7))
    kept = layer["z"] if update == "keep" else 1 - layer["z"]
    mean = sum(kept[:n, b].sum(0) for b, n in enumerate((T, 4, 7))) / (T + 4 + 7)
    times = forget_times(layer)
    assert times is not None
    np.testing.assert_allclose(times, -1 / np.log(mean))
    assert forget_times(traced(SIMPLE)) is None


def test_saturation_counts_gates_at_their_ends():
    layer = traced(LSTM, lengths(T, 2, 2))
    layer["o"][:, 0] = np.where(np.arange(T)[:, None] % 2, 1e-3, 0.999)
    layer["o"][2:, 1:] = 0.0  # masked
    assert measures.saturated(layer) == pytest.approx(T / (T + 4) / 3)


def test_the_gates_are_those_of_the_trace():
    layer = traced(LSTM, lengths(T, 4, T))
    axes = plot(Trace({"lstm": layer}), sequence=1)["gates"].axes
    drawn = {a.get_title(): np.asarray(a.images[0].get_array()) for a in axes if a.get_title()}
    assert list(drawn) == [
        "input gate i", "forget gate f", "candidate g", "output gate o", "cell c", "state h"
    ]  # fmt: skip
    order = np.argsort(layer["f"][:4, 1].mean(0))
    for title, values in drawn.items():
        np.testing.assert_array_equal(values[:, :4], layer[title[-1]][:4, 1][:, order].T)


@pytest.mark.parametrize("at", ["variance", "deviation"])
def test_variances_are_drawn_with_epsilon(at):
    layer = traced(LSTM.replace(epsilon=1e-3, epsilon_at=at))
    (axes,) = plot(Trace({"lstm": layer}))["norms"].axes
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes.lines}
    variance = layer["h_norm[ifgo].variance"][..., 0]
    # before the first step h is zero, which stands at the foot
    assert lines["h: i f g o"][0] == pytest.approx(axes.get_ylim()[0])
    np.testing.assert_array_equal(lines["h: i f g o"][1:], np.median(variance, 1)[1:])
    name, floor = {"variance": ("epsilon", 1e-3), "deviation": ("epsilon squared", 1e-6)}[at]
    np.testing.assert_allclose(lines[name], floor)


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Texts of a figure that lie over one another as it is drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = []
    texts: Any = figure.findobj(Text)
    for text in texts:
        box = text.get_window_extent(canvas.get_renderer())
        if text.get_visible() and text.get_text() and box.width and text.axes is not None:
            boxes.append((text.get_text(), box.padded(-1)))
    shown = [(t, b) for t, b in boxes if figure.bbox.overlaps(b)]
    return [(s, t) for (s, a), (t, b) in combinations(shown, 2) if a.overlaps(b)]


@pytest.mark.parametrize("variant", [LSTM, GRU, SIMPLE], ids=lambda v: v.cell)
def test_pictures_are_written_and_no_text_lies_over_another(variant, tmp_path):
    first, second = (traced(variant, seed=seed) for seed in (0, 1))
    figures = plot(Trace({"layers.0.forward": first, "layers.0.reverse": second}), tmp_path / "new")
    names = {"gates", "norms", "gradient", "forget_times"} - (
        {"forget_times"} if variant is SIMPLE else set()
    )
    assert set(figures) == names
    files = {f"{name}.{ending}" for name in names for ending in ("png", "svg")}
    assert {p.name for p in Path(tmp_path, "new").iterdir()} == files
    for figure in figures.values():
        assert overlaps(figure) == []


def test_a_plain_layer_of_one_step_has_gates_alone():
    layer = traced(Variant(cell="simple", bias=True))
    one = {name: values[:1] for name, values in layer.items()}
    short = replace(layer, arrays=one, mask=layer.mask[:1])
    assert list(plot(Trace({"rnn": short}))) == ["gates"]


def test_a_gradient_beyond_all_numbers_is_left_out():
    """As behind zeros, where it becomes infinite and then NaN."""
    layer = traced(LSTM)
    params = {n: p * (0 if n.endswith("bias") else 1) for n, p in layer.params.items()}
    blank = layer_of(LSTM, params, 0 * layer["x"])
    (axes,) = plot(Trace({"lstm": blank}))["gradient"].axes
    drawn = np.asarray(axes.lines[0].get_ydata())
    assert np.nanmax(drawn) > 1e20


def test_a_sequence_that_is_not_there():
    with pytest.raises(ValueError, match=r"A trace of 3 sequences .* got sequence=3"):
        plot(Trace({"lstm": traced(LSTM)}), sequence=3)
