"""What happens inside layers: traces, and what they say."""

from __future__ import annotations
