"""What a stream is made from: one stack of layers, each with one direction."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lnrnn.convert import Checkpoint, Weights, collect, load
from lnrnn.convert.weights import inside, is_layer
from lnrnn.engines.native import core

# layers of Keras and PyTorch that give what they get, in inference
_SILENT = {
    "ActivityRegularization", "Dropout", "GaussianDropout", "GaussianNoise", "Identity",
    "InputLayer", "SpatialDropout1D",
}  # fmt: skip


def checkpoint_of(source: Any) -> Checkpoint:
    """The layers of a file, a layer, a model or canonical weights.

    Raises:
        ValueError: something that no stream computes, and why.
    """
    if reason := core.missing():
        raise ValueError(f"A stream runs in the native engine, but {reason}.")
    if isinstance(source, (str, os.PathLike)):
        found = load(source)
    else:
        _refuse_others(source)
        found = collect(source)
    for path in found:
        if path.endswith("reverse"):
            raise ValueError(
                "The reverse direction begins at the end of a sequence, which a stream never "
                f"sees; got the layer {path}: use layers of one direction."
            )
    return found


def _refuse_others(source: Any) -> None:
    """Raise ValueError where a model has layers between or around ours, which would be lost."""
    other = next(_others(source), None)
    if other is not None:
        raise ValueError(
            "A stream runs recurrent layers of lnrnn and nothing else; got "
            f"{type(other).__name__} in {type(source).__name__}: give the recurrent layers alone, "
            "as a list, and compute the rest around it."
        )


def _others(source: Any) -> Iterator[Any]:
    """The parts of a model that hold none of our layers and do something."""
    for part in () if _is_ours(source) else _parts(source):
        if _holds(part):
            yield from _others(part)
        elif type(part).__name__ not in _SILENT:
            yield part


def _holds(source: Any) -> bool:
    return _is_ours(source) or any(_holds(part) for part in _parts(source))


def _is_ours(source: Any) -> bool:
    return is_layer(source) or isinstance(source, Weights)


def _parts(source: Any) -> Sequence[Any]:
    if isinstance(source, Mapping):
        return list(source.values())
    if hasattr(source, "forward_layer") and hasattr(source, "backward_layer"):
        return (source.forward_layer, source.backward_layer)
    return inside(source)
