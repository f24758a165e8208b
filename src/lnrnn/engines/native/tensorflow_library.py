"""The library that gives TensorFlow its operators of the core."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import tensorflow as tf

from lnrnn.engines.native import _core  # pyright: ignore[reportAttributeAccessIssue]

_ADVICE = "install lnrnn again on Linux, with a C++20 compiler and TensorFlow 2.18 or newer"


@cache
def missing() -> str | None:
    """Why there are no operators, or None where there are."""
    return _load()[1]


def operators() -> Any:
    """The operators: `lnrnn_recurrence`, `lnrnn_block_recurrence` and their gradients."""
    return _load()[0]


@cache
def _load() -> tuple[Any, str | None]:
    path = _path()
    if not path.exists():
        return None, f"its library for TensorFlow was not compiled: {_ADVICE}"
    try:
        operators = tf.load_op_library(str(path))
    except tf.errors.OpError as error:
        return None, f"its library for TensorFlow does not load ({error.message})"
    library = ctypes.CDLL(str(path))
    library.lnrnn_missing.restype = ctypes.c_char_p
    lacking = library.lnrnn_missing().decode()
    if lacking:
        return (
            None,
            f"TensorFlow {tf.__version__} does not take its operators ({lacking}): {_ADVICE}",
        )
    library.lnrnn_use_core(ctypes.c_void_p(_core.core_for_tensorflow()))
    return operators, None


def _path() -> Path:
    return Path(_core.__file__).with_name("_tensorflow.dso")
