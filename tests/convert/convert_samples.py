"""Random weights of every form, and files that hold them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lnrnn.convert import Weights, originals
from lnrnn.convert.forms import FORMS
from lnrnn.dialects import Shared
from lnrnn.params import Sizes, shapes
from lnrnn.testing import random_params, sizes_for
from lnrnn.variant import Variant

Array = np.ndarray


def rng(seed: int = 1607) -> np.random.Generator:
    return np.random.default_rng(seed)


def weights_of(
    variant: Variant, dtype: str = "float32", sizes: Sizes | None = None, seed: int = 1607
) -> Weights:
    """Random weights of a variant."""
    params = random_params(variant, sizes or sizes_for(variant), rng(seed))
    return Weights(variant, {n: v.astype(dtype) for n, v in params.items()})


def original_weights(form: str, dtype: str = "float32", seed: int = 1607) -> dict[str, Array]:
    """Random weights as the original of a form has them, the unused ones included."""
    dialect = FORMS[form]
    drawn = random_params(dialect.variant, sizes_for(dialect.variant), rng(seed))
    if any(isinstance(layout, Shared) for layout in dialect.layout.values()):
        drawn = dialect.to_canonical(dialect.gradients(drawn, ""))  # with equal copies
    found = originals(Weights(dialect.variant, drawn), form, "")
    noise = rng(seed + 1)
    ones = shapes(dialect.variant, sizes_for(dialect.variant)).items()
    used = dialect.gradients({n: np.ones(s, bool) for n, s in ones}, "")
    for name, value in found.items():
        unused = ~used[name].astype(bool)
        value[unused] = noise.standard_normal(int(unused.sum()))
    return {n: v.astype(dtype) for n, v in found.items()}


def save_npz(path: Path, arrays: dict[str, Array]) -> Path:
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    return path


def equal_bits(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two sets of arrays have the same names, dtypes, shapes and bits."""
    return set(one) == set(other) and all(
        one[n].dtype == other[n].dtype
        and one[n].shape == other[n].shape
        and one[n].tobytes() == other[n].tobytes()
        for n in one
    )


def prefixed(scope: str, arrays: dict[str, Array]) -> dict[str, Array]:
    return {scope + n: a for n, a in arrays.items()}


def one_sentence(text: str) -> bool:
    """Whether an error is a single sentence on a single line."""
    return text.endswith(".") and "\n" not in text and len(text) < 1200 and ". " not in text


def names(given: Iterable[Any]) -> list[str]:
    return [str(g) for g in given]


def numbers(tensor: Any) -> np.ndarray:
    """What a layer gave, on every backend."""
    return np.asarray(keras.ops.convert_to_numpy(tensor))
