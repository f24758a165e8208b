"""Layer normalisation for a model that exists: a copy with its recurrent layers replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from lnrnn.frontends import carry, families
from lnrnn.frontends.carry import Replacement, Report, Weights
from lnrnn.frontends.families import VariantArgument
from lnrnn.nnx.layers import LayerNormGRU, LayerNormLSTM, LayerNormRNNBase, LayerNormSimpleRNN
from lnrnn.nnx.recurrent import Options

_FAMILIES = {"LSTM": families.LSTM, "GRU": families.GRU, "SimpleRNN": families.SIMPLE}
# the cells that are replaced, the family as `variant=` names it, and what replaces their RNN
_REPLACED: dict[type[nnx.Module], tuple[str, type[LayerNormRNNBase]]] = {
    nnx.LSTMCell: ("LSTM", LayerNormLSTM),
    nnx.OptimizedLSTMCell: ("LSTM", LayerNormLSTM),
    nnx.GRUCell: ("GRU", LayerNormGRU),
    nnx.SimpleCell: ("SimpleRNN", LayerNormSimpleRNN),
}
_OPTIONS = (*(n for n in Options.__annotations__ if n != "variant"), "engine", "unroll")


class Normalized(NamedTuple):
    """The copy that [layer_normalize][lnrnn.nnx.layer_normalize] made, and its report."""

    module: Any
    report: Report


def layer_normalize(
    module: nnx.Module,
    *,
    variant: VariantArgument | Mapping[str, VariantArgument] = None,
    keep_bias: bool = True,
    rngs: nnx.Rngs,
    **options: Any,
) -> Normalized:
    r"""Copy a model with layer normalisation inside each `nnx.RNN` of an LSTM, GRU or simple cell.

    Weights and biases keep their values; gains and biases of norms are new, so that the copy
    needs training before it is useful.  A layer that is used in several places stays one; the
    model that was given is not touched.

    Args:
        module: any NNX module.
        variant: None for each class's default, `"none"` for the equations without norms, the
            name of a dialect or a [Variant][lnrnn.Variant], which replaces cells of its own
            kind only, or a dict such as `{"LSTM": "tfa_lnlstm", "GRU": None}`, which replaces
            those that it names (`"LSTM"`, `"GRU"`, `"SimpleRNN"`).
        keep_bias: False draws the biases anew, for a model whose biases are all zero: then
            leading inputs of zeros multiply the gradient by $1 / \sqrt{\epsilon}$ at each step.
        rngs: of the new weights.
        **options: given to each replacement, see [Options][lnrnn.nnx.Options].

    Returns:
        The copy, and a report of each recurrent layer: what it is now and which weights it
        kept, or why it was left.

    Raises:
        TypeError: something that is no module, or an unknown option.
        ValueError: a variant that does not exist, or has a projection.

    Example:
        >>> rngs = nnx.Rngs(0)
        >>> rnn = nnx.RNN(nnx.GRUCell(8, 16, rngs=rngs))
        >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), rnn)
        >>> normalized, report = layer_normalize(model, keep_bias=False, rngs=rngs)
        >>> print(report)
        layer     was      is            note
        layers.1  GRUCell  LayerNormGRU  kept kernel, recurrent_kernel; new ...
        1 replaced, 0 left
    """
    if not isinstance(module, nnx.Module):
        raise TypeError(f"layer_normalize takes an nnx.Module; got {type(module).__name__}.")
    carry.check_options(options, _OPTIONS)
    chosen = families.chosen(variant, _FAMILIES)
    done: dict[int, Any] = {}
    report: list[Replacement] = []
    unvaried: list[str] = []

    def visit(old: Any, path: tuple[str, ...]) -> Any:
        """The module that stands in place of an old one."""
        if id(old) in done:
            return done[id(old)]
        done[id(old)] = old
        if isinstance(old, nnx.RNN):
            name, cell = ".".join(path), type(old.cell).__name__
            reason = _reason(old, chosen)
            if reason:
                report.append(Replacement(name, cell, reason=reason))
            else:
                new, replacement, varies = _replaced(old, name, chosen, options, keep_bias, rngs)
                report.append(replacement)
                unvaried.extend([] if varies else [name])
                done[id(old)] = new
            return done[id(old)]
        for key, child, put in _children(old):
            new = visit(child, (*path, key))
            if new is not child:
                put(new)
        return old

    copied = visit(nnx.clone(module), ())
    carry.warn_of_equal(unvaried)
    return Normalized(copied, Report(report))


def _children(node: Any) -> list[tuple[str, Any, Callable[[Any], None]]]:
    """Modules and containers of them that a node holds: their names, and how to replace them."""
    items: Any
    set_item: Any
    if isinstance(node, (list, nnx.List)):  # a module too in older releases
        items, set_item = list(enumerate(node)), node.__setitem__
    elif isinstance(node, (dict, nnx.Dict)):
        items, set_item = list(node.items()), node.__setitem__
    elif isinstance(node, nnx.Module):
        items, set_item = list(vars(node).items()), partial(setattr, node)
    else:
        return []
    kinds = (nnx.Module, list, dict, nnx.List, nnx.Dict)
    return [
        (str(key), child, lambda new, key=key: set_item(key, new))
        for key, child in items
        if isinstance(child, kinds)
    ]


def _reason(old: Any, chosen: Mapping[str, Any]) -> str:
    """Why a recurrent layer is left; empty if it is replaced."""
    cell = old.cell
    if type(old) is not nnx.RNN or type(cell) not in _REPLACED:
        return "its class is none of NNX's own and may compute something else"
    if getattr(cell, "gate_fn", nnx.sigmoid) is not nnx.sigmoid:
        return "its gates are no sigmoids"
    if cell.activation_fn is not nnx.tanh or getattr(cell, "residual", False):
        return "its activation is no tanh of the sum of its projections"
    given = chosen[_REPLACED[type(cell)][0]]
    return given.reason if isinstance(given, families.Left) else ""


def _replaced(
    old: Any,
    path: str,
    chosen: Mapping[str, Any],
    options: Mapping[str, Any],
    keep_bias: bool,
    rngs: nnx.Rngs,
) -> tuple[Any, Replacement, bool]:
    """Our layer with the weights of NNX's, what to report, and whether biases vary."""
    cell = old.cell
    family, form = _REPLACED[type(cell)]
    own = ("time_major", "return_carry", "reverse", "keep_order")
    found: dict[str, Any] = {name: getattr(old, name) for name in own}
    found |= {"dtype": cell.dtype, "param_dtype": cell.param_dtype}
    new = form(
        cell.in_features,
        cell.hidden_features,
        rngs=rngs,
        variant=chosen[family],
        **{**found, **carry.taken(options, _FAMILIES[family])},
    )
    gates, fresh = families.plain(_FAMILIES[family]).gates, new.params()
    params, kept, lost = carry.carry_over(_weights_of(cell), gates, new.variant, fresh, keep_bias)
    new.load_params(params)
    varies = carry.keeps_varied(params, fresh, new.variant)
    added = tuple(n for n in fresh if n not in kept)
    before = type(cell).__name__
    return new, Replacement(path, before, form.__name__, kept, added, lost), varies


def _weights_of(cell: Any) -> Weights:
    """Canonical weights of a cell of NNX, whose gates stand in the canonical order."""
    if isinstance(cell, nnx.LSTMCell):
        ahead = (cell.ii, cell.if_, cell.ig, cell.io)
        back = (cell.hi, cell.hf, cell.hg, cell.ho)
    else:
        ahead, back = (cell.dense_i,), (cell.dense_h,)
    # a GRU's bias stands within its reset, that of x
    bias = "bias_x" if isinstance(cell, nnx.GRUCell) else "bias"
    held = ahead if ahead[0].bias is not None else back
    return {
        "kernel": _joined(ahead, "kernel"),
        "recurrent_kernel": _joined(back, "kernel"),
        bias: _joined(held, "bias"),
    }


def _joined(parts: Any, name: str) -> np.ndarray:
    return np.asarray(jnp.concatenate([getattr(p, name)[...] for p in parts], axis=-1))
