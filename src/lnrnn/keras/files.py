"""The weights of a cell in Keras's files: our own, those of 0.1.0, and those of stock layers.

Keras stores variables by number.  Where their shapes do not tell in which order they are held,
a mark stands beside them; files of lnrnn 0.1.0 have none, nor have those of Keras's own layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from lnrnn.frontends.keras_weights import CANONICAL, KERAS, MARK, KerasLayout
from lnrnn.frontends.warn import warn

# arguments that stand in every configuration that 0.1.0 wrote, and in none of a stock layer
_OF_0_1_0 = {"variant", "engine", "weight_dropout", "gain_initializer"}
# how Keras calls the place of a layer or cell of ours in a list of layers
_OURS = re.compile(r"(?<![^/])layer_norm_((?:lstm|gru|simple_rnn)(?:_cell)?)(?=(?:_\d+)?(?:/|$))")


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the order of the weights, which 0.1.0 did not write."""
    old = "weight_order" not in config and config.keys() >= _OF_0_1_0
    return {**config, "weight_order": CANONICAL} if old else dict(config)


def mark(store: Any, order: str, layouts: Mapping[str, KerasLayout]) -> None:
    """Say in a file in which order its weights are held, where their shapes do not tell.

    Args:
        store: of Keras, what a layer is given to save itself to.
        order: in which the weights are held.
        layouts: the ways in which they may be held, by order.
    """
    one, other = layouts[KERAS], layouts[CANONICAL]
    differ = one.gates != other.gates or list(one.weights) != list(other.weights)
    if differ and one.shapes == other.shapes:
        store[MARK] = np.frombuffer(order.encode(), np.uint8)


def read(store: Any, layouts: Mapping[str, KerasLayout]) -> dict[str, np.ndarray] | None:
    """Canonical weights from what a file holds for a cell; None where it holds others.

    Args:
        store: of Keras, what a layer is given to load itself from.
        layouts: the ways in which the weights may be held, by order.
    """
    found = {name: np.asarray(store[name]) for name in store.keys()}  # noqa: SIM118
    marked = found.pop(MARK, None)
    held = [found[str(i)] for i in range(len(found)) if str(i) in found]
    shapes = [value.shape for value in held]
    fitting = [order for order, layout in layouts.items() if layout.shapes == shapes]
    if not fitting:
        return None
    order = fitting[0]
    if marked is not None:
        order = marked.tobytes().decode("ascii", "replace")
    elif len(fitting) == 2:
        order = CANONICAL if _is_of_0_1_0(store, layouts[KERAS]) else KERAS
    if order not in fitting:
        return None
    layout = layouts[order]
    return layout.to_canonical(dict(zip(layout.weights, held, strict=True)))


def of_stock(store: Any) -> Any:
    """The store at the place where a model of stock layers has what one of ours has here.

    In a list of layers Keras finds the weights by the names of classes and numbers:
    `layers/gru_1` for `layers/layer_norm_gru_1`.
    """
    path: str = getattr(store, "_h5_entry_path", None) or ""
    ours = _OURS.search(path)
    if ours is None or len(store.keys()):
        return store
    there = _OURS.sub(r"\1", path)
    found = store.get(there)
    if not len(found.keys()):
        return store.get(path)
    alike = re.compile(rf"{ours[1]}(_\d+)?")
    beside = store.h5_file.get(path[: ours.start()] or "/", ())
    if sum(alike.fullmatch(name) is not None for name in beside) > 1:
        warn(
            f"The file has several layers of the class of {there!r}, whose weights {path!r} takes "
            "by its number: replace all layers of that class, not some of them."
        )
    return found


def _is_of_0_1_0(store: Any, layout: KerasLayout) -> bool:
    """Whether unmarked weights that fit both orders are of 0.1.0 and not of a stock layer."""
    if layout.beyond_stock:
        return True
    # a GRU without norms and with one bias or none: only the names of its place may tell
    return _OURS.search(getattr(store, "_h5_entry_path", None) or "") is not None
