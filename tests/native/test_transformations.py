"""The core inside PyTorch, JAX and TensorFlow: their transformations, compilers and exports."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch

# the graphs that ran have no public name
from tensorflow.python.eager import context

from lnrnn import dialects
from lnrnn.engines import native, portable, runs, select
from lnrnn.engines.native import tensorflow_library, tensorflow_op
from lnrnn.params import Sizes, shapes
from lnrnn.relatives.relative import DREAMER
from lnrnn.relatives.weights import Sizes as RelativeSizes
from lnrnn.relatives.weights import shapes as relative_shapes
from lnrnn.testing.tolerances import assert_close

VARIANT = dialects.get("haste_lnlstm").variant
STEPS, BATCH, INPUTS, UNITS = 6, 3, 4, 9


def draw(seed=0, lead=()):
    rng = np.random.default_rng(seed)
    weights = {
        n: rng.normal(size=s).astype("float32")
        for n, s in shapes(VARIANT, Sizes(INPUTS, UNITS, UNITS)).items()
    }
    x = rng.normal(size=(*lead, STEPS, BATCH, INPUTS)).astype("float32")
    states = tuple(rng.normal(size=(BATCH, UNITS)).astype("float32") for _ in "hc")
    return weights, x, states


def close(found, expected, gradient=True):
    assert len(found) == len(expected)
    for i, (a, e) in enumerate(zip(found, expected, strict=True)):
        assert_close(str(i), a, e, "float32", gradient=gradient)


# ---- PyTorch


def torch_loss(engine):
    weights, _, states = draw()
    weights = {n: torch.tensor(w) for n, w in weights.items()}
    run = engine.on("torch").sequence

    def loss(x, kernel):
        given = weights | {"recurrent_kernel": kernel}
        y, final = run(VARIANT, given, x, tuple(map(torch.tensor, states)))
        return y.square().mean() + final[1].sin().mean()

    return loss, (torch.tensor(draw()[1]), weights["recurrent_kernel"])


TORCH_TRANSFORMATIONS = {
    "gradient": lambda f, a: torch.func.grad(f, (0, 1))(*a),
    "forward mode": lambda f, a: torch.func.jvp(f, a, tuple(t.cos() for t in a)),
    "second derivative": lambda f, a: torch.func.grad(
        lambda *b: torch.func.grad(f)(*b).square().sum(), (0, 1)
    )(*a),
    "vmap": lambda f, a: (torch.func.vmap(f, (0, None))(torch.stack([a[0], a[0].sin()]), a[1]),),
    "vmap of gradients": lambda f, a: torch.func.vmap(torch.func.grad(f, (0, 1)), (0, None))(
        torch.stack([a[0], a[0].sin()]), a[1]
    ),
}


@pytest.mark.parametrize("name", TORCH_TRANSFORMATIONS)
def test_torch_transformations(name):
    found, expected = (
        TORCH_TRANSFORMATIONS[name](*torch_loss(engine)) for engine in (native, portable)
    )
    close([t.detach().numpy() for t in found], [t.detach().numpy() for t in expected])


def test_torch_double_backward():
    found = []
    for engine in (native, portable):
        loss, arguments = torch_loss(engine)
        x, kernel = (t.clone().requires_grad_() for t in arguments)
        (dx,) = torch.autograd.grad(loss(x, kernel), x, create_graph=True)
        found.append([g.numpy() for g in torch.autograd.grad(dx.square().sum(), (x, kernel))])
    close(*found)


def test_torch_third_derivative():
    found = []
    for engine in (native, portable):
        loss, (x, kernel) = torch_loss(engine)
        x = x.clone().requires_grad_()
        derivative = loss(x, kernel)
        for _ in range(3):
            (derivative,) = torch.autograd.grad(derivative.square().sum(), x, create_graph=True)
        found.append([derivative.detach().numpy()])
    close(*found)


def test_torch_batch_of_incoming_gradients():
    found = []
    for engine in (native, portable):
        loss, (x, kernel) = torch_loss(engine)
        x = x.clone().requires_grad_()
        weigh = torch.tensor([1.0, -2.0, 0.5], dtype=x.dtype)
        (gradients,) = torch.autograd.grad(loss(x, kernel), x, weigh, is_grads_batched=True)
        found.append([gradients.numpy()])
    close(*found)


def test_torch_lazy_sign_is_read():
    loss, (x, kernel) = torch_loss(native)
    lazy = torch._neg_view(-x)  # pyright: ignore[reportPrivateImportUsage]
    assert lazy.is_neg()
    assert lazy.is_contiguous()
    close([loss(lazy, kernel).numpy()], [loss(x, kernel).numpy()])


def test_torch_compiles_into_one_graph():
    loss, arguments = torch_loss(native)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found = []
    for f in (compiled, loss):
        x, kernel = (t.clone().requires_grad_() for t in arguments)
        value = f(x, kernel)
        found.append(
            [value.detach().numpy(), *(g.numpy() for g in torch.autograd.grad(value, (x, kernel)))]
        )
    close(*found)


def test_torch_export_holds_the_definition():
    loss, arguments = torch_loss(native)

    class Module(torch.nn.Module):
        def forward(self, x, kernel):
            return loss(x, kernel)

    program = torch.export.export(Module(), arguments)
    assert "lnrnn" not in str(program.graph)
    close([program.module()(*arguments).numpy()], [loss(*arguments).numpy()])


def test_torch_autocast_computes_in_single_precision():
    loss, arguments = torch_loss(native)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(*arguments)
    assert abs(float(value) - float(loss(*arguments))) < 0.05


def test_torch_operators_keep_their_contract():
    from lnrnn.engines.fused.call import Inputs, Numbers
    from lnrnn.engines.native import torch_op
    from lnrnn.engines.native.call import encode

    weights, x, states = draw()
    a = {n: None for n in Inputs._fields} | {
        "kernel": torch.tensor(weights["kernel"], requires_grad=True),
        "recurrent": torch.tensor(weights["recurrent_kernel"], requires_grad=True),
        "gain_x": torch.tensor(weights["x_norm_gain"], requires_grad=True),
        "gain_h": torch.tensor(weights["h_norm_gain"], requires_grad=True),
        "gain_c": torch.tensor(weights["cell_norm_gain"], requires_grad=True),
        "x": torch.tensor(x, requires_grad=True),
        "h0": torch.tensor(states[0]),
        "c0": torch.tensor(states[1]),
    }
    torch.library.opcheck(
        torch_op.recurrence.operator,
        (*a.values(), list(encode(VARIANT)), list(Numbers(epsilon=1e-3)), torch_op._ALL),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


# ---- JAX


def jax_loss(engine):
    weights, _, states = draw()
    run = engine.on("jax").sequence

    def loss(x, kernel):
        y, final = run(VARIANT, weights | {"recurrent_kernel": kernel}, x, states)
        return jnp.square(y).mean() + jnp.sin(final[1]).mean()

    return loss, (jnp.asarray(draw()[1]), jnp.asarray(weights["recurrent_kernel"]))


def _two(x, axis=0):
    return jnp.stack([x, jnp.sin(x)], axis)


JAX_TRANSFORMATIONS = {
    "gradient": lambda f, a: jax.grad(f, (0, 1))(*a),
    "compiled": lambda f, a: jax.jit(jax.value_and_grad(f, (0, 1)))(*a),
    "forward mode": lambda f, a: jax.jvp(f, a, tuple(map(jnp.cos, a))),
    "reverse over reverse": lambda f, a: jax.grad(
        lambda *b: jnp.square(jax.grad(f)(*b)).sum(), (0, 1)
    )(*a),
    "forward over reverse": lambda f, a: jax.jvp(jax.grad(f, (0, 1)), a, tuple(map(jnp.cos, a))),
    "vmap": lambda f, a: jax.vmap(f, (0, None))(_two(a[0]), a[1]),
    "vmap of gradients": lambda f, a: jax.vmap(jax.grad(f, (0, 1)), (0, None))(_two(a[0]), a[1]),
    "gradient of vmap": lambda f, a: jax.grad(
        lambda x, k: jnp.sin(jax.vmap(f, (2, None))(_two(x, 2), k)).sum(), (0, 1)
    )(*a),
    "vmap of gradients of x": lambda f, a: jax.vmap(jax.grad(f), (0, None))(_two(a[0]), a[1]),
    "scan": lambda f, a: jax.lax.scan(
        lambda s, x: (s + f(x, a[1]), jax.grad(f)(x, a[1])), 0.0, _two(a[0])
    ),
}


@pytest.mark.parametrize("name", JAX_TRANSFORMATIONS)
def test_jax_transformations(name):
    found, expected = (
        jax.tree.leaves(JAX_TRANSFORMATIONS[name](*jax_loss(engine)))
        for engine in (native, portable)
    )
    close(found, expected)


def test_jax_compiles_a_call_of_the_core():
    loss, arguments = jax_loss(native)
    text = str(jax.jit(jax.grad(loss)).lower(*arguments).compile().as_text())
    assert 'custom_call_target="lnrnn_forward"' in text
    assert 'custom_call_target="lnrnn_backward"' in text


def test_jax_export_holds_the_definition():
    loss, arguments = jax_loss(native)
    exported = jax.export.export(jax.jit(jax.grad(loss)))(*arguments)
    assert "@lnrnn_forward" not in exported.mlir_module()
    assert "@lnrnn_backward" not in exported.mlir_module()
    close([exported.call(*arguments)], [jax.grad(loss)(*arguments)])


def test_jax_keeps_a_sharded_batch_where_it_is():
    program = """
import jax, numpy as np, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import test_transformations as t
weights, _, _ = t.draw()
x = np.random.default_rng(1).normal(size=(6, 16, 4)).astype("float32")
run = t.native.on("jax").sequence
def loss(weights, x):
    zeros = jnp.zeros((x.shape[1], t.UNITS))
    return jnp.square(run(t.VARIANT, weights, x, (zeros, zeros))[0]).mean()
step = jax.jit(jax.value_and_grad(loss))
expected = step(weights, x)
mesh = Mesh(np.array(jax.devices()), ("data",))
assert len(jax.devices()) == 8
x = jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "data")))
weights = jax.device_put(weights, NamedSharding(mesh, PartitionSpec()))
t.close(jax.tree.leaves(step(weights, x)), jax.tree.leaves(expected))
text = step.lower(weights, x).compile().as_text()
print(text.count("all-gather"), text.count("all-to-all"), "lnrnn_backward" in text)
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=os.path.dirname(__file__),
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
        capture_output=True,
        text=True,
    )
    assert run.stdout.split() == ["0", "0", "True"], run.stderr


def test_jax_without_compiler():
    loss, arguments = jax_loss(native)
    expected = jax.grad(loss, (0, 1))(*arguments)
    with jax.disable_jit():
        close(jax.grad(loss, (0, 1))(*arguments), expected)


# ---- TensorFlow


def tensorflow_loss(engine) -> Any:
    weights, x, states = draw()
    run = engine.on("tensorflow").sequence

    def loss(x, kernel):
        given = {n: tf.constant(w) for n, w in weights.items()} | {"recurrent_kernel": kernel}
        y, final = run(VARIANT, given, x, tuple(map(tf.constant, states)))
        return tf.reduce_mean(tf.square(y)) + tf.reduce_mean(tf.sin(final[1]))

    return loss, (tf.constant(x), tf.constant(weights["recurrent_kernel"]))


def tape_gradient(loss, *arguments) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        value = loss(*arguments)
    return tape.gradient(value, arguments)


def tangent(function, *arguments):
    steps = [tf.cos(a) for a in arguments]
    with tf.autodiff.ForwardAccumulator(list(arguments), steps) as forward:
        value = function(*arguments)
    return [forward.jvp(v) for v in tf.nest.flatten(value)]


def penalty(loss):
    def penalised(x, kernel):
        return tf.reduce_sum(tf.square(tape_gradient(loss, x, kernel)[0]))

    return penalised


def jacobian(loss, x, kernel):
    with tf.GradientTape() as tape:
        tape.watch(x)
        values = tf.stack([loss(x, kernel), 2 * loss(x, kernel)])
    return [tape.jacobian(values, x)]


def row_by_row(loss, x, kernel):
    (row, _) = tape_gradient(loss, x, kernel)
    return [tf.stack([row, 2 * row])]


def tangent_of_gradient(loss, *arguments):
    return tangent(lambda *a: tape_gradient(loss, *a), *arguments)


def gradient_of_tangent(loss, *arguments):
    """The same numbers, as second derivatives are symmetric."""

    def along(*arguments):
        gradients = tape_gradient(loss, *arguments)
        return tf.add_n([tf.reduce_sum(g * s) for g, s in zip(gradients, steps, strict=True)])

    steps = [tf.cos(a) for a in arguments]
    return tape_gradient(along, *arguments)


def several(loss, x, kernel):
    """One persistent tape that is asked twice."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch((x, kernel))
        first = loss(x, kernel)
        second = tf.square(loss(2 * x, kernel))
    return [tape.gradient(first, kernel), tape.gradient(second, x), tape.gradient(second, kernel)]


def compiled(function, **options):
    return lambda f, *a: tf.function(lambda *a: function(f, *a), **options)(*a)


def mapped(loss, x, kernel):
    return [tf.vectorized_map(lambda x: loss(x, kernel), tf.stack([x, 2 * x]))]


# what is done to the loss by the core, and to that of the portable engine where that is another
TENSORFLOW_TRANSFORMATIONS = {
    "gradient": (tape_gradient,),
    "of a function": (lambda f, *a: tape_gradient(tf.function(f), *a), tape_gradient),
    "in a function": (compiled(tape_gradient), tape_gradient),
    "by XLA": (compiled(tape_gradient, jit_compile=True), tape_gradient),
    "tf.gradients": (compiled(lambda f, *a: tf.gradients(f(*a), a)), tape_gradient),
    "persistent": (several,),
    "tangent": (tangent,),
    "tangent in a function": (compiled(tangent), tangent),
    "second": (lambda f, *a: tape_gradient(penalty(f), *a),),
    "second in a function": (
        compiled(lambda f, *a: tape_gradient(penalty(f), *a)),
        lambda f, *a: tape_gradient(penalty(f), *a),
    ),
    "tangent of the gradient": (tangent_of_gradient, gradient_of_tangent),
    "jacobian": (jacobian, row_by_row),
    "map": (mapped, lambda f, x, k: [tf.stack([f(x, k), f(2 * x, k)])]),
}


def block_loss(run) -> Any:
    """The same of Dreamer's block GRU; its kernel is that of the gates."""
    random, sizes = np.random.default_rng(7), RelativeSizes(INPUTS, 8, 3, blocks=2, layers=2)
    params = {
        n: random.normal(0.2, 0.5, s).astype("float32")
        for n, s in relative_shapes(DREAMER, sizes).items()
    }
    h0 = tf.constant(random.normal(size=(BATCH, 8)).astype("float32"))
    flags = [tf.constant(random.random((STEPS, BATCH)) > 0.3) for _ in range(2)]

    def loss(x, kernel):
        given = {n: tf.constant(p) for n, p in params.items()} | {"gate_kernel": kernel}
        y, (h,) = run(DREAMER, given, x, (h0,), mask=flags[0], reset=flags[1])
        return tf.reduce_mean(tf.square(y)) + tf.reduce_mean(tf.sin(h))

    return loss, (tf.constant(draw()[1]), tf.constant(params["gate_kernel"]))


LOSSES = {
    "variant": tensorflow_loss,
    "block": lambda engine: block_loss(
        native.block_gru_on("tensorflow")
        if engine is native
        else portable.on("tensorflow").relative_sequence
    ),
}


# of both; the others differentiate what these have shown to be one function
OF_BLOCKS = ("gradient", "in a function", "by XLA", "persistent", "second in a function", "map")


@pytest.mark.parametrize(
    ("name", "cell"),
    [(n, "variant") for n in TENSORFLOW_TRANSFORMATIONS] + [(n, "block") for n in OF_BLOCKS],
)
def test_tensorflow_transformations(name, cell):
    ours, theirs = TENSORFLOW_TRANSFORMATIONS[name][0], TENSORFLOW_TRANSFORMATIONS[name][-1]
    found, expected = [
        transform(loss, *arguments)
        for transform, (loss, arguments) in (
            (ours, LOSSES[cell](native)),
            (theirs, LOSSES[cell](portable)),
        )
    ]
    close([np.asarray(v) for v in found], [np.asarray(v) for v in expected])


def by_count(function, *arguments):
    """The value of a function, and the forward and backward passes of the core in it."""
    before = [runs(back)["native", "tensorflow"] for back in (False, True)]
    value = function(*arguments)
    after = [runs(back)["native", "tensorflow"] for back in (False, True)]
    return value, *(a - b for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("cell", LOSSES)
def test_tensorflow_graphs_run_the_core(cell):
    loss, (x, kernel) = LOSSES[cell](native)
    inner = tf.function(loss, autograph=False)
    expected = loss(x, kernel)

    @tf.function
    def repeated(x, kernel):
        total = tf.constant(0.0)
        for _ in tf.range(3):
            if tf.reduce_sum(total) >= 0.0:
                total += inner(x, kernel)
        return total

    value, forward, backward = by_count(repeated, x, kernel)
    close([value], [3 * expected], gradient=False)
    assert (forward, backward) == (3, 0)
    # the same inner function, compiled by XLA, which has no such operator
    outer = tf.function(lambda *a: 2 * inner(*a), jit_compile=True)
    value, forward, backward = by_count(outer, x, kernel)
    close([value], [2 * expected], gradient=False)
    assert (forward, backward) == (0, 0)
    # and so is its gradient, after one that was taken without XLA
    slopes = tape_gradient(inner, x, kernel)
    outer = tf.function(lambda *a: tape_gradient(inner, *a), jit_compile=True)
    found, forward, backward = by_count(outer, x, kernel)
    close(found, slopes)
    assert (forward, backward) == (0, 0)


@pytest.mark.parametrize(("cell", "results"), [("variant", 3), ("block", 2)])
def test_tensorflow_gradient_of_a_graph_that_kept_nothing(cell, results):
    """The tape is outside: the forward pass is made again in the backward pass."""
    loss, arguments = LOSSES[cell](native)
    expected = tape_gradient(loss, *arguments)
    concrete = tf.function(loss, autograph=False).get_concrete_function(*arguments)
    calls = [op for op in concrete.graph.get_operations() if op.type == "PartitionedCall"]
    assert [len(op.outputs) for op in calls] == [results]  # h, h_last and perhaps c_last
    found, forward, backward = by_count(tape_gradient, concrete, *arguments)
    close(found, expected)
    assert (forward, backward) == (2, 1)


def test_tensorflow_projections_that_are_not_kept(monkeypatch):
    loss, arguments = tensorflow_loss(native)
    expected = tape_gradient(loss, *arguments)
    tensorflow_op._attributes.cache_clear()
    monkeypatch.setattr(tensorflow_op, "_MOST_SAVED", 0)
    found = tape_gradient(loss, *arguments)
    tensorflow_op._attributes.cache_clear()
    close(found, expected)


def test_tensorflow_gradient_of_x_only_where_asked(monkeypatch):
    loss, (x, kernel) = tensorflow_loss(native)
    passes = []
    operator = tensorflow_op._operator
    monkeypatch.setattr(
        tensorflow_op, "_operator", lambda how, a: passes.append(how) or operator(how, a)
    )
    tape_gradient(lambda kernel: loss(x, kernel), kernel)
    tape_gradient(loss, x, kernel)
    assert ["dx" in how.found for how in passes if how.found[0] != "h"] == [False, True]


def test_tensorflow_reads_a_batch_first_x_as_it_lies(monkeypatch):
    """A graph need not transpose it, nor its gradient; nor does it where the definition runs."""
    loss, (x, kernel) = tensorflow_loss(native)
    expected = tape_gradient(loss, x, kernel)
    passes = []
    operator = tensorflow_op._operator
    monkeypatch.setattr(
        tensorflow_op, "_operator", lambda how, a: passes.append(how) or operator(how, a)
    )

    def gradients():
        @tf.function
        def step(x, kernel):
            return tape_gradient(lambda x, k: loss(tf.transpose(x, (1, 0, 2)), k), x, kernel)

        of_x, of_kernel = step(tf.transpose(x, (1, 0, 2)), kernel)
        close([tf.transpose(of_x, (1, 0, 2)), of_kernel], expected)

    assert by_count(gradients)[1:] == (1, 1)
    assert [how.batch_first for how in passes] == [True, True]
    tf.config.optimizer.set_experimental_options({"implementation_selector": False})
    try:
        assert by_count(gradients)[1:] == (0, 0)
    finally:
        tf.config.optimizer.set_experimental_options({"implementation_selector": True})


def test_tensorflow_graphs_transpose_nothing_that_is_batch_first():
    """Neither inputs and outputs nor their gradients, in what TensorFlow runs."""
    weights, x, states = draw()
    run = native.on("tensorflow").sequence

    @tf.function
    def step(x, kernel):
        given = {n: tf.constant(w) for n, w in weights.items()} | {"recurrent_kernel": kernel}
        with tf.GradientTape() as tape:
            tape.watch((x, kernel))
            y, _ = run(VARIANT, given, tf.transpose(x, (1, 0, 2)), tuple(map(tf.constant, states)))
            value = tf.reduce_sum(tf.sin(tf.transpose(y, (1, 0, 2))))
        return tape.gradient(value, (x, kernel))

    runtime: Any = context.context()
    runtime.enable_graph_collection()
    try:
        _, *counts = by_count(step, tf.constant(x.swapaxes(0, 1)), weights["recurrent_kernel"])
        graphs = runtime.export_run_metadata().partition_graphs
    finally:
        runtime.disable_graph_collection()
    assert counts == [1, 1]
    operations = {node.op for graph in graphs for node in graph.node}
    assert "PartitionedCall" in operations
    assert not [name for name in operations if "Transpose" in name]


def test_tensorflow_shapes_are_known_in_a_graph():
    weights, _, states = draw()
    weights = {n: tf.constant(w) for n, w in weights.items()}
    shapes = []

    @tf.function(
        autograph=False, input_signature=[tf.TensorSpec((None, 3, 4)), tf.TensorSpec((None, 9))]
    )
    def run(x, h0):
        y, final = native.on("tensorflow").sequence(
            VARIANT, weights, x, (h0, tf.constant(states[1]))
        )
        shapes.append([v.shape.as_list() for v in (y, *final)])
        return y

    assert run(tf.zeros((5, 3, 4)), tf.zeros((3, 9))).shape == (5, 3, 9)
    assert shapes == [[[None, 3, 9], [None, 9], [3, 9]]]
    # what could not be known before it runs is checked when it runs
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"has the shape \(3, 9\) at T=5.*\(2, 9\)"
    ):
        run(tf.zeros((5, 3, 4)), tf.zeros((2, 9)))


def test_tensorflow_empty_batch():
    _, (x, kernel) = tensorflow_loss(native)
    weights, _, states = draw()
    run = native.on("tensorflow").sequence
    given = {n: tf.constant(w) for n, w in weights.items()} | {"recurrent_kernel": kernel}
    empty = [tf.constant(s[:0]) for s in states]
    y, _ = run(VARIANT, given, x[:, :0], empty)
    assert y.shape == (STEPS, 0, UNITS)
    gradient = tape_gradient(
        lambda k: tf.reduce_sum(run(VARIANT, given | {"recurrent_kernel": k}, x[:, :0], empty)[0]),
        kernel,
    )
    assert not np.any(gradient[0])


def test_tensorflow_without_its_library(monkeypatch, tmp_path):
    """What `lnrnn info` says, and the portable engine computes."""
    monkeypatch.setattr(tensorflow_library, "_path", lambda: tmp_path / "none")
    for cached in (tensorflow_library.missing, tensorflow_library._load):
        monkeypatch.setattr(
            tensorflow_library, cached.__wrapped__.__name__, cache(cached.__wrapped__)
        )
    request = select.Request(VARIANT, "tensorflow")
    assert select.choose("auto", request).name == "portable"
    with pytest.raises(ValueError, match="its library for TensorFlow was not compiled: install"):
        select.choose("native", request)
