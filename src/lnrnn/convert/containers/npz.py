"""NumPy's .npz, also within a file of Stable Baselines, and what zip archives have to satisfy."""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy

from lnrnn.convert.errors import FileError
from lnrnn.convert.tensors import Container, Entry, check_expansion, whole

Array = np.ndarray
# the path of an archive, or one in memory
Source = Path | bytes

_HEADER = 1 << 16
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# of a damaged archive, once the file is known to be there
DAMAGED = (
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeError,
    ValueError, OverflowError, OSError,
)  # fmt: skip


def members(source: Source) -> dict[str, zipfile.ZipInfo]:
    """The files in an archive.

    Raises:
        FileError: a damaged archive, a name that stands there twice or leads out of the archive,
            or files that would unpack to far more than the archive's size.
    """
    try:
        with _opened(source) as archive:
            found = archive.infolist()
    except DAMAGED as error:
        raise damaged(error) from error
    twice = [name for name, times in Counter(i.filename for i in found).items() if times > 1]
    if twice:
        raise FileError(f"A name stands once in an archive; {twice[0][:80]!r} stands there twice.")
    for info in found:
        parts = info.filename.replace("\\", "/").split("/")
        if ".." in parts or info.filename.startswith(("/", "\\")) or ":" in parts[0]:
            raise FileError(
                f"The files of an archive lie inside it; {info.filename[:80]!r} leads out of it."
            )
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    check_expansion(sum(info.file_size for info in found), size)
    return {info.filename: info for info in found}


def member(path: Path, name: str) -> bytes:
    """One file of an archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)
    except DAMAGED as error:
        raise damaged(error) from error


def damaged(error: BaseException) -> FileError:
    """The error for an archive that cannot be unpacked."""
    text = " ".join(str(error).split()).rstrip(".")[:120]
    return FileError(f"The archive is damaged: {text or type(error).__name__}.")


def read(source: Source) -> Container:
    """The arrays of an .npz file; arrays of Python objects are refused."""
    held = [name for name in members(source) if name.endswith(".npy")]
    entries = {}
    try:
        with _opened(source) as archive:
            for member in held:
                # variables of TensorFlow 1 came with the number of an output in their names
                name = member.removesuffix(".npy").removesuffix(":0")
                if name in entries:
                    raise FileError(f"A name stands once in a file; {name[:80]!r} is there twice.")
                entries[name] = _entry(archive, source, member)
    except DAMAGED as error:
        raise error if isinstance(error, FileError) else damaged(error) from error
    if not entries:
        raise FileError("An .npz file holds arrays; this archive has none.")
    return Container("npz", entries, ordered=True)


def read_stable_baselines(path: Path) -> Container:
    """The parameters of a model of Stable Baselines 2: an .npz within the archive.

    `data` beside it, which holds pickles, is not read.
    """
    return read(member(path, "parameters"))


def _opened(source: Source) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source)


def _entry(archive: zipfile.ZipFile, source: Source, member: str) -> Entry:
    """One array, as its header describes it."""
    with archive.open(member) as stream:
        shape, _, dtype = _header(member, cast("BinaryIO", stream))
        there = archive.getinfo(member).file_size - stream.tell()
    due = math.prod(shape) * dtype.itemsize
    if due != there:
        raise FileError(
            f"An array takes the space of its shape; {member!r} of shape {str(shape)[:60]} takes "
            f"{due} bytes and has {there}."
        )
    return Entry(shape, dtype, _loader(source, member))


def _loader(source: Source, member: str) -> Any:
    def load() -> Array:
        try:
            with _opened(source) as archive, archive.open(member) as opened:
                stream = cast("BinaryIO", opened)
                shape, fortran, dtype = _header(member, stream)
                raw = whole(stream, math.prod(shape) * dtype.itemsize)
                stream.read()  # to the end, where the checksum is compared
        except DAMAGED as error:
            raise error if isinstance(error, FileError) else damaged(error) from error
        flat = np.frombuffer(raw, dtype).astype(dtype.newbyteorder("="))
        return flat.reshape(shape, order="F" if fortran else "C")

    return load


def _header(name: str, stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    if version not in _HEADERS:
        raise FileError(f"Arrays are of the .npy versions 1.0 and 2.0; {name!r} is of {version}.")
    try:
        shape, fortran, dtype = _HEADERS[version](stream, max_header_size=_HEADER)
    except (SyntaxError, tokenize.TokenError, RecursionError, MemoryError, TypeError) as error:
        # NumPy reads the header as Python's literals
        raise damaged(ValueError(f"the header of {name[:80]!r} is none")) from error
    if dtype.hasobject:
        raise FileError(
            f"Arrays of Python objects are pickles and are not read; {name!r} is one: save numbers."
        )
    if any(n < 0 for n in shape):
        raise FileError(f"Shapes have no negative sizes; {name!r} has {shape}.")
    return shape, fortran, dtype
