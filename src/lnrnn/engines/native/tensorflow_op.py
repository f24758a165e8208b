"""The core in TensorFlow's training steps, through `tf.numpy_function`.

A graph that is saved or exported cannot hold a Python function, so outside training
[the engine][lnrnn.engines.select.Native] takes the portable definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lnrnn.engines.native import call, core, definition
from lnrnn.engines.native.call import Cell, Inputs, Numbers
from lnrnn.engines.portable import ops_tensorflow as ops
from lnrnn.variant import Variant


def recurrence(variant: Variant, numbers: Numbers, inputs: Inputs) -> tuple[Any, ...]:
    """All h (T, B, H), the last h and, of an lstm, the last c."""
    given = {n: tf.convert_to_tensor(a) for n, a in inputs._asdict().items() if a is not None}
    call.check_ranks(given["x"].shape, given["kernel"].shape)
    names = tuple(given)
    cell = call.cell_of(call.encode(variant))

    @tf.custom_gradient
    def compute(*arrays: Any) -> Any:
        a = _inputs(names, arrays)
        results = _forward(cell, numbers, a)
        kept = {n: r for n, r in results.items() if n == "h" or n in call.KEPT}

        def gradient(dh: Any, dh_last: Any, dc_last: Any = None) -> list[Any]:
            found = _gradients(cell, numbers, names, arrays, kept, dh, dh_last, dc_last)
            return [found.get(name) for name in names]

        return [r for n, r in results.items() if n not in call.KEPT], gradient

    return tuple(compute(*given.values()))


def _inputs(names: Sequence[str], arrays: Sequence[Any]) -> Inputs:
    given = dict(zip(names, arrays, strict=True))
    return Inputs(*(given.get(name) for name in Inputs._fields))  # pyright: ignore


def _forward(cell: Cell, numbers: Numbers, a: Inputs) -> dict[str, Any]:
    names = [n for n in Inputs._fields if getattr(a, n) is not None]

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        local = _inputs(names, arrays)
        call.check(cell, local, np.dtype(bool), np.dtype(np.float32))
        return _run(cell, numbers, local, {}, call.result_shapes(cell, local, True), back=False)

    shapes = call.result_shapes(cell, a, True)
    types = [a.x.dtype] * len(shapes)
    found = tf.numpy_function(run, [getattr(a, n) for n in names], types, stateful=False)
    return {n: tf.ensure_shape(f, s) for (n, s), f in zip(shapes.items(), found, strict=True)}


def _gradients(
    cell: Cell,
    numbers: Numbers,
    names: tuple[str, ...],
    arrays: Sequence[Any],
    kept: dict[str, Any],
    *incoming: Any,
) -> dict[str, Any]:
    """The gradients of the inputs by name; their own derivative is the portable definition's."""
    coming = {n: d for n, d in zip(call.INCOMING, incoming, strict=True) if d is not None}
    differentiable = [n for n in names if n in call.DIFFERENTIABLE]

    @tf.custom_gradient
    def compute(*given: Any) -> Any:
        a, ds = _inputs(names, given[: len(names)]), given[len(names) :]
        found = _backward(cell, numbers, a, kept, dict(zip(coming, ds, strict=True)))

        def second(*upstream: Any) -> Any:
            with tf.GradientTape() as outer:
                outer.watch(given)
                with tf.GradientTape() as inner:
                    inner.watch(given)
                    b = _inputs(names, given[: len(names)])
                    values = definition.recurrence(ops, cell.words, numbers, b)
                    by_name: dict[str, Any] = dict(zip(call.INCOMING, values, strict=False))
                    total = tf.add_n(
                        [tf.reduce_sum(by_name[n] * d) for n, d in zip(coming, ds, strict=True)]
                    )
                first = inner.gradient(total, [getattr(b, n) for n in differentiable])
                whole = tf.add_n(
                    [tf.reduce_sum(f * u) for f, u in zip(first, upstream, strict=True)]
                )
            return outer.gradient(whole, given)

        return [found[n] for n in differentiable], second

    return dict(zip(differentiable, compute(*arrays, *coming.values()), strict=True))


def _backward(
    cell: Cell, numbers: Numbers, a: Inputs, kept: dict[str, Any], coming: dict[str, Any]
) -> dict[str, Any]:
    names = [n for n in Inputs._fields if getattr(a, n) is not None]
    known = kept | coming

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        local = _inputs(names, arrays[: len(names)])
        others = dict(zip(known, arrays[len(names) :], strict=True))
        return _run(cell, numbers, local, others, call.gradient_shapes(local), back=True)

    shapes = call.gradient_shapes(a)
    arrays = [*(getattr(a, n) for n in names), *known.values()]
    found = tf.numpy_function(run, arrays, [a.x.dtype] * len(shapes), stateful=False)
    return {n[1:]: tf.ensure_shape(f, s) for (n, s), f in zip(shapes.items(), found, strict=True)}


def _run(
    cell: Cell,
    numbers: Numbers,
    a: Inputs,
    known: dict[str, np.ndarray],
    shapes: dict[str, tuple[int, ...]],
    back: bool,
) -> list[np.ndarray]:
    """The arrays of these names and shapes, computed."""
    given = {n: v for n, v in (a._asdict() | known).items() if v is not None}
    given = {n: np.ascontiguousarray(v) for n, v in given.items()}
    found = {n: np.empty(shape, a.x.dtype) for n, shape in shapes.items()}
    core.run(
        cell,
        numbers,
        call.sizes(a),
        call.listed({n: v.ctypes.data for n, v in (given | found).items() if v.size}),
        back=back,
        dtype=a.x.dtype.name,
        threads=core.available_threads(),
        framework="tensorflow",
    )
    return list(found.values())
