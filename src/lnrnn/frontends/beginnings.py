"""Where sequences and episodes begin: learned states, and steps that only warm them up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lnrnn.frontends import arguments
from lnrnn.params import STATES, learned_states

Array = Any
States = tuple[Array, ...]
_FLAGS = ("mask", "reset")


def without_states(params: Mapping[str, Array]) -> Mapping[str, Array]:
    """The weights of the steps."""
    if STATES["h"] not in params:
        return params
    return {name: value for name, value in params.items() if name not in STATES.values()}


def check_learned(params: Mapping[str, Array], learns: bool) -> None:
    """Raise ValueError unless weights have a learned state where a layer has one."""
    if bool(learned_states(params)) != learns:
        raise ValueError(
            f"{STATES['h']} is among the weights of a layer with learn_initial_state=True and of "
            f"no other; got {', '.join(params)} for learn_initial_state={learns}: make the layer "
            f"with learn_initial_state={not learns}."
        )


def check_reset_state(reset_state: object, reset: object) -> None:
    """Raise ValueError for a state that no reset goes to."""
    if reset_state is not None and reset is None:
        raise ValueError(
            "reset_state is what the states become where reset is true; got it without reset: "
            "pass both, or the state of the first step alone."
        )


def burn_in(given: Any, steps: int | None) -> int:
    """The number of steps without gradient, which leaves one or more with.

    An exported program for any number of steps, a symbol, has the same outputs in one part.
    """
    found = arguments.size("burn_in", given, least=0, example=0)
    if steps is not None and not isinstance(steps, int):
        return 0
    if steps is not None and found >= steps > 0:
        raise ValueError(
            f"burn_in is below the number of steps, so that some have a gradient; got {found} "
            f"for {steps} steps: shorten it."
        )
    return found


def run(
    sequence: Callable[..., tuple[Array, States]],
    params: Mapping[str, Array],
    x: Array,
    states: States,
    options: Mapping[str, Any],
    *,
    burn_in: int,
    stop: Callable[[Array], Array],
    join: Callable[[list[Array]], Array],
    backwards: bool = False,
) -> tuple[Array, States]:
    """Run a sequence, its first steps without gradient.

    What an engine would keep of them for a backward pass is not kept.

    Args:
        sequence: weights, x, states and keywords to outputs and final states, as of
            [lnrnn.engines.portable.sequence.sequence][].
        params: canonical weights.
        x: (T, B, I).
        states: before the first step that is computed.
        options: keywords of `sequence`.
        burn_in: the number of steps, the first ones in time.
        stop: an array without its gradient.
        join: outputs of parts, side by side in time.
        backwards: whether x stands in the reverse order of time, so that they come last.

    Returns:
        Outputs (T, B, R), or the last, and the final states.
    """
    weights = without_states(params)
    if not burn_in:
        return sequence(weights, x, states, **options)
    cut = -burn_in if backwards else burn_in
    outputs = []
    for time, quiet in ((slice(None, cut), not backwards), (slice(cut, None), backwards)):
        part = {name: _within(name, value, time) for name, value in options.items()}
        given = weights, x[time], states, part
        own, now, states, part = _stopped(given, stop) if quiet else given
        y, states = sequence(own, now, states, **part)
        outputs.append(y)
    return (join(outputs) if len(outputs[0].shape) == 3 else outputs[-1]), states


def _within(name: str, value: Any, time: slice) -> Any:
    """A keyword of a sequence as that of some of its steps."""
    moves = name in _FLAGS or len(getattr(value, "shape", ())) == 3
    return value[time] if moves and value is not None else value


def _stopped(given: Any, stop: Callable[[Array], Array]) -> Any:
    """Arrays in dicts and tuples without their gradients."""
    if isinstance(given, Mapping):
        return {name: _stopped(value, stop) for name, value in given.items()}
    if isinstance(given, tuple):
        return tuple(_stopped(value, stop) for value in given)
    return stop(given) if hasattr(given, "shape") else given
