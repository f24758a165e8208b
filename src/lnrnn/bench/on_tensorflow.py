"""TensorFlow: the product that is the limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def product(a: np.ndarray, b: np.ndarray, dtype: str) -> Callable[[], Any]:
    """A compiled product of two matrices."""
    left, right = tf.cast(a, dtype), tf.cast(b, dtype)
    compiled = tf.function(tf.matmul)
    return lambda: compiled(left, right)
