"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block succeeds.

    When the block fails, the file that was at `path` is untouched and the temporary one
    is removed.  Folders are made as needed.

    Example:
        >>> with replacing(Path("report.txt")) as file:
        ...     file.write_text("whole")
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # the suffix stays last: Keras, NumPy and matplotlib choose the format by it
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
