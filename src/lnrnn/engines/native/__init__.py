"""The native engine: the recurrence in C++, forward and backward, fused, on the CPU.

`on("torch")` binds [sequence][lnrnn.engines.fused.sequence.sequence] to one framework.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from lnrnn.engines.fused.block import sequence as block_sequence
from lnrnn.engines.fused.sequence import plan, sequence
from lnrnn.variant import Variant

_bound: dict[tuple[str, bool], SimpleNamespace] = {}
_bound_blocks: dict[str, Any] = {}


def on(framework: str, batch_first: bool = False) -> SimpleNamespace:
    """`sequence` on `"tensorflow"`, `"jax"` or `"torch"` tensors.

    A tensor tells how it lies in memory; one of a JAX program does not: `batch_first` does.
    """
    key = framework, batch_first
    if key not in _bound:
        ops: Any = import_module(f"lnrnn.engines.portable.ops_{framework}")
        op: Any = import_module(f"lnrnn.engines.native.{framework}_op")
        told = batch_first and framework == "jax"
        recurrence = partial(op.recurrence, batch_first=True) if told else op.recurrence
        bound = partial(sequence, ops, recurrence, any_order=True)
        _bound[key] = SimpleNamespace(sequence=bound)
    return _bound[key]


def of(variant: Variant, framework: str, batch_first: bool = False) -> Any:
    """The same with the plan of one variant, which spares each call a look at its weights."""
    return partial(on(framework, batch_first).sequence, plan=plan(variant))


def block_gru_on(framework: str) -> Any:
    """`block.sequence` on `"tensorflow"`, `"jax"` or `"torch"` tensors."""
    if framework not in _bound_blocks:
        ops: Any = import_module(f"lnrnn.engines.portable.ops_{framework}")
        op: Any = import_module(f"lnrnn.engines.native.{framework}_block_op")
        _bound_blocks[framework] = partial(block_sequence, ops, op.recurrence)
    return _bound_blocks[framework]
