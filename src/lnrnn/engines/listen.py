"""Who hears, for a while, what front ends ask of engines and what these answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# given an engine's function and its request, what is called in its place
Listener = Callable[[Callable[..., Any], Any], Callable[..., Any]]

_listener: Listener | None = None


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let a listener hear the calls of all engines that are chosen meanwhile."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


def heard(engine: Any) -> Any:
    """The engine, or, where somebody listens, one whose functions are heard."""
    return engine if _listener is None else _Heard(engine, _listener)


class _Heard:
    def __init__(self, engine: Any, listener: Listener) -> None:
        self._engine, self._listener = engine, listener
        self.name, self.supports = engine.name, engine.supports
        self.weights_dtype = engine.weights_dtype

    def load(self, request: Any) -> Callable[..., Any]:
        """The engine's function, heard."""
        return self._listener(self._engine.load(request), request)
