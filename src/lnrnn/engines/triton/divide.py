"""The host's part of the split kernel: memory for what programs tell each other, and launches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lnrnn.engines.triton import split
from lnrnn.engines.triton.cell import constants
from lnrnn.engines.triton.choose import Split
from lnrnn.engines.triton.describe import Cell, divided
from lnrnn.engines.triton.exchange import CHANNELS

# about a second of an H100
POLLS = 1 << 20

_watched: list[tuple[Tensor, Any]] = []


def forward(c: Cell, options: Split, arrays: tuple[Any, ...], **known: Any) -> None:
    """Run the split kernel over arrays as the tile kernel takes them."""
    check()
    steps, batch = arrays[0].shape[:2]
    c = divided(c, options.own, POLLS)
    pairs = arrays[0].element_size() == 2
    width = c.programs * c.block // (2 if pairs else 1)
    tiles = -(-batch // options.rows)
    chunks = -(-c.programs * c.block // options.chunk)
    memory = _memory(c, options, tiles, options.rows * width, arrays[0])
    launch(
        split.forward, (c.programs, tiles), (*arrays, *memory, steps, batch),
        dict(
            known, C=constants(c), M=options.rows, CHUNK=options.chunk, CHUNKS=chunks, PAIRS=pairs,
            CHANNELS=CHANNELS, num_warps=options.warps,
        ),
    )  # fmt: skip
    _watch(memory[-1])


def backward(c: Cell, options: Split, arrays: tuple[Any, ...], **known: Any) -> None:
    """Run its derivative likewise."""
    check()
    steps, batch = arrays[0].shape[:2]
    c = divided(c, options.own, POLLS)
    tiles = -(-batch // options.rows)
    chunks = -(-c.programs * c.block // options.chunk)
    pairs = arrays[0].element_size() == 2
    tile = options.rows * c.block // (2 if pairs else 1)
    memory = _memory(c, options, tiles, c.programs * c.programs * tile, arrays[0])
    launch(
        split.backward, (c.programs, tiles), (*arrays, *memory, steps, batch),
        dict(
            known, C=constants(c), M=options.rows, CHUNK=options.chunk, CHUNKS=chunks,
            SOURCES=min(c.peers, options.sources), PAIRS=pairs, CHANNELS=CHANNELS, num_warps=options.warps,
        ),
    )  # fmt: skip
    _watch(memory[-1])


def launch(kernel: Any, grid: tuple[int, int], arrays: tuple[Any, ...], known: dict[str, Any]) -> None:
    """Start all programs at once, or none."""
    kernel[grid](*arrays, 0, **known, num_stages=1, launch_cooperative_grid=True)


def check() -> None:
    """Raise RuntimeError if a program of an earlier call has waited in vain.

    Looks at the calls that are done, and waits for none.
    """
    waiting = []
    failed = False
    for lost, event in _watched:
        if event is not None and not event.query():
            waiting.append((lost, event))
        elif int(lost):
            failed = True
    _watched[:] = waiting
    if failed:
        raise RuntimeError(
            f"The programs of a recurrence wait for each other at most {POLLS} polls, and one gave "
            "up: the results of that call are wrong; run it with engine='portable'."
        )


def _memory(c: Cell, options: Split, tiles: int, words: int, like: Tensor) -> list[Tensor]:
    """Words of tiles, words of rows, announcements, and the flag of a program that gave up."""
    sizes = (tiles * 2 * words, tiles * 2 * CHANNELS * c.peers * options.rows, tiles * c.peers, 1)
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + -(-size // 2) * 2)  # vectors of 16 bytes
    whole = torch.zeros(starts[-1], dtype=torch.int64, device=like.device)
    parts = [whole[a : a + n] for a, n in zip(starts, sizes, strict=False)]
    return [*parts[:2], *(p.view(torch.int32) for p in parts[2:])]


def _watch(flag: Tensor) -> None:
    lost = flag[:1]
    if not flag.is_cuda:
        _watched.append((lost, None))
        return
    there = torch.empty(1, dtype=torch.int32, pin_memory=True)
    there.copy_(lost, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    _watched.append((there, event))
