"""The portable engine: one step and one loop in a framework's own operations.

`on("jax")` binds [sequence][lnrnn.engines.portable.sequence.sequence] and
[step][lnrnn.engines.portable.sequence.step] to the operations of one framework.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from lnrnn.engines.portable import relatives
from lnrnn.engines.portable.sequence import sequence, step

# a dict that compilers of Python can read, where they would trace a cached function again
_bound: dict[str, SimpleNamespace] = {}


def on(framework: str) -> SimpleNamespace:
    """`sequence` and `step` on `"tensorflow"`, `"jax"` or `"torch"` tensors."""
    if framework not in _bound:
        ops: Any = import_module(f"lnrnn.engines.portable.ops_{framework}")
        _bound[framework] = SimpleNamespace(
            sequence=partial(sequence, ops),
            step=partial(step, ops),
            relative_sequence=partial(relatives.sequence, ops),
            relative_step=partial(relatives.step, ops),
            constants=ops.constants,
        )
    return _bound[framework]
