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
        _of_framework(framework)
        or missing()
        or _of_device(framework, device)
        or describe.refusal(variant)
        or (f"it computes {', '.join(DTYPES)}, not {dtype}" if dtype not in DTYPES else None)
    )


def missing() -> str | None:
    """Whether Triton is missing."""
    return None if find_spec("triton") else "Triton is not installed: pip install 'lnrnn[triton]'"


def _of_framework(framework: str) -> str | None:
    if framework not in ("torch", "jax"):
        return f"it computes for torch and jax, not {framework}"
    if framework == "jax" and not interpreted():
        from lnrnn.engines.native import core

        return core.missing() or core.refusal_on_jax()
    return None


def _of_device(framework: str, device: str) -> str | None:
    if interpreted() and device != "cpu":
        return f"it is interpreted, on a CPU and not on {device}"
    if interpreted():
        return _of_driver() if framework == "jax" else None
    # JAX says gpu
    if device not in (("gpu", "cuda") if framework == "jax" else ("cuda",)):
        return f"it computes on a CUDA device, not on {device}"
    return _of_torch() if framework == "torch" else _of_driver()


@cache
def _of_torch() -> str | None:
    import torch

    if not torch.cuda.is_available() or torch.version.cuda is None:
        return "PyTorch finds no CUDA device"
    return _of_capability(torch.cuda.get_device_capability())


@cache
def _of_driver() -> str | None:
    from lnrnn.engines.triton import device

    found = device.first()
    return "NVIDIA's driver finds no device" if found is None else _of_capability(found[:2])


def _of_capability(found: tuple[int, int]) -> str | None:
    if found < LEAST_CAPABILITY:
        least = ".".join(map(str, LEAST_CAPABILITY))
        return f"it needs compute capability {least}, and the device has {found[0]}.{found[1]}"
    return None
