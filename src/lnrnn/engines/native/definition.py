"""The portable definition of a list of words."""

from __future__ import annotations

from typing import Any

from lnrnn.engines.fused import definition
from lnrnn.engines.fused.call import Array, Inputs, Numbers
from lnrnn.engines.native.call import decode


def recurrence(ops: Any, words: tuple[int, ...], numbers: Numbers, a: Inputs) -> tuple[Array, ...]:
    """All h (T, B, R), the last h and, of an lstm, the last c, in a framework's operations."""
    return definition.recurrence(ops, decode(words, numbers), numbers, a)
