"""What a fused recurrence takes, of every engine that has one.

An engine computes all of a sequence and its derivative itself: weights, inputs and states go in,
and the framework sees one operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

Array = Any


class Inputs(NamedTuple):
    """The arrays of a forward pass, weights first; None is one that is absent."""

    kernel: Array
    recurrent: Array
    bias_x: Array | None
    bias_h: Array | None
    gain_x: Array | None
    shift_x: Array | None
    gain_h: Array | None
    shift_h: Array | None
    gain_sum: Array | None
    shift_sum: Array | None
    gain_c: Array | None
    shift_c: Array | None
    peephole: Array | None
    gain_pre: Array | None
    shift_pre: Array | None
    gain_hidden: Array | None
    shift_hidden: Array | None
    projection: Array | None
    projection_bias: Array | None
    x: Array
    h0: Array
    c0: Array | None
    reset_h: Array | None
    reset_c: Array | None
    mask: Array | None
    reset: Array | None
    take_h: Array | None
    take_c: Array | None
    recurrent_mask: Array | None
    candidate_mask: Array | None


WEIGHTS = Inputs._fields[: Inputs._fields.index("x")]
VECTORS = WEIGHTS[2 : WEIGHTS.index("peephole")]
DIFFERENTIABLE = (*WEIGHTS, "x", "h0", "c0", "reset_h", "reset_c")
FLAGS = ("mask", "reset")
HALVES = ("bfloat16", "float16")
INCOMING = ("dh", "dh_last", "dc_last")


class Numbers(NamedTuple):
    """The scalars of a call.

    Args:
        take_h: zoneout, the share of the new h, where it is one number.
        take_c: the same of c.
        epsilon: of the norms.
        clip: bound on the derivatives that return at each step; 0 is none.
        cell_clip: bound on the cell, or on the new h of a cell without; 0 is none.
        hidden_clip: bound on the h that enters; 0 is none.
        projection_clip: bound on the projected h; 0 is none.
    """

    take_h: float = 1.0
    take_c: float = 1.0
    epsilon: float = 1e-5
    clip: float = 0.0
    cell_clip: float = 0.0
    hidden_clip: float = 0.0
    projection_clip: float = 0.0


class Taken(NamedTuple):
    """What the operator of a recurrence takes.

    Args:
        inputs: a tuple of its arrays by name; those that may have a gradient come before `mask`.
        numbers: one of its scalars.
        always: names of the arrays that are never absent.
    """

    inputs: Any
    numbers: Any
    always: tuple[str, ...]

    def of(self, numbers: Sequence[float], arrays: Sequence[Array | None]) -> tuple[Any, Any]:
        """Both by their names."""
        return self.numbers(*numbers), self.inputs(*arrays)


VARIANTS = Taken(Inputs, Numbers, ("kernel", "recurrent", "x", "h0"))


class Passes(Protocol):
    """What the passes of a call give."""

    @property
    def results(self) -> tuple[str, ...]:
        """What a forward pass gives; h first."""
        ...

    @property
    def kept(self) -> tuple[str, ...]:
        """What it keeps for its backward pass."""
        ...

    @property
    def differentiable(self) -> tuple[str, ...]:
        """The inputs that may have a gradient."""
        ...

    @property
    def needs_dx(self) -> bool:
        """Whether the gradients of weights are made from that of x."""
        ...


class Shape(Protocol):
    """What the shapes of arrays depend on, hashable."""

    @property
    def gates(self) -> int:
        """G."""
        ...

    @property
    def lstm(self) -> bool:
        """Whether there is a c."""
        ...

    @property
    def diagonal(self) -> bool:
        """Whether h is multiplied by a vector and not by a matrix."""
        ...


def check(cell: Shape, a: Inputs, flag: Any, single: Any) -> None:
    """Raise ValueError unless shapes and dtypes fit; kernels read the inputs unchecked.

    A length that a graph does not know yet, None, fits any.

    Args:
        cell: the cell.
        a: the inputs.
        flag: the framework's boolean dtype.
        single: its float32, in which all else is where x is of half precision.
    """
    _check(cell, flag, single, *[None if t is None else (t.shape, t.dtype) for t in a])


def inputs_of(kind: Any, names: Sequence[str], arrays: Sequence[Array]) -> Any:
    """The inputs, a tuple by name of this kind, among arrays of these names."""
    given = dict(zip(names, arrays, strict=True))
    return kind(*map(given.get, kind._fields))


def dtype_name(dtype: Any) -> str:
    """The name of a framework's dtype."""
    return getattr(dtype, "name", str(dtype).rpartition(".")[2])


def fits(shape: Sequence[int | None], wanted: Sequence[int | None]) -> bool:
    """Whether a shape is the one wanted, as far as a graph knows them."""
    return len(shape) == len(wanted) and all(
        a == b or None in (a, b) for a, b in zip(shape, wanted, strict=True)
    )


def check_ranks(x: Any, kernel: Any) -> None:
    """Raise ValueError unless these shapes have as many dimensions as x and W have."""
    if len(x) != 3 or len(kernel) != 2:
        raise ValueError(
            f"x has the shape (T, B, I) and kernel (I, G H); got {tuple(x)} and {tuple(kernel)}."
        )


@lru_cache(maxsize=1024)
def _check(cell: Shape, flag: Any, single: Any, *given: tuple[tuple[int, ...], Any] | None) -> None:
    a = Inputs(*given)
    check_ranks(a.x[0], a.kernel[0])
    (steps, batch, inputs), dtype = a.x
    wide_dtype = single if dtype_name(dtype) in HALVES else dtype
    units = a.kernel[0][-1] // cell.gates
    wide = cell.gates * units
    hidden = a.h0[0][-1] if a.projection and a.h0[0] else units  # R
    sequence, state = (steps, batch, units), (batch, units)
    sequence_h, state_h = (steps, batch, hidden), (batch, hidden)
    joint = (inputs if None in (inputs, hidden) else inputs + hidden,)
    wanted: dict[str, tuple[tuple[int, ...], ...]] = {
        "kernel": ((inputs, wide),),
        "recurrent": ((units,) if cell.diagonal else (hidden, wide),),
        **dict.fromkeys(VECTORS, ((wide,),)),
        **dict.fromkeys(("gain_c", "shift_c"), ((units,),)),
        "peephole": (((cell.gates - 1) * units,),),
        **dict.fromkeys(("gain_pre", "shift_pre"), (joint,)),
        **dict.fromkeys(("gain_hidden", "shift_hidden", "projection_bias"), ((hidden,),)),
        "projection": ((units, hidden),),
        "x": ((steps, batch, inputs),),
        **dict.fromkeys(("h0", "reset_h"), (state_h,)),
        **dict.fromkeys(("c0", "reset_c"), (state,)),
        **dict.fromkeys(("mask", "reset"), ((steps, batch),)),
        "take_h": (sequence_h,),
        "take_c": (sequence,),
        "recurrent_mask": (state_h, sequence_h),
        "candidate_mask": (state, sequence),
    }
    for name, (shape, its_dtype) in ((n, g) for n, g in a._asdict().items() if g is not None):
        if not any(fits(shape, one) for one in wanted[name]):
            raise ValueError(
                f"{name} has the shape {' or '.join(map(str, wanted[name]))} at T={steps}, "
                f"B={batch}, I={inputs}, H={units}; got {tuple(shape)}."
            )
        if its_dtype != (flag if name in FLAGS else dtype if name == "x" else wide_dtype):
            raise ValueError(
                f"The inputs of a recurrence are of one dtype, flags bool; got {name} "
                f"{its_dtype} beside {dtype}: convert it."
            )
    if steps == 0 or (cell.lstm and a.c0 is None):
        raise ValueError(f"A recurrence has one step or more and its states; got T={steps}.")
