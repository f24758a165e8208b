"""Layer normalisation for a module that exists: a copy with its recurrent modules replaced."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from lnrnn.frontends import carry, families
from lnrnn.frontends.carry import Replacement, Report, Weights
from lnrnn.frontends.families import Family, VariantArgument
from lnrnn.torch import names
from lnrnn.torch.cells import LayerNormGRUCell, LayerNormLSTMCell, LayerNormRNNCell
from lnrnn.torch.layers import LayerNormGRU, LayerNormLSTM, LayerNormRNN
from lnrnn.torch.parameters import array
from lnrnn.torch.recurrent import Options, Recurrent

_OPTIONS = tuple(name for name in Options.__annotations__ if name != "variant")
# the modules that are replaced, the family as `variant=` names it, and what replaces them
_REPLACED: dict[type[nn.Module], tuple[str, type[Recurrent]]] = {
    nn.LSTM: ("LSTM", LayerNormLSTM),
    nn.LSTMCell: ("LSTM", LayerNormLSTMCell),
    nn.GRU: ("GRU", LayerNormGRU),
    nn.GRUCell: ("GRU", LayerNormGRUCell),
    nn.RNN: ("RNN", LayerNormRNN),
    nn.RNNCell: ("RNN", LayerNormRNNCell),
}
# what a replacement takes over beside attributes of the user
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)
_STATE_DICT_HOOKS = ("state_dict_hooks", "state_dict_pre_hooks", "state_dict_post_hooks")
_FAMILIES: dict[str, Family] = {
    "LSTM": families.LSTM,
    "GRU": families.GRU,
    "RNN": families.SIMPLE,
}


class Normalized(NamedTuple):
    """The copy that [layer_normalize][lnrnn.torch.layer_normalize] made, and its report."""

    module: Any
    report: Report


def layer_normalize(
    module: nn.Module,
    *,
    variant: VariantArgument | Mapping[str, VariantArgument] = None,
    keep_bias: bool = True,
    **options: Any,
) -> Normalized:
    r"""Copy a module tree with layer normalisation inside each LSTM, GRU and RNN, and cell.

    Weights and biases keep their values, so that a trained model is a starting point;
    gains and biases of norms are new, so that the copy needs training before it is
    useful.  A module that is used in several places stays one module; the tree that was
    given is not touched.  An optimiser needs the parameters of the copy.  Forward and
    backward hooks and attributes that you set on a module are on its replacement as well.
    A module on the meta device is replaced too, and has no values to keep.

    Where the variant has no bias of its own, the bias of a norm holds the old bias.  Where
    `bias_ih` and `bias_hh` are summands of one bias, the first holds both.  A constant that
    the variant adds to the forget or update gate is taken off the bias, and with
    `update="new"` the update gate changes its sign.

    Args:
        module: any module.
        variant: None for each class's default, `"none"` for PyTorch's own equations, the
            name of a dialect or a [Variant][lnrnn.Variant], which replaces modules of its
            own cell only, or a dict such as `{"LSTM": "tfa_lnlstm", "GRU": None}`, which
            replaces the classes that it names (`"LSTM"`, `"GRU"`, `"RNN"`).
        keep_bias: False draws the biases anew.  For a module whose biases are all zero:
            then leading inputs of zeros meet a zero state, and each norm multiplies the
            gradient by $1 / \sqrt{\epsilon}$ at each such step; a warning names the modules
            where it concerns you.
        **options: given to each replacement that takes it, see
            [Options][lnrnn.torch.Options].

    Returns:
        The copy, and a report of each recurrent module: what it is now and which weights
            it kept, or why it was left.

    Raises:
        TypeError: something that is no module, or an unknown option.
        ValueError: a variant that does not exist, or has a projection.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.GRU(8, 16))
        >>> normalized, report = layer_normalize(model)
        >>> print(report)
        layer  was  is            note
        1      GRU  LayerNormGRU  kept kernel, recurrent_kernel, x_norm_bias, ...; new ...
        1 replaced, 0 left
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"layer_normalize takes an nn.Module; got {type(module).__name__}.")
    carry.check_options(options, _OPTIONS)
    chosen = families.chosen(variant, _FAMILIES)
    root = copy.deepcopy(module)
    shared = _shared_parameters(root)
    done: dict[nn.Module, nn.Module | None] = {}
    report: list[Replacement] = []
    unvaried: list[str] = []
    for path, old in list(root.named_modules(remove_duplicate=False)):
        if not isinstance(old, (nn.RNNBase, nn.RNNCellBase)):
            continue
        if old not in done:
            reason = _reason(old, chosen, shared)
            if reason:
                done[old] = None
                report.append(Replacement(path, type(old).__name__, reason=reason))
            else:
                done[old], replacement, varies = _replaced(old, path, chosen, options, keep_bias)
                report.append(replacement)
                unvaried += [] if varies else [path]
        new = done[old]
        if new is not None and path:
            root.set_submodule(path, new)
        elif new is not None:
            root = new
    carry.warn_of_equal(unvaried)
    return Normalized(root, Report(report))


def _replaced(
    old: Any, path: str, chosen: Mapping[str, Any], options: Mapping[str, Any], keep_bias: bool
) -> tuple[Recurrent, Replacement, bool]:
    """Our module with the weights of PyTorch's, what to report, and whether biases vary."""
    family, form = _REPLACED[type(old)]
    plain = families.plain(_FAMILIES[family])
    plain = plain if old.bias else families.without_bias(plain)
    proj_size = getattr(old, "proj_size", 0)
    if proj_size:
        plain = plain.replace(projection=True)
    new = form(
        **_arguments(old, family), **carry.taken(options, _FAMILIES[family]), variant=chosen[family]
    )
    kept: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    fresh: Weights = {}
    varies = True
    for suffix in new._stems:
        if new._weight_ih(suffix).is_meta:
            fresh = dict.fromkeys(new._stems[suffix].values(), np.empty(0))
            continue
        stems = names.stems(plain, new._sizes(suffix))
        weights = names.to_canonical(stems, lambda stem, s=suffix: array(getattr(old, stem + s)))
        projection = weights.pop("projection_kernel", None)
        fresh = new._params(suffix)
        params, kept, lost = carry.carry_over(weights, plain.gates, new.variant, fresh, keep_bias)
        if projection is not None:
            params["projection_kernel"] = projection
            kept = (*kept, "projection_kernel")
        new._load_params(params, suffix)
        varies = varies and carry.keeps_varied(params, fresh, new.variant)
    for name, parameter in old.named_parameters():
        if hasattr(new, name):
            getattr(new, name).requires_grad_(parameter.requires_grad)
    new.train(old.training)
    pristine = _pristine(old)
    for name, value in vars(old).items():
        if name in _HOOKS or not (hasattr(new, name) or hasattr(pristine, name)):
            setattr(new, name, value)
    added = tuple(n for n in fresh if n not in kept)
    replacement = Replacement(path, type(old).__name__, form.__name__, kept, added, lost)
    return new, replacement, varies


def _arguments(old: Any, family: str) -> dict[str, Any]:
    """The constructor arguments with which PyTorch's module was made."""
    of_layers = ("num_layers", "batch_first", "bidirectional")
    found = {n: getattr(old, n) for n in ("input_size", "hidden_size", "bias")}
    found |= {n: getattr(old, n) for n in of_layers if isinstance(old, nn.RNNBase)}
    if found.get("num_layers", 1) > 1:
        found["dropout"] = old.dropout
    if getattr(old, "proj_size", 0):
        found["proj_size"] = old.proj_size
    if family == "RNN" and old.nonlinearity != "tanh":
        found["nonlinearity"] = old.nonlinearity
    weight = next(old.parameters())
    return {**found, "device": weight.device, "dtype": weight.dtype}


def _pristine(old: Any) -> nn.Module:
    """PyTorch's module as its constructor makes it, without values."""
    arguments = _arguments(old, _REPLACED[type(old)][0])
    return type(old)(**{**arguments, "device": "meta"})


def _reason(old: Any, chosen: Mapping[str, Any], shared: set[nn.Parameter]) -> str:
    """Why a recurrent module is left; empty if it is replaced."""
    if isinstance(old, Recurrent):
        return "it is layer-normalised already"
    if type(old) not in _REPLACED:
        return "its class is derived from PyTorch's and may compute something else"
    own = dict(old.named_parameters())
    plain = _pristine(old)
    if not own.keys() >= dict(plain.named_parameters()).keys():
        return "its weights are computed from other parameters"
    if len(own) > len(plain.state_dict()) or [*old.buffers(), *old.children()]:
        return "it has parameters, buffers or modules beside those of its class"
    if any(hooks for name, hooks in vars(old).items() if name.endswith(_STATE_DICT_HOOKS)):
        return "it has hooks on its state dict, which will have more names"
    if shared & set(own.values()):
        return "it shares parameters with another module"
    given = chosen[_REPLACED[type(old)][0]]
    return given.reason if isinstance(given, families.Left) else ""


def _shared_parameters(root: nn.Module) -> set[nn.Parameter]:
    """The parameters that belong to several modules."""
    seen: set[nn.Parameter] = set()
    twice: set[nn.Parameter] = set()
    for module in root.modules():
        own = set(module.parameters(recurse=False))
        twice |= seen & own
        seen |= own
    return twice
