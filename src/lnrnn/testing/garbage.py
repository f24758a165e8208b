"""What a call leaves to the cyclic garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Callable


def garbage_of(call: Callable[[], object], times: int = 3) -> list[object]:
    """The objects in reference cycles that each run of a call leaves behind.

    A call runs once before, as its first run fills caches.  A cache of a framework may drop what
    an earlier program left at any time, so the least of several runs counts.

    Args:
        call: what is run.
        times: number of runs that are looked at.

    Returns:
        The objects of the run that left the fewest; empty if none needs the collector.

    Example:
        >>> garbage_of(lambda: [1, 2])
        []
        >>> def cycle():
        ...     found = []
        ...     found.append(found)
        >>> len(garbage_of(cycle))
        1
    """
    call()
    found: list[list[object]] = []
    enabled = gc.isenabled()
    gc.disable()
    gc.collect()
    gc.freeze()  # what was there before is neither looked through nor found
    try:
        for _ in range(times):
            gc.set_debug(gc.DEBUG_SAVEALL)
            call()
            gc.collect()
            gc.set_debug(0)
            found.append(gc.garbage[:])
            gc.garbage.clear()
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        if enabled:
            gc.enable()
    return min(found, key=len)
