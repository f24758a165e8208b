"""Times: interleaved, so that a disturbance of the machine falls on all competitors alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

# a timing has as many calls as take this long, for the resolution of the clock
_SECONDS_OF_A_TIMING = 2e-3
# a competitor that has used up so many seconds at a point is left out of further repeats
_MOST_SECONDS = 20.0


class Times(NamedTuple):
    """Seconds of a call, from each timing, and the calls in a timing."""

    calls: int
    seconds: list[float]


Name = TypeVar("Name", bound=Hashable)


def seconds(run: Callable[[], Any], calls: int) -> float:
    """Of a call, by the clock of this machine."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def interleaved(
    runs: Mapping[Name, Callable[[], Any]],
    repeats: int,
    clock: Callable[[Callable[[], Any], int], float] = seconds,
) -> dict[Name, Times]:
    """Time functions in turn, again and again, each timing after a call that is not timed.

    Args:
        runs: functions by name.
        repeats: timings of each, fewer for one that takes more than 20 seconds in all.
        clock: the seconds of a call, from a function and how often it is called.

    Returns:
        Times by name, each with one timing or more.

    Example:
        >>> interleaved({"nothing": lambda: None}, 3)["nothing"].seconds
        [...]
    """
    times: dict[Name, Times] = {}
    for name, run in runs.items():
        run()
        times[name] = Times(max(1, int(_SECONDS_OF_A_TIMING / max(clock(run, 1), 1e-7))), [])
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for repeat in range(repeats):
            for name, run in runs.items():
                calls, taken = times[name]
                if not repeat or calls * sum(taken) < _MOST_SECONDS:
                    run()  # caches are its own then, as they are where a step follows a step
                    taken.append(clock(run, calls))
    finally:
        if was_enabled:
            gc.enable()
    return times
