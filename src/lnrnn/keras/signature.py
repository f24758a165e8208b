"""Constructors with the positional arguments of the Keras class that they replace."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

Init = Callable[..., None]


def in_order_of(stock: type, *inits: Init, without: Iterable[str]) -> Callable[[Init], Init]:
    """A decorator of a keyword-only `__init__`: positions are those of a Keras class.

    Args:
        stock: the Keras class whose `__init__` gives the order.
        inits: the functions whose keyword arguments the class takes, with their defaults.
        without: arguments that the class does not take.

    Returns:
        The decorator; what it returns shows all arguments in its signature.
    """
    found = {
        name: parameter
        for init in inits
        for name, parameter in inspect.signature(init).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in set(without)
    }
    order = [n for n in inspect.signature(stock.__init__).parameters if n in found]
    positional = [
        inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        inspect.Parameter("units", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        *(found[n].replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in order),
    ]
    rest = [p for n, p in found.items() if n not in order]
    others = inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)

    def decorate(init: Init) -> Init:
        @functools.wraps(init)
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
            for name, value in zip(("units", *order), args, strict=False):
                if name in kwargs:
                    raise TypeError(
                        f"{name} is given once; got it by position and by name: drop one."
                    )
                kwargs[name] = value
            if len(args) > 1 + len(order):
                raise TypeError(
                    f"{type(self).__name__} takes {1 + len(order)} arguments by position; got "
                    f"{len(args)}: name the others."
                )
            init(self, **kwargs)

        wrapper.__signature__ = inspect.Signature([*positional, *rest, others])  # pyright: ignore[reportAttributeAccessIssue]
        return wrapper

    return decorate
