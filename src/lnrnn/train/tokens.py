"""A text on the disk as numbers: files are read once, and windows of them when needed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lnrnn.train.corpus import Windows, check_characters
from lnrnn.train.files import replacing
from lnrnn.train.settings import UserError

_PIECE = 1 << 22  # characters in memory at a time
_UNICODE = 0x110000


@dataclass(frozen=True)
class TokenFile(Windows):
    """A text whose numbers lie in a file.

    Args:
        name: what to call the text.
        file: the numbers, without a header.
        dtype: of the numbers.
        characters: how many there are.
        vocabulary: the distinct characters, sorted.
        digest: SHA-256 of the text.
    """

    name: str
    file: Path
    dtype: str
    characters: int
    vocabulary: str
    digest: str

    @property
    def numbers(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleVariableOverride]
        # mapped anew for each batch: what a map has touched stays in memory as long as it
        return np.memmap(self.file, self.dtype, "r", shape=(self.characters,))


def load(paths: Sequence[str]) -> TokenFile:
    """The text of files one after another, with a new line between.

    The numbers are written once, to the folder `lnrnn` of XDG_CACHE_HOME or of ~/.cache,
    and found there while the files keep their sizes and times.

    Args:
        paths: UTF-8 files; directories stand for all files below them that are not hidden,
            sorted.

    Raises:
        UserError: no file, or one that is unreadable or not UTF-8 text, or all are empty
            or hold one character again and again.
    """
    files = [file for path in paths for file in _files(Path(path))]
    name = files[0].name if len(files) == 1 else f"{len(files):,} files from {paths[0]}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lnrnn"
    marks = [(str(f.absolute()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    key = hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:32]
    facts = cache / f"{key}.json"
    numbers = facts.with_suffix(".tokens")
    if not (facts.exists() and numbers.exists()):
        _write(name, files, numbers, facts)
    return TokenFile(name, numbers, **json.loads(facts.read_text(encoding="utf-8")))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.is_file():
            raise UserError(f"Cannot read the text {path}: there is no such file.")
        return [path]
    files = sorted(f for f in path.rglob("[!.]*") if f.is_file() and not _hidden(f, path))
    if not files:
        raise UserError(f"The directory {path} has no files: give one with texts.")
    return files


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _write(name: str, files: Sequence[Path], numbers: Path, facts: Path) -> None:
    """Read the files twice: for their characters, and to number them."""
    print(f"Numbering the characters of {name} once, into {numbers}", flush=True)
    seen = np.zeros(_UNICODE, bool)
    digest, characters = hashlib.sha256(), 0
    for piece in _pieces(files):
        digest.update(piece.encode())
        characters += len(piece)
        seen[_codes(piece)] = True
    vocabulary = "".join(map(chr, np.flatnonzero(seen)))
    check_characters(name, set(vocabulary))

    dtype = np.min_scalar_type(len(vocabulary) - 1)
    table = np.zeros(_UNICODE, dtype)
    table[seen] = np.arange(len(vocabulary))
    with replacing(numbers) as path, path.open("wb") as stream:
        for piece in _pieces(files):
            table[_codes(piece)].tofile(stream)
    content = {
        "dtype": dtype.name,
        "characters": characters,
        "vocabulary": vocabulary,
        "digest": digest.hexdigest(),
    }
    with replacing(facts) as path:
        path.write_text(json.dumps(content), encoding="utf-8")


def _pieces(files: Sequence[Path]) -> Iterator[str]:
    for place, file in enumerate(files):
        if place:
            yield "\n"
        try:
            with file.open(encoding="utf-8-sig") as stream:
                while piece := stream.read(_PIECE):
                    yield piece
        except OSError as error:
            raise UserError(f"Cannot read the text {file}: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8 text: {error.reason}.") from error


def _codes(piece: str) -> np.ndarray:
    return np.frombuffer(piece.encode("utf-32-le"), np.uint32)
