"""The CUDA device of a process, asked of NVIDIA's driver, without a framework."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import NamedTuple

# by name in the driver's interface
_PROCESSORS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_SHARED = 97  # CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN


class Device(NamedTuple):
    """What the choice of a kernel depends on.

    Args:
        major: of the compute capability.
        minor: the same.
        processors: how many there are.
        shared: bytes of memory on chip that a program may have.
        name: of the device.
        driver: its version as a number.
    """

    major: int
    minor: int
    processors: int
    shared: int
    name: str = ""
    driver: int = 0


@cache
def first() -> Device | None:
    """The first device that this process sees, or None where there is no driver or no device."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, number = ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return None

    def attribute(which: int) -> int:
        failed = cuda.cuDeviceGetAttribute(ctypes.byref(number), which, device)
        return 0 if failed else number.value

    found = [attribute(which) for which in (_MAJOR, _MINOR, _PROCESSORS, _SHARED)]
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDriverGetVersion(ctypes.byref(number))
    return Device(*found, name.value.decode(), number.value)
