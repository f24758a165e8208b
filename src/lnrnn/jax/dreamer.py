"""Dreamer's block GRU as functions of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lnrnn.engines import select
from lnrnn.frontends import block_gru
from lnrnn.jax import inputs
from lnrnn.jax.functions import device_of
from lnrnn.jax.inputs import Layout
from lnrnn.relatives.relative import DREAMER, Relative
from lnrnn.relatives.weights import shapes, sizes_of, start

Params = Mapping[str, Any]


def dreamer_block_gru_init(
    key: jax.Array,
    inputs: int,
    units: int,
    *,
    projection: int = 512,
    blocks: int = 8,
    layers: int = 1,
    actions: int = 0,
    dtype: Any = jnp.float32,
) -> dict[str, jax.Array]:
    """Initial weights of Dreamer's block GRU: gains 1, biases 0, matrices normal by fan in.

    Args:
        key: of JAX's random numbers.
        inputs: I, the number of features, with the actions.
        units: H, a multiple of `blocks`.
        projection: P, the size of each projection.
        blocks: K.
        layers: of the block-diagonal layers before the gates.
        actions: how many of the last features are the action, with a projection of their own; 0
            projects all features together.
        dtype: of the weights.

    Returns:
        Name to array, see [lnrnn.relatives.weights][].

    Raises:
        ValueError: sizes that do not fit.

    Example:
        >>> params = dreamer_block_gru_init(jax.random.key(0), 6, 32, projection=16)
        >>> params["gate_kernel"].shape
        (8, 4, 12)
    """
    sizes = block_gru.sizes(
        inputs=inputs,
        units=units,
        projection=projection,
        blocks=blocks,
        layers=layers,
        actions=actions,
    )
    wanted = shapes(DREAMER, sizes)
    found = {}
    for name, one in zip(wanted, jax.random.split(key, len(wanted)), strict=True):
        mean, deviation = start(name, wanted[name])
        drawn = jax.random.truncated_normal(one, -2.0, 2.0, wanted[name], jnp.float32)
        found[name] = (mean + deviation * drawn).astype(dtype)
    return found


def dreamer_block_gru(
    params: Params,
    x: Any,
    state: Any = None,
    *,
    relative: Relative = DREAMER,
    mask: Any = None,
    lengths: Any = None,
    reset: Any = None,
    time_major: bool = False,
    engine: str = "auto",
    unroll: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Run Dreamer's block GRU over a sequence, in the dtype of x.

    On a CPU the native engine computes it, else a `lax.scan`.  The
    equations are those of [DreamerBlockGRU][lnrnn.torch.DreamerBlockGRU].

    Args:
        params: as of `dreamer_block_gru_init`.
        x: inputs (*batch, T, I), with `time_major` (T, *batch, I).
        state: h (*batch, H) in the dtype of x; None is zeros.
        relative: the constants, static under `jit`; the core of danijar's repository has
            `activation="gelu"`.
        mask: as x without I, boolean; False at steps to skip, which emit zeros and hold h.
        lengths: (*batch), the number of valid steps of each sequence.
        reset: as `mask`; True at the first step of an episode, where h starts at zero.
        time_major: whether time is the first axis.
        engine: `"auto"` or the name of an engine; a named engine runs or raises.
        unroll: whether the loop of the portable engine is unrolled.

    Returns:
        Outputs, as x with H in place of I, and the final h.

    Raises:
        ValueError: arrays that do not fit; of these it is a
            [TensorError][lnrnn.frontends.errors.TensorError].

    Example:
        >>> params = dreamer_block_gru_init(jax.random.key(0), 6, 32, projection=16)
        >>> y, h = dreamer_block_gru(params, jnp.ones((4, 10, 6)))
        >>> y.shape, h.shape
        ((4, 10, 32), (4, 32))

    Source: danijar/dreamerv3 @f8817c40.
    """
    sizes = sizes_of(relative, params)
    x = inputs.check_input(x, sizes.inputs, 2)
    batch = x.shape[1:-1] if time_major else x.shape[:-2]
    layout = Layout(batch, time_major)
    x = inputs.sequence(x, layout)
    begun = [jnp.zeros((x.shape[1], sizes.units), x.dtype)]
    before = inputs.check_state("state", state, relative.states, begun, layout)
    valid = inputs.valid_steps(lengths, mask, layout, x.shape[0])
    fresh = inputs.flags("reset", reset, layout, x.shape[0])
    if valid is not None:
        x = jnp.where(valid[..., None], x, 0)  # a NaN there would reach the gradients
    request = select.Request(
        relative,
        "jax",
        x.dtype.name,
        unroll=unroll,
        device=device_of(x),
        named=engine != "auto",
    )
    chosen = select.choose(engine, request)
    weights = _weights(params, chosen.weights_dtype(request))
    y, (h,) = chosen.load(request)(
        relative,
        weights,
        x,
        before,
        mask=valid,
        reset=fresh,
        masked_output="zero",
        unroll=unroll,
    )
    return layout.restored(y), layout.spread(h)


def dreamer_block_gru_step(
    params: Params, x: Any, state: Any, *, relative: Relative = DREAMER, reset: Any = None
) -> jax.Array:
    """Advance Dreamer's block GRU by one step, for acting and loops of one's own.

    Args:
        params: as of `dreamer_block_gru_init`.
        x: inputs (*batch, I).
        state: h (*batch, H); None is zeros.
        relative: as of `dreamer_block_gru`.
        reset: (*batch), boolean; True where x is the first step of an episode.

    Returns:
        The new h (*batch, H), which is the output.

    Example:
        >>> params = dreamer_block_gru_init(jax.random.key(0), 6, 32, projection=16)
        >>> dreamer_block_gru_step(params, jnp.ones((4, 6)), None).shape
        (4, 32)
    """
    sizes = sizes_of(relative, params)
    x = inputs.check_input(x, sizes.inputs, 1)
    layout = Layout(x.shape[:-1], True)
    x = layout.flat(x)
    begun = [jnp.zeros((x.shape[0], sizes.units), x.dtype)]
    (h,) = inputs.check_state("state", state, relative.states, begun, layout)
    if reset is not None:
        fresh: Any = inputs.flags("reset", jnp.asarray(reset)[None], layout, 1)
        h = jnp.where(fresh[0][:, None], 0, h)
    (h,) = select.relative("jax", "step")(relative, _weights(params, x.dtype), x, (h,))
    return layout.spread(h)


def _weights(params: Params, dtype: Any) -> dict[str, jax.Array]:
    return {name: jnp.asarray(value, dtype) for name, value in params.items()}
