"""Dreamer's block GRU from PyTorch: our module, and TorchRL's where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lnrnn.bench import on_torch
from lnrnn.bench.problem import NORMALISED, Competitor, Problem, Runs
from lnrnn.relatives import RELATIVES
from lnrnn.torch import DreamerBlockGRU

_THEIRS = RELATIVES["torchrl_dreamerv3_blockgru"]


def competitors() -> list[Competitor]:
    """Ours by engine, and TorchRL's by its backend."""

    def ours(engine: str) -> Competitor:
        def build(problem: Problem) -> Runs:
            blocks, one = problem.params[NORMALISED]["gate_kernel"].shape[:2]
            module: Any = DreamerBlockGRU(
                problem.point.units,
                blocks * one,
                projection_size=problem.point.units,
                num_blocks=blocks,
                engine=engine,
                batch_first=True,
            )
            module.load_params(problem.params[NORMALISED])
            return _runs(module, problem, lambda found: found)

        return Competitor(f"lnrnn {engine}", NORMALISED, build, base=engine == "portable")

    found = [ours("native"), ours("portable")]
    if find_spec("torchrl"):
        found += [_torchrl("scan"), _torchrl("reference")]
    return found


def _torchrl(backend: str) -> Competitor:
    def build(problem: Problem) -> Runs:
        weights = _THEIRS.from_canonical(problem.params[NORMALISED])
        units, blocks = problem.point.units, len(problem.params[NORMALISED]["gate_kernel"])
        module = import_module("torchrl.modules").DreamerV3BlockGRU(
            units, units, projection_size=units, num_blocks=blocks, recurrent_backend=backend
        )
        module.load_state_dict({n: torch.tensor(np.array(w)) for n, w in weights.items()})
        return _runs(module, problem, _THEIRS.gradients)

    return Competitor(f"torchrl, {backend}", NORMALISED, build)


def _runs(
    module: Any,
    problem: Problem,
    canonical: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
) -> Runs:
    """Of a module on (B, T, I); `canonical` maps the gradients of its parameters."""
    names = [name for name, _ in module.named_parameters()]

    def call(x: Tensor) -> Tensor:
        return module(x)[0]

    def gradients(found: list[np.ndarray]) -> dict[str, np.ndarray]:
        return canonical(dict(zip(names, found, strict=True)))

    return on_torch.runs(call, list(module.parameters()), problem, gradients, batch_first=True)
