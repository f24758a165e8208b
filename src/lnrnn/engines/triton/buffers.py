"""The arrays of a pass as PyTorch's tensors, and its products.

See [lnrnn.engines.triton.arrays][] for their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from torch.nn.functional import pad

from lnrnn.engines.fused.call import Inputs, Numbers
from lnrnn.engines.triton import arrays, choose, prepare
from lnrnn.engines.triton.arrays import Kept, Sizes
from lnrnn.engines.triton.cell import constants
from lnrnn.engines.triton.describe import Cell, describe
from lnrnn.variant import Variant

# of what is kept those that are what else a forward pass makes
MADE = ("gates", "projected", "of_inputs", "u", "w", "vectors")


def kind(like: Tensor) -> choose.Kind:
    """Of products; those of float32 use TF32 where PyTorch's own switch allows it."""
    tf32 = torch.get_float32_matmul_precision() != "highest"
    return choose.kind(str(like.dtype).removeprefix("torch."), tf32)


def shapes(c: Cell, like: Tensor) -> Kept:
    """Of the arrays that a forward pass keeps for x."""
    return arrays.shapes(c, Sizes(*like.shape), like.dtype != torch.float32)


def kept(c: Cell, like: Tensor, single: Tensor, keep: bool, but: Sequence[str] = ()) -> Kept:
    """The arrays of a forward pass for its backward pass, not yet filled; like x, and float32.

    Those named by `but`, and all where nothing is kept, are empty.
    """
    return Kept(
        *(
            (single if name in arrays.OF_SINGLE else like).new_empty(
                shape if keep and name not in but else (0,)
            )
            for name, shape in shapes(c, like)._asdict().items()
        )
    )


def cell_of(variant: Variant, numbers: Numbers, a: Inputs, exact: bool) -> Cell:
    """What the kernels are compiled for."""
    factors = (a.recurrent_mask, a.candidate_mask)
    moving_h, moving_n = (f is not None and f.ndim == 3 for f in factors)
    return describe(
        variant,
        a.kernel.shape[1] // len(variant.gates),
        a.bias_h is not None,
        numbers.clip,
        1.0 if a.take_h is not None else numbers.take_h,
        1.0 if a.take_c is not None else numbers.take_c,
        moving_h,
        moving_n,
        exact,
    )


def filled(c: Cell, t: Tensor) -> Tensor:
    """(..., H) to a dense (..., K)."""
    return t.contiguous() if c.pitch == c.units else pad(t, (0, c.pitch - c.units))


def cut(c: Cell, t: Tensor) -> Tensor:
    """(..., K) to (..., H)."""
    return t if c.pitch == c.units else t[..., : c.units]


def joined(c: Cell, t: Tensor) -> Tensor:
    """(..., G, K) to (..., G H)."""
    return cut(c, t).flatten(-2)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b in float32."""
    if a.dtype == torch.float32:
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


class Weights(NamedTuple):
    """The weights of a call as kernels and products take them."""

    u: Tensor
    w: Tensor
    bias: Tensor | None
    vectors: Tensor


def weights(c: Cell, a: Inputs) -> Weights:
    """All of them, by one kernel."""
    inputs, like = a.kernel.shape[0], a.x
    wanted = shapes(c, like)
    u, w = like.new_empty(wanted.u), like.new_empty(wanted.w)
    vectors = a.recurrent.new_empty(wanted.vectors)
    shifted = not c.norms_inputs and (a.shift_x is not None or a.shift_h is not None)
    biased = a.bias_x is not None or shifted
    bias = like.new_empty((c.gates, c.pitch)) if biased else None
    options = choose.weights(c)
    of_u = 0 if c.diagonal else triton.cdiv(c.pitch, options.rows)
    of_w = triton.cdiv(inputs, options.rows) if w.numel() else 0
    given = (
        None if v is None else v.contiguous()
        for v in (
            a.bias_x, a.bias_h, a.gain_x, a.shift_x, a.gain_h, a.shift_h, a.gain_sum, a.shift_sum,
            a.gain_c, a.shift_c, a.gain_hidden, a.shift_hidden, a.peephole,
        )
    )  # fmt: skip
    recurrent = a.recurrent.contiguous() if c.diagonal else a.recurrent
    strides = (0, 1) if c.diagonal else recurrent.stride()
    prepare.weights[(of_u + of_w + 1,)](
        recurrent, a.kernel, *given, None if c.diagonal else u[0], u[1] if c.plain_u else None,
        w if of_w else None, bias, vectors, inputs, of_u, *strides, *a.kernel.stride(),
        C=constants(c), M=options.rows, num_warps=options.warps,
    )  # fmt: skip
    return Weights(u, w, bias, vectors)


def projecting(a: Inputs, w: Tensor) -> Tensor:
    """W (I, G K) as the product takes it."""
    return w.flatten(1) if w.numel() else a.kernel


class Entered(NamedTuple):
    """The h of every step as it entered its product, (T B, K) like x, and r times that or None."""

    h: Tensor
    gated: Tensor | None


def entered(c: Cell, a: Inputs, kept: Kept) -> Entered:
    """From what a forward pass has kept."""
    steps, batch, _ = a.x.shape
    rows = steps * batch
    h_all = kept.h_all[:-1].view(rows, c.pitch)
    before = c.reset == "before"
    if a.reset is None and a.recurrent_mask is None and not c.hidden_clip and not before:
        return Entered(h_all, None)
    into = h_all.new_empty(h_all.shape)
    gated = h_all.new_empty(h_all.shape) if before else None
    options = choose.parallel(c)
    prepare.entering[(triton.cdiv(rows, options.rows),)](
        h_all, flags(a.reset), state(a.reset_h),
        None if a.recurrent_mask is None else filled(c, a.recurrent_mask), kept.gates, into, gated,
        rows, batch, C=constants(c), M=options.rows, num_warps=options.warps,
    )  # fmt: skip
    return Entered(into, gated)


def flags(t: Tensor | None) -> Tensor | None:
    """Booleans as dense bytes."""
    return None if t is None else t.contiguous().view(torch.uint8)


def state(t: Tensor | None) -> Tensor | None:
    """(B, H), dense."""
    return None if t is None else t.contiguous()
