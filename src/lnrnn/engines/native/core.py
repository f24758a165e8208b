"""The compiled core: whether it is there, its instruction sets, its threads, and a call of it."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lnrnn.engines.native.call import Cell

# in the order of `Precision` in `csrc/core/call.h`
_PRECISIONS = {"float32": 0, "float64": 1, "bfloat16": 2, "float16": 3}

try:
    from lnrnn.engines.native import _core  # pyright: ignore[reportAttributeAccessIssue]
except ImportError as error:
    _core: Any = None
    _missing = error
else:
    _missing = None

# in the order of `Framework` in csrc/core/runs.h
FRAMEWORKS = ("numpy", "torch", "jax", "tensorflow")
_INDEX = {name: i for i, name in enumerate(FRAMEWORKS)}


def missing() -> str | None:
    """Why there is no compiled core, or None where there is one."""
    if _missing is None:
        return None
    if isinstance(_missing, ModuleNotFoundError) or "cannot import name" in str(_missing):
        return (
            "its C++ core was not compiled when lnrnn was installed: install again with a C++20 "
            "compiler (GCC or Clang) at hand"
        )
    return f"its C++ core does not load ({_missing})"


def refusal_on(framework: str, device: str) -> str | None:
    """Why the core does not compute on a framework's tensors, or None."""
    if framework not in ("torch", "jax", "tensorflow"):
        return f"it computes with torch, jax and tensorflow, not {framework}"
    if device != "cpu":
        return f"it computes on a CPU, not on {device}"
    if framework == "jax":
        return refusal_on_jax()
    if framework == "tensorflow":
        from lnrnn.engines.native import tensorflow_library

        return tensorflow_library.missing()
    return None


def refusal_of(dtype: str) -> str | None:
    """Why the core does not compute in a dtype, or None."""
    if dtype in _PRECISIONS:
        return None
    return f"it computes in {', '.join(_PRECISIONS)}, not {dtype}"


def instruction_set() -> str:
    """The instruction set in use: the best here, or that of the variable LNRNN_ISA."""
    return _core.isa()


def instruction_sets() -> dict[str, str]:
    """The instruction sets that were compiled, the best first, and why not where one is of no
    use here; an empty reason where it is."""
    return dict(_core.isas())


def refusal_on_jax() -> str | None:
    """Why the handlers for JAX are not usable, or None."""
    if not hasattr(_core, "xla_handlers"):
        return "its C++ core was compiled without jaxlib's headers: install again with jaxlib there"
    # JAX takes handlers of older interfaces, and does not start at all with those of a newer one
    compiled, here = tuple(_core.xla_version()), xla_version()
    if here is None or (compiled[0] == here[0] and compiled <= here):
        return None
    words = [".".join(map(str, version)) for version in (compiled, here)]
    return (
        f"its C++ core was compiled for version {words[0]} of XLA's foreign functions, and jaxlib "
        f"has {words[1]}: install a newer jaxlib, or lnrnn from its source with this one there"
    )


@cache
def xla_version() -> tuple[int, int] | None:
    """The version of the interface of foreign functions in jaxlib, or None if it does not say."""
    spec = find_spec("jaxlib")
    if spec is None or spec.origin is None:
        return None
    header = Path(spec.origin).parent / "include" / "xla" / "ffi" / "api" / "c_api.h"
    if not header.is_file():
        return None
    found = dict(re.findall(r"define XLA_FFI_API_(MAJOR|MINOR) (\d+)", header.read_text()))
    return (int(found["MAJOR"]), int(found["MINOR"])) if len(found) == 2 else None


def xla_handlers() -> dict[str, Any]:
    """The handlers for JAX's foreign function interface, by name."""
    return _core.xla_handlers()


def xla_launch() -> Any:
    """The handler that launches kernels on CUDA."""
    return _core.xla_launch()


def run(
    cell: Cell,
    numbers: Sequence[float],
    sizes: Sequence[int],
    addresses: Sequence[int],
    *,
    back: bool,
    dtype: str,
    threads: int,
    host: bool = False,
    framework: str = "numpy",
) -> None:
    """One pass over dense arrays.

    Args:
        cell: the cell.
        numbers: the scalars of the call, as `Numbers`.
        sizes: as from [lnrnn.engines.native.call.sizes][].
        addresses: of the arrays, in the order of [lnrnn.engines.native.call.ARRAYS][]; 0 for one
            that is absent.
        back: a backward pass, else a forward one.
        dtype: of x; with one of half precision what is not in
            [lnrnn.engines.native.call.LIKE_X][] is float32.
        threads: how many to use at most.
        host: run on the OpenMP threads that `lend_openmp` found.
        framework: whose tensors these are, for the count of runs.
    """
    _core.run(
        cell.words, back, _PRECISIONS[dtype], sizes, numbers, addresses, threads, host,
        _INDEX[framework],
    )  # fmt: skip


def run_block(
    sizes: Sequence[int],
    numbers: Sequence[float],
    addresses: Sequence[int],
    *,
    back: bool,
    full: bool,
    threads: int,
    host: bool = False,
    framework: str = "numpy",
) -> None:
    """One pass of a block GRU over dense arrays.

    Args:
        sizes: as from [lnrnn.engines.native.block.words_of][].
        numbers: the scalars of the call.
        addresses: of the arrays, in the order of [lnrnn.engines.native.block.ARRAYS][]; 0 for
            one that is absent.
        back: a backward pass, else a forward one.
        full: whether the arrays are of float64, else of float32.
        threads: how many to use at most.
        host: run on the OpenMP threads that `lend_openmp` found.
        framework: whose tensors these are, for the count of runs.
    """
    _core.block(back, full, sizes, numbers, addresses, threads, host, _INDEX[framework])


def stream(file: bytes, batch: int, form: int) -> Any:
    """A stack of layers that advances step by step.

    Args:
        file: the bytes of a file of layers.
        batch: rows.
        form: of the matrices, as `Form` in `csrc/core/stream.h`.
    """
    return _core.Stream(file, batch, form)


def fingerprint(arrays: Sequence[tuple[int, int]]) -> int:
    """A number that tells weights apart: of arrays given by address and length in bytes."""
    return _core.fingerprint(arrays)


def runs(back: bool) -> dict[str, int]:
    """How often the core ran in this process, forward or backward, by the framework."""
    counts = [0] * len(FRAMEWORKS) if missing() else _core.runs(back)
    return dict(zip(FRAMEWORKS, counts, strict=True))


def forget() -> None:
    """Give the memory back that calls which are over have left for those to come."""
    if not missing():
        _core.forget()


def function(name: str, double: bool, n: int, x: int, y: int) -> None:
    """`"exp"` or an activation of n numbers at the address x, written to y."""
    _core.function(name, double, n, x, y)


@cache
def lend_openmp(folder: str) -> bool:
    """Use the OpenMP runtime that a framework in `folder` has loaded; whether there is one.

    A pool of our own beside it would compete with it: its workers spin after a product.
    """
    for path in _loaded("libgomp"):
        if Path(folder) in path.parents or not path.is_relative_to(Path(folder).parent):
            runtime = ctypes.CDLL(str(path))
            _core.use_openmp(
                *(
                    ctypes.cast(getattr(runtime, name), ctypes.c_void_p).value
                    for name in ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
                )
            )
            return True
    return False


def available_threads() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _loaded(name: str) -> list[Path]:
    """The shared libraries of that name in this process (on Linux)."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    found = {line.split()[-1] for line in maps.read_text().splitlines() if name in line}
    return sorted(Path(p) for p in found)
