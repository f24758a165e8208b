"""What a Keras configuration says about the recurrent layers, read as data and never run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from lnrnn.variant import Variant

# class name, with or without a package: dialect, and its argument of the norm's epsilon
_CLASSES = {
    "LayerNormLSTMCell": ("tfa_lnlstm", "norm_epsilon"),
    "LayerNormSimpleRNNCell": ("tfa_lnsimplernn", "layernorm_epsilon"),
    "LayernormSimpleRNNCell": ("kerasln_simplernn", "layernorm_epsilon"),
    "LayernormLSTM1Cell": ("kerasln_lstm1_sigmoid", "layernorm_epsilon"),
    "LayernormLSTM2Cell": ("kerasln_lstm2_sigmoid", "layernorm_epsilon"),
    "LayernormLSTM3Cell": ("kerasln_lstm3_sigmoid", "layernorm_epsilon"),
}
_OWN = re.compile(r"lnrnn>LayerNorm(LSTM|GRU|SimpleRNN)(Cell)?")
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_DEPTH = 64


def layers(config: Any, by_name: bool = False) -> dict[str, Any]:
    """Path of a cell, as its weights' names begin, to what the configuration says of it.

    Args:
        config: of a model, as JSON values.
        by_name: whether weights lie under the names of layers (legacy HDF5), or under those
            that Keras gives to classes (`layers/rnn_1`).

    Returns:
        For each cell a dict of `class` (the registered name), `config`, and `order`, its
        place in the model.
    """
    found: dict[str, Any] = {}
    for path, name, about in _cells(config, "", by_name, 0):
        found.setdefault(path, {"class": name, "config": about, "order": len(found)})
    return found


def dialect_of(fact: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The dialect of a cell and the fields of its variant that the configuration sets.

    None where the class is not one of the known, or has an activation that no field names.
    """
    name, config = fact["class"], fact["config"]
    if name.startswith("lnrnn>") or name.rpartition(">")[2] not in _CLASSES:
        return None
    dialect, option = _CLASSES[name.rpartition(">")[2]]
    changes: dict[str, Any] = {}
    epsilon = config.get(option, config.get("epsilon"))
    if isinstance(epsilon, (int, float)) and not isinstance(epsilon, bool):
        changes["epsilon"] = float(epsilon)
    lstm = dialect not in ("tfa_lnsimplernn", "kerasln_simplernn")
    for role in ("activation", "recurrent_activation") if lstm else ("activation",):
        given = config.get(role, "tanh" if role == "activation" else "sigmoid")
        if given is None:
            given = "linear"
        if not isinstance(given, str):
            return None
        # the configurations of these classes are of Keras 2
        changes[role] = "keras2_hard_sigmoid" if given == "hard_sigmoid" else given
    if lstm:
        changes["output_activation"] = changes["activation"]
    return dialect, changes


def own_variant(fact: Mapping[str, Any]) -> tuple[Variant, float, float] | None:
    """The variant and zoneout of a layer of this package; None for all else.

    Only plain values of the configuration are taken, so nothing in it can name code.
    """
    known = _OWN.fullmatch(fact["class"])
    if known is None:
        return None
    from lnrnn import keras as front

    config = fact["config"]
    plain = {
        name: config[name]
        for name in (
            "units", "activation", "recurrent_activation", "use_bias", "reset_after",
            "norm_epsilon", "projection_units", "zoneout", "zoneout_cell", "variant",
        )
        if name in config and _is_plain(config[name], name == "variant")
    }  # fmt: skip
    try:
        cell = getattr(front, f"LayerNorm{known[1]}Cell")(**plain)
    except (AttributeError, LookupError, TypeError, ValueError):
        # no configuration that a layer of this package wrote
        return None
    return cell.variant, float(cell.zoneout), float(cell.zoneout_cell)


def _is_plain(value: Any, nested: bool) -> bool:
    return (
        value is None
        or isinstance(value, (bool, int, float, str))
        or (nested and isinstance(value, dict))
    )


def _cells(
    config: Any, path: str, by_name: bool, depth: int
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, registered class name and configuration of each cell of a model."""
    inner = _dict(_dict(config).get("config"))
    held = inner.get("layers")
    if not isinstance(held, list) or depth > _DEPTH:
        return
    counts: Counter[str] = Counter()
    for layer in held:
        about = _dict(_dict(layer).get("config"))
        kind = str(_dict(layer).get("class_name"))
        snake = _snake(kind)
        place = f"{snake}_{counts[snake]}" if counts[snake] else snake
        counts[snake] += 1
        name = str(about.get("name", ""))
        at = f"{name}/" if by_name else f"{path}layers/{place}/"
        yield from _cells(layer, at, by_name, depth + 1)
        yield from _within(layer, at, by_name)


def _within(layer: Any, at: str, by_name: bool) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The cells inside one layer: its own, or those of a wrapper's two directions."""
    about, kind = _dict(_dict(layer).get("config")), _registered(layer)
    if kind.rpartition(">")[2] == "Bidirectional":
        inner, back = about.get("layer"), about.get("backward_layer")
        if by_name:
            name = _dict(_dict(inner).get("config")).get("name", "")
            yield from _within(inner, f"{at}forward_{name}/", by_name)
            yield from _within(back or inner, f"{at}backward_{name}/", by_name)
        else:
            yield from _within(inner, f"{at}forward_layer/", by_name)
            yield from _within(back or inner, f"{at}backward_layer/", by_name)
    elif _OWN.fullmatch(kind):
        scope = "" if kind.endswith("Cell") or by_name else "cell/"
        yield f"{at}{scope}", kind, about
    elif isinstance(about.get("cell"), dict):
        cell = about["cell"]
        inner_name = str(
            _dict(cell.get("config")).get("name") or _snake(str(cell.get("class_name")))
        )
        scope = f"{inner_name}/" if by_name else "cell/"
        yield f"{at}{scope}", _registered(cell), _dict(cell.get("config"))


def _registered(layer: Any) -> str:
    """`Addons>LayerNormLSTMCell`: the name under which a class was registered, or its own."""
    layer = _dict(layer)
    return str(layer.get("registered_name") or layer.get("class_name") or "")


def _snake(name: str) -> str:
    """The name that Keras makes of a class: `SimpleRNN` is `simple_rnn`."""
    return _CAPITAL.sub("_", re.sub(r"\W+", "", name.rpartition(">")[2])).lower()


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
