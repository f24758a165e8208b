"""What layers say of sizes and weights: only what is so, and with a cure that works."""

from __future__ import annotations

import numpy as np
import pytest

from lnrnn import Norm, Variant, dialects, reference
from lnrnn.frontends import advice, families, initial
from lnrnn.params import Sizes, shapes
from lnrnn.testing import VARIANTS, random_params

Params = dict[str, np.ndarray]
SIZES = Sizes(3, 24, 24)
# of each cell and each place of a norm
TRAPPED = [
    "book_lnsimplernn",
    "tf1_lnbasiclstm",
    "haste_lnlstm",
    "pytorch_fastrnns_lnlstm",
    "returnn_lnlstm_joined_nocell",
    "tf1_cifg_ln_peephole",
    "haste_lngru",
    "lingvo_lngru",
    "embodied_gru_prerms",
    "speechbrain_sligru_ln_tanh",
]
trapped = pytest.mark.parametrize("name", TRAPPED)


def _published(variant: Variant, noise: float = 0.0, seed: int = 0) -> Params:
    """Orthogonal and random matrices, gains of one and biases of zero, or of noise."""
    rng = np.random.default_rng(seed)
    params: Params = {}
    for name, shape in shapes(variant, SIZES).items():
        value = rng.standard_normal(shape)
        if name == "recurrent_kernel":
            value = np.linalg.qr(value.T)[0].T
        params[name] = value / shape[0] ** 0.5 if name == "kernel" else value
        if name.endswith("_gain"):
            params[name] = np.ones(shape)
        elif "bias" in name or name == "peephole":
            params[name] = noise * value
    return params


def _growth(variant: Variant, params: Params, first: int, last: int) -> float:
    """The factor a step by which the gradient of h0 grows between two numbers of zero steps."""
    norms = []
    for steps in (first, last):
        run = reference.forward(variant, params, np.zeros((steps, 1, 3)))
        dh = np.random.default_rng(1).standard_normal(run.h.shape)
        norms.append(np.abs(reference.backward(run, np.zeros_like(run.y), dh).h0).max())
    return (norms[1] / norms[0]) ** (1 / (last - first))


@trapped
def test_the_growth_is_that_of_gradients(name: str) -> None:
    variant = dialects.get(name).variant
    params = _published(variant)
    said = advice.growth_of_a_zero_step(variant, params)
    assert said is not None and 0.5 < said / _growth(variant, params, 4, 9) < 2
    sentence = advice.about_weights(variant, params, None)
    assert sentence is not None and f"about {said:.1g} at each step" in sentence


@trapped
def test_the_cures_work(name: str) -> None:
    variant = dialects.get(name).variant
    params, rng = _published(variant), np.random.default_rng(4)
    states = list(shapes(variant, SIZES, learned_state=True).items())[len(params) :]
    learned = params | {n: initial.STATE_DEVIATION * rng.standard_normal(s) for n, s in states}
    assert advice.about_weights(variant, learned, None) is None
    assert _growth(variant, learned, 4, 30) < 2 < _growth(variant, params, 4, 9)
    assert advice.about_weights(variant, _published(variant), 1.0) is None
    noisy = _published(variant, noise=0.1)
    assert advice.about_weights(variant, noisy, None) is None
    assert _growth(variant, noisy, 4, 30) < 2


@pytest.mark.parametrize("family", families.FAMILIES, ids=lambda family: family.name)
def test_default_biases_are_no_trap_of_any_size(family: families.Family) -> None:
    variant, _ = families.find(family, None)
    rng = np.random.default_rng(2)
    for units in (2, 3, 5, 8):
        for _ in range(20):
            params = random_params(variant, Sizes(3, units, units), rng)
            for weight, value in params.items():
                if weight.endswith("_gain"):
                    value[:] = {"h_norm_gain": 0.1, "sum_norm_gain": 0.25}.get(weight, 1.0)
                elif "bias" in weight:
                    value *= 0.0 if weight in ("cell_norm_bias", "h_norm_bias") else 0.2
            assert advice.about_weights(variant, params, None) is None


def test_a_relu_passes_nothing_back_from_zero() -> None:
    variant = dialects.get("speechbrain_sligru_ln_relu").variant
    params = _published(variant)
    assert _growth(variant, params, 4, 9) < 1
    assert advice.about_weights(variant, params, None) is None


def test_a_plain_cell_has_no_norm_to_speak_of() -> None:
    variant = families.plain(families.LSTM)
    params = _published(variant)
    params["recurrent_kernel"] = 50 * params["recurrent_kernel"]
    assert advice.about_weights(variant, params, None) is None


def test_large_gains_are_not_what_it_is_about() -> None:
    """Where the norms have a variance gradients grow with zeros as with any input."""
    variant = dialects.get("haste_lnlstm").variant
    params = _published(variant, noise=1.0)
    params["h_norm_gain"] = 30 * params["h_norm_gain"]
    assert advice.about_weights(variant, params, None) is None


def test_without_epsilon_a_zero_step_is_nan() -> None:
    variant = dialects.get("pytorch_fastrnns_lnlstm_decomposed").variant
    assert variant.epsilon == 0
    sentence = advice.about_weights(variant, _published(variant), 1.0)
    assert sentence is not None and "epsilon is 0.0: if sequences begin with zeros" in sentence


def test_the_unbiased_variance_of_one_number_is_said_at_construction_alone() -> None:
    variant = dialects.get("lstmspth_lnlstm").variant
    sizes = Sizes(3, 1, 1)
    params = random_params(variant, sizes, np.random.default_rng(5))
    with np.errstate(invalid="ignore"):
        assert np.isnan(reference.forward(variant, params, np.ones((1, 1, 3))).y).all()
    (sentence,) = advice.about_units(variant, sizes)
    assert "A norm over one number is NaN where ddof is 1; got a width of one" in sentence
    assert advice.about_weights(variant, params, None) is None


@pytest.mark.parametrize(
    "name", ["lstm_x_h_hidden", "lstm_sum_each_cell_output", "gru_whole_pre", "simple_h"]
)
def test_gains_of_zero_are_said_whatever_else(name: str) -> None:
    variant = VARIANTS[name]
    params = random_params(variant, SIZES, np.random.default_rng(3))
    gains = [weight for weight in params if weight.endswith("_norm_gain")]
    assert gains
    for gain in gains:
        sentence = advice.about_weights(variant, params | {gain: 0 * params[gain]}, 1.0)
        assert sentence is not None and f"All gains of a norm are zero ({gain})" in sentence
    params[gains[0]][1:] = 0
    assert advice.about_weights(variant, params, 1.0) is None


def _lstm(*norms: Norm, **fields: object) -> Variant:
    return Variant.from_dict({"cell": "lstm", "norms": [vars(n) for n in norms], **fields})


# a variant with one unit, and the norms over one number that the sentence names
ALONE = [
    (dialects.get("haste_lnlstm").variant, "norms of the cell"),
    (dialects.get("haste_lngru").variant, None),
    (dialects.get("sonnet1_lstm_ln").variant, None),
    (dialects.get("book_lnsimplernn").variant, "norms of n at 'sum'"),
    (dialects.get("haste_lnindrnn").variant, "norms of n at 'x'"),
    (dialects.get("kiros_lngru").variant, "norms of n at 'x' and of n at 'h'"),
    (dialects.get("magenta_lnlstm").variant, "norms of i, f, g, o at 'sum' and of the cell"),
    (dialects.get("embodied_gru_prerms").variant, None),
    (dialects.get("nematus_rmsgru").variant, "keeps only its sign; got a width of one"),
    (_lstm(Norm("sum"), hidden_norm=True), "norms of the output"),
    (families.plain(families.LSTM), None),
]


@pytest.mark.parametrize(("variant", "named"), ALONE)
def test_one_unit(variant: Variant, named: str | None) -> None:
    said = list(advice.about_units(variant, Sizes(4, 1, 1)))
    assert not list(advice.about_units(variant, Sizes(4, 2, 2)))
    assert len(said) == (named is not None) and (named or "") in "".join(said)


@pytest.mark.parametrize(("variant", "named"), ALONE)
def test_what_is_said_of_one_unit_is_so(variant: Variant, named: str | None) -> None:
    """The variant that the sentence names hears its input."""
    for sentence in advice.about_units(variant, Sizes(4, 1, 1)):
        other = sentence.rpartition("the variant ")[2].split("'")[1]
        family = next(f for f in families.FAMILIES if variant.cell in f.cells)
        cure, _ = families.find(family, other)
        rng = np.random.default_rng(4)
        params = random_params(cure, Sizes(4, 1, 1), rng)
        one, two = (reference.forward(cure, params, rng.standard_normal((3, 1, 4))).y for _ in "12")
        assert np.abs(one - two).min() > 1e-3


def test_a_projection_to_one_number_is_normed_to_its_bias() -> None:
    variant = _lstm(Norm("sum"), projection=True, hidden_norm=True)
    (sentence,) = advice.about_units(variant, Sizes(4, 8, 1))
    assert "norms of the output" in sentence


def test_one_feature() -> None:
    haste, summed = (dialects.get(n).variant for n in ("haste_lnlstm", "magenta_lnlstm"))
    assert len(list(advice.about_inputs(haste, Sizes(1, 8, 8)))) == 1
    assert not list(advice.about_inputs(haste, Sizes(2, 8, 8)))
    assert not list(advice.about_inputs(summed, Sizes(1, 8, 8)))
