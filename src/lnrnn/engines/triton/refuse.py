"""Why the engine does not compute a request, on this machine."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

from lnrnn.engines.triton import describe
from lnrnn.variant import Variant

DTYPES = ("float32", "bfloat16", "float16")
LEAST_CAPABILITY = (8, 0)


def interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def refusal(variant: Variant, framework: str, dtype: str, device: str) -> str | None:
    """The first reason, or None."""
    return (
        (f"it computes for torch, not {framework}" if framework != "torch" else None)
        or missing()
        or _of_device(device)
        or describe.refusal(variant)
        or (f"it computes {', '.join(DTYPES)}, not {dtype}" if dtype not in DTYPES else None)
    )


def missing() -> str | None:
    """Whether Triton is missing."""
    return None if find_spec("triton") else "Triton is not installed: pip install 'lnrnn[triton]'"


def _of_device(device: str) -> str | None:
    if interpreted():
        return None if device == "cpu" else f"it is interpreted, on a CPU and not on {device}"
    if device != "cuda":
        return f"it computes on a CUDA device, not on {device}"
    return _of_capability()


@cache
def _of_capability() -> str | None:
    import torch

    if not torch.cuda.is_available() or torch.version.cuda is None:
        return "PyTorch finds no CUDA device"
    found = torch.cuda.get_device_capability()
    if found < LEAST_CAPABILITY:
        least = ".".join(map(str, LEAST_CAPABILITY))
        return f"it needs compute capability {least}, and the device has {found[0]}.{found[1]}"
    return None
