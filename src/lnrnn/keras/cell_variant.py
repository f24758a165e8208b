"""Which variant a Keras cell computes, from Keras's arguments and ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import keras
from keras import ops

from lnrnn.frontends import families
from lnrnn.frontends.families import Family
from lnrnn.variant import Activation, Norm, Variant


@dataclass(frozen=True)
class CellKind:
    """What distinguishes a SimpleRNN, an LSTM and a GRU in Keras.

    Args:
        name: the class name without `Cell`.
        stock: the name of the Keras layer that it replaces.
        family: the cells that it computes.
        only: arguments that this class has and the others have not.
    """

    name: str
    stock: str
    family: Family
    only: tuple[str, ...] = ()

    @property
    def scope(self) -> str:
        """The name of the cell inside its layer, as in Keras: `lstm_cell`."""
        return {"SimpleRNN": "simple_rnn"}.get(self.stock, self.stock.lower()) + "_cell"


SIMPLE = CellKind("LayerNormSimpleRNN", "SimpleRNN", families.SIMPLE)
LSTM = CellKind(
    "LayerNormLSTM",
    "LSTM",
    families.LSTM,
    ("unit_forget_bias", "zoneout_cell", "projection_units"),
)
GRU = CellKind("LayerNormGRU", "GRU", families.GRU, ("reset_after",))
KINDS = (SIMPLE, LSTM, GRU)


def foreign(kind: CellKind) -> dict[str, str]:
    """Arguments that a kind does not take, each with the name of the class that does."""
    return {name: other.name for other in KINDS if other is not kind for name in other.only}


def plain(kind: CellKind, reset_after: bool = True) -> Variant:
    """Keras's own cell, without any norm."""
    if kind is GRU and not reset_after:
        return Variant(cell="gru", bias=True, reset="before")
    return families.plain(kind.family)


def with_reset(variant: Variant, reset_after: bool) -> Variant:
    """The GRU variant with the reset gate after or before the recurrent product of n."""
    wanted = "after" if reset_after else "before"
    if variant.cell != "gru" or variant.reset == wanted:
        return variant
    if wanted == "after":
        raise ValueError(
            f"reset_after=True contradicts a variant with reset={variant.reset!r}: leave "
            "reset_after out."
        )
    norms: list[Norm] = []
    for norm in variant.norms:
        # what shares statistics with r cannot hold n, which now comes after r
        split = norm.site == "h" and "n" in norm.gates and len(norm.gates) > 1
        groups = (norm.gates.replace("n", ""), "n") if split else (norm.gates,)
        norms += [Norm(norm.site, g, norm.gain, norm.bias) for g in groups]
    if variant.bias_h:
        # one bias, as in Keras: b_h adds to b_x before any use of r
        return variant.replace(
            reset="before", norms=tuple(norms), bias_x=False, bias_h=False, bias=True
        )
    return variant.replace(reset="before", norms=tuple(norms))


def activation(name: str) -> Callable[[Any], Any]:
    """The function that the variant's name of an activation stands for."""
    return keras2_hard_sigmoid if name == "keras2_hard_sigmoid" else keras.activations.get(name)


def keras2_hard_sigmoid(x: Any) -> Any:
    r"""$\max(0, \min(1, x / 5 + 1 / 2))$, the `hard_sigmoid` of Keras 2."""
    return ops.clip(0.2 * x + 0.5, 0.0, 1.0)


def with_activations(
    variant: Variant, activation: Any, recurrent_activation: Any
) -> tuple[Variant, dict[str, Callable[[Any], Any]]]:
    """The variant with Keras activations, and those functions that have no name in it.

    `"auto"` keeps the variant's own.  As in Keras, an LSTM's `activation` is that of the
    candidate and of the output.
    """
    wanted: dict[str, Any] = {}
    if activation != "auto":
        wanted["activation"] = activation
        if variant.cell == "lstm":
            wanted["output_activation"] = activation
    if recurrent_activation != "auto":
        wanted["recurrent_activation"] = recurrent_activation
    changes, functions = {}, {}
    for field, given in wanted.items():
        function = keras.activations.get(given)
        name = keras.activations.serialize(function)
        if given == "keras2_hard_sigmoid":
            changes[field] = given
        elif isinstance(name, str) and name in get_args(Activation):
            changes[field] = name
        else:
            functions[field] = function
    return variant.replace(**changes), functions
