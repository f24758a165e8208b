"""The C++ core against the NumPy reference: variants, shapes and options drawn by chance."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lnrnn import dialects, reference
from lnrnn.engines import native, select
from lnrnn.engines.fused.call import Numbers
from lnrnn.engines.fused.sequence import plan
from lnrnn.engines.native import call, core
from lnrnn.params import columns, gates_of, sizes_of
from lnrnn.testing.cases import VARIANTS, random_params, sizes_for
from lnrnn.testing.tolerances import assert_close
from lnrnn.variant import Variant

LSTM = Variant(cell="lstm", bias=True)


def sequence(engine: str, variant: Variant):
    return select.choose(engine, select.Request(variant, "torch")).load(
        select.Request(variant, "torch")
    )


def draw(variant, seed, steps, batch, inputs, units, options=(), dtype: type = np.float64):
    """Weights, inputs, states and options, all random and asymmetric."""
    rng = np.random.default_rng(seed)
    sizes = sizes_for(variant, inputs, units, units // 2 + 3)
    params = random_params(variant, sizes, rng)
    x = rng.normal(size=(steps, batch, inputs))
    widths = [sizes.hidden, units][: len(variant.states)]
    states = [rng.normal(size=(batch, width)) for width in widths]
    possible = {
        "mask": rng.random((steps, batch)) > 0.3,
        "reset": rng.random((steps, batch)) > 0.7,
        "reset_states": [rng.normal(size=s.shape) for s in states],
        "take_h": rng.choice([0.0, 1.0], (steps, batch, sizes.hidden)),
        "take_c": 0.8,
        "recurrent_mask": rng.choice([0.0, 1.25], (batch, sizes.hidden)),
        "candidate_mask": rng.choice([0.0, 2.0], (steps, batch, units)),
        "recurrent_gradient_clip": 0.05,
    }
    if variant.cell != "lstm":
        del possible["take_c"]
    if variant.cell in ("simple", "indrnn"):
        del possible["candidate_mask"]
    given = {n: possible[n] for n in options if n in possible}
    given = {n: v.astype(dtype) if _is_factor(v) else v for n, v in given.items()}
    if "reset_states" in given:
        given["reset_states"] = [s.astype(dtype) for s in given["reset_states"]]
    weigh = [
        rng.normal(size=(steps, batch, sizes.hidden)),
        *(rng.normal(size=s.shape) for s in states),
    ]
    return (
        {n: p.astype(dtype) for n, p in params.items()},
        x.astype(dtype),
        [s.astype(dtype) for s in states],
        given,
        [w.astype(dtype) for w in weigh],
    )


def _is_factor(value) -> bool:
    return isinstance(value, np.ndarray) and value.dtype != bool


def by_core(variant, params, x, states, options, weigh, engine="native", lay=None):
    """Outputs, final states and gradients of a weighted sum of them, by name.

    `lay` gives a tensor of the same values that lies in memory as a test wants it.
    """
    arrays = {"x": x, **dict(zip(("h0", "c0"), states, strict=False)), **params}
    resets = options.get("reset_states")
    if resets is not None:
        arrays |= dict(zip(("reset_h", "reset_c"), resets, strict=False))
    leaves = {n: torch.tensor(v) for n, v in arrays.items()}
    if lay is not None:
        leaves = {n: lay(v) for n, v in leaves.items()}
    leaves = {n: v.requires_grad_() for n, v in leaves.items()}
    given = {n: torch.tensor(v) if isinstance(v, np.ndarray) else v for n, v in options.items()}
    if resets is not None:
        given["reset_states"] = tuple(leaves[n] for n in ("reset_h", "reset_c") if n in leaves)
    y, final = sequence(engine, variant)(
        variant,
        {n: leaves[n] for n in params},
        leaves["x"],
        tuple(leaves[n] for n in ("h0", "c0") if n in leaves),
        masked_output="hold",
        **given,
    )
    total: Any = sum((torch.tensor(w) * v).sum() for w, v in zip(weigh, (y, *final), strict=True))
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    found = {"y": y, **{f"final {i}": f for i, f in enumerate(final)}}
    found |= {
        f"gradient of {n}": torch.zeros_like(t) if g is None else g
        for (n, t), g in zip(leaves.items(), gradients, strict=True)
    }
    return {n: v.detach().numpy() for n, v in found.items()}


def by_reference(variant, params, x, states, options, weigh) -> dict[str, Any]:
    h0, c0 = states[0], states[1] if len(states) > 1 else None
    clip = options.get("recurrent_gradient_clip")
    rest = {n: v for n, v in options.items() if n != "recurrent_gradient_clip"}
    rest |= dict(zip(("reset_h", "reset_c"), rest.pop("reset_states", ()), strict=False))
    run = reference.forward(
        variant,
        params,
        x,
        h0,
        c0,
        masked_output="hold",
        **rest,
    )
    back = reference.backward(run, *weigh, recurrent_gradient_clip=clip)
    found = {"y": run.y, "final 0": run.h, "gradient of x": back.x, "gradient of h0": back.h0}
    if c0 is not None:
        found |= {"final 1": run.c, "gradient of c0": back.c0}
    for name in ("reset_h", "reset_c"):
        if (gradient := getattr(back, name)) is not None:
            found[f"gradient of {name}"] = gradient
    return found | {f"gradient of {n}": g for n, g in back.params.items()}


def check(variant, drawn, dtype="float64"):
    found, expected = by_core(variant, *drawn), by_reference(variant, *drawn)
    for name, value in expected.items():
        assert_close(name, found[name], value, dtype, gradient="gradient" in name)


OPTIONS = (
    "mask",
    "reset",
    "reset_states",
    "take_h",
    "take_c",
    "recurrent_mask",
    "candidate_mask",
    "recurrent_gradient_clip",
)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("options", [(), OPTIONS], ids=["plain", "all_options"])
def test_every_variant(name, options):
    check(VARIANTS[name], draw(VARIANTS[name], 1, 5, 3, 4, 7, options))


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(VARIANTS)),
    seed=st.integers(0, 2**31),
    steps=st.integers(1, 6),
    batch=st.integers(1, 19),
    inputs=st.integers(1, 5),
    units=st.sampled_from([2, 3, 7, 8, 15, 16, 17, 31, 33, 64]),
    options=st.sets(st.sampled_from(OPTIONS)),
)
def test_any_shape_and_options(name, seed, steps, batch, inputs, units, options):
    variant = VARIANTS[name]
    check(variant, draw(variant, seed, steps, batch, inputs, units, sorted(options)))


@pytest.mark.parametrize("name", ["lstm_x_h", "gru_x_h"])
def test_single_precision(name):
    drawn = draw(VARIANTS[name], 2, 9, 5, 6, 33, OPTIONS, np.float32)
    check(VARIANTS[name], drawn, "float32")


@pytest.mark.parametrize("batch", [1, 2, 3, 40])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_a_bit(batch, threads):
    variant = VARIANTS[next(n for n in VARIANTS if VARIANTS[n].cell == "lstm")]
    drawn = draw(variant, 3, 12, batch, 8, 96, dtype=np.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        first = by_core(variant, *drawn)
        again = by_core(variant, *drawn)
    finally:
        torch.set_num_threads(before)
    for name, value in first.items():
        assert np.array_equal(value, again[name]), name
    check(variant, drawn, "float32")


def test_a_plan_names_the_weights_that_are_arrays_as_they_are():
    """So what is computed with it is that without it, to the bit."""
    without = native.on("torch").sequence
    names = ("haste_lnlstm", "haste_lngru", "book_lnsimplernn")
    defaults = {name: dialects.get(name).variant for name in names}
    assert all(plan(variant) for variant in defaults.values())
    for name, variant in (VARIANTS | defaults).items():
        sizes = sizes_for(variant)
        drawn = random_params(variant, sizes, np.random.default_rng(3))
        params = {n: torch.tensor(w) for n, w in drawn.items()}
        x = torch.randn(4, 2, sizes.inputs, dtype=torch.float64)
        widths = (sizes.hidden, sizes.units)[: len(variant.states)]
        states = tuple(torch.randn(2, width, dtype=torch.float64) for width in widths)
        request = select.Request(variant, "torch", "float64")
        planned = select.choose("native", request).load(request)
        (y, final), (expected, last) = (f(variant, params, x, states) for f in (planned, without))
        for one, its in zip((y, *final), (expected, *last), strict=True):
            assert torch.equal(one, its), name


def test_several_callers_at_once():
    drawn = [draw(LSTM, seed, 20, 6, 5, 32) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda d: by_core(LSTM, *d), drawn * 3))
    for one, its in zip(found, drawn * 3, strict=True):
        for name, value in by_reference(LSTM, *its).items():
            assert_close(name, one[name], value, "float64", gradient="gradient" in name)


def test_memory_that_is_kept_is_given_back_when_asked():
    """In a process of its own, as others may have been here."""
    program = """
import ctypes, os, torch
from lnrnn.engines.native import core
from lnrnn.torch import LayerNormLSTM
def resident():
    ctypes.CDLL(None).malloc_trim(0)
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
torch.set_num_threads(1)
lstm, x = LayerNormLSTM(512, 512), torch.ones(40, 8, 512)
with torch.no_grad():
    lstm(x), lstm(x)
    before = resident()
    core.forget()
    print(before - resident() >> 20)
"""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("the resident size is read as Linux tells it")
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    # packed W and U, 4 MiB each, alone
    assert int(run.stdout) >= 8, run.stderr


def test_a_forked_process_computes():
    """As the workers of a data loader do; the parent has used its threads before."""
    program = """
import multiprocessing, numpy as np, torch
from lnrnn.engines import select
from lnrnn.variant import Variant
variant = Variant(cell="gru")
request = select.Request(variant, "torch")
run = select.choose("native", request).load(request)
def compute(seed):
    torch.manual_seed(seed)
    w = {"kernel": torch.randn(4, 192), "recurrent_kernel": torch.randn(64, 192)}
    y, _ = run(variant, w, torch.randn(30, 8, 4), (torch.zeros(8, 64),))
    return y.numpy()
here = [compute(i) for i in range(3)]
with multiprocessing.get_context("fork").Pool(2, torch.set_num_threads, (1,)) as pool:
    there = pool.map(compute, range(3))
assert all(np.array_equal(a, b) for a, b in zip(here, there))
print("equal")
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "equal", run.stderr


@pytest.mark.parametrize("isa", [n for n, reason in core.instruction_sets().items() if not reason])
def test_every_instruction_set(isa):
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_core as t; "
        "from lnrnn.engines.native import core; print(core.instruction_set()); "
        "[t.check(v, t.draw(v, 1, 4, 5, 3, 19, t.OPTIONS)) "
        "for v in list(t.VARIANTS.values())[::4]]; "
        "[t.check(v, t.draw(v, 1, 4, 5, 3, 19, t.OPTIONS, t.np.float32), 'float32') "
        "for v in list(t.VARIANTS.values())[::6]]"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, os.path.dirname(__file__)],
        env=os.environ | {"LNRNN_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == isa


def test_unknown_instruction_set_is_refused():
    program = "from lnrnn.engines.native import core; core.instruction_set()"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"LNRNN_ISA": "mmx"},
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    assert "LNRNN_ISA is the name of an instruction set" in run.stderr


def test_empty_batch():
    drawn = draw(LSTM, 4, 5, 0, 3, 8)
    found = by_core(LSTM, *drawn)
    assert found["y"].shape == (5, 0, 8)
    assert not found["gradient of recurrent_kernel"].any()
    assert not found["gradient of bias"].any()


def test_long_sequence():
    variant = Variant(cell="simple", bias=True)
    drawn = draw(variant, 5, 100_000, 1, 1, 3)
    params = {**drawn[0], "recurrent_kernel": 0.3 * drawn[0]["recurrent_kernel"]}
    found = by_core(variant, params, *drawn[1:])
    tail = by_core(variant, params, drawn[1][-200:], *drawn[2:4], [drawn[4][0][-200:], drawn[4][1]])
    assert_close("y", found["y"][-50:], tail["y"][-50:], "float64")
    assert_close(
        "gradient", found["gradient of x"][-50:], tail["gradient of x"][-50:], "float64", True
    )


def _turned(v):
    """As the weights of a module lie, and a batch-first x."""
    return v.transpose(0, 1).contiguous().transpose(0, 1) if v.ndim > 1 else v


def _strided(v):
    wide = v.new_full((*v.shape[:-1], 2 * v.shape[-1]), torch.nan)
    wide[..., ::2] = v
    return wide[..., ::2]


@pytest.mark.parametrize("name", ["lstm_x_h", "gru_before"])
@pytest.mark.parametrize("lay", [_turned, _strided, lambda v: _turned(_strided(v))])
def test_where_inputs_lie(name, lay):
    variant = VARIANTS[name]
    drawn = draw(variant, 6, 7, 4, 5, 9, OPTIONS)
    found = by_core(variant, *drawn, lay=lay)
    for name, value in by_reference(variant, *drawn).items():
        assert_close(name, found[name], value, "float64", gradient="gradient" in name)


@pytest.mark.parametrize("name", ["lstm_x_h", "gru_before"])
def test_batch_first_gives_the_same_bits(name):
    """h lies as x does, so that neither is copied to be batch first."""
    drawn = draw(VARIANTS[name], 7, 70, 5, 3, 9, OPTIONS, np.float32)
    found = by_core(VARIANTS[name], *drawn, lay=lambda v: _turned(v) if v.ndim == 3 else v)
    for part, value in by_core(VARIANTS[name], *drawn).items():
        np.testing.assert_array_equal(found[part], value, err_msg=part)
    assert found["y"].swapaxes(0, 1).flags.c_contiguous


@pytest.mark.parametrize(
    ("name", "gates"), [("gru_x_h", "zrn"), ("gru_before", "nzr"), ("lstm_x_h", "gofi")]
)
@pytest.mark.parametrize("lay", [None, _turned])
def test_gates_in_any_order(name, gates, lay):
    """Weights, and their gradients, have them in that order; no bit differs."""
    variant = VARIANTS[name]
    params, x, states, options, weigh = draw(variant, 9, 6, 4, 5, 7, OPTIONS)

    def reordered(name, value):
        own = gates_of(variant, name)
        parts = [value[..., columns(own, g, 7)] for g in gates if g in own]
        return np.concatenate(parts, -1) if len(own) > 1 else value

    other = {n: reordered(n, v) for n, v in params.items()}
    options_of_order = {**options, "gates": gates}
    found = by_core(variant, other, x, states, options_of_order, weigh, lay=lay)
    for part, value in by_core(variant, params, x, states, options, weigh, lay=lay).items():
        weight = part.removeprefix("gradient of ")
        expected = reordered(weight, value) if weight in params else value
        np.testing.assert_array_equal(found[part], expected, err_msg=part)


@pytest.mark.parametrize("name", ["lstm_x_h", "gru_before", "gru_x_h"])
@pytest.mark.parametrize(("steps", "batch"), [(70, 5), (300, 1), (3, 270)])
@pytest.mark.parametrize("kept", [True, False])
def test_sequences_of_several_chunks(name, steps, batch, kept, monkeypatch):
    from lnrnn.engines.native import torch_op

    if not kept:
        monkeypatch.setattr(torch_op, "_MOST_SAVED", 0)
    check(VARIANTS[name], draw(VARIANTS[name], 8, steps, batch, 3, 6, OPTIONS))


def test_teams_in_blocks_of_rows():
    """More threads than blocks: sums of such large matrices are kept for few blocks only."""
    drawn = draw(LSTM, 9, 2, 9, 1024, 1024)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(8)
        found = by_core(LSTM, *drawn)
    finally:
        torch.set_num_threads(before)
    for name, value in by_core(LSTM, *drawn).items():
        assert_close(name, found[name], value, "float64", gradient="gradient" in name)


def test_recomputed_projections_give_the_same_gradients(monkeypatch):
    from lnrnn.engines.native import torch_op

    variant = VARIANTS[next(n for n in VARIANTS if VARIANTS[n].cell == "lstm")]
    drawn = draw(variant, 7, 9, 5, 4, 20, OPTIONS)
    saved = by_core(variant, *drawn)
    monkeypatch.setattr(torch_op, "_MOST_SAVED", 0)
    again = by_core(variant, *drawn)
    for name, value in saved.items():
        assert_close(name, again[name], value, "float64", gradient="gradient" in name)


def test_the_operator_gives_the_numbers_of_the_call_without_it(monkeypatch):
    """Compiled graphs have the operator; a plain call goes without."""
    from lnrnn.engines.native import torch_op

    variant = VARIANTS[next(n for n in VARIANTS if VARIANTS[n].cell == "lstm")]
    params, x, states, *_ = draw(variant, 7, 5, 3, 4, 6)
    turned = {n: torch.tensor(np.asfortranarray(p), requires_grad=True) for n, p in params.items()}

    def penalty():
        given = torch.tensor(x, requires_grad=True)
        y, final = sequence("native", variant)(variant, turned, given, [*map(torch.tensor, states)])
        first = torch.autograd.grad(y.square().sum() + final[0].sum(), given, create_graph=True)[0]
        return [y, first, *torch.autograd.grad(first.square().sum(), list(turned.values()))]

    plain = penalty()
    monkeypatch.setattr(torch_op.recurrence, "eager", lambda tensors: False)
    for one, other in zip(plain, penalty(), strict=True):
        assert torch.equal(one, other)


def test_tensors_without_data_have_shapes_only():
    """As in Keras's symbolic calls on the torch backend."""
    params, x, states, *_ = draw(LSTM, 7, 5, 3, 4, 6)
    weights = {n: torch.tensor(p, device="meta", requires_grad=True) for n, p in params.items()}
    meta = [torch.tensor(s, device="meta") for s in states]
    y, final = sequence("native", LSTM)(LSTM, weights, torch.tensor(x, device="meta"), meta)
    assert y.is_meta and y.shape == (5, 3, 6) and final[1].shape == (3, 6)


@pytest.mark.parametrize("name", ["exp", "tanh", "sigmoid"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions(name, dtype):
    x = np.concatenate(
        [
            np.random.default_rng(8).normal(0, 5, 4099),
            [0.0, -0.0, 1e-30, -1e-30, 700, -700, np.inf, -np.inf, np.nan],
        ]
    ).astype(dtype)
    y = np.empty_like(x)
    core.function(name, dtype == np.float64, x.size, x.ctypes.data, y.ctypes.data)
    wide = x.astype(np.longdouble)
    with np.errstate(over="ignore", invalid="ignore"):
        exact = {
            "exp": lambda: np.exp(wide),
            "tanh": lambda: np.tanh(wide),
            "sigmoid": lambda: 1 / (1 + np.exp(-wide)),
        }[name]().astype(dtype)
    assert np.isnan(y[-1])
    same = y[:-1] == exact[:-1]
    with np.errstate(invalid="ignore"):
        close = np.abs(y[:-1] - exact[:-1]) <= 3 * np.spacing(np.abs(exact[:-1]))
    tiny = np.finfo(dtype).tiny
    if name == "sigmoid":  # which need not tell numbers below the normal ones from zero
        same |= (exact[:-1] < tiny) & (y[:-1] < tiny)
    assert (same | close).all(), x[:-1][~(same | close)]


def test_no_is_a_sentence():
    request = select.Request(LSTM, "torch", device="cuda")
    answer = select.report(request)["native"]
    assert isinstance(answer, select.No)
    with pytest.raises(ValueError, match="it computes on a CPU, not on cuda"):
        select.choose("native", request)


def test_every_variant_is_computed():
    for variant in VARIANTS.values():
        assert select.report(select.Request(variant, "torch"))["native"] == select.Yes()


@pytest.mark.parametrize("name", VARIANTS)
def test_words_say_what_the_variant_says(name):
    """A variant read back from its words is encoded to the same words."""
    words = call.encode(VARIANTS[name])
    assert call.encode(call.decode(words, Numbers())) == words


def test_sizes():
    assert sizes_of(LSTM, draw(LSTM, 0, 1, 1, 3, 5)[0]).units == 5
