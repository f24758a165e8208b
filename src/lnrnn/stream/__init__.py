"""Trained layers, one step at a time, in microseconds."""

from __future__ import annotations

from lnrnn.stream.stream import Stream as Stream
