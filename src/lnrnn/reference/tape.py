"""A tape of parts: each records its value and how its gradient goes back.

For cells whose steps are long chains of few kinds of parts.  A part is a function of values on
one tape; [Tape.back][lnrnn.reference.tape.Tape.back] runs the recorded derivatives backwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lnrnn.params import sizes_of
from lnrnn.reference.cells import lstm_step
from lnrnn.reference.norm import Array, standardise
from lnrnn.reference.parts import Cell, Totals, clip
from lnrnn.variant import Variant


class Value:
    """An array on a tape, with the gradient of the loss once the tape has run back."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.gradient = np.zeros_like(array)


class Tape:
    """Parts in the order in which they were computed."""

    def __init__(self) -> None:
        self._backs: list[Callable[[], None]] = []

    def back(self) -> None:
        """Run all derivatives, from the last part to the first."""
        for back in reversed(self._backs):
            back()

    def _part(self, array: Array, back: Callable[[Array], Sequence[tuple[Value, Array]]]) -> Value:
        new = Value(array)

        def run() -> None:
            for value, gradient in back(new.gradient):
                value.gradient = value.gradient + gradient

        self._backs.append(run)
        return new

    def add(self, a: Value, b: Value, sign: float = 1.0) -> Value:
        """a + b or, with sign -1, a - b; b may lack leading axes."""
        return self._part(
            a.array + sign * b.array, lambda d: ((a, d), (b, sign * _summed(d, b.array)))
        )

    def times(self, a: Value, b: Value) -> Value:
        """a b element by element; b may lack leading axes."""
        return self._part(
            a.array * b.array,
            lambda d: ((a, d * b.array), (b, _summed(d * a.array, b.array))),
        )

    def scaled(self, a: Value, factor: Array | float, shift: float = 0.0) -> Value:
        """factor a + shift, of constants."""
        return self._part(factor * a.array + shift, lambda d: ((a, factor * d),))

    def product(self, v: Value, kernel: Value) -> Value:
        """v (B, m) times kernel (m, n)."""
        return self._part(
            v.array @ kernel.array,
            lambda d: ((v, d @ kernel.array.T), (kernel, v.array.T @ d)),
        )

    def block_product(self, v: Value, kernel: Value) -> Value:
        """Each block of v (B, K, m) times its own of kernel (K, m, n)."""
        return self._part(
            np.einsum("bkm,kmn->bkn", v.array, kernel.array),
            lambda d: (
                (v, np.einsum("bkn,kmn->bkm", d, kernel.array)),
                (kernel, np.einsum("bkm,bkn->kmn", v.array, d)),
            ),
        )

    def reshape(self, v: Value, *shape: int) -> Value:
        """v in another shape."""
        return self._part(v.array.reshape(shape), lambda d: ((v, d.reshape(v.array.shape)),))

    def join(self, parts: Sequence[Value]) -> Value:
        """The parts side by side along the last axis."""
        ends = np.cumsum([p.array.shape[-1] for p in parts])[:-1]
        return self._part(
            np.concatenate([p.array for p in parts], -1),
            lambda d: tuple(zip(parts, np.split(d, ends, -1), strict=True)),
        )

    def below(self, a: Value, b: Value) -> Value:
        """The rows of a, then those of b."""
        cut = len(a.array)
        return self._part(
            np.concatenate([a.array, b.array]), lambda d: ((a, d[:cut]), (b, d[cut:]))
        )

    def repeat(self, v: Value, times: int) -> Value:
        """(B, n) to (B, times, n)."""
        return self._part(np.repeat(v.array[:, None], times, 1), lambda d: ((v, d.sum(1)),))

    def split(self, v: Value, parts: int) -> list[Value]:
        """The last axis cut into parts of one size."""
        size = v.array.shape[-1] // parts

        def one(where: slice) -> Value:
            def back(d: Array) -> Sequence[tuple[Value, Array]]:
                whole = np.zeros_like(v.array)
                whole[..., where] = d
                return ((v, whole),)

            return self._part(v.array[..., where], back)

        return [one(slice(k * size, (k + 1) * size)) for k in range(parts)]

    def standardised(self, v: Value, variant: Variant) -> Value:
        """Each row centred (of a layer norm) and scaled."""
        norm = standardise(v.array, variant)
        return self._part(norm.u, lambda d: ((v, norm.back(d)),))

    def clipped(self, v: Value, bound: float | None) -> Value:
        """Each element within a bound, where there is one."""
        array, open_at = clip(v.array, bound)
        return self._part(array, lambda d: ((v, d * open_at),))

    def lstm(
        self, variant: Variant, weights: Mapping[str, Value], x: Value, h: Value, c: Value
    ) -> tuple[Value, Value]:
        """The new h and c of one step of an LSTM, of [lnrnn.reference.cells][]."""
        arrays = {name: weight.array for name, weight in weights.items()}
        cell = Cell(variant, arrays, sizes_of(variant, arrays))
        ones = np.ones_like(h.array), np.ones_like(c.array)
        step = lstm_step(cell, x.array, h.array, c.array, *ones)
        new_h, new_c = Value(step.h), Value(step.c)

        def run() -> None:
            totals = Totals({name: np.zeros_like(array) for name, array in arrays.items()}, None)
            gradients = step.back(new_h.gradient, new_c.gradient, totals)
            for value, gradient in zip((x, h, c), gradients, strict=True):
                value.gradient = value.gradient + gradient
            for name, weight in weights.items():
                weight.gradient = weight.gradient + totals.params[name]

        self._backs.append(run)
        return new_h, new_c

    def activated(self, v: Value, name: str) -> Value:
        """A function of each element."""
        array, slope = _ACTIVATIONS[name](v.array)
        return self._part(array, lambda d: ((v, d * slope),))


def _summed(d: Array, like: Array) -> Array:
    """A gradient summed over the leading axes that its array lacks."""
    return d.sum(tuple(range(d.ndim - like.ndim)))


def _sigmoid(v: Array) -> tuple[Array, Array]:
    y = 0.5 * (1 + np.tanh(0.5 * v))
    return y, y * (1 - y)


def _tanh(v: Array) -> tuple[Array, Array]:
    y = np.tanh(v)
    return y, 1 - y**2


def _silu(v: Array) -> tuple[Array, Array]:
    y, slope = _sigmoid(v)
    return v * y, y + v * slope


def _gelu(v: Array) -> tuple[Array, Array]:
    scale = np.sqrt(2 / np.pi)
    y, slope = _tanh(scale * (v + 0.044715 * v**3))
    return 0.5 * v * (1 + y), 0.5 * (1 + y) + 0.5 * v * slope * scale * (1 + 0.134145 * v**2)


_ACTIVATIONS: dict[str, Callable[[Array], tuple[Any, Any]]] = {
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "silu": _silu,
    "gelu": _gelu,
}
