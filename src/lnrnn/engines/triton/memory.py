"""How tiles lie in memory: rows of gates, vectors, what one step takes besides."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from lnrnn.engines.triton.choose import Kind


def products(kind: Kind) -> dict[str, Any]:
    """What a kernel with products is compiled for."""
    return dict(DT=getattr(tl, kind.dtype), PRECISION=kind.precision)


@triton.jit
def load_gates(C: tl.constexpr, at, m, first: tl.constexpr, last: tl.constexpr):
    """Tiles in float32 of the gates [first, last), from pointers to gate 0."""
    v = ()
    for g in tl.static_range(first, last):
        v = v + (tl.load(at + g * C.pitch, m, 0.0).to(tl.float32),)
    return v


@triton.jit
def store_gates(C: tl.constexpr, at, v, m, n: tl.constexpr):
    for g in tl.static_range(n):
        tl.store(at + g * C.pitch, v[g], m)


@triton.jit
def vectors(C: tl.constexpr, VECTORS, cols):
    """Bias of h U, gain and shift of the recurrent norms, by gate, (1, block) each.

    Zero stands for a vector that the cell does not use.
    """
    G: tl.constexpr = C.gates
    known = cols < C.pitch
    bias, gain, shift = (), (), ()
    for g in tl.static_range(G):
        at = VECTORS + g * C.pitch + cols
        if C.bias_h:
            bias = bias + (tl.load(at, known, 0.0)[None, :],)
        else:
            bias = bias + (0.0,)
        if C.groups[g] >= 0:
            gain = gain + (tl.load(at + G * C.pitch, known, 0.0)[None, :],)
        else:
            gain = gain + (0.0,)
        if C.summed[g] or (C.groups[g] >= 0 and C.reset == "after" and g == G - 1):
            shift = shift + (tl.load(at + 2 * G * C.pitch, known, 0.0)[None, :],)
        else:
            shift = shift + (0.0,)
    return bias, gain, shift


@triton.jit
def state_vectors(C: tl.constexpr, VECTORS, cols):
    """(1, block) each, or 0: gain and shift of the cell's norm, of the hidden norm, peepholes of
    i, f and o."""
    at = VECTORS + 3 * C.gates * C.pitch + cols
    known = cols < C.pitch
    found = ()
    for i in tl.static_range(7):
        if (
            (i < 2 and C.cell_norm != "none")
            or (i >= 2 and i < 4 and C.hidden_norm)
            or (i >= 8 - C.gates and C.peepholes != "none")
        ):
            found = found + (tl.load(at + i * C.pitch, known, 0.0)[None, :],)
        else:
            found = found + (0.0,)
    return found


@triton.jit
def recurrent_vector(C: tl.constexpr, VECTORS, cols):
    """What multiplies h where that is a vector, (1, block)."""
    at = VECTORS + (3 * C.gates + 7) * C.pitch + cols
    return tl.load(at, cols < C.pitch, 0.0)[None, :]


@triton.jit
def factor(AT, at, m):
    """A tile of a factor that may be absent, which is 1."""
    if AT is None:
        return 1.0
    else:
        return tl.load(AT + at, m, 0.0).to(tl.float32)


@triton.jit
def zoned_out(TAKE, at, m, number: tl.constexpr, old, new):
    """The state after zoneout: old + take (new - old)."""
    if TAKE is not None:
        return old + tl.load(TAKE + at, m, 0.0).to(tl.float32) * (new - old)
    elif number != 1.0:
        return old + number * (new - old)
    else:
        return new


@triton.jit
def zoned_out_back(TAKE, at, m, number: tl.constexpr, d):
    """Gradients of the new and of the old state."""
    if TAKE is not None:
        new = tl.load(TAKE + at, m, 0.0).to(tl.float32) * d
        return new, d - new
    elif number != 1.0:
        return number * d, d - number * d
    else:
        return d, 0.0 * d


@triton.jit
def flag(AT, at, m):
    """A column (M, 1) of a mask of rows, in the rows of m."""
    return tl.load(AT + at, m, 0) != 0


@triton.jit
def product(C: tl.constexpr, a, b, DT: tl.constexpr, PRECISION: tl.constexpr):
    """a b of rounded operands, accumulated in float32."""
    a = a.to(DT)
    if C.exact:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def no_sums(C: tl.constexpr, like):
    """Tiles of zeros, in which gradients of vectors of states add up row by row."""
    found = ()
    for _ in tl.static_range(tl.constexpr(C.sums)):
        found = found + (0.0 * like,)
    return found


@triton.jit
def added_sums(C: tl.constexpr, a, b):
    found = ()
    for i in tl.static_range(tl.constexpr(C.sums)):
        found = found + (a[i] + b[i],)
    return found


@triton.jit
def store_sums(C: tl.constexpr, SUMS, program, sums, cols):
    """The sums over the rows of a program, into SUMS (programs, sums, pitch)."""
    at = SUMS + program.to(tl.int64) * (C.sums * C.pitch) + cols
    wide = cols < C.pitch
    for i in tl.static_range(tl.constexpr(C.sums)):
        tl.store(at + i * C.pitch, tl.sum(sums[i], 0), wide)
