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

    `chunk` is columns of a product, `sources` programs whose parts are loaded together,
    `announced` whether tiles are announced before they are polled.
    """

    rows: int
    own: int
    warps: int
    chunk: int
    sources: int
    announced: bool


# by columns of a tile: warps of the tile kernel, where U fits on chip
_HALF = {16: 2, 32: 4, 64: 8, 128: 16}
_SINGLE = {16: 2, 32: 4, 64: 8}
# rows and columns of a program of the split kernel, the best first
_SPLIT_HALF = ((16, 32), (16, 16), (32, 32), (32, 16), (16, 8))
_SPLIT_SINGLE = ((16, 16), (16, 8), (32, 16))
_SCRATCH = 20 << 10  # bytes beside U
_WIDEST = 1024
_ELEMENTS = 1024  # of a tile of the parallel kernels
_PROGRAMS = 512


def fits_tile(c: Cell, dtype: torch.dtype) -> bool:
    """Whether the tile kernel computes this cell in this dtype."""
    return c.block in (_SINGLE if dtype == torch.float32 else _HALF)


def tile(c: Cell, dtype: torch.dtype, back: bool = False) -> Tile:
    """Of the tile kernel."""
    warps = _SINGLE if dtype == torch.float32 else _HALF
    return Tile(16, warps.get(c.block, 16))


def rows(c: Cell) -> Tile:
    """Of the row kernels."""
    return Tile(max(1, 512 // c.block), 8 if c.block >= 1024 else 4)


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
    copies = 2 if single and precision(dtype) == "tf32x3" else 1
    chunk = 128 if single or back else 256
    for rows, own in _SPLIT_SINGLE if single else _SPLIT_HALF:
        programs = -(-c.units // own)
        of_u = -(-programs * own // chunk) * chunk * own * _filled(c.gates) * dtype.itemsize * copies
        if programs * -(-batch // rows) <= processors and of_u <= shared - _SCRATCH:
            return Split(rows, own, 8, chunk, 8, c.units > 512)
    return None


def _filled(gates: int) -> int:
    return 4 if gates == 3 else gates
