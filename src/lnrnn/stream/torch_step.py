"""One step of a module or cell on PyTorch's tensors, by a stream where its weights stand still."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from lnrnn.convert import Checkpoint, FileError, Weights
from lnrnn.convert.file import contents
from lnrnn.convert.safetensors import pieces
from lnrnn.engines import portable
from lnrnn.engines.native import core, torch_op
from lnrnn.params import columns, gates_of
from lnrnn.variant import Variant

_portable = portable.on("torch").step
# streams of the weights that were last used, each with a copy of them
_MOST = 32
_lock = Lock()


class _Kept:
    """Weights that were seen, and from the second time on their stream."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.seen: int | None = None
        self.stream: Any = None
        self.refused = False


_kept: OrderedDict[tuple[Any, ...], _Kept] = OrderedDict()


def step(
    variant: Variant, params: Mapping[str, Tensor], x: Tensor, states: Any, **options: Any
) -> tuple[Tensor, ...]:
    """The step of [the portable engine][lnrnn.engines.portable.sequence.step], faster.

    Weights that the last step did not have, in any element, are computed by the portable
    engine; from the second step on they are packed.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return _portable(variant, params, x, states, **options)
    stream = _stream(variant, params, x, states, options)
    if stream is None:
        return _portable(variant, params, x, states, **options)
    x = x.contiguous()
    before = [s.contiguous() for s in states]
    after = tuple(torch.empty_like(s) for s in before)
    stream.advance(x.data_ptr(), [s.data_ptr() for s in before], [s.data_ptr() for s in after])
    return after


def _stream(
    variant: Variant, params: Mapping[str, Tensor], x: Tensor, states: Any, options: dict[str, Any]
) -> Any:
    """The stream of these weights, or None where there is none."""
    take_h, take_c = options.get("take_h"), options.get("take_c")
    if (
        any(isinstance(take, Tensor) for take in (take_h, take_c))
        or options.get("functions")
        or any(options.get(name) is not None for name in ("recurrent_mask", "candidate_mask"))
    ):
        return None
    weights = list(params.values())
    given = [x, *states, *weights]
    recurrent = params["recurrent_scale" if variant.cell == "indrnn" else "recurrent_kernel"]
    units = params["kernel"].shape[1] // len(variant.gates)
    widths = (recurrent.shape[0], units)
    if (
        not torch_op.is_plain(given)
        or any(t.dtype != torch.float32 for t in given)
        or not all(torch_op.is_dense(t) for t in weights)
        or any(tuple(s.shape) != (x.shape[0], n) for s, n in zip(states, widths, strict=False))
        or x.dim() != 2
        or x.shape[1] != params["kernel"].shape[0]
        or x.shape[0] == 0
    ):
        return None
    gates = options.get("gates") or variant.gates
    of_kernels = (params["kernel"].data_ptr(), recurrent.data_ptr())
    key = (id(variant), of_kernels, gates, take_h, take_c, x.shape[0])
    seen = core.fingerprint([(t.data_ptr(), 4 * t.numel()) for t in weights])
    with _lock:
        kept = _kept.get(key)
        if kept is None or kept.variant is not variant:
            kept = _kept[key] = _Kept(variant)
            while len(_kept) > _MOST:
                _kept.popitem(last=False)
        _kept.move_to_end(key)
        if kept.seen != seen:
            kept.seen, kept.stream, kept.refused = seen, None, False
            return None
        if kept.stream is None and not kept.refused:
            kept.stream = _packed(variant, params, gates, take_h, take_c, x.shape[0])
            kept.refused = kept.stream is None
        return kept.stream


def _packed(
    variant: Variant,
    params: Mapping[str, Tensor],
    gates: str,
    take_h: float | None,
    take_c: float | None,
    batch: int,
) -> Any:
    arrays = {n: _canonical(t, gates, gates_of(variant, n)).numpy() for n, t in params.items()}
    of_h, of_c = (0.0 if take is None else 1 - take for take in (take_h, take_c))
    try:
        weights = Weights(variant, arrays, of_h, of_c)
    except FileError:  # weights that are not finite
        return None
    file = b"".join(pieces(*contents(Checkpoint({"layers.0.forward": weights}), {})))
    return core.stream(file, batch, 0)


def _canonical(t: Tensor, given: str, own: str) -> Tensor:
    """A weight whose gates stand in the order `given`, in canonical order."""
    there = "".join(g for g in given if g in own)
    if there == own:
        return t.contiguous()
    units = t.shape[-1] // len(own)
    return torch.cat([t[..., columns(there, g, units)] for g in own], -1)
