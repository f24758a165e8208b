"""The parameters of a PyTorch module: `nn.LSTM`'s names, and others beside them.

A parameter is `<stem>_l<layer>`, with `_reverse` in the second direction; a cell's is the
stem alone.  A matrix is stored (out, in), as in `nn.LSTM`: the canonical one transposed.

What has `weight` in its name is a matrix, and what has `bias` is a bias of pre-activations:
programs that initialise by these words, or leave biases out of weight decay, mean nothing else.

`nn.LSTM` adds two biases where one would do.  So do we: where a variant has one bias, for
both sides or on one of them, `bias_ih` and `bias_hh` are two summands of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from lnrnn.params import Sizes, shapes
from lnrnn.variant import Variant

# each stem with the canonical weights that it may hold, the first that the variant has
_STEMS: dict[str, tuple[str, ...]] = {
    "weight_ih": ("kernel",),
    "weight_hh": ("recurrent_kernel",),
    "scale_hh": ("recurrent_scale",),
    "bias_ih": ("bias_x", "bias", "x_norm_bias", "sum_norm_bias", "bias_h"),
    "bias_hh": ("bias_h", "bias", "h_norm_bias", "bias_x", "sum_norm_bias", "x_norm_bias"),
    "weight_hr": ("projection_kernel",),
    "shift_hr": ("projection_bias",),
    "bias_both": ("bias",),  # beside one of each side; a cell's `bias` says whether it has any
    "gain_ih": ("x_norm_gain",),
    "shift_ih": ("x_norm_bias",),
    "gain_hh": ("h_norm_gain",),
    "shift_hh": ("h_norm_bias",),
    "gain_sum": ("sum_norm_gain",),
    "shift_sum": ("sum_norm_bias",),
    "gain_pre": ("pre_norm_gain",),
    "shift_pre": ("pre_norm_bias",),
    "peephole": ("peephole",),
    "gain_cell": ("cell_norm_gain",),
    "shift_cell": ("cell_norm_bias",),
    "gain_hidden": ("hidden_norm_gain",),
    "shift_hidden": ("hidden_norm_bias",),
    "initial_h": ("initial_h",),
    "initial_c": ("initial_c",),
}
_BIASES = ("bias_ih", "bias_hh")
# how names of 0.1.0 began, and how the same parameters begin now
_RENAMED = {
    "norm_weight_": "gain_",
    "norm_bias_": "shift_",
    "weight_peephole": "peephole",
    "bias_hr": "shift_hr",
}
_RENAMED_INDRNN = {**_RENAMED, "weight_hh": "scale_hh"}


def stems(variant: Variant, sizes: Sizes, learned_state: bool = False) -> dict[str, str]:
    """The canonical weight that each parameter is, or is a summand of, by its stem."""
    having = shapes(variant, sizes, learned_state)
    found: dict[str, str] = {}
    for stem, names in _STEMS.items():
        if stem in _BIASES:  # has columns for all gates, which a norm's bias may not have
            names = tuple(n for n in names if having.get(n) == having["kernel"][-1:])
        name = next((n for n in names if n in having), None)
        if name is not None and (stem in _BIASES or name not in found.values()):
            found[stem] = name
    return found


def renamed(name: str, variant: Variant) -> str:
    """The name of what had a name in 0.1.0; any other name is returned as it is.

    Args:
        name: of a parameter or buffer, or of one below `parametrizations`.
        variant: of the module that has it.
    """
    if name.startswith("parametrizations."):
        head, _, rest = name.partition(".")
        return f"{head}.{renamed(rest, variant)}"
    for old, new in (_RENAMED_INDRNN if variant.cell == "indrnn" else _RENAMED).items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def former(name: str) -> str | None:
    """The name of a parameter in 0.1.0, where it was one that no parameter has now."""
    found = [(old, new) for old, new in _RENAMED.items() if name.startswith(new)]
    if not found:
        return None
    old, new = max(found, key=lambda names: len(names[1]))
    return old + name.removeprefix(new)


class Former:
    """A parameter by its name in 0.1.0, as an attribute of the class."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, module: Any, owner: type | None = None) -> Any:
        if module is None:
            return self
        name = renamed(self.name, module.variant)
        found = getattr(module, name)
        message = f"The parameter {self.name!r} has another name since 0.2.0: write {name!r}."
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return found


def to_canonical(names: Mapping[str, str], parameter: Callable[[str], Any]) -> dict[str, Any]:
    """Canonical weights from parameters.

    Args:
        names: what `stems` returns.
        parameter: the tensor (or array) of a stem.
    """
    found: dict[str, Any] = {}
    for stem, name in names.items():
        value = _turned(parameter(stem))
        found[name] = found[name] + value if name in found else value
    return found


def from_canonical(names: Mapping[str, str], params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by stem; of two that are summed the second is zero."""
    found: dict[str, Any] = {}
    done: set[str] = set()
    for stem, name in names.items():
        value = _turned(params[name])
        found[stem] = 0 * value if name in done else value
        done.add(name)
    return found


def _turned(value: Any) -> Any:
    return value.transpose(1, 0) if value.ndim == 2 else value
