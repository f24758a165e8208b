"""The published layer-normalised simple cells and independently recurrent cells."""

from __future__ import annotations

from dataclasses import replace

from lnrnn.dialects.dialect import Dialect, Source, fan_scaled
from lnrnn.dialects.layout import Columns, Rows, Transposed, Unused
from lnrnn.variant import Norm, Variant

_BOOK = Dialect(
    name="book_lnsimplernn",
    title="LNSimpleRNNCell of Hands-On Machine Learning",
    source=Source(
        "ageron/handson-ml2",
        "15_processing_sequences_using_rnns_and_cnns.ipynb::LNSimpleRNNCell",
        "tf.keras 2.15",
        "Apache-2.0",
    ),
    variant=Variant(cell="simple", norms=(Norm("sum"),), bias_x=True, epsilon=1e-3),
    layout={
        "beta": Columns("sum_norm_bias"),
        "gamma": Columns("sum_norm_gain"),
        "bias": Columns("bias_x"),
        "kernel": Columns("kernel"),
        "recurrent_kernel": Columns("recurrent_kernel"),
    },
)

_TFA = Dialect(
    name="tfa_lnsimplernn",
    title="TensorFlow Addons LayerNormSimpleRNNCell",
    source=Source(
        "tensorflow/addons",
        "tensorflow_addons/rnn/layer_norm_simple_rnn_cell.py::LayerNormSimpleRNNCell",
        "d208d752e98c310280938efa939117bf635a60a8",
        "Apache-2.0",
    ),
    variant=Variant(cell="simple", norms=(Norm("sum", bias=False),), bias=True),
    layout={
        "bias": Columns("bias"),
        "gamma": Columns("sum_norm_gain"),
        "kernel": Columns("kernel"),
        "recurrent_kernel": Columns("recurrent_kernel"),
    },
)

# U(-1/sqrt(n), 1/sqrt(n)) with n the input size, as torch.nn.Linear draws its matrix.
_LINEAR = fan_scaled(1 / 3, "fan_in")
_PRNN = Dialect(
    name="prnn_lnrnn_relu",
    title="pRNN LayerNormRNNCell",
    source=Source(
        "LevensteinLab/pRNN",
        "prnn/utils/thetaRNN.py::LayerNormRNNCell",
        "316ac4cf6c718b9831edcec95d588d93f3efff9e",
        "MIT",
    ),
    variant=Variant(
        cell="simple",
        norms=(Norm("sum", gain=False),),
        epsilon=1e-4,
        epsilon_at="deviation",
        activation="relu",
    ),
    layout={
        "weight_ih": Transposed(Columns("kernel")),
        "weight_hh": Transposed(Columns("recurrent_kernel")),
        "bias": Columns("sum_norm_bias"),
    },
    initializers={"kernel": _LINEAR, "recurrent_kernel": _LINEAR},
)

_KALDI = Dialect(
    name="pytorchkaldi_rnn_ln_tanh",
    title="pytorch-kaldi RNN with rnn_use_laynorm and tanh: the new h is normed",
    source=Source(
        "mravanelli/pytorch-kaldi",
        "neural_networks.py::RNN",
        "9773257d4c4edb8bd9a2dcd8c81afa2a4ab9da07",
        "CC-BY-4.0",
    ),
    variant=Variant(cell="simple", hidden_norm=True, epsilon=1e-6, epsilon_at="deviation", ddof=1),
    layout={
        "wh.0.weight": Transposed(Columns("kernel")),
        "uh.0.weight": Transposed(Columns("recurrent_kernel")),
        "ln.0.gamma": Columns("hidden_norm_gain"),
        "ln.0.beta": Columns("hidden_norm_bias"),
    },
    initializers={"kernel": _LINEAR},
)

_HASTE = Dialect(
    name="haste_lnindrnn",
    title="haste LayerNormIndRNN",
    source=Source(
        "lmnt-com/haste",
        "frameworks/pytorch/layer_norm_indrnn.py::LayerNormIndRNN",
        "ceba32ecd3735062f25e56b08ef3143caa086753",
        "Apache-2.0",
    ),
    variant=Variant(cell="indrnn", norms=(Norm("x", bias=False),), bias=True),
    layout={
        "kernel": Columns("kernel"),
        "recurrent_scale": Columns("recurrent_scale"),
        "bias": Columns("bias"),
        "gamma": Rows(Columns("x_norm_gain"), Unused(Columns("x_norm_gain"))),
    },
    initializers={
        "recurrent_scale": {
            "class_name": "RandomUniform",
            "config": {"minval": -0.5, "maxval": 0.5},
        }
    },
    zoneout="h",
)

TABLE: tuple[Dialect, ...] = (
    _BOOK,
    _TFA,
    replace(
        _TFA,
        name="kerasln_simplernn",
        title="keras-layernorm-rnn LayernormSimpleRNNCell",
        source=Source(
            "keras-layernorm-rnn",
            "keras_layernorm_rnn::LayernormSimpleRNNCell",
            "0.2.1 (PyPI)",
            "MIT",
        ),
    ),
    _HASTE,
    _KALDI,
    _PRNN,
    replace(
        _PRNN,
        name="prnn_lnrnn_tanh",
        title="pRNN LayerNormRNNCell with tanh",
        variant=_PRNN.variant.replace(activation="tanh"),
    ),
)
