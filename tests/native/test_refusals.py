"""What does not fit is refused before the core reads it, on each framework."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch

from lnrnn import Variant
from lnrnn.engines.fused.call import Inputs, Numbers
from lnrnn.engines.native import core
from lnrnn.engines.native.call import encode
from lnrnn.variant import Norm

T, B, INPUTS, H = 3, 2, 5, 4
VARIANT = Variant(cell="gru", norms=(Norm("x"), Norm("h")))
TENSOR = {"torch": torch.tensor, "jax": jnp.asarray, "tensorflow": tf.convert_to_tensor}


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(4)
    shapes = {"kernel": (INPUTS, 3 * H), "recurrent": (H, 3 * H), "x": (T, B, INPUTS), "h0": (B, H)}
    shapes |= dict.fromkeys(("gain_x", "shift_x", "gain_h", "shift_h"), (3 * H,))
    found = {n: random.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    return found | {"mask": random.random((T, B)) < 0.7}


WRONG: dict[str, tuple[str, Any, str]] = {
    "a batch": ("h0", lambda v: v[:1], r"h0 has the shape \(2, 4\) .* got \(1, 4\)"),
    "a gain": ("gain_h", lambda v: v[:-1], r"gain_h has the shape \(12,\) .* got \(11,\)"),
    "a rank": ("x", lambda v: v[0], r"x has the shape \(T, B, I\) .* got \(2, 5\)"),
    "inputs": ("x", lambda v: v[..., :-1], r"kernel has the shape \(4, 12\) .* got \(5, 12\)"),
    "a matrix": ("recurrent", lambda v: v[:, :-3], r"recurrent has the shape \(4, 12\)"),
    "a mask": ("mask", lambda v: v.T, r"mask has the shape \(3, 2\) .* got \(2, 3\)"),
    "a kind of mask": ("mask", lambda v: v.astype(np.int32), "of one dtype, flags bool; got mask"),
    "a precision": ("h0", lambda v: v.astype(np.float16), "of one dtype, flags bool; got h0"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("framework", TENSOR)
def test_inputs_that_do_not_fit(framework: str, wrong: str) -> None:
    name, spoil, sentence = WRONG[wrong]
    given = arrays()
    given[name] = spoil(given[name])
    tensors = {n: TENSOR[framework](v) for n, v in given.items()}
    inputs = Inputs(*(tensors.get(n) for n in Inputs._fields))  # pyright: ignore

    op: Any = import_module(f"lnrnn.engines.native.{framework}_op")
    # in TensorFlow's runtime a ValueError becomes an error of its own
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=sentence):
        op.recurrence(VARIANT, Numbers(), inputs)


def test_an_older_jaxlib_is_not_given_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """With handlers of a newer interface than its own JAX would not start, for any program."""
    cpu = ("jax", "cpu")
    assert core.refusal_on(*cpu) is None
    monkeypatch.setattr(core, "xla_version", lambda: (0, 0))
    assert "jaxlib has 0.0: install a newer jaxlib" in str(core.refusal_on(*cpu))
    # one that does not tell may fit
    monkeypatch.setattr(core, "xla_version", lambda: None)
    assert core.refusal_on(*cpu) is None


@pytest.mark.parametrize(("pass_of", "sizes", "numbers"), [("", 12, 7), ("block_", 8, 2)])
@pytest.mark.parametrize("unknown", ["operands", "results"])
def test_a_compiled_program_of_another_version(
    pass_of: str, sizes: int, numbers: int, unknown: str
) -> None:
    """An exported program of JAX names its arrays by their numbers."""
    import_module("lnrnn.engines.native.jax_op")  # registers the handlers
    words = () if pass_of else encode(VARIANT)
    names = {"operands": np.array([0]), "results": np.array([1]), unknown: np.array([1 << 40])}
    run = jax.ffi.ffi_call(f"lnrnn_{pass_of}forward", jax.ShapeDtypeStruct((3,), np.float32))
    with pytest.raises(jax.errors.JaxRuntimeError, match="do not fit its arrays"):
        run(
            jnp.ones(3), spec=np.array(words, np.int64), sizes=np.zeros(sizes, np.int64),
            numbers=np.zeros(numbers), **names,
        ).block_until_ready()  # fmt: skip


RICH = Variant(
    cell="lstm", norms=(Norm("pre"),), peephole="after", projection=True, hidden_norm=True
)


@pytest.mark.parametrize("framework", TENSOR)
def test_weights_of_options_that_do_not_fit(framework: str) -> None:
    random = np.random.default_rng(5)
    hidden, wide = 3, 4 * H
    shapes = {
        "kernel": (INPUTS, wide),
        "recurrent": (hidden, wide),
        "peephole": (3 * H,),
        "gain_pre": (INPUTS + hidden,),
        "gain_hidden": (hidden,),
        "projection": (H, hidden),
        "x": (T, B, INPUTS),
        "h0": (B, hidden),
        "c0": (B, H),
        "take_h": (T, B, hidden),
    }
    given = {n: random.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    op: Any = import_module(f"lnrnn.engines.native.{framework}_op")

    def run(given: dict[str, np.ndarray]) -> Any:
        tensors = {n: TENSOR[framework](v) for n, v in given.items()}
        return op.recurrence(
            RICH,
            Numbers(),
            Inputs(*(tensors.get(n) for n in Inputs._fields)),  # pyright: ignore
        )

    assert np.isfinite(np.asarray(run(given)[0])).all()
    for name in shapes:
        if name in ("kernel", "x"):  # whose sizes are those that the others are compared with
            continue
        spoiled = given | {name: given[name][..., :-1]}
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="has the shape"):
            run(spoiled)
