"""Half precision in the core: operands of products in 16 bits, all else in float32.

The yardstick is the NumPy reference in which each product alone is rounded: its operands, and its
result, as a framework's own product under autocast gives it.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_core import LSTM, OPTIONS, by_reference, draw

import lnrnn.reference.sequence
from lnrnn import engines
from lnrnn.engines import native, select
from lnrnn.engines.fused import block
from lnrnn.engines.native import core, torch_block_op
from lnrnn.engines.portable import ops_torch
from lnrnn.reference import relatives
from lnrnn.reference.tape import Tape
from lnrnn.relatives.relative import DREAMER
from lnrnn.relatives.weights import Sizes as RelativeSizes
from lnrnn.relatives.weights import shapes as relative_shapes
from lnrnn.testing import adapters, golden
from lnrnn.testing.cases import VARIANTS
from lnrnn.testing.tolerances import assert_close
from lnrnn.torch import LayerNormGRU, LayerNormLSTM
from lnrnn.variant import Variant

DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
HASTE = VARIANTS["lstm_x_h_cell_output"]


def rounded(v, dtype: str = "bfloat16") -> np.ndarray:
    """v as numbers of a dtype, in float64."""
    with np.errstate(over="ignore"):
        return np.asarray(v).astype(np.float32).astype(DTYPES[dtype]).astype(np.float64)


class Rounding(np.ndarray):
    """An array whose products with others have rounded operands and a rounded result."""

    dtype_of_products = "bfloat16"

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options) -> Any:
        plain = [np.asarray(v) if isinstance(v, np.ndarray) else v for v in inputs]
        if out is not None:
            options["out"] = tuple(np.asarray(v) for v in out)
        if ufunc is np.matmul:
            a, b = (rounded(v, self.dtype_of_products) for v in plain)
            found = rounded(a @ b, self.dtype_of_products)
        else:
            found = getattr(ufunc, method)(*plain, **options)
        if out is not None:
            return out[0]
        if isinstance(found, np.ndarray) and found.dtype == np.float64:
            return found.view(type(self))
        return found


class _NumPy:
    """NumPy whose `asarray` makes arrays of a class."""

    def __init__(self, kind: type[Rounding]) -> None:
        self.kind = kind

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def asarray(self, v, dtype=None):
        found = np.array(v, dtype)
        return found.view(self.kind) if found.dtype == np.float64 else found


@contextmanager
def rounded_products(dtype: str) -> Iterator[None]:
    """The reference as the yardstick."""
    kind = type("Rounded", (Rounding,), {"dtype_of_products": dtype})
    module: Any = lnrnn.reference.sequence
    module.np = _NumPy(kind)
    try:
        yield
    finally:
        module.np = np


def each(options: dict[str, Any], make) -> dict[str, Any]:
    """Options with other arrays, also of those that are lists of them."""

    def made(v):
        if isinstance(v, list):
            return [made(one) for one in v]
        return make(v) if isinstance(v, np.ndarray) else v

    return {name: made(value) for name, value in options.items()}


def prepared(drawn, dtype: str) -> tuple[Any, ...]:
    """What `draw` gives, with all that comes in half precision rounded beforehand."""
    params, x, states, options, weigh = drawn
    factors = each(options, lambda v: v if v.dtype == bool else rounded(v, dtype))
    return (
        {n: p.astype(np.float32).astype(np.float64) for n, p in params.items()},
        rounded(x, dtype),
        [rounded(s, dtype) for s in states],
        factors,
        [rounded(w, dtype) for w in weigh],
    )


def sequence(engine: str, variant: Variant, dtype: str, framework: str = "torch"):
    request = select.Request(variant, framework, dtype)
    return select.choose(engine, request).load(request)


def by_core(variant, drawn, dtype: str, engine: str = "native") -> dict[str, np.ndarray]:
    """Outputs, final states and gradients: weights in float32, all else in `dtype`."""
    params, x, states, options, weigh = drawn
    kind = getattr(torch, dtype)

    def tensor(v, narrow=kind):
        v = np.asarray(v)
        return torch.tensor(v) if v.dtype == bool else torch.tensor(v.astype(np.float32)).to(narrow)

    leaves = {n: tensor(p, torch.float32) for n, p in params.items()}
    leaves |= {n: tensor(v) for n, v in zip(("x", "h0", "c0"), (x, *states), strict=False)}
    resets = dict(zip(("reset_h", "reset_c"), options.get("reset_states", ()), strict=False))
    leaves |= {n: tensor(v) for n, v in resets.items()}
    leaves = {n: v.requires_grad_() for n, v in leaves.items()}
    given = each(options, tensor)
    if resets:
        given["reset_states"] = tuple(leaves[n] for n in resets)
    y, final = sequence(engine, variant, dtype)(
        variant,
        {n: leaves[n] for n in params},
        leaves["x"],
        tuple(leaves[n] for n in ("h0", "c0") if n in leaves),
        masked_output="hold",
        **given,
    )
    assert {v.dtype for v in (y, *final)} == {kind}
    total: Any = sum(
        (tensor(w, torch.float32) * v.float()).sum()
        for w, v in zip(weigh, (y, *final), strict=True)
    )
    gradients = torch.autograd.grad(
        total, list(leaves.values()), materialize_grads=True, allow_unused=True
    )
    assert [g.dtype for g in gradients] == [v.dtype for v in leaves.values()]
    found = {"y": y, **{f"final {i}": f for i, f in enumerate(final)}}
    found |= {f"gradient of {n}": g for n, g in zip(leaves, gradients, strict=True)}
    return {n: v.detach().double().numpy() for n, v in found.items()}


NARROW = ("y", "final 0", "final 1", "gradient of x", "gradient of h0", "gradient of c0")


def yardstick(variant, drawn, dtype: str) -> dict[str, np.ndarray]:
    with rounded_products(dtype):
        found = by_reference(variant, *drawn)
    return {n: rounded(v, dtype) if n in NARROW else np.asarray(v) for n, v in found.items()}


def error(found, expected, gradients: bool, least: float = 1e-12) -> float:
    """The geometric mean, over the arrays, of their relative errors, each `least` or more.

    Some draws enlarge any error a hundred times, which a sum would be a measure of.
    """
    errors = [
        np.linalg.norm(found[n] - e) / np.linalg.norm(e)
        for n, e in expected.items()
        if n.startswith("gradient") == gradients and np.linalg.norm(e) > 0
    ]
    assert errors and np.isfinite(errors).all()
    return float(np.exp(np.mean(np.log(np.maximum(errors, least)))))


# what is kept is rounded once, also where products are small beside the biases
ONE_ROUNDING = {"bfloat16": 2.0**-9, "float16": 2.0**-12}


def jumps(variant) -> bool:
    """Whether a derivative jumps, which a rounding on either side turns."""
    bounds = (variant.cell_clip, variant.hidden_clip, variant.projection_clip)
    hard = "hard" in variant.recurrent_activation or variant.activation == "relu"
    return hard or variant.capped or any(bounds)


def allowed(variant, gradients: bool) -> float:
    """Times the yardstick's error."""
    return 2.5 if gradients and jumps(variant) else 1.3


def check(variant, dtype: str, *draws) -> None:
    """The errors are near the yardstick's, over one draw or several."""
    expected, found, model = {}, {}, {}
    for i, one in enumerate(draws):
        drawn = prepared(one, dtype)
        for total, part in (
            (expected, by_reference(variant, *drawn)),
            (found, by_core(variant, drawn, dtype)),
            (model, yardstick(variant, drawn, dtype)),
        ):
            total |= {f"{name} {i}": value for name, value in part.items()}
    for gradients in (False, True):
        most = allowed(variant, gradients) * error(model, expected, gradients, ONE_ROUNDING[dtype])
        assert error(found, expected, gradients) <= most


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("options", [(), OPTIONS], ids=["plain", "all_options"])
@each_dtype
def test_every_variant(name, options, dtype):
    variant = VARIANTS[name]
    check(variant, dtype, *(draw(variant, seed, 12, 8, 24, 33, options) for seed in range(8)))


SIZES = [1, 7, 33]


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(
        [
            "simple_x_h",
            "lstm_x_h_cell_output",
            "lstm_coupled",
            "gru_x_h",
            "gru_before",
            "gru_whole_sum",
        ]
    ),
    seed=st.integers(0, 2**31),
    steps=st.sampled_from([1, 2, 9]),
    batch=st.sampled_from([1, 5, 24]),
    inputs=st.sampled_from(SIZES),
    units=st.sampled_from([7, 16, 33]),
    options=st.sets(st.sampled_from(OPTIONS)),
    dtype=st.sampled_from(sorted(DTYPES)),
)
def test_any_shape_beside_single_precision(name, seed, steps, batch, inputs, units, options, dtype):
    """float32 on operands that were rounded beforehand differs by the rounding of h alone.

    Of weights with which the yardstick itself loses gradients nothing is asked.
    """
    variant = VARIANTS[name]
    params, *rest = prepared(
        draw(variant, seed, steps, batch, inputs, units, sorted(options)), dtype
    )
    for matrix in ("kernel", "recurrent_kernel"):
        params[matrix] = rounded(params[matrix], dtype)
    exact = by_reference(variant, params, *rest)
    with rounded_products(dtype):
        model = by_reference(variant, params, *rest)
    of_gradients = [n for n in exact if n != "gradient of x" and "gradient" in n]
    assume(all(np.ptp(model[n] - exact[n]) < 0.1 * np.abs(exact[n]).max() for n in of_gradients))
    found = by_core(variant, (params, *rest), dtype)
    single = by_core(variant, (params, *rest), "float32")
    for n, expected in single.items():
        # a norm of x W with one input does not depend on its size: nothing but error is left
        if n != "gradient of x" or inputs > 1:
            assert_close(n, found[n], expected, dtype, gradient="gradient" in n)


@pytest.mark.parametrize("sizes", [(1, 1), (7, 1), (33, 31), (64, 96)])
def test_a_product_of_small_integers_is_exact(sizes):
    """Their sums are exact in float32, so that only the activation and the output are rounded."""
    inputs, units = sizes
    variant = Variant(cell="simple", activation="linear")
    rng = np.random.default_rng(3)

    def draw_integers(*shape):
        return rng.integers(-3, 4, shape).astype(np.float64)

    params = {
        "kernel": draw_integers(inputs, units),
        "recurrent_kernel": draw_integers(units, units) * 0.125,
    }
    x, h0, dy, dh = (
        draw_integers(*n) for n in ((1, 5, inputs), (5, units), (1, 5, units), (5, units))
    )
    found = by_core(variant, (params, x, [h0], {}, [dy, dh]), "bfloat16")
    d = dy[0] + dh
    exact = {
        "y": rounded(x[0] @ params["kernel"] + h0 @ params["recurrent_kernel"])[None],
        "gradient of x": rounded(d @ params["kernel"].T)[None],
        "gradient of h0": rounded(d @ params["recurrent_kernel"].T),
        "gradient of kernel": x[0].T @ d,
        "gradient of recurrent_kernel": h0.T @ d,
    }
    for name, value in exact.items():
        assert np.array_equal(found[name], value), name


@each_dtype
def test_weights_and_their_gradients_are_in_single_precision(dtype):
    drawn = prepared(draw(HASTE, 2, 9, 6, 8, 16), dtype)
    found = by_core(HASTE, drawn, dtype)
    for name in ("kernel", "recurrent_kernel", "x_norm_gain"):
        gradient = found[f"gradient of {name}"]
        assert (gradient != rounded(gradient, dtype)).mean() > 0.5
    # gains and biases are no operands of products: what rounding would lose is seen
    moved = ({**drawn[0], "bias": drawn[0]["bias"] * (1 + 2.0**-20) + 2.0**-14}, *drawn[1:])
    assert not np.array_equal(
        by_core(HASTE, moved, dtype)["gradient of kernel"], found["gradient of kernel"]
    )


@pytest.mark.parametrize("batch", [1, 3, 40])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_run_gives_the_same_bits(batch, threads):
    drawn = prepared(draw(HASTE, 3, 12, batch, 8, 96), "bfloat16")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        first, again = (by_core(HASTE, drawn, "bfloat16") for _ in range(2))
    finally:
        torch.set_num_threads(before)
    for name, value in first.items():
        assert np.array_equal(value, again[name]), name


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("name", ["simple_x_h", "lstm_x_h_cell_after_tanh", "gru_x_h_inner_bias"])
def test_a_bias_is_not_rounded_with_what_is_kept(name, kept, monkeypatch):
    """Projections that are small beside a bias inside their norm keep their digits."""
    from lnrnn.engines.native import torch_op

    if not kept:
        monkeypatch.setattr(torch_op, "_MOST_SAVED", 0)
    params, *rest = prepared(draw(VARIANTS[name], 5, 6, 9, 16, 33), "bfloat16")
    params |= {n: params[n] + 64.0 for n in ("bias_x", "bias_h")}
    check(VARIANTS[name], "bfloat16", (params, *rest))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_long_memory_is_kept(cell):
    """States are carried in float32: 1000 steps with a gate near 1 lose nothing by rounding."""
    variant = VARIANTS["lstm_x_h_cell_output" if cell == "lstm" else "gru_x_h"]
    if cell == "lstm":
        variant = variant.replace(forget_bias=5.0)
    else:
        variant = variant.replace(update_bias=5.0 if variant.update == "keep" else -5.0)
    check(variant, "bfloat16", draw(variant, 5, 1000, 2, 4, 16))


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("name", ["lstm_x_h_cell_output", "gru_before", "gru_x_h"])
def test_sequences_of_several_chunks(name, kept, monkeypatch):
    from lnrnn.engines.native import torch_op

    if not kept:
        monkeypatch.setattr(torch_op, "_MOST_SAVED", 0)
    for steps, batch in ((70, 5), (3, 270)):
        check(VARIANTS[name], "bfloat16", draw(VARIANTS[name], 8, steps, batch, 3, 17, OPTIONS))


def test_what_is_not_finite_travels():
    drawn = list(prepared(draw(LSTM, 6, 5, 4, 7, 33), "bfloat16"))
    drawn[1][2, 1, 3] = np.inf
    drawn[1][3, 2, 0] = np.nan
    found, single = (by_core(LSTM, drawn, d)["y"] for d in ("bfloat16", "float32"))
    assert np.array_equal(np.isnan(found), np.isnan(single)) and np.isnan(found[3:, 2]).all()
    assert np.isfinite(found[:, [0, 3]]).all()


@each_dtype
def test_subnormal_numbers_and_zero_prefixes(dtype):
    variant = VARIANTS["lstm_x_h_cell_output"].replace(epsilon=1e-3)
    params, x, states, options, weigh = prepared(draw(variant, 6, 6, 3, 7, 33), dtype)
    x[:2] = 0.0
    x[2] *= 2.0**-130 if dtype == "bfloat16" else 2.0**-20
    drawn = (params, rounded(x, dtype), [0 * s for s in states], options, weigh)
    found, single = by_core(variant, drawn, dtype), by_core(variant, drawn, "float32")
    for n, expected in single.items():
        assert_close(n, found[n], expected, dtype, gradient="gradient" in n)


def test_what_is_kept_for_the_gradients_is_small():
    def kept(dtype: torch.dtype) -> int:
        sizes: dict[int, int] = {}

        def pack(t: torch.Tensor) -> torch.Tensor:
            sizes[t.data_ptr()] = t.numel() * t.element_size()
            return t

        module = LayerNormLSTM(64, 64, engine="native").to(dtype)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            module(torch.randn(400, 16, 64, dtype=dtype, requires_grad=True))
        return sum(sizes.values())

    assert kept(torch.bfloat16) <= 0.65 * kept(torch.float32)


# ---- what the frameworks see


@pytest.mark.parametrize("kind", [LayerNormLSTM, LayerNormGRU])
@each_dtype
def test_torch_modules(kind, dtype):
    torch.manual_seed(0)
    module, narrow = kind(5, 16, engine="native"), getattr(torch, dtype)
    x = torch.randn(7, 3, 5)
    expected, _ = module(x)
    slopes = torch.autograd.grad(expected.square().sum(), list(module.parameters()))
    with torch.autocast("cpu", narrow):
        y, _ = module(x)
    assert y.dtype == narrow
    found = torch.autograd.grad(y.float().square().sum(), list(module.parameters()))
    assert {g.dtype for g in found} == {torch.float32}
    # nothing rounds the weights on their way to the engine, nor their gradients on the way back
    assert all((g != g.to(narrow)).any() for g in found)
    assert_close("y", y.detach().float(), expected.detach(), dtype)
    for one, other in zip(found, slopes, strict=True):
        assert_close("gradient", one, other, dtype, gradient=True)
    y, _ = module.to(narrow)(x.to(narrow))
    assert y.dtype == narrow
    assert_close("y", y.detach().float(), expected.detach(), dtype)


@each_dtype
def test_jax_arrays(dtype):
    """The numbers of PyTorch's tensors; mapped and differentiated twice by the definition."""
    drawn = prepared(draw(HASTE, 4, 6, 3, 5, 17, OPTIONS), dtype)
    params, x, states, options, weigh = drawn
    run = sequence("native", HASTE, dtype, "jax")

    def array(v):
        v = np.asarray(v)
        return jnp.asarray(v) if v.dtype == bool else jnp.asarray(v, jnp.float32).astype(dtype)

    given = each(options, array)
    weights = {n: jnp.asarray(p, jnp.float32) for n, p in params.items()}

    def loss(weights, x):
        y, final = run(HASTE, weights, x, tuple(map(array, states)), masked_output="hold", **given)
        assert {v.dtype.name for v in (y, *final)} == {dtype}
        values = zip(weigh, (y, *final), strict=True)
        return sum((jnp.asarray(w, jnp.float32) * v.astype("float32")).sum() for w, v in values), y

    (_, y), (slopes, dx) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
        weights, array(x)
    )
    found = by_core(HASTE, drawn, dtype)
    assert np.array_equal(np.asarray(y, np.float64), found["y"])
    assert np.array_equal(np.asarray(dx, np.float64), found["gradient of x"])
    for n, slope in slopes.items():
        assert slope.dtype == np.float32
        assert_close(n, slope, found[f"gradient of {n}"], "float32", gradient=True)
    mapped = jax.vmap(lambda x: loss(weights, x)[1])(array(np.stack([x, x])))
    assert_close("mapped", np.asarray(mapped[1], np.float64), found["y"], dtype)

    def penalty(x):
        return jnp.square(jax.grad(lambda x: loss(weights, x)[0])(x).astype("float32")).sum()

    assert np.isfinite(np.asarray(jax.grad(penalty)(array(x)), np.float64)).all()


@pytest.mark.parametrize("graph", [False, True])
@each_dtype
def test_tensorflow_tensors(dtype, graph):
    """The numbers of PyTorch's tensors, by the operator; mapped and again by the definition."""
    import tensorflow as tf  # the processes that this file starts have no use for it

    drawn = prepared(draw(HASTE, 4, 6, 3, 5, 17, OPTIONS), dtype)
    params, x, states, options, weigh = drawn
    run = sequence("native", HASTE, dtype, "tensorflow")

    def tensor(v):
        v = np.asarray(v)
        return tf.constant(v) if v.dtype == bool else tf.cast(tf.constant(v, tf.float32), dtype)

    given = each(options, tensor)
    leaves = {n: tf.constant(p, tf.float32) for n, p in params.items()}
    leaves |= {n: tensor(v) for n, v in zip(("x", "h0", "c0"), (x, *states), strict=True)}

    def loss(x, leaves=leaves):
        weights = {n: leaves[n] for n in params}
        given_states = leaves["h0"], leaves["c0"]
        y, final = run(HASTE, weights, x, given_states, masked_output="hold", **given)
        assert {v.dtype.name for v in (y, *final)} == {dtype}
        values = zip(weigh, (y, *final), strict=True)
        weighed = [tf.constant(w, tf.float32) * tf.cast(v, "float32") for w, v in values]
        return tf.add_n([tf.reduce_sum(v) for v in weighed]), y

    def gradients():
        with tf.GradientTape() as tape:
            tape.watch(leaves)
            total, y = loss(leaves["x"])
        return y, tape.gradient(total, leaves)

    def numbers(v):
        return tf.cast(v, tf.float64).numpy()

    before = [engines.runs(back)["native", "tensorflow"] for back in (False, True)]
    y, slopes = tf.function(gradients)() if graph else gradients()
    after = [engines.runs(back)["native", "tensorflow"] for back in (False, True)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1]
    found = by_core(HASTE, drawn, dtype)
    assert np.array_equal(numbers(y), found["y"])
    for n, slope in slopes.items():
        assert slope.dtype == ("float32" if n in params else dtype)
        assert np.array_equal(numbers(slope), found[f"gradient of {n}"]), n
    if not graph:
        return
    mapped = tf.vectorized_map(lambda x: loss(x)[1], tf.stack([leaves["x"]] * 2))
    assert_close("mapped", numbers(mapped[1]), found["y"], dtype)

    def penalty(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total, _ = loss(x)
        return tf.reduce_sum(tf.square(tf.cast(tape.gradient(total, x), "float32")))

    with tf.GradientTape() as tape:
        tape.watch(leaves)
        value = penalty(leaves["x"])
    second = tape.gradient(value, leaves)
    assert all(np.isfinite(numbers(s)).all() for s in second.values() if s is not None)


def test_second_derivatives_are_those_of_the_definition():
    params, x, states, _, _ = prepared(draw(HASTE, 8, 5, 3, 4, 12), "bfloat16")

    def penalty(dtype: torch.dtype, wide: torch.dtype, name: str):
        weights = {n: torch.tensor(p, dtype=wide, requires_grad=True) for n, p in params.items()}
        given = torch.tensor(x, dtype=dtype, requires_grad=True)
        y, _ = sequence("native", HASTE, name)(
            HASTE, weights, given, tuple(torch.tensor(s, dtype=dtype) for s in states)
        )
        first = torch.autograd.grad(y.to(wide).square().sum(), given, create_graph=True)[0]
        second = torch.autograd.grad(first.to(wide).square().sum(), list(weights.values()))
        return [g.double().numpy() for g in (first.detach(), *second)]

    narrow = penalty(torch.bfloat16, torch.float32, "bfloat16")
    for found, expected in zip(
        narrow, penalty(torch.float64, torch.float64, "float64"), strict=True
    ):
        assert_close("second", found, expected, "bfloat16", gradient=True)


def test_single_precision_with_rounded_products():
    """The frameworks' own switches; off by default."""
    given = draw(HASTE, 4, 6, 3, 5, 33)
    drawn = prepared(given, "bfloat16")
    plain, before = by_core(HASTE, drawn, "float32"), torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        found = by_core(HASTE, drawn, "float32")
        of_longer_x = by_core(HASTE, (drawn[0], given[1], *drawn[2:]), "float32")
    finally:
        torch.set_float32_matmul_precision(before)
    for n, v in found.items():
        assert np.array_equal(v, of_longer_x[n]), n
    expected = by_reference(HASTE, *drawn)
    model = yardstick(HASTE, drawn, "bfloat16")
    for gradients in (False, True):
        allowed = 1.3 * error(model, expected, gradients)
        assert 10 * error(plain, expected, gradients) < error(found, expected, gradients) <= allowed

    run = sequence("native", HASTE, "float32", "jax")
    weights = {n: jnp.asarray(p, jnp.float32) for n, p in drawn[0].items()}
    states = tuple(jnp.asarray(s, jnp.float32) for s in drawn[2])

    def outputs():
        return np.asarray(run(HASTE, weights, jnp.asarray(drawn[1], jnp.float32), states)[0])

    with jax.default_matmul_precision("bfloat16"):
        assert np.array_equal(outputs(), found["y"])
    assert np.array_equal(outputs(), plain["y"])


# ---- instruction sets, and files of the original programs


USABLE = [n for n, reason in core.instruction_sets().items() if not reason]


def check_sums_of_several_chunks() -> None:
    """Gradients of matrices are sums of several, of one block of rows or two."""
    before = torch.get_num_threads()
    try:
        for threads, name, steps, batch in ((1, "lstm_x_h", 70, 9), (2, "gru_before", 60, 18)):
            torch.set_num_threads(threads)
            drawn = draw(VARIANTS[name], 4, steps, batch, 35, 33, OPTIONS)
            check(VARIANTS[name], "bfloat16", drawn)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("isa", [*USABLE, "amx_emulated"])
def test_every_instruction_set(isa):
    """Emulated tiles are there on every machine, for this test."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_half as t; "
        "from lnrnn.engines.native import core; print(core.instruction_set()); "
        "[t.check(v, d, t.draw(v, 1, 5, 9, 40, 33, t.OPTIONS)) "
        "for d in t.DTYPES for v in list(t.VARIANTS.values())[::6]]; "
        "t.check_sums_of_several_chunks(); "
        "t.test_a_product_of_small_integers_is_exact((33, 31)); "
        "t.test_what_is_not_finite_travels(); "
        "t.test_single_precision_with_rounded_products()"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, os.path.dirname(__file__)],
        env=os.environ | {"LNRNN_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == isa


@pytest.mark.parametrize("name", ["lstm_x_h", "gru_before", "lstm_pre_cell_output"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_a_call_leaves_in_memory_is_not_read(name, dtype):
    """A call works in the memory of those before it, here full of what is no number."""
    drawn = prepared(draw(VARIANTS[name], 5, 30, 9, 40, 70, OPTIONS), "bfloat16")
    params, x, *rest = drawn
    core.forget()
    expected = by_core(VARIANTS[name], drawn, dtype)
    spoilt = by_core(VARIANTS[name], (params, np.full_like(x, np.nan), *rest), dtype)
    assert np.isnan(spoilt["gradient of kernel"]).all()
    for n, found in by_core(VARIANTS[name], drawn, dtype).items():
        assert np.array_equal(found, expected[n]), n


def divided() -> int:
    """Arrays in which bits differ from those of one thread, after all were compared with them."""
    differences = 0
    for i, name in enumerate(VARIANTS):
        # one part of the units or several, some of none, and more rows than meet at a time
        batch, units = (3, 33) if i % 3 else (18, 70)
        drawn = draw(VARIANTS[name], i, 3, batch, 7, units, OPTIONS if i % 2 else ())
        for dtype in ("float32", "bfloat16") if i % 4 == 0 else ("float32",):
            alone, *runs = [
                _by_threads(n, VARIANTS[name], drawn, dtype) for n in (1, 2, 2, 3, 3, 5, 5)
            ]
            for one, again in zip(runs[::2], runs[1::2], strict=True):
                for n, expected in alone.items():
                    assert np.array_equal(one[n], again[n]), (name, n)
                    assert_close(f"{name} {n}", one[n], expected, dtype, gradient="gradient" in n)
                    differences += not np.array_equal(one[n], expected)
    return differences


def _by_threads(threads: int, variant: Variant, drawn: Any, dtype: str) -> dict[str, np.ndarray]:
    torch.set_num_threads(threads)
    return by_core(variant, prepared(drawn, "bfloat16"), dtype)


def test_units_divided_among_threads():
    """Every cell, norm and option; `LNRNN_SPLIT` has small layers divided as large ones are."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_half as t; print(t.divided())"
    )
    differences = {}
    for split in ("units", "rows"):
        run = subprocess.run(
            [sys.executable, "-c", program, os.path.dirname(__file__)],
            env=os.environ | {"LNRNN_SPLIT": split},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        differences[split] = int(run.stdout)
    # statistics of parts are joined, which rounds otherwise
    assert differences["units"] > differences["rows"]


def test_a_large_matrix_with_few_rows():
    """Its units are divided without being asked."""
    drawn = draw(HASTE, 3, 2, 3, 5, 400)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(by_core(HASTE, drawn, "float32"))
    finally:
        torch.set_num_threads(before)
    for n, alone in found[0].items():
        assert_close(n, found[1][n], alone, "float32", gradient="gradient" in n)
    assert not np.array_equal(found[0]["y"], found[1]["y"])


def round_products_of_relatives(monkeypatch, dtype: str) -> None:
    """The reference of the relatives as the yardstick."""

    def narrow(v):
        return rounded(v, dtype)

    def einsum(equation, a, b):
        return narrow(np.einsum(equation, narrow(a), narrow(b)))

    def product(self, v, kernel):
        return self._part(
            einsum("bm,mn->bn", v.array, kernel.array),
            lambda d: (
                (v, einsum("bn,mn->bm", d, kernel.array)),
                (kernel, einsum("bm,bn->mn", v.array, d)),
            ),
        )

    def block_product(self, v, kernel):
        return self._part(
            einsum("bkm,kmn->bkn", v.array, kernel.array),
            lambda d: (
                (v, einsum("bkn,kmn->bkm", d, kernel.array)),
                (kernel, einsum("bkm,bkn->kmn", v.array, d)),
            ),
        )

    monkeypatch.setattr(Tape, "product", product)
    monkeypatch.setattr(Tape, "block_product", block_product)


@each_dtype
def test_the_block_gru(dtype, monkeypatch):
    sizes, kind, steps, batch = RelativeSizes(7, 24, 11, 2, 2, 3), getattr(torch, dtype), 12, 5
    expected, found, model, drawn = {}, {}, {}, []

    def by_relative(one):
        params, x, h0, flags, weigh = one
        run = relatives.forward(DREAMER, params, x, [h0], mask=flags[0], reset=flags[1])
        slopes = relatives.backward(run, weigh[0], [weigh[1]])
        values = {"y": run.y, "final 0": run.states[0]}
        return values | {f"gradient of {n}": slopes[n] for n in ("x", "h0", *params)}

    for seed in range(8):
        rng = np.random.default_rng(seed)
        params = {
            n: rng.normal(0.1, 0.4, s).astype(np.float32).astype(np.float64)
            for n, s in relative_shapes(DREAMER, sizes).items()
        }
        x, h0 = rng.normal(size=(steps, batch, 7)), rng.normal(size=(batch, 24))
        flags = rng.random((2, steps, batch)) > 0.3
        weigh = rng.normal(size=(steps, batch, 24)), rng.normal(size=(batch, 24))
        x, h0, *weigh = (rounded(v, dtype) for v in (x, h0, *weigh))
        drawn.append((params, x, h0, flags, weigh))
        leaves = {n: torch.tensor(p, dtype=torch.float32) for n, p in params.items()}
        leaves |= {"x": torch.tensor(x, dtype=kind), "h0": torch.tensor(h0, dtype=kind)}
        leaves = {n: v.requires_grad_() for n, v in leaves.items()}
        mask, reset = map(torch.tensor, flags)
        weights = {n: leaves[n] for n in params}
        y, (last,) = native.block_gru_on("torch")(
            DREAMER,
            weights,
            leaves["x"],
            (leaves["h0"],),
            mask=mask,
            reset=reset,
            masked_output="zero",
        )
        assert y.dtype == last.dtype == kind
        pairs = zip(weigh, (y, last), strict=True)
        total: Any = sum((torch.tensor(w) * v.double()).sum() for w, v in pairs)
        slopes = torch.autograd.grad(total, list(leaves.values()))
        assert [g.dtype for g in slopes] == [v.dtype for v in leaves.values()]
        gradients = {f"gradient of {n}": g for n, g in zip(leaves, slopes, strict=True)}
        ours = {"y": y, "final 0": last} | gradients
        found |= {f"{n} {seed}": v.detach().double().numpy() for n, v in ours.items()}
        expected |= {f"{n} {seed}": v for n, v in by_relative(drawn[-1]).items()}
    round_products_of_relatives(monkeypatch, dtype)
    for seed, one in enumerate(drawn):
        for n, v in by_relative(one).items():
            model[f"{n} {seed}"] = rounded(v, dtype) if n in NARROW else np.asarray(v)
    for gradients in (False, True):
        yardstick = error(model, expected, gradients, ONE_ROUNDING[dtype])
        assert error(found, expected, gradients) <= 1.3 * yardstick


@each_dtype
def test_the_block_gru_rounds_the_operands_of_its_products(dtype):
    """A step of the core is that of its definition, in which each product rounds what it takes."""
    rng = np.random.default_rng(3)

    def draw_of(*shape):
        return torch.tensor(rng.normal(0.1, 0.4, shape).astype(np.float32))

    shapes = ((24, 11), (11,), (11,), (2, 12, 12), (11, 24), (2, 12, 12), (24,), (48,))
    shapes = (*shapes, (2, 12, 36), (72,), (1, 5, 24), (5, 24))
    inputs = block.Inputs(*(draw_of(*shape) for shape in shapes), mask=None, reset=None)
    defined = block.definition(ops_torch, DREAMER, inputs, dtype)[0].numpy()
    numbers = block.Numbers(DREAMER.epsilon, DREAMER.update_bias)
    found, plain = (
        torch_block_op.recurrence(DREAMER, numbers, inputs, to)[0].numpy() for to in (dtype, "")
    )
    assert_close("h", found, defined, "float32")
    assert np.abs(found - plain).max() > ONE_ROUNDING[dtype] / 10


FILES = Path(__file__).parents[1] / "golden"


def test_golden_files():
    """Each in the precision of the table, unless a derivative jumps; errors near the yardstick's.

    The errors of one run of a few units are a matter of luck, of the yardstick's as of ours: they
    are those of eight, the file's own and seven with noise on its inputs, states and loss.
    """
    compute = adapters.choose("native", "torch-op")
    on_tensorflow = adapters.choose("native", "tensorflow-op")
    failures: dict[str, object] = {}
    count = 0
    for path in golden.find([FILES]):
        file = golden.read(path)
        if file is None or file.name.endswith("f32"):
            continue
        narrow = dataclasses.replace(file, dtype="bfloat16")
        for one in (compute, on_tensorflow) if not jumps(file.variant) else ():
            failures |= {file.name: why} if (why := golden.compare(narrow, one)) else {}
        params = file.dialect.to_canonical(file.under("w/"))
        params = {n: p.astype(np.float32).astype(np.float64) for n, p in params.items()}
        expected, found, model = {}, {}, {}
        rng = np.random.default_rng(0)
        for draw_of_noise in range(8):
            for i, one in enumerate(narrow.passes()):
                names = ("x", "h0", "c0", "dy", "dh", "dc")
                arrays = {n: a for n in names if (a := getattr(one, n)) is not None}
                if draw_of_noise:
                    arrays = {
                        n: a + 0.5 * a.std() * rng.normal(size=a.shape) for n, a in arrays.items()
                    }
                one = one._replace(**{n: rounded(a) for n, a in arrays.items()})
                with rounded_products("bfloat16"):
                    rounding = adapters.run_reference(file.variant, params, one)
                run = adapters.run_reference(file.variant, params, one)
                label = f"{i} {draw_of_noise}"
                expected |= _named(run, label)
                found |= _named(compute(file.variant, params, one), label)
                model |= _named(rounding, label, narrow=True)
        for gradients in (False, True):
            yardstick = error(model, expected, gradients, ONE_ROUNDING["bfloat16"])
            ratio = error(found, expected, gradients) / yardstick
            if ratio > allowed(file.variant, gradients):
                failures[f"{file.name}, gradients: {gradients}"] = ratio
        count += 1
    assert not failures and count > 70


HALVES = ("y", "h", "c", "gradient of x", "gradient of h0", "gradient of c0")


def _named(run: adapters.Results, label: str, narrow: bool = False) -> dict[str, np.ndarray]:
    values = {"y": run.y, "h": run.h, "c": run.c}
    values |= {f"gradient of {n}": g for n, g in (run.gradients or {}).items()}
    return {
        f"{n} {label}": rounded(v) if narrow and n in HALVES else np.asarray(v)
        for n, v in values.items()
        if v is not None
    }


def test_tiles_run_nothing_without_the_hardware():
    if "amx" in USABLE:
        assert core.instruction_sets()["amx"] == ""
        return
    program = "from lnrnn.engines.native import core; core.instruction_set()"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"LNRNN_ISA": "amx"},
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    assert "LNRNN_ISA is the name of an instruction set" in run.stderr
