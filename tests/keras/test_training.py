"""Training: compiled or not, reproducible, with constraints, in parts and in parallel."""

# pyright: reportArgumentType=false
# (Keras hints a string for `verbose` and `jit_compile`)

from __future__ import annotations

import functools
import re

import keras
import numpy as np
import pytest
from keras_cases import (
    BACKEND,
    BATCH,
    GRU,
    INPUTS,
    LSTM,
    SIMPLE,
    UNITS,
    by_reference,
    draw,
    each_kind,
    initial_states,
    mixed,
    sequences,
    to_numpy,
)

from lnrnn.engines import runs
from lnrnn.testing import assert_close, garbage_of

NOISE = {"dropout": 0.2, "recurrent_dropout": 0.2, "zoneout": 0.1, "weight_dropout": 0.1}
GROUPS = ("kernel", "recurrent", "bias", "gain", "norm_bias")


def _model(layer, steps=None):
    model = keras.Sequential([keras.Input((steps, INPUTS)), layer, keras.layers.Dense(1)])
    mixed(layer)
    return model


def _data(batch=8, steps=5):
    return sequences(batch, steps), draw(batch, 1, seed=9)


def _fit(model, epochs=2, **compile_options):
    model.compile("sgd", "mse", **compile_options)
    x, y = _data()
    return model.fit(x, y, batch_size=4, epochs=epochs, verbose=0).history["loss"]


@pytest.fixture
def quick_compiler(monkeypatch):
    """On torch, trace Keras's functions but leave out what compiles the trace."""
    if BACKEND == "torch":
        compiler = functools.partial(torch.compile, backend="eager")
        monkeypatch.setattr(torch, "compile", compiler)


# torch.compile takes half a minute for Keras's fit; the layers alone are compiled below
@pytest.mark.parametrize("kind", [LSTM] if BACKEND == "torch" else [SIMPLE, LSTM, GRU])
def test_compiled_and_eager_training_agree(kind, quick_compiler):
    weights, losses = [], []
    start = keras.Sequential([kind.layer(UNITS), keras.layers.Dense(1)])
    start.build((None, 3, INPUTS))
    x, y = _data(steps=3)
    for options in ({"jit_compile": True}, {"jit_compile": False}, {"run_eagerly": True}):
        model = keras.models.clone_model(start)
        model.set_weights(start.get_weights())
        model.compile("sgd", "mse", **options)
        # one batch, as torch.compile begins anew at the second
        losses.append(model.fit(x, y, batch_size=8, epochs=2, verbose=0).history["loss"])
        losses[-1].append(model.evaluate(x, y, batch_size=8, verbose=0))
        weights.append([*model.get_weights(), model.predict(x, batch_size=8, verbose=0)])
    for other in (1, 2):
        assert_close("loss", losses[other], losses[0], "float32")
        for a, e in zip(weights[other], weights[0], strict=True):
            # after two updates the weights differ by their gradients' rounding
            assert_close("weight", a, e, "float32", gradient=True)


if BACKEND == "torch":
    import torch

    @each_kind
    @pytest.mark.parametrize("engine", ["auto", "portable"])
    def test_compiled_into_one_graph(kind, engine):
        """Nothing in a layer makes torch.compile give up and leave it to Python."""
        layer = mixed(kind.layer(UNITS, engine=engine))
        mask = torch.tensor([[0, 1, 1], [1, 1, 0], [1, 0, 1]], dtype=torch.bool)
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        found = []
        for call in (layer, compiled):
            x = torch.tensor(sequences(steps=3), requires_grad=True)
            y = call(x, mask=mask)
            inputs = [x, *(w.value for w in layer.trainable_variables)]
            found.append(to_numpy([y.detach(), *torch.autograd.grad(y.square().sum(), inputs)]))
        for a, e in zip(*found, strict=True):
            assert_close("y and gradients", a, e, "float32", gradient=True)


@each_kind
def test_noise_in_compiled_training(kind):
    losses = _fit(_model(kind.layer(UNITS, **NOISE)), jit_compile=BACKEND != "torch")
    assert np.isfinite(losses).all()


@each_kind
def test_learning(kind):
    """The sum of the first feature, from nothing, each step by the native engine."""
    x = sequences(16, 4, 2)
    y = np.tanh(x[:, :, 0].sum(1, keepdims=True))
    model = keras.Sequential([keras.Input((None, 2)), kind.layer(8), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.03), "mse")
    before = runs(), runs(backward=True)
    losses = model.fit(x, y, batch_size=16, epochs=40, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    after = runs(), runs(backward=True)
    assert [a - b for a, b in zip(after, before, strict=True)] == [{("native", BACKEND): 40}] * 2


@each_kind
def test_same_seed_same_training(kind):
    found = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        found.append(_fit(keras.Sequential([kind.layer(UNITS, **NOISE), keras.layers.Dense(1)])))
    assert found[0] == found[1] != found[2]


@each_kind
def test_seed_of_the_layer(kind):
    """The seed gives the masks, and another seed others."""
    x = sequences()
    outputs = []
    for seed in (3, 3, 4):
        layer = mixed(kind.layer(UNITS, seed=seed, **NOISE))
        outputs.append([to_numpy(layer(x, training=True)) for _ in range(2)])
    assert np.array_equal(outputs[0], outputs[1])
    assert not np.allclose(outputs[0], outputs[2])
    assert not np.allclose(outputs[0][0], outputs[0][1])


@each_kind
def test_layer_that_is_not_trainable(kind):
    frozen = kind.layer(UNITS, trainable=False)
    model = _model(frozen)
    assert not frozen.trainable_weights and len(frozen.non_trainable_weights) > 2
    before = model.get_weights()
    _fit(model)
    for weight, old in zip(frozen.get_weights(), before, strict=False):
        assert np.array_equal(weight, old)
    assert not np.array_equal(model.get_weights()[-2], before[-2])
    frozen.trainable = True
    assert not frozen.non_trainable_weights
    _fit(model)
    assert not np.array_equal(frozen.get_weights()[0], before[0])


@each_kind
def test_regularizers_of_every_group(kind):
    for index, group in enumerate(GROUPS):
        factor = 0.1 * (index + 1)
        layer = kind.layer(UNITS, **{f"{group}_regularizer": keras.regularizers.L2(factor)})
        mixed(layer)(sequences())
        # the default GRU has the biases of its norms only, which both groups then govern
        groups = ("norm_bias",) if kind is GRU and group == "bias" else (group,)
        own = [w for name, w in layer.params().items() if _group(name) in groups]
        assert own, group
        expected = factor * sum((w.astype("float64") ** 2).sum() for w in own)
        assert_close(group, sum(to_numpy(v) for v in layer.losses), expected, "float32")


def _group(name):
    if name in ("kernel", "recurrent_kernel"):
        return name.removesuffix("_kernel")
    kinds = {"_norm_gain": "gain", "_norm_bias": "norm_bias"}
    return next((group for end, group in kinds.items() if name.endswith(end)), "bias")


@each_kind
def test_constraints_of_every_group(kind):
    options = {f"{group}_constraint": "non_neg" for group in GROUPS}
    model = _model(kind.layer(UNITS, **options))
    _fit(model, epochs=1)
    assert all((w >= 0).all() for w in model.layers[0].get_weights())
    free = _model(kind.layer(UNITS))
    _fit(free, epochs=1)
    assert any((w < 0).any() for w in free.layers[0].get_weights())


@each_kind
def test_activity_regularizer(kind):
    options: dict = {"activity_regularizer": keras.regularizers.L2(0.5)}
    layer = mixed(kind.layer(UNITS, **options))
    # some releases of Keras divide the loss of activities by the batch
    own = keras.layers.Activation("linear", **options)
    own(layer(sequences()))
    assert to_numpy(own.losses[0]) > 0
    assert_close("loss", to_numpy(layer.losses[0]), to_numpy(own.losses[0]), "float32")


def _count_calls(layer, monkeypatch):
    calls, inner_loop = [], layer.inner_loop

    def counted(*args, **kwargs):
        calls.append(1)
        return inner_loop(*args, **kwargs)

    monkeypatch.setattr(layer, "inner_loop", counted)
    return calls


# torch runs the Python of a layer at every step, by design of Keras
if BACKEND != "torch":

    @each_kind
    def test_nothing_is_traced_twice(kind, monkeypatch):
        layer = kind.layer(UNITS, **NOISE)
        model = _model(layer)
        calls = _count_calls(layer, monkeypatch)
        x, y = _data()
        model.compile("sgd", "mse", jit_compile=True)
        for run in (
            lambda: model.fit(x, y, batch_size=4, verbose=0),
            lambda: model.predict(x, batch_size=4, verbose=0),
            lambda: model.evaluate(x, y, batch_size=4, verbose=0),
        ):
            run()
            before = len(calls)
            run()
            assert len(calls) == before


def test_model_in_a_model():
    inner = keras.Sequential([keras.Input((None, INPUTS)), GRU.layer(UNITS, return_sequences=True)])
    inputs = keras.Input((None, INPUTS))
    outer = keras.Model(inputs, keras.layers.Dense(1)(LSTM.layer(4)(inner(inputs))))
    mixed(inner.layers[0])
    assert np.isfinite(_fit(outer)).all()
    h = by_reference(inner.layers[0], sequences()).y
    assert_close("inner", inner.predict(sequences(), verbose=0), h, "float32")


def test_layer_used_twice():
    """One layer on two inputs has one set of weights."""
    inputs = [keras.Input((None, INPUTS)) for _ in range(2)]
    layer = SIMPLE.layer(UNITS)
    model = keras.Model(inputs, keras.layers.Subtract()([layer(i) for i in inputs]))
    mixed(layer)
    x = sequences()
    expected = by_reference(layer, x).y[:, -1] - by_reference(layer, 2 * x).y[:, -1]
    assert_close("y", to_numpy(model([x, 2 * x])), expected, "float32")
    assert len(model.weights) == len(layer.weights)


def test_time_distributed():
    layer = mixed(GRU.layer(UNITS))
    x = draw(2, 3, 4, INPUTS)
    y = to_numpy(keras.layers.TimeDistributed(layer)(x))
    expected = np.stack([by_reference(layer, x[:, t]).y[:, -1] for t in range(3)], 1)
    assert_close("y", y, expected, "float32")


def test_class_and_sample_weights():
    model = _model(LSTM.layer(UNITS))
    model.compile("sgd", "mse")
    before, (x, y) = model.get_weights(), _data()
    model.fit(x, y, sample_weight=np.zeros(len(x)), verbose=0)
    for a, e in zip(model.get_weights(), before, strict=True):
        assert np.array_equal(a, e)


if BACKEND == "jax":
    import jax

    @pytest.mark.parametrize("kind", [LSTM, GRU])
    def test_steps_transpose_no_sequence(kind):
        """Neither inputs and outputs nor their gradients, through two layers."""
        layers = [kind.layer(UNITS, return_sequences=True) for _ in range(2)]
        model = keras.Sequential([keras.Input((5, INPUTS)), *layers])
        model.compile("sgd", "mse")
        x, y = sequences(8, 5), draw(8, 5, UNITS)
        model.train_on_batch(x, y)
        options = {"trainable_variables": True, "non_trainable_variables": True}
        state = model._get_jax_state(**options)
        trained = model._get_jax_state(**options, optimizer_variables=True, metrics_variables=True)
        for step, its, data in (
            (model.predict_step, state, (x,)),
            (model.train_step, trained, (x, y)),
        ):
            program = str(jax.jit(step).lower(its, data).compile().as_text())
            assert "lnrnn_forward" in program
            assert not re.findall(r"\[\d+,\d+,\d+\]\S* (?:transpose|copy)\(", program)

    def test_data_parallel_training():
        """On two devices, the numbers of one."""
        results = []
        for devices in (keras.distribution.list_devices("cpu")[:1], None):
            devices = devices or keras.distribution.list_devices("cpu")[:2]
            keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
            keras.utils.set_random_seed(1)
            model = keras.Sequential(
                [keras.Input((None, INPUTS)), LSTM.layer(UNITS), keras.layers.Dense(1)]
            )
            results.append(_fit(model))
            keras.distribution.set_distribution(None)
        assert len(devices) == 2
        assert_close("loss", results[1], results[0], "float32")


@each_kind
@pytest.mark.parametrize("engine", ["native", "portable"])
def test_a_call_leaves_no_garbage_of_ours(kind, engine):
    """Nor any else but on torch, where Keras leaves some of its own, for stock layers as well."""
    x, h = sequences(steps=3), initial_states(kind)
    layer = kind.layer(UNITS, engine=engine, dropout=0.2)
    model = keras.Sequential([keras.Input((3, INPUTS)), layer])
    model.compile("sgd", "mse")
    y = np.zeros((BATCH, UNITS), "float32")

    def run():
        layer(x, initial_state=h, training=True)
        layer.cell(x[:, 0], h)
        model.train_on_batch(x, y)

    left = garbage_of(run)
    modules = {str(getattr(o, "__module__", None) or type(o).__module__) for o in left}
    assert not [name for name in modules if name.startswith("lnrnn")]
    assert BACKEND == "torch" or not left


if BACKEND == "tensorflow":
    import tensorflow as tf

    def _counted(function, *arguments, **options):
        """How often the core ran in a call, forward and backward."""
        before = runs(), runs(backward=True)
        function(*arguments, **options)
        return [
            (after - earlier)["native", "tensorflow"]
            for after, earlier in zip((runs(), runs(backward=True)), before, strict=True)
        ]

    @pytest.mark.parametrize("options", [{}, {"steps_per_execution": 2}, {"run_eagerly": True}])
    def test_the_core_trains_evaluates_and_predicts(options):
        layer = keras.layers.Bidirectional(LSTM.layer(UNITS, zoneout=0.1))
        model = keras.Sequential([keras.Input((None, INPUTS)), layer, keras.layers.Dense(1)])
        model.compile("sgd", "mse", **options)
        x, y = _data()
        calls = dict(batch_size=4, verbose=0)  # two batches, two directions
        assert _counted(model.fit, x, y, **calls) == [4, 4]
        assert _counted(model.evaluate, x, y, **calls) == [4, 0]
        assert _counted(model.predict, x, **calls) == [4, 0]
        assert _counted(model.train_on_batch, x, y) == [2, 2]

    @each_kind
    def test_own_training_step_by_xla(kind):
        layer = mixed(kind.layer(UNITS, return_sequences=True))
        weights = [w.value for w in layer.trainable_variables]

        def step(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(layer(x, training=True)))
            return tape.gradient(loss, weights)

        x = tf.constant(sequences())
        for found, expected in zip(tf.function(step, jit_compile=True)(x), step(x), strict=True):
            assert_close("gradient", found, expected, "float32", gradient=True)

    def test_in_a_data_pipeline():
        layer = mixed(GRU.layer(UNITS))
        x = sequences(4)
        (found,) = tf.data.Dataset.from_tensor_slices(x).batch(4).map(layer)
        assert_close("y", found, by_reference(layer, x).y[:, -1], "float32")

    def test_mirrored_training():
        """On two devices, the numbers of one."""
        devices = ["CPU:0", "CPU:1"]
        results = []
        for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(devices)):
            keras.utils.set_random_seed(1)
            with strategy.scope():
                model = keras.Sequential(
                    [keras.Input((None, INPUTS)), LSTM.layer(UNITS), keras.layers.Dense(1)]
                )
                model.compile("sgd", "mse")
            x, y = _data()
            counts = _counted(
                lambda m=model, x=x, y=y: results.append(
                    m.fit(x, y, batch_size=4, epochs=2, verbose=0).history["loss"]
                )
            )
            assert counts == [4 * strategy.num_replicas_in_sync] * 2
        assert_close("loss", results[1], results[0], "float32")
