"""The native engine's tests need its core: where it was not compiled they fail, and say so."""

from __future__ import annotations

import pytest

from lnrnn.engines.native import core


def pytest_configure() -> None:
    if core.missing():
        pytest.exit(f"The tests of the native engine need the engine; {core.missing()}.", 1)
