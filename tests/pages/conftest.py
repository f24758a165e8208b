"""The built pages, which `make docs` leaves in `site`."""

from __future__ import annotations

from pathlib import Path

import pytest

SITE = Path(__file__).parents[2] / "site"


@pytest.fixture(scope="session")
def site() -> Path:
    assert (SITE / "index.html").exists(), f"{SITE} has no pages; run make docs first"
    return SITE
