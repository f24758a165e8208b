"""JAX's launches of kernels on a CPU: our handler, a driver that is none, and Triton's interpreter.

The driver tells of each launch what it was given; the kernel then is interpreted on the memory that
its parameters point at.
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import jax
import torch

from lnrnn.engines.triton import jax_launch
from lnrnn.engines.triton.jax_launch import Binary

ROOT = Path(__file__).parents[2]
SHARED = 60_000
_DTYPES = {
    "*fp32": torch.float32,
    "*bf16": torch.bfloat16,
    "*fp16": torch.float16,
    "*u8": torch.uint8,
    "*i32": torch.int32,
    "*i64": torch.int64,
}
_TELL = ctypes.CFUNCTYPE(
    None,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_uint),
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_void_p),
)


class Launch(NamedTuple):
    """What the driver was told."""

    kernel: str
    grid: tuple[int, ...]
    threads: int
    shared: int
    at_once: bool
    scalars: dict[str, int]
    nothing: list[str]


class Emulated:
    """The library of the driver, and what it was told."""

    def __init__(self, folder: Path) -> None:
        path = folder / "libcuda.so.1"
        command = [
            "g++", "-std=c++20", "-O0", "-fPIC", "-shared", "-Wl,-soname,libcuda.so.1",
            f"-I{ROOT / 'csrc/ffi'}", "-isystem", jax.ffi.include_dir(),
            str(ROOT / "csrc/test/cuda.cpp"), str(ROOT / "csrc/test/driver.cpp"),
            "-ldl", "-o", str(path),
        ]  # fmt: skip
        subprocess.run(command, check=True)
        # what the handler asks for by this name is this one
        self.library = ctypes.CDLL(str(path))
        self._tell = _TELL(self._told)
        self.library.lnrnn_tell(self._tell)
        handler = jax.ffi.pycapsule(self.library.lnrnn_launch_on_host)
        jax.ffi.register_ffi_target(jax_launch.TARGET, handler, platform="cpu")
        self.launches: list[Launch] = []
        self.failure: BaseException | None = None
        self._one = Lock()
        self._kernels: dict[str, Any] = {}

    def binary(
        self, kernel: Any, signature: tuple[str, ...], known: Any, warps: int, *_: Any
    ) -> Binary:
        """In place of what Triton compiles: the name under which the kernel is found again."""
        name = f"{kernel.fn.__module__}.{kernel.fn.__name__}.{len(self._kernels)}"
        self._kernels[name] = kernel, signature, dict(known)
        count = sum(kind != "constexpr" for kind in signature) + 2
        return Binary(name, name, name.encode(), 32 * warps, SHARED, count)

    def _told(self, name: Any, grid: Any, threads: int, shared: int, at_once: int, at: Any) -> None:
        # devices that XLA has made of one CPU call at once, and the interpreter has room for one
        with self._one:
            self._try(name, grid, threads, shared, at_once, at)

    def _try(self, name: Any, grid: Any, threads: int, shared: int, at_once: int, at: Any) -> None:
        try:
            self._run(name.decode(), tuple(grid[:3]), threads, shared, bool(at_once), at)
        except BaseException as failure:  # nothing above is Python
            self.failure = failure

    def _run(
        self, name: str, grid: tuple[int, ...], threads: int, shared: int, at_once: bool, at: Any
    ) -> None:
        kernel, signature, known = self._kernels[name]
        given: dict[str, Any] = {}
        scalars, nothing, place = {}, [], 0
        for parameter, kind in zip(kernel.arg_names, signature, strict=True):
            if kind == "constexpr":
                given[parameter] = known[parameter]
                continue
            if kind == "i32":
                scalars[parameter] = ctypes.cast(at[place], ctypes.POINTER(ctypes.c_int32))[0]
                given[parameter] = scalars[parameter]
            else:
                address = ctypes.cast(at[place], ctypes.POINTER(ctypes.c_uint64))[0]
                given[parameter] = _pointer(address, _DTYPES[kind])
                if not address:
                    nothing.append(parameter)
            place += 1
        # those that Triton adds
        assert not any(
            ctypes.cast(at[place + i], ctypes.POINTER(ctypes.c_uint64))[0] for i in (0, 1)
        )
        short = ".".join(name.split(".")[-3:-1])
        self.launches.append(Launch(short, grid, threads, shared, at_once, scalars, nothing))
        kernel[grid](**given)


def _pointer(address: int, dtype: torch.dtype) -> torch.Tensor:
    if not address:
        return torch.empty(0, dtype=dtype)
    memory = (ctypes.c_char * dtype.itemsize).from_address(address)
    return torch.frombuffer(memory, dtype=dtype)
