"""Dreamer's block GRU by a fused engine: what it takes, a sequence, and the definition.

What the first block product takes of the inputs sees no state: the framework computes it for all
steps at once, and differentiates it.  All that is behind it is the engine's.

In half precision the operands of products are rounded to it; an engine's arrays are of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lnrnn.engines.fused.call import HALVES, Taken, dtype_name, fits
from lnrnn.engines.fused.definition import Rounding
from lnrnn.engines.portable.ops import Array, Ops, States
from lnrnn.engines.portable.relatives import BlockGRU, BlockSteps
from lnrnn.engines.portable.sequence import Course, loop
from lnrnn.relatives.relative import Relative
from lnrnn.relatives.weights import Sizes


class Inputs(NamedTuple):
    """The arrays of a forward pass; those of layers are None where there is but one."""

    hidden_kernel: Array  # (H, P)
    hidden_bias: Array  # (P,)
    hidden_gain: Array  # (P,)
    state_kernel: Array  # (K, H/K, H/K)
    projected_kernel: Array  # (P, H)
    layer_kernel: Array | None  # (K, H/K, (L - 1) H/K)
    layer_bias: Array | None  # ((L - 1) H,)
    gain: Array  # (L H,)
    gate_kernel: Array  # (K, H/K, 3 H/K)
    gate_bias: Array  # (3 H,)
    x: Array  # (T, B, H)
    h0: Array  # (B, H)
    mask: Array | None  # (T, B)
    reset: Array | None  # (T, B)


class Numbers(NamedTuple):
    """The scalars of a call."""

    epsilon: float
    update_bias: float


OPTIONAL = ("layer_kernel", "layer_bias", "mask", "reset")
TAKEN = Taken(Inputs, Numbers, tuple(n for n in Inputs._fields if n not in OPTIONAL))
DIFFERENTIABLE = Inputs._fields[: Inputs._fields.index("mask")]
Recurrence = Callable[[Relative, Numbers, Inputs, str], tuple[Array, ...]]


def sequence(
    ops: Ops,
    recurrence: Recurrence,
    relative: Relative,
    params: Mapping[str, Array],
    x: Array,
    states: States,
    **options: Any,
) -> tuple[Array, States]:
    """Run a block GRU over a sequence; the call of the portable engine's.

    Args:
        ops: a framework's operations.
        recurrence: an engine's binding to a framework: relative, numbers, inputs and the name of
            the dtype to which operands are rounded, or "", to all h and the last.
        relative: the cell.
        params: its weights, see [lnrnn.relatives.weights][]; float32 beside an x of half precision.
        x: inputs (T, B, I).
        states: h (B, H).
        **options: see [Course][lnrnn.engines.portable.sequence.Course]; there is no noise.

    Returns:
        Outputs (T, B, H), or the last (B, H), and the final h.
    """
    course = Course(**options)
    given_x, rounding = x, dtype_name(x.dtype) if dtype_name(x.dtype) in HALVES else ""
    if rounding:
        single = params["gate_kernel"]
        x, states = ops.cast(x, single), tuple(ops.cast(s, single) for s in states)
    wide: Any = Rounding(ops, rounding) if rounding else ops
    steps = BlockGRU(wide, relative, params)
    weights, layers = steps.params, steps.sizes.layers

    def joined(name: str, first: int) -> Array | None:
        parts = [weights[f"{name}_{k}"] for k in range(first, layers)]
        return ops.concat(parts) if parts else None

    given = Inputs(
        hidden_kernel=weights["hidden_kernel"],
        hidden_bias=weights["hidden_bias"],
        hidden_gain=weights["hidden_gain"],
        state_kernel=weights["state_kernel"],
        projected_kernel=weights["projected_kernel"],
        layer_kernel=joined("block_kernel", 1),
        layer_bias=joined("block_bias", 1),
        gain=joined("block_gain", 0),
        gate_kernel=weights["gate_kernel"],
        gate_bias=weights["gate_bias"],
        x=steps.inputs(x),
        h0=states[0],
        mask=course.mask,
        reset=course.reset,
    )
    numbers = Numbers(relative.epsilon, relative.update_bias)
    h, last = recurrence(relative, numbers, given, rounding)
    if rounding:
        h, last = ops.cast(h, given_x), ops.cast(last, given_x)
    return course.shown(ops, h if course.return_sequences else last), (last,)


def definition(ops: Any, relative: Relative, a: Inputs, rounding: str = "") -> tuple[Array, ...]:
    """All h (T, B, H) and the last, in a framework's operations.

    Operands of products are rounded to the dtype of the name `rounding`; "": they are not.
    """
    ops = Rounding(ops, rounding) if rounding else ops
    sizes = sizes_of(a)
    weights = {name: getattr(a, name) for name in (*Inputs._fields[:5], "gate_kernel", "gate_bias")}

    def part(name: str, joined: Array | None, first: int) -> None:
        if joined is not None:
            parts = ops.split(joined, sizes.layers - first)
            weights.update({f"{name}_{k}": v for k, v in enumerate(parts, first)})

    part("block_kernel", a.layer_kernel, 1)
    part("block_bias", a.layer_bias, 1)
    part("block_gain", a.gain, 0)
    steps: Any = BlockSteps(ops, relative, weights, sizes)
    final, h = loop(steps, a.x, (a.h0,), Course(a.mask, a.reset))
    return h, *final


def sizes_of(a: Inputs) -> Sizes:
    """The sizes of a call, without those of the inputs."""
    units, projection = a.hidden_kernel.shape
    return Sizes(0, units, projection, a.gate_kernel.shape[0], a.gain.shape[0] // units)


def kept_width(a: Inputs) -> int:
    """How many numbers of a row a forward pass keeps for its backward pass."""
    sizes = sizes_of(a)
    return sizes.projection + (sizes.layers + 3) * sizes.units


def check(a: Inputs, flag: Any) -> None:
    """Raise ValueError unless shapes and dtypes fit; kernels read the inputs unchecked.

    A length that a graph does not know yet, None, fits any.

    Args:
        a: the inputs.
        flag: the framework's boolean dtype.
    """
    steps, batch, units = a.x.shape
    sizes = sizes_of(a)
    one, wide, layers = units // sizes.blocks, sizes.projection, sizes.layers
    wanted: Any = Inputs(
        (units, wide), (wide,), (wide,),
        (sizes.blocks, one, one), (wide, units),
        (sizes.blocks, one, (layers - 1) * one), ((layers - 1) * units,), (layers * units,),
        (sizes.blocks, one, 3 * one), (3 * units,),
        (steps, batch, units), (batch, units), (steps, batch), (steps, batch),
    )  # fmt: skip
    if steps == 0 or units % sizes.blocks or (layers > 1) != (a.layer_kernel is not None):
        raise ValueError(
            f"A block GRU has one step or more, and its units divide into the blocks; got "
            f"{sizes} and x of the shape {tuple(a.x.shape)}: pass what fits."
        )
    for name, array, shape in zip(Inputs._fields, a, wanted, strict=True):
        if array is None:
            continue
        if not fits(array.shape, shape):
            raise ValueError(
                f"{name} has the shape {shape} beside x {tuple(a.x.shape)}; got "
                f"{tuple(array.shape)}: pass what fits."
            )
        if array.dtype != (flag if name in ("mask", "reset") else a.x.dtype):
            raise ValueError(
                f"The inputs of a recurrence are of one dtype, flags bool; got {name} "
                f"{array.dtype} beside {a.x.dtype}: convert it."
            )
