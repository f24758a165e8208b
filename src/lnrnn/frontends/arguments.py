"""Arguments of constructors: checked for type and range, as plain Python values."""

from __future__ import annotations

import math
from numbers import Real
from operator import index
from typing import Any

import numpy as np

from lnrnn.frontends.errors import ArgumentTypeError, TensorError


def size(name: str, given: Any, least: int = 1, example: int = 64) -> int:
    """An integer, a NumPy one as well, that is not below `least`."""

    def rule() -> str:  # not before it is broken: a symbol of torch.compile has no text
        kind = "a positive integer" if least == 1 else f"an integer, {least} or more"
        return f"{name} is {kind}; got {given!r}: use for example {example}."

    found = given
    if type(given) is not int:  # a symbol of torch.compile is one, and has no attributes
        if isinstance(given, bool | np.bool_) or not hasattr(given, "__index__"):
            raise ArgumentTypeError(rule())
        try:
            found = index(given)
        except TypeError as error:  # a tensor of floats or of several numbers has it too
            raise ArgumentTypeError(rule()) from error
    if found < least:
        raise TensorError(rule())
    return found


def flag(name: str, given: Any) -> bool:
    """True or False, and nothing that is merely true or false."""
    if not isinstance(given, bool):
        raise ArgumentTypeError(
            f"{name} is True or False; got {given!r}: pass a bool, by name where the order of "
            "arguments is in doubt."
        )
    return given


def switch(name: str, given: Any) -> bool:
    """A flag, of NumPy as well, or one of the integers 0 and 1 that programs pass for it."""
    try:
        found = int(given) if isinstance(given, np.bool_) else index(given)
    except TypeError:
        found = None
    return bool(found) if found in (0, 1) else flag(name, given)


def number(name: str, given: Any) -> float:
    """A real number as a float."""
    if isinstance(given, bool) or not isinstance(given, Real):
        raise ArgumentTypeError(
            f"{name} is a number; got {given!r}: pass a float, by name where the order of "
            "arguments is in doubt."
        )
    return float(given)


def rate(name: str, given: Any, with_one: bool = False) -> float:
    """A probability: at least 0, and below 1 or, `with_one`, at most 1."""
    found = number(name, given)
    if not (0 <= found < 1 or (with_one and found == 1)):
        raise ValueError(
            f"{name} is a probability, at least 0 and {'at most' if with_one else 'below'} 1; got "
            f"{given!r}: use 0 to switch it off."
        )
    return found


def bound(name: str, given: Any) -> float | None:
    """A positive number, or None."""
    found = None if given is None else number(name, given)
    if found is not None and (math.isnan(found) or found <= 0):
        raise ValueError(f"{name} is a positive bound or None; got {given!r}: use None.")
    return found


def word(name: str, given: Any) -> str:
    """A string."""
    if not isinstance(given, str):
        raise ArgumentTypeError(f"{name} is a string; got {given!r}: pass one of its names.")
    return given
