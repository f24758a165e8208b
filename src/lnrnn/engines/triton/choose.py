"""Which kernel computes a cell, and with which tiles: one static table."""

from __future__ import annotations

from typing import NamedTuple

import torch

from lnrnn.engines.triton.describe import Cell


class Tile(NamedTuple):
    """Rows of a program, and its warps."""

    rows: int
    warps: int


class Split(NamedTuple):
    """Of the split kernel: rows and columns of a program, its warps, and what is taken at once.

    `chunk` is columns of a product, `sources` programs whose parts are loaded together.
    """

    rows: int
    own: int
    warps: int
    chunk: int
    sources: int


# by columns of a tile: warps of the tile kernel
_HALF = {16: 2, 32: 4, 64: 8, 128: 16}
_HALF_BACK = _HALF | {128: 8}
_SINGLE = {16: 2, 32: 4, 64: 8}
_SINGLE_BACK = {16: 2, 32: 8, 64: 8}
# rows and columns of a program of the split kernel, the best first
_SPLIT_HALF = ((16, 32), (16, 16), (32, 32), (32, 16), (16, 8))
_SPLIT_SINGLE = ((16, 16), (16, 8), (32, 16))
_SCRATCH = 16 << 10  # bytes on chip beside U
_WIDEST = 1024
_ELEMENTS = 1024  # of a tile of the parallel kernels
_WEIGHTS = 4096  # of a tile of rows of weights
_PROGRAMS = 512


def weights(c: Cell) -> Tile:
    """Of the kernel that prepares weights."""
    return Tile(max(1, min(16, _WEIGHTS // c.block)), 8)


def fits_tile(c: Cell, dtype: torch.dtype, shared: int) -> bool:
    """Whether the tile kernel computes this cell in this dtype, with so much memory on chip."""
    table = _SINGLE if dtype == torch.float32 else _HALF
    return c.block in table and _bytes(c, dtype, c.block, c.block) <= shared - _SCRATCH


def tile(c: Cell, dtype: torch.dtype, back: bool = False) -> Tile:
    """Of the tile kernel."""
    if c.diagonal:
        return parallel(c)
    if dtype == torch.float32:
        return Tile(16, (_SINGLE_BACK if back else _SINGLE)[c.block])
    return Tile(16, (_HALF_BACK if back else _HALF)[c.block])


def _bytes(c: Cell, dtype: torch.dtype, rows: int, columns: int) -> int:
    """What a part of U takes on chip: rows and columns of every gate."""
    copies = 2 if dtype == torch.float32 and precision(dtype) == "tf32x3" else 1
    return rows * columns * c.gates * dtype.itemsize * copies


def rows(c: Cell) -> Tile:
    """Of the row kernels."""
    return Tile(max(1, 512 // c.block), 8)


def parallel(c: Cell) -> Tile:
    """Of the kernels that have no recurrence."""
    return Tile(max(1, _ELEMENTS // c.block), 8)


def rows_of_program(rows: int, at_once: int) -> int:
    """How many times a program of a sum over rows takes its tile."""
    return max(1, -(-rows // (at_once * _PROGRAMS)))


def precision(dtype: torch.dtype) -> str:
    """Of float32 products: TF32 where PyTorch's own switch allows it, else three for one."""
    if dtype != torch.float32:
        return "ieee"
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def split(
    c: Cell, dtype: torch.dtype, batch: int, processors: int, shared: int, back: bool = False
) -> Split | None:
    """Of the split kernel, or None where it does not fit.

    All its programs run at once, one on each processor, with their columns of U on chip.

    Args:
        c: the cell.
        dtype: of x.
        batch: B.
        processors: how many the device has.
        shared: bytes of memory on chip that a program may have.
        back: whether of the backward pass.
    """
    if c.units > _WIDEST or c.reset == "before":
        return None
    single = dtype == torch.float32
    chunk = 128 if single or back else 256
    for rows, own in _SPLIT_SINGLE if single else _SPLIT_HALF:
        programs = -(-c.units // own)
        filled = 4 if c.gates == 3 else c.gates
        of_u = _bytes(c, dtype, -(-programs * own // chunk) * chunk, own) * filled // c.gates
        if programs * -(-batch // rows) <= processors and of_u <= shared - _SCRATCH:
            return Split(rows, own, 8, chunk, 8)
    return None
