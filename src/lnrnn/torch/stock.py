"""`nn.RNNBase` and `nn.RNNCellBase` as bases of our modules.

Programs ask for these classes where they initialise, list or summarise modules.  `nn.RNNBase`
holds its weights in a list besides, in the order of cuDNN, and mends that wherever a module is
built, set, moved, copied or replicated.  Ours are looked up by name: the list is made when it is
asked for, and there is nothing to mend.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

_Module: Any = nn.Module
_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


class RNNBase(nn.RNNBase):
    """`nn.RNNBase` without a list of weights to keep."""

    _stems: dict[str, dict[str, str]]

    __init__ = _Module.__init__
    __setattr__ = _Module.__setattr__
    __getstate__ = _Module.__getstate__
    __setstate__ = _Module.__setstate__
    _apply = _Module._apply
    _replicate_for_data_parallel = _Module._replicate_for_data_parallel

    @property
    def _all_weights(self) -> list[list[str]]:
        """Names of the weights that `nn.RNNBase` has too, a list for each layer and direction."""
        return [
            [w + suffix for w in _WEIGHTS if w in stems] for suffix, stems in self._stems.items()
        ]

    @property
    def _flat_weights_names(self) -> list[str]:
        return [name for names in self._all_weights for name in names]

    @property
    def _flat_weights(self) -> list[Tensor | None]:  # pyright: ignore
        """The weights of those names as they are now; None is one that was deleted."""
        return [getattr(self, name, None) for name in self._flat_weights_names]

    @_flat_weights.setter
    def _flat_weights(self, values: list[Tensor | None]) -> None:
        """Set the weights, as programs do that replace one and then mend the list."""
        held = zip(self._flat_weights_names, self._flat_weights, values, strict=True)
        for name, weight, value in held:
            if value is not weight:
                setattr(self, name, value)

    def flatten_parameters(self) -> None:
        """Do nothing: what `nn.LSTM` needs for cuDNN, and callers call."""

    _init_flat_weights = _update_flat_weights = flatten_parameters


class RNNCellBase(nn.RNNCellBase):
    """`nn.RNNCellBase` without its parameters."""

    __init__ = _Module.__init__
