"""`lnrnn.jax`: the functions under every transformation of JAX, against what they mean."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax_cases import (
    BATCH,
    DIALECTS,
    INPUTS,
    STEPS,
    UNITS,
    assert_same,
    case,
    each_dialect,
    random_mask,
    weighted,
)

import lnrnn.jax as lj
from lnrnn import Variant, dialects
from lnrnn.engines import runs
from lnrnn.testing import adapters, assert_close, golden
from lnrnn.testing.contract import verify_contract
from lnrnn.testing.frontends import front_end

FILES = Path(__file__).parents[1] / "golden"


@each_dialect
def test_contract(dialect: str) -> None:
    verify_contract(front_end("jax"), dialects.get(dialect).variant)


@pytest.mark.parametrize(
    "name",
    [
        "haste_lngru_zoneout_train__a__f64",
        "tfa_lnlstm_mask__a__f64",
        "stablebaselines_lnlstm__a__f64",
        "icefall_lnlstm_proj__a__f64",
        "kerasln_lstm2_sigmoid__a__f64",
        "haste_lnindrnn_lengths__a__f64",
    ],
)
def test_golden_file(name: str) -> None:
    """Some; `python -m lnrnn.testing.golden tests/golden --frontend jax` runs all files."""
    file = golden.read(FILES / name)
    assert file is not None
    assert golden.compare(file, adapters.choose(frontend="jax")) is None


@pytest.mark.parametrize("dialect", [DIALECTS["lstm"], DIALECTS["gru"]])
@pytest.mark.parametrize("goes_to", ["zeros", "given", "learned"])
def test_a_loop_over_steps_is_the_sequence(dialect: str, goes_to: str) -> None:
    """With resets, in a scan: an episode begins where reset is true."""
    variant, params, x, state = case(dialect, learned_state=goes_to == "learned")
    reset = random_mask()
    more = {"reset_state": case(dialect, 6).state} if goes_to == "given" else {}
    if goes_to == "learned":
        state = lj.initial_state(params, BATCH, variant=variant)
        assert not (jax.tree.leaves(state)[-1] == 0).any()

    def in_steps(params: Any, x: Any) -> Any:
        def advance(state: Any, now: Any) -> Any:
            y, state = lj.step(params, now[0], state, variant=variant, reset=now[1], **more)
            return state, y

        begun = state
        if goes_to == "learned":
            begun = lj.initial_state(params, BATCH, variant=variant)
        state_, y = jax.lax.scan(advance, begun, (x.swapaxes(0, 1), reset.T))
        return y.swapaxes(0, 1), state_

    def whole(params: Any, x: Any) -> Any:
        begun = None if goes_to == "learned" else state
        return lj.apply(params, x, begun, variant=variant, reset=reset, **more)

    both = [
        jax.jit(jax.value_and_grad(lambda *a, f=f: weighted(f(*a)), argnums=(0, 1)))
        for f in (in_steps, whole)
    ]
    assert_same(in_steps(params, x), whole(params, x))
    assert_same(both[0](params, x), both[1](params, x), gradient=True)


def test_reset_is_that_of_the_cells_that_people_copy() -> None:
    """PureJaxRL's ScannedRNN zeroes the carry before the step where `done` is true."""
    variant, params, x, state = case(DIALECTS["gru"])
    done = random_mask()

    def scanned(h: Any, now: Any) -> Any:
        x_t, done_t = now
        h = jnp.where(done_t[:, None], jnp.zeros_like(h), h)
        y, h = lj.step(params, x_t, h, variant=variant)
        return h, y

    h, y = jax.lax.scan(scanned, state, (x.swapaxes(0, 1), done.T))
    found = lj.apply(
        params, x.swapaxes(0, 1), state, variant=variant, reset=done.T, time_major=True
    )
    assert_same(found, (y, h))


@pytest.mark.parametrize("reverse", [False, True])
def test_burn_in(reverse: bool) -> None:
    """Steps of which neither gradients nor what they need are computed."""
    variant, params, x, state = case(DIALECTS["lstm"], learned_state=True)
    options: dict[str, Any] = dict(variant=variant, reset=random_mask(), reverse=reverse)
    call = partial(lj.apply, **options)
    assert_same(call(params, x, state, burn_in=2), call(params, x, state))

    def loss(params: Any, x: Any, burn_in: int = 2) -> Any:
        return weighted(call(params, x, state, burn_in=burn_in)[0][:, 2:])

    def by_hand(params: Any, x: Any) -> Any:
        now = {n: v[:, :2] if n == "reset" else v for n, v in options.items()}
        rest = {n: v[:, 2:] if n == "reset" else v for n, v in options.items()}
        between = lj.apply(params, x[:, :2], state, **now)[1]
        y, _ = lj.apply(params, x[:, 2:], jax.lax.stop_gradient(between), **rest)
        return weighted(y)

    expected = partial(loss, burn_in=0) if reverse else by_hand
    found = jax.jit(jax.grad(loss, (0, 1)))(params, x)
    assert not found[1][:, :2].any()
    assert_same(found, jax.jit(jax.grad(expected, (0, 1)))(params, x), gradient=True)
    text = str(jax.make_jaxpr(jax.grad(loss))(params, x))
    assert (text.count("keep=False"), text.count("keep=True")) == (1, 1)


def test_stacks_begin_in_their_own_states() -> None:
    stack = lj.init_stack(
        jax.random.key(0), "gru", INPUTS, UNITS, 2, bidirectional=True, learn_initial_state=True
    )
    x, reset = jnp.asarray(case("gru").x, jnp.float32), random_mask()
    begun = [lj.initial_state(params, BATCH, variant="gru") for params in stack]
    plain = [{n: p for n, p in params.items() if n != "initial_h"} for params in stack]
    found = lj.apply_stack(stack, x, variant="gru", bidirectional=True, reset=reset, burn_in=1)
    expected = lj.apply_stack(
        plain, x, begun, variant="gru", bidirectional=True, reset=reset, reset_states=begun
    )
    assert_same(found, expected, "float32")
    one, two = stack[:1], plain[:1]
    now = reset[:, 0]
    assert_same(
        lj.step_stack(one, x[:, 0], None, variant="gru", reset=now),
        lj.step_stack(two, x[:, 0], begun[:1], variant="gru", reset=now, reset_states=begun[:1]),
        "float32",
    )


def test_transformations() -> None:
    """vmap, checkpoint, forward mode and second derivatives are those of the portable engine."""
    variant, params, x, state = case(DIALECTS["gru"])

    def loss(x: Any, engine: str = "auto") -> Any:
        return weighted(lj.apply(params, x, state, variant=variant, engine=engine))

    gradient = jax.grad(loss)
    portable = jax.grad(partial(loss, engine="portable"))
    assert_same(jax.jit(jax.checkpoint(gradient))(x), portable(x), gradient=True)
    direction = jnp.cos(jnp.arange(x.size)).reshape(x.shape)
    assert_same(
        jax.jit(lambda x: jax.jvp(gradient, (x,), (direction,)))(x),
        jax.jvp(portable, (x,), (direction,)),
        gradient=True,
    )
    one = partial(lj.apply, params, variant=variant)
    assert_same(jax.vmap(one)(x, state), one(x, state))


def test_export_and_no_second_compilation() -> None:
    variant, params, x, state = case(DIALECTS["lstm"])
    run: Any = jax.jit(partial(lj.apply, variant=variant))
    expected = run(params, x, state)
    run(params, x + 1, state)
    assert run._cache_size() == 1
    exported = export.deserialize(export.export(run)(params, x, state).serialize())
    assert_same(exported.call(params, x, state), expected)
    # a function of its own: what one function compiles is counted for all who ask for it
    named: Any = jax.jit(
        lambda *given, variant: lj.apply(*given, variant=variant), static_argnames="variant"
    )
    assert_same(named(params, x, state, variant=variant), expected)
    named(params, x, state, variant=Variant.from_dict(variant.to_dict()))
    assert named._cache_size() == 1


def test_native_runs_under_jit() -> None:
    variant, params, x, state = case(DIALECTS["gru"])
    before = runs()
    jax.block_until_ready(jax.jit(partial(lj.apply, variant=variant))(params, x, state))
    assert set(runs() - before) == {("native", "jax")}


@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("dialect", [DIALECTS["lstm"], DIALECTS["gru"]])
def test_a_compiled_program_transposes_nothing(dialect: str, time_major: bool) -> None:
    """Neither inputs and outputs nor their gradients, in evaluation and in training."""
    variant, params, x, state = case(dialect)
    x = x.swapaxes(0, 1) if time_major else x
    run = partial(lj.apply, variant=variant, time_major=time_major)
    train = jax.grad(lambda *a: jnp.sin(run(*a)[0]).sum(), argnums=(0, 1))
    for function, passes in ((run, {"forward"}), (train, {"forward", "backward"})):
        program = str(jax.jit(function).lower(params, x, state).compile().as_text())
        assert set(re.findall(r'custom_call_target="lnrnn_(\w+)"', program)) == passes
        assert not re.findall(r" (?:transpose|copy)\(", program)
        assert_same(jax.jit(function)(params, x, state), function(params, x, state), gradient=True)


def test_reverse() -> None:
    """With lengths and resets: each episode of each row, turned round by hand."""
    variant, params, x, _ = case(DIALECTS["lstm"])
    lengths, reset = jnp.array([5, 3, 1, 4]), random_mask()
    y, final = lj.apply(params, x, variant=variant, lengths=lengths, reset=reset, reverse=True)
    expected = np.zeros_like(y)
    for row, length in enumerate(np.asarray(lengths)):
        starts = [t for t in range(1, length) if reset[row, t]]
        for begin, end in zip([0, *starts], [*starts, length], strict=True):
            part, last = lj.apply(params, x[row, begin:end][::-1], variant=variant)
            expected[row, begin:end] = part[::-1]
            if begin == 0:
                assert_same(jax.tree.map(lambda s, row=row: s[row], final), last)
    assert_same(y, expected)


def test_reverse_with_holes_is_the_sequence_without_them() -> None:
    variant, params, x, _ = case(DIALECTS["lstm"])
    mask, reset = random_mask(), random_mask(8)
    y, _ = lj.apply(params, x, variant=variant, mask=mask, reset=reset, reverse=True)
    for row in range(BATCH):
        valid = np.asarray(mask[row])
        part, _ = lj.apply(
            params, x[row][valid], variant=variant, reset=reset[row][valid], reverse=True
        )
        assert_same(y[row][valid], part)
        assert not y[row][~valid].any()


def test_any_batch_axes() -> None:
    variant, params, x, state = case(DIALECTS["lstm"])
    y, final = lj.apply(params, x, state, variant=variant)
    folded = jax.tree.map(lambda v: v.reshape(2, 2, *v.shape[1:]), (x, state))
    found = lj.apply(params, *folded, variant=variant)
    assert_same(found, jax.tree.map(lambda v: v.reshape(2, 2, *v.shape[1:]), (y, final)))
    one = jax.tree.map(lambda v: v[0], (x, state))
    assert_same(lj.apply(params, *one, variant=variant), jax.tree.map(lambda v: v[0], (y, final)))


def test_stack_of_both_directions() -> None:
    variant, _, x, _ = case("lstm")
    stack = lj.init_stack(
        jax.random.key(0), "lstm", INPUTS, UNITS, 2, bidirectional=True, dtype=jnp.float64
    )
    mask = random_mask()
    y, finals = lj.apply_stack(stack, x, variant="lstm", bidirectional=True, mask=mask)
    for layer in (stack[:2], stack[2:]):
        both = [
            lj.apply(p, x, variant=variant, mask=mask, reverse=r)[0]
            for p, r in zip(layer, (False, True), strict=True)
        ]
        x = jnp.concatenate(both, -1)
    assert_same(y, x)
    assert len(finals) == 4


def test_stack_in_steps() -> None:
    _, _, x, _ = case("gru")
    stack = lj.init_stack(jax.random.key(0), "gru", INPUTS, UNITS, 2, dtype=jnp.float64)
    y, finals = lj.apply_stack(stack, x, variant="gru")
    states: Any = [lj.initial_state(p, BATCH, variant="gru") for p in stack]
    for t in range(STEPS):
        y_t, states = lj.step_stack(stack, x[:, t], states, variant="gru")
        assert_same(y_t, y[:, t])
    assert_same(states, finals)


def test_regularisers_draw_from_the_key() -> None:
    variant, params, x, state = case(DIALECTS["lstm"])
    run = partial(lj.apply, params, x, state, variant=variant)
    key = jax.random.key(4)
    plain = run()[0]
    every: tuple[dict[str, Any], ...] = (
        {"zoneout": 0.3},
        {"zoneout_cell": 0.3},
        {"weight_dropout": 0.3},
        *(
            {"recurrent_dropout": 0.3, "recurrent_dropout_mode": m}
            for m in ("sequence", "step", "candidate")
        ),
    )
    for options in every:
        drawn = run(key=key, **options)[0]
        assert_same(drawn, run(key=key, engine="portable", **options)[0])
        assert not np.allclose(drawn, run(key=jax.random.key(5), **options)[0])
        evaluated = run(**options)[0]
        expected = "zoneout" in next(iter(options))
        assert np.allclose(evaluated, plain) is not expected
    # a unit keeps its value or takes a new one
    h = lj.apply(params, x, state, variant=variant, key=key, zoneout=0.5)[0]
    kept = np.asarray(h[:, 1:] == h[:, :-1])
    assert 0.2 < kept.mean() < 0.8


def test_gradient_clip_bounds_what_returns() -> None:
    variant, params, x, state = case(DIALECTS["gru"])

    def loss(params: Any, bound: Any, engine: str) -> Any:
        run = lj.apply(
            params, x, state, variant=variant, recurrent_gradient_clip=bound, engine=engine
        )
        return weighted(run)

    found = [jax.grad(loss)(params, 0.05, engine) for engine in ("native", "portable")]
    assert_same(found[0], found[1], gradient=True)
    assert not np.allclose(found[0]["kernel"], jax.grad(loss)(params, None, "native")["kernel"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_dtypes(dtype: str) -> None:
    """Weights of any dtype; it computes in that of x."""
    variant, params, x, state = case(DIALECTS["lstm"])
    expected = lj.apply(params, x, state, variant=variant)
    given = jax.tree.map(lambda v: v.astype(dtype), (x, state))
    found = lj.apply(params, *given, variant=variant)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {dtype}
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(dtype, np.asarray(one, float), other, dtype)


def test_initial_values() -> None:
    """Ours let gradients through zeros, a dialect's are its own, each weight has its own key."""
    key = jax.random.key(1)
    ours = lj.init(key, "lstm", 16, 16)
    assert np.allclose(ours["h_norm_gain"], 0.1)
    assert np.allclose(ours["bias"][16:32], 1) and np.ptp(ours["bias"][:16]) > 0
    theirs = lj.init(key, "haste_lnlstm", 16, 16)
    assert np.allclose(theirs["h_norm_gain"], 1)
    assert not np.allclose(ours["kernel"], ours["recurrent_kernel"])
    projected = lj.init(key, "icefall_lnlstm_proj", 4, 5, projection_units=3, dtype=jnp.bfloat16)
    assert projected["recurrent_kernel"].shape == (3, 20)
    assert {p.dtype.name for p in projected.values()} == {"bfloat16"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": jnp.ones((BATCH, STEPS, INPUTS), int)}, "x holds floats"),
        ({"x": jnp.ones((BATCH, STEPS, 2))}, "I=3"),
        ({"x": jnp.ones((BATCH, 0, INPUTS))}, "one step or more"),
        ({"state": jnp.ones((BATCH, UNITS))}, r"state is \(h, c\)"),
        ({"state": (jnp.ones((BATCH, UNITS), "float32"),) * 2}, "the dtype float64 of x"),
        ({"mask": jnp.ones((STEPS, BATCH), bool)}, "mask is boolean"),
        ({"reset": jnp.ones((BATCH, STEPS))}, "reset is boolean"),
        ({"reset_state": jnp.ones((BATCH, UNITS))}, "got it without reset"),
        ({"burn_in": STEPS}, "burn_in is below the number of steps"),
        ({"lengths": jnp.ones(BATCH)}, "lengths are integers"),
        ({"zoneout": 1.0}, "probability"),
        ({"dropuot": 0.1}, "Options are"),
        ({"variant": "lsmt"}, "lsmt"),
        ({"variant": None}, "variant is"),
        ({"engine": "fast"}, "engine is one of"),
    ],
)
def test_errors(change: dict[str, Any], words: str) -> None:
    variant, params, x, state = case(DIALECTS["lstm"])
    given = {"x": x, "state": state, "variant": variant} | change
    with pytest.raises(ValueError, match=words):
        lj.apply(params, **given)


def test_on_several_devices() -> None:
    """A sharded batch and shard_map: in a process of its own, of two devices."""
    program = Path(__file__).parent / "sharded_program.py"
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["native"] and not found["gathered"]
    for name in ("sharded", "mapped"):
        for one, other in zip(found[name], found["plain"], strict=True):
            assert_close(name, np.asarray(one), np.asarray(other), "float32", gradient=True)


def test_weights_that_do_not_train_are_warned_of() -> None:
    key = jax.random.key(0)
    with pytest.warns(UserWarning, match="A zero input at a zero state") as found:
        lj.init(key, "haste_lnlstm", INPUTS, UNITS)
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        lj.init(key, "lstm", INPUTS, UNITS)
        jax.jit(lambda key: lj.init(key, "haste_lnlstm", INPUTS, UNITS))(key)
