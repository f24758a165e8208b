"""What can be seen of the built pages without a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from lnrnn.dialects import DIALECTS


class Page(HTMLParser):
    """The visible text outside of code, and what a browser fetches by itself."""

    def __init__(self, path: Path):
        super().__init__()
        self.text, self.fetched = "", list[str]()
        self._silent: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.fetched.append(given.get("src") or "")
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.fetched.append(given.get("href") or "")
        if tag in ("script", "style", "code", "pre"):
            self._silent.append(tag)

    def handle_endtag(self, tag):
        if self._silent and self._silent[-1] == tag:
            self._silent.pop()

    def handle_data(self, data):
        if not self._silent:
            self.text += data


def test_no_formula_is_left_as_tex(site):
    for path in site.rglob("*.html"):
        found = re.search(r"\\[(\[]|\\(frac|sigma|mathrm|gamma)|\$\$", Page(path).text)
        assert not found, f"{path} shows {found}"


def test_nothing_is_fetched_from_another_site_and_all_is_there(site):
    for path in site.rglob("*.html"):
        for target in filter(None, Page(path).fetched):
            assert not re.match(r"(\w+:)?//", target), f"{path} fetches {target}"
            # the page for what is not found names files from the root of a server
            base = site if target.startswith("/") else path.parent
            file = base / target.split("?")[0].split("#")[0].lstrip("/")
            assert file.is_file(), f"{path} fetches {target}"


def test_every_dialect_has_a_drawing_and_the_page_shows_it(site):
    page = (site / "dialects.html").read_text(encoding="utf-8")
    for name in DIALECTS:
        assert (site / "drawings" / f"{name}.svg").is_file()
        assert f'href="drawings/{name}.svg"' in page
