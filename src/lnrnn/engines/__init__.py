"""Engines: who computes a sequence, and which of them can."""

from lnrnn.engines.counting import runs

__all__ = ["runs"]
