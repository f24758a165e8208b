"""Tables of dialects, options of commands and figures, put into the pages when they are built.

A page says where: `<!-- table: lstm -->` for the dialects of a cell, `<!-- table: outside -->`
for the relatives that a variant does not span, `<!-- help: train -->` for a command, and
`<!-- measured: zen5/torch-lstm -->` for the report of `lnrnn bench` in `docs/measured`.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
from collections.abc import Iterable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest import mock

from lnrnn import cli
from lnrnn.dialects import DIALECTS, OUTSIDE, Dialect, Source
from lnrnn.relatives import RELATIVES
from lnrnn.variant import Variant

_MARKER = re.compile(r"^<!-- (table|help|measured): ([\w/-]+) -->$", re.MULTILINE)
_MEASURED = Path(__file__).parents[1] / "measured"
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
# in the heading of a group, or in a column
_SHOWN = {
    "cell", "norms", "epsilon", "cell_norm", "cell_norm_gain", "cell_norm_bias", "hidden_norm",
    "reset", "update", "coupled",
}  # fmt: skip
_CELL_NORMS = {
    "none": "no cell norm",
    "output": "the output from the normed cell, the raw one carried",
    "carry": "the normed cell used and carried",
    "carry_only": "the normed cell carried, the output from the raw one",
    "after_tanh": "the activated cell normed",
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The hook of mkdocs: a page with its tables in place."""
    makers = {"table": table, "help": options, "measured": measured}
    return _MARKER.sub(lambda found: makers[found[1]](found[2]), markdown)


def drawings(group: Iterable[Dialect]) -> str:
    """The drawings of some dialects, one for each function, to be unfolded."""
    same: dict[Variant, list[str]] = {}
    for dialect in group:
        same.setdefault(dialect.variant, []).append(dialect.name)
    pictures = (
        f"[![{', '.join(names)}](drawings/{names[0]}.svg){{ width=380 loading=lazy }}]"
        f"(drawings/{names[0]}.svg)"
        for names in same.values()
    )
    shown = "\n".join(pictures)
    return f'<details markdown="1">\n<summary>Drawn</summary>\n\n{shown}\n\n</details>'


def options(command: str) -> str:
    """What a command prints for `--help`, as a block of text."""
    printed = io.StringIO()
    # argparse fits the text to the terminal, and then exits
    wide = mock.patch.dict(os.environ, COLUMNS="90")
    with wide, redirect_stdout(printed), suppress(SystemExit):
        cli.main([command, "--help"])
    return f"```text\n{printed.getvalue().strip()}\n```"


def measured(which: str) -> str:
    """The tables of a report of `lnrnn bench`; on what they were taken is for the page to say."""
    report = (_MEASURED / f"{which}.md").read_text(encoding="utf-8")
    return "".join(line for line in report.splitlines(keepends=True) if line[0] in "|\n")


def table(which: str) -> str:
    """The dialects of a cell, those of one function under one heading, or the relatives.

    Raises:
        ValueError: there is no such cell.
    """
    if which == "outside":
        rows = (
            (f"`{n}`", form.title, f"`{form.relative.cell}`", OUTSIDE[n], _source(form.source))
            for n, form in RELATIVES.items()
        )
        return _table(("name", "what it is", "cell", "why it is no variant", "source"), rows)
    groups: dict[str, list[Dialect]] = {}
    for dialect in DIALECTS.values():
        if dialect.variant.cell == which:
            groups.setdefault(function(dialect.variant), []).append(dialect)
    if not groups:
        raise ValueError(f"No dialect has the cell {which!r}; use one that Variant names.")
    heading = ("name", "what it is", "epsilon", "else", "source")
    return "\n\n".join(
        f"### {title}\n\n{_table(heading, map(_row, found))}\n\n{drawings(found)}"
        for title, found in groups.items()
    )


def function(variant: Variant) -> str:
    """What a variant computes, but for its constants, activations, biases and clips."""
    sites: dict[str, list[str]] = {}
    for site in ("x", "h", "sum", "pre"):
        gates = [norm.gates for norm in variant.norms_at(site)]
        if gates:
            sites.setdefault(_gates(gates, variant.gates), []).append(
                {"pre": "[x, h]"}.get(site, site)
            )
    found = [", ".join(f"{' and '.join(named)}{over}" for over, named in sites.items())]
    found = found if sites else ["no norm of the gates"]
    if variant.cell == "lstm" and not (variant.cell_norm == "none" and variant.hidden_norm):
        found.append(_CELL_NORMS[variant.cell_norm])
    found += ["the new h normed"] * variant.hidden_norm
    if variant.cell == "gru":
        found.append("one gate to reset and update" if variant.coupled else "")
        found += [f"reset {variant.reset}", f"update {variant.update}"]
    found += ["coupled gates"] * (variant.coupled and variant.cell == "lstm")
    text = "; ".join(part for part in found if part)
    return text[0].upper() + text[1:] if text[0] not in "xh" else text


def _gates(groups: list[str], every: str) -> str:
    """The gates of the norms at a site, in words."""
    if len(every) == 1 or groups == [every]:
        return ""
    if sorted(groups) == sorted(every):
        return ", gate by gate"
    return " over " + " and over ".join(f"`{gates}`" for gates in groups)


def _row(dialect: Dialect) -> tuple[str, ...]:
    variant = dialect.variant
    name = f"[`{dialect.name}`](drawings/{dialect.name}.svg)"
    source = _source(dialect.source)
    epsilon = f"{variant.epsilon:g}"
    return (name, dialect.title, epsilon, _else(variant), source)


def _else(variant: Variant) -> str:
    """Norms without a gain or a bias, and the fields that are not at their defaults."""
    lacking: dict[str, list[str]] = {}
    for norm in variant.norms:
        sites = lacking.setdefault(_lacks(norm.gain, norm.bias), [])
        sites += [norm.site] if norm.site not in sites else []
    if variant.cell_norm != "none":
        lack = _lacks(variant.cell_norm_gain, variant.cell_norm_bias)
        lacking.setdefault(lack, []).append("cell")
    found = [f"{' and '.join(sites)} {lack}" for lack, sites in lacking.items() if lack]
    for field in dataclasses.fields(variant):
        value = getattr(variant, field.name)
        if field.name not in _SHOWN and value != field.default:
            found.append(f"`{field.name}`" if value is True else f"`{field.name}={value}`")
    return ", ".join(found) or "–"


def _lacks(gain: bool, bias: bool) -> str:
    """What a norm has not, of gain and bias."""
    return {(True, True): "", (True, False): "without bias", (False, True): "without gain"}.get(
        (gain, bias), "without gain and bias"
    )


def _source(source: Source) -> str:
    where = source.path.split("::")[-1]
    commit = source.commit.split()[0]
    if _COMMIT.fullmatch(commit):
        repository = f"https://github.com/{source.repository}"
        return f"[{source.repository}]({repository}) @{commit[:8]}, `{where}`, {source.licence}"
    return f"{source.repository} {source.commit}, `{where}`, {source.licence}"


def _table(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heading, ("---",) * len(heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
