"""The host's part of the split kernel: memory for what programs tell each other, and launches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lnrnn.engines.triton import choose, split
from lnrnn.engines.triton.cell import constants
from lnrnn.engines.triton.choose import Kind, Split
from lnrnn.engines.triton.describe import Cell, divided

_watched: list[tuple[Tensor, Any]] = []


def forward(c: Cell, options: Split, kind: Kind, arrays: tuple[Any, ...], **known: Any) -> None:
    """Run the split kernel over arrays as the tile kernel takes them."""
    _run(split.forward, c, options, kind, arrays, known)


def backward(c: Cell, options: Split, kind: Kind, arrays: tuple[Any, ...], **known: Any) -> None:
    """Run its derivative likewise."""
    _run(split.backward, c, options, kind, arrays, known, back=True)


def _run(
    kernel: Any, c: Cell, options: Split, kind: Kind, arrays: tuple[Any, ...],
    known: dict[str, Any], back: bool = False,
) -> None:  # fmt: skip
    gates = arrays[0]
    # a captured graph has no host beside it
    watched = not (gates.is_cuda and torch.cuda.is_current_stream_capturing())
    if watched:
        check()
    tiles = -(-gates.shape[1] // options.rows)
    c = divided(c, options.own, choose.POLLS)
    known = known | choose.constants_of_split(c, options, kind)
    memory = _memory(choose.words(c, options, kind, tiles, back), gates)
    known = {n: v for n, v in known.items() if n in kernel.arg_names}
    known |= dict(C=constants(c), num_warps=options.warps)
    launch(kernel, (c.programs, tiles), (*arrays, *memory, *gates.shape[:2]), known)
    if watched:
        _watch(memory[-1])


def launch(
    kernel: Any, grid: tuple[int, int], arrays: tuple[Any, ...], known: dict[str, Any]
) -> None:
    """Start all programs at once, or none."""
    kernel[grid](*arrays, 0, **known, num_stages=1, launch_cooperative_grid=True)


class Lost(RuntimeError):
    """A program of the split kernel has waited in vain for another."""


def check(wait: bool = False) -> None:
    """Raise `Lost` if a program of an earlier call has waited in vain.

    Args:
        wait: whether for calls that are not done, which are left out otherwise.
    """
    waiting = []
    failed = False
    for lost, event in _watched:
        if event is not None and wait:
            event.synchronize()
        if event is not None and not event.query():
            waiting.append((lost, event))
        elif int(lost):
            failed = True
    _watched[:] = waiting
    if failed:
        raise Lost(
            f"Programs of a recurrence wait for each other at most {choose.POLLS} polls, and one "
            "gave up: the results of that call are wrong; run it with engine='portable'."
        )


def _memory(words: choose.Words, like: Tensor) -> list[Tensor]:
    """Words of tiles, words of rows, and the flag of a program that gave up."""
    whole = torch.zeros(sum(words) + 1, dtype=torch.int64, device=like.device)
    of_tiles, of_rows, flag = whole.split((*words, 1))
    return [of_tiles, of_rows, flag.view(torch.int32)]


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
