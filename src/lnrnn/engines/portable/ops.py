"""The operations that the portable engine needs of a framework.

A framework's operations are a module with these functions (`ops_jax`, `ops_torch`,
`ops_tensorflow`); arithmetic, comparison and slicing are the arrays' own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from lnrnn.variant import Variant

Array = Any
States = tuple[Array, ...]
Body = Callable[[States, tuple[Array, ...]], States]


class Ops(Protocol):
    """What the step and the loop call.

    `projects_ahead` says whether the input projection of all steps is one product before
    the loop.  It saves a product a step where steps run one operation after another; a
    runtime that overlaps operations does the products of later steps, which need no
    state, beside the recurrence instead, and is slower if it has to wait for all of them.
    """

    @property
    def projects_ahead(self) -> bool:
        """Whether the input projection is hoisted out of the loop."""
        ...

    def count(self) -> None:
        """Note a run, for [lnrnn.engines.runs][]."""
        ...

    def matmul(self, a: Array, b: Array) -> Array:
        """a (..., m) times the matrix b (m, n)."""
        ...

    def einsum(self, equation: str, a: Array, b: Array) -> Array:
        """The sum of products that an equation names, with `...` in it."""
        ...

    def divisor(self, v: Array) -> Array:
        """max(1, |v|), as a constant."""
        ...

    def concat(self, parts: Sequence[Array]) -> Array:
        """Join along the last axis."""
        ...

    def split(self, v: Array, parts: int) -> Sequence[Array]:
        """Cut the last axis into parts of one size."""
        ...

    def fold(self, v: Array, size: int) -> Array:
        """(..., n size) to (..., n, size)."""
        ...

    def unfold(self, v: Array) -> Array:
        """(..., n, size) to (..., n size)."""
        ...

    def where(self, condition: Array, a: Array, b: Array | float) -> Array:
        """a where the condition holds, else b."""
        ...

    def number(self, v: float) -> float:
        """v as a constant of the loop."""
        ...

    def clip(self, v: Array, bound: float) -> Array:
        """v limited to [-bound, bound]."""
        ...

    def clip_gradient(self, v: Array, bound: float) -> Array:
        """v itself; its derivative is limited to [-bound, bound]."""
        ...

    def norm(self, v: Array, gain: Array | None, bias: Array | None, variant: Variant) -> Array:
        """Normalise the last axis; statistics in float32 or better, two passes."""
        ...

    def activation(self, name: str) -> Callable[[Array], Array]:
        """The function of that name."""
        ...

    def cast(self, v: Array, like: Array) -> Array:
        """v in the dtype of `like`."""
        ...

    def rounded(self, v: Array, dtype: str) -> Array:
        """v rounded to the dtype of this name, in float32."""
        ...

    def constants(self, like: Array, values: Any) -> Array:
        """A NumPy array as a tensor of the dtype (and on the device) of `like`."""
        ...

    def running_any(self, mask: Array) -> Array:
        """Over the first axis: whether any value so far is True."""
        ...

    def spread(self, vectors: Mapping[str, Array], x: Array) -> Mapping[str, Array]:
        """The weights that a loop over x takes step by step, as (T, n); empty for none."""
        ...

    def scan(self, body: Body, states: States, xs: tuple[Array, ...], emit: bool) -> Any:
        """Loop over the first axis of xs; (final states, every first state or None)."""
        ...

    def unstack(self, v: Array) -> Sequence[Array]:
        """The slices along the first axis, whose size is static."""
        ...

    def stack(self, parts: Sequence[Array]) -> Array:
        """Join along a new first axis."""
        ...


def unrolled(ops: Ops, body: Body, states: States, xs: tuple[Array, ...], emit: bool) -> Any:
    """`ops.scan` as a Python loop over a static first axis."""
    emitted = []
    for inputs in zip(*(ops.unstack(x) for x in xs), strict=True):
        states = body(states, inputs)
        if emit:
            emitted.append(states[0])
    return states, ops.stack(emitted) if emit else None
