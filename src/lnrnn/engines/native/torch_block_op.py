"""The core's block GRU as a PyTorch operator, `lnrnn::block_recurrence`, and its derivative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lnrnn.engines.fused import block
from lnrnn.engines.fused.block import Inputs, Numbers
from lnrnn.engines.fused.torch_op import Operator, asked, places
from lnrnn.engines.native import block as call
from lnrnn.engines.native import core
from lnrnn.engines.native.torch_op import FOLDER, OnCPU
from lnrnn.engines.portable import ops_torch
from lnrnn.relatives.relative import Relative


class _Core(OnCPU):
    """The passes of the core."""

    kept: tuple[str, ...] = call.BlockGRU.kept

    def encode(self, variant: tuple[Relative, str], gates: str) -> tuple[int, ...]:
        # a compiled graph holds what Dynamo traces; it would warn that it passes over a cache
        encode = call.encode.__wrapped__ if torch.compiler.is_compiling() else call.encode
        return encode(*variant)

    def define(self, cell: tuple[int, ...], numbers: Numbers, inputs: Inputs) -> tuple[Tensor, ...]:
        return call.cell_of(cell).define(ops_torch, numbers, inputs)

    def keep(self, inputs: Inputs) -> int:
        return 1

    def empty(
        self, cell: tuple[int, ...], numbers: Numbers, inputs: Inputs, keep: int
    ) -> tuple[Tensor, ...]:
        new = inputs.x.new_empty
        kept = new((*inputs.x.shape[:2], block.kept_width(inputs) if keep else 0))
        return new(inputs.x.shape), kept, new(inputs.h0.shape), new((0,))

    def forward(
        self, cell: tuple[int, ...], numbers: Numbers, inputs: Inputs, keep: int
    ) -> tuple[Tensor, ...]:
        block.check(inputs, torch.bool)
        h, kept, last, none = self.empty(cell, numbers, inputs, keep)
        _run(cell, numbers, inputs, (h, last, kept if keep else None), back=False)
        return h, kept, last, none

    def backward(
        self,
        cell: tuple[int, ...],
        numbers: Numbers,
        inputs: Inputs,
        kept: tuple[Tensor, ...],
        incoming: tuple[Tensor | None, ...],
        of_x: bool,
    ) -> list[Tensor]:
        h, values = (t.contiguous() for t in kept)
        dh, dh_last, _ = (None if t is None else t.contiguous() for t in incoming)
        given: Any = inputs
        found = {i: torch.empty(given[i].shape, dtype=h.dtype) for i in asked(inputs)}
        gradients = map(found.get, places(inputs))
        _run(cell, numbers, inputs, (h, None, values, dh, dh_last, *gradients), back=True)
        return [found[i] for i in asked(inputs, of_x)]


_operator = Operator("lnrnn::block_recurrence", _Core(), block.TAKEN)


def recurrence(
    relative: Relative, numbers: Numbers, inputs: Inputs, rounding: str
) -> tuple[Any, ...]:
    """All h (T, B, H) and the last."""
    return _operator((relative, rounding), numbers, inputs)


def _run(
    cell: tuple[int, ...],
    numbers: Numbers,
    a: Inputs,
    others: Sequence[Tensor | None],
    back: bool,
) -> None:
    """A pass over the inputs and what follows them in `call.ARRAYS`, which is dense."""
    dense = [None if t is None else t.contiguous() for t in a]
    addresses = [0 if t is None else t.data_ptr() for t in (*dense, *others)]
    core.run_block(
        call.words_of(cell, a),
        numbers,
        addresses + [0] * (len(call.ARRAYS) - len(addresses)),
        back=back,
        full=a.x.dtype == torch.float64,
        threads=torch.get_num_threads(),
        host=core.lend_openmp(FOLDER),
        framework="torch",
    )
