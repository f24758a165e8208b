"""Keras's own contract of a layer, for the three layers and for their cells."""

from __future__ import annotations

import keras
import pytest
from keras.src.testing import TestCase
from keras_cases import GRU, KINDS, LSTM, SIMPLE, each_kind

from lnrnn.frontends.keras_weights import KerasLayout
from lnrnn.params import Sizes

SHAPE = (3, 2, 4)
NOISE = {"dropout": 0.5, "recurrent_dropout": 0.5}
REGULARIZED = {
    f"{group}_regularizer": "l2" for group in ("kernel", "recurrent", "bias", "gain", "norm_bias")
}

CASES = {
    "all_noise": (
        {**NOISE, "zoneout": 0.2, "weight_dropout": 0.3, "return_sequences": True, "seed": 7},
        (3, 2, 3),
    ),
    "backwards_unrolled": (
        {"go_backwards": True, "unroll": True, "use_bias": False, "norm_epsilon": 1e-3},
        (3, 3),
    ),
    "stateful": ({"stateful": True, **REGULARIZED}, (3, 3)),
}
SPECIAL = {
    "lstm_candidate": (
        LSTM,
        {"recurrent_dropout": 0.5, "recurrent_dropout_mode": "candidate", "zoneout_cell": 0.5},
    ),
    "lstm_projection": (LSTM, {"projection_units": 3, "variant": "tf1_lnlstm_peephole_proj"}),
    "gru_step_before": (
        GRU,
        {"recurrent_dropout": 0.5, "recurrent_dropout_mode": "step", "reset_after": False},
    ),
    "indrnn": (SIMPLE, {"variant": "haste_lnindrnn"}),
}


@pytest.fixture
def contract():
    """Keras's test of a layer, as a function."""
    case = TestCase()
    case.setUp()
    return case.run_layer_test


def _number_of_weights(cell) -> int:
    sizes = Sizes(SHAPE[-1], cell.units, cell.output_size)
    return len(KerasLayout(cell.variant, sizes).weights)


@each_kind
@pytest.mark.parametrize("case", CASES)
def test_layer(contract, kind, case):
    options, output = CASES[case]
    contract(
        kind.layer,
        init_kwargs={"units": 3, **options},
        input_shape=SHAPE,
        call_kwargs={"training": True},
        expected_output_shape=output,
        expected_num_trainable_weights=_number_of_weights(kind.cell(3, **_of_cell(options))),
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=1,
        supports_masking=True,
        # every weight of the default variants belongs to one of the groups
        expected_num_losses=_number_of_weights(kind.cell(3)) if case == "stateful" else None,
        # a stateful layer of batch 3 cannot be fitted to batches of another size
        run_training_check=case != "stateful",
    )


@pytest.mark.parametrize("case", SPECIAL)
def test_layer_with_an_option_of_its_own(contract, case):
    kind, options = SPECIAL[case]
    contract(
        kind.layer,
        init_kwargs={"units": 3, **options},
        input_shape=SHAPE,
        call_kwargs={"training": True},
        expected_output_shape=(3, 3),
        expected_num_trainable_weights=_number_of_weights(kind.cell(3, **options)),
        expected_num_seed_generators=1,
        supports_masking=True,
    )


@each_kind
def test_cell_in_rnn(contract, kind):
    contract(
        keras.layers.RNN,
        init_kwargs={"cell": kind.cell(3, **NOISE, weight_dropout=0.5), "return_sequences": True},
        input_shape=SHAPE,
        call_kwargs={"training": True},
        expected_output_shape=(3, 2, 3),
        expected_num_trainable_weights=_number_of_weights(kind.cell(3)),
        expected_num_seed_generators=1,
        supports_masking=True,
    )


def test_layer_in_bidirectional(contract, kind=LSTM):
    contract(
        keras.layers.Bidirectional,
        init_kwargs={"layer": kind.layer(3, dropout=0.5)},
        input_shape=SHAPE,
        expected_output_shape=(3, 6),
        expected_num_trainable_weights=2 * _number_of_weights(kind.cell(3)),
        supports_masking=True,
    )


def test_stack_of_cells(contract):
    contract(
        keras.layers.RNN,
        init_kwargs={"cell": [kind.cell(3) for kind in KINDS.values()]},
        input_shape=SHAPE,
        expected_output_shape=(3, 3),
        supports_masking=True,
    )


def _of_cell(options):
    of_layer = {"return_sequences", "go_backwards", "unroll", "stateful"}
    return {k: v for k, v in options.items() if k not in of_layer}
