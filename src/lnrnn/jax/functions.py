"""One cell over a sequence or a step, as functions of its canonical weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Unpack

import jax
import jax.core
import jax.numpy as jnp

from lnrnn.engines import select
from lnrnn.frontends import arguments, beginnings, families, noise
from lnrnn.frontends.advice import about_inputs, about_units
from lnrnn.frontends.warn import warn
from lnrnn.jax import advice, initial, inputs
from lnrnn.jax.inputs import Layout
from lnrnn.params import Sizes, learned_states, sizes_of
from lnrnn.variant import Variant

Params = Mapping[str, Any]
VariantArgument = str | Variant

# each kind of mask has a stream of its own, so that one does not move another
_STREAMS = ("take_h", "take_c", "recurrent_mask", "candidate_mask", "weight")


class Options(noise.Options, total=False):
    """Regularisers of the recurrence: static keyword arguments of `apply` and `step`.

    All rates are in [0, 1).  They act where a `key` is given, from which masks are drawn;
    without one a call is an evaluation.

    Attributes:
        zoneout: probability that a unit of h keeps its previous value at a step; in
            evaluation h is the expectation $p h_{t-1} + (1 - p) h_t$ (Krueger et al. 2017).
        zoneout_cell: the same of c; LSTM only.
        weight_dropout: DropConnect, inverted dropout of the recurrent matrix, one mask
            for a call (Wan et al. 2013; Merity et al. 2018).
        recurrent_dropout: rate of the dropout that `recurrent_dropout_mode` describes.
        recurrent_dropout_mode: `"sequence"`: one mask on h for the whole sequence where it
            enters the recurrent product (Gal and Ghahramani 2016); `"step"`: a fresh mask
            on h at each step; `"candidate"`: a fresh mask at each step on the activated
            candidate only (Semeniuta et al. 2016).  Inverted scaling in all three.
        recurrent_gradient_clip: bound on each element of the derivatives of the loss that
            return at each step (after Graves 2013), or None.  It has no forward mode and no
            second derivative of its own.
    """


def init(
    key: jax.Array,
    variant: VariantArgument,
    inputs: int,
    units: int,
    *,
    projection_units: int | None = None,
    learn_initial_state: bool = False,
    dtype: Any = jnp.float32,
) -> dict[str, jax.Array]:
    """Initial weights of a cell: a pytree, the dict of canonical names.

    Without a dialect's name they let gradients through leading zero inputs: gains of recurrent
    norms at 0.1 (of sum norms at 0.25), biases at normal noise of deviation 0.1, forget biases
    at one.  A dialect that is named starts as its original does, and a warning tells where
    training from that fails on sequences that begin with zeros.

    Args:
        key: of JAX's random numbers.
        variant: the mathematics: `"lstm"`, `"gru"` or `"simple"`, the name of a dialect (see
            [lnrnn.dialects][]), or a [Variant][lnrnn.Variant].
        inputs: I, the number of features.
        units: H.
        projection_units: R, the width of h of a variant with a projection.
        learn_initial_state: with `initial_h` (and `initial_c`), small and random: the state that a
            sequence begins with, and that a reset goes to, where none is given.
        dtype: of the weights.

    Returns:
        Name to array, see [lnrnn.params][].

    Raises:
        ValueError: an unknown variant, or a size that does not fit it.

    Example:
        >>> params = init(jax.random.key(0), "gru", 3, 8)
        >>> params["kernel"].shape
        (3, 24)
    """
    found, dialect = _named(variant)
    inputs, units = arguments.size("inputs", inputs), arguments.size("units", units)
    if found.projection and projection_units is None:
        raise ValueError(
            "A variant with a projection needs its size; got projection_units=None: pass "
            "projection_units."
        )
    hidden = units
    if projection_units is not None:
        hidden = arguments.size("projection_units", projection_units)
    sizes = Sizes(inputs, units, hidden)
    for sentence in (*about_inputs(found, sizes), *about_units(found, sizes)):
        warn(sentence)
    learns = arguments.flag("learn_initial_state", learn_initial_state)
    drawn = initial.draw(key, found, dialect, sizes, dtype, learns)
    message = advice.about(found, drawn)
    if message is not None:
        warn(message)
    return drawn


def initial_state(
    params: Params,
    batch: tuple[int, ...] | int = (),
    *,
    variant: VariantArgument,
    dtype: Any = None,
) -> Any:
    """The state from which a sequence begins: zeros, or that which the weights have learned.

    Args:
        params: canonical weights.
        batch: the batch axes; empty for one sequence.
        variant: the mathematics, as of `init`.
        dtype: that of the inputs; None is that of the weights.

    Returns:
        h (*batch, R), for an LSTM (h, c) with c (*batch, H).

    Example:
        >>> params = init(jax.random.key(0), "lstm", 3, 8)
        >>> h, c = initial_state(params, 4, variant="lstm")
        >>> h.shape
        (4, 8)
    """
    found, _ = _named(variant)
    leading = (batch,) if isinstance(batch, int) else tuple(batch)
    dtype = jnp.result_type(params["kernel"]) if dtype is None else dtype
    return shown(_initial(found, params, leading, dtype))


def apply(
    params: Params,
    x: Any,
    state: Any = None,
    *,
    variant: VariantArgument,
    mask: Any = None,
    lengths: Any = None,
    reset: Any = None,
    reset_state: Any = None,
    burn_in: int = 0,
    time_major: bool = False,
    reverse: bool = False,
    key: jax.Array | None = None,
    engine: str = "auto",
    unroll: bool = False,
    **options: Unpack[Options],
) -> tuple[jax.Array, Any]:
    """Run a cell over a sequence.

    It computes in the dtype of x.  Under `jit` on a CPU the native engine runs it, forward and
    backward, sharded over a batch as well, and under `vmap` over sequences as one larger batch;
    under `vmap` over weights, for second derivatives, on another device and in exported
    programs it is a `lax.scan` of the same mathematics.

    Args:
        params: canonical weights, as of `init`.
        x: inputs (*batch, T, I) with any number of batch axes, none as well; with
            `time_major` (T, *batch, I).
        state: as of `initial_state`, in the dtype of x; None is what that gives.
        variant: the mathematics, as of `init`; static under `jit`.
        mask: as x without I, boolean; False at steps to skip, in any pattern.  A skipped step
            emits zeros and holds the state, so that outputs and states are those of the
            sequence without it, in both directions; what x holds there does not matter.
        lengths: (*batch), the number of valid steps of each sequence.
        reset: as `mask`; True at the first step of an episode: no state crosses from the step
            before, in either direction.  At a skipped step it has no effect.
        reset_state: what the state becomes where an episode begins; None is as of `state`.
        burn_in: the number of steps, the first ones in time, whose outputs and state come without
            gradient, and for which nothing is kept for a backward pass; static under `jit`.
        time_major: whether time is the first axis.
        reverse: from the last step to the first; outputs stand in the order of x.
        key: of the random masks, of which each call needs a new one; None evaluates.
        engine: `"auto"` or the name of an engine; a named engine runs or raises.
        unroll: whether the loop of the portable engine is unrolled.
        **options: see [Options][lnrnn.jax.Options].

    Returns:
        Outputs, as x with R in place of I, and the final state.

    Raises:
        ValueError: an option out of range, or arrays that do not fit; of these it is a
            [TensorError][lnrnn.frontends.errors.TensorError].

    Example:
        >>> params = init(jax.random.key(0), "lstm", 3, 8)
        >>> run = jax.jit(apply, static_argnames="variant")
        >>> y, (h, c) = run(params, jnp.ones((4, 10, 3)), variant="lstm")
        >>> y.shape
        (4, 10, 8)
    """
    found, _ = _named(variant)
    sizes = sizes_of(found, params)
    x = inputs.check_input(x, sizes.inputs, 2)
    batch = x.shape[1:-1] if time_major else x.shape[:-2]
    layout = Layout(batch, time_major)
    x = inputs.sequence(x, layout)
    steps = x.shape[0]
    beginnings.check_reset_state(reset_state, reset)
    burn_in = beginnings.burn_in(burn_in, steps)
    begun = [layout.flat(s) for s in _initial(found, params, batch, x.dtype)]
    states = inputs.check_state("state", state, found.states, begun, layout)
    again = None
    if reset is not None and (reset_state is not None or learned_states(params)):
        again = inputs.check_state("reset_state", reset_state, found.states, begun, layout)
    valid = inputs.valid_steps(lengths, mask, layout, steps)
    fresh = inputs.flags("reset", reset, layout, steps)
    if valid is not None:
        x = jnp.where(valid[..., None], x, 0)  # a NaN there would reach the gradients
    if reverse:
        if fresh is not None:
            fresh = inputs.reversed_reset(fresh, valid)[::-1]
        valid = None if valid is None else valid[::-1]
        x = x[::-1]
    checked = noise.checked(found, options)
    request = _request(found, x, unroll=unroll, named=engine != "auto", batch_first=not time_major)
    chosen = select.choose(engine, request)
    y, final = beginnings.run(
        partial(chosen.load(request), found),
        _weights(params, chosen.weights_dtype(request), checked, key),
        x,
        states,
        dict(
            mask=valid,
            reset=fresh,
            reset_states=again,
            masked_output="zero",
            unroll=unroll,
            recurrent_gradient_clip=checked["recurrent_gradient_clip"],
            **noise_of((steps, x.shape[1]), sizes, checked, key, x.dtype),
        ),
        burn_in=burn_in,
        stop=jax.lax.stop_gradient,
        join=jnp.concatenate,
        backwards=reverse,
    )
    y = layout.restored(y[::-1] if reverse else y)
    return y, shown(tuple(map(layout.spread, final)))


def step(
    params: Params,
    x: Any,
    state: Any,
    *,
    variant: VariantArgument,
    reset: Any = None,
    reset_state: Any = None,
    key: jax.Array | None = None,
    **options: Unpack[Options],
) -> tuple[jax.Array, Any]:
    """Advance a cell by one step, for streams, acting and loops of one's own.

    Args:
        params: canonical weights, as of `init`.
        x: inputs (*batch, I).
        state: as of `initial_state`; None is what that gives.
        variant: the mathematics, as of `init`.
        reset: (*batch), boolean; True where x is the first step of an episode.
        reset_state: what the state becomes there; None is as of `state`.
        key: of the random masks, drawn for this step; None evaluates.
        **options: see [Options][lnrnn.jax.Options].

    Returns:
        The output (*batch, R), which is the new h, and the new state.

    Raises:
        ValueError: as `apply`.

    Example:
        >>> params = init(jax.random.key(0), "gru", 3, 8)
        >>> y, h = step(params, jnp.ones((4, 3)), None, variant="gru")
        >>> y.shape
        (4, 8)
    """
    found, _ = _named(variant)
    sizes = sizes_of(found, params)
    x = inputs.check_input(x, sizes.inputs, 1)
    layout = Layout(x.shape[:-1], True)
    x = layout.flat(x)
    beginnings.check_reset_state(reset_state, reset)
    begun = [layout.flat(s) for s in _initial(found, params, layout.batch, x.dtype)]
    states = inputs.check_state("state", state, found.states, begun, layout)
    if reset is not None:
        fresh: Any = inputs.flags("reset", jnp.asarray(reset)[None], layout, 1)
        again = inputs.check_state("reset_state", reset_state, found.states, begun, layout)
        states = tuple(
            jnp.where(fresh[0][:, None], a, s) for a, s in zip(again, states, strict=True)
        )
    checked = noise.checked(found, options)
    final = select.step(_request(found, x))(
        found,
        beginnings.without_states(_weights(params, x.dtype, checked, key)),
        x,
        states,
        recurrent_gradient_clip=checked["recurrent_gradient_clip"],
        **noise_of((x.shape[0],), sizes, checked, key, x.dtype),
    )
    return layout.spread(final[0]), shown(tuple(map(layout.spread, final)))


def shown(states: Any) -> Any:
    """States as a caller sees them: (h, c) of an LSTM, else h."""
    return states if len(states) > 1 else states[0]


_named: Callable[..., Any] = lru_cache(families.named)


def _widths(variant: Variant, params: Params) -> tuple[int, ...]:
    sizes = sizes_of(variant, params)
    return (sizes.hidden, sizes.units)[: len(variant.states)]


def _initial(
    variant: Variant, params: Params, batch: tuple[int, ...], dtype: Any
) -> tuple[jax.Array, ...]:
    """The states that a sequence begins with, (*batch, R) and (*batch, H)."""
    widths = _widths(variant, params)
    learned = [jnp.asarray(s, dtype) for s in learned_states(params)]
    begun = learned or [jnp.zeros((), dtype)] * len(widths)
    return tuple(jnp.broadcast_to(s, (*batch, w)) for s, w in zip(begun, widths, strict=True))


def _request(variant: Variant, x: jax.Array, **asked: Any) -> select.Request:
    return select.Request(variant, "jax", x.dtype.name, device=device_of(x), **asked)


def device_of(x: jax.Array) -> str:
    """The kind of device that holds x; where x is traced, the one that JAX computes on."""
    if isinstance(x, jax.core.Tracer):
        default: Any = jax.config.jax_default_device  # pyright: ignore
        return getattr(default, "platform", default) or jax.default_backend()
    return next(iter(x.devices())).platform


def _weights(
    params: Params, dtype: Any, options: dict[str, Any], key: jax.Array | None
) -> dict[str, jax.Array]:
    """The weights as an engine takes them, DropConnect applied in training."""
    found = {name: jnp.asarray(value, dtype) for name, value in params.items()}
    rate = options["weight_dropout"]
    if rate and key is not None:
        name = next(n for n in ("recurrent_kernel", "recurrent_scale") if n in found)
        mask = noise.Draw(found[name].shape, 1 - rate, 1 / (1 - rate))
        found[name] = found[name] * _drawn(mask, _stream(key, "weight"), found[name].dtype)
    return found


def noise_of(
    leading: tuple[int, ...], sizes: Sizes, options: dict[str, Any], key: Any, dtype: Any
) -> dict[str, Any]:
    """Zoneout and the dropout of the recurrence, masks drawn.

    Args:
        leading: (T, B) of a sequence, (B,) of a step.
        sizes: I, H and R.
        options: all of `Options`.
        key: of the masks; None evaluates.
        dtype: of the masks.

    Returns:
        Keywords of [lnrnn.engines.portable.sequence.sequence][].
    """
    names = ("zoneout", "zoneout_cell", "recurrent_dropout", "recurrent_dropout_mode")
    rates = {name: options[name] for name in names}
    planned = noise.plan(leading, sizes.hidden, sizes.units, key is not None, **rates)
    return {
        name: _drawn(p, _stream(key, name), dtype) if isinstance(p, noise.Draw) else p
        for name, p in planned.items()
    }


def _stream(key: jax.Array, name: str) -> jax.Array:
    return jax.random.fold_in(key, _STREAMS.index(name))


def _drawn(mask: noise.Draw, key: jax.Array, dtype: Any) -> jax.Array:
    ones = jax.random.bernoulli(key, mask.keep, mask.shape)
    return ones.astype(dtype) * jnp.asarray(mask.scale, dtype)
