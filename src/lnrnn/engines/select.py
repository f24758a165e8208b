"""The ordered table of engines, and the choice among them.

An engine says of a request either `Yes` or `No(reason)`.  A named engine runs or
raises that reason; `"auto"` takes the first engine of the table that says yes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from lnrnn.engines import listen
from lnrnn.relatives.relative import Relative
from lnrnn.variant import Variant


@dataclass(frozen=True)
class Request:
    """What a front end asks for, as far as the choice of an engine depends on it.

    Args:
        variant: the cell, which may be a relative.
        framework: whose tensors are computed: `"tensorflow"`, `"jax"` or `"torch"`.
        dtype: name of the compute dtype.
        unroll: whether the caller wants the time loop unrolled.
        functions: fields of the variant whose activation is a function without a name.
        device: kind of the device that holds the tensors, `"cpu"` or another.
        named: whether the caller has named the engine, so that no other may compute.
        batch_first: whether the caller's sequences begin with B, so that x and h are best in memory
            as (B, T, ...).
    """

    variant: Variant | Relative
    framework: str
    dtype: str = "float32"
    unroll: bool = False
    functions: tuple[str, ...] = ()
    device: str = "cpu"
    named: bool = False
    batch_first: bool = False


@dataclass(frozen=True)
class Yes:
    """The engine computes the request."""


@dataclass(frozen=True)
class No:
    """The engine cannot compute the request, and why."""

    reason: str


class Engine(Protocol):
    """One way to compute a sequence."""

    @property
    def name(self) -> str:
        """The name that users pass as `engine=`."""
        ...

    def supports(self, request: Request) -> Yes | No:
        """Whether this engine computes the request."""
        ...

    def load(self, request: Request) -> Callable[..., Any]:
        """The function that computes sequences, as [lnrnn.engines.portable.sequence][]."""
        ...

    def weights_dtype(self, request: Request) -> str:
        """Name of the dtype in which that function takes the weights."""
        ...


class Portable:
    """Framework operations, differentiated by the framework; runs everywhere."""

    name = "portable"
    _frameworks = ("tensorflow", "jax", "torch")

    def supports(self, request: Request) -> Yes | No:
        """Yes for every variant on TensorFlow, JAX and PyTorch."""
        if request.framework in self._frameworks:
            return Yes()
        return No(f"it computes with {', '.join(self._frameworks)}, not {request.framework}")

    def load(self, request: Request) -> Callable[..., Any]:
        """`lnrnn.engines.portable.sequence` on the operations of one framework."""
        from lnrnn.engines import portable

        bound = portable.on(request.framework)
        relative = isinstance(request.variant, Relative)
        return bound.relative_sequence if relative else bound.sequence

    def weights_dtype(self, request: Request) -> str:
        """That of the computation."""
        return request.dtype


class Native:
    """The recurrence in C++, fused forward and backward, on the CPU."""

    name = "native"

    def supports(self, request: Request) -> Yes | No:
        """Yes on a CPU, for every variant and Dreamer's block GRU."""
        from lnrnn.engines.native import block, core

        reason = (
            core.missing()
            or core.refusal_on(request.framework, request.device)
            or core.refusal_of(request.dtype)
        )
        if reason is None and isinstance(request.variant, Relative):
            reason = block.refusal(request.variant)
        if reason is None and request.functions:
            reason = f"{request.functions[0]} is a function without a name"
        return Yes() if reason is None else No(reason)

    def load(self, request: Request) -> Callable[..., Any]:
        """`lnrnn.engines.fused.sequence` on the tensors of one framework.

        Where TensorFlow traces for XLA or for a file, it is the portable engine's, but in half
        precision, where that one rounds more.
        """
        from lnrnn.engines import native

        if request.framework == "tensorflow" and request.dtype in ("float32", "float64"):
            from lnrnn.engines.native import tensorflow_op

            if tensorflow_op.by_definition():
                return Portable().load(request)
        if isinstance(request.variant, Relative):
            return native.block_gru_on(request.framework)
        return native.of(request.variant, request.framework, request.batch_first)

    def weights_dtype(self, request: Request) -> str:
        """float32 for half precision, which only the operands of products have."""
        return "float32" if request.dtype in ("bfloat16", "float16") else request.dtype


class Triton:
    """The recurrence in Triton kernels, fused forward and backward, on a GPU."""

    name = "triton"

    def supports(self, request: Request) -> Yes | No:
        """Yes on a CUDA device, for variants that the kernels compute."""
        from lnrnn.engines.triton import refuse

        if isinstance(request.variant, Relative):
            return No(f"it computes the cells of variants, not a {request.variant.cell}")
        reason = refuse.refusal(request.variant, request.framework, request.dtype, request.device)
        if reason is None and request.functions:
            reason = f"{request.functions[0]} is a function without a name"
        return Yes() if reason is None else No(reason)

    def load(self, request: Request) -> Callable[..., Any]:
        """`lnrnn.engines.fused.sequence` on tensors of PyTorch or JAX, computed by the kernels.

        The first call of each kind checks the kernels; where they are wrong on the device, the
        portable definition computes, with a warning, or it is an error if the engine was named.
        """
        from lnrnn.engines import triton

        return triton.on(request.framework, request.named).sequence

    def weights_dtype(self, request: Request) -> str:
        """float32 for half precision, which only the operands of products have."""
        return "float32" if request.dtype in ("bfloat16", "float16") else request.dtype


ENGINES: tuple[Engine, ...] = (Native(), Triton(), Portable())


def choose(engine: str, request: Request) -> Engine:
    """The engine of that name, or for `"auto"` the first that supports the request.

    Args:
        engine: `"auto"` or the name of an engine of the table.
        request: what is to be computed.

    Returns:
        The engine.

    Raises:
        ValueError: there is no engine of that name, or it cannot compute the request.

    Example:
        >>> choose("portable", Request(Variant(cell="gru"), "torch")).name
        'portable'
    """
    check_name(engine)
    refusals = []
    for candidate in ENGINES:
        if engine in ("auto", candidate.name):
            answer = candidate.supports(request)
            if isinstance(answer, Yes):
                # who listens knows variants
                variant = isinstance(request.variant, Variant)
                return listen.heard(candidate) if variant else candidate
            refusals.append(f"{candidate.name}: {answer.reason}")
    raise ValueError(
        f"engine={engine!r} cannot compute this layer ({'; '.join(refusals)}): "
        "use engine='auto' or change the option named."
    )


def step(request: Request, engine: str = "auto") -> Callable[..., Any]:
    """The function of one step: the portable engine's.

    On PyTorch's tensors it lets the native engine compute the steps that need no gradient, of
    weights that stay the same from step to step, where `engine` does not name the portable one.
    """
    choose("portable", request)
    if request.framework == "torch" and engine in ("auto", "native"):
        native = isinstance(Native().supports(request), Yes) and request.dtype == "float32"
        if native:
            from lnrnn.stream import torch_step

            return torch_step.step
    from lnrnn.engines import portable

    return portable.on(request.framework).step


def relative(framework: str, use: str) -> Callable[..., Any]:
    """The portable engine's function of a `"sequence"` or a `"step"` of a relative.

    What `choose` finds for a request with a relative may be faster, of a sequence.
    """
    from lnrnn.engines import portable

    return getattr(portable.on(framework), f"relative_{use}")


def check_name(engine: str) -> str:
    """Return `engine` if it is `"auto"` or a name of the table, else raise ValueError."""
    names = ("auto", *(e.name for e in ENGINES))
    if engine not in names:
        raise ValueError(f"engine is one of {', '.join(map(repr, names))}; got {engine!r}.")
    return engine


def report(request: Request) -> dict[str, Yes | No]:
    """What every engine of the table answers to a request, in the order of choice.

    Args:
        request: what is to be computed.

    Returns:
        `Yes` or `No(reason)` by the engine's name.

    Example:
        >>> report(Request(Variant(cell="gru"), "torch"))["portable"]
        Yes()
    """
    return {e.name: e.supports(request) for e in ENGINES}
