"""The core as PyTorch operators, `lnrnn::recurrence` and its derivative."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lnrnn.engines.fused.call import HALVES, Inputs, Numbers, check
from lnrnn.engines.fused.torch_op import Operator, asked, by_definition, places
from lnrnn.engines.native import call, core
from lnrnn.engines.native.call import Cell
from lnrnn.engines.portable import ops_torch
from lnrnn.variant import Variant

# projections x W and h U beyond this many bytes each are computed again in the backward pass
_MOST_SAVED = 1 << 30
# what a forward pass keeps for its backward pass: nothing, c, or c and the projections
_CELL, _ALL = 1, 2
# inputs that may be the transpose of a dense one, which the core reads as it lies: the weights of
# a module are, and a batch-first x
_TURNED = [Inputs._fields.index(name) for name in ("x", "kernel", "recurrent")]
# where the library of threads is that PyTorch has loaded
FOLDER = str(Path(torch.__file__).parent)
_NAMES = {getattr(torch, n): n for n in ("float32", "float64", *HALVES)}


class OnCPU:
    """What holds for all passes of the core."""

    device = "cpu"
    cell_type = "int[]"
    h_is_kept = True

    def check(self, inputs: Any) -> None:
        check_devices(inputs)

    def ready(self, cell: Any, numbers: Any, inputs: Any, named: bool) -> bool:
        return True


class _Core(OnCPU):
    """The passes of the core."""

    kept: tuple[str, ...] = call.KEPT

    def encode(self, variant: Variant, gates: str) -> tuple[int, ...]:
        # a compiled graph holds what Dynamo traces; it would warn that it passes over a cache
        encode = call.encode.__wrapped__ if torch.compiler.is_compiling() else call.encode
        return encode(variant, gates)

    def define(self, cell: tuple[int, ...], numbers: Numbers, inputs: Inputs) -> tuple[Tensor, ...]:
        return call.cell_of(cell).define(ops_torch, numbers, inputs)

    def keep(self, inputs: Inputs) -> int:
        steps, batch, _ = inputs.x.shape
        size = steps * batch * inputs.kernel.shape[1] * inputs.x.element_size()
        return _ALL if size <= _MOST_SAVED else _CELL

    def empty(
        self, cell: tuple[int, ...], numbers: Numbers, inputs: Inputs, keep: int
    ) -> tuple[Tensor, ...]:
        found = _results(call.cell_of(cell), inputs, keep)
        return tuple(inputs.x.new_empty((0,)) if t is None else t for t in found)

    def forward(
        self, cell: tuple[int, ...], numbers: Numbers, inputs: Inputs, keep: int
    ) -> tuple[Any, ...]:
        its = call.cell_of(cell)
        check(its, inputs, torch.bool, torch.float32)
        found = _results(its, inputs, keep)
        _run(its, numbers, inputs, found, back=False)
        return found

    def backward(
        self,
        cell: tuple[int, ...],
        numbers: Numbers,
        inputs: Inputs,
        kept: tuple[Any, ...],
        incoming: tuple[Tensor | None, ...],
        of_x: bool,
    ) -> list[Tensor]:
        h, dh = kept[0], incoming[0]
        h = h if _is_turned(h) else h.contiguous()
        dh = dh if dh is None else _laid_as(dh, h)
        others = (None if t is None else t.contiguous() for t in (*kept[1:], *incoming[1:]))
        c, xw, hu, *dense = others
        found = {i: _gradient_like(i, inputs[i]) for i in asked(inputs, of_x)}
        arrays = (h, c, xw, hu, None, None, dh, *dense, *map(found.get, places(inputs)))
        _run(call.cell_of(cell), numbers, inputs, arrays, back=True)
        return [*found.values()]


recurrence = Operator("lnrnn::recurrence", _Core())


def _results(cell: Cell, a: Inputs, keep: int) -> tuple[Any, ...]:
    """Memory for what a forward pass gives, in the order of `call.OUTPUTS`."""
    steps, batch, _ = a.x.shape
    wide, hidden = a.kernel.shape[1], a.h0.shape[1]
    units = wide // cell.gates
    like, single = a.x.new_empty, a.kernel.new_empty
    if _is_turned(a.x):  # h lies as x does
        h = like((batch, steps, hidden)).transpose(0, 1)
    else:
        h = like((steps, batch, hidden))
    return (
        h,
        single((steps, batch, units)) if keep and cell.lstm else None,
        like((steps, batch, wide)) if keep == _ALL else None,
        like((steps, batch, wide)) if keep == _ALL else None,
        single((batch, hidden)),
        single((batch, units)) if cell.lstm else None,
    )


def is_plain(tensors: list[Tensor]) -> bool:
    """Whether these are tensors of a call that nothing traces or transforms, on the CPU."""
    return recurrence.eager(tensors) and not by_definition(tensors)


def is_dense(t: Any) -> bool:
    """Whether a tensor fills a stretch of memory, as it is or as the transpose of what does."""
    return t.is_contiguous() or _is_turned(t)


def _is_turned(t: Any) -> bool:
    if t.is_contiguous() or t.dim() < 2:
        return False
    rows, _, *rest = t.shape
    return t.stride() == ((rest[0], rows * rest[0], 1) if rest else (1, rows))


def _gradient_like(place: int, t: Any) -> Tensor:
    """Memory for the gradient of an input, which lies as an input that is read as it lies."""
    if t.is_contiguous() or (place in _TURNED and _is_turned(t)):
        return torch.empty_like(t)
    return torch.empty(t.shape, dtype=t.dtype)


def _laid_as(t: Tensor, like: Tensor) -> Tensor:
    """`t`, in memory as `like`, which is dense or the transpose of what is."""
    if not _is_turned(like):
        return t.contiguous()
    return t.transpose(0, 1).contiguous().transpose(0, 1)


def check_devices(a: Any) -> None:
    """Raise ValueError unless these inputs, a tuple by name, are all on the CPU."""
    if all(t is None or t.is_cpu for t in a):
        return
    device = a.x.device
    if device.type not in ("cpu", "meta"):
        raise ValueError(
            f"The native engine computes on a CPU; got tensors on {device}: move them."
        )
    elsewhere = [t for t in a if t is not None and t.device != device]
    if elsewhere:
        name = next(n for n, t in a._asdict().items() if t is elsewhere[0])
        raise ValueError(
            f"The inputs of a recurrence are on one device; got {name} on "
            f"{elsewhere[0].device} beside {device}: move it."
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
    x_turned, *matrices_turned = turned.values()
    h_turned = _is_turned(others[0])
    dense = [
        t if t is None or t.is_contiguous() or turned.get(i) else t.contiguous()
        for i, t in enumerate(a)
    ]
    addresses = [0 if t is None else t.data_ptr() for t in (*dense, *others)]
    core.run(
        cell,
        numbers,
        call.sizes(cell, a, x_turned, h_turned, *matrices_turned, rounding=rounding),
        addresses + [0] * (len(call.ARRAYS) - len(addresses)),
        back=back,
        dtype=_NAMES[dtype],
        threads=torch.get_num_threads(),
        host=core.lend_openmp(FOLDER),
        framework="torch",
    )
