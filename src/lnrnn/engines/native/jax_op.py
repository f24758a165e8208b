"""The core on JAX: what the primitives of [lnrnn.engines.fused.jax_op][] have to know of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from lnrnn.engines.fused import call as fused
from lnrnn.engines.fused.call import Inputs, Numbers
from lnrnn.engines.fused.jax_op import AXES, Arrays, Call, axes_of, bind, sharded, varying, widened
from lnrnn.engines.native import call, core, definition
from lnrnn.engines.native.call import Cell
from lnrnn.engines.portable import ops_jax as ops
from lnrnn.variant import Variant

# the axes of what the core keeps
_AXES = AXES | {"c": "tbh", **dict.fromkeys(("xw", "hu"), "tbw")}


for _name, _handler in core.xla_handlers().items():
    jax.ffi.register_ffi_target(_name, _handler, platform="cpu")


class OfCore(Call, Protocol):
    """What is static of a call of the core."""

    @property
    def target(self) -> str:
        """The name of the core's passes."""
        ...

    @property
    def arrays(self) -> tuple[str, ...]:
        """The names of all arrays in the core's order."""
        ...

    def turned(self, name: str) -> bool:
        """Whether the core has an array of (T, B, ...) in memory as (B, T, ...)."""
        ...

    def attributes(self, arrays: Arrays) -> dict[str, Any]:
        """The words and scalars of a call."""
        ...


class How(NamedTuple):
    """What is static of a call: the cell, its scalars, which inputs are there, whether the
    operands of products are rounded, and whether x, h and their gradients lie as (B, T, ...)."""

    words: tuple[int, ...]
    numbers: Numbers
    names: tuple[str, ...]
    rounding: bool
    batch_first: bool

    @property
    def platforms(self) -> tuple[str, ...]:
        return ("cpu",)

    @property
    def target(self) -> str:
        return "lnrnn"

    @property
    def arrays(self) -> tuple[str, ...]:
        return call.ARRAYS

    @property
    def cell(self) -> Cell:
        return call.cell_of(self.words)

    @property
    def results(self) -> tuple[str, ...]:
        return ("h", "h_last", "c_last") if self.cell.lstm else ("h", "h_last")

    @property
    def kept(self) -> tuple[str, ...]:
        return call.KEPT if self.cell.lstm else call.KEPT[1:]

    @property
    def differentiable(self) -> tuple[str, ...]:
        return tuple(n for n in self.names if n in fused.DIFFERENTIABLE)

    def axes(self, name: str, rank: int | None = None) -> str:
        """Of an array of this name, and of this rank where it may have one of two."""
        return axes_of(_AXES, name, rank, self.cell.diagonal)

    def turned(self, name: str) -> bool:
        return self.batch_first and name in ("x", "h", "dx", "dh")

    def inputs(self, arrays: Arrays) -> Inputs:
        given = dict(zip(self.names, arrays, strict=True))
        return Inputs(*(given.get(name) for name in Inputs._fields))  # pyright: ignore

    def lengths(self, arrays: Arrays) -> dict[str, int]:
        a = self.inputs(arrays)
        length = dict(zip("tbihr", call.sizes(self.cell, a), strict=False), w=a.kernel.shape[1])
        return length | dict(p=(self.cell.gates - 1) * length["h"], j=length["i"] + length["r"])

    def like(self, arrays: Arrays, name: str) -> jax.Array:
        a = self.inputs(arrays)
        return a.x if name in call.LIKE_X else a.kernel

    def attributes(self, arrays: Arrays) -> dict[str, Any]:
        first = self.batch_first
        sizes = call.sizes(self.cell, self.inputs(arrays), first, first, rounding=self.rounding)
        return dict(
            spec=np.array(self.words), sizes=np.array(sizes), numbers=np.array(self.numbers)
        )

    def define(self, arrays: Arrays) -> tuple[jax.Array, ...]:
        return definition.recurrence(ops, self.words, self.numbers, self.inputs(arrays))

    def call(
        self, which: str, names: tuple[str, ...], results: tuple[str, ...]
    ) -> Callable[..., tuple[jax.Array, ...]]:
        return core_call(which, self, names, results)


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
    how = How(call.encode(variant, gates), numbers, tuple(given), rounding, first)
    fused.check(how.cell, how.inputs(list(given.values())), np.dtype(bool), np.dtype(np.float32))
    h, *final = bind(how, given)
    return h, *(s.astype(dtype) if half else s for s in final)


# the names of JAX's precision of products of float32 that are such of bfloat16
_ROUNDING = ("bfloat16", "BF16_BF16_F32")


@cache
def core_call(
    which: str, how: OfCore, names: tuple[str, ...], results: tuple[str, ...]
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
        attributes = how.attributes(given) | dict(
            operands=np.array([how.arrays.index(n) for n in names]),
            results=np.array([how.arrays.index(n) for n in results]),
        )
        call_of = jax.ffi.ffi_call(f"{how.target}_{which}", shapes)
        found = call_of(*map(turned, names, arrays), **attributes)
        return tuple(map(turned, results, found))

    return sharded(how, names, results, local)
