"""The published layer-normalised GRUs and light GRUs."""

from __future__ import annotations

from dataclasses import replace

from lnrnn.dialects.dialect import Dialect, Initializer, Source, fan_scaled
from lnrnn.dialects.layout import Columns, Layout, MinusOne, Rows, Stacked, Transposed, per_gate
from lnrnn.variant import Norm, Variant

_SPLIT = (Norm("x"), Norm("h"))
_EACH = tuple(Norm("sum", gate) for gate in "rzn")
_GATES_APART = (Norm("x", "rz"), Norm("x", "n"), Norm("h", "rz"), Norm("h", "n"))

# U(-1/sqrt(H), 1/sqrt(H)) on weights of 3 H columns, as torch.nn.GRUCell draws all its weights.
_TORCH = fan_scaled(1.0, "fan_out")
# U(-1/sqrt(n), 1/sqrt(n)) with n the input size, as torch.nn.Linear draws its matrix.
_LINEAR = fan_scaled(1 / 3, "fan_in")


def _xh(gates: str) -> Layout:
    """One matrix on `[x, h]`."""
    return Stacked(Columns("kernel", gates), Columns("recurrent_kernel", gates))


def _hx(gates: str) -> Layout:
    """One matrix on `[h, x]`."""
    return Stacked(Columns("recurrent_kernel", gates), Columns("kernel", gates))


def _rows(param: str, gates: str) -> Layout:
    """A matrix stored as (out, in), gates one above the other."""
    return Transposed(Columns(param, gates))


# x and h normed apart, reset after the recurrent product.

_HASTE = Dialect(
    name="haste_lngru",
    title="haste LayerNormGRU",
    source=Source(
        "lmnt-com/haste",
        "frameworks/pytorch/layer_norm_gru.py::LayerNormGRU",
        "ceba32ecd3735062f25e56b08ef3143caa086753",
        "Apache-2.0",
    ),
    variant=Variant(cell="gru", norms=_SPLIT),
    layout={
        "kernel": Columns("kernel", "zrn"),
        "recurrent_kernel": Columns("recurrent_kernel", "zrn"),
        "bias": Columns("x_norm_bias", "zrn"),
        "recurrent_bias": Columns("h_norm_bias", "zrn"),
        "gamma": Rows(Columns("x_norm_gain", "zrn"), Columns("h_norm_gain", "zrn")),
    },
    per_gate=("kernel", "recurrent_kernel"),
    zoneout="h",
)

_SOCKEYE = Dialect(
    name="sockeye_lngru",
    title="Sockeye 1 LayerNormGRUCell",
    source=Source("sockeye", "sockeye/rnn.py::LayerNormGRUCell", "1.18.106 (PyPI)", "Apache-2.0"),
    variant=Variant(cell="gru", norms=_SPLIT, bias_x=True, bias_h=True, epsilon=1e-6),
    layout={
        "h2h_bias": Columns("bias_h", "rzn"),
        "h2h_scale": Columns("h_norm_gain", "rzn"),
        "h2h_shift": Columns("h_norm_bias", "rzn"),
        "h2h_weight": _rows("recurrent_kernel", "rzn"),
        "i2h_bias": Columns("bias_x", "rzn"),
        "i2h_scale": Columns("x_norm_gain", "rzn"),
        "i2h_shift": Columns("x_norm_bias", "rzn"),
        "i2h_weight": _rows("kernel", "rzn"),
    },
)

_KIROS = Dialect(
    name="kiros_lngru",
    title="GRU of the authors of layer normalisation",
    source=Source(
        "ryankiros/layer-norm",
        "layers.py::lngru_layer",
        "7a9a1bf7c6553b5a89949c5c860bdfc0937af483",
        "no licence",
    ),
    variant=Variant(cell="gru", norms=_GATES_APART, bias_x=True),
    layout={
        "U": Columns("recurrent_kernel", "rz"),
        "Ux": Columns("recurrent_kernel", "n"),
        "W": Columns("kernel", "rz"),
        "Wx": Columns("kernel", "n"),
        "b": Columns("bias_x", "rz"),
        "bx": Columns("bias_x", "n"),
        "b1": Columns("x_norm_bias", "rz"),
        "b2": Columns("x_norm_bias", "n"),
        "b3": Columns("h_norm_bias", "rz"),
        "b4": Columns("h_norm_bias", "n"),
        "s1": Columns("x_norm_gain", "rz"),
        "s2": Columns("x_norm_gain", "n"),
        "s3": Columns("h_norm_gain", "rz"),
        "s4": Columns("h_norm_gain", "n"),
    },
    per_gate=("kernel", "recurrent_kernel"),
    masked_output="hold",
)


def _nematus(bias: str, norms: dict[str, str]) -> dict[str, Layout]:
    """Nematus's weights: where the bias goes, and the names of a norm's weights."""
    found: dict[str, Layout] = {}
    for part, gates in (("gates", "rz"), ("proposal", "n")):
        found[f"{part}_bias"] = Columns(bias, gates)
        found[f"input_to_{part}"] = Columns("kernel", gates)
        found[f"state_to_{part}"] = Columns("recurrent_kernel", gates)
        for source, site in (("x", "x"), ("state", "h")):
            for name, which in norms.items():
                found[f"{part}_{source}_norm/{name}"] = Columns(f"{site}_norm_{which}", gates)
    return found


_LAYER = {"new_mean": "bias", "new_std": "gain"}
_RMS = {"scale": "gain"}
_NEMATUS = Dialect(
    name="nematus_lngru",
    title="Nematus GRUStep with layer norm, the bias in the input norm",
    source=Source(
        "EdinburghNLP/nematus",
        "nematus/layers.py::GRUStep",
        "49d050863bc9644b8c0a9d9ab6e54ccd30f927dd",
        "BSD-3-Clause",
    ),
    variant=Variant(cell="gru", norms=_GATES_APART, bias_x=True),
    layout=_nematus("bias_x", _LAYER),
    per_gate=("kernel", "recurrent_kernel"),
)
_NEMATUS_B = replace(
    _NEMATUS,
    name="nematus_lngru_biasB",
    title="Nematus GRUStep with layer norm, the bias in the state norm",
    variant=_NEMATUS.variant.replace(bias_x=False, bias_h=True),
    layout=_nematus("bias_h", _LAYER),
)
_RMS_NORMS = tuple(replace(norm, bias=False) for norm in _GATES_APART)
_NEMATUS_RMS = replace(
    _NEMATUS,
    name="nematus_rmsgru",
    title="Nematus GRUStep with RMS norm, the bias in the input norm",
    variant=_NEMATUS.variant.replace(norm="rms", norms=_RMS_NORMS),
    layout=_nematus("bias_x", _RMS),
)
_NEMATUS_RMS_B = replace(
    _NEMATUS_RMS,
    name="nematus_rmsgru_biasB",
    title="Nematus GRUStep with RMS norm, the bias in the state norm",
    variant=_NEMATUS_B.variant.replace(norm="rms", norms=_RMS_NORMS),
    layout=_nematus("bias_h", _RMS),
)

_SKIP_THOUGHTS = Dialect(
    name="tfmodels_skipthoughts_lngru",
    title="TensorFlow Models skip-thoughts LayerNormGRUCell",
    source=Source(
        "tensorflow/models",
        "research/skip_thoughts/skip_thoughts/ops/gru_cell.py::LayerNormGRUCell",
        "5798262bc1be122cd23d7728ebb60baa7be33584",
        "Apache-2.0",
    ),
    variant=Variant(cell="gru", norms=_GATES_APART, update="new", epsilon=1e-12),
    layout={
        "candidate/layer_norm/u/beta": Columns("h_norm_bias", "n"),
        "candidate/layer_norm/u/gamma": Columns("h_norm_gain", "n"),
        "candidate/layer_norm/w/beta": Columns("x_norm_bias", "n"),
        "candidate/layer_norm/w/gamma": Columns("x_norm_gain", "n"),
        "candidate/u": Columns("recurrent_kernel", "n"),
        "candidate/w": Columns("kernel", "n"),
        "gates/layer_norm/w_h/beta": Columns("h_norm_bias", "zr"),
        "gates/layer_norm/w_h/gamma": Columns("h_norm_gain", "zr"),
        "gates/layer_norm/w_x/beta": Columns("x_norm_bias", "zr"),
        "gates/layer_norm/w_x/gamma": Columns("x_norm_gain", "zr"),
        "gates/w_h": Columns("recurrent_kernel", "zr"),
        "gates/w_x": Columns("kernel", "zr"),
    },
    scope="gru_cell/",
    per_gate=("kernel", "recurrent_kernel"),
)

_TRANSDREAMER = Dialect(
    name="transdreamer_lngru",
    title="TransDreamer LayerNormGRUCell",
    source=Source(
        "changchencc/TransDreamer",
        "model/utils.py::LayerNormGRUCell",
        "393007a1528acdfb70a2a813e09ab7b2e236bd4f",
        "no licence",
    ),
    variant=Variant(cell="gru", norms=_GATES_APART, update="new"),
    layout={
        "fc_i2h.net.weight": _rows("kernel", "zr"),
        "fc_h2h.net.weight": _rows("recurrent_kernel", "zr"),
        "fc_i2c.net.weight": _rows("kernel", "n"),
        "fc_h2c.net.weight": _rows("recurrent_kernel", "n"),
        "layer_norm_hh.weight": Columns("h_norm_gain", "zr"),
        "layer_norm_hh.bias": Columns("h_norm_bias", "zr"),
        "layer_norm_ih.weight": Columns("x_norm_gain", "zr"),
        "layer_norm_ih.bias": Columns("x_norm_bias", "zr"),
        "layer_norm_c.weight": Columns("x_norm_gain", "n"),
        "layer_norm_c.bias": Columns("x_norm_bias", "n"),
        "layer_norm_u.weight": Columns("h_norm_gain", "n"),
        "layer_norm_u.bias": Columns("h_norm_bias", "n"),
    },
    per_gate=("kernel", "recurrent_kernel"),
    drawn_together="zr",
)
_ELEKTRISCHES = Dialect(
    name="elektrisches_lngru",
    title="LayerNorm_GRU LayerNormGRUCell, norms without gain and bias",
    source=Source(
        "ElektrischesSchaf/LayerNorm_GRU",
        "GRU_layernorm_cell.py::LayerNormGRUCell",
        "09023f712dd1be7ea38e2c9d41feef9bc07edd0b",
        "MIT",
    ),
    variant=Variant(
        cell="gru",
        norms=tuple(replace(norm, gain=False, bias=False) for norm in _GATES_APART),
        bias_x=True,
        bias_h=True,
        update="new",
    ),
    layout={
        "i2h.weight": _rows("kernel", "zr"),
        "i2h.bias": Columns("bias_x", "zr"),
        "h2h.weight": _rows("recurrent_kernel", "zr"),
        "h2h.bias": Columns("bias_h", "zr"),
        "h_hat_W.weight": _rows("kernel", "n"),
        "h_hat_W.bias": Columns("bias_x", "n"),
        "h_hat_U.weight": _rows("recurrent_kernel", "n"),
        "h_hat_U.bias": Columns("bias_h", "n"),
    },
    initializers=dict.fromkeys(("kernel", "recurrent_kernel", "bias_x", "bias_h"), _TORCH),
)

# The sum normed over all gates, reset of the whole candidate.

_DREAMER = Variant(
    cell="gru",
    norms=(Norm("sum"),),
    reset="whole",
    update="new",
    update_bias=-1.0,
    epsilon=1e-3,
)
_TRUNCATED = fan_scaled(1.0, "fan_avg", "truncated_normal")

_DREAMER_2 = Dialect(
    name="dreamerv2_gru",
    title="DreamerV2 GRUCell with norm",
    source=Source(
        "danijar/dreamerv2",
        "dreamerv2/common/nets.py::GRUCell",
        "07d906e9c4322c6fc2cd6ed23e247ccd6b7c8c41",
        "MIT",
    ),
    variant=_DREAMER.replace(bias_x=True),
    layout={
        "dense/bias": Columns("bias_x", "rnz"),
        "dense/kernel": _xh("rnz"),
        "layer_normalization/beta": Columns("sum_norm_bias", "rnz"),
        "layer_normalization/gamma": Columns("sum_norm_gain", "rnz"),
    },
    initializers={"recurrent_kernel": "glorot_uniform"},
)
_DREAMER_3 = Dialect(
    name="dreamerv3_v1_gru",
    title="DreamerV3 GRU of 2023",
    source=Source("dreamerv3", "dreamerv3/nets.py::RSSM._gru", "1.5.0 (PyPI)", "MIT"),
    variant=_DREAMER,
    layout={
        "gru/kernel": _hx("rnz"),
        "gru/norm/bias": Columns("sum_norm_bias", "rnz"),
        "gru/norm/scale": Columns("sum_norm_gain", "rnz"),
    },
    initializers={"kernel": _TRUNCATED, "recurrent_kernel": _TRUNCATED},
)
_NM512 = Dialect(
    name="nm512_dreamerv3_gru",
    title="dreamerv3-torch GRUCell",
    source=Source(
        "NM512/dreamerv3-torch",
        "networks.py::GRUCell",
        "6ef8646d807cd10ce0c88e10a7e943211e7fc44c",
        "MIT",
    ),
    variant=_DREAMER,
    layout={
        "layers.GRU_linear.weight": Transposed(_xh("rnz")),
        "layers.GRU_norm.weight": Columns("sum_norm_gain", "rnz"),
        "layers.GRU_norm.bias": Columns("sum_norm_bias", "rnz"),
    },
    initializers={"kernel": _TRUNCATED, "recurrent_kernel": _TRUNCATED},
)
_SHEEPRL = Dialect(
    name="sheeprl_lngru",
    title="SheepRL LayerNormGRUCell",
    source=Source(
        "Eclectic-Sheep/sheeprl",
        "sheeprl/models/models.py::LayerNormGRUCell",
        "33b636681fd8b5340b284f2528db8821ab8dcd0b",
        "Apache-2.0",
    ),
    variant=_DREAMER.replace(bias_x=True),
    layout={
        "linear.weight": Transposed(_hx("rnz")),
        "linear.bias": Columns("bias_x", "rnz"),
        "layer_norm.weight": Columns("sum_norm_gain", "rnz"),
        "layer_norm.bias": Columns("sum_norm_bias", "rnz"),
    },
    # The fan-in of all three is I + H in the original.
    initializers={"kernel": _LINEAR, "recurrent_kernel": _LINEAR, "bias_x": _TORCH},
)
_SHEEPRL_NOBIAS = replace(
    _SHEEPRL,
    name="sheeprl_lngru_nobias",
    title="SheepRL LayerNormGRUCell without a bias",
    variant=_DREAMER,
    layout={n: p for n, p in _SHEEPRL.layout.items() if n != "linear.bias"},
)
# The original draws by a normal law of the deviation that a truncated one would need.
_WIDE = fan_scaled(1 / 0.8796**2, "fan_avg", "untruncated_normal")
_RLLIB = replace(
    _SHEEPRL_NOBIAS,
    name="rllib_dreamerv3_gru",
    title="RLlib DreamerV3GRU",
    source=Source(
        "ray",
        "rllib/algorithms/dreamerv3/torch/models/components/sequence_model.py::DreamerV3GRU",
        "2.60.0 (PyPI)",
        "Apache-2.0",
    ),
    initializers={"kernel": _WIDE, "recurrent_kernel": _WIDE},
)
_PYDREAMER_SOURCE = Source(
    "jurgisp/pydreamer",
    "pydreamer/models/rnn.py::NormGRUCell",
    "8a4ea85a925b57ddf24a221b41dfb3257f89d63a",
    "MIT",
)
_PYDREAMER_LATE = Dialect(
    name="pydreamer_normgru_latereset",
    title="pydreamer NormGRUCellLateReset",
    source=replace(_PYDREAMER_SOURCE, path="pydreamer/models/rnn.py::NormGRUCellLateReset"),
    variant=_DREAMER,
    layout={
        "weight_ih.weight": _rows("kernel", "rzn"),
        "weight_hh.weight": _rows("recurrent_kernel", "rzn"),
        "lnorm.weight": Columns("sum_norm_gain", "rzn"),
        "lnorm.bias": Columns("sum_norm_bias", "rzn"),
    },
)
_TRANSDREAMER_2 = Dialect(
    name="transdreamer_lngru_v2",
    title="TransDreamer LayerNormGRUCellV2",
    source=replace(_TRANSDREAMER.source, path="model/utils.py::LayerNormGRUCellV2"),
    variant=_DREAMER.replace(epsilon=1e-5),
    layout={
        "fc.net.weight": Transposed(_xh("rnz")),
        "layer_norm.weight": Columns("sum_norm_gain", "rnz"),
        "layer_norm.bias": Columns("sum_norm_bias", "rnz"),
    },
    initializers={"recurrent_kernel": "glorot_uniform"},
)
_TRUNCATED_IN = fan_scaled(1.0, "fan_in", "truncated_normal")
_EMBODIED_RMS = Dialect(
    name="embodied_gru_prerms",
    title="embodied GRU, RMS norm of [h, x]",
    source=Source(
        "danijar/embodied",
        "embodied/jax/nets.py::GRU",
        "a6583c14123ad310a3f20a6e78b5a0983d24a4fb",
        "MIT",
    ),
    variant=_DREAMER.replace(norm="rms", norms=(Norm("pre", bias=False),), bias=True, epsilon=1e-4),
    layout={
        "linear/bias": Columns("bias", "rnz"),
        "linear/kernel": _hx("rnz"),
        "norm/scale": Columns("pre_norm_gain", "hx"),
    },
    initializers={"kernel": _TRUNCATED_IN, "recurrent_kernel": _TRUNCATED_IN},
)
_EMBODIED_LAYER = replace(
    _EMBODIED_RMS,
    name="embodied_gru_prelayer",
    title="embodied GRU, layer norm of [h, x]",
    variant=_EMBODIED_RMS.variant.replace(norm="layer", norms=(Norm("pre"),)),
    layout={**_EMBODIED_RMS.layout, "norm/shift": Columns("pre_norm_bias", "hx")},
)

# The sum normed gate by gate.

_ICEFALL_GATES = {"r": "r", "z": "i", "n": "n"}
_ICEFALL = Dialect(
    name="icefall_lngru",
    title="icefall LayerNormGRUCell",
    source=Source(
        "k2-fsa/icefall",
        "egs/librispeech/ASR/transducer/rnn.py::LayerNormGRUCell",
        "36e0420c7e3e849a25b3d24dbf913c424f3d23c9",
        "Apache-2.0",
    ),
    variant=Variant(cell="gru", norms=_EACH, bias_x=True, bias_h=True, reset="inside"),
    layout={
        "weight_ih": _rows("kernel", "rzn"),
        "weight_hh": _rows("recurrent_kernel", "rzn"),
        "bias_ih": Columns("bias_x", "rzn"),
        "bias_hh": Columns("bias_h", "rzn"),
        **per_gate("layernorm_{}.weight", "sum_norm_gain", _ICEFALL_GATES),
        **per_gate("layernorm_{}.bias", "sum_norm_bias", _ICEFALL_GATES),
    },
    initializers=dict.fromkeys(
        ("kernel", "recurrent_kernel", "bias_x", "bias_h", "sum_norm_gain", "sum_norm_bias"), _TORCH
    ),
)
_SWAPPED_GATES = {"r": "r", "z": "z", "n": "o"}
_SOCKEYE_PER_GATE = Dialect(
    name="sockeye_lnpergategru",
    title="Sockeye 1 LayerNormPerGateGRUCell, whose shift is the gain and scale the bias",
    source=replace(_SOCKEYE.source, path="sockeye/rnn.py::LayerNormPerGateGRUCell"),
    variant=_ICEFALL.variant.replace(epsilon=1e-6),
    layout={
        "h2h_bias": Columns("bias_h", "rzn"),
        "h2h_weight": _rows("recurrent_kernel", "rzn"),
        "i2h_bias": Columns("bias_x", "rzn"),
        "i2h_weight": _rows("kernel", "rzn"),
        **per_gate("{}_shift", "sum_norm_gain", _SWAPPED_GATES),
        **per_gate("{}_scale", "sum_norm_bias", _SWAPPED_GATES),
    },
    initializers={"sum_norm_gain": "zeros", "sum_norm_bias": "ones"},
)

_PYDREAMER_GATES = {"r": "reset", "z": "update", "n": "newval"}
_PYDREAMER = Dialect(
    name="pydreamer_normgru",
    title="pydreamer NormGRUCell",
    source=_PYDREAMER_SOURCE,
    variant=Variant(cell="gru", norms=_EACH, reset="inside", update="new", epsilon=1e-3),
    layout={
        "weight_ih.weight": _rows("kernel", "rzn"),
        "weight_hh.weight": _rows("recurrent_kernel", "rzn"),
        **per_gate("ln_{}.weight", "sum_norm_gain", _PYDREAMER_GATES),
        **per_gate("ln_{}.bias", "sum_norm_bias", _PYDREAMER_GATES),
    },
)

_RESET_BEFORE = Variant(cell="gru", norms=_EACH, reset="before", update="new")
_LINGVO_GATES = {"r": "r", "z": "u", "n": "n"}
_XAVIER: dict[str, Initializer] = {"recurrent_kernel": "glorot_uniform"}
_LINGVO = Dialect(
    name="lingvo_lngru",
    title="lingvo GRUCell with apply_layer_norm and enable_gru_bias",
    source=Source(
        "tensorflow/lingvo",
        "lingvo/core/rnn_cell.py::GRUCell",
        "e0be5dc4ce9b89d91c0be343f54c5d7a5b1bcb59",
        "Apache-2.0",
    ),
    variant=_RESET_BEFORE.replace(
        norms=tuple(replace(norm, bias=False) for norm in _EACH),
        bias=True,
        cell_clip=10.0,
        epsilon=1e-8,
    ),
    layout={
        **per_gate("b_{}", "bias", _LINGVO_GATES),
        **per_gate("b{}_ln_scale", "sum_norm_gain", _LINGVO_GATES, MinusOne),
        **{f"w_{name}": _xh(gate) for gate, name in _LINGVO_GATES.items()},
    },
    initializers=_XAVIER,
    per_gate=("kernel", "recurrent_kernel"),
    masked_output="hold",
)
_ARM = Dialect(
    name="armkws_lngru",
    title="ARM keyword spotting LayerNormGRUCell",
    source=Source(
        "ARM-software/ML-KWS-for-MCU",
        "models.py::LayerNormGRUCell",
        "8151349b110f4d1c194c085fcc5b3535bdf7ce4a",
        "Apache-2.0",
    ),
    variant=_RESET_BEFORE.replace(epsilon=1e-12),
    layout={
        "candidate/kernel": _xh("n"),
        "candidate/state/beta": Columns("sum_norm_bias", "n"),
        "candidate/state/gamma": Columns("sum_norm_gain", "n"),
        "gates/kernel": _xh("zr"),
        "gates/reset/beta": Columns("sum_norm_bias", "r"),
        "gates/reset/gamma": Columns("sum_norm_gain", "r"),
        "gates/update/beta": Columns("sum_norm_bias", "z"),
        "gates/update/gamma": Columns("sum_norm_gain", "z"),
    },
    scope="layer_norm_gru_cell/",
    initializers=_XAVIER,
    per_gate=("kernel", "recurrent_kernel"),
    drawn_together="zr",
)
_ZERO = Dialect(
    name="zero_lngru",
    title="zero GRU, each product normed alone",
    source=Source(
        "bzhangGo/zero", "rnns/gru.py", "d97e2c21b1c6d0467fe821223042247bf2b46bf9", "BSD-3-Clause"
    ),
    variant=Variant(cell="gru", norms=_GATES_APART, bias=True, reset="before", epsilon=1e-8),
    layout={
        "cell_gru/gate_h/W_0_0": Columns("recurrent_kernel", "zr"),
        "cell_gru/gate_h/b_0": Columns("bias", "zr"),
        "cell_gru/gate_h/ln_0_0/offset": Columns("h_norm_bias", "zr"),
        "cell_gru/gate_h/ln_0_0/scale": Columns("h_norm_gain", "zr"),
        "cell_gru/hide_h/W_0_0": Columns("recurrent_kernel", "n"),
        "cell_gru/hide_h/b_0": Columns("bias", "n"),
        "cell_gru/hide_h/ln_0_0/offset": Columns("h_norm_bias", "n"),
        "cell_gru/hide_h/ln_0_0/scale": Columns("h_norm_gain", "n"),
        "fetch_state_gru/gate_x/W_0_0": Columns("kernel", "zr"),
        "fetch_state_gru/gate_x/ln_0_0/offset": Columns("x_norm_bias", "zr"),
        "fetch_state_gru/gate_x/ln_0_0/scale": Columns("x_norm_gain", "zr"),
        "fetch_state_gru/hide_x/W_0_0": Columns("kernel", "n"),
        "fetch_state_gru/hide_x/ln_0_0/offset": Columns("x_norm_bias", "n"),
        "fetch_state_gru/hide_x/ln_0_0/scale": Columns("x_norm_gain", "n"),
    },
    initializers=_XAVIER,
    per_gate=("kernel", "recurrent_kernel"),
    drawn_together="zr",
)

# Light GRUs.

_LIGRU = Dialect(
    name="speechbrain_ligru_ln_relu",
    title="SpeechBrain LiGRU with layernorm",
    source=Source(
        "speechbrain", "speechbrain/nnet/RNN.py::LiGRU_Layer", "1.1.2 (PyPI)", "Apache-2.0"
    ),
    variant=Variant(cell="ligru", norms=(Norm("x"),), activation="relu"),
    layout={
        "w.weight": _rows("kernel", "nz"),
        "u.weight": _rows("recurrent_kernel", "nz"),
        "norm.weight": Columns("x_norm_gain", "nz"),
        "norm.bias": Columns("x_norm_bias", "nz"),
    },
    initializers={"kernel": _LINEAR},
)
_SLIGRU = replace(
    _LIGRU,
    name="speechbrain_sligru_ln_relu",
    title="SpeechBrain SLiGRU with layernorm and recurrent_elementwise_affine",
    source=replace(_LIGRU.source, path="speechbrain/nnet/RNN.py::SLiGRU_Layer"),
    variant=_LIGRU.variant.replace(norms=_SPLIT),
    layout={
        **_LIGRU.layout,
        "layer_norm.weight": Columns("h_norm_gain", "nz"),
        "layer_norm.bias": Columns("h_norm_bias", "nz"),
    },
)
_LIGHT = (_LIGRU, _SLIGRU)

# No norm of the gates: the new h is normed.

_KALDI_NORM: dict[str, Layout] = {
    "ln.0.gamma": Columns("hidden_norm_gain"),
    "ln.0.beta": Columns("hidden_norm_bias"),
}


def _kaldi(gates: str) -> dict[str, Layout]:
    """pytorch-kaldi's weights: one matrix for each source and gate."""
    names = {g: "h" if g == "n" else g for g in gates}
    return {
        **per_gate("w{}.0.weight", "kernel", names, Transposed),
        **per_gate("u{}.0.weight", "recurrent_kernel", names, Transposed),
        **_KALDI_NORM,
    }


_KALDI_GRU = Dialect(
    name="pytorchkaldi_gru_ln_relu",
    title="pytorch-kaldi GRU with gru_use_laynorm",
    source=Source(
        "mravanelli/pytorch-kaldi",
        "neural_networks.py::GRU",
        "9773257d4c4edb8bd9a2dcd8c81afa2a4ab9da07",
        "CC-BY-4.0",
    ),
    variant=Variant(
        cell="gru",
        hidden_norm=True,
        reset="before",
        epsilon=1e-6,
        epsilon_at="deviation",
        ddof=1,
        activation="relu",
    ),
    layout=_kaldi("nzr"),
    initializers={"kernel": _LINEAR},
    per_gate=("recurrent_kernel",),
)
_KALDI_LIGRU = replace(
    _KALDI_GRU,
    name="pytorchkaldi_ligru_ln_relu",
    title="pytorch-kaldi liGRU with ligru_use_laynorm",
    source=replace(_KALDI_GRU.source, path="neural_networks.py::liGRU"),
    variant=_KALDI_GRU.variant.replace(cell="ligru", reset="after"),
    layout=_kaldi("nz"),
)
_KALDI_MINIMAL = replace(
    _KALDI_GRU,
    name="pytorchkaldi_minimalgru_ln_tanh",
    title="pytorch-kaldi minimalGRU with minimalgru_use_laynorm and tanh",
    source=replace(_KALDI_GRU.source, path="neural_networks.py::minimalGRU"),
    variant=_KALDI_GRU.variant.replace(coupled=True, activation="tanh"),
    layout=_kaldi("nz"),
)
_RELU = (*_LIGHT, _KALDI_GRU, _KALDI_LIGRU)

TABLE: tuple[Dialect, ...] = (
    _HASTE,
    _SOCKEYE,
    _KIROS,
    _NEMATUS,
    _NEMATUS_B,
    _NEMATUS_RMS,
    _NEMATUS_RMS_B,
    _SKIP_THOUGHTS,
    _TRANSDREAMER,
    _ELEKTRISCHES,
    _DREAMER_2,
    _DREAMER_3,
    _NM512,
    _SHEEPRL,
    _SHEEPRL_NOBIAS,
    _RLLIB,
    _PYDREAMER_LATE,
    _TRANSDREAMER_2,
    _EMBODIED_RMS,
    _EMBODIED_LAYER,
    _ICEFALL,
    _SOCKEYE_PER_GATE,
    _PYDREAMER,
    _LINGVO,
    _ARM,
    _ZERO,
    _KALDI_MINIMAL,
    *_RELU,
    *(
        replace(
            relu,
            name=relu.name.replace("relu", "tanh"),
            title=relu.title + " and tanh",
            variant=relu.variant.replace(activation="tanh"),
        )
        for relu in _RELU
    ),
)
