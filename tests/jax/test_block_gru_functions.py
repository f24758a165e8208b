"""Dreamer's block GRU in JAX and NNX: the reference's numbers, masks, resets, steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lnrnn.jax
from lnrnn.engines import runs
from lnrnn.nnx import DreamerBlockGRU
from lnrnn.reference import relatives as reference
from lnrnn.relatives.relative import DREAMER
from lnrnn.testing.tolerances import assert_close

T, B, INPUTS, H = 6, 3, 5, 8


def drawn(**options) -> dict[str, jax.Array]:
    options = {"projection": 3, "blocks": 2, "layers": 2, "actions": 2} | options
    params = lnrnn.jax.dreamer_block_gru_init(
        jax.random.key(0), INPUTS, H, dtype=jnp.float64, **options
    )
    random = np.random.default_rng(1)
    return {n: jnp.asarray(random.normal(0.3, 0.6, p.shape)) for n, p in params.items()}


@pytest.mark.parametrize("engine", ["native", "portable"])
def test_values_and_gradients_are_those_of_the_reference(engine):
    params, random = drawn(), np.random.default_rng(2)
    x, h0 = random.normal(size=(T, B, INPUTS)), random.normal(size=(B, H))
    dy, dh = random.normal(size=(T, B, H)), random.normal(size=(B, H))
    mask, reset = random.random((T, B)) > 0.3, random.random((T, B)) > 0.6

    @jax.jit
    def loss(params, x, h0):
        y, h = lnrnn.jax.dreamer_block_gru(
            params, x, h0, mask=mask, reset=reset, time_major=True, engine=engine
        )
        return (y * dy).sum() + (h * dh).sum(), (y, h)

    grad = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)
    before = runs(), runs(backward=True)
    (of_params, *gradients), (y, h) = jax.block_until_ready(
        grad(params, jnp.asarray(x), jnp.asarray(h0))
    )
    assert runs() - before[0] == {(engine, "jax"): 1}
    assert runs(backward=True) - before[1] == ({(engine, "jax"): 1} if engine == "native" else {})
    run = reference.forward(DREAMER, params, x, [h0], mask=mask, reset=reset)
    found = reference.backward(run, dy, [dh])
    assert_close("y", np.asarray(y), run.y, "float64")
    assert_close("h", np.asarray(h), run.states[0], "float64")
    actual = of_params | dict(zip(("x", "h0"), gradients, strict=True))
    for name, gradient in actual.items():
        assert_close(name, np.asarray(gradient), found[name], "float64", gradient=True)


def test_steps_are_the_sequence_and_modules_the_functions():
    params, random = drawn(actions=0), np.random.default_rng(3)
    x = jnp.asarray(random.normal(size=(B, T, INPUTS)))
    y, h = lnrnn.jax.dreamer_block_gru(params, x)
    layer = DreamerBlockGRU(
        INPUTS,
        H,
        rngs=nnx.Rngs(0),
        projection_features=3,
        blocks=2,
        layers=2,
        param_dtype=jnp.float64,
        return_carry=True,
    )
    layer.load_params(params)
    state, carry = None, None
    for t in range(T):
        state = lnrnn.jax.dreamer_block_gru_step(params, x[:, t], state)
        carry, output = layer.step(carry, x[:, t])
        assert_close("y", np.asarray(state), np.asarray(y[:, t]), "float64")
        assert_close("y", np.asarray(output), np.asarray(y[:, t]), "float64")
    carry, outputs = layer(x)
    assert_close("y", np.asarray(outputs), np.asarray(y), "float64")
    assert_close("h", np.asarray(carry), np.asarray(h), "float64")
    fresh = jnp.array([False, True, False])
    begun = lnrnn.jax.dreamer_block_gru_step(params, x[:, 0], state, reset=fresh)
    assert_close("h", np.asarray(begun[1]), np.asarray(y[1, 0]), "float64")


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="divide into the blocks"):
        lnrnn.jax.dreamer_block_gru_init(jax.random.key(0), 3, 9)
    with pytest.raises(ValueError, match="I=5"):
        lnrnn.jax.dreamer_block_gru(drawn(), jnp.ones((B, T, 4)))


def test_what_the_core_has_no_rule_for_is_the_definition():
    params, random = drawn(), np.random.default_rng(4)
    x = jnp.asarray(random.normal(size=(4, B, T, INPUTS)))
    begun = jnp.asarray(random.normal(size=(4, B, H)))

    def outputs(engine, params, x, h0):
        return lnrnn.jax.dreamer_block_gru(params, x, h0, engine=engine)[0]

    def curved(engine):
        def loss(params, x):
            return (outputs(engine, params, x, begun[0]) ** 2).sum()

        def slope(params, x):
            return sum((g**2).sum() for g in jax.grad(loss)(params, x).values())

        return jax.grad(slope)(params, x[0])

    def mapped(engine):
        one = jax.vmap(outputs, (None, None, 0, 0))(engine, params, x, begun)
        return {
            "one": one,
            "two": jax.jit(jax.vmap(outputs, (None, 0, None, None)), static_argnums=0)(
                engine, jax.tree.map(lambda p: jnp.stack([p, p / 2]), params), x[0], begun[0]
            ),
        }

    for function in (curved, mapped):
        found, wanted = function("native"), function("portable")
        for name in wanted:
            assert_close(
                name, np.asarray(found[name]), np.asarray(wanted[name]), "float64", gradient=True
            )


def test_gradients_of_weights_alone():
    """The core makes those of the weights from that of x, whether x has one or not."""
    params, random = drawn(), np.random.default_rng(5)
    x = jnp.asarray(random.normal(size=(B, T, INPUTS)))
    names = ("gate_kernel", "block_bias_1", "hidden_kernel")

    def slopes(engine):
        def loss(some):
            y, h = lnrnn.jax.dreamer_block_gru({**params, **some}, x, engine=engine)
            return (y**2).sum() + jnp.sin(h).sum()

        return jax.jit(jax.grad(loss))({n: params[n] for n in names})

    found, wanted = slopes("native"), slopes("portable")
    for n in names:
        assert_close(n, np.asarray(found[n]), np.asarray(wanted[n]), "float64", gradient=True)
