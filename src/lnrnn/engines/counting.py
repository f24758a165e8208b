"""How often each engine ran in this process."""

from __future__ import annotations

from collections import Counter
from threading import Lock

# by engine and framework, of the engines in Python; forward, then backward
_counted: tuple[Counter[tuple[str, str]], ...] = (Counter(), Counter())
_lock = Lock()


def count(framework: str, engine: str = "portable", backward: bool = False) -> None:
    """Note a run of an engine in Python."""
    with _lock:
        _counted[backward][engine, framework] += 1


def runs(backward: bool = False) -> Counter[tuple[str, str]]:
    """How often each engine has run in this process, by its name and the framework.

    A call of a layer or a cell is one run for each of its layers and directions, a step of a
    stream as well as a sequence. The native engine counts in C++, each time that it runs, so
    that compiled programs count as others do; a batch that JAX has divided among devices is one
    run for each part. The Triton engine counts each time that it launches its kernels, on JAX
    when a program with them is compiled. The portable engine counts when Python calls it: a
    program that is traced and compiled counts when it is traced. What the other engines leave
    to the definition, such as second derivatives, counts for none.

    Args:
        backward: count the backward passes, which the portable engine leaves to the framework,
            in place of the forward passes.

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

    with _lock:
        found = Counter(_counted[backward])
    found.update({("native", framework): n for framework, n in core.runs(backward).items() if n})
    return found
