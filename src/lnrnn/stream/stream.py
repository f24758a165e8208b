"""The stream: weights packed once, states kept from call to call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lnrnn.convert import Checkpoint
from lnrnn.convert.file import contents
from lnrnn.convert.safetensors import pieces
from lnrnn.engines.native import core
from lnrnn.stream.source import checkpoint_of

Array = np.ndarray
State = tuple[tuple[Array, ...], ...]

# in the order of `Form` in csrc/core/stream.h
FORMS = ("float32", "bfloat16", "int8")


class Stream:
    r"""A stack of recurrent layers that advances step by step, on one thread of the CPU.

    A step computes what the layers compute in inference, by the code of the native engine, and
    with float32 weights gives the same bits as a sequence.  With `"bfloat16"` each element of the
    two kernels is rounded to 8 significant bits; with `"int8"` to $k s_j$ with a whole $|k| \le
    127$ and $s_j$ a 127th of the largest magnitude of column $j$, and what enters a product is
    rounded alike with one scale for a row, at each step.  Norms, biases, gates and states are
    float32 in all three.

    Args:
        source: path of a file that [lnrnn.save][lnrnn.convert.save] or `lnrnn convert` wrote; a
            layer, cell or stack of `lnrnn.torch` or `lnrnn.keras`, or a model of nothing but such
            layers; [Weights][lnrnn.convert.Weights], or a list of them.  Its weights are copied.
        batch: rows B that advance together.
        weights: how the kernels are stored: `"float32"`, `"bfloat16"` (half of the memory) or
            `"int8"` (a quarter).

    Returns:
        The call on x (B, I) returns the output y (B, R) of the last layer after one step, and on
        a block of steps (T, B, I) all outputs (T, B, R).  With `out=`, an array of that shape, it
        writes into it and returns it, and allocates nothing.  x is float32.

    Raises:
        ValueError: layers of both directions, another layer in a model; and in a call, another
            shape or dtype than these.

    Example:
        >>> import numpy as np
        >>> from lnrnn.torch import LayerNormLSTM
        >>> stream = Stream(LayerNormLSTM(3, 5, num_layers=2))
        >>> y = stream(np.ones((1, 3), np.float32))
        >>> stream.reset()
        >>> stream(np.ones((4, 1, 3), np.float32)).shape
        (4, 1, 5)
    """

    def __init__(self, source: Any, batch: int = 1, weights: str = "float32") -> None:
        if weights not in FORMS:
            raise ValueError(f"weights is one of {', '.join(map(repr, FORMS))}; got {weights!r}.")
        if isinstance(batch, bool) or not isinstance(batch, (int, np.integer)) or batch < 1:
            raise ValueError(f"batch is a whole number, 1 or more; got {batch!r}.")
        found = checkpoint_of(source)
        file = b"".join(pieces(*contents(Checkpoint(dict(found)), {})))
        self._core = core.stream(file, int(batch), FORMS.index(weights))
        self._shapes = [
            ((int(batch), layer.sizes.hidden), (int(batch), layer.sizes.units))[
                : len(layer.variant.states)
            ]
            for layer in found.values()
        ]
        self.batch = int(batch)
        self.weights = weights
        self.inputs: int = self._core.inputs
        self.outputs: int = self._core.outputs

    def __call__(self, x: Array, out: Array | None = None) -> Array:
        """Advance by one step, or by a block of them."""
        if out is None:
            x = np.ascontiguousarray(x)
            out = np.empty((*x.shape[:-1], self.outputs), np.float32)
        self._core(x, out)
        return out

    def reset(self, rows: int | Sequence[int] | Array | None = None) -> None:
        """Set states to what they are at the start: learned ones, otherwise zeros.

        Args:
            rows: the rows of the batch, by number, or as flags (B,); None is all.

        Raises:
            ValueError: a row that the batch has not.

        Example:
            >>> from lnrnn.keras import LayerNormGRU
            >>> layer = LayerNormGRU(4)
            >>> layer.build((None, None, 3))
            >>> stream = Stream(layer, batch=3)
            >>> stream.reset(2)
            >>> stream.reset(np.array([True, False, True]))
        """
        if rows is None:
            self._core.reset(list(range(self.batch)))
            return
        chosen = np.atleast_1d(np.asarray(rows))
        if chosen.dtype == bool and chosen.shape == (self.batch,):
            chosen = np.flatnonzero(chosen)
        elif chosen.size == 0:
            chosen = chosen.astype(np.int64)
        fits = chosen.ndim == 1 and chosen.dtype.kind in "iu"
        if not fits or any(not 0 <= row < self.batch for row in chosen.tolist()):
            raise ValueError(
                f"rows are numbers from 0 to {self.batch - 1}, or {self.batch} flags; got "
                f"{str(rows)[:60]}."
            )
        self._core.reset(chosen.tolist())

    @property
    def state(self) -> State:
        """A copy of the states: for each layer (h,), or of an LSTM (h, c): h (B, R), c (B, H).

        May be set, from arrays of these shapes.
        """
        found = tuple(tuple(np.empty(s, np.float32) for s in shapes) for shapes in self._shapes)
        self._core.states([array for layer in found for array in layer], False)
        return found

    @state.setter
    def state(self, state: Sequence[Sequence[Array]]) -> None:
        given = [len(layer) for layer in state]
        wanted = [len(layer) for layer in self._shapes]
        if given != wanted:
            raise ValueError(
                f"A state has {wanted} arrays for the layers, h and of an LSTM c; got {given}."
            )
        self._core.states([np.ascontiguousarray(a) for layer in state for a in layer], True)

    @property
    def nbytes(self) -> int:
        """Bytes of weights, states and scratch."""
        return self._core.nbytes

    def __repr__(self) -> str:
        return (
            f"Stream({len(self._shapes)} layers, I={self.inputs}, R={self.outputs}, "
            f"batch={self.batch}, weights={self.weights!r})"
        )
