"""The Triton engine: the recurrence in fused kernels, forward and backward, on a GPU.

`on("torch")` binds [sequence][lnrnn.engines.fused.sequence.sequence] to one framework.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from lnrnn.engines.fused.sequence import sequence

_bound: dict[tuple[str, bool], SimpleNamespace] = {}


def on(framework: str, named: bool = False) -> SimpleNamespace:
    """`sequence` on `"torch"` or `"jax"` tensors; `named` where no other engine may compute."""
    if (framework, named) not in _bound:
        ops: Any = import_module(f"lnrnn.engines.portable.ops_{framework}")
        op: Any = import_module(f"lnrnn.engines.triton.{framework}_op")
        run = partial(op.recurrence, named=named)
        _bound[framework, named] = SimpleNamespace(sequence=partial(sequence, ops, run))
    return _bound[framework, named]
