"""The core as PyTorch operators, `lnrnn::recurrence` and its derivative."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lnrnn.engines.fused.call import DIFFERENTIABLE, HALVES, Inputs, Numbers, check
from lnrnn.engines.fused.torch_op import Operator, by_definition
from lnrnn.engines.native import call, core
from lnrnn.engines.native.call import Cell
from lnrnn.variant import Variant

# projections x W and h U beyond this many bytes each are computed again in the backward pass
_MOST_SAVED = 1 << 30
# what a forward pass keeps for its backward pass: nothing, c, or c and the projections
_CELL, _ALL = 1, 2
# inputs that may be the transpose of a dense one, which the core reads as it lies: the weights of
# a module are, and a batch-first x
_TURNED = [Inputs._fields.index(name) for name in ("x", "kernel", "recurrent")]
_X = Inputs._fields.index("x")
_FOLDER = str(Path(torch.__file__).parent)
_NAMES = {getattr(torch, n): n for n in ("float32", "float64", *HALVES)}


class _Core:
    """The passes of the core."""

    device = "cpu"
    cell_type = "int[]"
    kept: tuple[str, ...] = call.KEPT
    h_is_kept = True

    def encode(self, variant: Variant) -> tuple[int, ...]:
        # a compiled graph holds what Dynamo traces; it would warn that it passes over a cache
        encode = call.encode.__wrapped__ if torch.compiler.is_compiling() else call.encode
        return encode(variant)

    def decode(self, cell: tuple[int, ...], numbers: Numbers) -> Variant:
        return call.decode(cell, numbers)

    def keep(self, inputs: Inputs) -> int:
        steps, batch, _ = inputs.x.shape
        size = steps * batch * inputs.kernel.shape[1] * inputs.x.element_size()
        return _ALL if size <= _MOST_SAVED else _CELL

    def check(self, inputs: Inputs) -> None:
        _check_devices(inputs)

    def ready(self, cell: tuple[int, ...], numbers: Numbers, inputs: Inputs, named: bool) -> bool:
        return True

    def empty(
        self, cell: tuple[int, ...], numbers: Numbers, inputs: Inputs, keep: int
    ) -> tuple[Tensor, ...]:
        shapes = call.result_shapes(call.cell_of(cell), inputs, keep > 0)
        if keep != _ALL:
            shapes |= dict(xw=(0,), hu=(0,))
        return tuple(
            (inputs.x if name in call.LIKE_X else inputs.kernel).new_empty(shapes.get(name, (0,)))
            for name in call.OUTPUTS
        )

    def forward(
        self, cell: tuple[int, ...], numbers: Numbers, inputs: Inputs, keep: int
    ) -> tuple[Tensor, ...]:
        check(call.cell_of(cell), inputs, torch.bool, torch.float32)
        found = self.empty(cell, numbers, inputs, keep)
        _run(call.cell_of(cell), numbers, inputs, found, back=False)
        return found

    def backward(
        self,
        cell: tuple[int, ...],
        numbers: Numbers,
        inputs: Inputs,
        kept: tuple[Tensor, ...],
        incoming: tuple[Tensor | None, ...],
        of_x: bool,
    ) -> list[Tensor]:
        others = (None if t is None else t.contiguous() for t in (*kept, *incoming))
        h, c, xw, hu, *dense = others
        places = (Inputs._fields.index(name) for name in DIFFERENTIABLE)
        found = [
            None
            if (t := inputs[i]) is None or (i == _X and not of_x)
            else torch.empty_like(t)
            if i in _TURNED and _is_turned(t)
            else torch.empty(t.shape, dtype=t.dtype)
            for i in places
        ]
        arrays = (h, c, xw, hu, None, None, *dense, *found)
        _run(call.cell_of(cell), numbers, inputs, arrays, back=True)
        return [g for g in found if g is not None]


recurrence = Operator("lnrnn::recurrence", _Core())


def is_plain(tensors: list[Tensor]) -> bool:
    """Whether these are tensors of a call that nothing traces or transforms, on the CPU."""
    return recurrence.eager(tensors) and not by_definition(tensors)


def is_dense(t: Any) -> bool:
    """Whether a tensor fills a stretch of memory, as it is or as the transpose of what does."""
    return t.is_contiguous() or _is_turned(t)


def _is_turned(t: Any) -> bool:
    if t.dim() < 2 or t.is_contiguous():
        return False
    rows, _, *rest = t.shape
    return t.stride() == ((rest[0], rows * rest[0], 1) if rest else (1, rows))


def _check_devices(a: Inputs) -> None:
    device = a.x.device
    if device.type not in ("cpu", "meta"):
        raise ValueError(
            f"The native engine computes on a CPU; got tensors on {device}: move them."
        )
    for name, t in zip(Inputs._fields, a, strict=True):
        if t is not None and t.device != device:
            raise ValueError(
                f"The inputs of a recurrence are on one device; got {name} on {t.device} beside "
                f"{device}: move it."
            )


def _run(
    cell: Cell, numbers: Sequence[float], a: Inputs, others: Sequence[Tensor | None], back: bool
) -> None:
    """A pass over the inputs and what follows them in `call.ARRAYS`, which is dense."""
    dtype = a.x.dtype
    if dtype not in _NAMES:
        raise ValueError(f"The native engine computes {', '.join(_NAMES.values())}; got {dtype}.")
    rounding = dtype == torch.float32 and torch.get_float32_matmul_precision() == "medium"
    turned = {i: _is_turned(a[i]) for i in _TURNED}
    dense = [
        t if t is None or t.is_contiguous() or turned.get(i) else t.contiguous()
        for i, t in enumerate(a)
    ]
    addresses = [0 if t is None else t.data_ptr() for t in (*dense, *others)]
    core.run(
        cell,
        numbers,
        call.sizes(cell, a, *turned.values(), rounding=rounding),
        addresses + [0] * (len(call.ARRAYS) - len(addresses)),
        back=back,
        dtype=_NAMES[dtype],
        threads=torch.get_num_threads(),
        host=core.lend_openmp(_FOLDER),
        framework="torch",
    )
