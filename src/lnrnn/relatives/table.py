"""The published forms of the relatives, with exact maps of their weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from lnrnn.dialects import Source
from lnrnn.relatives.relative import DREAMER, Relative
from lnrnn.relatives.weights import sizes_of

Array = np.ndarray
Place = Literal["as is", "transposed", "reversed", "one row", "joined before"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Published:
    """A published form of a relative, with exact maps of its weights.

    Args:
        name: the key in [RELATIVES][lnrnn.relatives.RELATIVES].
        title: one line for people.
        source: repository, file, class, commit and licence.
        relative: the mathematics.
        layout: original weight name, `{l}` for the number of a layer, to the canonical name
            and its place: `"as is"`; `"transposed"`; `"reversed"`, all axes; `"one row"`, a
            vector as a matrix; `"joined before"`, the rows of the first block product are
            those of h, of the inputs, then of the projected h.
        masked_output: what a masked step emits in the original.

    Example:
        >>> RELATIVES["torchrl_dreamerv3_blockgru"].relative.activation
        'silu'
    """

    name: str
    title: str
    source: Source
    relative: Relative
    layout: Mapping[str, tuple[str, Place]]
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
        return [name for name in names if self._canonical_name(name, scope)]

    def to_canonical(self, weights: Mapping[str, Any]) -> dict[str, Array]:
        """Canonical weights from the original's.

        Args:
            weights: original name to array, all behind one prefix or none.

        Returns:
            Canonical name to array; see [lnrnn.relatives.weights][].

        Raises:
            ValueError: names or shapes that are not those of this form.
        """
        scope, found = self.scope_of(weights), {}
        for original, array in weights.items():
            canonical = self._canonical_name(original, scope)
            if canonical is not None:
                found[canonical[0]] = _PLACES[canonical[1]][0](np.asarray(array))
        if "block_kernel_0" in found and self._joined_before:
            units, blocks = found["hidden_kernel"].shape[0], found["gate_kernel"].shape[0]
            wide = found["hidden_kernel"].shape[1]
            found["block_kernel_0"] = _rolled(found["block_kernel_0"], units // blocks, wide)
        sizes_of(self.relative, found)
        return found

    def from_canonical(self, params: Mapping[str, Any], scope: str = "") -> dict[str, Array]:
        """The original's weights from canonical ones, each name behind `scope`."""
        params = {n: np.asarray(p) for n, p in params.items()}
        if "block_kernel_0" in params and self._joined_before:
            kernel, wide = params["block_kernel_0"], params["hidden_kernel"].shape[1]
            one = params["gate_kernel"].shape[1]
            rest = kernel.shape[1] - one - wide
            params["block_kernel_0"] = _rolled(kernel, one, rest)
        found = {}
        for original, (canonical, place) in self.layout.items():
            pattern = re.compile(_pattern(canonical))
            for name, array in params.items():
                match = pattern.fullmatch(name)
                if match:
                    layer = match.groupdict().get("l") or ""
                    found[scope + original.replace("{l}", layer)] = _PLACES[place][1](array)
        return found

    def gradients(self, gradients: Mapping[str, Any], scope: str = "") -> dict[str, Array]:
        """Gradients of the original's weights: the same rearrangement."""
        return self.from_canonical(gradients, scope)

    @property
    def _joined_before(self) -> bool:
        return any(place == "joined before" for _, place in self.layout.values())

    def _canonical_name(self, original: str, scope: str) -> tuple[str, Place] | None:
        for pattern, (canonical, place) in self.layout.items():
            match = re.fullmatch(re.escape(scope) + _pattern(pattern), original)
            if match:
                return canonical.replace("{l}", match.groupdict().get("l") or ""), place
        return None


def _pattern(name: str) -> str:
    return re.escape(name).replace(r"\{l\}", r"(?P<l>\d+)")


def _rolled(kernel: Array, start: int, size: int) -> Array:
    """The rows from `start` on, with their first `size` behind the others."""
    head, first, rest = np.split(kernel, [start, start + size], 1)
    return np.concatenate([head, rest, first], 1)


_PLACES: Mapping[Place, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "as is": (lambda a: a, lambda a: a),
    "joined before": (lambda a: a, lambda a: a),
    "transposed": (np.transpose, np.transpose),
    "reversed": (lambda a: a.transpose(2, 1, 0), lambda a: a.transpose(2, 1, 0)),
    "one row": (lambda a: a[0], lambda a: a[None]),
}


def _dreamer(
    sources: Mapping[str, str], block: tuple[str, str, str], gates: tuple[str, str], kinds: Any
) -> dict[str, tuple[str, Place]]:
    """A layout from the original's names of the projections, the block layers and the gates."""
    (kernel, bias, gain), place, of_blocks, first = kinds
    layout: dict[str, tuple[str, Place]] = {gates[0]: ("gate_kernel", of_blocks)}
    layout[gates[1]] = ("gate_bias", "as is")
    for name, original in sources.items():
        layout[original.format(kernel)] = (f"{name}_kernel", place)
        layout[original.format(bias)] = (f"{name}_bias", "as is")
        layout[original.format(gain)] = (f"{name}_gain", "as is")
    for original, name, where in zip(
        block, ("kernel", "bias", "gain"), (first, "as is", "as is"), strict=True
    ):
        layout[original] = (f"block_{name}_{{l}}", where)
    return layout


def _zero(name: str, cell: Any, title: str, layout: Mapping[str, tuple[str, Place]]) -> Published:
    return Published(
        name=f"zero_ln{name}",
        title=title,
        source=Source("bzhangGo/zero", f"rnns/{name}.py", "d97e2c21", "BSD-3-Clause"),
        relative=Relative(cell=cell, epsilon=1e-8),
        layout={
            **layout,
            f"fetch_state_{name}/hide_x/W_0_0": ("kernel", "as is"),
            f"fetch_state_{name}/hide_x/ln_0_0/scale": ("x_norm_gain", "as is"),
            f"fetch_state_{name}/hide_x/ln_0_0/offset": ("x_norm_bias", "as is"),
        },
    )


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
            ("dynhid{l}/kernel", "dynhid{l}/bias", "dynhid{l}norm/scale"),
            ("dyngru/kernel", "dyngru/bias"),
            (("/kernel", "/bias", "norm/scale"), "as is", "as is", "as is"),
        ),
    ),
    Published(
        name="r2dreamer_deter",
        title="The deterministic state of r2dreamer, of dreamerv3-torch's author",
        source=Source("NM512/r2dreamer", "rssm.py::Deter", "546e4fab", "MIT"),
        relative=DREAMER,
        layout=_dreamer(
            {"hidden": "_dyn_in0.{}", "input": "_dyn_in1.{}", "action": "_dyn_in2.{}"},
            (
                "_dyn_hid.dyn_hid_{l}.weight",
                "_dyn_hid.dyn_hid_{l}.bias",
                "_dyn_hid.norm_{l}.weight",
            ),
            ("_dyn_gru.weight", "_dyn_gru.bias"),
            (("0.weight", "0.bias", "1.weight"), "transposed", "reversed", "reversed"),
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
            (
                "cell.dynamic_linears.{l}.weight",
                "cell.dynamic_linears.{l}.bias",
                "cell.dynamic_norms.{l}.weight",
            ),
            ("cell.gates.weight", "cell.gates.bias"),
            (
                ("linear.weight", "linear.bias", "norm.weight"),
                "transposed",
                "as is",
                "joined before",
            ),
        ),
    ),
    _zero(
        "atr",
        "atr",
        "Zhang et al.'s addition-subtraction twin-gated recurrent network",
        {
            "cell_atr/hide_h/W_0_0": ("recurrent_kernel", "as is"),
            "cell_atr/hide_h/b_0": ("bias", "as is"),
            "cell_atr/hide_h/ln_0_0/scale": ("h_norm_gain", "as is"),
            "cell_atr/hide_h/ln_0_0/offset": ("h_norm_bias", "as is"),
        },
    ),
    _zero("lrn", "lrn", "Zhang and Sennrich's lightweight recurrent network", {}),
    _zero("olrn", "olrn", "The lightweight recurrent network with an output gate", {}),
    _zero(
        "sru",
        "sru",
        "The simple recurrent unit of bzhangGo/zero",
        {
            "cell_sru/v_f": ("peephole_f", "one row"),
            "cell_sru/v_r": ("peephole_r", "one row"),
        },
    ),
)

RELATIVES: Mapping[str, Published] = MappingProxyType({form.name: form for form in _TABLE})
"""Every published form of a relative, by name."""
