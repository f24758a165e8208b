"""Layer normalisation for a model that exists: a copy with its recurrent layers replaced."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

# what keras.Model(inputs, outputs) makes; Keras does not export the class
from keras.src.models import Functional

from lnrnn import dialects
from lnrnn.frontends.keras_weights import KerasLayout
from lnrnn.keras import cell_variant
from lnrnn.keras.cell_variant import CellKind, VariantArgument
from lnrnn.keras.cells import (
    LayerNormCell,
    LayerNormGRUCell,
    LayerNormLSTMCell,
    LayerNormSimpleRNNCell,
)
from lnrnn.keras.layers import LayerNormGRU, LayerNormLSTM, LayerNormRNN, LayerNormSimpleRNN
from lnrnn.params import Sizes, columns, gates_of
from lnrnn.variant import Site, Variant

Weights = dict[str, np.ndarray]

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
_BIASES = ("bias", "bias_x", "sum_norm_bias", "x_norm_bias", "h_norm_bias", "bias_h")
# where a weight of a Keras layer goes: to the first of these that the variant has
_PLACES = {
    "kernel": ("kernel",),
    "recurrent_kernel": ("recurrent_kernel",),
    "bias": _BIASES,
    "bias_x": _BIASES,
    "bias_h": ("bias_h", "h_norm_bias", *_BIASES),
}
# the norms within which a bias stands
_AROUND: dict[str, tuple[Site, ...]] = {"bias_x": ("x", "sum"), "bias_h": ("h", "sum")}


class Replacement(NamedTuple):
    """What became of one recurrent layer or cell.

    Args:
        path: names of the layers that lead to it, joined by `/`.
        before: the class that it was.
        after: the class that it is, or None if it was left as it was.
        kept: canonical weights that hold the old values.
        fresh: canonical weights with initial values.
        lost: old weights that have no place in the variant.
        reason: why it was left; empty if it was replaced.
    """

    path: str
    before: str
    after: str | None = None
    kept: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    reason: str = ""

    @property
    def note(self) -> str:
        """What happened to the weights, or why the layer was left."""
        parts = (("kept", self.kept), ("new", self.fresh), ("without", self.lost))
        weights = "; ".join(f"{verb} {', '.join(names)}" for verb, names in parts if names)
        return self.reason or weights or "not built yet: no weights to keep"


class Report(tuple[Replacement, ...]):
    """The recurrent layers of a model in order; `str` makes a table of them."""

    @property
    def replaced(self) -> tuple[Replacement, ...]:
        """Those that were replaced."""
        return tuple(r for r in self if r.after is not None)

    @property
    def left(self) -> tuple[Replacement, ...]:
        """Those that were left as they were."""
        return tuple(r for r in self if r.after is None)

    def __str__(self) -> str:
        if not self:
            return "The model has no recurrent layers."
        rows = [("layer", "was", "is", "note")]
        rows += [(r.path, r.before, r.after or r.before, r.note) for r in self]
        widths = [max(len(row[i]) for row in rows) for i in range(3)] + [0]
        lines = ["  ".join(map(str.ljust, row, widths)) for row in rows]
        total = f"{len(self.replaced)} replaced, {len(self.left)} left"
        return "\n".join([*lines, total])


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
    unknown = set(options) - set(OPTIONS)
    if unknown:
        raise TypeError(
            f"The options of layer_normalize are {', '.join(OPTIONS)}; got "
            f"{', '.join(sorted(unknown))}: set other arguments on the layers of the model."
        )
    copier = _Copier(_chosen(variant), options, keep_bias)
    with keras.saving.custom_object_scope(_custom_classes(model)):
        copy = copier.copy(model)
    copier.load(model, copy, copy.name if not isinstance(model, keras.Model) else "")
    if copier.untrained:
        warnings.warn(
            f"The biases of {', '.join(copier.untrained)} were never trained; kept, they let "
            "gradients explode on sequences that begin with zeros: pass keep_bias=False.",
            stacklevel=2,
        )
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
    plain = plain if cell.use_bias else cell_variant.without_bias(plain)
    layout = KerasLayout(plain, Sizes(cell.kernel.shape[0], cell.units, cell.units))
    held = {n: np.asarray(keras.ops.convert_to_numpy(getattr(cell, n))) for n in layout.weights}
    return layout.to_canonical(held)


def carry_over(
    old: Weights, gates: str, variant: Variant, fresh: Weights
) -> tuple[Weights, tuple[str, ...], tuple[str, ...]]:
    """The weights of a variant with old values wherever it has a place for them.

    Args:
        old: canonical weights of a plain cell.
        gates: the gates of `old`.
        variant: the cell to fill.
        fresh: its initial weights.

    Returns:
        All weights, the names of those that hold old values, and the old weights (or
            gates) that have no place.
    """
    params = {name: np.array(value) for name, value in fresh.items()}
    units = old["kernel"].shape[-1] // len(gates)
    placed: dict[tuple[str, str], str] = {}  # old name and gate: new name
    for name, value in old.items():
        for gate in variant.gates:
            place = next((p for p in _PLACES[name] if gate in gates_of(variant, p)), None)
            if place is None:
                continue
            here = params[place][..., columns(gates_of(variant, place), gate, units)]
            # z of update="new" is 1 - z of Keras
            sign = -1 if gate == "z" and variant.update == "new" else 1
            taken = (place, gate) in {(p, g) for (_, g), p in placed.items()}
            here[...] = sign * value[..., columns(gates, gate, units)] + (here if taken else 0)
            placed[name, gate] = place
    for gate, constant in (("f", variant.forget_bias), ("z", variant.update_bias)):
        place = placed.get(("bias", gate)) or placed.get(("bias_x", gate))
        within = any(gate in variant.gates_at(site) for site in _AROUND.get(place or "", ()))
        if place and not within:
            params[place][columns(gates_of(variant, place), gate, units)] -= constant
    kept = tuple(name for name in params if name in placed.values())
    lost = [name for name in old if name not in {n for n, _ in placed}]
    lost += [f"gate {gate}" for gate in gates if gate not in variant.gates]
    return params, kept, tuple(lost)


class _Copier:
    """Copies layers, replaces recurrent ones, then moves the weights and reports.

    Args:
        chosen: for each family the `variant=` of its layers, or a `_Left`.
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
        self.untrained: list[str] = []
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
        if stock is None or isinstance(self.chosen[_FAMILY_OF[stock]], _Left):
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
        variant, _ = cell_variant.find(kind, self.chosen[name])
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
        weights = from_keras(old)
        if not self.keep_bias:
            weights = {n: w for n, w in weights.items() if n.endswith("kernel")}
        params, kept, lost = carry_over(weights, gates, variant, fresh)
        new.load_params(params)
        if _vary(fresh, variant) and not _vary(params, variant):
            self.untrained.append(path)
        return Replacement(*names, kept, tuple(n for n in params if n not in kept), lost)

    def _reason(self, layer: Any) -> str:
        """Why a recurrent layer was left; empty for all other layers."""
        if isinstance(layer, (LayerNormRNN, LayerNormCell)):
            return "it is layer-normalised already"
        name = _FAMILY_OF.get(type(layer))
        if name is not None:
            chosen = self.chosen[name]
            inside = "it is made inside a layer whose config does not name it"
            return chosen.reason if isinstance(chosen, _Left) else inside
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


class _Left(NamedTuple):
    """Why a family of layers is left."""

    reason: str


def _chosen(variant: Any) -> dict[str, Any]:
    """For each family the `variant=` of its layers, or why they are left."""
    if isinstance(variant, Mapping):
        if not set(variant) <= set(_FAMILIES):
            raise ValueError(
                f"A dict of variants has the keys {', '.join(map(repr, _FAMILIES))}; got "
                f"{', '.join(map(repr, variant))}: name the layer classes to replace."
            )
        found = {n: _Left(f"variant= does not name {n}") for n in _FAMILIES} | dict(variant)
    elif variant is None or variant == "none":
        found = dict.fromkeys(_FAMILIES, variant)
    else:
        cell = (variant if isinstance(variant, Variant) else dialects.get(variant).variant).cell
        found = {
            name: variant
            if cell in family.kind.cells
            else _Left(f"variant={_short(variant)} is not of a {name}")
            for name, family in _FAMILIES.items()
        }
    for name, given in found.items():
        if isinstance(given, _Left):
            continue
        if cell_variant.find(_FAMILIES[name].kind, given)[0].projection:
            raise ValueError(
                f"layer_normalize keeps the width of h; got variant={_short(given)} with a "
                "projection: use a variant without one."
            )
    return found


def _short(variant: Any) -> str:
    return f"Variant(cell={variant.cell!r}, ...)" if isinstance(variant, Variant) else repr(variant)


def _vary(params: Weights, variant: Variant) -> bool:
    """Whether any bias differs between the units of a gate."""
    biases = [(params[b], len(gates_of(variant, b))) for b in _BIASES if b in params]
    return any(np.ptp(b.reshape(gates, -1), axis=1).any() for b, gates in biases)


def _follow(old: Any, new: Any) -> None:
    """Give a copy the trainable flag of a layer; setting it sets that of all layers inside."""
    if new.trainable != old.trainable:
        new.trainable = old.trainable


def _custom_classes(model: Any) -> dict[str, type]:
    """The classes of the model's layers that Keras would not find by itself."""
    classes = {type(layer) for layer in model._flatten_layers()}
    return {c.__name__: c for c in classes if not c.__module__.startswith("keras.")}
