"""Layer-normalised recurrent networks for Keras, PyTorch and JAX."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lnrnn.variant import Norm as Norm
from lnrnn.variant import Variant as Variant

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Import what needs NumPy, and what few programs use, on first use."""
    if name == "dialects":
        return import_module("lnrnn.dialects")
    if name in ("load", "save"):
        return getattr(import_module("lnrnn.convert"), name)
    if name == "Stream":
        return import_module("lnrnn.stream").Stream
    if name == "draw":
        return import_module("lnrnn.insight.drawing").draw
    if name in ("trace", "diagnose", "plot"):
        return getattr(import_module(f"lnrnn.insight.{name}"), name)
    raise AttributeError(f"module 'lnrnn' has no attribute {name!r}")
