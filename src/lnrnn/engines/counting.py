"""How often each engine ran in this process."""

from __future__ import annotations

from collections import Counter
from threading import Lock

_portable: Counter[str] = Counter()
_lock = Lock()


def count(framework: str) -> None:
    """Note a run of the portable engine."""
    with _lock:
        _portable[framework] += 1


def runs(backward: bool = False) -> Counter[tuple[str, str]]:
    """How often each engine has run in this process, by its name and the framework.

    A call of a layer or a cell is one run for each of its layers and directions, a step of a
    stream as well as a sequence.  The native engine counts in C++, each time that it runs, so
    that compiled programs count as others do; a batch that JAX has divided among devices is
    one run for each part.  The portable engine counts when Python calls it: a program that is
    traced and compiled counts when it is traced.  What the native engine leaves to the
    definition, such as second derivatives, counts for neither.

    Args:
        backward: count the backward passes, which the native engine alone computes itself, in
            place of the forward passes.

    Returns:
        A copy: later runs do not change it, and the difference of two is what ran between.

    Example:
        >>> import torch
        >>> from lnrnn.torch import LayerNormLSTM
        >>> lstm = LayerNormLSTM(3, 5)
        >>> before = runs()
        >>> output, _ = lstm(torch.randn(4, 2, 3))
        >>> runs() - before
        Counter({('native', 'torch'): 1})
    """
    from lnrnn.engines.native import core

    found: Counter[tuple[str, str]] = Counter()
    if not backward:
        with _lock:
            found.update({("portable", framework): n for framework, n in _portable.items()})
    found.update({("native", framework): n for framework, n in core.runs(backward).items() if n})
    return found
