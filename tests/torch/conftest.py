"""What every test of the PyTorch front end starts from."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """The same random numbers in each test, whatever ran before."""
    torch.manual_seed(20160721)
