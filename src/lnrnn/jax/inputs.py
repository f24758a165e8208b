"""What a caller hands over: checked, and laid out as the engines take it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lnrnn.frontends.errors import ArgumentTypeError, TensorError

States = tuple[jax.Array, ...]


class Layout(NamedTuple):
    """The axes of a caller's arrays: any number of batch axes before or after time."""

    batch: tuple[int, ...]
    time_major: bool

    def time_first(self, v: jax.Array) -> jax.Array:
        """The caller's (*batch, T, ...) or (T, *batch, ...) to (T, B, ...)."""
        axis = 0 if self.time_major else len(self.batch)
        v = jnp.moveaxis(v, axis, 0)
        rest = v.shape[1 + len(self.batch) :]
        return v.reshape(v.shape[0], math.prod(self.batch), *rest)

    def restored(self, v: jax.Array) -> jax.Array:
        """(T, B, ...) to the caller's axes."""
        v = v.reshape(v.shape[0], *self.batch, *v.shape[2:])
        return v if self.time_major else jnp.moveaxis(v, 0, len(self.batch))

    def flat(self, v: jax.Array) -> jax.Array:
        """(*batch, ...) to (B, ...)."""
        return v.reshape(math.prod(self.batch), *v.shape[len(self.batch) :])

    def spread(self, v: jax.Array) -> jax.Array:
        """(B, ...) to (*batch, ...)."""
        return v.reshape(*self.batch, *v.shape[1:])


def check_input(x: Any, inputs: int, least: int) -> jax.Array:
    """An input of floats, of `least` axes or more, the last of which is I."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TensorError(
            f"x holds floats; got {x.dtype}: convert it with .astype, or embed what it numbers."
        )
    if x.ndim < least or x.shape[-1] != inputs:
        axes = "(..., T, I)" if least == 2 else "(..., I)"
        raise TensorError(
            f"x has the axes {axes} with I={inputs} of these weights; got the shape {x.shape}: "
            "give each step the features that the weights were made for."
        )
    return x


def sequence(x: jax.Array, layout: Layout) -> jax.Array:
    """An input of one step or more as (T, B, I)."""
    x = layout.time_first(x)
    if x.shape[0] == 0:
        raise TensorError(
            "A sequence has one step or more; got an x without steps: leave empty sequences out."
        )
    return x


def check_state(
    what: str, state: Any, names: tuple[str, ...], begun: Sequence[jax.Array], layout: Layout
) -> States:
    """The states of a caller as (B, .), or where there are none `begun`, of the same shapes."""
    if state is None:
        return tuple(begun)
    dtype = begun[0].dtype
    shapes = tuple((*layout.batch, s.shape[-1]) for s in begun)
    given = state if len(names) > 1 else (state,)
    if not isinstance(given, (tuple, list)) or len(given) != len(names):
        form = f"({', '.join(names)})" if len(names) > 1 else "h"
        raise ArgumentTypeError(
            f"{what} is {form}; got {type(state).__name__}: pass arrays in that form, or None."
        )
    for name, array, shape in zip(names, given, shapes, strict=True):
        if jnp.shape(array) != shape or jnp.result_type(array) != dtype:
            raise TensorError(
                f"{name} of {what} has the shape {shape} and the dtype {dtype} of x; got "
                f"{jnp.shape(array)} and {jnp.result_type(array)}: pass such a state, for "
                "example of initial_state, or None."
            )
    return tuple(layout.flat(jnp.asarray(s)) for s in given)


def flags(name: str, given: Any, layout: Layout, steps: int) -> jax.Array | None:
    """A boolean array of the caller as (T, B)."""
    if given is None:
        return None
    wanted = (steps, *layout.batch) if layout.time_major else (*layout.batch, steps)
    if not jnp.issubdtype(jnp.result_type(given), jnp.bool_) or jnp.shape(given) != wanted:
        raise TensorError(
            f"{name} is boolean and has the axes of x without the last, here {wanted}; got "
            f"{jnp.result_type(given)} of the shape {jnp.shape(given)}: convert it with "
            ".astype(bool), or transpose it."
        )
    return layout.time_first(jnp.asarray(given))


def valid_steps(lengths: Any, mask: Any, layout: Layout, steps: int) -> jax.Array | None:
    """Which steps are valid, (T, B), from lengths and a mask; None if all are."""
    valid = flags("mask", mask, layout, steps)
    if lengths is None:
        return valid
    lengths = jnp.asarray(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer) or lengths.shape != layout.batch:
        raise TensorError(
            f"lengths are integers of the shape {layout.batch} here, one for each sequence; got "
            f"{lengths.dtype} of the shape {lengths.shape}: pass for example mask.sum(time_axis)."
        )
    within = jnp.arange(steps)[:, None] < layout.flat(lengths)
    return within if valid is None else within & valid


def reversed_reset(reset: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Where the reverse direction starts anew: at the last valid step before each reset.

    Args:
        reset: (T, B), True where an episode begins; of no effect at a masked step.
        mask: (T, B), True at valid steps.

    Returns:
        (T, B), in the order of time; of no meaning at masked steps.
    """
    if mask is None:
        return jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])])

    def earlier(begins: jax.Array, now: tuple[jax.Array, jax.Array]) -> Any:
        valid, fresh = now
        return jnp.where(valid, fresh, begins), begins  # whether the next valid step begins one

    return jax.lax.scan(earlier, jnp.zeros_like(reset[0]), (mask, reset), reverse=True)[1]
