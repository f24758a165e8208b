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


def recurrence(words: tuple[int, ...], numbers: Numbers, inputs: Inputs) -> tuple[Any, ...]:
    """All h (T, B, H), the last h and, of an lstm, the last c."""
    given = {n: tf.convert_to_tensor(a) for n, a in inputs._asdict().items() if a is not None}
    names = tuple(given)
    cell = Cell(words)

    @tf.custom_gradient
    def compute(*arrays: Any) -> Any:
        a = _inputs(names, arrays)
        h, c, s, h_last, c_last = _forward(cell, numbers, a)

        def gradient(dh: Any, dh_last: Any, dc_last: Any = None) -> list[Any]:
            found = _gradients(cell, words, numbers, names, arrays, (h, c, s), dh, dh_last, dc_last)
            return [found.get(name) for name in names]

        return ((h, h_last, c_last) if cell.lstm else (h, h_last)), gradient

    return tuple(compute(*given.values()))


def _inputs(names: Sequence[str], arrays: Sequence[Any]) -> Inputs:
    given = dict(zip(names, arrays, strict=True))
    return Inputs(*(given.get(name) for name in Inputs._fields))  # pyright: ignore


def _forward(cell: Cell, numbers: Numbers, a: Inputs) -> list[Any]:
    names = [n for n in Inputs._fields if getattr(a, n) is not None]

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        local = _inputs(names, arrays)
        call.check(cell, local, np.dtype(bool))
        steps, batch, wide = local.x.shape
        units = wide // cell.gates
        empty = local.x[:0, 0, 0]
        found = {
            "h": np.empty((steps, batch, units), local.x.dtype),
            "c": np.empty((steps, batch, units), local.x.dtype) if cell.lstm else empty,
            "s": np.empty((steps, batch, wide), local.x.dtype),
            "h_last": np.empty((batch, units), local.x.dtype),
            "c_last": np.empty((batch, units), local.x.dtype) if cell.lstm else empty,
        }
        _run(cell, numbers, local, found, back=False)
        return list(found.values())

    found = tf.numpy_function(run, [getattr(a, n) for n in names], [a.x.dtype] * 5, stateful=False)
    steps, batch, wide = a.x.shape
    units = wide // cell.gates
    c = (steps, batch, units) if cell.lstm else (0,)
    c_last = (batch, units) if cell.lstm else (0,)
    shapes = [(steps, batch, units), c, (steps, batch, wide), (batch, units), c_last]
    return [tf.ensure_shape(f, s) for f, s in zip(found, shapes, strict=True)]


def _gradients(
    cell: Cell,
    words: tuple[int, ...],
    numbers: Numbers,
    names: tuple[str, ...],
    arrays: Sequence[Any],
    kept: tuple[Any, Any, Any],
    *incoming: Any,
) -> dict[str, Any]:
    """The gradients of the inputs by name; their own derivative is the portable definition's."""
    coming = {n: d for n, d in zip(call.INCOMING, incoming, strict=True) if d is not None}
    differentiable = [n for n in names if n in ("recurrent", *call.VECTORS, "x", "h0", "c0")]

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
                    values = definition.recurrence(ops, words, numbers, b)
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
    cell: Cell, numbers: Numbers, a: Inputs, kept: tuple[Any, Any, Any], coming: dict[str, Any]
) -> dict[str, Any]:
    names = [n for n in Inputs._fields if getattr(a, n) is not None]
    outgoing = tuple(call.outgoing_shapes(cell, a, numbers.clip))

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        local = _inputs(names, arrays[: len(names)])
        known = dict(zip(("h", "c", "s", *coming), arrays[len(names) :], strict=True))
        shapes = call.outgoing_shapes(cell, local, numbers.clip)
        found = {n: np.empty(shape, local.x.dtype) for n, shape in shapes.items()}
        _run(cell, numbers, local, known | found, back=True)
        return list(found.values())

    arrays = [*(getattr(a, n) for n in names), *kept, *coming.values()]
    found = tf.numpy_function(run, arrays, [a.x.dtype] * len(outgoing), stateful=False)
    shapes = call.outgoing_shapes(cell, a, numbers.clip)
    by_name = {n: tf.ensure_shape(f, shapes[n]) for n, f in zip(outgoing, found, strict=True)}
    gradients = {n: by_name.get(f"d{n}") for n in (*call.VECTORS, "h0", "c0")}
    gradients["x"] = by_name.get("dx", by_name["ds"])
    gradients["recurrent"] = call.recurrent_gradient(ops, _outer, cell, a, kept[0], by_name)
    return gradients


def _outer(a: Any, b: Any, plus: Any | None = None) -> Any:
    product = tf.tensordot(a, b, [[0, 1], [0, 1]])
    return product if plus is None else product + plus


def _run(
    cell: Cell, numbers: Numbers, a: Inputs, others: dict[str, np.ndarray], back: bool
) -> None:
    given = {n: v for n, v in (a._asdict() | others).items() if v is not None}
    given = {n: np.ascontiguousarray(v) for n, v in given.items()}
    core.run(
        cell,
        numbers,
        call.sizes(cell, a),
        {n: v.ctypes.data for n, v in given.items() if v.size},
        back=back,
        double=a.x.dtype == np.float64,
        threads=core.available_threads(),
    )
