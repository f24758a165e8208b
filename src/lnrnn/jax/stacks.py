"""Stacks of cells and both directions, as functions over lists of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from lnrnn.frontends import arguments
from lnrnn.jax import functions
from lnrnn.jax.functions import Options, Params, VariantArgument


def init_stack(
    key: jax.Array,
    variant: VariantArgument,
    inputs: int,
    units: int,
    layers: int,
    *,
    bidirectional: bool = False,
    projection_units: int | None = None,
    learn_initial_state: bool = False,
    dtype: Any = jnp.float32,
) -> list[dict[str, jax.Array]]:
    """Initial weights of layers over one another.

    Args:
        key: of JAX's random numbers.
        variant: the mathematics, as of `init`.
        inputs: I, the number of features of the first layer.
        units: H, of every layer.
        layers: L.
        bidirectional: whether each layer has a second direction; the next one reads both.
        projection_units: R, the width of h of a variant with a projection.
        learn_initial_state: as of `init`.
        dtype: of the weights.

    Returns:
        A list of L D dicts, D being the number of directions: layer by layer, forward first.

    Example:
        >>> stack = init_stack(jax.random.key(0), "gru", 3, 8, 2, bidirectional=True)
        >>> [params["kernel"].shape[0] for params in stack]
        [3, 3, 16, 16]
    """
    directions = 2 if bidirectional else 1
    wide = directions * (units if projection_units is None else projection_units)
    count = arguments.size("layers", layers, example=1) * directions
    return [
        functions.init(
            k,
            variant,
            inputs if index < directions else wide,
            units,
            projection_units=projection_units,
            learn_initial_state=learn_initial_state,
            dtype=dtype,
        )
        for index, k in enumerate(jax.random.split(key, count))
    ]


def apply_stack(
    stack: Sequence[Params],
    x: Any,
    states: Sequence[Any] | None = None,
    *,
    variant: VariantArgument,
    bidirectional: bool = False,
    dropout: float = 0.0,
    mask: Any = None,
    lengths: Any = None,
    reset: Any = None,
    reset_states: Sequence[Any] | None = None,
    burn_in: int = 0,
    time_major: bool = False,
    key: jax.Array | None = None,
    engine: str = "auto",
    unroll: bool = False,
    **options: Unpack[Options],
) -> tuple[jax.Array, list[Any]]:
    """Run layers over one another over a sequence.

    Args:
        stack: weights as of `init_stack`; of both directions of one layer a list of two.
        x: inputs, as of `apply`.
        states: a list of states, one for each item of the stack; None as of `apply`.
        variant: the mathematics of all of them.
        bidirectional: whether the items are forward and reverse by turns; the outputs of both
            are concatenated.
        dropout: rate of inverted dropout on the outputs of each layer but the last.
        mask: as of `apply`.
        lengths: as of `apply`.
        reset: as of `apply`.
        reset_states: what the states become where an episode begins, as `states`.
        burn_in: as of `apply`, of every layer.
        time_major: as of `apply`.
        key: of all random masks; None evaluates.
        engine: as of `apply`.
        unroll: as of `apply`.
        **options: see [Options][lnrnn.jax.Options].

    Returns:
        Outputs of the last layer, as x with D R in place of I, and the list of final states.

    Raises:
        ValueError: a stack and states of different lengths, and as `apply`.

    Example:
        >>> stack = init_stack(jax.random.key(0), "gru", 3, 8, 1, bidirectional=True)
        >>> y, (forward, backward) = apply_stack(
        ...     stack, jnp.ones((4, 10, 3)), variant="gru", bidirectional=True
        ... )
        >>> y.shape
        (4, 10, 16)
    """
    directions = 2 if bidirectional else 1
    states, keys = _of_each(stack, states, directions, key)
    again, _ = _of_each(stack, reset_states, directions, None)
    rate = arguments.rate("dropout", dropout)
    finals = []
    for first in range(0, len(stack), directions):
        if first:
            x = _dropped(x, rate, keys[first])
        outputs = []
        for index in range(first, first + directions):
            y, final = functions.apply(
                stack[index],
                x,
                states[index],
                variant=variant,
                mask=mask,
                lengths=lengths,
                reset=reset,
                reset_state=again[index],
                burn_in=burn_in,
                time_major=time_major,
                reverse=index > first,
                key=keys[index],
                engine=engine,
                unroll=unroll,
                **options,
            )
            outputs.append(y)
            finals.append(final)
        x = jnp.concatenate(outputs, axis=-1) if bidirectional else outputs[0]
    return x, finals


def step_stack(
    stack: Sequence[Params],
    x: Any,
    states: Sequence[Any] | None,
    *,
    variant: VariantArgument,
    dropout: float = 0.0,
    reset: Any = None,
    reset_states: Sequence[Any] | None = None,
    key: jax.Array | None = None,
    **options: Unpack[Options],
) -> tuple[jax.Array, list[Any]]:
    """Advance layers over one another, of one direction, by one step.

    Args:
        stack: weights as of `init_stack`.
        x: inputs (*batch, I).
        states: a list of states, one for each layer; None as of `apply`.
        variant: the mathematics of all of them.
        dropout: as of `apply_stack`.
        reset: as of `step`.
        reset_states: what the states become where an episode begins, as `states`.
        key: of all random masks; None evaluates.
        **options: see [Options][lnrnn.jax.Options].

    Returns:
        The output (*batch, R) of the last layer, and the list of new states.

    Example:
        >>> stack = init_stack(jax.random.key(0), "lstm", 3, 8, 2)
        >>> y, states = step_stack(stack, jnp.ones((4, 3)), None, variant="lstm")
        >>> y, states = step_stack(stack, jnp.ones((4, 3)), states, variant="lstm")
    """
    states, keys = _of_each(stack, states, 1, key)
    again, _ = _of_each(stack, reset_states, 1, None)
    rate = arguments.rate("dropout", dropout)
    finals = []
    for index, (params, state, own) in enumerate(zip(stack, states, keys, strict=True)):
        if index:
            x = _dropped(x, rate, own)
        x, final = functions.step(
            params,
            x,
            state,
            variant=variant,
            reset=reset,
            reset_state=again[index],
            key=own,
            **options,
        )
        finals.append(final)
    return x, finals


def _of_each(
    stack: Sequence[Params], states: Sequence[Any] | None, directions: int, key: jax.Array | None
) -> tuple[Sequence[Any], Sequence[Any]]:
    """States and keys of the items of a stack."""
    count = len(stack)
    if count == 0 or count % directions:
        raise ValueError(
            f"A stack has {directions} item(s) for each layer, and one layer or more; got "
            f"{count} items: pass what init_stack returns."
        )
    if states is not None and len(states) != count:
        raise ValueError(
            f"There is one state for each item of the stack, here {count}; got {len(states)}: "
            "pass a list of states, or None."
        )
    nothing = [None] * count
    keys = nothing if key is None else list(jax.random.split(key, count))
    return nothing if states is None else states, keys


def _dropped(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    if not rate or key is None:
        return x
    # beyond the streams of the layer itself
    kept = jax.random.bernoulli(jax.random.fold_in(key, 1000), 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0)
