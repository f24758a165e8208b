"""The loops over time: the same arrays in and out, by one of the kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lnrnn.engines.triton import buffers, choose, divide, rows, tile
from lnrnn.engines.triton.cell import constants
from lnrnn.engines.triton.describe import Cell

_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


class Extras(NamedTuple):
    """What a step may take besides."""

    mask: Tensor | None
    reset: Tensor | None
    take_h: Tensor | None
    take_c: Tensor | None
    factor_h: Tensor | None
    factor_n: Tensor | None


class Forward(NamedTuple):
    """The arrays of a forward pass, see [lnrnn.engines.triton.buffers][]."""

    p: Tensor
    u: Tensor
    vectors: Tensor
    h_last: Tensor
    c_last: Tensor
    extras: Extras
    h_all: Tensor
    c_all: Tensor
    normed: Tensor
    gated: Tensor
    statistics: Tensor


class Backward(NamedTuple):
    """The arrays of a backward pass."""

    gates: Tensor
    ut: Tensor
    vectors: Tensor
    extras: Extras
    h_all: Tensor
    c_all: Tensor
    normed: Tensor
    gated: Tensor
    statistics: Tensor
    dh_all: Tensor | None
    dh: Tensor
    dc: Tensor
    d: Tensor


def forward(c: Cell, a: Forward, save: bool) -> None:
    """Fill h_all, the last states, and where asked what a backward pass takes."""
    if choose.fits_tile(c, a.p.dtype, _shared(a.p)):
        _tile_forward(c, a, save)
    elif tiles := _split_of(c, a.p):
        divide.forward(
            c, tiles,
            (a.p, a.u, a.vectors, a.h_last, a.c_last, *a.extras, a.h_all, a.c_all, a.normed,
             a.gated, a.statistics),
            DT=_TYPES[a.p.dtype], PRECISION=choose.precision(a.p.dtype), SAVE=save,
        )  # fmt: skip
    else:
        _rows_forward(c, a, save)


def backward(c: Cell, a: Backward) -> Tensor:
    """Fill d, dh and dc; the gradients of gains and shifts of the states' norms, (4, K)."""
    dtype = a.gates.dtype
    if choose.fits_tile(c, dtype, _shared(a.gates)):
        sums = _tile_backward(c, a)
    elif tiles := _split_of(c, a.gates, back=True):
        sums = a.dh.new_empty((-(-a.gates.shape[1] // tiles.rows), 4, c.pitch))
        divide.backward(
            c, tiles,
            (a.gates, a.ut, a.vectors, *a.extras, a.h_all, a.c_all, a.normed, a.gated,
             a.statistics, a.dh_all, a.dh, a.dc, a.d, sums),
            DT=_TYPES[dtype], PRECISION=choose.precision(dtype),
        )  # fmt: skip
    else:
        sums = _rows_backward(c, a)
    return sums.sum(0)


def _shared(like: Tensor) -> int:
    """Bytes of memory on chip that a program may have; any number where kernels are interpreted."""
    if not like.is_cuda:
        return 1 << 30
    return torch.cuda.get_device_properties(like.device).shared_memory_per_block_optin


def _split_of(c: Cell, rows_of_gates: Tensor, back: bool = False) -> choose.Split | None:
    like = rows_of_gates
    if not like.is_cuda:
        return None
    processors = torch.cuda.get_device_properties(like.device).multi_processor_count
    return choose.split(c, like.dtype, like.shape[1], processors, _shared(like), back)


def _options(c: Cell, tiles: choose.Tile) -> dict[str, Any]:
    return dict(C=constants(c), M=tiles.rows, num_warps=tiles.warps, num_stages=1)


def _tile_forward(c: Cell, a: Forward, save: bool) -> None:
    steps, batch = a.p.shape[:2]
    tiles = choose.tile(c, a.p.dtype)
    tile.forward[(triton.cdiv(batch, tiles.rows),)](
        a.p, a.u, a.vectors, a.h_last, a.c_last, *a.extras, a.h_all, a.c_all, a.normed, a.gated,
        a.statistics, steps, batch, DT=_TYPES[a.p.dtype], PRECISION=choose.precision(a.p.dtype),
        SAVE=save, **_options(c, tiles),
    )  # fmt: skip


def _tile_backward(c: Cell, a: Backward) -> Tensor:
    steps, batch = a.gates.shape[:2]
    tiles = choose.tile(c, a.gates.dtype, back=True)
    programs = triton.cdiv(batch, tiles.rows)
    sums = a.dh.new_empty((programs, 4, c.pitch))
    dtype = a.gates.dtype
    tile.backward[(programs,)](
        a.gates, a.ut, a.vectors, *a.extras, a.h_all, a.c_all, a.normed, a.gated, a.statistics,
        a.dh_all, a.dh, a.dc, a.d, sums, steps, batch, DT=_TYPES[dtype],
        PRECISION=choose.precision(dtype), **_options(c, tiles),
    )  # fmt: skip
    return sums


def _rows_forward(c: Cell, a: Forward, save: bool) -> None:
    steps, batch = a.p.shape[:2]
    like = a.p
    u = a.u.view(c.pitch, -1).to(like.dtype)
    early = c.early * c.pitch
    first, last = u[:, :early], u[:, early:]
    into = like.new_empty((batch, c.pitch))
    gated_into = torch.empty_like(into)
    tiles = choose.rows(c)
    grid, options = (triton.cdiv(batch, tiles.rows),), _options(c, tiles)
    rows.begin[grid](a.h_last, a.extras.reset, a.extras.factor_h, into, batch, **options)

    def step(t: int, product: Tensor, part: str) -> None:
        rows.forward[grid](
            product, into, gated_into, a.p, a.vectors, a.h_last, a.c_last, *a.extras, a.h_all,
            a.c_all, a.normed, a.gated, a.statistics, t, steps, batch, SAVE=save, PART=part,
            **options,
        )  # fmt: skip

    for t in range(steps):
        product = buffers.product(into, first)
        if c.reset == "before":
            step(t, product, "early")
            step(t, buffers.product(gated_into, last), "late")
        else:
            step(t, product, "all")


def _rows_backward(c: Cell, a: Backward) -> Tensor:
    steps, batch = a.gates.shape[:2]
    like = a.gates
    ut = a.ut.view(-1, c.pitch).to(like.dtype)
    early = c.early * c.pitch
    ds = like.new_empty((batch, early))
    ds_n = like.new_empty((batch, c.pitch))
    direct, held, product = (torch.zeros_like(a.dh) for _ in range(3))
    tiles = choose.rows(c)
    programs = triton.cdiv(batch, tiles.rows)
    grid, options = (programs,), _options(c, tiles)
    sums = a.dh.new_zeros((programs, 4, c.pitch))

    def step(t: int, product: Tensor, ds: Tensor, part: str) -> None:
        rows.backward[grid](
            product, direct, held, ds, a.gates, a.vectors, *a.extras, a.h_all, a.c_all, a.normed,
            a.gated, a.statistics, a.dh_all, a.dh, a.dc, a.d, sums, t, steps, batch, PART=part,
            **options,
        )  # fmt: skip

    for t in reversed(range(steps)):
        if c.reset == "before":
            step(t, product, ds_n, "late")
            step(t, buffers.product(ds_n, ut[early:]), ds, "early")
        else:
            step(t, product, ds, "all")
        product = buffers.product(ds, ut[:early])
    rows.end[grid](
        product, direct, held, a.dh, a.h_all, a.extras.reset, a.extras.factor_h, batch, **options
    )
    return sums
