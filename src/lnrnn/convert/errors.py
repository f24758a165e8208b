"""The error for files that cannot be used."""

from __future__ import annotations


class FileError(ValueError):
    """A file, or what was asked of it, that cannot be used; the message is one sentence."""


class TargetError(FileError):
    """A file that cannot be written, whatever is read."""
