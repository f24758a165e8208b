"""The option that names the program to test."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--example", type=Path, help="the program built from examples/c")


@pytest.fixture
def program(request: pytest.FixtureRequest) -> Path:
    given = request.config.getoption("--example")
    assert given is not None, "These tests need --example PROGRAM: run make test-c."
    return given
