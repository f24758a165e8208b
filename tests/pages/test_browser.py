"""The built pages in Chromium, from files and below a path of a server, without a network."""

from __future__ import annotations

import functools
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import (  # pyright: ignore[reportMissingImports]: of make test-docs alone
    Browser,
    Page,
    sync_playwright,
)

PAGES = ("index", "dialects", "zero-prefixes", "how-it-is-fast", "maths/lstm")
PICTURES = {"index": 1, "zero-prefixes": 1, "how-it-is-fast": 1, "maths/lstm": 0}
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "These tests need Chromium; install it, or name it in CHROMIUM."
    with sync_playwright() as tools:
        yield tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module", params=["file", "http"])
def root(request, site: Path, tmp_path_factory) -> Iterator[str]:
    """Where the pages begin."""
    if request.param == "file":
        yield site.as_uri() + "/"
        return
    above = tmp_path_factory.mktemp("server")
    (above / "below").symlink_to(site)
    handler = functools.partial(Quiet, directory=str(above))
    server = ThreadingHTTPServer(("localhost", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}/below/"
    server.shutdown()


@pytest.fixture
def page(browser: Browser, root: str) -> Iterator[Page]:
    """A page of which every request stays below the root, and which meets no error."""
    asked: list[str] = []
    errors: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert not [url for url in asked if not url.startswith((root, "data:", "blob:"))]
    assert not errors


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_whole(page, root, name, scheme, tmp_path):
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{root}{name}.html", wait_until="load")
    text = page.locator("article").inner_text()
    assert "\\(" not in text and "\\[" not in text
    for width in (1280, 400):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    if name in PICTURES:
        images = page.locator("article img")
        sizes = images.evaluate_all("images => images.map(image => image.naturalWidth)")
        assert len(sizes) == PICTURES[name] and all(sizes)
    shot = page.screenshot(path=tmp_path / f"{name.replace('/', '-')}-{scheme}.png")
    assert len(set(shot)) > 200


def test_drawings_unfold(page, root):
    page.goto(f"{root}dialects.html")
    page.locator("details summary").first.click()
    picture = page.locator("details img").first
    picture.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('details img').naturalWidth > 0")


def test_the_search_finds_zoneout(page, root):
    page.goto(f"{root}index.html")
    page.click(".md-search__input")
    page.locator(".md-search__input").press_sequentially("zoneout")
    page.locator(".md-search-result__item").first.wait_for()
    assert "matching documents" in page.inner_text(".md-search-result__meta")
    assert "zoneout" in page.locator(".md-search-result__list").inner_text().lower()


def test_text_of_drawings_stays_in_its_box(page, site, root):
    """The bound on widths by which drawings are laid out, in the fonts that are here."""
    for name in ("tflite_lnlstm_peephole_proj_clip", "lingvo_lngru", "embodied_gru_prerms"):
        page.goto(f"{root}drawings/{name}.svg")
        beyond = page.evaluate(
            "[...document.querySelectorAll('rect + text')].filter(t => {"
            "const r = t.previousElementSibling.getBBox(), b = t.getBBox();"
            "return !t.matches('.title') && (b.x < r.x || b.x + b.width > r.x + r.width)"
            "}).map(t => t.textContent)"
        )
        assert not beyond
