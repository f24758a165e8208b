"""PyTorch on a CUDA device: our modules beside cuDNN's, loops and FlashRNN, by the device's clock.

Modules, weights and inputs have the dtype of the run.  Float32 products may use TF32 where they are
timed, ours and PyTorch's, and do not where they are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lnrnn.bench import on_torch
from lnrnn.bench.problem import NORMALISED, PLAIN, Competitor, Problem, Runs
from lnrnn.bench.settings import COMPILED, Settings
from lnrnn.engines.triton import refuse
from lnrnn.variant import Variant

_OTHER = "flashrnn"


def missing() -> str | None:
    """Why nothing can be measured here, or None."""
    return refuse.refusal(Variant(cell="lstm"), "torch", "float32", "cuda")


def described() -> str:
    """The device, in words."""
    found = torch.cuda.get_device_properties(0)
    return (
        f"{found.name} (compute capability {found.major}.{found.minor}, "
        f"{found.multi_processor_count} processors)"
    )


def versions() -> dict[str, str]:
    """Of what computes beside PyTorch."""
    found = {"CUDA": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version())}
    packages = [p for p in ("triton", _OTHER) if find_spec(p)]
    return found | {p: version(p) for p in packages}


def seconds(run: Callable[[], Any], calls: int) -> float:
    """Of a call, between two events on the device."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / calls


@contextmanager
def exactly() -> Iterator[None]:
    """Products of float32 without TF32, whose errors no comparison of float32 allows."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def peak(run: Callable[[], Any]) -> int:
    """Bytes that a call has at most on the device, beyond those before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = run()
    found = torch.cuda.max_memory_allocated() - before
    del kept
    return found


def competitors(settings: Settings) -> list[Competitor]:
    """What is measured; ours and loops are compared with the definition in float32.

    From now on tensors of this process are made on the device.
    """
    torch.set_default_device(settings.device)
    torch.set_float32_matmul_precision("high")
    return on_device(settings, "triton")


def on_device(settings: Settings, engine: str) -> list[Competitor]:
    """What is measured where tensors are made, with our modules on this engine."""
    name, stock = settings.dtype, on_torch.stock_name(settings.cell)
    dtype = getattr(torch, name)

    def ours(kind: str, engine: str, dtype: torch.dtype) -> Callable[[Problem], Runs]:
        return lambda p: _module(on_torch.our_module(p, kind, engine), p, dtype)

    def stock_runs(problem: Problem) -> Runs:
        # the definition's results are not to be had in half precision
        return _module(on_torch.stock_module(problem), problem, dtype)._replace(
            y=None, gradients=None
        )

    found = [
        Competitor("lnrnn triton", NORMALISED, ours(NORMALISED, engine, dtype), dtype=name),
        Competitor("lnrnn un-normalised", PLAIN, ours(PLAIN, engine, dtype), dtype=name),
        Competitor(stock, PLAIN, stock_runs, dtype=name),
        Competitor(
            "lnrnn portable, float32",
            NORMALISED,
            ours(NORMALISED, "portable", torch.float32),
            base=True,
        ),
        Competitor(f"{stock}, float32", PLAIN, _stock_single, base=True),
    ]
    if name == "float32":
        found = [c for c in found if c.name != stock]
        found.append(Competitor("TorchScript loop", NORMALISED, on_torch.scripted_loop))
        if settings.compiled:
            at_one = Competitor(
                "torch.compile loop", NORMALISED, on_torch.compiled_loop, lambda p: p == COMPILED
            )
            found.append(at_one)
    elif settings.cell == "lstm" and find_spec(_OTHER):
        found.append(Competitor("FlashRNN", PLAIN, lambda p: _flash(p, dtype), dtype=name))
    return found


def _module(module: Any, problem: Problem, dtype: torch.dtype) -> Runs:
    module = module.to(dtype)
    weights = list(module.parameters())
    return on_torch.runs(lambda x: module(x)[0], weights, problem, on_torch.transposed, dtype=dtype)


def _stock_single(problem: Problem) -> Runs:
    return _module(on_torch.stock_module(problem), problem, torch.float32)


def _flash(problem: Problem, dtype: torch.dtype) -> Runs:
    """FlashRNN's LSTM after the same product of inputs; it is not compared."""
    run: Any = import_module(_OTHER).flashrnn
    units, params = problem.point.units, problem.params[PLAIN]

    def leaf(array: np.ndarray, *shape: int) -> Tensor:
        return torch.tensor(array).reshape(shape).to(dtype).requires_grad_()

    kernel = leaf(params["kernel"], units, 4 * units)
    by_gate = np.ascontiguousarray(
        params["recurrent_kernel"].reshape(units, 4, units).swapaxes(0, 1)
    )
    recurrent = leaf(by_gate, 4, 1, units, units)
    bias = leaf(params["bias"], 4, 1, units)

    def call(x: Tensor) -> Tensor:
        projected = (x @ kernel).unflatten(-1, (4, 1, units))
        return run(projected, recurrent, bias, function="lstm", backend="cuda_fused")[0][0]

    runs = on_torch.runs(
        lambda x: call(x)[:, :, 0], [kernel, recurrent, bias], problem, on_torch.transposed,
        batch_first=True, dtype=dtype,
    )  # fmt: skip
    return runs._replace(y=None, gradients=None)
