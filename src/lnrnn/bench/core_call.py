"""The C++ core called on NumPy arrays: what a call costs without any framework around it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from lnrnn.bench.problem import NORMALISED, Competitor, Problem, Runs
from lnrnn.bench.settings import OVERHEAD
from lnrnn.engines.fused.call import Inputs, Numbers
from lnrnn.engines.fused.sequence import sequence
from lnrnn.engines.native import call, core
from lnrnn.engines.native.call import Cell
from lnrnn.variant import Variant


def competitor(framework: str, threads: int) -> Competitor:
    """The core at the point of the overhead; `framework` only prepares its arrays."""

    def build(problem: Problem) -> Runs:
        cell, numbers, inputs = _inputs(framework, problem)
        results = call.result_shapes(cell, inputs, kept=True)
        gradients = call.gradient_shapes(inputs)
        given = {n: a for n, a in inputs._asdict().items() if a is not None}
        given |= {n: np.empty(s, np.float32) for n, s in (results | gradients).items()}
        given["dh"] = problem.dy
        at = {n: a.ctypes.data for n, a in given.items()}
        kept = {n: p for n, p in at.items() if n != "dh" and n not in gradients}
        forward = call.listed({n: p for n, p in kept.items() if n not in call.KEPT})
        training = call.listed(kept)
        backward = call.listed({n: p for n, p in at.items() if not n.endswith("_last")})
        sizes = call.sizes(cell, inputs)

        def run(addresses: list[int], back: bool) -> None:
            core.run(
                cell, numbers, sizes, addresses, back=back, dtype="float32", threads=threads,
            )  # fmt: skip

        def infer() -> None:
            run(forward, False)

        def train() -> None:
            run(training, False)
            run(backward, True)

        def y() -> np.ndarray:
            infer()
            return given["h"]

        return Runs({"forward": infer, "training": train}, y)

    return Competitor("lnrnn core", NORMALISED, build, lambda point: point == OVERHEAD)


def _inputs(framework: str, problem: Problem) -> tuple[Cell, Numbers, Inputs]:
    """What the engine hands to the core, as NumPy arrays."""
    ops: Any = import_module(f"lnrnn.engines.portable.ops_{framework}")
    module, function = {
        "torch": ("torch", "tensor"),
        "jax": ("jax.numpy", "asarray"),
        "tensorflow": ("tensorflow", "constant"),
    }[framework]
    tensor = getattr(import_module(module), function)
    variant, units = problem.variants[NORMALISED], problem.point.units
    caught: list[tuple[Cell, Numbers, Inputs]] = []

    def recurrence(variant: Variant, numbers: Numbers, inputs: Inputs) -> Any:
        arrays = (None if a is None else np.array(a, order="C") for a in inputs)
        caught.append((call.cell_of(call.encode(variant)), numbers, Inputs(*arrays)))  # pyright: ignore
        return inputs.x, inputs.h0, inputs.h0

    zeros = np.zeros((problem.point.batch, units), np.float32)
    sequence(
        ops,
        recurrence,
        variant,
        {n: tensor(a) for n, a in problem.params[NORMALISED].items()},
        tensor(problem.x),
        tuple(tensor(zeros) for _ in variant.states),
    )
    return caught[0]
