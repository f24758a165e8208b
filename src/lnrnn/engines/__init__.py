"""Engines: who computes a sequence, and which of them can."""
