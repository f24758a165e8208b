"""The Triton engine: the recurrence in fused kernels, forward and backward, on a GPU.

`on("torch")` binds [sequence][lnrnn.engines.fused.sequence.sequence] to one framework.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

from lnrnn.engines.fused.sequence import sequence

_bound: dict[bool, SimpleNamespace] = {}


def on(framework: str, named: bool = False) -> SimpleNamespace:
    """`sequence` on `"torch"` tensors; `named` where no other engine may compute."""
    if framework != "torch":
        raise ValueError(f"The Triton engine computes for torch, not {framework}.")
    if named not in _bound:
        from lnrnn.engines.portable import ops_torch
        from lnrnn.engines.triton import torch_op

        run = partial(torch_op.recurrence, named=named)
        _bound[named] = SimpleNamespace(sequence=partial(sequence, ops_torch, run))
    return _bound[named]
