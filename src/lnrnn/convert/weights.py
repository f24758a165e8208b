"""Trained weights with their mathematics, apart from any framework."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from lnrnn.convert.errors import FileError
from lnrnn.params import Sizes, learned_states, shapes, sizes_of
from lnrnn.variant import Variant

Array = np.ndarray

DTYPES = ("float16", "bfloat16", "float32", "float64")
_PATH = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True)
class Origin:
    """Where weights came from, for people and for the way back.

    Args:
        dialect: name of the published form whose layout the weights had.
        scope: what stood before their names.
        file: name of the file, without its folder.
        container: kind of the file, such as `"torch"`.
        dtypes: original name to dtype, of those that differ from the canonical weights'.
        kept: original weights of which the canonical ones do not give back every bit:
            those that the original stores and never reads, and gains stored minus one.

    Example:
        >>> Origin("tfa_lnlstm", scope="first/cell/").dialect
        'tfa_lnlstm'
    """

    dialect: str
    scope: str = ""
    file: str = ""
    container: str = ""
    dtypes: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of one recurrent layer in one direction.

    Args:
        variant: the mathematics.
        params: canonical name to array, see [lnrnn.params][]; all of one float dtype.
        zoneout: probability with which the trained layer held a unit of h; it is part of
            the answer in inference.
        zoneout_cell: the same of c.
        origin: where the weights came from, if not from a layer of this package.

    Raises:
        FileError: names or shapes that are not those of the variant, a dtype that is not a
            float, or values that are not finite.

    Example:
        >>> layer = Weights(
        ...     Variant(cell="simple"),
        ...     {"kernel": np.zeros((3, 4)), "recurrent_kernel": np.zeros((4, 4))},
        ... )
        >>> layer.sizes
        Sizes(inputs=3, units=4, hidden=4)
    """

    variant: Variant
    params: Mapping[str, Array]
    zoneout: float = 0.0
    zoneout_cell: float = 0.0
    origin: Origin | None = None

    def __post_init__(self) -> None:
        params = {name: np.asarray(value) for name, value in self.params.items()}
        for name, value in params.items():
            check_float(name, value)
        dtypes = sorted({value.dtype.name for value in params.values()})
        if len(dtypes) > 1:
            raise FileError(
                f"The weights of a layer have one dtype; got {', '.join(dtypes)}: cast them to one."
            )
        try:
            sizes = sizes_of(self.variant, params)
        except ValueError as error:
            raise FileError(str(error)) from error
        expected = shapes(self.variant, sizes, bool(learned_states(params)))
        ordered = {name: params[name] for name in expected}
        object.__setattr__(self, "params", MappingProxyType(ordered))
        object.__setattr__(self, "_sizes", sizes)
        for name in ("zoneout", "zoneout_cell"):
            if not 0 <= getattr(self, name) < 1:
                raise FileError(
                    f"{name} is a probability, at least 0 and below 1; got "
                    f"{str(getattr(self, name))[:40]}."
                )

    @property
    def sizes(self) -> Sizes:
        """Inputs, units and the width of h."""
        return self._sizes  # pyright: ignore[reportAttributeAccessIssue]


def check_float(name: str, value: Array) -> None:
    """Raise FileError unless an array is of a float dtype and finite."""
    if value.dtype.name not in DTYPES:
        raise FileError(
            f"Weights are of the dtypes {', '.join(DTYPES)}; got {name!r} of {value.dtype}."
        )
    wrong = value.size - int(np.isfinite(value.astype(np.float64, copy=False)).sum())
    if wrong:
        raise FileError(
            f"Weights are finite; got {name!r} with {wrong} of {value.size} values infinite or "
            "not a number: take a checkpoint from before the training diverged."
        )


class Checkpoint(Mapping[str, Weights]):
    """The recurrent layers of a file: path to [Weights][lnrnn.convert.Weights].

    The layers of a stack have the paths `layers.0.forward`, `layers.1.forward`, and so on; the
    other direction of a bidirectional layer, and a layer of Keras with `go_backwards=True`, is
    `layers.0.reverse`.

    Args:
        layers: path to weights; a path is words of letters, digits, `_` and `-`, with dots
            between.
        notes: anything more that a program wants to keep with them, as JSON values.

    Raises:
        FileError: no layer, or a path that is not of that form.

    Example:
        >>> one = Weights(
        ...     Variant(cell="simple"),
        ...     {"kernel": np.zeros((3, 4)), "recurrent_kernel": np.zeros((4, 4))},
        ... )
        >>> Checkpoint({"layers.0.forward": one}).single is one
        True
    """

    def __init__(
        self, layers: Mapping[str, Weights], notes: Mapping[str, Any] | None = None
    ) -> None:
        if not layers:
            raise FileError("A checkpoint has one recurrent layer or more; got none.")
        wrong = [path for path in layers if not _PATH.fullmatch(path)]
        if wrong:
            raise FileError(
                "The path of a layer is words of letters, digits, '_' and '-' with dots between; "
                f"got {wrong[0]!r}: use for example 'layers.0.forward'."
            )
        self._layers = dict(layers)
        self.notes = dict(notes or {})

    def __getitem__(self, path: str) -> Weights:
        return self._layers[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        return f"Checkpoint({', '.join(self)})"

    @property
    def single(self) -> Weights:
        """The weights of the only layer.

        Raises:
            FileError: there are several; the message lists their paths.
        """
        if len(self) > 1:
            raise FileError(
                f"There are {len(self)} layers here, {', '.join(self)}: take one by its path."
            )
        return next(iter(self.values()))


class Slot(NamedTuple):
    """One layer and direction of a module of some framework.

    Args:
        variant: the mathematics.
        params: gives the canonical weights.
        load: sets them.
        zoneout: rates of h and c.
    """

    variant: Variant
    params: Callable[[], Mapping[str, Array]]
    load: Callable[[Mapping[str, Array]], None]
    zoneout: tuple[float, float]


def collect(source: Any) -> Checkpoint:
    """The recurrent layers in a layer, a stack of them, or a model, without its framework.

    Args:
        source: [Weights][lnrnn.convert.Weights]; a mapping from path to weights or layers;
            anything with `variant` and `params()`, and with `num_layers` and `bidirectional`
            for a stack in PyTorch's manner; a Keras `RNN`, `StackedRNNCells`, `Bidirectional` or
            model around such layers; or a sequence of any of these, a stack.

    Returns:
        The weights by path.

    Raises:
        FileError: nothing of that kind, or a layer with an activation that has no name in
            [Variant][lnrnn.Variant].
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, Weights):
        return Checkpoint({"layers.0.forward": source})
    if isinstance(source, Mapping):
        return Checkpoint({at: _under(at, one) for at, one in source.items()})
    if isinstance(source, (list, tuple)) and all(isinstance(one, Weights) for one in source):
        return Checkpoint({f"layers.{i}.forward": one for i, one in enumerate(source)})
    return Checkpoint(
        {
            at: Weights(slot.variant, slot.params(), *slot.zoneout)
            for at, slot in slots(source).items()
        }
    )


def _under(path: str, layer: Any) -> Weights:
    """The weights of one layer that is to have a path."""
    if isinstance(layer, Weights):
        return layer
    found = collect(layer)
    if next(iter(found)).endswith(".reverse") and not path.endswith("reverse"):
        raise FileError(
            f"The path of a layer that reads backwards ends in reverse; got {path!r}: use for "
            "example 'layers.0.reverse'."
        )
    return found.single


def restore(layers: Any, checkpoint: Checkpoint) -> None:
    """Set the weights of built layers from a checkpoint.

    Args:
        layers: a layer, stack or model, as [save][lnrnn.convert.save] takes it.
        checkpoint: with the same paths, variants and shapes; see [load][lnrnn.convert.load].

    Raises:
        FileError: other paths or variants; nothing is set then.
        ValueError: other shapes, found by the layer.

    Example:
        >>> from lnrnn.keras import LayerNormGRU
        >>> old, new = LayerNormGRU(8), LayerNormGRU(8)
        >>> for layer in (old, new):
        ...     layer.build((None, None, 3))
        >>> restore(new, collect(old))
        >>> np.array_equal(new.params()["kernel"], old.params()["kernel"])
        True
    """
    found = slots(layers)
    if set(found) != set(checkpoint):
        raise FileError(
            f"Weights are restored into layers of the same paths; got {', '.join(checkpoint)} for "
            f"{', '.join(found)}."
        )
    for at, slot in found.items():
        if slot.variant != checkpoint[at].variant:
            raise FileError(
                f"Weights are restored into a layer of the same variant; that of {at} is another: "
                "build it with variant=checkpoint[path].variant."
            )
        if slot.zoneout != (checkpoint[at].zoneout, checkpoint[at].zoneout_cell):
            raise FileError(
                f"Weights are restored into a layer of the same zoneout; got {slot.zoneout} for "
                f"{(checkpoint[at].zoneout, checkpoint[at].zoneout_cell)} at {at}."
            )
    for at, slot in found.items():
        slot.load(checkpoint[at].params)


def slots(source: Any) -> dict[str, Slot]:
    """The layers and directions of a layer, stack or model, by path."""
    stack = list(_stack(source, backwards=False))
    if not stack:
        raise FileError(
            "What is saved is a recurrent layer of lnrnn, a stack or a model of them, or Weights; "
            f"got {type(source).__name__}."
        )
    return {
        f"layers.{place}.{direction}": slot
        for place, layer in enumerate(stack)
        for direction, slot in layer.items()
    }


def _stack(source: Any, backwards: bool) -> Iterator[dict[str, Slot]]:
    """The layers of a stack in order, each by direction."""
    backwards = backwards or bool(getattr(source, "go_backwards", False))
    if is_layer(source):
        yield from _own_stack(source, "reverse" if backwards else "forward")
    elif hasattr(source, "forward_layer") and hasattr(source, "backward_layer"):
        both = (_stack(one, False) for one in (source.forward_layer, source.backward_layer))
        for ahead, back in zip(*both, strict=True):
            if set(ahead) | set(back) != {"forward", "reverse"} or "reverse" in ahead:
                raise FileError(
                    "The forward layer of a Bidirectional reads forwards and the backward layer "
                    f"backwards; got {' and '.join((*ahead, *back))}: save its two layers apart."
                )
            yield {**ahead, **back}
    else:
        for inner in inside(source):
            yield from _stack(inner, backwards)


def _own_stack(layer: Any, direction: str) -> Iterator[dict[str, Slot]]:
    """The layers of a module of this package: one, or as many as it has inside."""
    cell = getattr(layer, "cell", layer)
    unnamed = sorted(getattr(cell, "functions", ()))
    if unnamed:
        raise FileError(
            f"A file names its activations; got a layer whose {unnamed[0]} is a function of its "
            "own: use one that Variant names."
        )
    zoneout = (float(getattr(cell, "zoneout", 0.0)), float(getattr(cell, "zoneout_cell", 0.0)))
    if not hasattr(layer, "num_layers"):
        yield {direction: Slot(layer.variant, layer.params, layer.load_params, zoneout)}
        return
    directions = {"forward": False, "reverse": True} if layer.bidirectional else {"forward": False}
    for place in range(layer.num_layers):
        yield {
            direction: Slot(
                layer.variant,
                partial(layer.params, layer=place, reverse=reverse),
                partial(layer.load_params, layer=place, reverse=reverse),
                zoneout,
            )
            for direction, reverse in directions.items()
        }


def inside(source: Any) -> Sequence[Any]:
    """What a container of layers holds, nothing where it is none."""
    if isinstance(source, (list, tuple)):
        return source
    for name in ("cells", "layers"):
        if isinstance(getattr(source, name, None), (list, tuple)):
            return getattr(source, name)
    if hasattr(source, "cell"):
        return [source.cell]
    # a torch module gives its own modules by a method
    children = getattr(source, "children", None)
    if callable(children):
        inner: Any = children()
        return list(inner)
    # and a wrapper of Keras what it wraps
    return [source.layer] if hasattr(source, "layer") else []


def is_layer(source: Any) -> bool:
    return isinstance(getattr(source, "variant", None), Variant) and callable(
        getattr(source, "params", None)
    )
