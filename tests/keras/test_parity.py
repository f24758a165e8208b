"""Without norms our layers are Keras's own: the same values and the same gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import ops
from keras_cases import (
    BACKEND,
    GRU,
    INPUTS,
    KINDS,
    SIMPLE,
    UNITS,
    draw,
    each_kind,
    initial_states,
    to_numpy,
)

from lnrnn.keras.normalize import from_keras
from lnrnn.testing import assert_close

# (B, T): padding on the left, on the right, holes, a row without a valid step
MASKS = np.array(
    [
        [0, 0, 1, 1, 1],
        [1, 1, 1, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 1],
        [1, 1, 1, 1, 1],
        [1, 0, 1, 0, 1],
        [0, 0, 0, 0, 0],
        [1, 1, 0, 1, 0],
    ],
    bool,
)
# few steps, as every operation of every step is differentiated on its own
X = draw(3, 3, INPUTS)
HOLES = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 1]], bool)
SEQUENCES = {"return_sequences": True}

OPTIONS: dict[str, dict[str, Any]] = {
    "last": {},
    "sequences": SEQUENCES,
    "backwards": {**SEQUENCES, "go_backwards": True},
    "unrolled": {**SEQUENCES, "unroll": True},
    "unrolled_backwards": {"unroll": True, "go_backwards": True},
    "no_bias": {**SEQUENCES, "use_bias": False},
    "linear": {**SEQUENCES, "activation": None},
    "relu": {**SEQUENCES, "activation": "relu"},
    "unnamed_activation": {**SEQUENCES, "activation": "softsign"},
    "dropout_in_inference": {**SEQUENCES, "dropout": 0.4, "recurrent_dropout": 0.3},
}
OF_GATED = {
    "hard_gates": {**SEQUENCES, "recurrent_activation": "hard_sigmoid"},
    "unnamed_gates": {**SEQUENCES, "recurrent_activation": "softsign"},
    "implementation": {**SEQUENCES, "implementation": 1},
}
OF_GRU = {
    "before": {**SEQUENCES, "reset_after": False},
    "before_no_bias": {"reset_after": False, "use_bias": False},
    "before_unrolled_backwards": {"reset_after": False, "unroll": True, "go_backwards": True},
}
each_case = pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(kind, options, id=f"{kind.name}-{name}")
        for kind in KINDS.values()
        for name, options in {
            **OPTIONS,
            **(OF_GATED if kind is not SIMPLE else {}),
            **(OF_GRU if kind is GRU else {}),
        }.items()
    ],
)


class Pair(NamedTuple):
    """A layer of Keras, and ours with the same weights."""

    stock: Any
    ours: Any


class Run(NamedTuple):
    """What a layer gives: its outputs, and the gradients of a loss of all of them."""

    outputs: list[np.ndarray]
    gradients: dict[str, np.ndarray]


def randomize(layer, seed=5):
    """Give every weight random values without symmetry, biases included."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(rng.standard_normal(weight.shape) / np.sqrt(max(weight.shape[0], 2)))


def cells(layer):
    """The cells in a layer, a wrapper or a stack."""
    if isinstance(layer, keras.layers.Bidirectional):
        return [layer.forward_layer.cell, layer.backward_layer.cell]
    return getattr(layer.cell, "cells", [layer.cell])


def twins(stock, ours, shape=(None, None, INPUTS)):
    """Two layers, built, with the same random weights."""
    for layer in (stock, ours):
        layer.build(shape)
    randomize(stock)
    for mine, theirs in zip(cells(ours), cells(stock), strict=True):
        mine.load_params(from_keras(theirs))
    return Pair(stock, ours)


def pair(kind, units=UNITS, shape=(None, None, INPUTS), **options):
    return twins(kind.stock(units, **options), kind.layer(units, variant="none", **options), shape)


def canonical(layer: Any, weights: Any) -> dict[str, np.ndarray]:
    """Arrays in the order of a layer's weights under canonical names."""
    holder = layer.from_config(layer.get_config())
    holder.build((None, None, INPUTS))
    holder.set_weights(weights)
    found = [getattr(cell, "params", lambda c=cell: from_keras(c))() for cell in cells(holder)]
    return {
        f"{i} {name}": value for i, params in enumerate(found) for name, value in params.items()
    }


def run(layer: Any, x: Any, states: Any = (), **call: Any) -> Run:
    """Outputs of a layer, and gradients by its weights, `x` and the states."""
    weights = layer.trainable_variables

    def objective(x: Any, states: Any, call_layer: Any) -> Any:
        outputs = call_layer(x, initial_state=list(states) or None, **call)
        outputs = keras.tree.flatten(outputs)
        parts: Any = ops.stack([ops.mean(ops.square(ops.cast(o, "float32"))) for o in outputs])
        # each output counts differently
        return ops.sum(parts * ops.arange(1, 1 + len(outputs), dtype="float32")), outputs

    if BACKEND == "jax":
        import jax

        fixed = [v.value for v in layer.non_trainable_variables]

        def of_all(weights, x, states):
            return objective(
                x, states, lambda *a, **k: layer.stateless_call(weights, fixed, *a, **k)[0]
            )

        # every scan would be compiled for one use
        with jax.disable_jit():
            derive = jax.grad(of_all, argnums=(0, 1, 2), has_aux=True)
            at = jax.tree.map(jax.numpy.asarray, ([w.value for w in weights], x, list(states)))
            found, outputs = derive(*at)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        x, states = tf.constant(x), [tf.constant(s) for s in states]
        with tf.GradientTape() as tape:
            tape.watch([x, *states])
            loss, outputs = objective(x, states, layer)
        found = tape.gradient(loss, ([w.value for w in weights], x, states))
    else:
        import torch

        x, *states = (torch.tensor(v, requires_grad=True) for v in (x, *states))
        loss, outputs = objective(x, states, layer)
        inputs = [*(w.value for w in weights), x, *states]
        flat = list(torch.autograd.grad(loss, inputs))
        n = len(weights)
        found = flat[:n], flat[n], flat[n + 1 :]
    by_weight, by_x, by_states = to_numpy(found)
    gradients = canonical(layer, by_weight) | {"x": by_x}
    gradients |= {f"state {i}": g for i, g in enumerate(by_states)}
    return Run(to_numpy(outputs), gradients)


def assert_same(layers, x, states=(), dtype="float32", **call):
    """Same outputs, final states and gradients of everything."""
    stock, ours = (run(layer, x, states, **call) for layer in layers)
    for i, (a, e) in enumerate(zip(ours.outputs, stock.outputs, strict=True)):
        assert a.dtype == e.dtype
        assert_close(f"output {i}", a, e, dtype)
    assert set(ours.gradients) == set(stock.gradients)
    for name, e in stock.gradients.items():
        assert np.abs(np.asarray(e, "float32")).max() > 0
        assert_close(name, ours.gradients[name], e, dtype, gradient=True)


@each_case
def test_every_option(kind, options):
    layers = pair(kind, return_state=True, **options)
    assert_same(layers, X, initial_states(kind))


@each_kind
def test_zero_states_and_last_output_only(kind):
    assert_same(pair(kind), X)


MASKED = {
    "repeat": {},
    "zero": {"return_sequences": True, "zero_output_for_mask": True},
    "backwards": {"return_sequences": True, "go_backwards": True},
    # with repeated outputs: where Keras unrolls it does not know zero_output_for_mask
    "unrolled": {"return_sequences": True, "unroll": True},
}


@each_kind
@pytest.mark.parametrize("options", MASKED.values(), ids=MASKED)
def test_masks(kind, options):
    if kind is GRU and "zero_output_for_mask" in options:
        options = {**options, "reset_after": False}
    layers = pair(kind, return_state=True, **options)
    assert_same(layers, draw(len(MASKS), 5, INPUTS), mask=MASKS)


@each_kind
def test_mask_of_a_masking_layer(kind):
    x = draw(len(MASKS), 5, INPUTS)
    x[~MASKS] = 0
    expected, actual = (
        to_numpy(keras.Sequential([keras.layers.Masking(), layer])(x)) for layer in pair(kind)
    )
    assert_close("y", actual, expected, "float32")


@each_kind
def test_stateful(kind):
    layers = pair(kind, shape=(3, None, INPUTS), stateful=True, return_sequences=True)
    first, second = X, draw(3, 4, INPUTS)
    found = []
    for layer in layers:
        fresh, carried = to_numpy(layer(first)), to_numpy(layer(second))
        layer.reset_state()
        found.append((fresh, carried, to_numpy(layer(second))))
    for name, e, a in zip(("fresh", "carried", "reset"), *found, strict=True):
        assert_close(name, a, e, "float32")
    assert np.abs(found[1][1] - found[1][2]).max() > 1e-2


@each_kind
@pytest.mark.parametrize(
    ("merge_mode", "sequence"),
    [
        ("concat", True),
        ("concat", False),
        ("sum", True),
        ("mul", False),
        ("ave", True),
        (None, True),
    ],
)
def test_bidirectional(kind, merge_mode, sequence):
    options = {"return_sequences": sequence, "return_state": merge_mode != "mul"}
    layers = twins(
        keras.layers.Bidirectional(kind.stock(UNITS, **options), merge_mode),
        keras.layers.Bidirectional(kind.layer(UNITS, variant="none", **options), merge_mode),
    )
    states = [*initial_states(kind), *(2 * s for s in initial_states(kind))]
    assert_same(layers, X, states, mask=HOLES)


@each_kind
@pytest.mark.parametrize("number", [1, 2])
def test_cells_in_the_loop_of_keras(kind, number):
    stock = [kind.stock_cell(UNITS) for _ in range(number)]
    ours = [kind.cell(UNITS, variant="none") for _ in range(number)]
    options = {"return_sequences": True, "return_state": True}
    layers = [
        keras.layers.RNN(cells if number > 1 else cells[0], **options) for cells in (stock, ours)
    ]
    assert_same(twins(*layers), X, mask=HOLES)


@each_kind
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_policies(kind, policy):
    layers = pair(kind, dtype=policy, return_sequences=True, return_state=True)
    dtype = layers.stock.compute_dtype
    assert_same(layers, X, initial_states(kind), dtype)


@each_kind
def test_float64(kind, double_precision):
    layers = pair(kind, dtype="float64", return_sequences=True)
    # in Keras's own layers some operations stay float32 on the other backends
    dtype = "float64" if BACKEND == "tensorflow" else "float32"
    assert_same(layers, X.astype("float64"), dtype=dtype)


@each_kind
def test_smallest_sizes(kind):
    layers = pair(kind, units=1, shape=(None, None, 1), return_sequences=True)
    x, states = draw(1, 1, 1), initial_states(kind, batch=1, units=1)
    expected, actual = (to_numpy(layer(x, initial_state=states)) for layer in layers)
    assert_close("y", actual, expected, "float32")


@each_kind
def test_lengths_that_change_in_a_compiled_model(kind):
    models = []
    for layer in pair(kind, return_sequences=True):
        inputs = keras.Input((None, INPUTS))
        models.append(keras.Model(inputs, layer(inputs)))
    for steps in (2, 6):
        x = draw(4, steps, INPUTS)
        expected, actual = (model.predict(x, verbose=0) for model in models)
        assert_close("y", actual, expected, "float32")


@each_kind
def test_regularizers_count_alike(kind):
    options: dict[str, Any] = {f"{g}_regularizer": "l2" for g in ("kernel", "recurrent", "bias")}
    if kind is not SIMPLE:  # keras.layers.SimpleRNN loses it
        options["activity_regularizer"] = "l1"
    layers = pair(kind, **options)
    for layer in layers:
        layer(X)
    expected, actual = (float(to_numpy(sum(layer.losses))) for layer in layers)
    assert_close("losses", actual, expected, "float32")


def test_from_keras_wants_a_built_layer_of_keras():
    with pytest.raises(ValueError, match="not built"):
        from_keras(keras.layers.LSTM(3))
    with pytest.raises(TypeError, match="got Dense"):
        from_keras(keras.layers.Dense(3))
