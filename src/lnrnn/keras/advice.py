"""What a cell says once of its weights, at its first training call."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary, ref

import keras
import numpy as np

from lnrnn.frontends import advice
from lnrnn.frontends.warn import warn

# On JAX `fit` takes the values out of the variables before it traces a step of training; these
# are the last ones seen in them, as long as they are alive.
_seen: WeakKeyDictionary[Any, dict[str, ref[Any]]] = WeakKeyDictionary()


def remember(cell: Any) -> None:
    """Note the values in the variables of a cell, of which Keras is about to hear."""
    if keras.backend.backend() == "jax" and cell.built and not cell._advised:
        values = {name: getattr(cell, name)._value for name in cell.weight_names}
        if all(map(_is_here, values.values())):
            _seen[cell] = {name: ref(value) for name, value in values.items()}


def before_training(cell: Any) -> None:
    """Warn if gradients do not bear zeros with these weights, the first time they can be read."""
    if cell._advised or cell.functions:
        return
    weights = _read(cell)
    if weights is not None:
        cell._advised = True
        params = cell.layout.to_canonical(weights)
        message = advice.about_weights(cell.variant, params, cell.recurrent_gradient_clip)
        if message is not None:
            warn(message)


def _read(cell: Any) -> dict[str, np.ndarray] | None:
    """The weights by their names, also where a step is traced; None where they have no values."""
    values = {name: getattr(cell, name)._value for name in cell.weight_names}
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.init_scope():  # out of the graph that is built
            # in the first trace of a step that also makes the variables they have no values
            if not tf.executing_eagerly() or not all(
                value is not None and value.is_initialized() for value in values.values()
            ):
                return None
            return {name: value.numpy() for name, value in values.items()}
    if keras.backend.backend() == "torch":
        import torch

        plain = all(type(v) is torch.nn.Parameter and not v.is_meta for v in values.values())
        if torch.compiler.is_compiling() or not plain:
            return None
        # NumPy has no bfloat16
        wide = {n: torch.promote_types(v.dtype, torch.float32) for n, v in values.items()}
        return {n: v.detach().to("cpu", wide[n]).numpy() for n, v in values.items()}
    if not all(map(_is_here, values.values())):
        values = {name: kept() for name, kept in _seen.get(cell, {}).items()}
    if len(values) < len(cell.weight_names) or not all(map(_is_here, values.values())):
        return None
    return {name: np.asarray(value) for name, value in values.items()}


def _is_here(value: Any) -> bool:
    """Whether it is an array of JAX with its values in this process, and no tracer."""
    return hasattr(value, "is_deleted") and not value.is_deleted() and value.is_fully_addressable
