"""Weights of relatives: from other programs' files into safetensors, and back into arrays."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lnrnn.convert import safetensors
from lnrnn.convert.errors import FileError
from lnrnn.convert.tensors import SEPARATORS, Container
from lnrnn.convert.weights import check_float
from lnrnn.relatives.relative import Relative
from lnrnn.relatives.table import RELATIVES, Published
from lnrnn.relatives.weights import Sizes, sizes_of

Array = np.ndarray

KEY = "lnrnn.relative"


@dataclass(frozen=True)
class Found:
    """A relative in a file of another program.

    Args:
        scope: what stands before the names of its weights.
        form: the published form.
        sizes: of the cell.
        names: of its weights, in the file.
    """

    scope: str
    form: Published
    sizes: Sizes
    names: tuple[str, ...]

    def __str__(self) -> str:
        where = self.scope or "the top of the file"
        return f"{self.form.name} at {where}, I={self.sizes.inputs} H={self.sizes.units}"


def find(container: Container, select: str | None = None) -> list[Found]:
    """The relatives in a file, told by the names and the shapes of their weights.

    Args:
        container: the file.
        select: the start of their names.
    """
    found = []
    for form in RELATIVES.values():
        for scope in form.scopes(container.entries):
            if not scope.startswith(select or "") or (scope and scope[-1] not in SEPARATORS):
                continue
            names = tuple(form.under(container.entries, scope))
            shapes = {n: container.entries[n].shape for n in names}
            try:
                # of their shapes alone: nothing of the file is read
                params = form.to_canonical(
                    {n: np.broadcast_to(False, s) for n, s in shapes.items()}
                )
            except (ValueError, IndexError):
                continue
            found.append(Found(scope, form, sizes_of(form.relative, params), names))
    return found


def read(container: Container, form: Published, select: str | None = None) -> dict[str, Array]:
    """The canonical weights of one relative in a file of another program.

    Args:
        container: the file.
        form: whose weights they are.
        select: the start of their names, where the file has several such cells.

    Raises:
        FileError: the file has no such cell, several, or weights of other shapes.
    """
    scopes = [s for s in form.scopes(container.entries) if s.startswith(select or "")]
    if len(scopes) != 1:
        raise FileError(
            f"--from {form.name} reads one cell, whose weights have the names "
            f"{', '.join(form.layout)} behind a prefix; the file has {len(scopes)}, {scopes[:8]}: "
            "name another form, or the prefix with --select."
        )
    weights = {n: container.entries[n].load() for n in form.under(container.entries, scopes[0])}
    for name, value in weights.items():
        check_float(name, value)
    try:
        return form.to_canonical(weights)
    except (ValueError, IndexError) as error:
        raise FileError(str(error)) from error


def save(path: str | os.PathLike[str], relative: Relative, params: Mapping[str, Array]) -> None:
    """Write a relative and its canonical weights to a safetensors file."""
    sizes_of(relative, params)
    arrays = {name: np.ascontiguousarray(value) for name, value in params.items()}
    fields = {f.name: getattr(relative, f.name) for f in dataclasses.fields(relative) if f.init}
    safetensors.write(Path(path), arrays, {"format": "np", KEY: json.dumps(fields)})


def load(path: str | os.PathLike[str]) -> tuple[Relative, dict[str, Array]]:
    """The relative and its canonical weights in a file that `lnrnn convert` or `save` wrote.

    Raises:
        FileError: a file of another kind, or weights that do not fit.

    Example:
        >>> from lnrnn.relatives import Relative
        >>> lrn = {"kernel": np.ones((3, 12)), "x_norm_gain": np.ones(12)}
        >>> save("lrn.safetensors", Relative(cell="lrn"), lrn | {"x_norm_bias": np.ones(12)})
        >>> load("lrn.safetensors")[0].cell
        'lrn'
    """
    return from_container(safetensors.read(Path(path)))


def is_ours(container: Container) -> bool:
    """Whether a container describes a relative as `save` does."""
    return container.kind == "safetensors" and KEY in container.facts


def from_container(container: Container) -> tuple[Relative, dict[str, Array]]:
    """The relative of a file that `save` wrote."""
    if not is_ours(container):
        raise FileError(
            f"A file of a relative has the metadata {KEY!r}; this one has not: use lnrnn.load for "
            "layers with a variant, lnrnn convert for another program's file."
        )
    params = {name: entry.load() for name, entry in container.entries.items()}
    try:
        fields = safetensors.parse_json(container.facts[KEY].encode(), f"the metadata {KEY!r}")
        relative = Relative(**fields)
        sizes_of(relative, params)
    except (TypeError, ValueError) as error:
        raise FileError(
            f"The file describes no relative: {re.sub(chr(10), ' ', str(error))}"
        ) from error
    return relative, params


def originals(relative: Relative, params: Mapping[str, Array], name: str) -> dict[str, Array]:
    """The weights as the original program of a form names and packs them.

    Raises:
        FileError: the form computes something else.
    """
    form = RELATIVES.get(name)
    if form is None or form.relative != relative:
        same = [n for n, one in RELATIVES.items() if one.relative == relative]
        raise FileError(
            f"The forms of {relative} are {', '.join(same) or 'none'}; got --as {name}: write one "
            "of these, or a file of this package."
        )
    return form.from_canonical(params)
