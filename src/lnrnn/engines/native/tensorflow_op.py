"""The core as TensorFlow operators.

Executed eagerly, a recurrence is an operator of ours.  A graph may be saved, exported or compiled
by XLA, so it holds a call of a function that has the portable definition; beside it stands a
function of the same interface with the operator, which TensorFlow takes in its place when it runs
the graph on a CPU.  What is known, when it is traced, to be for XLA or for a file holds the
definition itself.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import tensorflow as tf

# A tape that records what has a gradient of its own, a trace for XLA, and the questions whether a
# tape records at all, whether a graph is for XLA and whether for a file, and whether a function is
# known, have no public names.
from tensorflow.python.eager import record
from tensorflow.python.eager.context import context
from tensorflow.python.ops.control_flow_ops import XLAControlFlowContext
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
from tensorflow.python.ops.gradients_util import PossibleTapeGradientTypes
from tensorflow.python.saved_model.save_context import in_save_context

from lnrnn.engines.fused import call as fused
from lnrnn.engines.fused.call import Inputs, Numbers
from lnrnn.engines.native import call, core, definition, tensorflow_library
from lnrnn.engines.native.call import Cell
from lnrnn.engines.portable import ops_tensorflow as ops
from lnrnn.variant import Variant

Arrays = Sequence[Any]

# projections x W and h U beyond this many bytes each are computed again in the backward pass
_MOST_SAVED = 1 << 30
_ZERO = tf.UnconnectedGradients.ZERO
_BATCH_FIRST = [1, 0, 2]
_HALVES = (tf.bfloat16, tf.float16)


class How(NamedTuple):
    """What is static of a pass: the cell, its scalars, the names of what it is given and gives."""

    words: tuple[int, ...]
    numbers: Numbers
    given: tuple[str, ...]
    found: tuple[str, ...]
    batch_first: bool = False  # x, h and their gradients begin with B

    @property
    def cell(self) -> Cell:
        return call.cell_of(self.words)

    @property
    def back(self) -> bool:
        return self.found[0] not in call.OUTPUTS

    def dtypes(self, arrays: Arrays) -> list[Any]:
        """Those of the results."""
        x, kernel = (arrays[self.given.index(n)].dtype for n in ("x", "kernel"))
        return [x if n in call.LIKE_X else kernel for n in self.found]

    def inputs(self, arrays: Arrays) -> Inputs:
        by_name = dict(zip(self.given, arrays, strict=True))
        if self.batch_first:
            by_name["x"] = tf.transpose(by_name["x"], _BATCH_FIRST)
        return Inputs(*(by_name.get(name) for name in Inputs._fields))  # pyright: ignore


def by_definition() -> bool:
    """Whether what is traced now cannot hold the operator: it is for XLA or for a file."""
    return not tf.executing_eagerly() and (
        in_save_context()
        or GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
        or not tf.compat.v1.executing_eagerly_outside_functions()
    )


def recurrence(
    variant: Variant, numbers: Numbers, inputs: Inputs, gates: str = ""
) -> tuple[Any, ...]:
    """All h (T, B, R), the last h and, of an lstm, the last c.

    The gates of the weights stand in the order `gates`; empty for the canonical one.
    """
    given = {n: tf.convert_to_tensor(a) for n, a in inputs._asdict().items() if a is not None}
    words, dtype = call.encode(variant, gates), given["x"].dtype
    if dtype not in _HALVES:
        return _recur(words, numbers, given)
    given = {
        n: tf.cast(a, tf.float32) if a.dtype in _HALVES and n != "x" else a
        for n, a in given.items()
    }
    h, *final = _recur(words, numbers, given)
    return h, *(tf.cast(s, dtype) for s in final)


def _recur(words: tuple[int, ...], numbers: Numbers, given: dict[str, Any]) -> tuple[Any, ...]:
    a = Inputs(*(given.get(name) for name in Inputs._fields))  # pyright: ignore
    cell = call.cell_of(words)
    fused.check(cell, a, tf.bool, tf.float32)
    if by_definition():
        return definition.recurrence(ops, words, numbers, a)
    names = tuple(given)
    given["x"], batch_first = _as_it_lies(a.x)
    arrays = list(given.values())
    results = ("h", "h_last", "c_last") if cell.lstm else ("h", "h_last")
    kept = (call.KEPT if cell.lstm else call.KEPT[1:]) if _is_watched(arrays) else ()
    how = How(words, numbers, names, (*results, *kept), batch_first)
    # a tape that does not watch x now will not ask for its gradient
    of_x = _is_watched([given["x"]])

    def gradient(found: Arrays, incoming: Arrays, of_x: bool) -> list[Any]:
        coming = {f"d{n}": d for n, d in zip(results, incoming, strict=False) if d is not None}
        known = dict(zip(how.found, found, strict=True))
        known = {n: known[n] for n in ("h", *kept)}
        gradients = _gradients(how, arrays, known, coming, of_x)
        return [gradients.get(name) for name in names]

    found = _run(how, arrays, lambda found, *incoming: gradient(found, incoming, True))
    record.record_operation(
        "LnrnnRecurrence",
        found[: len(results)],
        arrays,
        lambda *incoming: gradient(found, incoming, of_x),
    )
    h, *final = found[: len(results)]
    # TensorFlow leaves out two transpositions that undo each other
    return (tf.transpose(h, _BATCH_FIRST) if batch_first else h), *final


def _gradients(
    forward: How, arrays: Arrays, known: dict[str, Any], coming: dict[str, Any], of_x: bool
) -> dict[str, Any]:
    """The gradients of the inputs by name; their own derivative is the definition's."""
    incoming = [tf.convert_to_tensor(d) for d in coming.values()]
    of = tuple(n for n in forward.given if n in fused.DIFFERENTIABLE and (of_x or n != "x"))
    how = How(
        forward.words,
        forward.numbers,
        (*forward.given, *known, *coming),
        tuple(f"d{n}" for n in of),
        forward.batch_first,
    )
    moving = [*arrays, *incoming]

    def second(*upstream: Any) -> list[Any]:
        asked = {n: u for n, u in zip(of, upstream, strict=True) if u is not None}
        return _second(forward._replace(found=tuple(coming)), tuple(asked))(
            arrays, incoming, [tf.convert_to_tensor(u) for u in asked.values()]
        )

    def second_of_all(_: Arrays, *upstream: Any) -> list[Any]:
        found = second(*upstream)
        return [*found[: len(arrays)], *[None] * len(known), *found[len(arrays) :]]

    found = _run(how, [*arrays, *known.values(), *incoming], second_of_all)
    record.record_operation("LnrnnRecurrenceBackward", found, moving, second)
    return dict(zip(of, found, strict=True))


def _as_it_lies(x: Any) -> tuple[Any, bool]:
    """x, or the batch-first tensor that a graph has transposed to x, and whether it is that one."""
    if not tf.executing_eagerly() and x.op.type == "Transpose":
        given, axes = x.op.inputs
        axes = tf.get_static_value(axes)
        if axes is not None and list(axes) == _BATCH_FIRST:
            return given, True
    return x, False


def _defined(how: How, arrays: Arrays) -> dict[str, Any]:
    """What the definition gives, as it lies."""
    h, *final = definition.recurrence(ops, how.words, how.numbers, how.inputs(arrays))
    h = tf.transpose(h, _BATCH_FIRST) if how.batch_first else h
    return dict(zip(("h", "h_last", "c_last"), (h, *final), strict=False))


def _define(how: How, arrays: Arrays) -> list[Any]:
    found = _defined(how, arrays)
    # what is kept is for the operator only, which computes it where it is not there
    nothing = {
        n: tf.raw_ops.PlaceholderWithDefault(input=tf.zeros((0, 0, 0), dtype), shape=[None] * 3)
        for n, dtype in zip(how.found, how.dtypes(arrays), strict=True)
        if n in call.KEPT
    }
    return [found[n] if n in found else nothing[n] for n in how.found]


def _define_back(how: How, arrays: Arrays) -> list[Any]:
    forward = how._replace(given=tuple(n for n in how.given if n in Inputs._fields))
    by_name = dict(zip(how.given, arrays, strict=True))
    coming = {n: d for n, d in by_name.items() if n in fused.INCOMING}
    total = _weighed(forward, arrays[: len(forward.given)], coming)
    asked = [by_name[n[1:]] for n in how.found]
    # XLA may compile a function that was traced without it, and needs its loop so
    for_xla = XLAControlFlowContext()
    for_xla.Enter()
    try:
        return tf.gradients(total, asked, unconnected_gradients=_ZERO)  # no tape records here
    finally:
        for_xla.Exit()


def _weighed(forward: How, arrays: Arrays, coming: dict[str, Any]) -> Any:
    """The sum of the results, each times the gradient that comes in for it."""
    found, single = _defined(forward, arrays), arrays[forward.given.index("kernel")].dtype
    weighed = ((found[n[1:]], d) for n, d in coming.items())
    return tf.add_n([tf.reduce_sum(tf.cast(v, single) * tf.cast(d, single)) for v, d in weighed])


@cache
def _second(forward: How, of: tuple[str, ...]) -> Any:
    """The gradient of the gradients `of` inputs, by the inputs and by what comes in.

    A function of graphs, as a tape inside of a forward accumulator would record nothing.
    """

    def second(arrays: Arrays, incoming: Arrays, upstream: Arrays) -> list[Any]:
        total = _weighed(forward, arrays, dict(zip(forward.found, incoming, strict=True)))
        asked = [arrays[forward.given.index(n)] for n in of]
        first = tf.gradients(total, asked, unconnected_gradients=_ZERO)
        return tf.gradients(first, [*arrays, *incoming], upstream)

    return tf.function(second, autograph=False)


def _run(how: How, arrays: Arrays, gradient: Callable[..., Any]) -> list[Any]:
    """One pass; `gradient` is for graphs that are differentiated from outside."""
    with record.stop_recording():
        if tf.executing_eagerly():
            return _operator(how, arrays)
        meaning = _meaning(how, tuple((tuple(a.shape), a.dtype) for a in arrays))
        graph: Any = tf.compat.v1.get_default_graph()
        made = {"PartitionedCall": lambda op, *incoming: gradient(op.outputs, *incoming)}
        with graph._override_gradient_function(made):
            found = tf.raw_ops.PartitionedCall(args=arrays, Tout=how.dtypes(arrays), f=meaning)
    for one, its in zip(found, meaning.outputs, strict=True):
        one.set_shape(its.shape)
    return found


def _meaning(how: How, specs: tuple[Any, ...]) -> Any:
    """The definition of a pass as a function for graphs."""
    meaning, parts, _ = _functions(how, specs, _threads())
    known: Any = context()
    for part in parts:
        # TensorFlow forgets them where it fails to make constants of a model's variables
        if not known.has_function(part.signature.name):
            known.add_function_def(part)
    return meaning


@cache
def _functions(how: How, specs: tuple[Any, ...], threads: int) -> tuple[Any, list[Any], Any]:
    """The definition of a pass with its parts, and the pass itself, as functions for graphs.

    TensorFlow runs the pass in place of its definition where it runs on a CPU.
    """
    name = f"lnrnn_{uuid.uuid4().hex}"  # no other process has it, nor what it saved
    signature = [tf.TensorSpec(shape, dtype) for shape, dtype in specs]

    def meaning(*arrays: Any) -> list[Any]:
        return _define_back(how, arrays) if how.back else _define(how, arrays)

    def function(body: Callable[..., Any], device: str) -> Any:
        attributes = dict(api_implements=name, api_preferred_device=device)
        made: Any = tf.function(body, autograph=False, experimental_attributes=attributes)
        return made.get_concrete_function(*signature)

    with tf.init_scope():
        defined = function(meaning, "any")
        computed = function(lambda *a: _operator(how, a), "CPU")
    return defined, list(defined.graph.as_graph_def().library.function), computed


def _operator(how: How, arrays: Arrays) -> list[Any]:
    operators = tensorflow_library.operators()
    run = operators.lnrnn_recurrence_backward if how.back else operators.lnrnn_recurrence
    return run(arrays, made=how.dtypes(arrays), **_attributes(how, _threads()))


@cache
def _attributes(how: How, threads: int) -> dict[str, list[int]]:
    return dict(
        operands=[call.ARRAYS.index(n) for n in how.given],
        results=[call.ARRAYS.index(n) for n in how.found],
        spec=list(how.words),
        numbers=_bits(how.numbers),
        options=[int(how.batch_first), threads, _MOST_SAVED],
    )


def _bits(numbers: Numbers) -> list[int]:
    """The bits of numbers, as an attribute of floats would round them."""
    count = len(numbers)
    return list(struct.unpack(f"{count}q", struct.pack(f"{count}d", *numbers)))


def _threads() -> int:
    return tf.config.threading.get_intra_op_parallelism_threads() or core.available_threads()


def _is_watched(tensors: Arrays) -> bool:
    """Whether a tape or an accumulator records what becomes of one of these."""
    return PossibleTapeGradientTypes(tensors) != 0
