"""`lnrnn.nnx`: cells and layers among the modules of Flax NNX."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax_cases import BATCH, DIALECTS, INPUTS, STEPS, UNITS, assert_same, case, weighted

import lnrnn
from lnrnn.engines import runs
from lnrnn.frontends.errors import ArgumentTypeError
from lnrnn.nnx import (
    LayerNormGRU,
    LayerNormGRUCell,
    LayerNormLSTM,
    LayerNormLSTMCell,
    LayerNormSimpleCell,
    LayerNormSimpleRNN,
    layer_normalize,
)
from lnrnn.testing import adapters, golden
from lnrnn.testing.contract import verify_contract
from lnrnn.testing.frontends import front_end

FILES = Path(__file__).parents[1] / "golden"
KINDS: dict[str, tuple[Any, Any]] = {
    "lstm": (LayerNormLSTM, LayerNormLSTMCell),
    "gru": (LayerNormGRU, LayerNormGRUCell),
    "simple": (LayerNormSimpleRNN, LayerNormSimpleCell),
}
LENGTHS = jnp.array([5, 2, 1, 4])


def made(kind: str, form: int = 0, **options: Any) -> Any:
    """A layer, or form 1 a cell, in float64 with random weights."""
    given = case(DIALECTS[kind], learned_state=options.get("learn_initial_state", False))
    module = KINDS[kind][form](
        INPUTS,
        UNITS,
        rngs=nnx.Rngs(0, dropout=1),
        variant=given.variant,
        param_dtype="float64",
        **options,
    )
    module.load_params(given.params)
    return module


def test_contract() -> None:
    verify_contract(front_end("nnx"), case(DIALECTS["lstm"]).variant)


@pytest.mark.parametrize(
    "name",
    [
        "haste_lngru_zoneout_train__a__f64",
        "tfa_lnlstm_mask__a__f64",
        "icefall_lnlstm_proj__a__f64",
        "tfa_lnsimplernn__a__f64",
    ],
)
def test_golden_file(name: str) -> None:
    """Some; `python -m lnrnn.testing.golden tests/golden --frontend nnx` runs all files."""
    file = golden.read(FILES / name)
    assert file is not None
    assert golden.compare(file, adapters.choose(frontend="nnx")) is None


@pytest.mark.parametrize(("kind", "keep_order"), [("lstm", False), ("gru", True), ("simple", True)])
def test_layer_is_the_cell_in_nnx_rnn(kind: str, keep_order: bool) -> None:
    """With lengths, in both directions, values, carries and gradients."""
    x = case(DIALECTS[kind]).x
    layer, cell = made(kind), nnx.RNN(made(kind, form=1))
    valid = (jnp.arange(STEPS) < LENGTHS[:, None])[..., None]

    def run(module: Any, x: Any) -> Any:
        ways = [
            module(x, seq_lengths=LENGTHS, return_carry=True, reverse=r, keep_order=keep_order)
            for r in (False, True)
        ]
        return [(carry, jnp.where(valid, y, 0)) for carry, y in ways]

    assert_same(run(layer, x), run(cell, x))
    gradients = [nnx.grad(lambda m, x: weighted(run(m, x)), argnums=1)(m, x) for m in (layer, cell)]
    assert_same(*gradients, gradient=True)


def test_a_carry_that_is_learned(tmp_path: Path) -> None:
    """In a layer, in `nnx.RNN` around a cell, at resets, in a file."""
    layer, cell = (made("lstm", form, learn_initial_state=True) for form in (0, 1))
    x, reset = case(DIALECTS["lstm"]).x, jnp.arange(BATCH * STEPS).reshape(BATCH, STEPS) % 3 == 2

    def gradients(module: Any, run: Any) -> Any:
        return nnx.grad(lambda m: weighted(run(m)))(module)

    found, expected = gradients(layer, lambda m: m(x)), gradients(cell, lambda m: nnx.RNN(m)(x))
    assert_same(nnx.to_pure_dict(found), nnx.to_pure_dict(expected), gradient=True)
    assert found["initial_c"][...].any()
    carry = layer.initialize_carry((BATCH, INPUTS))
    again = layer(x, reset=reset, initial_carry=carry, reset_carry=carry)
    assert_same(layer(x, reset=reset, burn_in=2), again)
    other = made("lstm", learn_initial_state=True)
    other.initial_h[...] += 1
    lnrnn.save(tmp_path / "layer.safetensors", layer)
    other.load_params(lnrnn.load(tmp_path / "layer.safetensors").single.params)
    assert_same(other(x), layer(x))
    with pytest.raises(ValueError, match="make the layer with learn_initial_state=True"):
        made("lstm").load_params(layer.params())


def test_bidirectional_with_native_runs() -> None:
    x = case(DIALECTS["gru"]).x
    layer = nnx.Bidirectional(made("gru"), made("gru"))
    cell = nnx.Bidirectional(nnx.RNN(made("gru", 1)), nnx.RNN(made("gru", 1)))
    before = runs()
    y = nnx.jit(lambda m, x: m(x))(layer, x).block_until_ready()
    assert set(runs() - before) == {("native", "jax")}
    assert_same(y, cell(x))


def test_masks_are_of_training_and_new_at_each_call() -> None:
    x = case(DIALECTS["lstm"]).x
    options: dict[str, Any] = {"zoneout": 0.3, "recurrent_dropout": 0.2, "weight_dropout": 0.1}
    layer = made("lstm", **options)
    assert not np.allclose(layer(x), layer(x))
    rnn = nnx.RNN(made("lstm", form=1, **options))
    assert not np.allclose(rnn(x), rnn(x))
    layer.eval()
    rnn.eval()
    assert_same(layer(x), rnn(x))


def test_training_with_optax(tmp_path: Path) -> None:
    """Its state comes back through orbax, with that of the random masks."""
    x = case(DIALECTS["lstm"]).x
    layer = made("lstm", zoneout=0.1)
    optimizer = nnx.Optimizer(layer, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def train(model: Any, optimizer: Any, x: Any) -> Any:
        loss, gradients = nnx.value_and_grad(lambda m: jnp.mean((m(x) - 0.3) ** 2))(model)
        optimizer.update(model, gradients)
        return loss

    losses = [float(train(layer, optimizer, x)) for _ in range(4)]
    assert losses[3] < losses[0]
    other = LayerNormLSTM(
        INPUTS, UNITS, rngs=nnx.Rngs(3), variant=layer.variant, param_dtype="float64", zoneout=0.1
    )
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", nnx.state(layer))
        checkpointer.wait_until_finished()
        nnx.update(other, checkpointer.restore(tmp_path / "state", nnx.state(other)))
    assert_same(other(x), layer(x))


def test_dtypes_and_sharding_names() -> None:
    x = jnp.ones((BATCH, STEPS, INPUTS), jnp.bfloat16)
    mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        name = "sharding_names" if flax.__version__ == "0.12.0" else "out_sharding"
        metadata = {"kernel": {name: (None, "model")}}
        layer: Any = LayerNormLSTM(
            INPUTS, UNITS, rngs=nnx.Rngs(0), dtype=jnp.bfloat16, metadata=metadata
        )
        specs: Any = nnx.get_partition_spec(nnx.state(layer, nnx.Param))
    kernel = specs["kernel"]
    spec = kernel.get_value() if hasattr(type(kernel), "get_value") else kernel.value
    assert spec == jax.sharding.PartitionSpec(None, "model")
    assert layer.kernel[...].dtype == jnp.float32
    assert layer(x).dtype == jnp.bfloat16
    rnn: Any = nnx.RNN(LayerNormLSTMCell(INPUTS, UNITS, rngs=nnx.Rngs(0), dtype=jnp.bfloat16))
    assert rnn(x).dtype == jnp.bfloat16


def test_layer_normalize() -> None:
    """Without norms the copy computes what the model did; with them it keeps the weights."""
    rngs = nnx.Rngs(0)
    cells = (nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell, nnx.SimpleCell)
    layers: list[Any] = [nnx.RNN(cell(UNITS, UNITS, rngs=rngs)) for cell in cells]
    for layer in layers:  # zero biases would hide where they go
        for path, param in nnx.to_flat_state(nnx.state(layer, nnx.Param)):
            if path[-1] == "bias":
                param[...] = jnp.cos(jnp.arange(param.size) + 0.3)
    odd = nnx.RNN(nnx.GRUCell(UNITS, UNITS, gate_fn=nnx.relu, rngs=rngs))
    model = nnx.Sequential(nnx.Linear(INPUTS, UNITS, rngs=rngs), *layers, layers[0], odd)
    x = jnp.asarray(case(DIALECTS["lstm"]).x, "float32")
    before = model(x)
    plain, report = layer_normalize(model, variant="none", rngs=rngs)
    assert_same(plain(x), before, "float32")
    assert [len(report.replaced), len(report.left)] == [4, 1]
    assert plain.layers[1] is plain.layers[5] and type(plain.layers[1]) is LayerNormLSTM
    assert "no sigmoids" in report.left[0].reason
    normed, report = layer_normalize(model, zoneout_cell=0.1, rngs=rngs)
    assert "x_norm_gain" in report[0].fresh
    assert_same(normed.layers[2].params()["kernel"], layers[1].cell.dense_i.kernel[...], "float32")
    assert normed.layers[1].zoneout_cell == 0.1
    assert type(model.layers[1]) is nnx.RNN
    assert_same(model(x), before, "float32")
    with pytest.raises(TypeError, match="options of layer_normalize"):
        layer_normalize(model, rngs=rngs, zoneuot=0.1)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"variant": "haste_lngru"}, ValueError),
        ({"variant": 3}, ArgumentTypeError),
        ({"projection_features": 2}, ValueError),
        ({"metadata": {"kernle": {}}}, ValueError),
        ({"zoneout": 1.5}, ValueError),
        ({"engine": "fast"}, ValueError),
        ({"time_major": 1}, ArgumentTypeError),
    ],
)
def test_errors(options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        LayerNormLSTM(INPUTS, UNITS, rngs=nnx.Rngs(0), **options)


def test_weights_that_do_not_train_are_warned_of_in_training() -> None:
    """As a module was made, or loaded; also where a step is compiled."""
    x = jnp.ones((BATCH, STEPS, INPUTS))

    def layer(**options: Any) -> Any:
        return LayerNormLSTM(INPUTS, UNITS, rngs=nnx.Rngs(0), **options)

    bad, good = layer(variant="haste_lnlstm"), layer()
    for call in (lambda m: m(x), nnx.jit(lambda m: m(x))):
        with pytest.warns(UserWarning, match="A zero input at a zero state"):
            call(bad)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        good(x)
        layer(variant="haste_lnlstm", recurrent_gradient_clip=1.0)(x)
        bad.eval()
        bad(x)
        bad.train()
        bad.load_params(good.params())
        bad(x)
