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
# the end of the names that Keras makes from our classes
_OUR_NAME = re.compile(r"(?:^|_)layer_norm_gru(?:_cell)?(?:_\d+)?$")


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
    if _look_alike(layouts):
        store[MARK] = np.frombuffer(order.encode(), np.uint8)


def read(
    store: Any, order: str, layouts: Mapping[str, KerasLayout], stock: bool
) -> dict[str, np.ndarray] | None:
    """Canonical weights from what a file holds for a cell; None where it holds others.

    Args:
        store: of Keras, what a layer is given to load itself from.
        order: in which the cell holds its weights.
        layouts: the ways in which the weights may be held, by order.
        stock: whether the place in the file is that of a stock layer.
    """
    found = {name: np.asarray(store[name]) for name in store.keys()}  # noqa: SIM118
    marked = found.pop(MARK, None)
    held = [found[str(i)] for i in range(len(found)) if str(i) in found]
    shapes = [value.shape for value in held]
    fitting = [order for order, layout in layouts.items() if layout.shapes == shapes]
    if not fitting:
        return None
    found_in = fitting[0]
    if marked is not None:
        found_in = marked.tobytes().decode("ascii", "replace")
    elif len(fitting) == 2 and _look_alike(layouts):
        found_in = _unmarked(store, order, layouts[KERAS], stock)
    if found_in not in fitting:
        return None
    layout = layouts[found_in]
    return layout.to_canonical(dict(zip(layout.weights, held, strict=True)))


def of_stock(store: Any) -> tuple[Any, bool]:
    """The store at the place where a model of stock layers has what one of ours has here.

    In a list of layers Keras finds the weights by the names of classes and numbers:
    `layers/gru_1` for `layers/layer_norm_gru_1`.

    Returns:
        The store, and whether it is at such a place: only where the file has nothing here.
    """
    path: str = getattr(store, "_h5_entry_path", None) or ""
    ours = _OURS.search(path)
    if ours is None or len(store.keys()):
        return store, False
    there = _OURS.sub(r"\1", path)
    found = store.get(there)
    if not len(found.keys()):
        return store.get(path), False
    alike = re.compile(rf"{ours[1]}(_\d+)?")
    beside = store.h5_file.get(path[: ours.start()] or "/", ())
    if sum(alike.fullmatch(name) is not None for name in beside) > 1:
        warn(
            f"The file has several layers of the class of {there!r}, whose weights {path!r} takes "
            "by its number: replace all layers of that class, not some of them."
        )
    return found, True


def _look_alike(layouts: Mapping[str, KerasLayout]) -> bool:
    """Whether the orders differ and the shapes of the weights do not."""
    one, other = layouts[KERAS], layouts[CANONICAL]
    differ = one.gates != other.gates or list(one.weights) != list(other.weights)
    return differ and one.shapes == other.shapes


def _unmarked(store: Any, order: str, layout: KerasLayout, stock: bool) -> str:
    """The order of weights without a mark, which are of 0.1.0 or of a stock layer."""
    if layout.beyond_stock:
        return CANONICAL
    # a GRU without norms and with one bias or none
    if stock:
        return KERAS
    if order == CANONICAL:  # only configurations of 0.1.0 ask for it
        return CANONICAL
    path: str = getattr(store, "_h5_entry_path", None) or ""
    if _OURS.search(path) or any(_OUR_NAME.search(name) for name in _names(store, path)):
        return CANONICAL
    warn(
        f"{path!r} holds weights of a stock GRU or of one of lnrnn 0.1.0, read as Keras's own: "
        "if 0.1.0 wrote them, load the whole model by keras.saving.load_model, or set that layer "
        "right by layer.load_params(dict(zip(layer.params(), layer.get_weights())))."
    )
    return KERAS


def _names(store: Any, path: str) -> list[str]:
    """What the file calls a cell and the layer around it; nothing where Keras wrote no names."""
    file = getattr(store, "h5_file", {})
    groups = [file.get(f"{at}/vars") for at in (path, path.removesuffix("/cell"))]
    return [str(group.attrs.get("name", "")) for group in groups if group is not None]
