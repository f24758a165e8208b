"""The Triton engine: the recurrence in fused kernels, forward and backward, on a GPU.

`on("torch")` binds [sequence][lnrnn.engines.fused.sequence.sequence] to one framework.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from lnrnn.engines.fused.sequence import sequence

_bound: dict[bool, SimpleNamespace] = {}


def on(framework: str, named: bool = False) -> SimpleNamespace:
    """`sequence` on `"torch"` tensors; `named` where no other engine may compute."""
    if framework != "torch":
        raise ValueError(f"The Triton engine computes for torch, not {framework}.")
    if named not in _bound:
        ops: Any = import_module("lnrnn.engines.portable.ops_torch")
        op: Any = import_module("lnrnn.engines.triton.torch_op")
        run = partial(op.recurrence, named=named)
        _bound[named] = SimpleNamespace(sequence=partial(sequence, ops, run))
    return _bound[named]
