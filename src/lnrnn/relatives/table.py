"""The published forms of the relatives, with exact maps of their weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from lnrnn.dialects import Source
from lnrnn.relatives.layout import At, rolled
from lnrnn.relatives.relative import DREAMER, Relative
from lnrnn.relatives.weights import sizes_of

Array = np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Published:
    """A published form of a relative, with exact maps of its weights.

    Args:
        name: the key in [RELATIVES][lnrnn.relatives.RELATIVES].
        title: one line for people.
        source: repository, file, class, commit and licence.
        relative: the mathematics.
        layout: original weight name, `{l}` for the number of a layer, to its place; first the one
            that no other cell in the same file has.
        scope: what stands before every weight name by default.
        masked_output: what a masked step emits in the original.

    Example:
        >>> RELATIVES["torchrl_dreamerv3_blockgru"].relative.activation
        'silu'
    """

    name: str
    title: str
    source: Source
    relative: Relative
    layout: Mapping[str, At]
    scope: str = ""
    masked_output: Literal["repeat", "hold", "zero"] = "repeat"

    @property
    def variant(self) -> Relative:
        """The mathematics."""
        return self.relative

    def scope_of(self, weights: Mapping[str, Any]) -> str:
        """What stands before the names of `weights`, the same before each.

        Raises:
            ValueError: there is no such name, or one that is not of this form.
        """
        scopes = self.scopes(weights)
        if len(scopes) == 1 and len(self.under(weights, scopes[0])) == len(weights):
            return scopes[0]
        raise ValueError(
            f"{self.name!r} has the weights {list(self.layout)}, all behind one prefix or none; "
            f"got {sorted(weights)}."
        )

    def scopes(self, names: Iterable[str]) -> list[str]:
        """What stands before each weight of this form's first name."""
        first = re.compile(f"(.*?){_pattern(next(iter(self.layout)))}")
        return [found[1] for found in map(first.fullmatch, names) if found]

    def under(self, names: Iterable[str], scope: str) -> list[str]:
        """The names of this form's weights behind a scope."""
        return [name for name in names if self._place(name, scope)]

    def to_canonical(self, weights: Mapping[str, Any]) -> dict[str, Array]:
        """Canonical weights from the original's.

        Args:
            weights: original name to array, all behind one prefix or none.

        Returns:
            Canonical name to array; see [lnrnn.relatives.weights][].

        Raises:
            ValueError: names or shapes that are not those of this form.
        """
        scope = self.scope_of(weights)
        parts: dict[str, dict[str, Array]] = {}
        # those above one another last: where one ends, the others tell
        for original in sorted(weights, key=lambda n: self._at(n, scope)[0].below):
            at, layer = self._at(original, scope)
            for name, gate, array in at.read(np.asarray(weights[original]), _hidden(parts)):
                parts.setdefault(name.replace("{l}", layer), {})[gate] = array
        found = {
            name: np.concatenate([of[g] for g in sorted(of, key=self.relative.gates.find)], -1)
            for name, of in parts.items()
        }
        sizes = sizes_of(self.relative, found)
        if self._inputs_first:
            one, wide = sizes.units // sizes.blocks, sizes.projection
            found["block_kernel_0"] = rolled(found["block_kernel_0"], one, wide)
        return found

    def from_canonical(
        self, params: Mapping[str, Any], scope: str | None = None
    ) -> dict[str, Array]:
        """The original's weights from canonical ones.

        Args:
            params: canonical name to array.
            scope: what to put before each name; None puts the form's own scope.

        Returns:
            Original name to array; zeros for what the original stores and never reads.
        """
        return self._written(params, scope, offsets=True)

    def gradients(self, gradients: Mapping[str, Any], scope: str | None = None) -> dict[str, Array]:
        """Gradients of the original's weights: the same rearrangement, without offsets."""
        return self._written(gradients, scope, offsets=False)

    def _written(
        self, params: Mapping[str, Any], scope: str | None, offsets: bool
    ) -> dict[str, Array]:
        scope = self.scope if scope is None else scope
        arrays = {n: np.asarray(p) for n, p in params.items()}
        if self._inputs_first and "block_kernel_0" in arrays:
            kernel, wide = arrays["block_kernel_0"], arrays["hidden_kernel"].shape[1]
            one = arrays["gate_kernel"].shape[1]
            arrays["block_kernel_0"] = rolled(kernel, one, kernel.shape[1] - one - wide)
        found = {}
        for original, at in self.layout.items():
            pattern = re.compile(_pattern(next(filter(None, at.names))))
            for match in filter(None, map(pattern.fullmatch, arrays)):
                layer = match.groupdict().get("l") or ""

                def part(name: str, gate: str, layer: str = layer) -> Array:
                    whole, gates = arrays[name.replace("{l}", layer)], self.relative.gates
                    return np.split(whole, len(gates), -1)[gates.index(gate)] if gate else whole

                found[scope + original.replace("{l}", layer)] = at.write(part, offsets)
        return found

    @property
    def _inputs_first(self) -> bool:
        return any(at.inputs_first for at in self.layout.values())

    def _place(self, original: str, scope: str) -> tuple[At, str] | None:
        """Of an original weight, and the number of its layer; None for a stray one."""
        for pattern, at in self.layout.items():
            match = re.fullmatch(re.escape(scope) + _pattern(pattern), original)
            if match:
                return at, match.groupdict().get("l") or ""
        return None

    def _at(self, original: str, scope: str) -> tuple[At, str]:
        found = self._place(original, scope)
        assert found is not None
        return found


def _hidden(parts: Mapping[str, Mapping[str, Array]]) -> int:
    """R, the rows of a matrix of h; 0 while it is not known."""
    for name, axis in (("projection_kernel", 1), ("recurrent_kernel", 0)):
        if name in parts:
            return next(iter(parts[name].values())).shape[axis]
    return 0


def _pattern(name: str) -> str:
    return re.escape(name).replace(r"\{l\}", r"(?P<l>\d+)")


def _dreamer(
    sources: Mapping[str, str],
    ends: tuple[str, str, str],
    block: tuple[str, str, str],
    gates: tuple[str, str],
    *,
    turned: bool = False,
    turned_blocks: bool = False,
    inputs_first: bool = False,
) -> dict[str, At]:
    """A layout from the original's names: projections and their ends, block layers, gates."""
    layout = {gates[0]: At("gate_kernel", turned=turned_blocks), gates[1]: At("gate_bias")}
    for name, original in sources.items():
        kernel, bias, gain = (original.format(end) for end in ends)
        layout[kernel] = At(f"{name}_kernel", turned=turned)
        layout |= {bias: At(f"{name}_bias"), gain: At(f"{name}_gain")}
    kernel, bias, gain = block
    layout[kernel] = At("block_kernel_{l}", turned=turned_blocks, inputs_first=inputs_first)
    return layout | {bias: At("block_bias_{l}"), gain: At("block_gain_{l}")}


def _zero(name: str, cell: Any, title: str, layout: Mapping[str, At]) -> Published:
    return Published(
        name=f"zero_ln{name}",
        title=title,
        source=Source("bzhangGo/zero", f"rnns/{name}.py", "d97e2c21", "BSD-3-Clause"),
        relative=Relative(cell=cell, epsilon=1e-8),
        layout={
            **layout,
            f"fetch_state_{name}/hide_x/W_0_0": At("kernel"),
            f"fetch_state_{name}/hide_x/ln_0_0/scale": At("x_norm_gain"),
            f"fetch_state_{name}/hide_x/ln_0_0/offset": At("x_norm_bias"),
        },
    )


def _gates(template: str, names: Mapping[str, str], at: str, **how: Any) -> dict[str, At]:
    """One weight for each gate: `template` with the gate's name, for the gate's columns."""
    return {template.format(name): At(at, gates=gate, **how) for gate, name in names.items()}


def _magenta() -> dict[str, At]:
    """Of a gate and x, or h, the small networks have the name `hyper_` and both letters."""
    layout: dict[str, At] = {}
    gates = {"i": "i", "g": "j", "f": "f", "o": "o"}
    for source in "xh":
        before = f"hyper_{{}}{source}/"
        of = f"{source}_scale"
        layout |= _gates(f"{before}zw/super_linear_w", gates, f"{of}_embedding_kernel")
        layout |= _gates(f"{before}zw/super_linear_b", gates, f"{of}_embedding_bias")
        layout |= _gates(f"{before}alpha/super_linear_w", gates, f"{of}_kernel")
    layout |= _gates("hyper_{}h/zb/super_linear_w", gates, "shift_embedding_kernel")
    layout |= _gates("hyper_{}h/beta/super_linear_w", gates, "shift_kernel")
    small, order = "LayerNormLSTMCell/", "igfo"
    layout |= {
        "W_xh": At("kernel", gates=order),
        "W_hh": At("recurrent_kernel", gates=order),
        "bias": At("shift_bias", gates=order),
        f"{small}W_xh": At("hyper_kernel", "hyper_h_kernel", gates=order, below=True),
        f"{small}W_hh": At("hyper_recurrent_kernel", gates=order),
    }
    for before, own in (("", ""), (small, "hyper_")):
        for name, kind in (("gamma", "gain"), ("beta", "bias")):
            layout[f"{before}ln_all/ln_{name}"] = At(f"{own}sum_norm_{kind}", gates=order)
            layout[f"{before}ln_c/ln_{name}"] = At(f"{own}cell_norm_{kind}")
    return layout


def _labml() -> dict[str, At]:
    """The gates have numbers in our order."""
    gates, kinds = dict(zip("ifgo", "0123", strict=True)), {"weight": "gain", "bias": "bias"}
    layout = {
        "z_h.weight": At("h_scale_embedding_kernel", turned=True),
        "z_h.bias": At("h_scale_embedding_bias"),
        "z_x.weight": At("x_scale_embedding_kernel", turned=True),
        "z_x.bias": At("x_scale_embedding_bias"),
        "z_b.weight": At("shift_embedding_kernel", turned=True),
        "hyper.input_lin.weight": At("hyper_h_kernel", "hyper_kernel", below=True, turned=True),
        "hyper.hidden_lin.weight": At("hyper_recurrent_kernel", turned=True),
        "hyper.hidden_lin.bias": At("hyper_bias_h"),
    }
    for name, of in (("d_h", "h_scale"), ("d_x", "x_scale"), ("d_b", "shift")):
        layout |= _gates(f"{name}.{{}}.weight", gates, f"{of}_kernel", turned=True)
    layout |= _gates("d_b.{}.bias", gates, "shift_bias")
    layout |= _gates("w_x.{}", gates, "kernel", turned=True)
    layout |= _gates("w_h.{}", gates, "recurrent_kernel", turned=True)
    for before, own in (("", ""), ("hyper.", "hyper_")):
        for name, kind in kinds.items():
            layout |= _gates(f"{before}layer_norm.{{}}.{name}", gates, f"{own}sum_norm_{kind}")
            layout[f"{before}layer_norm_c.{name}"] = At(f"{own}cell_norm_{kind}")
    return layout


def _lingvo_double_projection() -> dict[str, At]:
    gates = {"i": "i_g", "f": "f_g", "g": "i_i", "o": "o_g"}
    return {
        "w_input_proj": At("joint_kernel", "joint_h_kernel", below=True),
        "w_output_proj": At("projection_kernel"),
        **_gates("wm_{}", gates, "kernel"),
        **_gates("ln_scale_{}", gates, "sum_norm_gain", minus_one=True),
        **_gates("bias_{}", gates, "sum_norm_bias"),
        "ln_scale_c": At("cell_norm_gain", minus_one=True),
        "bias_c": At("cell_norm_bias"),
    }


_TABLE = (
    Published(
        name="dreamerv3_block_core",
        title="DreamerV3's recurrent core, danijar's own (JAX)",
        source=Source("danijar/dreamerv3", "dreamerv3/rssm.py::RSSM._core", "f8817c40", "MIT"),
        relative=Relative(
            cell="block_gru", norm="rms", epsilon=1e-4, activation="gelu", update_bias=-1.0
        ),
        layout=_dreamer(
            {"hidden": "dynin0{}", "input": "dynin1{}", "action": "dynin2{}"},
            ("/kernel", "/bias", "norm/scale"),
            ("dynhid{l}/kernel", "dynhid{l}/bias", "dynhid{l}norm/scale"),
            ("dyngru/kernel", "dyngru/bias"),
        ),
    ),
    Published(
        name="r2dreamer_deter",
        title="The deterministic state of r2dreamer, of dreamerv3-torch's author",
        source=Source("NM512/r2dreamer", "rssm.py::Deter", "546e4fab", "MIT"),
        relative=DREAMER,
        layout=_dreamer(
            {"hidden": "_dyn_in0.{}", "input": "_dyn_in1.{}", "action": "_dyn_in2.{}"},
            ("0.weight", "0.bias", "1.weight"),
            (
                "_dyn_hid.dyn_hid_{l}.weight",
                "_dyn_hid.dyn_hid_{l}.bias",
                "_dyn_hid.norm_{l}.weight",
            ),
            ("_dyn_gru.weight", "_dyn_gru.bias"),
            turned=True,
            turned_blocks=True,
        ),
    ),
    Published(
        name="torchrl_dreamerv3_blockgru",
        title="TorchRL's DreamerV3BlockGRU",
        source=Source(
            "torchrl",
            "torchrl/modules/models/model_based.py::DreamerV3BlockGRU",
            "0.14.1",
            "MIT",
        ),
        relative=DREAMER,
        layout=_dreamer(
            {"hidden": "cell.hidden_{}", "input": "cell.input_{}"},
            ("linear.weight", "linear.bias", "norm.weight"),
            (
                "cell.dynamic_linears.{l}.weight",
                "cell.dynamic_linears.{l}.bias",
                "cell.dynamic_norms.{l}.weight",
            ),
            ("cell.gates.weight", "cell.gates.bias"),
            turned=True,
            inputs_first=True,
        ),
    ),
    _zero(
        "atr",
        "atr",
        "Zhang et al.'s addition-subtraction twin-gated recurrent network",
        {
            "cell_atr/hide_h/W_0_0": At("recurrent_kernel"),
            "cell_atr/hide_h/b_0": At("bias"),
            "cell_atr/hide_h/ln_0_0/scale": At("h_norm_gain"),
            "cell_atr/hide_h/ln_0_0/offset": At("h_norm_bias"),
        },
    ),
    _zero("lrn", "lrn", "Zhang and Sennrich's lightweight recurrent network", {}),
    _zero("olrn", "olrn", "The lightweight recurrent network with an output gate", {}),
    _zero(
        "sru",
        "sru",
        "The simple recurrent unit of bzhangGo/zero",
        {
            "cell_sru/v_f": At("peephole_f", one_row=True),
            "cell_sru/v_r": At("peephole_r", one_row=True),
        },
    ),
    Published(
        name="lingvo_sru_ln",
        title="lingvo's SRUCell(apply_layer_norm=True)",
        source=Source(
            "tensorflow/lingvo", "lingvo/core/rnn_cell.py::SRUCell", "e0be5dc4", "Apache-2.0"
        ),
        relative=Relative(cell="sru_carry", epsilon=1e-8, cell_clip=10.0),
        layout={
            "c_t_ln_scale": At("cell_norm_gain"),
            "f_t_ln_scale": At("f_norm_gain"),
            "r_t_ln_scale": At("r_norm_gain"),
            "b": At("", "bias", "f_norm_bias", "r_norm_bias"),
            "wm": At("kernel", gates="gxfr"),
        },
    ),
    Published(
        name="lingvo_lnlstm_doubleproj",
        title="lingvo's DoubleProjectionLSTMCell",
        source=Source(
            "tensorflow/lingvo",
            "lingvo/core/rnn_cell.py::DoubleProjectionLSTMCell",
            "e0be5dc4",
            "Apache-2.0",
        ),
        relative=Relative(cell="double_projection", epsilon=1e-8),
        layout=_lingvo_double_projection(),
    ),
    Published(
        name="magenta_hyperlstm",
        title="The HyperLSTM of sketch-rnn",
        source=Source(
            "magenta/magenta",
            "magenta/models/sketch_rnn/rnn.py::HyperLSTMCell",
            "526d3eb1",
            "Apache-2.0",
        ),
        relative=Relative(cell="hyper_lstm", epsilon=1e-3, forget_bias=1.0),
        layout=_magenta(),
        scope="HyperLSTMCell/",
    ),
    Published(
        name="labml_hyperlstm",
        title="labml's HyperLSTMCell",
        source=Source(
            "labml-nn", "labml_nn/hypernetworks/hyper_lstm.py::HyperLSTMCell", "0.5.1", "MIT"
        ),
        relative=Relative(cell="hyper_lstm", hyper_bias=True),
        layout=_labml(),
    ),
    Published(
        name="deir_lngru",
        title="DEIR's CustomGRUCell with layer norms",
        source=Source(
            "swan-utokyo/deir",
            "src/algo/common_models/gru_cell.py::CustomGRUCell",
            "385d3510",
            "Apache-2.0",
        ),
        relative=Relative(cell="gru_twice"),
        layout={
            "norm_n.weight": At("n_norm_gain"),
            "norm_n.bias": At("n_norm_bias"),
            "weight_ih": At("kernel", turned=True),
            "weight_hh": At("recurrent_kernel", turned=True),
            "bias_ih": At("bias_x"),
            "bias_hh": At("bias_h"),
            "norm_i.weight": At("x_norm_gain"),
            "norm_i.bias": At("x_norm_bias"),
            "norm_h.weight": At("h_norm_gain"),
            "norm_h.bias": At("h_norm_bias"),
        },
    ),
)

RELATIVES: Mapping[str, Published] = MappingProxyType({form.name: form for form in _TABLE})
"""Every published form of a relative, by name."""
