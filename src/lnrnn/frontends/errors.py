"""Errors that are caught both as those of Python and as those of the frameworks."""

from __future__ import annotations


class TensorError(ValueError, RuntimeError):
    """A size, shape, dtype or device that does not fit; PyTorch raises RuntimeError for most."""


class ArgumentTypeError(ValueError, TypeError):
    """An argument of another type than it has; PyTorch and Keras raise TypeError for most."""
