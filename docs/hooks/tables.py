"""Tables of dialects and the options of commands, put into the pages when they are built.

A page says where: `<!-- table: lstm -->` for the dialects of a cell, `<!-- table: outside -->`
for the relatives that a variant does not span, `<!-- help: train -->` for a command.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
from collections.abc import Iterable
from contextlib import redirect_stdout, suppress
from typing import Any
from unittest import mock

from lnrnn import cli
from lnrnn.dialects import DIALECTS, OUTSIDE, Dialect, Source
from lnrnn.variant import Variant

_MARKER = re.compile(r"^<!-- (table|help): (\w+) -->$", re.MULTILINE)
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
# columns of their own
_SHOWN = {"cell", "norms", "norm", "epsilon", "cell_norm", "cell_norm_gain", "cell_norm_bias"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The hook of mkdocs: a page with its tables in place."""
    makers = {"table": table, "help": options}
    return _MARKER.sub(lambda found: makers[found[1]](found[2]), markdown)


def options(command: str) -> str:
    """What a command prints for `--help`, as a block of text."""
    printed = io.StringIO()
    # argparse fits the text to the terminal, and then exits
    wide = mock.patch.dict(os.environ, COLUMNS="90")
    with wide, redirect_stdout(printed), suppress(SystemExit):
        cli.main([command, "--help"])
    return f"```text\n{printed.getvalue().strip()}\n```"


def table(which: str) -> str:
    """The table of a cell's dialects, or for `"outside"` that of the relatives.

    Raises:
        ValueError: there is no such cell.
    """
    if which == "outside":
        return _table(("name", "why"), ((f"`{n}`", why) for n, why in OUTSIDE.items()))
    chosen = [d for d in DIALECTS.values() if d.variant.cell == which]
    if not chosen:
        raise ValueError(f"No dialect has the cell {which!r}; use one that Variant names.")
    lstm = which == "lstm"
    heading = ("name", "what it is", "norms", *(["cell norm"] if lstm else []))
    heading = (*heading, "epsilon", "else", "source", "licence")
    return _table(heading, (_row(d, lstm) for d in chosen))


def _row(dialect: Dialect, lstm: bool) -> tuple[str, ...]:
    variant = dialect.variant
    cell_norm = [_cell_norm(variant)] if lstm else []
    name, source = f"`{dialect.name}`", _source(dialect.source)
    start = (name, dialect.title, _norms(variant), *cell_norm, f"{variant.epsilon:g}")
    return (*start, _else(variant), source, dialect.source.licence)


def _norms(variant: Variant) -> str:
    kind = "RMS: " if variant.norm == "rms" else ""
    return kind + "; ".join(f"{n.site} `{n.gates}`{_affine(n.gain, n.bias)}" for n in variant.norms)


def _cell_norm(variant: Variant) -> str:
    if variant.cell_norm == "none":
        return "–"
    return variant.cell_norm + _affine(variant.cell_norm_gain, variant.cell_norm_bias)


def _affine(gain: bool, bias: bool) -> str:
    """What the norm has beside its statistics, where it is not both gain and bias."""
    return {(True, True): "", (True, False): " (gain)", (False, True): " (bias)"}.get(
        (gain, bias), " (plain)"
    )


def _else(variant: Variant) -> str:
    """The fields that are not at their defaults; of the reset gate always."""
    found = []
    for field in dataclasses.fields(variant):
        value = getattr(variant, field.name)
        if field.name in _SHOWN or (value == field.default and field.name not in _always(variant)):
            continue
        found.append(field.name if value is True else f"{field.name}={value}")
    return ", ".join(f"`{f}`" for f in found) or "–"


def _always(variant: Variant) -> tuple[str, ...]:
    return ("reset", "update") if variant.cell == "gru" else ()


def _source(source: Source) -> str:
    where = source.path.split("::")[-1]
    commit = source.commit.split()[0]
    if _COMMIT.fullmatch(commit):
        repository = f"https://github.com/{source.repository}"
        return f"[{source.repository}]({repository}) @{commit[:8]}, `{where}`"
    return f"{source.repository} {source.commit}, `{where}`"


def _table(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heading, ("---",) * len(heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
