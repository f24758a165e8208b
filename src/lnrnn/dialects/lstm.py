"""The published layer-normalised LSTMs."""

from __future__ import annotations

from dataclasses import replace

from lnrnn.dialects.dialect import Dialect, Initializer, Source, fan_scaled
from lnrnn.dialects.layout import (
    Columns,
    Layout,
    MinusOne,
    Pixel,
    Rows,
    Shared,
    Stacked,
    Transposed,
    Unused,
    per_gate,
)
from lnrnn.variant import Norm, Variant

_JOINED = (Norm("sum"),)
_SPLIT = (Norm("x"), Norm("h"))
_GAINS = (Norm("x", bias=False), Norm("h", bias=False))
_EACH = tuple(Norm("sum", gate) for gate in "ifgo")


def _xh(gates: str) -> Layout:
    """One matrix on `[x, h]`."""
    return Stacked(Columns("kernel", gates), Columns("recurrent_kernel", gates))


def _rows(param: str, gates: str) -> Layout:
    """A matrix stored as (out, in), gates one above the other."""
    return Transposed(Columns(param, gates))


# U(-1/sqrt(H), 1/sqrt(H)) on weights of 4 H columns, as torch.nn.LSTMCell draws all its weights.
_TORCH = fan_scaled(4 / 3, "fan_out")
# U(-1/sqrt(n), 1/sqrt(n)) with n the input size, as torch.nn.Linear draws its matrix.
_LINEAR = fan_scaled(1 / 3, "fan_in")
_NORMAL: Initializer = {"class_name": "RandomNormal", "config": {"stddev": 1.0}}

# x and h normed over all gates, the output from a normed cell.

_PAPER = Variant(cell="lstm", norms=_SPLIT, cell_norm="output")

_KIROS = Dialect(
    name="kiros_lnlstm",
    title="LSTM of the authors of layer normalisation",
    source=Source(
        "ryankiros/layer-norm",
        "layers.py::lnlstm_layer",
        "7a9a1bf7c6553b5a89949c5c860bdfc0937af483",
        "no licence",
    ),
    variant=_PAPER.replace(bias=True, tied_bias=True),
    layout={
        "W": Columns("kernel", "ifog"),
        "U": Columns("recurrent_kernel", "ifog"),
        "b": Columns("bias", "ifog"),
        "b1": Columns("x_norm_bias", "ifog"),
        "b2": Columns("h_norm_bias", "ifog"),
        "b3": Columns("cell_norm_bias"),
        "s1": Columns("x_norm_gain", "ifog"),
        "s2": Columns("h_norm_gain", "ifog"),
        "s3": Columns("cell_norm_gain"),
    },
    per_gate=("kernel", "recurrent_kernel"),
    masked_output="hold",
)

_BASELINES = Dialect(
    name="baselines_lnlstm",
    title="OpenAI Baselines lnlstm",
    source=Source(
        "openai/baselines",
        "baselines/a2c/utils.py::lnlstm",
        "ea25b9e8b234e6ee1bca43083f8f3cf974143998",
        "MIT",
    ),
    variant=_PAPER.replace(bias=True),
    layout={
        "b": Columns("bias", "ifog"),
        "bc": Columns("cell_norm_bias"),
        "bh": Columns("h_norm_bias", "ifog"),
        "bx": Columns("x_norm_bias", "ifog"),
        "gc": Columns("cell_norm_gain"),
        "gh": Columns("h_norm_gain", "ifog"),
        "gx": Columns("x_norm_gain", "ifog"),
        "wh": Columns("recurrent_kernel", "ifog"),
        "wx": Columns("kernel", "ifog"),
    },
    scope="lnlstm/",
    initializers={"kernel": "orthogonal"},
)

_HASTE = Dialect(
    name="haste_lnlstm",
    title="haste LayerNormLSTM",
    source=Source(
        "lmnt-com/haste",
        "frameworks/pytorch/layer_norm_lstm.py::LayerNormLSTM",
        "ceba32ecd3735062f25e56b08ef3143caa086753",
        "Apache-2.0",
    ),
    variant=Variant(
        cell="lstm",
        norms=_GAINS,
        cell_norm="output",
        bias=True,
    ),
    layout={
        "kernel": Columns("kernel", "igfo"),
        "recurrent_kernel": Columns("recurrent_kernel", "igfo"),
        "bias": Columns("bias", "igfo"),
        "gamma": Rows(Columns("x_norm_gain", "igfo"), Columns("h_norm_gain", "igfo")),
        "gamma_h": Columns("cell_norm_gain"),
        "beta_h": Columns("cell_norm_bias"),
    },
    per_gate=("kernel", "recurrent_kernel"),
    forget_bias_init={"bias": 1.0},
    zoneout="h",
)

_HASTE_TF = replace(
    _HASTE,
    name="haste_tf_lnlstmcell",
    title="haste LayerNormLSTMCell for TensorFlow",
    source=replace(_HASTE.source, path="frameworks/tf/layer_norm_lstm_cell.py::LayerNormLSTMCell"),
    layout={
        "kernel": _xh("igfo"),
        "bias": Columns("bias", "igfo"),
        "gamma": _HASTE.layout["gamma"],
        "gamma_h": Columns("cell_norm_gain"),
        "beta_h": Columns("cell_norm_bias"),
    },
    scope="haste/",
    zoneout="",
)

_SOCKEYE = Dialect(
    name="sockeye_lnlstm",
    title="Sockeye 1 LayerNormLSTMCell",
    source=Source("sockeye", "sockeye/rnn.py::LayerNormLSTMCell", "1.18.106 (PyPI)", "Apache-2.0"),
    variant=_PAPER.replace(bias_x=True, bias_h=True, epsilon=1e-6),
    layout={
        "c_scale": Columns("cell_norm_gain"),
        "c_shift": Columns("cell_norm_bias"),
        "h2h_bias": Columns("bias_h", "ifgo"),
        "h2h_scale": Columns("h_norm_gain", "ifgo"),
        "h2h_shift": Columns("h_norm_bias", "ifgo"),
        "h2h_weight": _rows("recurrent_kernel", "ifgo"),
        "i2h_bias": Columns("bias_x", "ifgo"),
        "i2h_scale": Columns("x_norm_gain", "ifgo"),
        "i2h_shift": Columns("x_norm_bias", "ifgo"),
        "i2h_weight": _rows("kernel", "ifgo"),
    },
    forget_bias_init={"bias_x": 1.0},
)

_CHENHUAIZHEN = Dialect(
    name="chenhuaizhen_lnlstm",
    title="LayerNormLSTMCell with the norm after tanh",
    source=Source(
        "chenhuaizhen/LayerNorm_LSTM",
        "ln-wd-vd-lstm.py::LayerNormLSTMCell",
        "735adce6a9b3d440e211c021c39ac4f8f674f988",
        "no licence",
    ),
    variant=_PAPER.replace(cell_norm="after_tanh", bias_x=True, bias_h=True),
    layout={
        "weight_ih": _rows("kernel", "ifgo"),
        "weight_hh": _rows("recurrent_kernel", "ifgo"),
        "bias_ih": Columns("bias_x", "ifgo"),
        "bias_hh": Columns("bias_h", "ifgo"),
        "ln_ih.weight": Columns("x_norm_gain", "ifgo"),
        "ln_ih.bias": Columns("x_norm_bias", "ifgo"),
        "ln_hh.weight": Columns("h_norm_gain", "ifgo"),
        "ln_hh.bias": Columns("h_norm_bias", "ifgo"),
        "ln_ho.weight": Columns("cell_norm_gain"),
        "ln_ho.bias": Columns("cell_norm_bias"),
    },
    initializers=dict.fromkeys(("kernel", "recurrent_kernel", "bias_x", "bias_h"), _TORCH),
)

# x and h normed over all gates, the normed cell carried.

_CARRY = Variant(cell="lstm", norms=_SPLIT, cell_norm="carry")

_PYTORCH = Dialect(
    name="pytorch_fastrnns_lnlstm",
    title="PyTorch benchmarks/fastrnns LayerNormLSTMCell",
    source=Source(
        "pytorch/pytorch",
        "benchmarks/fastrnns/custom_lstms.py::LayerNormLSTMCell",
        "02ed7257 (run: the copy in ryanleary/mlperf-rnnt-ref @82abc4a9)",
        "BSD-3-Clause",
    ),
    variant=_CARRY,
    layout={
        "weight_ih": _rows("kernel", "ifgo"),
        "weight_hh": _rows("recurrent_kernel", "ifgo"),
        "layernorm_i.weight": Columns("x_norm_gain", "ifgo"),
        "layernorm_i.bias": Columns("x_norm_bias", "ifgo"),
        "layernorm_h.weight": Columns("h_norm_gain", "ifgo"),
        "layernorm_h.bias": Columns("h_norm_bias", "ifgo"),
        "layernorm_c.weight": Columns("cell_norm_gain"),
        "layernorm_c.bias": Columns("cell_norm_bias"),
    },
    scope="cell.",
    initializers=dict.fromkeys(("kernel", "recurrent_kernel"), _NORMAL),
)

_PYTORCH_DECOMPOSED = replace(
    _PYTORCH,
    name="pytorch_fastrnns_lnlstm_decomposed",
    title="PyTorch benchmarks/fastrnns LayerNormLSTMCell, decompose_layernorm: no epsilon",
    variant=_CARRY.replace(epsilon=0.0),
)

_TFA = Dialect(
    name="tfa_lnlstm",
    title="TensorFlow Addons LayerNormLSTMCell",
    source=Source(
        "tensorflow/addons",
        "tensorflow_addons/rnn/layer_norm_lstm_cell.py::LayerNormLSTMCell",
        "d208d752e98c310280938efa939117bf635a60a8",
        "Apache-2.0",
    ),
    variant=_CARRY.replace(bias=True, epsilon=1e-3),
    layout={
        "kernel": Columns("kernel", "ifgo"),
        "recurrent_kernel": Columns("recurrent_kernel", "ifgo"),
        "bias": Columns("bias", "ifgo"),
        "kernel_norm/gamma": Columns("x_norm_gain", "ifgo"),
        "kernel_norm/beta": Columns("x_norm_bias", "ifgo"),
        "recurrent_norm/gamma": Columns("h_norm_gain", "ifgo"),
        "recurrent_norm/beta": Columns("h_norm_bias", "ifgo"),
        "state_norm/gamma": Columns("cell_norm_gain"),
        "state_norm/beta": Columns("cell_norm_bias"),
    },
    forget_bias_init={"bias": 1.0},
)

_UNIT_ROWS = fan_scaled(1 / 3, "fan_out")  # U(-1/sqrt(n), 1/sqrt(n)) on a vector of n

_LSTMSPTH = Dialect(
    name="lstmspth_lnlstm",
    title="lstms.pth LayerNormLSTM, with the unbiased variance",
    source=Source(
        "seba-1511/lstms.pth",
        "lstms/lstm.py::LayerNormLSTM",
        "58c363be99cf801fb0136e97991cc6be8813c83c",
        "Apache-2.0",
    ),
    variant=_CARRY.replace(bias_x=True, bias_h=True, epsilon=1e-6, ddof=1),
    layout={
        "i2h.weight": _rows("kernel", "ifog"),
        "i2h.bias": Columns("bias_x", "ifog"),
        "h2h.weight": _rows("recurrent_kernel", "ifog"),
        "h2h.bias": Columns("bias_h", "ifog"),
        "ln_i2h.alpha": Rows(Columns("x_norm_gain", "ifog")),
        "ln_i2h.beta": Rows(Columns("x_norm_bias", "ifog")),
        "ln_h2h.alpha": Rows(Columns("h_norm_gain", "ifog")),
        "ln_h2h.beta": Rows(Columns("h_norm_bias", "ifog")),
        "ln_cell.alpha": Rows(Columns("cell_norm_gain")),
        "ln_cell.beta": Rows(Columns("cell_norm_bias")),
    },
    initializers={
        **dict.fromkeys(("kernel", "recurrent_kernel", "bias_x", "bias_h"), _TORCH),
        **{
            f"{site}_norm_{which}": _UNIT_ROWS
            for site in ("x", "h", "cell")
            for which in ("gain", "bias")
        },
    },
)

# The sum normed over all gates.

_TORCHAUDIO = Dialect(
    name="torchaudio_customlstm",
    title="torchaudio RNN-T _CustomLSTM",
    source=Source(
        "pytorch/audio", "torchaudio/models/rnnt.py::_CustomLSTM", "2.9.0 (PyPI)", "BSD-2-Clause"
    ),
    variant=Variant(cell="lstm", norms=_JOINED, cell_norm="carry"),
    layout={
        "x2g.weight": _rows("kernel", "ifgo"),
        "p2g.weight": _rows("recurrent_kernel", "ifgo"),
        "c_norm.weight": Columns("cell_norm_gain"),
        "c_norm.bias": Columns("cell_norm_bias"),
        "g_norm.weight": Columns("sum_norm_gain", "ifgo"),
        "g_norm.bias": Columns("sum_norm_bias", "ifgo"),
    },
    initializers={"kernel": _LINEAR, "recurrent_kernel": _LINEAR},
)

_SONNET = Dialect(
    name="sonnet1_lstm_ln",
    title="Sonnet 1 LSTM with use_layer_norm",
    source=Source(
        "dm-sonnet", "sonnet/python/modules/gated_rnn.py::LSTM", "1.36 (PyPI)", "Apache-2.0"
    ),
    variant=Variant(cell="lstm", norms=_JOINED, bias=True, forget_bias=1.0),
    layout={
        "b_gates": Columns("bias", "igfo"),
        "layer_norm/beta": Columns("sum_norm_bias", "igfo"),
        "layer_norm/gamma": Columns("sum_norm_gain", "igfo"),
        "w_gates": _xh("igfo"),
    },
    scope="lstm/",
    initializers={"recurrent_kernel": "glorot_uniform"},
)

_SONNET_PEEPHOLE = replace(
    _SONNET,
    name="sonnet1_lstm_ln_peephole_proj",
    title="Sonnet 1 LSTM with use_layer_norm, peepholes, clipped states and a projection",
    variant=_SONNET.variant.replace(
        peephole="after",
        output_peephole="cell",
        cell_clip=0.7,
        cell_clip_at="incoming",
        hidden_clip=0.6,
        projection=True,
    ),
    layout={
        **_SONNET.layout,
        **per_gate("w_{}_diag", "peephole", {"i": "i", "f": "f", "o": "o"}),
        "w_h_projection": Columns("projection_kernel"),
    },
)

# The sum normed gate by gate: TensorFlow 1.

_CONTRIB = Source(
    "tensorflow/tensorflow",
    "tensorflow/contrib/rnn/python/ops/rnn_cell.py::LayerNormBasicLSTMCell",
    "1.15.5 (PyPI)",
    "Apache-2.0",
)
_SCOPES = {"i": "input", "f": "forget", "g": "transform", "o": "output"}
_CONTRIB_NORMS = {
    **per_gate("{}/gamma", "sum_norm_gain", _SCOPES),
    **per_gate("{}/beta", "sum_norm_bias", _SCOPES),
    "state/gamma": Columns("cell_norm_gain"),
    "state/beta": Columns("cell_norm_bias"),
}

_TF1_BASIC = Dialect(
    name="tf1_lnbasiclstm",
    title="TensorFlow 1 contrib LayerNormBasicLSTMCell",
    source=_CONTRIB,
    variant=Variant(cell="lstm", norms=_EACH, cell_norm="carry", forget_bias=1.0, epsilon=1e-12),
    layout={"kernel": _xh("igfo"), **_CONTRIB_NORMS},
    scope="layer_norm_basic_lstm_cell/",
    initializers={"recurrent_kernel": "glorot_uniform"},
    masked_output="zero",
)

_TF1 = replace(
    _TF1_BASIC,
    name="tf1_lnlstm",
    title="TensorFlow 1 contrib LayerNormLSTMCell",
    source=replace(_CONTRIB, path=_CONTRIB.path.replace("Basic", "")),
    layout={**_TF1_BASIC.layout, "bias": Unused(Columns("sum_norm_bias"))},
    scope="layer_norm_lstm_cell/",
)

_TF1_PEEPHOLE_CLIP = replace(
    _TF1,
    name="tf1_lnlstm_peephole_clip",
    title="TensorFlow 1 contrib LayerNormLSTMCell with peepholes and a clipped cell",
    variant=_TF1.variant.replace(peephole="after", cell_clip=1.0, cell_clip_at="after_norm"),
    layout={
        **_TF1.layout,
        **per_gate("w_{}_diag", "peephole", {"i": "i", "f": "f", "o": "o"}),
    },
    initializers={**_TF1_BASIC.initializers, "peephole": "glorot_uniform"},
)

_TF1_PEEPHOLE_PROJ = replace(
    _TF1_PEEPHOLE_CLIP,
    name="tf1_lnlstm_peephole_proj",
    title="TensorFlow 1 contrib LayerNormLSTMCell with peepholes and a clipped projection",
    variant=_TF1.variant.replace(
        peephole="after", cell_clip_at="after_norm", projection=True, projection_clip=0.8
    ),
    layout={**_TF1_PEEPHOLE_CLIP.layout, "projection/kernel": Columns("projection_kernel")},
)

_COUPLED_EACH = tuple(Norm("sum", gate) for gate in "fgo")
_COUPLED_SCOPES = {g: _SCOPES[g] for g in "fgo"}

_TF1_CIFG = replace(
    _TF1_BASIC,
    name="tf1_cifg_ln",
    title="TensorFlow 1 contrib CoupledInputForgetGateLSTMCell with layer_norm",
    source=replace(
        _CONTRIB,
        path="tensorflow/contrib/rnn/python/ops/rnn_cell.py::CoupledInputForgetGateLSTMCell",
    ),
    variant=_TF1_BASIC.variant.replace(norms=_COUPLED_EACH, coupled=True),
    layout={
        "B": Unused(Columns("sum_norm_bias")),
        "W_0": _xh("gfo"),
        **per_gate("{}/gamma", "sum_norm_gain", _COUPLED_SCOPES),
        **per_gate("{}/beta", "sum_norm_bias", _COUPLED_SCOPES),
        "state/gamma": Columns("cell_norm_gain"),
        "state/beta": Columns("cell_norm_bias"),
    },
    scope="coupled_input_forget_gate_lstm_cell/",
)

_TF1_CIFG_PEEPHOLE = replace(
    _TF1_CIFG,
    name="tf1_cifg_ln_peephole",
    title="TensorFlow 1 contrib CoupledInputForgetGateLSTMCell with layer_norm and peepholes",
    variant=_TF1_CIFG.variant.replace(peephole="after"),
    layout={**_TF1_CIFG.layout, **per_gate("W_{}_diag", "peephole", {"f": "F", "o": "O"})},
    initializers={**_TF1_CIFG.initializers, "peephole": "glorot_uniform"},
)

_MAGENTA = Dialect(
    name="magenta_lnlstm",
    title="Magenta sketch-rnn LayerNormLSTMCell",
    source=Source(
        "magenta/magenta",
        "magenta/models/sketch_rnn/rnn.py::LayerNormLSTMCell",
        "526d3eb1a39df21215d286079cb0b8fc179fd4b3",
        "Apache-2.0",
    ),
    variant=Variant(cell="lstm", norms=_EACH, cell_norm="output", forget_bias=1.0, epsilon=1e-3),
    layout={
        "W_xh": Columns("kernel", "igfo"),
        "W_hh": Columns("recurrent_kernel", "igfo"),
        "ln_all/ln_gamma": Columns("sum_norm_gain", "igfo"),
        "ln_all/ln_beta": Columns("sum_norm_bias", "igfo"),
        "ln_c/ln_gamma": Columns("cell_norm_gain"),
        "ln_c/ln_beta": Columns("cell_norm_bias"),
    },
    scope="LayerNormLSTMCell/",
    per_gate=("recurrent_kernel",),
)

# The sum normed gate by gate: others.

_ICEFALL_SOURCE = Source(
    "k2-fsa/icefall",
    "egs/librispeech/ASR/transducer/rnn.py::LayerNormLSTMCell",
    "36e0420c7e3e849a25b3d24dbf913c424f3d23c9",
    "Apache-2.0",
)
_ICEFALL_GATES = {"i": "i", "f": "f", "g": "cx", "o": "o"}

_ICEFALL = Dialect(
    name="icefall_lnlstm",
    title="icefall LayerNormLSTMCell",
    source=_ICEFALL_SOURCE,
    variant=Variant(cell="lstm", norms=_EACH, cell_norm="carry", bias_x=True, bias_h=True),
    layout={
        "weight_ih": _rows("kernel", "ifgo"),
        "weight_hh": _rows("recurrent_kernel", "ifgo"),
        "bias_ih": Columns("bias_x", "ifgo"),
        "bias_hh": Columns("bias_h", "ifgo"),
        **per_gate("layernorm_{}.weight", "sum_norm_gain", _ICEFALL_GATES),
        **per_gate("layernorm_{}.bias", "sum_norm_bias", _ICEFALL_GATES),
        "layernorm_cy.weight": Columns("cell_norm_gain"),
        "layernorm_cy.bias": Columns("cell_norm_bias"),
    },
    initializers=dict.fromkeys(("kernel", "recurrent_kernel", "bias_x", "bias_h"), _TORCH),
    forget_bias_init={"bias_x": 1.0, "bias_h": 1.0},
)

_ICEFALL_PROJ = replace(
    _ICEFALL,
    name="icefall_lnlstm_proj",
    title="icefall LayerNormLSTMCell with a projection",
    variant=_ICEFALL.variant.replace(projection=True),
    layout={**_ICEFALL.layout, "weight_hr": Transposed(Columns("projection_kernel"))},
    # U(-1/sqrt(H), 1/sqrt(H)) on a matrix (H, P).
    initializers={**_ICEFALL.initializers, "projection_kernel": _LINEAR},
)

_SWAPPED_GATES = {"i": "i", "f": "f", "g": "c", "o": "o"}

_SOCKEYE_PER_GATE = Dialect(
    name="sockeye_lnpergatelstm",
    title="Sockeye 1 LayerNormPerGateLSTMCell, whose shift is the gain and scale the bias",
    source=replace(_SOCKEYE.source, path="sockeye/rnn.py::LayerNormPerGateLSTMCell"),
    variant=Variant(
        cell="lstm", norms=_EACH, cell_norm="output", bias_x=True, bias_h=True, epsilon=1e-6
    ),
    layout={
        "h2h_bias": Columns("bias_h", "ifgo"),
        "h2h_weight": _rows("recurrent_kernel", "ifgo"),
        "i2h_bias": Columns("bias_x", "ifgo"),
        "i2h_weight": _rows("kernel", "ifgo"),
        **per_gate("{}_shift", "sum_norm_gain", _SWAPPED_GATES),
        **per_gate("{}_scale", "sum_norm_bias", _SWAPPED_GATES),
        "s_shift": Columns("cell_norm_gain"),
        "s_scale": Columns("cell_norm_bias"),
    },
    initializers={
        "sum_norm_gain": "zeros",
        "sum_norm_bias": "ones",
        "cell_norm_gain": "zeros",
        "cell_norm_bias": "ones",
    },
    forget_bias_init={"sum_norm_bias": 1.0},
)

_KERASLN_GAINS = {"i": "layer_normalization", "f": "layer_normalization_1"} | {
    "g": "layer_normalization_2",
    "o": "layer_normalization_3",
}
_KERASLN_SOURCE = Source(
    "keras-layernorm-rnn", "keras_layernorm_rnn::LayernormLSTM1Cell", "0.2.1 (PyPI)", "MIT"
)

_KERASLN_1 = Dialect(
    name="kerasln_lstm1_hard_sigmoid",
    title="keras-layernorm-rnn LayernormLSTM1Cell",
    source=_KERASLN_SOURCE,
    variant=Variant(
        cell="lstm",
        norms=tuple(Norm("sum", gate, bias=False) for gate in "ifgo"),
        bias=True,
        recurrent_activation="keras2_hard_sigmoid",
    ),
    layout={
        "bias": Columns("bias", "ifgo"),
        "kernel": Columns("kernel", "ifgo"),
        "recurrent_kernel": Columns("recurrent_kernel", "ifgo"),
        **per_gate("{}/gamma", "sum_norm_gain", _KERASLN_GAINS),
    },
    forget_bias_init={"bias": 1.0},
)
_KERASLN_2 = replace(
    _KERASLN_1,
    name="kerasln_lstm2_hard_sigmoid",
    title="keras-layernorm-rnn LayernormLSTM2Cell",
    source=replace(_KERASLN_SOURCE, path="keras_layernorm_rnn::LayernormLSTM2Cell"),
)
_KERASLN_NAMES = {"i": "i", "f": "f", "g": "c", "o": "o"}
_KERASLN_3 = replace(
    _KERASLN_1,
    name="kerasln_lstm3_hard_sigmoid",
    title="keras-layernorm-rnn LayernormLSTM3Cell",
    source=replace(_KERASLN_SOURCE, path="keras_layernorm_rnn::LayernormLSTM3Cell"),
    layout={
        **per_gate("R_{}", "recurrent_kernel", _KERASLN_NAMES),
        **per_gate("W_{}", "kernel", _KERASLN_NAMES),
        **per_gate("b_{}", "bias", _KERASLN_NAMES),
        **per_gate("{}/gamma", "sum_norm_gain", _KERASLN_GAINS),
    },
    per_gate=("kernel", "recurrent_kernel"),
)
_KERASLN = (_KERASLN_1, _KERASLN_2, _KERASLN_3)
_KERASLN_SIGMOID = tuple(
    replace(
        hard,
        name=hard.name.replace("hard_sigmoid", "sigmoid"),
        title=hard.title + " with recurrent_activation='sigmoid'",
        variant=hard.variant.replace(recurrent_activation="sigmoid"),
    )
    for hard in _KERASLN
)

# Lingvo and TensorFlow Lite.

_LINGVO = Source(
    "tensorflow/lingvo",
    "lingvo/core/rnn_cell.py::LayerNormalizedLSTMCellSimple",
    "e0be5dc4ce9b89d91c0be343f54c5d7a5b1bcb59",
    "Apache-2.0",
)
_XAVIER: dict[str, Initializer] = {
    "recurrent_kernel": "glorot_uniform",
    "projection_kernel": "glorot_uniform",
}

_LINGVO_SIMPLE = Dialect(
    name="lingvo_lnlstm_simple",
    title="lingvo LayerNormalizedLSTMCellSimple",
    source=_LINGVO,
    variant=Variant(cell="lstm", norms=_EACH, cell_clip=10.0, epsilon=1e-8),
    layout={
        "b": Columns("sum_norm_bias", "gifo"),
        "ln_scale": Columns("sum_norm_gain", "gifo"),
        "wm": _xh("gifo"),
    },
    initializers=_XAVIER,
    zoneout="hc",
    masked_output="hold",
)
_LINGVO_SIMPLE_CAP = replace(
    _LINGVO_SIMPLE,
    name="lingvo_lnlstm_simple_fb1_cap",
    title="lingvo LayerNormalizedLSTMCellSimple, forget_gate_bias 1, cell_value_cap 0.8",
    variant=_LINGVO_SIMPLE.variant.replace(forget_bias=1.0, cell_clip=0.8),
)
_LINGVO_SIMPLE_CIFG = replace(
    _LINGVO_SIMPLE,
    name="lingvo_lnlstm_simple_cifg",
    title="lingvo LayerNormalizedLSTMCellSimple with coupled input and forget gates",
    variant=_LINGVO_SIMPLE.variant.replace(norms=_COUPLED_EACH, coupled=True),
    layout={
        "b": Columns("sum_norm_bias", "gfo"),
        "ln_scale": Columns("sum_norm_gain", "gfo"),
        "wm": _xh("gfo"),
    },
)
_LINGVO_SIMPLE_PROJ = replace(
    _LINGVO_SIMPLE,
    name="lingvo_lnlstm_simple_proj_linear",
    title="lingvo LayerNormalizedLSTMCellSimple with a linear output and a projection",
    variant=_LINGVO_SIMPLE.variant.replace(output_activation="linear", projection=True),
    layout={**_LINGVO_SIMPLE.layout, "w_proj": Columns("projection_kernel")},
)
_LINGVO_OLD = replace(
    _LINGVO_SIMPLE,
    name="lingvo_lnlstm_old",
    title="lingvo LayerNormalizedLSTMCell (deprecated there)",
    source=replace(_LINGVO, path="lingvo/core/rnn_cell.py::LayerNormalizedLSTMCell"),
    layout={
        "b": Stacked(Columns("sum_norm_bias", "gifo"), MinusOne(Columns("sum_norm_gain", "gifo"))),
        "wm": _xh("gifo"),
    },
)
_LEAN_GATES = {"g": "i_i", "i": "i_g", "f": "f_g", "o": "o_g"}
_LINGVO_LEAN = replace(
    _LINGVO_SIMPLE,
    name="lingvo_lnlstm_lean",
    title="lingvo LayerNormalizedLSTMCellLean",
    source=replace(_LINGVO, path="lingvo/core/rnn_cell.py::LayerNormalizedLSTMCellLean"),
    variant=Variant(cell="lstm", norms=_EACH, cell_norm="output", epsilon=1e-8),
    layout={
        **per_gate("ln_scale_{}", "sum_norm_gain", _LEAN_GATES, MinusOne),
        **per_gate("bias_{}", "sum_norm_bias", _LEAN_GATES),
        "ln_scale_c": MinusOne(Columns("cell_norm_gain")),
        "bias_c": Columns("cell_norm_bias"),
        "wm": _xh("gifo"),
    },
)
_LINGVO_LEAN_PROJ = replace(
    _LINGVO_LEAN,
    name="lingvo_lnlstm_lean_proj_bias",
    title="lingvo LayerNormalizedLSTMCellLean with a second bias, a cap and a projection",
    variant=_LINGVO_LEAN.variant.replace(bias=True, cell_clip=0.8, projection=True),
    layout={
        **_LINGVO_LEAN.layout,
        "b": Columns("bias", "gifo"),
        "w_proj": Columns("projection_kernel"),
    },
)

_LITE_GATES = {"i": "input", "f": "forget", "g": "cell", "o": "output"}


def _lite(gates: str, peephole: str = "") -> dict[str, Layout]:
    """The tensors of the TensorFlow Lite operator for some gates."""
    names = {g: _LITE_GATES[g] for g in gates}
    return {
        **per_gate("input_to_{}_weights", "kernel", names, Transposed),
        **per_gate("recurrent_to_{}_weights", "recurrent_kernel", names, Transposed),
        **per_gate("{}_gate_bias", "sum_norm_bias", names),
        **per_gate("{}_layer_norm_coefficients", "sum_norm_gain", names),
        **per_gate("cell_to_{}_weights", "peephole", {g: _LITE_GATES[g] for g in peephole}),
    }


_TFLITE = Dialect(
    name="tflite_lnlstm",
    title="TensorFlow Lite UNIDIRECTIONAL_SEQUENCE_LSTM with layer norm",
    source=Source(
        "tensorflow/tensorflow",
        "tensorflow/lite/kernels/lstm_eval.cc",
        "0004ac98 (run: 2.15.1, PyPI)",
        "Apache-2.0",
    ),
    variant=Variant(cell="lstm", norms=_EACH, epsilon=1e-8),
    layout=_lite("ifgo"),
)
_TFLITE_CIFG = replace(
    _TFLITE,
    name="tflite_lnlstm_cifg",
    title="TensorFlow Lite UNIDIRECTIONAL_SEQUENCE_LSTM with layer norm, no input gate",
    variant=_TFLITE.variant.replace(norms=_COUPLED_EACH, coupled=True),
    layout=_lite("fgo"),
)
_TFLITE_PEEPHOLE = replace(
    _TFLITE,
    name="tflite_lnlstm_peephole",
    title="TensorFlow Lite UNIDIRECTIONAL_SEQUENCE_LSTM with layer norm and peepholes",
    variant=_TFLITE.variant.replace(peephole="inside"),
    layout=_lite("ifgo", "ifo"),
)
_TFLITE_PEEPHOLE_PROJ = replace(
    _TFLITE_PEEPHOLE,
    name="tflite_lnlstm_peephole_proj_clip",
    title="TensorFlow Lite UNIDIRECTIONAL_SEQUENCE_LSTM with all options",
    variant=_TFLITE_PEEPHOLE.variant.replace(
        cell_clip=0.8, projection=True, projection_bias=True, projection_clip=0.5
    ),
    layout={
        **_lite("ifgo", "ifo"),
        "projection_weights": Transposed(Columns("projection_kernel")),
        "projection_bias": Columns("projection_bias"),
    },
)

# RETURNN.

_RETURNN_MATRICES: dict[str, Layout] = {
    "W_ff": Columns("kernel", "igfo"),
    "W_re": Columns("recurrent_kernel", "igfo"),
}
_RETURNN_CELL: dict[str, Layout] = {
    "gamma_new_c": Columns("cell_norm_gain"),
    "beta_new_c": Columns("cell_norm_bias"),
}
_RETURNN_NAMES = {"i": "i", "g": "j", "f": "f", "o": "o"}
_RETURNN_EACH = {
    **per_gate("gamma_{}_gate", "sum_norm_gain", _RETURNN_NAMES),
    **per_gate("beta_{}_gate", "sum_norm_bias", _RETURNN_NAMES),
    **_RETURNN_CELL,
}

_RETURNN = Dialect(
    name="returnn_lnlstm_default",
    title="RETURNN LayerNormVariantsLSTMCell, global_norm",
    source=Source(
        "rwth-i6/returnn",
        "returnn/tf/layers/rec.py::LayerNormVariantsLSTMCell",
        "b46ff5f0f337266809082d2e88c33218940bc13b",
        "RETURNN licence, not permissive",
    ),
    variant=Variant(
        cell="lstm", norms=(Norm("x"), Norm("h", bias=False)), cell_norm="carry", epsilon=1e-12
    ),
    layout={
        **_RETURNN_MATRICES,
        "gamma_input_below": Columns("x_norm_gain", "igfo"),
        "beta_input_below": Columns("x_norm_bias", "igfo"),
        "gamma_state_below": Columns("h_norm_gain", "igfo"),
        **_RETURNN_CELL,
    },
    initializers={"recurrent_kernel": "glorot_uniform"},
)
_RETURNN_HIDDEN = replace(
    _RETURNN,
    name="returnn_lnlstm_hidden",
    title="RETURNN LayerNormVariantsLSTMCell, global_norm and hidden_norm",
    variant=_RETURNN.variant.replace(hidden_norm=True),
    layout={
        **_RETURNN.layout,
        "gamma_new_h": Columns("hidden_norm_gain"),
        "beta_new_h": Columns("hidden_norm_bias"),
    },
)
_RETURNN_JOINED = replace(
    _RETURNN,
    name="returnn_lnlstm_joined",
    title="RETURNN LayerNormVariantsLSTMCell, global_norm_joined",
    variant=_RETURNN.variant.replace(norms=_JOINED),
    layout={
        **_RETURNN_MATRICES,
        "gamma_lstm_in": Columns("sum_norm_gain", "igfo"),
        "beta_lstm_in": Columns("sum_norm_bias", "igfo"),
        **_RETURNN_CELL,
    },
)
_RETURNN_JOINED_NOCELL = replace(
    _RETURNN_JOINED,
    name="returnn_lnlstm_joined_nocell",
    title="RETURNN LayerNormVariantsLSTMCell, global_norm_joined without cell_norm",
    variant=_RETURNN_JOINED.variant.replace(cell_norm="none"),
    layout={n: p for n, p in _RETURNN_JOINED.layout.items() if n not in _RETURNN_CELL},
)
_RETURNN_PER_GATE = replace(
    _RETURNN,
    name="returnn_lnlstm_pergate",
    title="RETURNN LayerNormVariantsLSTMCell, per_gate_norm",
    variant=_RETURNN.variant.replace(norms=_EACH),
    layout={**_RETURNN_MATRICES, **_RETURNN_EACH},
)
_RETURNN_CONCAT = replace(
    _RETURNN_PER_GATE,
    name="returnn_lnlstm_concat_pergate",
    title="RETURNN LayerNormVariantsLSTMCell, per_gate_norm and with_concat",
    layout={"W_ff_re": _xh("igfo"), **_RETURNN_EACH},
)
_RNMT_PLUS = replace(
    _RETURNN_PER_GATE,
    name="returnn_lnlstm_rnmtplus",
    title="RETURNN LayerNormVariantsLSTMCell as in RNMT+: output from the cell before its norm",
    variant=_RETURNN_PER_GATE.variant.replace(cell_norm="carry_only"),
)

# Zero.

_ZERO = Dialect(
    name="zero_lnlstm",
    title="zero LSTM, each product normed alone",
    source=Source(
        "bzhangGo/zero", "rnns/lstm.py", "d97e2c21b1c6d0467fe821223042247bf2b46bf9", "BSD-3-Clause"
    ),
    variant=Variant(
        cell="lstm",
        norms=(Norm("x", "ifo"), Norm("x", "g"), Norm("h", "ifo"), Norm("h", "g")),
        bias=True,
        epsilon=1e-8,
    ),
    layout={
        f"{scope}/{part}_{source}/{name}": Columns(param, gates)
        for scope, source, weights in (
            (
                "cell_lstm",
                "h",
                {
                    "W_0_0": "recurrent_kernel",
                    "b_0": "bias",
                    "ln_0_0/offset": "h_norm_bias",
                    "ln_0_0/scale": "h_norm_gain",
                },
            ),
            (
                "fetch_state_lstm",
                "x",
                {
                    "W_0_0": "kernel",
                    "ln_0_0/offset": "x_norm_bias",
                    "ln_0_0/scale": "x_norm_gain",
                },
            ),
        )
        for part, gates in (("gate", "ifo"), ("hide", "g"))
        for name, param in weights.items()
    },
    initializers={"recurrent_kernel": "glorot_uniform"},
    per_gate=("kernel", "recurrent_kernel"),
    drawn_together="ifo",
)

# The sum normed gate by gate: more programs.

_LABML_GATES = {"i": "0", "f": "1", "g": "2", "o": "3"}
_LABML = Dialect(
    name="labml_lnlstm",
    title="labml_nn LSTMCell with layer_norm",
    source=Source("labml-nn", "labml_nn/lstm/__init__.py::LSTMCell", "0.5.1 (PyPI)", "MIT"),
    variant=Variant(cell="lstm", norms=_EACH, cell_norm="output", bias_h=True),
    layout={
        "hidden_lin.weight": _rows("recurrent_kernel", "ifgo"),
        "hidden_lin.bias": Columns("bias_h", "ifgo"),
        "input_lin.weight": _rows("kernel", "ifgo"),
        **per_gate("layer_norm.{}.weight", "sum_norm_gain", _LABML_GATES),
        **per_gate("layer_norm.{}.bias", "sum_norm_bias", _LABML_GATES),
        "layer_norm_c.weight": Columns("cell_norm_gain"),
        "layer_norm_c.bias": Columns("cell_norm_bias"),
    },
    initializers={"kernel": _LINEAR, "recurrent_kernel": _LINEAR, "bias_h": _TORCH},
)


def _axlearn(param: str) -> Layout:
    """One vector for all gates."""
    return Shared(Rows(*(Columns(param, gate) for gate in "gfio")))


_AXLEARN = Dialect(
    name="axlearn_lnlstm",
    title="axlearn LSTMCell with LayerNorm, one gain and bias for all gates",
    source=Source(
        "apple/axlearn",
        "axlearn/common/rnn.py::LSTMCell",
        "34aed43c1b6e581c4753d06d7cbeedd5010ef26b",
        "Apache-2.0",
    ),
    variant=Variant(cell="lstm", norms=_EACH, epsilon=1e-8),
    layout={
        "input_proj/weight": Rows(*(_xh(gate) for gate in "gfio")),
        "norm/scale": _axlearn("sum_norm_gain"),
        "norm/bias": _axlearn("sum_norm_bias"),
    },
    initializers=_XAVIER,
)
_AXLEARN_PROJ = replace(
    _AXLEARN,
    name="axlearn_lnlstm_proj_clip",
    title="axlearn LSTMCell with LayerNorm, max_cell_value and a projection",
    variant=_AXLEARN.variant.replace(cell_clip=0.5, projection=True),
    layout={**_AXLEARN.layout, "output_proj/weight": Columns("projection_kernel")},
)
_AXLEARN_RMS = replace(
    _AXLEARN,
    name="axlearn_rmslstm",
    title="axlearn LSTMCell with RMSNorm, one gain for all gates",
    variant=_AXLEARN.variant.replace(
        norm="rms", norms=tuple(replace(norm, bias=False) for norm in _EACH)
    ),
    layout={n: p for n, p in _AXLEARN.layout.items() if n != "norm/bias"},
)

_PRAXIS_SOURCE = Source(
    "google/praxis",
    "praxis/layers/rnn_cell.py::LayerNormalizedLstmCellSimple",
    "feeaff19915ca9c3de8b372b7427d15c81f0d757",
    "Apache-2.0",
)
_PRAXIS = replace(
    _LINGVO_SIMPLE,
    name="praxis_lnlstm",
    title="praxis LayerNormalizedLstmCellSimple",
    source=_PRAXIS_SOURCE,
)
_PRAXIS_PROJ = replace(
    _LINGVO_SIMPLE_PROJ,
    name="praxis_lnlstm_proj",
    title="praxis LayerNormalizedLstmCellSimple with a linear output and a projection",
    source=_PRAXIS_SOURCE,
)

# x and h normed over all gates: more programs.

_DIENGINE = Dialect(
    name="diengine_lnlstm",
    title="DI-engine LSTM, as get_lstm makes it for R2D2 and NGU",
    source=Source(
        "DI-engine", "ding/torch_utils/network/rnn.py::LSTM", "0.5.3 (PyPI)", "Apache-2.0"
    ),
    variant=Variant(cell="lstm", norms=_SPLIT, bias=True),
    layout={
        "bias": Rows(Columns("bias", "ifog")),
        "norm.0.weight": Columns("x_norm_gain", "ifog"),
        "norm.0.bias": Columns("x_norm_bias", "ifog"),
        "norm.1.weight": Columns("h_norm_gain", "ifog"),
        "norm.1.bias": Columns("h_norm_bias", "ifog"),
        "wx.0": Columns("kernel", "ifog"),
        "wh.0": Columns("recurrent_kernel", "ifog"),
    },
    initializers=dict.fromkeys(("kernel", "recurrent_kernel", "bias"), _TORCH),
)

_UNREAD_CONVOLUTION = Unused(
    Pixel(Transposed(Stacked(*[Columns("recurrent_kernel", "o")] * 2)))  # (H, 2 H, 1, 1)
)
_UNREAD_NORM = Unused(Pixel(Columns("x_norm_gain", "o")))
_OPENSTL = Dialect(
    name="openstl_convlstm_1x1",
    title="OpenSTL ConvLSTMCell with layer_norm, at a single pixel",
    source=Source(
        "chengtan9907/OpenSTL",
        "openstl/modules/convlstm_modules.py::ConvLSTMCell",
        "c74deb5d4c3da585291f9f18281f3fefdbba3a54",
        "Apache-2.0",
    ),
    variant=Variant(cell="lstm", norms=_SPLIT),
    layout={
        "conv_x.0.weight": Pixel(_rows("kernel", "ifgo")),
        "conv_x.1.weight": Pixel(Columns("x_norm_gain", "ifgo")),
        "conv_x.1.bias": Pixel(Columns("x_norm_bias", "ifgo")),
        "conv_h.0.weight": Pixel(_rows("recurrent_kernel", "ifgo")),
        "conv_h.1.weight": Pixel(Columns("h_norm_gain", "ifgo")),
        "conv_h.1.bias": Pixel(Columns("h_norm_bias", "ifgo")),
        "conv_o.0.weight": _UNREAD_CONVOLUTION,
        "conv_o.1.weight": _UNREAD_NORM,
        "conv_o.1.bias": _UNREAD_NORM,
        "conv_last.weight": _UNREAD_CONVOLUTION,
    },
    initializers={"kernel": _LINEAR, "recurrent_kernel": _LINEAR},
)

_DYNET = Dialect(
    name="dynet_lnlstm",
    title="DyNet VanillaLSTMBuilder with ln_lstm, started from a state",
    source=Source(
        "clab/dynet",
        "dynet/lstm.cc::VanillaLSTMBuilder",
        "22b44958476731af4d1fdbc553626eca3a27e808",
        "Apache-2.0",
    ),
    variant=_PAPER.replace(bias=True, forget_bias=1.0, epsilon=1e-8, epsilon_at="deviation"),
    layout={
        "x2i": _rows("kernel", "ifog"),
        "h2i": _rows("recurrent_kernel", "ifog"),
        "bi": Columns("bias", "ifog"),
        "ln_gh": Columns("h_norm_gain", "ifog"),
        "ln_bh": Columns("h_norm_bias", "ifog"),
        "ln_gx": Columns("x_norm_gain", "ifog"),
        "ln_bx": Columns("x_norm_bias", "ifog"),
        "ln_gc": Columns("cell_norm_gain"),
        "ln_bc": Columns("cell_norm_bias"),
    },
    initializers={"recurrent_kernel": "glorot_uniform"},
)

# The input's bias is drawn with the bound 1/sqrt(I) in these two originals.
_LINEAR_BOTH: dict[str, Initializer] = {
    "kernel": _LINEAR,
    "recurrent_kernel": _LINEAR,
    "bias_x": _TORCH,
    "bias_h": _TORCH,
}
_PRPN = Dialect(
    name="prpn_lnlstm",
    title="PRPN LSTMCell, with the unbiased deviation",
    source=Source(
        "yikangshen/PRPN",
        "LSTMCell.py::LSTMCell",
        "42212fb5ed4234f507137eb05af26a810c1cd33a",
        "MIT",
    ),
    variant=_PAPER.replace(bias_x=True, bias_h=True, epsilon=1e-6, epsilon_at="deviation", ddof=1),
    layout={
        "ih.0.weight": _rows("kernel", "ifgo"),
        "ih.0.bias": Columns("bias_x", "ifgo"),
        "ih.1.gamma": Columns("x_norm_gain", "ifgo"),
        "ih.1.beta": Columns("x_norm_bias", "ifgo"),
        "hh.0.weight": _rows("recurrent_kernel", "ifgo"),
        "hh.0.bias": Columns("bias_h", "ifgo"),
        "hh.1.gamma": Columns("h_norm_gain", "ifgo"),
        "hh.1.beta": Columns("h_norm_bias", "ifgo"),
        "c_norm.gamma": Columns("cell_norm_gain"),
        "c_norm.beta": Columns("cell_norm_bias"),
    },
    initializers=_LINEAR_BOTH,
)
_IKOSTRIKOV = Dialect(
    name="ikostrikov_lnlstm",
    title="pytorch-meta-optimizer LayerNormLSTMCell, with the unbiased deviation",
    source=Source(
        "ikostrikov/pytorch-meta-optimizer",
        "layer_norm_lstm.py::LayerNormLSTMCell",
        "0154d4d4fc856163885a62bac06174311aa58caf",
        "MIT",
    ),
    variant=_PRPN.variant.replace(forget_bias=-1.0, epsilon=1e-5),
    layout={
        "fc_i2h.weight": _rows("kernel", "ifog"),
        "fc_i2h.bias": Columns("bias_x", "ifog"),
        "fc_h2h.weight": _rows("recurrent_kernel", "ifog"),
        "fc_h2h.bias": Columns("bias_h", "ifog"),
        "ln_i2h.weight": Rows(Columns("x_norm_gain", "ifog")),
        "ln_i2h.bias": Rows(Columns("x_norm_bias", "ifog")),
        "ln_h2h.weight": Rows(Columns("h_norm_gain", "ifog")),
        "ln_h2h.bias": Rows(Columns("h_norm_bias", "ifog")),
        "ln_h2o.weight": Rows(Columns("cell_norm_gain")),
        "ln_h2o.bias": Rows(Columns("cell_norm_bias")),
    },
    initializers=_LINEAR_BOTH,
)


def _lamb(gates: str) -> dict[str, Layout]:
    """The weights of lamb's cell with some gates."""
    names = {g: "j" if g == "g" else g for g in gates}
    return {
        **per_gate("tiled_linear/W_x_{}", "kernel", names),
        **per_gate("tiled_linear/W_h_{}", "recurrent_kernel", names),
        **per_gate("tiled_linear/B_{}", "bias", names),
        "tiled_linear/ln_x/gain": Rows(Columns("x_norm_gain", gates)),
        "tiled_linear/ln_h/gain": Rows(Columns("h_norm_gain", gates)),
        "ln_c/gain": Rows(Columns("cell_norm_gain")),
        "ln_c/bias": Rows(Columns("cell_norm_bias")),
    }


_LAMB = Dialect(
    name="lamb_lnlstm",
    title="lamb TiledLSTMCell with layer_norm",
    source=Source(
        "deepmind/lamb",
        "lamb/tiled_lstm.py::TiledLSTMCell",
        "254a0b0e330c44e00cf535f98e9538d6e735750b",
        "Apache-2.0",
    ),
    variant=_HASTE.variant.replace(capped=True, epsilon=1e-9),
    layout=_lamb("gofi"),
    scope="TiledLSTMCell/",
    initializers={"recurrent_kernel": "glorot_uniform"},
    per_gate=("kernel", "recurrent_kernel"),
)
_LAMB_UNCAPPED = replace(
    _LAMB,
    name="lamb_lnlstm_uncapped",
    title="lamb TiledLSTMCell with layer_norm, cap_input_gate=False",
    variant=_LAMB.variant.replace(capped=False),
)
_LAMB_CLIP = replace(
    _LAMB_UNCAPPED,
    name="lamb_lnlstm_clip",
    title="lamb TiledLSTMCell with layer_norm, cap_input_gate=False and cell_clip",
    variant=_LAMB_UNCAPPED.variant.replace(cell_clip=0.4, cell_clip_at="carried"),
)
_LAMB_TIED = replace(
    _LAMB_UNCAPPED,
    name="lamb_lnlstm_tied",
    title="lamb TiledLSTMCell with layer_norm and tie_gates",
    variant=_LAMB_UNCAPPED.variant.replace(coupled=True, norms=_GAINS),
    layout=_lamb("gof"),
)

# The sum normed over all gates: more programs.

_NARROW: Initializer = {
    "class_name": "RandomUniform",
    "config": {"minval": -0.04, "maxval": 0.04},
}
_THUMT = Dialect(
    name="thumt_lnlstm",
    title="THUMT LSTMCell with normalization",
    source=Source(
        "THUNLP-MT/THUMT",
        "thumt/modules/recurrent.py::LSTMCell",
        "4893578278c08f436fbaaf799257cea15b0c9b56",
        "BSD-3-Clause",
    ),
    variant=Variant(cell="lstm", norms=_JOINED, bias_x=True, output_activation="linear"),
    layout={
        "gates.weight": Transposed(_xh("igfo")),
        "gates.bias": Columns("bias_x", "igfo"),
        "layer_norm.weight": Rows(*(Columns("sum_norm_gain", g) for g in "igfo")),
        "layer_norm.bias": Rows(*(Columns("sum_norm_bias", g) for g in "igfo")),
    },
    initializers=dict.fromkeys(("kernel", "recurrent_kernel", "bias_x"), _NARROW),
    masked_output="hold",
)
_THUMT_TANH = replace(
    _THUMT,
    name="thumt_lnlstm_tanh",
    title="THUMT LSTMCell with normalization and activation=tanh",
    variant=_THUMT.variant.replace(output_activation="tanh"),
)

_FAN_IN = fan_scaled(1.0, "fan_in")
_CAFFE2 = Dialect(
    name="caffe2_lnlstm",
    title="Caffe2 LayerNormLSTM",
    source=Source(
        "pytorch/pytorch",
        "caffe2/python/rnn_cell.py::LayerNormLSTMCell",
        "067fce36880eb96fac8238c8a6f6cb40eae6248d (run: torch 1.4.0, PyPI)",
        "BSD-3-Clause",
    ),
    variant=Variant(cell="lstm", norms=_JOINED, bias_x=True, bias_h=True, epsilon=1e-4),
    layout={
        "i2h_w": _rows("kernel", "ifog"),
        "i2h_b": Columns("bias_x", "ifog"),
        "gates_t_w": _rows("recurrent_kernel", "ifog"),
        "gates_t_b": Columns("bias_h", "ifog"),
        "gates_t_norm_scale": Columns("sum_norm_gain", "ifog"),
        "gates_t_norm_bias": Columns("sum_norm_bias", "ifog"),
    },
    scope="lnlstm/",
    initializers={"kernel": _FAN_IN, "recurrent_kernel": _FAN_IN},
    masked_output="hold",
)
_CAFFE2_FORGET = replace(
    _CAFFE2,
    name="caffe2_lnlstm_fb1",
    title="Caffe2 LayerNormLSTM with forget_bias=1",
    variant=_CAFFE2.variant.replace(forget_bias=1.0),
)

# No norm of the gates.

_ADEPT = Dialect(
    name="adept_lnlstm",
    title="adeptRL LSTMCellLayerNorm, whose cell alone is normed",
    source=Source(
        "heronsystems/adeptRL",
        "adept/modules/sequence.py::LSTMCellLayerNorm",
        "d8554d134c1dfee6659baafd886684351c1dd982",
        "GPL-3.0",
    ),
    variant=Variant(cell="lstm", cell_norm="carry", bias_x=True, bias_h=True),
    layout={
        "ih.weight": _rows("kernel", "ifog"),
        "ih.bias": Columns("bias_x", "ifog"),
        "hh.weight": _rows("recurrent_kernel", "ifog"),
        "hh.bias": Columns("bias_h", "ifog"),
        "ln_cell.weight": Columns("cell_norm_gain"),
        "ln_cell.bias": Columns("cell_norm_bias"),
    },
    initializers={"kernel": _LINEAR, "recurrent_kernel": _LINEAR},
)

_KALDI_GATES = {"f": "f", "i": "i", "o": "o", "g": "c"}
_KALDI = Dialect(
    name="pytorchkaldi_lstm_ln_tanh",
    title="pytorch-kaldi LSTM with lstm_use_laynorm: the new h is normed",
    source=Source(
        "mravanelli/pytorch-kaldi",
        "neural_networks.py::LSTM",
        "9773257d4c4edb8bd9a2dcd8c81afa2a4ab9da07",
        "CC-BY-4.0",
    ),
    variant=Variant(cell="lstm", hidden_norm=True, epsilon=1e-6, epsilon_at="deviation", ddof=1),
    layout={
        **per_gate("w{}x.0.weight", "kernel", _KALDI_GATES, Transposed),
        **per_gate("u{}h.0.weight", "recurrent_kernel", _KALDI_GATES, Transposed),
        "ln.0.gamma": Columns("hidden_norm_gain"),
        "ln.0.beta": Columns("hidden_norm_bias"),
    },
    initializers={"kernel": _LINEAR},
    per_gate=("recurrent_kernel",),
)

TABLE: tuple[Dialect, ...] = (
    _KIROS,
    _BASELINES,
    replace(
        _BASELINES,
        name="stablebaselines_lnlstm",
        title="Stable Baselines lnlstm",
        source=Source(
            "hill-a/stable-baselines",
            "stable_baselines/common/tf_layers.py::lnlstm",
            "259f27868f0d727d990f50e04da6e3a5d5367582",
            "MIT",
        ),
    ),
    _HASTE,
    _HASTE_TF,
    _SOCKEYE,
    _CHENHUAIZHEN,
    _PYTORCH,
    _PYTORCH_DECOMPOSED,
    _TFA,
    _LSTMSPTH,
    _TORCHAUDIO,
    _SONNET,
    _SONNET_PEEPHOLE,
    _TF1_BASIC,
    _TF1,
    _TF1_PEEPHOLE_CLIP,
    _TF1_PEEPHOLE_PROJ,
    _TF1_CIFG,
    _TF1_CIFG_PEEPHOLE,
    _MAGENTA,
    _ICEFALL,
    _ICEFALL_PROJ,
    _SOCKEYE_PER_GATE,
    *_KERASLN,
    *_KERASLN_SIGMOID,
    _LINGVO_SIMPLE,
    _LINGVO_SIMPLE_CAP,
    _LINGVO_SIMPLE_CIFG,
    _LINGVO_SIMPLE_PROJ,
    _LINGVO_OLD,
    _LINGVO_LEAN,
    _LINGVO_LEAN_PROJ,
    _TFLITE,
    _TFLITE_CIFG,
    _TFLITE_PEEPHOLE,
    _TFLITE_PEEPHOLE_PROJ,
    _RETURNN,
    _RETURNN_HIDDEN,
    _RETURNN_JOINED,
    _RETURNN_JOINED_NOCELL,
    _RETURNN_PER_GATE,
    _RETURNN_CONCAT,
    _RNMT_PLUS,
    _ZERO,
    _LABML,
    _AXLEARN,
    _AXLEARN_PROJ,
    _AXLEARN_RMS,
    _PRAXIS,
    _PRAXIS_PROJ,
    _DIENGINE,
    _OPENSTL,
    _DYNET,
    _PRPN,
    _IKOSTRIKOV,
    _LAMB,
    _LAMB_UNCAPPED,
    _LAMB_CLIP,
    _LAMB_TIED,
    _THUMT,
    _THUMT_TANH,
    _CAFFE2,
    _CAFFE2_FORGET,
    _ADEPT,
    _KALDI,
)
