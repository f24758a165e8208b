"""The list of versions on published pages, and there only: it is a file above them."""

from __future__ import annotations

import os
from typing import Any


def on_config(config: Any) -> Any:
    """Offer the other versions where mike builds one of them, which its variable says."""
    if "MIKE_DOCS_VERSION" in os.environ:
        config["extra"]["version"] = {"provider": "mike"}
    return config
