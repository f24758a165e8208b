"""Formulas as MathML, made when the pages are built: browsers draw it by themselves.

The extension arithmatex marks where TeX is; a page then needs no script and asks no other site.
"""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

# <span class="arithmatex">\(...\)</span> within a line, <div class="arithmatex">\[...\]</div> apart
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(html: str, **_: Any) -> str:
    """The hook of mkdocs: a page with its formulas in place."""
    return _FORMULA.sub(_formula, html)


def _formula(found: re.Match[str]) -> str:
    if found[1] == "span":
        return convert(unescape(found[2]))
    return f'<p class="formula">{convert(unescape(found[2]), display="block")}</p>'
