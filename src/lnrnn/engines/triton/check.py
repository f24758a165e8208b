"""The self-check on PyTorch, see [lnrnn.engines.triton.answers][]: kernels beside the definition in
float64, before they compute for the first time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lnrnn.engines.fused import definition
from lnrnn.engines.fused.call import DIFFERENTIABLE, INCOMING, Inputs, Numbers
from lnrnn.engines.portable import ops_torch
from lnrnn.engines.triton import answers, buffers, device, divide, loops
from lnrnn.engines.triton.cell import INTERPRETED
from lnrnn.variant import Variant

Run = Callable[[Variant, Numbers, Inputs, tuple[Tensor | None, ...]], list[Tensor]]


def refusal(variant: Variant, numbers: Numbers, a: Inputs, run: Run) -> str | None:
    """Why these kernels are not to be used for a call, or None.

    Args:
        variant: the cell.
        numbers: the scalars of the call.
        a: its inputs; their shapes count, not their values.
        run: gives outputs and then gradients, as `compare` wants them.
    """
    if not answers.wanted(a.x.is_cuda):
        return None
    c = buffers.cell_of(variant, numbers, a, INTERPRETED)

    def of(batch: int) -> Any:
        return loops.of(c, a.x, batch)

    batch = answers.batch_like(a.x.shape[1], of)
    given = tuple((n, t.ndim) for n, t in a._asdict().items() if t is not None)
    parts = (
        "torch", torch.__version__, _device(a.x), variant, numbers, a.recurrent.shape[0],
        of(batch), batch, answers.precision(buffers.kind(a.x)), given,
    )  # fmt: skip
    return answers.answer(parts, lambda: compare(variant, numbers, a, batch, run))


def compare(variant: Variant, numbers: Numbers, a: Inputs, batch: int, run: Run) -> str | None:
    """Run kernels on random arrays like these and compare: the largest error if it is too large."""
    drawn, incoming = _draw(a, batch)
    double = Inputs(*(_double(t) for t in drawn))
    leaves = {n: t.requires_grad_() for n, t in double._asdict().items() if _has_gradient(n, t)}
    values = definition.recurrence(ops_torch, variant, numbers, double._replace(**leaves))
    weights = [_double(d) for d in incoming[: len(values)]]
    gradients = torch.autograd.grad(
        list(values), list(leaves.values()), weights, materialize_grads=True
    )
    names = ["h", "h_last", "c_last"][: len(values)] + [f"gradient of {n}" for n in leaves]
    try:
        found = run(variant, numbers, drawn, incoming)
        divide.check(wait=True)
    except divide.Lost as lost:
        return f"self-check: {lost}"
    found, expected = (
        [t.detach().double().cpu().numpy() for t in each] for each in (found, [*values, *gradients])
    )
    return answers.worst(buffers.kind(a.x), names, found, expected, len(values))


def _draw(a: Inputs, batch: int) -> tuple[Inputs, tuple[Tensor | None, ...]]:
    """Random tensors with the dtypes and options of others, and gradients of the outputs."""
    shapes = {n: tuple(t.shape) for n, t in a._asdict().items() if t is not None}
    drawn = answers.drawn(shapes, batch)

    def tensor(name: str, like: Tensor) -> Tensor | None:
        return None if name not in drawn else torch.tensor(drawn[name]).to(like)

    inputs = Inputs(*(None if t is None else tensor(n, t) for n, t in a._asdict().items()))  # pyright: ignore
    return inputs, tuple(tensor(n, a.x if n == "dh" else a.h0) for n in INCOMING)


def _double(t: Any) -> Any:
    return t.double() if t is not None and t.is_floating_point() else t


def _has_gradient(name: str, t: Tensor | None) -> bool:
    return t is not None and name in DIFFERENTIABLE


def _device(x: Tensor) -> tuple[Any, ...]:
    if not x.is_cuda:
        return ("cpu",)
    properties = torch.cuda.get_device_properties(x.device)
    driver = getattr(device.first(), "driver", None)
    return properties.name, properties.major, properties.minor, torch.version.cuda, driver
