"""Warnings that point at the user's line."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

# packages through which a user's line comes here
_BETWEEN = ("lnrnn", "torch", "keras", "tensorflow", "jax", "flax")


def warn(message: str) -> None:
    """Warn at the nearest caller outside this package and the frameworks."""
    level, frame = 1, sys._getframe()
    while frame is not None and _package(frame) in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def _package(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "").partition(".")[0]
