"""The core on JAX: what the primitives of [lnrnn.engines.fused.jax_op][] have to know of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from lnrnn.engines.fused import call as fused
from lnrnn.engines.fused.call import Inputs, Numbers
from lnrnn.engines.fused.jax_op import AXES, Arrays, axes_of, bind, sharded, varying, widened
from lnrnn.engines.native import call, core
from lnrnn.engines.portable import ops_jax as ops
from lnrnn.variant import Variant

# the axes of what the core keeps
_AXES = AXES | {"c": "tbh", **dict.fromkeys(("xw", "hu"), "tbw")}


for _name, _handler in core.xla_handlers().items():
    jax.ffi.register_ffi_target(_name, _handler, platform="cpu")


class How(NamedTuple):
    """What is static of a call of the core, as of [lnrnn.engines.fused.jax_op.Call][].

    Args:
        cell: the words, and what the core knows of them.
        numbers: the scalars.
        names: the inputs that are there.
        rounding: whether the operands of products are rounded.
        batch_first: whether x, h and their gradients lie as (B, T, ...).
    """

    cell: Any
    numbers: tuple[float, ...]
    names: tuple[str, ...]
    rounding: bool = False
    batch_first: bool = False

    @property
    def platforms(self) -> tuple[str, ...]:
        return ("cpu",)

    @property
    def results(self) -> tuple[str, ...]:
        return self.cell.results

    @property
    def kept(self) -> tuple[str, ...]:
        return self.cell.kept

    @property
    def differentiable(self) -> tuple[str, ...]:
        return tuple(n for n in self.names if n in self.cell.differentiable)

    @property
    def needs_dx(self) -> bool:
        return self.cell.needs_dx

    def axes(self, name: str, rank: int | None = None) -> str:
        """Of an array of this name, and of this rank where it may have one of two."""
        return axes_of(_AXES, name, rank, self.cell.diagonal)

    def turned(self, name: str) -> bool:
        """Whether the core has an array of (T, B, ...) in memory as (B, T, ...)."""
        return self.batch_first and name in ("x", "h", "dx", "dh")

    def inputs(self, arrays: Arrays) -> Any:
        return fused.inputs_of(self.cell.inputs, self.names, arrays)

    def lengths(self, arrays: Arrays) -> dict[str, int]:
        a = self.inputs(arrays)
        length = dict(zip("tbihr", call.sizes(self.cell, a), strict=False), w=a.kernel.shape[1])
        return length | dict(p=(self.cell.gates - 1) * length["h"], j=length["i"] + length["r"])

    def like(self, arrays: Arrays, name: str) -> jax.Array:
        return self.inputs(arrays).x if name in call.LIKE_X else arrays[0]

    def words(self, arrays: Arrays) -> tuple[Sequence[int], Sequence[int]]:
        """Those of the cell and those of the sizes, as the core takes them."""
        first = self.batch_first
        sizes = call.sizes(self.cell, self.inputs(arrays), first, first, rounding=self.rounding)
        return self.cell.words, sizes

    def define(self, arrays: Arrays) -> tuple[jax.Array, ...]:
        return self.cell.define(ops, self.numbers, self.inputs(arrays))

    def call(
        self, which: str, names: tuple[str, ...], results: tuple[str, ...]
    ) -> Callable[..., tuple[jax.Array, ...]]:
        return _call(which, self, names, results)


def recurrence(
    variant: Variant,
    numbers: Numbers,
    inputs: Inputs,
    gates: str = "",
    batch_first: bool = False,
) -> tuple[Any, ...]:
    """All h (T, B, R), the last h and, of an lstm, the last c.

    The gates of the weights stand in the order `gates`; empty for the canonical one.  With
    `batch_first` a compiled program has x and h in memory as (B, T, ...).
    """
    given = {n: a for n, a in inputs._asdict().items() if a is not None}
    dtype = inputs.x.dtype
    half = dtype.name in fused.HALVES
    if half:
        given = {n: widened(a) if n != "x" else a for n, a in given.items()}
    precision: Any = jax.config.jax_default_matmul_precision  # pyright: ignore
    rounding = precision in _ROUNDING and dtype == np.float32
    given = varying(given)
    # what is executed eagerly has been transposed
    first = batch_first and isinstance(inputs.x, jax.core.Tracer)
    how = How(call.cell_of(call.encode(variant, gates)), numbers, tuple(given), rounding, first)
    fused.check(how.cell, how.inputs(list(given.values())), np.dtype(bool), np.dtype(np.float32))
    h, *final = bind(how, given)
    return h, *(s.astype(dtype) if half else s for s in final)


# the names of JAX's precision of products of float32 that are such of bfloat16
_ROUNDING = ("bfloat16", "BF16_BF16_F32")


@cache
def _call(
    which: str, how: How, names: tuple[str, ...], results: tuple[str, ...]
) -> Callable[..., Any]:
    """The call of the core on arrays of these names; a sharded batch stays where it is."""

    def as_lying(name: str) -> str:
        axes = how.axes(name)
        return axes[1] + axes[0] + axes[2:] if how.turned(name) else axes

    def turned(name: str, array: jax.Array) -> jax.Array:
        # XLA leaves out two transpositions that undo each other
        return jnp.swapaxes(array, 0, 1) if how.turned(name) else array

    def local(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        by_name = dict(zip(names, arrays, strict=True))
        given = [by_name[n] for n in how.names]
        length = how.lengths(given)
        shapes = [
            jax.ShapeDtypeStruct(tuple(length[i] for i in as_lying(n)), how.like(given, n).dtype)
            for n in results
        ]
        spec, sizes = how.words(given)
        attributes = dict(
            spec=np.array(spec, np.int64),
            sizes=np.array(sizes),
            numbers=np.array(how.numbers),
            operands=np.array([how.cell.arrays.index(n) for n in names]),
            results=np.array([how.cell.arrays.index(n) for n in results]),
        )
        call_of = jax.ffi.ffi_call(f"lnrnn_{how.cell.prefix}{which}", shapes)
        found = call_of(*map(turned, names, arrays), **attributes)
        return tuple(map(turned, results, found))

    return sharded(how, names, results, local)
