"""Tables on the console."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def columns(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as text: columns padded, numbers to the right.

    Example:
        >>> print(columns(["model", "BPC"], [["LSTM", "2.571"]]))
        model    BPC
        LSTM   2.571
    """
    lines = [list(heading), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [all(r[i][:1] in "-0123456789" for r in lines[1:]) for i in range(len(widths))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )
