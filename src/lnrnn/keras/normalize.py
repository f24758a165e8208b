"""Layer normalisation for a model that exists: a copy with its recurrent layers replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

# what keras.Model(inputs, outputs) makes; Keras does not export the class
from keras.src.models import Functional

from lnrnn.frontends import carry, families
from lnrnn.frontends.carry import Replacement, Report, Weights
from lnrnn.frontends.families import VariantArgument
from lnrnn.frontends.keras_weights import KerasLayout
from lnrnn.keras import cell_variant
from lnrnn.keras.cell_variant import CellKind
from lnrnn.keras.cells import (
    LayerNormCell,
    LayerNormGRUCell,
    LayerNormLSTMCell,
    LayerNormSimpleRNNCell,
)
from lnrnn.keras.layers import LayerNormGRU, LayerNormLSTM, LayerNormRNN, LayerNormSimpleRNN
from lnrnn.params import Sizes

# arguments that our layers have and Keras's have not
OPTIONS = (
    "norm_epsilon",
    "gain_initializer",
    "gain_regularizer",
    "gain_constraint",
    "norm_bias_initializer",
    "norm_bias_regularizer",
    "norm_bias_constraint",
    "zoneout",
    "zoneout_cell",
    "weight_dropout",
    "recurrent_dropout_mode",
    "recurrent_gradient_clip",
    "engine",
)


class _Family(NamedTuple):
    """A Keras layer with its cell, and what replaces both."""

    kind: CellKind
    forms: Mapping[type, type]


_FAMILIES = {
    "SimpleRNN": _Family(
        cell_variant.SIMPLE,
        {
            keras.layers.SimpleRNN: LayerNormSimpleRNN,
            keras.layers.SimpleRNNCell: LayerNormSimpleRNNCell,
        },
    ),
    "LSTM": _Family(
        cell_variant.LSTM,
        {keras.layers.LSTM: LayerNormLSTM, keras.layers.LSTMCell: LayerNormLSTMCell},
    ),
    "GRU": _Family(
        cell_variant.GRU,
        {keras.layers.GRU: LayerNormGRU, keras.layers.GRUCell: LayerNormGRUCell},
    ),
}
_FAMILY_OF = {stock: name for name, family in _FAMILIES.items() for stock in family.forms}
# how Keras's configs name them
_BY_NAME: dict[tuple[Any, Any], type] = {
    ("keras.layers", stock.__name__): stock for stock in _FAMILY_OF
}
# models whose graph of layers Keras can rebuild with other layers
_GRAPHS = (Functional, keras.Sequential)


class Normalized(NamedTuple):
    """The copy that [layer_normalize][lnrnn.keras.layer_normalize] made, and its report."""

    model: Any
    report: Report


def layer_normalize(
    model: Any,
    *,
    variant: VariantArgument | Mapping[str, VariantArgument] = None,
    keep_bias: bool = True,
    **options: Any,
) -> Normalized:
    r"""Copy a model with layer normalisation inside each SimpleRNN, LSTM and GRU.

    Also those inside `Bidirectional`, `RNN`, `StackedRNNCells`, `TimeDistributed`, nested
    models, and wrappers that put their layers into their config.  Kernels and biases keep
    their values, so that a trained model is a starting point; gains and biases of norms
    are new, so that the copy needs training before it is useful.  All other layers are
    copied with their weights, shared layers stay shared, and the model itself is not
    touched.

    A replaced layer keeps the arguments that were set on it.  Those at Keras's default
    (activations, initialisers, `reset_after`) become the variant's own, as if the layer
    had been written with our class from the start.  Where the variant has no bias of its
    own, the bias of a norm holds the old bias.  A constant that the variant adds to the
    forget or update gate is taken off the bias, and with `update="new"` the update gate
    changes its sign.

    Not copied: the states of stateful layers, which start at zero, and those of the
    optimiser; a compiled model is compiled again with the same arguments.

    Args:
        model: a Sequential or functional model, or a layer.  A subclassed model is copied
            through its config, and layers that its constructor makes are left.
        variant: None for each class's default, `"none"` for Keras's own equations, the
            name of a dialect or a [Variant][lnrnn.Variant], which replaces layers of its
            own cell only, or a dict such as `{"LSTM": "tfa_lnlstm", "GRU": None}`, which
            replaces the classes that it names.
        keep_bias: False starts the biases anew.  For a model that was never trained, whose
            biases are zeros: then leading inputs of zeros meet a zero state, and each norm
            multiplies the gradient by $1 / \sqrt{\epsilon}$ at each such step.  Our initial
            biases prevent that; a warning names the layers where it concerns you.
        **options: given to each replaced layer that takes it: `norm_epsilon`, `zoneout`,
            `zoneout_cell` (LSTM), `weight_dropout`, `recurrent_dropout_mode`,
            `recurrent_gradient_clip`, `engine`, and `gain_` or `norm_bias_` with
            `initializer`, `regularizer` or `constraint`.

    Returns:
        The copy, and a report of each recurrent layer: what it is now and which weights
            it kept, or why it was left.

    Raises:
        TypeError: something that is no Keras model or layer, or an unknown option.
        ValueError: a variant that does not exist or has a projection, or a layer that
            Keras cannot copy.

    Example:
        >>> model = keras.Sequential([keras.Input((None, 8)), keras.layers.LSTM(16)])
        >>> normalized, report = layer_normalize(model, keep_bias=False)  # never trained
        >>> print(report)
        layer  was   is             note
        lstm   LSTM  LayerNormLSTM  kept kernel, recurrent_kernel; new bias, ...
        1 replaced, 0 left
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(
            f"layer_normalize takes a Keras model or layer; got {type(model).__name__}: "
            "pass for example a keras.Sequential."
        )
    carry.check_options(options, OPTIONS)
    families_of = {name: family.kind.family for name, family in _FAMILIES.items()}
    copier = _Copier(families.chosen(variant, families_of), options, keep_bias)
    with keras.saving.custom_object_scope(_custom_classes(model)):
        copy = copier.copy(model)
    copier.load(model, copy, copy.name if not isinstance(model, keras.Model) else "")
    carry.warn_of_equal(copier.unvaried)
    if isinstance(model, keras.Model) and model.compiled:
        # again, as only now each layer has its trainable flag
        copy.compile_from_config(model.get_compile_config())
    return Normalized(copy, Report(copier.report))


def from_keras(layer: Any) -> Weights:
    """The weights of a built Keras layer or cell under their canonical names.

    They are those of `variant="none"`: `kernel`, `recurrent_kernel` and `bias`, or `bias_x`
    and `bias_h` of a GRU with `reset_after`.

    Args:
        layer: a keras.layers SimpleRNN, LSTM or GRU, or a cell of them.

    Returns:
        A dict from name to array, the gates in canonical order.

    Raises:
        TypeError: another layer.
        ValueError: a layer that is not built.

    Example:
        >>> lstm, ours = keras.layers.LSTM(16), LayerNormLSTM(16, variant="none")
        >>> lstm.build((None, None, 8))
        >>> ours.build((None, None, 8))
        >>> ours.load_params(from_keras(lstm))
    """
    name = next((n for stock, n in _FAMILY_OF.items() if isinstance(layer, stock)), None)
    if name is None:
        raise TypeError(
            f"from_keras reads a SimpleRNN, LSTM or GRU of Keras; got {type(layer).__name__}."
        )
    cell = getattr(layer, "cell", layer)
    if not cell.built:
        raise ValueError(f"from_keras reads weights; got {layer.name!r}, not built: build it.")
    plain = cell_variant.plain(_FAMILIES[name].kind, getattr(cell, "reset_after", True))
    plain = plain if cell.use_bias else families.without_bias(plain)
    layout = KerasLayout(plain, Sizes(cell.kernel.shape[0], cell.units, cell.units))
    held = {n: np.asarray(keras.ops.convert_to_numpy(getattr(cell, n))) for n in layout.weights}
    return layout.to_canonical(held)


class _Copier:
    """Copies layers, replaces recurrent ones, then moves the weights and reports.

    Args:
        chosen: for each family the `variant=` of its layers, or a `families.Left`.
        options: further arguments of replaced layers.
        keep_bias: whether the old biases are kept.
    """

    def __init__(
        self, chosen: Mapping[str, Any], options: Mapping[str, Any], keep_bias: bool
    ) -> None:
        self.chosen = chosen
        self.options = options
        self.keep_bias = keep_bias
        self.report: list[Replacement] = []
        self.unvaried: list[str] = []
        self._copies: dict[int, Any] = {}
        self._loaded: dict[int, Any] = {}

    def copy(self, layer: Any) -> Any:
        """The copy of a layer, always the same one of a shared layer."""
        if id(layer) not in self._copies:
            if type(layer) in _GRAPHS and layer.layers:
                copy = keras.models.clone_model(layer, clone_function=self.copy)
            else:
                copy = self._copy_by_config(layer)
            self._copies[id(layer)] = copy
        return self._copies[id(layer)]

    def load(self, old: Any, new: Any, path: str, listed: bool = True) -> None:
        """Move the weights of a layer and all layers in it, and report on the recurrent ones."""
        if id(old) in self._loaded:
            if self._loaded[id(old)] is not new:
                raise ValueError(
                    f"Keras copies a layer apart where it is inside a wrapper; got {path!r}, which "
                    "is used elsewhere in the model too: give each place a layer of its own."
                )
            return
        self._loaded[id(old)] = new
        _follow(old, new)
        if isinstance(new, (LayerNormRNN, LayerNormCell)) and type(old) in _FAMILY_OF:
            _follow(getattr(old, "cell", old), getattr(new, "cell", new))
            self.report.append(self._replaced(old, new, path))
            return
        reason = self._reason(old) if listed else ""
        if reason:
            self.report.append(Replacement(path, type(old).__name__, reason=reason))
        state: dict[str, Any] = {}
        old.save_own_variables(state)
        # through NumPy: two models must not own one buffer, which JAX would give away in fit
        new.load_own_variables(
            {k: np.array(keras.ops.convert_to_numpy(v)) for k, v in state.items()}
        )
        for child, its_copy in self._children(old, new):
            inner = f"{path}/{child.name}" if path else child.name
            self.load(child, its_copy, inner, listed and not reason)

    def _children(self, old: Any, new: Any) -> Iterator[tuple[Any, Any]]:
        """The layers directly inside one, each with its copy."""
        if type(old) in _GRAPHS and self._copies.get(id(old)) is new:
            return ((c, self._copies[id(c)]) for c in old.layers if id(c) in self._copies)
        # a wrapper tracks its layers in the order in which its constructor makes them
        layers, copies = (
            w._flatten_layers(include_self=False, recursive=False) for w in (old, new)
        )
        return zip(layers, copies, strict=True)

    def _copy_by_config(self, layer: Any) -> Any:
        saving: Any = keras.saving
        try:
            config = saving.serialize_keras_object(layer)
            # the config is of a living object, not of a file that one must distrust
            copy = saving.deserialize_keras_object(self._rewritten(config), safe_mode=False)
        except (NotImplementedError, TypeError) as error:
            raise ValueError(
                f"layer_normalize copies what Keras can copy by get_config and from_config; got "
                f"{layer.name!r}, a {type(layer).__name__}, which cannot be ({error}): write these "
                "methods, or put our layers into the class."
            ) from error
        if isinstance(layer, keras.layers.Lambda):
            # a lambda that went through a config has lost the globals that it refers to
            copy.function, copy.mask = layer.function, layer.mask
        return copy

    def _rewritten(self, config: Any) -> Any:
        """A serialised layer with each recurrent layer and cell in it replaced."""
        if isinstance(config, (list, tuple)):
            return type(config)(self._rewritten(c) for c in config)
        if not isinstance(config, dict):
            return config
        stock = _BY_NAME.get((config.get("module"), config.get("class_name")))
        if stock is None or isinstance(self.chosen[_FAMILY_OF[stock]], families.Left):
            return {k: self._rewritten(v) for k, v in config.items()}
        saving: Any = keras.saving
        new = self._normalized(stock, config["config"])
        return {**config, **saving.serialize_keras_object(new)}

    def _normalized(self, stock: type, config: Mapping[str, Any]) -> Any:
        """Our layer or cell with the arguments that were set on a Keras one."""
        name = _FAMILY_OF[stock]
        kind, forms = _FAMILIES[name]
        default = stock(config["units"]).get_config()
        given = {
            k: v
            for k, v in config.items()
            if k in ("units", "name", "dtype", "trainable") or v != default[k]
        }
        variant, _ = families.find(kind.family, self.chosen[name])
        if variant.reset != "after":
            given.pop("reset_after", None)
        others = {a for k in cell_variant.KINDS for a in k.only} - set(kind.only)
        options = {k: v for k, v in self.options.items() if k not in others}
        return forms[stock](**given, **options, variant=self.chosen[name])

    def _replaced(self, old: Any, new: Any, path: str) -> Replacement:
        names = path, type(old).__name__, type(new).__name__
        cell = getattr(new, "cell", new)
        if not cell.built:
            return Replacement(*names)
        gates, variant, fresh = cell_variant.plain(cell.kind).gates, cell.variant, new.params()
        params, kept, lost = carry.carry_over(
            from_keras(old), gates, variant, fresh, self.keep_bias
        )
        new.load_params(params)
        if not carry.keeps_varied(params, fresh, variant):
            self.unvaried.append(path)
        return Replacement(*names, kept, tuple(n for n in params if n not in kept), lost)

    def _reason(self, layer: Any) -> str:
        """Why a recurrent layer was left; empty for all other layers."""
        if isinstance(layer, (LayerNormRNN, LayerNormCell)):
            return "it is layer-normalised already"
        name = _FAMILY_OF.get(type(layer))
        if name is not None:
            chosen = self.chosen[name]
            inside = "it is made inside a layer whose config does not name it"
            return chosen.reason if isinstance(chosen, families.Left) else inside
        base = next((n for stock, n in _FAMILY_OF.items() if isinstance(layer, stock)), None)
        if base is not None:
            return f"its class is derived from {base} and may compute something else"
        known = (*_FAMILY_OF, keras.layers.StackedRNNCells, LayerNormCell)
        if isinstance(layer, keras.layers.RNN):
            cell = layer.cell
            name = type(cell).__name__
            return "" if isinstance(cell, known) else f"its cell, {name}, is none of Keras's three"
        is_cell = hasattr(layer, "state_size") and not isinstance(layer, known)
        return "its cell is none of Keras's three" if is_cell else ""


def _follow(old: Any, new: Any) -> None:
    """Give a copy the trainable flag of a layer; setting it sets that of all layers inside."""
    if new.trainable != old.trainable:
        new.trainable = old.trainable


def _custom_classes(model: Any) -> dict[str, type]:
    """The classes of the model's layers that Keras would not find by itself."""
    classes = {type(layer) for layer in model._flatten_layers()}
    return {c.__name__: c for c in classes if not c.__module__.startswith("keras.")}
