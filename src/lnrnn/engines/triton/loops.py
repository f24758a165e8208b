"""The loops over time: the same arrays in and out, by one of the kernels."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from lnrnn.engines.triton import buffers, choose, divide, memory, rows, tile
from lnrnn.engines.triton.arrays import Backward, Forward
from lnrnn.engines.triton.cell import constants
from lnrnn.engines.triton.describe import Cell


def of(c: Cell, like: Tensor, batch: int) -> tuple[choose.Loop, choose.Loop]:
    """The loops of both passes, on the device of a tensor and in its dtype."""
    processors, shared = _device(like)
    return choose.loops(c, buffers.kind(like), batch, processors, shared)


def forward(c: Cell, a: Forward, save: bool) -> None:
    """Fill h_all, the last states, and where asked what a backward pass takes."""
    kind = buffers.kind(a.p)
    (kernel, options), _ = of(c, a.p, a.p.shape[1])
    if kernel == "tile":
        _tile_forward(c, options, a, save)
    elif kernel == "split":
        divide.forward(c, options, kind, a.listed(), **memory.products(kind), SAVE=save)
    else:
        _rows_forward(c, options, a, save)


def backward(c: Cell, a: Backward) -> Tensor:
    """Fill d and the gradients of states; those of the vectors of states, (sums, K)."""
    kind = buffers.kind(a.gates)
    _, (kernel, options) = of(c, a.gates, a.gates.shape[1])
    sums = _sums(c, a, options.rows)
    if kernel == "tile":
        _tile_backward(c, options, a, sums)
    elif kernel == "split":
        divide.backward(c, options, kind, (*a.listed(), sums), **memory.products(kind))
    else:
        _rows_backward(c, options, a, sums)
    return sums.sum(0) if c.sums else sums[0]


def _sums(c: Cell, a: Backward, rows: int) -> Tensor:
    """Room for the sums over the rows of each program."""
    return a.dh.new_empty((triton.cdiv(a.gates.shape[1], rows), c.sums, c.pitch))


def _device(like: Tensor) -> tuple[int, int]:
    """Processors, and bytes of memory on chip that a program may have.

    Where kernels are interpreted none runs beside another, and there is any memory.
    """
    if not like.is_cuda:
        return 0, 1 << 30
    found = torch.cuda.get_device_properties(like.device)
    return found.multi_processor_count, found.shared_memory_per_block_optin


def _options(c: Cell, tiles: choose.Tile) -> dict[str, Any]:
    return dict(C=constants(c), M=tiles.rows, num_warps=tiles.warps, num_stages=1)


def _tile_forward(c: Cell, tiles: choose.Tile, a: Forward, save: bool) -> None:
    steps, batch = a.p.shape[:2]
    kind = buffers.kind(a.p)
    tile.forward[(triton.cdiv(batch, tiles.rows),)](
        *a.listed(), steps, batch, **memory.products(kind), SAVE=save, **_options(c, tiles)
    )


def _tile_backward(c: Cell, tiles: choose.Tile, a: Backward, sums: Tensor) -> None:
    steps, batch = a.gates.shape[:2]
    kind = buffers.kind(a.gates)
    tile.backward[(triton.cdiv(batch, tiles.rows),)](
        *a.listed(), sums, steps, batch, **memory.products(kind), **_options(c, tiles)
    )


def _rows_forward(c: Cell, tiles: choose.Tile, a: Forward, save: bool) -> None:
    steps, batch = a.p.shape[:2]
    like, extras = a.p, a.extras
    u = a.u.view(c.pitch, -1)
    early = c.early * c.pitch
    first, last = u[:, :early], u[:, early:]
    into = like.new_empty((batch, c.pitch))
    gated_into = torch.empty_like(into)
    grid, options = (triton.cdiv(batch, tiles.rows),), _options(c, tiles)
    rows.begin[grid](
        a.h0, a.c0, a.h_last, a.c_last, extras.reset, extras.reset_h, extras.reset_c,
        extras.factor_h, into, a.h_all, a.c_all, batch, SAVE=save, **options,
    )  # fmt: skip

    def step(t: int, product: Tensor, part: str) -> None:
        rows.forward[grid](
            product, into, gated_into, a.p, a.vectors, a.h_last, a.c_last, *extras, a.out, a.h_all,
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


def _rows_backward(c: Cell, tiles: choose.Tile, a: Backward, sums: Tensor) -> None:
    steps, batch = a.gates.shape[:2]
    like = a.gates
    ut = a.u.view(c.pitch, -1).t()
    early = c.early * c.pitch
    ds = like.new_empty((batch, early))
    ds_n = like.new_empty((batch, c.pitch))
    direct, held, product = (a.dh.new_empty((batch, c.pitch)) for _ in range(3))
    grid, options = (triton.cdiv(batch, tiles.rows),), _options(c, tiles)

    def step(t: int, product: Tensor, ds: Tensor, part: str) -> None:
        rows.backward[grid](
            product, direct, held, ds, a.gates, a.vectors, *a.extras, a.h_all, a.c_all, a.normed,
            a.gated, a.statistics, a.dh_all, a.dh_last, a.dc_last, a.dc, a.dreset_h, a.dreset_c,
            a.d, sums, t, steps, batch, PART=part, **options,
        )  # fmt: skip

    for t in reversed(range(steps)):
        if c.reset == "before":
            step(t, product, ds_n, "late")
            step(t, buffers.product(ds_n, ut[early:]), ds, "early")
        else:
            step(t, product, ds, "all")
        product = buffers.product(ds, ut[:early])
    rows.end[grid](
        product, direct, held, a.dh, a.dreset_h, a.h_all, a.extras.reset, a.extras.factor_h,
        batch, **options,
    )  # fmt: skip
