"""The Triton engine: the recurrence in fused kernels, forward and backward, on a GPU.

`on("torch")` binds [sequence][lnrnn.engines.native.sequence.sequence] to one framework.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

from lnrnn.engines.native.sequence import sequence

_bound: dict[str, SimpleNamespace] = {}


def on(framework: str) -> SimpleNamespace:
    """`sequence` on `"torch"` tensors."""
    if framework not in _bound:
        from lnrnn.engines.portable import ops_torch
        from lnrnn.engines.triton import torch_op

        _bound[framework] = SimpleNamespace(
            sequence=partial(sequence, ops_torch, torch_op.recurrence)
        )
    return _bound[framework]
