"""The native engine: the recurrence in C++, forward and backward, fused, on the CPU.

`on("torch")` binds [sequence][lnrnn.engines.fused.sequence.sequence] to one framework.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from lnrnn.engines.fused.sequence import sequence

_bound: dict[str, SimpleNamespace] = {}


def on(framework: str) -> SimpleNamespace:
    """`sequence` on `"tensorflow"`, `"jax"` or `"torch"` tensors."""
    if framework not in _bound:
        ops: Any = import_module(f"lnrnn.engines.portable.ops_{framework}")
        op: Any = import_module(f"lnrnn.engines.native.{framework}_op")
        bound = partial(sequence, ops, op.recurrence, any_order=True)
        _bound[framework] = SimpleNamespace(sequence=bound)
    return _bound[framework]
