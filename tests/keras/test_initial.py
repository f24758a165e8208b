"""Initial values: a dialect's own where it was named, ours otherwise."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras_cases import GRU, LSTM, SIMPLE, UNITS, each_kind

from lnrnn import dialects
from lnrnn.frontends import initial
from lnrnn.params import columns

OF_KIND = {"simple": SIMPLE, "indrnn": SIMPLE, "ligru": GRU, "gru": GRU, "lstm": LSTM}
I = 5  # noqa: E741


def _built(kind, **options):
    dialect = dialects.DIALECTS.get(options.get("variant", ""))
    if dialect is not None and dialect.variant.projection:
        options["projection_units"] = 4
    layer = kind.layer(UNITS, **options)
    layer.build((None, None, I))
    return layer


@pytest.mark.parametrize("name", dialects.DIALECTS)
def test_constants_of_every_dialect(name):
    dialect = dialects.get(name)
    layer = _built(OF_KIND[dialect.variant.cell], variant=name)
    params, gates = layer.params(), dialect.variant.gates
    for weight, value in params.items():
        given = dialect.initializers.get(weight, {"gain": 1.0, "bias": 0.0}.get(weight[-4:]))
        forget = dialect.forget_bias_init.get(weight)
        value = value.copy()
        if forget is not None:
            own = gates if value.shape[-1] == len(gates) * UNITS else "f"
            place = columns(own, "f", UNITS)
            assert np.allclose(value[place], forget), weight
            value = np.delete(value, place)
        given = {"zeros": 0.0, "ones": 1.0}.get(given, given) if isinstance(given, str) else given
        if isinstance(given, (int, float)):
            assert np.allclose(value, given), weight
        else:
            assert np.unique(value).size > value.size // 2, weight


def test_forget_bias():
    for given, wanted in ((None, 1.0), (True, 1.0), (False, None)):
        bias = _built(LSTM, unit_forget_bias=given).params()["bias"]
        forget = bias[UNITS : 2 * UNITS]
        assert np.allclose(forget, 1.0) == (wanted == 1.0)
        assert np.abs(np.delete(bias, np.s_[UNITS : 2 * UNITS])).max() < 0.7
    # a variant that adds the constant itself starts from no second one
    bias = _built(LSTM, variant="tf1_lnlstm").params()["sum_norm_bias"]
    assert bias.size == 4 * UNITS and not bias.any()


@each_kind
def test_default_values(kind):
    params = _built(kind).params()
    for name, value in params.items():
        if name in initial.RECURRENT_GAINS:
            assert np.allclose(value, initial.RECURRENT_GAINS[name]), name
        elif name.endswith("gain"):
            assert np.allclose(value, 1), name
        elif name == "recurrent_kernel":
            # orthogonal, as Keras draws it: over all gates at once
            assert np.allclose(value @ value.T, np.eye(UNITS), atol=1e-5)
        elif name == "kernel":
            assert np.abs(value).max() <= np.sqrt(6 / sum(value.shape)) + 1e-6


@each_kind
def test_stock_values_without_norms(kind):
    ours, stock = _built(kind, variant="none"), kind.stock(UNITS)
    stock.build((None, None, I))
    for weight, other in zip(ours.get_weights()[2:], stock.get_weights()[2:], strict=False):
        assert np.array_equal(weight.ravel(), other.ravel()[: weight.size])


@each_kind
def test_given_initializers_win(kind):
    groups = ("kernel", "recurrent", "bias", "gain", "norm_bias")
    for variant in (None, kind.other_dialect, kind.dialect):
        options: dict[str, Any] = {
            f"{group}_initializer": keras.initializers.Constant(k + 2.0)
            for k, group in enumerate(groups)
        }
        if kind is LSTM:
            options["unit_forget_bias"] = False
        params = _built(kind, variant=variant, **options).params()
        plain = {"bias", "bias_x", "bias_h"} & set(params)
        for name, value in params.items():
            expected = {"kernel": 2, "recurrent_kernel": 3}.get(name, 4)
            expected = 5 if name.endswith("_norm_gain") else expected
            if name.endswith("_norm_bias") and (plain or name.startswith(("cell", "hidden"))):
                expected = 6
            assert np.array_equal(value, np.full_like(value, expected)), (variant, name)


def test_gates_drawn_apart_differ():
    for name in (n for n in dialects.DIALECTS if dialects.get(n).per_gate):
        dialect = dialects.get(name)
        params = _built(OF_KIND[dialect.variant.cell], variant=name).params()
        for weight in dialect.per_gate:
            blocks = np.split(params[weight], len(dialect.variant.gates), axis=-1)
            assert not any(np.array_equal(blocks[0], block) for block in blocks[1:]), weight


def test_gates_that_the_original_draws_as_one():
    """z and r have the fans of their one matrix, and are orthogonal in it; n has its own."""
    keras.utils.set_random_seed(0)
    layer = OF_KIND["gru"].layer(40, variant="transdreamer_lngru")
    layer.build((None, None, 60))
    params = layer.params()
    for columns in (slice(0, 80), slice(80, 120)):
        kernel, recurrent = (params[n][:, columns] for n in ("kernel", "recurrent_kernel"))
        expected = (2 / (60 + kernel.shape[1])) ** 0.5
        assert kernel.std() == pytest.approx(expected, rel=0.05)
        assert np.allclose(recurrent @ recurrent.T, np.eye(40), atol=1e-5)


def test_same_seed_same_weights():
    weights = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        weights.append(_built(LSTM).params()["kernel"])
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])
