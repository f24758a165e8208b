"""Every engine counts its runs: eager, traced and compiled, forward and backward."""

from __future__ import annotations

import threading
from collections import Counter
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch

from lnrnn import engines
from lnrnn.engines import select
from lnrnn.engines.fused import torch_op
from lnrnn.params import Sizes, shapes
from lnrnn.testing import adapters, golden
from lnrnn.torch import LayerNormGRU, LayerNormLSTM, LayerNormLSTMCell
from lnrnn.variant import Variant

LSTM = Variant(cell="lstm", bias=True)
STEPS, BATCH, UNITS = 4, 2, 3
GOLDEN = Path(__file__).parents[1] / "golden"
X = torch.randn(STEPS, BATCH, UNITS)
TENSOR = {"torch": torch.tensor, "jax": jnp.asarray, "tensorflow": tf.constant}


def counted(function) -> tuple[dict, dict]:
    """The runs of a call, forward and backward."""
    before = engines.runs(), engines.runs(backward=True)
    function()
    after = engines.runs(), engines.runs(backward=True)
    return dict(after[0] - before[0]), dict(after[1] - before[1])


def sequence(engine: str, framework: str):
    """A function of x (T, B, H) alone, on a framework's tensors."""
    request = select.Request(LSTM, framework)
    rng, tensor = np.random.default_rng(0), TENSOR[framework]

    def drawn(*shape: int):
        return tensor(rng.normal(size=shape).astype("float32"))

    params = {n: drawn(*s) for n, s in shapes(LSTM, Sizes(UNITS, UNITS, UNITS)).items()}
    states = drawn(BATCH, UNITS), drawn(BATCH, UNITS)
    run = select.choose(engine, request).load(request)
    return lambda x: run(LSTM, params, x, states)[0], drawn(STEPS, BATCH, UNITS)


def test_modules_count_each_layer_and_direction() -> None:
    module = LayerNormLSTM(UNITS, UNITS, 2, bidirectional=True, engine="native")
    four = {("native", "torch"): 4}
    assert counted(lambda: module(X)[0].sum().backward()) == (four, four)
    assert counted(lambda: module.eval()(X)) == (four, {})
    portable = LayerNormGRU(UNITS, UNITS, 2, engine="portable")
    two = {("portable", "torch"): 2}
    assert counted(lambda: portable(X)[0].sum().backward()) == (two, {})
    cell = LayerNormLSTMCell(UNITS, UNITS)
    assert counted(lambda: cell(X[0])) == ({("portable", "torch"): 1}, {})
    assert counted(lambda: portable.step(X[0])) == (two, {})


def test_a_copy_is_returned() -> None:
    engines.runs().clear()
    assert isinstance(engines.runs(), Counter) and engines.runs().total() > 0


@pytest.mark.parametrize("engine", ["native", "portable"])
def test_a_compiled_torch_program(engine: str) -> None:
    """The native engine counts when it runs, the portable one when it is traced."""
    torch.compiler.reset()
    module = LayerNormLSTM(UNITS, UNITS, engine=engine)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    compiled(X)
    native = {("native", "torch"): 1} if engine == "native" else {}
    assert counted(lambda: compiled(X)[0].sum().backward()) == (native, native)


@pytest.mark.parametrize("engine", ["native", "portable"])
def test_a_compiled_jax_program(engine: str) -> None:
    run, x = sequence(engine, "jax")
    step = jax.jit(jax.grad(lambda x: run(x).sum()))
    traced = counted(lambda: jax.block_until_ready(step(x)))
    again = counted(lambda: jax.block_until_ready([step(x), step(x)]))
    if engine == "native":
        one, two = {("native", "jax"): 1}, {("native", "jax"): 2}
        assert traced == (one, one) and again == (two, two)
    else:
        assert traced == ({("portable", "jax"): 1}, {}) and again == ({}, {})


@pytest.mark.parametrize("engine", ["native", "portable"])
def test_a_tensorflow_graph(engine: str) -> None:
    run, x = sequence(engine, "tensorflow")

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(run(x))
        return tape.gradient(loss, x)

    traced, again = counted(partial(step, x)), counted(lambda: (step(x), step(x)))
    if engine == "native":
        one, two = {("native", "tensorflow"): 1}, {("native", "tensorflow"): 2}
        assert traced == (one, one) and again == (two, two)
    else:
        assert traced == ({("portable", "tensorflow"): 1}, {}) and again == ({}, {})


def test_what_the_definition_computes_is_no_run_of_the_native_engine() -> None:
    run, x = sequence("native", "torch")
    assert counted(lambda: torch.func.vmap(run)(torch.stack([x, x])))[0] == {}
    run, x = sequence("native", "jax")
    exported = jax.export.export(jax.jit(run))(x)
    assert counted(lambda: jax.block_until_ready(exported.call(x)))[0] == {}


def test_a_map_over_sequences_of_jax_is_one_run() -> None:
    run, x = sequence("native", "jax")
    derive = jax.jit(jax.grad(lambda x: jax.vmap(run)(x).sum()))
    one = {("native", "jax"): 1}
    assert counted(lambda: jax.block_until_ready(derive(jnp.stack([x, 2 * x])))) == (one, one)


@pytest.mark.parametrize("frontend", ["torch", "torch-op"])
def test_a_golden_file_that_another_engine_computes_fails(frontend: str, monkeypatch) -> None:
    file = golden.read(GOLDEN / "haste_lnlstm__a__f32")
    assert file is not None
    adapter = adapters.choose("native", frontend)
    assert golden.compare(file, adapter) is None
    monkeypatch.setattr(torch_op, "by_definition", lambda tensors: True)
    with pytest.raises(ValueError, match="'native' computes a file on torch"):
        golden.compare(file, adapter)


def test_threads_lose_no_count() -> None:
    modules = [LayerNormLSTM(UNITS, UNITS, engine=e) for e in ("native", "portable")]

    def work() -> None:
        for _ in range(50):
            for module in modules:
                module(X)

    def together() -> None:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    both = {("native", "torch"): 200, ("portable", "torch"): 200}
    assert counted(together) == (both, {})
