"""The arrays of the kernels.

Letters: T time, B batch, I inputs, G gates, and K = pitch, H filled up with zeros to a multiple of
16.  "like x" is the dtype of x, all else is float32.

| name | shape | what it is |
|---|---|---|
| P | (T, B, G, K) like x | the input part of each gate; a saving kernel leaves the gates there |
| U | (K, G, K) like x | centred over each group of a layer norm, as its bias is |
| PLAIN | the same | not centred, where a limit on derivatives wants it |
| W, BIAS | (I, G, K), (G, K) like x | what makes x W, and what is added to it; or None |
| VECTORS | (5 G + 8, K) | bias of h U, gain and shift of recurrent norms; of states; the vector \
in place of U; gain and shift of inputs |
| H0, C0, H_LAST, C_LAST | (B, H) | the initial states, the last ones |
| RESET_H, RESET_C | (B, H) | what resets go to, or None |
| MASK, RESET | (T, B) | bytes, or None |
| TAKE_H, TAKE_C | (T, B, K) | zoneout, or None |
| FACTOR_H, FACTOR_N | (B, K) or (T, B, K) | dropout of h, of the candidate, or None |
| OUT, DH_ALL | (T, B, H) like x | all h, and their gradients or None |
| H_ALL | (T + 1, B, K) like x | the states h, the initial one first |
| C_ALL | (T + 1, B, K) | the states c of an lstm |
| N | (T, B, G, K) like x | the normed values u of the recurrent norms |
| A | (T, B, K) like x | what r multiplies |
| S | (T, statistics, B) | 1 / s of each group; mean and 1 / s of the cell's and hidden norm |
| D | (T, B, G, K) like x | gradients of the pre-activations |
| SUMS | (programs, sums, K) | of the rows of a program, gradients of the vectors of states |
"""

from __future__ import annotations

from typing import Any, NamedTuple

from lnrnn.engines.triton.describe import Cell

Array = Any


class Sizes(NamedTuple):
    """Of a call: T, B and I."""

    steps: int
    batch: int
    inputs: int


class Kept(NamedTuple):
    """What a forward pass keeps for its backward pass; empty tensors where a cell has none."""

    h_all: Any
    c_all: Any
    gates: Any
    normed: Any
    gated: Any
    statistics: Any
    projected: Any
    of_inputs: Any
    u: Any
    w: Any
    vectors: Any


# of what is kept that in float32
OF_SINGLE = ("c_all", "statistics", "of_inputs", "vectors")


def shapes(c: Cell, sizes: Sizes, half: bool) -> Kept:
    """Of the arrays that a forward pass keeps, where x is of half precision or not."""
    steps, batch, inputs = sizes
    rows, gates = (steps, batch, c.pitch), (steps, batch, c.gates, c.pitch)
    return Kept(
        h_all=(steps + 1, batch, c.pitch),
        c_all=(steps + 1, batch, c.pitch) if c.lstm else (0,),
        gates=gates,
        normed=gates if c.norms else (0,),
        gated=rows if c.gated else (0,),
        statistics=(steps, c.statistics, batch),
        projected=(steps * batch, c.gates * c.pitch) if c.x_norms else (0,),
        of_inputs=(2 * c.x_norms, steps * batch),
        u=(0,) if c.diagonal else (1 + c.plain_u, c.pitch, c.gates, c.pitch),
        # where a product takes W as it lies there is no other
        w=(inputs, c.gates, c.pitch) if c.pitch != c.units or half else (0,),
        vectors=(5 * c.gates + 8, c.pitch),
    )


class Extras(NamedTuple):
    """What a step may take besides."""

    mask: Array | None
    reset: Array | None
    reset_h: Array | None
    reset_c: Array | None
    take_h: Array | None
    take_c: Array | None
    factor_h: Array | None
    factor_n: Array | None


class Forward(NamedTuple):
    """The arrays of a forward pass."""

    p: Array
    u: Array
    vectors: Array
    h0: Array
    c0: Array | None
    h_last: Array
    c_last: Array
    extras: Extras
    out: Array
    h_all: Array
    c_all: Array
    normed: Array
    gated: Array
    statistics: Array

    def listed(self) -> tuple[Any, ...]:
        """In the order of the kernels' arguments."""
        return (*self[:7], *self.extras, *self[8:])


class Backward(NamedTuple):
    """The arrays of a backward pass."""

    gates: Array
    u: Array
    vectors: Array
    extras: Extras
    h_all: Array
    c_all: Array
    normed: Array
    gated: Array
    statistics: Array
    dh_all: Array | None
    dh_last: Array | None
    dc_last: Array | None
    dh: Array
    dc: Array
    dreset_h: Array | None
    dreset_c: Array | None
    d: Array

    def listed(self) -> tuple[Any, ...]:
        """In the order of the kernels' arguments."""
        return (*self[:3], *self.extras, *self[4:])
