"""Traces: all that lies inside layers, step by step, as the definition computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from lnrnn import reference
from lnrnn.insight import hear
from lnrnn.variant import Variant

Array = np.ndarray[Any, Any]

# arguments that have a value for each step
_IN_TIME = {"mask", "reset"}


@dataclass(frozen=True, eq=False)
class LayerTrace(Mapping[str, Array]):
    """All that lies inside one layer in one direction, in the order in which it reads the steps.

    A mapping from names to arrays in float64:

    | name | shape | what |
    |---|---|---|
    | `x`, `y` | (T, B, I), (T, B, R) | inputs and outputs |
    | `h`, `c` | (T, B, R), (T, B, H) | states after each step |
    | `i`, `f`, `g`, `o`; `r`, `z`, `n` | (T, B, H) | gates and candidate, activated |
    | `pre.i`, ... | (T, B, H) | their pre-activations, without the constants of f and z |
    | `x_norm[ifgo].mean`, ... | (T, B, 1) | of each norm the mean that it takes away |
    | `x_norm[ifgo].variance`, ... | (T, B, 1) | the mean square about it |
    | `x_norm[ifgo].scale`, ... | (T, B, 1) | that by which it divides |
    | `dh`, `dc` | as `h`, `c` | derivative of the loss with respect to the states of each step |
    | `dx` | as `x` | derivative with respect to the inputs |

    Norms are named by their site and gates, `cell_norm` and `hidden_norm` by what they norm.

    Args:
        variant: the cell.
        params: its weights, canonical.
        arrays: what the mapping holds.
        mask: (T, B), True where a step is valid.
        difference: the largest difference of the layer's own outputs from these.
        run: the pass of the definition.
    """

    variant: Variant
    params: Mapping[str, Array]
    arrays: Mapping[str, Array]
    mask: Array
    difference: float
    run: reference.Forward

    def __getitem__(self, name: str) -> Array:
        if name not in self.arrays:
            raise KeyError(f"{name!r} is not in this trace, which has {', '.join(self.arrays)}")
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    @property
    def norms(self) -> tuple[str, ...]:
        """The names of the norms."""
        ends = ".variance"
        return tuple(n.removesuffix(ends) for n in self.arrays if n.endswith(ends))


@dataclass(frozen=True, eq=False)
class Trace(Mapping[str, LayerTrace]):
    """What [lnrnn.trace][lnrnn.insight.trace.trace] returns: layers by their paths.

    Args:
        layers: in the order in which they ran.
        output: what the layer, module or function returned.
        loss: its value, or None without one.
    """

    layers: Mapping[str, LayerTrace]
    output: Any = None
    loss: float | None = None

    def __getitem__(self, path: str) -> LayerTrace:
        if path not in self.layers:
            raise KeyError(f"{path!r} is not in this trace, which has {', '.join(self.layers)}")
        return self.layers[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def single(self) -> LayerTrace:
        """The only layer of this trace.

        Raises:
            ValueError: there are several.
        """
        if len(self.layers) != 1:
            raise ValueError(
                f"This trace has {len(self.layers)} layers, {', '.join(self.layers)}: take one by "
                "its path."
            )
        return next(iter(self.layers.values()))


def trace(
    target: Any, *inputs: Any, loss: Callable[[Any], Any] | None = None, **keywords: Any
) -> Trace:
    """Run a layer, module, model or function once, and keep all that lies inside its layers.

    It runs as it is, with its masks, resets, states and random masks.  Then the definition of
    each variant computes in float64, from the same inputs and weights, what lies inside.

    Args:
        target: a Keras layer or model, a module of PyTorch or Flax NNX, a function that calls
            [lnrnn.jax.apply][], or weights that [lnrnn.load][lnrnn.convert.load] gave.
        inputs: its positional arguments; of weights x (T, B, I) alone.
        loss: from what it returns to a scalar of its framework; then the trace has derivatives.
        keywords: its other arguments; of weights those of [lnrnn.reference.forward][].

    Returns:
        The layers by their paths: as the framework names them, of modules of PyTorch as
        [lnrnn.save][lnrnn.convert.save] does.

    Raises:
        ValueError: there is no layer in it that computes a whole sequence, such as where cells
            are stepped in a loop, or one has an activation without a name.

    Example:
        >>> import torch
        >>> from lnrnn.torch import LayerNormGRU
        >>> found = trace(LayerNormGRU(3, 8), torch.randn(5, 2, 3), loss=lambda out: out[0].sum())
        >>> found.single["z"].shape, found.single["dh"].shape
        ((5, 2, 8), (5, 2, 8))
    """
    if isinstance(target, Mapping) or (hasattr(target, "params") and not callable(target)):
        return _of_weights(target, *inputs, loss=loss, **keywords)
    calls, output, value = hear.hear(target, inputs, keywords, loss)
    if not calls:
        raise ValueError(
            "A trace is of layers that compute whole sequences; got none in "
            f"{type(target).__name__}: cells that are stepped in a loop give their states as it "
            "is, and a compiled function is traced before it is compiled."
        )
    return Trace({call.path: _of_call(call) for call in calls}, output, value)


def _of_call(call: hear.Heard) -> LayerTrace:
    """What the definition says of what an engine computed."""
    numbers, given = call.numbers, call.given
    bound = given.pop("recurrent_gradient_clip", None)
    run = reference.forward(
        call.variant, call.params, numbers["x"], numbers["h0"], numbers.get("c0"), **given
    )
    y = numbers["y"]
    gradients = dict(call.gradients)
    if y.ndim == 2:  # the last output only
        own = run.y[-1]
        if "y" in gradients:
            whole = np.zeros_like(run.y)
            whole[-1] = gradients["y"]
            gradients["y"] = whole
    else:
        own = run.y
    found = None
    if gradients:
        found = reference.backward(
            run,
            gradients["y"],
            gradients.get("h"),
            gradients.get("c"),
            recurrent_gradient_clip=bound,
        )
    difference = float(np.max(np.abs(own - y), initial=0.0))
    return _layer(run, numbers["x"], given.get("mask"), found, difference)


def _layer(
    run: reference.Forward,
    x: Array,
    mask: Array | None,
    gradients: reference.Gradients | None,
    difference: float,
) -> LayerTrace:
    arrays = {"x": x, "y": run.y}
    arrays |= {name: np.stack([step[name] for step in run.inside]) for name in run.inside[0]}
    if gradients is not None:
        arrays |= {"dx": gradients.x, "dh": gradients.h}
        arrays |= {} if gradients.c is None else {"dc": gradients.c}
    valid = np.ones(x.shape[:2], bool) if mask is None else np.asarray(mask, bool)
    return LayerTrace(run.cell.variant, run.cell.weights, arrays, valid, difference, run)


def _of_weights(target: Any, x: Any, *, loss: Any, **given: Any) -> Trace:
    """Layers of weights over one another, by the definition alone."""
    if loss is not None:
        raise ValueError(
            "Weights without a framework have no derivatives of a loss; got loss with "
            f"{type(target).__name__}: pass a layer or module that has these weights."
        )
    layers = target if isinstance(target, Mapping) else {"layers.0.forward": target}
    found: dict[str, LayerTrace] = {}
    x = np.asarray(x, np.float64)
    for _, paths in groupby(layers, key=lambda path: path.rpartition(".")[0]):
        outputs = []
        for path in paths:
            weights = layers[path]
            order = slice(None, None, -1 if path.endswith("reverse") else 1)
            shares = {"take_h": weights.zoneout, "take_c": weights.zoneout_cell}
            own = {name: 1 - rate for name, rate in shares.items() if rate} | given
            for name in _IN_TIME & set(own):
                own[name] = np.asarray(own[name])[order]
            run = reference.forward(weights.variant, weights.params, x[order], **own)
            found[path] = _layer(run, x[order], own.get("mask"), None, 0.0)
            outputs.append(run.y[order])
        x = np.concatenate(outputs, axis=-1)
    return Trace(found, x)
