"""Which kernel computes a cell, and with which tiles: one static table."""

from __future__ import annotations

from typing import Any, NamedTuple

from lnrnn.engines.triton.describe import Cell
from lnrnn.engines.triton.exchange import CHANNELS

# about a second of an H100
POLLS = 1 << 20


class Kind(NamedTuple):
    """Of the operands of products: the name of their dtype, and how products of float32 are made.

    That is `"tf32"` or `"tf32x3"`, and `"ieee"` of other dtypes.
    """

    dtype: str
    precision: str

    @property
    def single(self) -> bool:
        """Whether they are float32."""
        return self.dtype == "float32"


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


def kind(dtype: str, tf32: bool) -> Kind:
    """Of products in a dtype, where those of float32 may use TF32 or else are three for one."""
    if dtype != "float32":
        return Kind(dtype, "ieee")
    return Kind(dtype, "tf32" if tf32 else "tf32x3")


def fits_tile(c: Cell, kind: Kind, shared: int) -> bool:
    """Whether the tile kernel computes this cell so, with so much memory on chip."""
    table = _SINGLE if kind.single else _HALF
    return c.block in table and _bytes(c, kind, c.block, c.block) <= shared - _SCRATCH


def tile(c: Cell, kind: Kind, back: bool = False) -> Tile:
    """Of the tile kernel."""
    if c.diagonal:
        return parallel(c)
    if kind.single:
        return Tile(16, (_SINGLE_BACK if back else _SINGLE)[c.block])
    return Tile(16, (_HALF_BACK if back else _HALF)[c.block])


def _bytes(c: Cell, kind: Kind, rows: int, columns: int) -> int:
    """What a part of U takes on chip: rows and columns of every gate."""
    size = 2 if not kind.single else 8 if kind.precision == "tf32x3" else 4
    return rows * columns * c.gates * size


def rows(c: Cell) -> Tile:
    """Of the row kernels."""
    return Tile(max(1, 512 // c.block), 8)


def parallel(c: Cell) -> Tile:
    """Of the kernels that have no recurrence."""
    return Tile(max(1, _ELEMENTS // c.block), 8)


def rows_of_program(rows: int, at_once: int) -> int:
    """How many times a program of a sum over rows takes its tile."""
    return max(1, -(-rows // (at_once * _PROGRAMS)))


def split(
    c: Cell, kind: Kind, batch: int, processors: int, shared: int, back: bool = False
) -> Split | None:
    """Of the split kernel, or None where it does not fit.

    All its programs run at once, one on each processor, with their columns of U on chip.

    Args:
        c: the cell.
        kind: of products.
        batch: B.
        processors: how many the device has.
        shared: bytes of memory on chip that a program may have.
        back: whether of the backward pass.
    """
    if c.units > _WIDEST or c.reset == "before":
        return None
    for rows, own in _SPLIT_SINGLE if kind.single else _SPLIT_HALF:
        chunk, warps = _in_registers(c, kind, own, back)
        programs = -(-c.units // own)
        filled = 4 if c.gates == 3 else c.gates
        of_u = _bytes(c, kind, -(-programs * own // chunk) * chunk, own) * filled // c.gates
        if programs * -(-batch // rows) <= processors and of_u <= shared - _SCRATCH:
            return Split(rows, own, warps, chunk, 8)
    return None


def _in_registers(c: Cell, kind: Kind, own: int, back: bool) -> tuple[int, int]:
    """Columns of a product of the split kernel, and warps, for which registers are enough."""
    if not back and not kind.single:
        return 256 if c.units <= 768 else 128, 8
    if not back and kind.precision == "tf32" and own == 8:
        return 256, 8 if c.units <= 512 else 16
    return 128, 8


class Loop(NamedTuple):
    """Which kernel computes all steps, `"tile"`, `"split"` or `"rows"`, and its options."""

    kernel: str
    options: Any


def loop(c: Cell, kind: Kind, batch: int, processors: int, shared: int, back: bool = False) -> Loop:
    """Of a pass; see `split` for the arguments."""
    if c.diagonal or fits_tile(c, kind, shared):
        return Loop("tile", tile(c, kind, back))
    if options := split(c, kind, batch, processors, shared, back):
        return Loop("split", options)
    return Loop("rows", rows(c))


def loops(c: Cell, kind: Kind, batch: int, processors: int, shared: int) -> tuple[Loop, Loop]:
    """Of both passes."""
    found = (loop(c, kind, batch, processors, shared, back) for back in (False, True))
    return tuple(found)  # pyright: ignore[reportReturnType]


def constants_of_split(c: Cell, options: Split, kind: Kind) -> dict[str, Any]:
    """What both split kernels are compiled for besides dtype and precision, `c` divided."""
    return dict(
        C=c,
        M=options.rows,
        CHUNK=options.chunk,
        CHUNKS=-(-c.programs * c.block // options.chunk),
        SOURCES=min(c.programs, options.sources),
        PAIRS=not kind.single,
        CHANNELS=CHANNELS,
    )


class Words(NamedTuple):
    """How many words the programs of a split kernel have in common: of tiles, and of rows."""

    tiles: int
    rows: int


def words(c: Cell, options: Split, kind: Kind, tiles: int, back: bool = False) -> Words:
    """Of all tiles of rows; in each of them every program gets rows of words of all columns."""
    rows = options.rows * (c.programs if back else 1)
    of_tile = rows * c.programs * c.block // (1 if kind.single else 2)
    return Words(tiles * 2 * of_tile, tiles * 2 * CHANNELS * c.peers * options.rows)
