"""Files that are whole or not there."""

from __future__ import annotations

import errno
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
        ...     written = file.write_text("whole")
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # the suffix stays last: Keras, NumPy and matplotlib choose the format by it
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        # a message names the file that was asked for; a write that fails names none, and an error
        # without a number is a message already
        ours = error.filename is None or os.fspath(error.filename) == os.fspath(temporary)
        if ours and error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)
