"""Kernels as operations of JAX: compiled by Triton, launched by our own handler.

XLA gives the handler its stream, operands and results.  The compiled kernel is an attribute of the
operation, so that a program of XLA is whole in itself, see `csrc/ffi/cuda_call.h`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lnrnn.engines.native import core

TARGET = "lnrnn_launch"
# the pointers of kernels to what no array of JAX has, 64 bits
_WORDS = ("HS", "DQ", "WORDS")
_FLAG = "LOST"
_TYPES = {
    "float32": "*fp32",
    "bfloat16": "*bf16",
    "float16": "*fp16",
    "bool": "*u8",
    "int32": "*i32",
}
# in the order of `Parameter` in csrc/ffi/cuda_call.h
_OF_FLAG, _OF_NOTHING, _OF_SCALAR = -3, -2, -1

if core.missing() is None:
    jax.ffi.register_ffi_target(TARGET, core.xla_launch(), platform="CUDA")


class Binary(NamedTuple):
    """A compiled kernel.

    Args:
        key: what it is remembered by.
        name: in the image.
        image: a cubin.
        threads: of a program.
        shared: bytes of memory on chip of a program.
        parameters: how many it takes, with those that Triton adds.
    """

    key: str
    name: str
    image: bytes
    threads: int
    shared: int
    parameters: int


class How(NamedTuple):
    """How a kernel is launched, besides its arrays.

    Args:
        grid: how many programs, in one dimension or two.
        known: what it is compiled for.
        warps: of a program.
        at_once: whether all programs run at once.
    """

    grid: tuple[int, ...]
    known: Mapping[str, Any]
    warps: int
    at_once: bool = False


@cache
def binary(
    kernel: Any,
    signature: tuple[str, ...],
    known: tuple[tuple[str, Any], ...],
    warps: int,
    at_once: bool,
    capability: int,
) -> Binary:
    """A kernel compiled by Triton for a compute capability, which need not be here.

    Args:
        kernel: a function of Triton.
        signature: the types of its parameters, `"constexpr"` of those that are known.
        known: these by name.
        warps: of a program.
        at_once: whether all programs run at once.
        capability: 90 for 9.0.
    """
    # arrays of XLA begin at multiples of 16 bytes at least
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature) if kind[0] == "*"
    }
    types = dict(zip(kernel.arg_names, signature, strict=True))
    made = triton.compile(
        ASTSource(kernel, types, dict(known), aligned),
        target=GPUTarget("cuda", capability, 32),
        options=dict(num_warps=warps, num_stages=1, launch_cooperative_grid=at_once),
    )
    entry = re.search(r"\.entry\s+\w+\((.*?)\)", made.asm["ptx"], re.DOTALL)
    assert entry and not made.metadata.global_scratch_size
    image, name = made.asm["cubin"], made.metadata.name
    return Binary(
        key=hashlib.sha256(image).hexdigest()[:16] + name,
        name=name,
        image=image,
        threads=32 * made.metadata.num_warps,
        shared=made.metadata.shared,
        parameters=entry[1].count(".param"),
    )


def launch(
    kernel: Any,
    how: How,
    capability: int,
    given: Mapping[str, Any],
    made: Mapping[str, jax.ShapeDtypeStruct],
    over: Mapping[str, str] | None = None,
) -> dict[str, jax.Array]:
    """The arrays that a kernel makes, by the names of its parameters.

    Args:
        kernel: a function of Triton.
        how: how it is launched.
        capability: of the device, 90 for 9.0.
        given: its arrays and numbers; None is one that is absent, a shape without an array one
            that the kernel does not touch.
        made: what it makes; one that is given as well is changed in its place.
        over: what else takes the place of an array that is given, by name.
    """
    over = {n: n for n in made if n in given} | dict(over or {})
    given = {n: s for n, s in made.items() if not np.prod(s.shape)} | dict(given)
    made = {n: s for n, s in made.items() if np.prod(s.shape)}
    operands = [n for n, a in given.items() if isinstance(a, jax.Array)]
    results = list(made)
    places, scalars, signature, known = [], [], [], dict(how.known)
    for name in kernel.arg_names:
        value = given.get(name)
        if name in known:
            signature.append("constexpr")
        elif name in made:
            signature.append(_type(name, made[name]))
            places.append(len(operands) + results.index(name))
        elif isinstance(value, int):
            signature.append("i32")
            scalars.append(value)
            places.append(_OF_SCALAR)
        elif name == _FLAG:
            signature.append("*i32")
            places.append(_OF_FLAG)
        elif value is None:
            known[name] = None
            signature.append("constexpr")
        else:
            signature.append(_type(name, value))
            places.append(operands.index(name) if name in operands else _OF_NOTHING)
    known = tuple((n, v) for n, v in known.items() if n in kernel.arg_names)
    found = binary(kernel, tuple(signature), known, how.warps, how.at_once, capability)
    places += [_OF_NOTHING] * (found.parameters - len(places))
    grid = (*how.grid, 1, 1)[:3]
    call = jax.ffi.ffi_call(
        TARGET,
        list(made.values()),
        input_output_aliases={
            operands.index(g): results.index(m) for m, g in over.items() if m in made
        },
    )
    arrays = call(
        *(given[n] for n in operands),
        key=found.key,
        name=found.name,
        binary=found.image,
        launch=np.array([*grid, found.threads, found.shared, how.at_once], np.int64),
        parameters=np.array(places, np.int64),
        scalars=np.array(scalars, np.int64),
    )
    return dict(zip(results, arrays, strict=True))


def _type(name: str, like: Any) -> str:
    return "*i64" if name in _WORDS else _TYPES[like.dtype.name]
