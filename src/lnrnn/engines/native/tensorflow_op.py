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
from lnrnn.engines.native import call, core, tensorflow_library
from lnrnn.engines.native.call import Call, Cell
from lnrnn.engines.portable import ops_tensorflow as ops
from lnrnn.variant import Variant

Arrays = Sequence[Any]

# projections x W and h U beyond this many bytes each are computed again in the backward pass
_MOST_SAVED = 1 << 30
_ZERO = tf.UnconnectedGradients.ZERO
_BATCH_FIRST = [1, 0, 2]
_HALVES = (tf.bfloat16, tf.float16)


class Pass(NamedTuple):
    """What is static of a pass of the core, hashable.

    Args:
        cell: the words, and what the core knows of them.
        numbers: the scalars.
        given: the names of what it is given.
        found: the names of what it gives; h first, if it is a forward pass.
        batch_first: whether x, h and their gradients begin with B.
    """

    cell: Call
    numbers: tuple[float, ...]
    given: tuple[str, ...]
    found: tuple[str, ...] = ()
    batch_first: bool = False

    @property
    def is_back(self) -> bool:
        """Whether it is a backward pass."""
        return self.found[0] != "h"

    def asked(self, of_x: bool) -> tuple[str, ...]:
        """The inputs of which a backward pass gives a gradient; that of x may not be needed."""
        of_x = of_x or self.cell.needs_dx
        return tuple(n for n in self.given if n in self.cell.differentiable and (of_x or n != "x"))

    def single(self, arrays: Arrays) -> Any:
        """The dtype of weights, and of all that is not of half precision where x is."""
        return arrays[0].dtype

    def dtypes(self, arrays: Arrays) -> list[Any]:
        """Those of what it gives."""
        x, single = arrays[self.given.index("x")].dtype, self.single(arrays)
        return [x if n in call.LIKE_X else single for n in self.found]

    def define(self, arrays: Arrays) -> tuple[Any, ...]:
        """The results in TensorFlow's operations, as they lie."""
        a = fused.inputs_of(self.cell.inputs, self.given, arrays)
        if not self.batch_first:
            return self.cell.define(ops, self.numbers, a)
        a = a._replace(x=tf.transpose(a.x, _BATCH_FIRST))
        h, *final = self.cell.define(ops, self.numbers, a)
        return tf.transpose(h, _BATCH_FIRST), *final


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
    cell, dtype = call.cell_of(call.encode(variant, gates)), given["x"].dtype
    if dtype not in _HALVES:
        return _recur(cell, numbers, given)
    given = {
        n: tf.cast(a, tf.float32) if a.dtype in _HALVES and n != "x" else a
        for n, a in given.items()
    }
    h, *final = _recur(cell, numbers, given)
    return h, *(tf.cast(s, dtype) for s in final)


def _recur(cell: Cell, numbers: Numbers, given: dict[str, Any]) -> tuple[Any, ...]:
    a = fused.inputs_of(Inputs, list(given), list(given.values()))
    fused.check(cell, a, tf.bool, tf.float32)
    if by_definition():
        return cell.define(ops, numbers, a)
    given["x"], batch_first = _as_it_lies(a.x)
    how = Pass(cell, numbers, tuple(given), batch_first=batch_first)
    h, *final = bind(how, list(given.values()))
    # TensorFlow leaves out two transpositions that undo each other
    return (tf.transpose(h, _BATCH_FIRST) if batch_first else h), *final


def bind(how: Pass, arrays: Arrays) -> list[Any]:
    """The results of a forward pass of these arrays, of which `how.found` is not known yet."""
    results, kept = how.cell.results, how.cell.kept if _is_watched(arrays) else ()
    how = how._replace(found=(*results, *kept))
    # a tape that does not watch x now will not ask for its gradient
    of_x = _is_watched([arrays[how.given.index("x")]])

    def gradient(found: Arrays, incoming: Arrays, of_x: bool) -> list[Any]:
        coming = {f"d{n}": d for n, d in zip(results, incoming, strict=False) if d is not None}
        known = dict(zip(how.found, found, strict=True))
        known = {n: known[n] for n in ("h", *kept)}
        gradients = _gradients(how, arrays, known, coming, of_x)
        return [gradients.get(name) for name in how.given]

    found = _run(how, arrays, lambda found, *incoming: gradient(found, incoming, True))
    record.record_operation(
        "LnrnnRecurrence",
        found[: len(results)],
        arrays,
        lambda *incoming: gradient(found, incoming, of_x),
    )
    return found[: len(results)]


def _gradients(
    forward: Pass, arrays: Arrays, known: dict[str, Any], coming: dict[str, Any], of_x: bool
) -> dict[str, Any]:
    """The gradients of the inputs by name; their own derivative is the definition's."""
    incoming = [tf.convert_to_tensor(d) for d in coming.values()]
    of = forward.asked(of_x)
    how = forward._replace(
        given=(*forward.given, *known, *coming), found=tuple(f"d{n}" for n in of)
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


def _defined(how: Pass, arrays: Arrays) -> dict[str, Any]:
    """What the definition gives, as it lies."""
    return dict(zip(how.cell.results, how.define(arrays), strict=True))


def _define(how: Pass, arrays: Arrays) -> list[Any]:
    found = _defined(how, arrays)
    # what is kept is for the operator only, which computes it where it is not there
    nothing = {
        n: tf.raw_ops.PlaceholderWithDefault(input=tf.zeros((0, 0, 0), dtype), shape=[None] * 3)
        for n, dtype in zip(how.found, how.dtypes(arrays), strict=True)
        if n in how.cell.kept
    }
    return [found[n] if n in found else nothing[n] for n in how.found]


def _define_back(how: Pass, arrays: Arrays) -> list[Any]:
    forward = how._replace(given=tuple(n for n in how.given if n in how.cell.inputs._fields))
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


def _weighed(forward: Pass, arrays: Arrays, coming: dict[str, Any]) -> Any:
    """The sum of the results, each times the gradient that comes in for it."""
    found, single = _defined(forward, arrays), forward.single(arrays)
    weighed = ((found[n[1:]], d) for n, d in coming.items())
    return tf.add_n([tf.reduce_sum(tf.cast(v, single) * tf.cast(d, single)) for v, d in weighed])


@cache
def _second(forward: Pass, of: tuple[str, ...]) -> Any:
    """The gradient of the gradients `of` inputs, by the inputs and by what comes in.

    A function of graphs, as a tape inside of a forward accumulator would record nothing.
    """

    def second(arrays: Arrays, incoming: Arrays, upstream: Arrays) -> list[Any]:
        total = _weighed(forward, arrays, dict(zip(forward.found, incoming, strict=True)))
        asked = [arrays[forward.given.index(n)] for n in of]
        first = tf.gradients(total, asked, unconnected_gradients=_ZERO)
        return tf.gradients(first, [*arrays, *incoming], upstream)

    return tf.function(second, autograph=False)


def _run(how: Pass, arrays: Arrays, gradient: Callable[..., Any]) -> list[Any]:
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


def _meaning(how: Pass, specs: tuple[Any, ...]) -> Any:
    """The definition of a pass as a function for graphs."""
    meaning, parts, _ = _functions(how, specs, _threads())
    known: Any = context()
    for part in parts:
        # TensorFlow forgets them where it fails to make constants of a model's variables
        if not known.has_function(part.signature.name):
            known.add_function_def(part)
    return meaning


@cache
def _functions(how: Pass, specs: tuple[Any, ...], threads: int) -> tuple[Any, list[Any], Any]:
    """The definition of a pass with its parts, and the pass itself, as functions for graphs.

    TensorFlow runs the pass in place of its definition where it runs on a CPU.
    """
    name = f"lnrnn_{uuid.uuid4().hex}"  # no other process has it, nor what it saved
    signature = [tf.TensorSpec(shape, dtype) for shape, dtype in specs]

    def meaning(*arrays: Any) -> list[Any]:
        return _define_back(how, arrays) if how.is_back else _define(how, arrays)

    def function(body: Callable[..., Any], device: str) -> Any:
        attributes = dict(api_implements=name, api_preferred_device=device)
        made: Any = tf.function(body, autograph=False, experimental_attributes=attributes)
        return made.get_concrete_function(*signature)

    with tf.init_scope():
        defined = function(meaning, "any")
        computed = function(lambda *a: _operator(how, a), "CPU")
    return defined, list(defined.graph.as_graph_def().library.function), computed


def _operator(how: Pass, arrays: Arrays) -> list[Any]:
    name = f"lnrnn_{how.cell.prefix}recurrence{'_backward' if how.is_back else ''}"
    run = getattr(tensorflow_library.operators(), name)
    return run(arrays, made=how.dtypes(arrays), **_attributes(how, _threads()))


@cache
def _attributes(how: Pass, threads: int) -> dict[str, list[int]]:
    return dict(
        operands=[how.cell.arrays.index(n) for n in how.given],
        results=[how.cell.arrays.index(n) for n in how.found],
        spec=list(how.cell.words),
        numbers=_bits(how.numbers),
        options=[int(how.batch_first), threads, _MOST_SAVED],
    )


def _bits(numbers: Sequence[float]) -> list[int]:
    """The bits of numbers, as an attribute of floats would round them."""
    count = len(numbers)
    return list(struct.unpack(f"{count}q", struct.pack(f"{count}d", *numbers)))


def _threads() -> int:
    return tf.config.threading.get_intra_op_parallelism_threads() or core.available_threads()


def _is_watched(tensors: Arrays) -> bool:
    """Whether a tape or an accumulator records what becomes of one of these."""
    return PossibleTapeGradientTypes(tensors) != 0
