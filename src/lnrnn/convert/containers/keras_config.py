"""What a Keras configuration says about the recurrent layers, read as data and never run."""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

from lnrnn.frontends.keras_weights import CANONICAL, ORDERS
from lnrnn.variant import Activation, Variant

# registered name of a class: dialect, and its argument of the norm's epsilon
_CLASSES = {
    "Addons>LayerNormLSTMCell": ("tfa_lnlstm", "norm_epsilon"),
    "Addons>LayerNormSimpleRNNCell": ("tfa_lnsimplernn", "layernorm_epsilon"),
    "LayernormSimpleRNNCell": ("kerasln_simplernn", "layernorm_epsilon"),
    "LayernormLSTM1Cell": ("kerasln_lstm1_sigmoid", "layernorm_epsilon"),
    "LayernormLSTM2Cell": ("kerasln_lstm2_sigmoid", "layernorm_epsilon"),
    "LayernormLSTM3Cell": ("kerasln_lstm3_sigmoid", "layernorm_epsilon"),
}
_ADDONS = re.compile(r"Addons>LayerNorm(LSTM|SimpleRNN)Cell")
_OWN = re.compile(r"lnrnn>LayerNorm(LSTM|GRU|SimpleRNN)(Cell)?")
_SCOPES = {"LSTM": "lstm_cell", "GRU": "gru_cell", "SimpleRNN": "simple_rnn_cell"}
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_DEPTH = 64
_WRAPPERS, _PLACES = 8, 16
_ACTIVATIONS = ("activation", "recurrent_activation")


@dataclass(frozen=True)
class Told:
    """What the configuration of a cell says of its mathematics.

    Args:
        dialect: the form whose layout its weights have; `""` where only the canonical names of
            this package, or no known ones, are possible.
        variant: the whole variant, where it is a cell of this package.
        fields: the fields of the variant that it sets.
        zoneout: of h and c.
        order: in which a cell of this package holds its weights, see
            [KerasLayout][lnrnn.frontends.keras_weights.KerasLayout].
        unclear: a field of the variant, or `"dialect"`, to what the configuration has there and
            nothing here can express.
    """

    dialect: str = ""
    variant: Variant | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    zoneout: tuple[float, float] = (0.0, 0.0)
    order: str = CANONICAL
    unclear: Mapping[str, str] = field(default_factory=dict)


class _Cell(NamedTuple):
    """A cell of a model: where its weights may lie, its class, and its configuration."""

    places: tuple[str, ...]
    name: str
    config: dict[str, Any]
    backwards: bool
    turned: bool = False


def layers(config: Any, names: Iterable[str] | None = None) -> dict[str, Any]:
    """Path of a cell, as its weights' names begin, to what the configuration says of it.

    Args:
        config: of a model, as JSON values.
        names: of the weights where these lie under the names of layers (legacy HDF5); None where
            they lie under those that Keras gives to classes (`layers/rnn_1`).

    Returns:
        For each cell, in the order of the model, a dict of `class` (the registered name), `config`,
        `backwards` (whether it reads the sequence from its end), and `turned` (whether it does so
        as the forward layer of a Bidirectional, or does not as the backward one).
    """
    found: dict[str, Any] = {}
    scopes = None if names is None else _scopes_of(names)
    for cell in _cells(config, "", scopes is not None):
        fact = {
            "class": cell.name, "config": cell.config, "backwards": cell.backwards,
            "turned": cell.turned,
        }  # fmt: skip
        found.setdefault(cell.places[0] if scopes is None else _place(cell.places, scopes), fact)
    return found


def told(fact: Mapping[str, Any]) -> Told:
    """What the configuration of a cell says, with what of it cannot be expressed.

    Only plain values of the configuration are taken, so nothing in it can name code.
    """
    name, config = fact["class"], fact["config"]
    own, addons = _OWN.fullmatch(name), _ADDONS.fullmatch(name)
    if own is not None:
        return _of_this_package(f"LayerNorm{own[1]}Cell", "", name, config)
    if addons is not None and "variant" in config:
        # Keras 3 wrote it, of a cell that lnrnn.keras had made of the old file
        dialect, _ = _CLASSES[name]
        return _of_this_package(f"LayerNorm{addons[1]}Cell", dialect, name, config)
    if name in _CLASSES:
        return _published(*_CLASSES[name], config)
    return Told(unclear={"dialect": f"the class {_short(name)}"})


def is_known(fact: Mapping[str, Any]) -> bool:
    """Whether the class of a cell is one of this package or of a published program."""
    return fact["class"] in _CLASSES or _OWN.fullmatch(fact["class"]) is not None


def _published(dialect: str, option: str, config: Mapping[str, Any]) -> Told:
    """A cell as its original program configured it."""
    fields: dict[str, Any] = {}
    unclear: dict[str, str] = {}
    option = option if option in config else "epsilon"
    if option in config:
        epsilon = config[option]
        number = isinstance(epsilon, (int, float)) and not isinstance(epsilon, bool)
        if number and 0 <= epsilon <= sys.float_info.max:
            fields["epsilon"] = float(epsilon)
        else:
            unclear["epsilon"] = f"{option}={_short(epsilon)}"
    lstm = dialect not in ("tfa_lnsimplernn", "kerasln_simplernn")
    for role in _ACTIVATIONS if lstm else _ACTIVATIONS[:1]:
        given = config.get(role, "tanh" if role == "activation" else "sigmoid")
        # the configurations of these classes are of Keras 2
        name = {None: "linear", "hard_sigmoid": "keras2_hard_sigmoid"}.get(
            given if isinstance(given, str) or given is None else "", given
        )
        targets = (role, "output_activation") if lstm and role == "activation" else (role,)
        if isinstance(name, str) and name in get_args(Activation):
            fields |= dict.fromkeys(targets, name)
        else:
            unclear |= dict.fromkeys(targets, f"{role}={_short(given)}")
    return Told(dialect, fields=fields, unclear=unclear)


def _of_this_package(kind: str, dialect: str, name: str, config: Mapping[str, Any]) -> Told:
    """A cell as this package configured it."""
    from lnrnn import keras as front

    plain: dict[str, Any] = {}
    unclear: dict[str, str] = {}
    for argument in (
        "units", "use_bias", "reset_after", "norm_epsilon", "projection_units", "zoneout",
        "zoneout_cell", "variant", *_ACTIVATIONS,
    ):  # fmt: skip
        if argument not in config:
            continue
        given = config[argument]
        named = given is None or given in ("auto", *get_args(Activation))
        if argument in _ACTIVATIONS and not named:
            targets = ("activation", "output_activation") if argument == "activation" else ()
            lstm = kind == "LayerNormLSTMCell"
            targets = targets if lstm and targets else (argument,)
            unclear |= dict.fromkeys(targets, f"{argument}={_short(given)}")
        else:
            plain[argument] = given
    try:
        cell = getattr(front, kind)(**plain)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return Told(unclear={"dialect": f"the class {_short(name)} with {_odd(plain)}"})
    rates = (float(cell.zoneout), float(cell.zoneout_cell))
    # 0.1.0 wrote no order
    order = config.get("weight_order", CANONICAL)
    if order not in ORDERS:
        unclear["dialect"] = f"weight_order={_short(order)}"
    return Told(dialect, cell.variant, cell.variant.to_dict(), rates, order, unclear)


def _odd(plain: Mapping[str, Any]) -> str:
    """Arguments that make no layer."""
    listed = (f"{name}={_short(value)}" for name, value in plain.items() if value is not None)
    return ", ".join(listed) or "no arguments"


def _short(value: Any) -> str:
    return ascii(value)[:60]


def _scopes_of(names: Iterable[str]) -> dict[str, set[str]]:
    """What stands before the last part of names, and of that, by its last part."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in names:
        scope = name.rpartition("/")[0]
        while scope:
            found[scope.rpartition("/")[2]].add(f"{scope}/")
            scope = scope.rpartition("/")[0]
    return found


def _place(places: tuple[str, ...], scopes: Mapping[str, set[str]]) -> str:
    """Where the weights of a cell lie: the place under which there are some.

    Weights of models inside models have the names of the outer ones in front.
    """
    named = scopes.get(places[0].rstrip("/").rpartition("/")[2], set())
    for place in places:
        if place in named:
            return place
    for place in places:
        inside = [scope for scope in named if scope.endswith(f"/{place}")]
        if len(inside) == 1:
            return inside[0]
    return places[0]


def _cells(
    config: Any, path: str, by_name: bool, depth: int = 0, wraps: int = 0
) -> Iterator[_Cell]:
    """The cells of a model, in its order."""
    inner = _dict(_dict(config).get("config"))
    held = inner.get("layers")
    if not isinstance(held, list) or depth > _DEPTH:
        return
    for layer, place in _counted(held):
        at = f"{_name(layer)}/" if by_name else f"{path}layers/{place}/"
        yield from _cells(layer, at, by_name, depth + 1, wraps)
        yield from _within(layer, (at,), by_name, wraps)


def _counted(held: list[Any]) -> Iterator[tuple[Any, str]]:
    """Each of several objects with the name that Keras gives it by its class: `rnn`, `rnn_1`."""
    counts: Counter[str] = Counter()
    for one in held:
        snake = _snake(str(_dict(one).get("class_name")))
        yield one, f"{snake}_{counts[snake]}" if counts[snake] else snake
        counts[snake] += 1


def _within(layer: Any, at: tuple[str, ...], by_name: bool, wraps: int) -> Iterator[_Cell]:
    """The cells inside one layer: its own, those of a stack, or those that a wrapper holds."""
    about, kind = _dict(_dict(layer).get("config")), _registered(layer)
    own = _OWN.fullmatch(kind)
    backwards = about.get("go_backwards") is True
    at = at[:_PLACES]
    if wraps > _WRAPPERS:
        return
    if own is not None:
        scope = "" if own[2] else f"{_SCOPES[own[1]]}/" if by_name else "cell/"
        yield _Cell(tuple(p + scope for p in at), kind, about, backwards)
    elif kind.rpartition(">")[2] == "Bidirectional":
        yield from _two_directions(about, at, by_name, wraps + 1)
    elif isinstance(about.get("cell"), dict):
        scope = f"{_name(about['cell'])}/" if by_name else "cell/"
        for one in _stacked(about["cell"], tuple(p + scope for p in at), by_name, wraps + 1):
            yield one._replace(backwards=backwards)
    elif isinstance(about.get("layer"), dict):
        inner = about["layer"]
        # Keras 2 leaves the name of what is wrapped out
        named = (*(f"{p}{_name(inner)}/" for p in at), *at)
        held = named if by_name else tuple(f"{p}layer/" for p in at)
        yield from _within(inner, held, by_name, wraps + 1)
        yield from _cells(inner, held[0], by_name, wraps=wraps + 1)


def _two_directions(
    about: dict[str, Any], at: tuple[str, ...], by_name: bool, wraps: int
) -> Iterator[_Cell]:
    ahead, given = about.get("layer"), about.get("backward_layer")
    back = given if isinstance(given, dict) else ahead
    for word, inner in (("forward", ahead), ("backward", back)):
        name = _name(inner)
        # Keras 3 writes the names with the word in front, Keras 2 without
        stem = name.removeprefix("forward_").removeprefix("backward_")
        spelt = dict.fromkeys((f"{word}_{name}", f"{word}_{stem}", name))
        scopes = spelt if by_name else (f"{word}_layer",)
        held = tuple(f"{p}{scope}/" for p in at for scope in scopes)
        for cell in _within(inner, held, by_name, wraps):
            # where only one is given, Keras turns a copy of it round
            turned = cell.backwards != (word == "backward" and inner is not ahead)
            yield cell._replace(backwards=word == "backward", turned=turned)


def _stacked(cell: Any, at: tuple[str, ...], by_name: bool, wraps: int) -> Iterator[_Cell]:
    """A cell, or the cells of a stack of them."""
    about = _dict(_dict(cell).get("config"))
    held = about.get("cells")
    if not isinstance(held, list) or wraps > _WRAPPERS:
        yield _Cell(at, _registered(cell), about, backwards=False)
        return
    for one, place in _counted(held):
        scope = f"{_name(one)}/" if by_name else f"cells/{place}/"
        yield from _stacked(one, tuple(p + scope for p in at), by_name, wraps + 1)


def _name(layer: Any) -> str:
    """The name of a layer or cell, or the one that Keras gives it."""
    layer = _dict(layer)
    return str(_dict(layer.get("config")).get("name") or _snake(str(layer.get("class_name"))))


def _registered(layer: Any) -> str:
    """`Addons>LayerNormLSTMCell`: the name under which a class was registered, or its own."""
    layer = _dict(layer)
    return str(layer.get("registered_name") or layer.get("class_name") or "")


def _snake(name: str) -> str:
    """The name that Keras makes of a class: `SimpleRNN` is `simple_rnn`."""
    return _CAPITAL.sub("_", re.sub(r"\W+", "", name.rpartition(">")[2])).lower()


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
