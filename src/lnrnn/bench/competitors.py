"""What is measured on a framework, once it is loaded."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from lnrnn.bench.problem import Competitor
from lnrnn.bench.settings import Settings
from lnrnn.engines.native import core
from lnrnn.train.program import load_keras


def of(settings: Settings) -> list[Competitor]:
    """What is measured on the framework of the settings, which is loaded, ours first."""
    _limit_threads(settings.threads)
    if settings.device == "cuda":
        return _module("on_cuda").competitors(settings)
    load_keras(settings.framework, "--framework")
    framework, float32 = settings.framework, settings.dtype == "float32"
    if framework == "torch":
        torch: Any = import_module("torch")
        torch.set_num_threads(settings.threads)
    if settings.task == "fit":
        return _module("fit").competitors(settings)
    if settings.task == "blocks":
        return _module("blocks").competitors()
    found: list[Competitor] = []
    if framework == "torch":
        found += _module("on_torch").competitors(settings)
    if settings.task == "sequence":
        found += _module("on_keras").sequence(settings)
        if float32 and framework == "jax":
            found += _module("on_jax").competitors(settings.cell)
        if float32:
            found.append(_module("core_call").competitor(framework, settings.threads))
    return found


def _module(name: str) -> Any:
    """A module of this package that loads a framework."""
    return import_module(f"lnrnn.bench.{name}")


def _limit_threads(threads: int) -> None:
    """Let this process use so many processors; before frameworks are loaded."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if hasattr(os, "sched_setaffinity") and threads < core.available_threads():
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
