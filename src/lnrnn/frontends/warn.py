"""Warnings that point at the user's line."""

from __future__ import annotations

import sys
import warnings


def warn(message: str) -> None:
    """Warn at the nearest caller outside this package."""
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("lnrnn."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
