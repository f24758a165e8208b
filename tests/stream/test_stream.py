"""Streams: the bits of the sequence, states, errors, and weights in fewer bits."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

import lnrnn
from lnrnn.convert import FileError, Weights
from lnrnn.dialects import DIALECTS
from lnrnn.engines import native, runs
from lnrnn.engines.native import core
from lnrnn.stream.stream import FORMS
from lnrnn.testing.cases import VARIANTS, random_params, sizes_for
from lnrnn.testing.tolerances import assert_close
from lnrnn.torch import LayerNormGRU, LayerNormLSTM, LayerNormLSTMCell
from lnrnn.variant import Variant

Array = np.ndarray

NATIVE = VARIANTS | {n: d.variant for n, d in DIALECTS.items()}


def weights_of(variant: Variant, units: int, inputs: int, **rates: Any) -> Weights:
    rng = np.random.default_rng(0)
    params = random_params(variant, sizes_for(variant, inputs, units, units - 5), rng)
    return Weights(variant, {n: p.astype(np.float32) for n, p in params.items()}, **rates)


def sequence(weights: Weights, x: Array, reset: Array | None = None) -> Array:
    """All h of the native engine, from zeros."""
    sizes = weights.sizes
    widths = {"h": sizes.hidden, "c": sizes.units}
    h, _ = native.on("torch").sequence(
        weights.variant,
        {n: torch.tensor(p) for n, p in weights.params.items()},
        torch.tensor(x),
        tuple(torch.zeros(x.shape[1], widths[s]) for s in weights.variant.states),
        reset=None if reset is None else torch.tensor(reset),
        take_h=1 - weights.zoneout if weights.zoneout else None,
        take_c=1 - weights.zoneout_cell if weights.zoneout_cell else None,
    )
    return h.numpy()


def in_blocks(stream: lnrnn.Stream, x: Array, lengths: list[int]) -> Array:
    """What a stream gives for blocks of these lengths; 0 is one step, without T."""
    found, t = [], 0
    for length in lengths:
        found.append(stream(x[t])[None] if length == 0 else stream(x[t : t + length]))
        t += length or 1
    assert t == len(x)
    return np.concatenate(found)


@pytest.mark.parametrize("name", NATIVE)
def test_a_stream_gives_the_bits_of_the_sequence(name: str) -> None:
    variant = NATIVE[name]
    rates: dict[str, Any] = {"zoneout": 0.1, "zoneout_cell": 0.3 if variant.cell == "lstm" else 0.0}
    weights = weights_of(variant, 19, 7, **rates)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((90, 3, 7)).astype(np.float32)
    reset = rng.random((90, 3)) < 0.1
    stream = lnrnn.Stream(weights, batch=3)
    expected = sequence(weights, x)
    np.testing.assert_array_equal(in_blocks(stream, x, [0, 1, 0, 2, 70, 15]), expected)
    stream.reset()
    found = []
    for t in range(len(x)):
        stream.reset(reset[t])
        found.append(stream(x[t]))
    np.testing.assert_array_equal(np.stack(found), sequence(weights, x, reset))


@pytest.mark.parametrize("batch", [1, 2, 5, 13])
def test_stacks_and_batches_of_all_sizes(batch: int) -> None:
    torch.manual_seed(0)
    module = LayerNormLSTM(33, 65, num_layers=2, zoneout=0.2).eval()
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.4)
    x = torch.randn(20, batch, 33)
    with torch.no_grad():
        y, (h, c) = module(x)
    stream = lnrnn.Stream(module, batch=batch)
    np.testing.assert_array_equal(in_blocks(stream, x.numpy(), [0, 19]), y.numpy())
    for layer, (own_h, own_c) in enumerate(stream.state):
        np.testing.assert_array_equal(own_h, h[layer].numpy())
        np.testing.assert_array_equal(own_c, c[layer].numpy())


def test_learned_states_are_where_a_stream_begins(tmp_path: Any) -> None:
    """At the start, and in the rows that are reset; from a module, a file and a cell's step."""
    module = LayerNormLSTM(7, 19, num_layers=2, learn_initial_state=True).eval()
    x = torch.randn(9, 3, 7)
    reset = torch.rand(9, 3) < 0.3
    lnrnn.save(tmp_path / "module.safetensors", module)
    with torch.no_grad():
        expected = module(x, reset=reset)[0].numpy()
        for source in (module, tmp_path / "module.safetensors"):
            stream = lnrnn.Stream(source, batch=3)
            begun = [[s.detach().numpy() for s in (h, c)] for h, c in learned(module)]
            for state, layer in zip(stream.state, begun, strict=True):
                for found, one in zip(state, layer, strict=True):
                    np.testing.assert_array_equal(found, np.tile(one, (3, 1)))
            found = []
            for now, fresh in zip(x.numpy(), reset.numpy(), strict=True):
                stream.reset(fresh)
                found.append(stream(now))
            np.testing.assert_array_equal(np.stack(found), expected)
        state, outputs = None, []
        for now in x:  # from the second step on by a stream
            y, state = module.step(now, state)
            outputs.append(y)
        assert_close("steps", torch.stack(outputs).numpy(), module(x)[0].numpy(), "float32")


def learned(module: Any) -> list[Any]:
    return [
        (getattr(module, f"initial_h{s}"), getattr(module, f"initial_c{s}")) for s in module._stems
    ]


def test_states_are_copies_and_may_be_set() -> None:
    stream = lnrnn.Stream(weights_of(NATIVE["haste_lnlstm"], 6, 3), batch=2)
    x = np.random.default_rng(0).standard_normal((9, 2, 3)).astype(np.float32)
    stream(x[:4])
    state = stream.state
    first = stream(x[4:])
    assert not np.array_equal(state[0][0], stream.state[0][0])
    other = lnrnn.Stream(weights_of(NATIVE["haste_lnlstm"], 6, 3), batch=2)
    other.state = state
    np.testing.assert_array_equal(other(x[4:]), first)
    stream.reset([1])
    assert all(not s[1].any() and s[0].any() for s in stream.state[0])


def test_out_is_written_and_may_be_x() -> None:
    weights = weights_of(NATIVE["gru_x_h"], 5, 5)
    x = np.random.default_rng(0).standard_normal((200, 1, 5)).astype(np.float32)
    expected, out = lnrnn.Stream(weights)(x), np.empty((200, 1, 5), np.float32)
    stream = lnrnn.Stream(weights)
    assert stream(x, out=out) is out
    np.testing.assert_array_equal(out, expected)
    stream.reset()
    np.testing.assert_array_equal(stream(x, out=x), expected)


def test_files_give_the_same_stream(tmp_path: Any) -> None:
    module = LayerNormGRU(3, 7, num_layers=2)
    lnrnn.save(tmp_path / "gru.safetensors", module)
    x = np.random.default_rng(0).standard_normal((5, 1, 3)).astype(np.float32)
    expected = lnrnn.Stream(module)(x)
    np.testing.assert_array_equal(lnrnn.Stream(tmp_path / "gru.safetensors")(x), expected)
    weight: Any = module.weight_hh_l0
    with torch.no_grad():
        weight.mul_(2)
    assert not np.array_equal(lnrnn.Stream(module)(x), expected)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_weights_of_any_dtype_become_float32(dtype: str) -> None:
    weights = weights_of(NATIVE["lstm"], 4, 3)
    given = Weights(weights.variant, {n: p.astype(dtype) for n, p in weights.params.items()})
    same = Weights(weights.variant, {n: p.astype("f4") for n, p in given.params.items()})
    x = np.ones((3, 1, 3), np.float32)
    np.testing.assert_array_equal(lnrnn.Stream(given)(x), lnrnn.Stream(same)(x))


@pytest.mark.parametrize(("form", "bound"), [("bfloat16", 0.01), ("int8", 0.03)])
@pytest.mark.parametrize("name", ["haste_lnlstm", "gru_x_h", "gru_before", "simple_sum"])
def test_fewer_bits_cost_little(name: str, form: str, bound: float) -> None:
    weights = weights_of(NATIVE[name], 48, 40)
    x = np.random.default_rng(1).standard_normal((30, 2, 40)).astype(np.float32)
    exact = lnrnn.Stream(weights, 2)(x)
    found = lnrnn.Stream(weights, 2, form)(x)
    error = np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2))
    assert 1e-4 < error < bound


def test_int8_is_what_it_says() -> None:
    """A linear cell without a norm, beside the rule in NumPy."""
    rng = np.random.default_rng(0)
    variant = Variant(cell="simple", activation="linear")
    kernel = rng.standard_normal((9, 4)).astype(np.float32)
    params = {"kernel": kernel, "recurrent_kernel": np.zeros((4, 4), np.float32)}
    x = rng.standard_normal((1, 9)).astype(np.float32)
    scale = np.abs(kernel).max(0) / 127
    own = np.abs(x).max() / 127
    expected = (np.rint(x / own) @ np.rint(kernel / scale)) * own * scale
    found = lnrnn.Stream(Weights(variant, params), weights="int8")(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    x[0, 3] = np.inf
    assert np.isnan(lnrnn.Stream(Weights(variant, params), weights="int8")(x)).all()
    assert not lnrnn.Stream(Weights(variant, params), weights="int8")(0 * kernel[:, :1].T).any()


def test_forms_take_less_memory() -> None:
    weights = weights_of(NATIVE["haste_lnlstm"], 256, 256)
    whole, half, quarter = (lnrnn.Stream(weights, weights=form).nbytes for form in FORMS)
    matrices = 4 * 512 * 1024
    assert whole - half > 0.46 * matrices and whole - quarter > 0.7 * matrices


def test_int8_and_bfloat16_keep_a_language_model() -> None:
    """Bits per character within 1 per cent, of a small model trained on Python's documentation."""
    from pydoc_data.topics import topics

    torch.manual_seed(0)
    text = "".join(topics.values())[:60000]
    vocabulary = sorted(set(text))
    numbers = torch.tensor([vocabulary.index(c) for c in text])
    size = len(vocabulary)
    module, head = LayerNormLSTM(size, 64, num_layers=2), torch.nn.Linear(64, size)
    optimizer = torch.optim.Adam([*module.parameters(), *head.parameters()], 0.01)
    loss = torch.nn.CrossEntropyLoss()
    eye = torch.eye(size)
    for _ in range(60):
        starts = torch.randint(0, 50000, (16,))
        window = numbers[starts[None] + torch.arange(41)[:, None]]
        logits = head(module(eye[window[:-1]])[0])
        optimizer.zero_grad()
        error: Any = loss(logits.flatten(0, 1), window[1:].flatten())
        error.backward()
        optimizer.step()
    held_out = numbers[52000:56001]
    x = eye[held_out[:-1]].numpy()[:, None]
    bits = {}
    for form in FORMS:
        h = torch.tensor(lnrnn.Stream(module.eval(), weights=form)(x)[:, 0])
        with torch.no_grad():
            bits[form] = float(loss(head(h), held_out[1:])) / np.log(2)
    assert bits["float32"] < 4.2  # it has learned something
    assert abs(bits["bfloat16"] / bits["float32"] - 1) < 0.01
    assert abs(bits["int8"] / bits["float32"] - 1) < 0.01


def test_threads_share_a_stream_one_at_a_time() -> None:
    weights = weights_of(NATIVE["haste_lnlstm"], 33, 5)
    x = np.full((1, 5), 0.5, np.float32)
    one, shared = lnrnn.Stream(weights), lnrnn.Stream(weights)
    one(np.broadcast_to(x, (400, 1, 5)))

    def work() -> None:
        out = np.empty((1, 33), np.float32)
        for _ in range(100):
            shared(x, out=out)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    np.testing.assert_array_equal(shared.state[0][0], one.state[0][0])


def test_steps_are_counted() -> None:
    stream = lnrnn.Stream(LayerNormGRU(3, 4, num_layers=2))
    before = runs()
    stream(np.zeros((1, 3), np.float32))
    assert runs() - before == Counter({("native", "numpy"): 2})


def test_calls_that_do_not_fit() -> None:
    stream = lnrnn.Stream(weights_of(NATIVE["lstm"], 4, 3), batch=2)
    good = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"x has the shape .* B=2 and I=3; got \(3, 2\)"):
        stream(np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match=r"x has the shape .*got \(3,\)"):
        stream(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="x is of float32; got the format 'd'"):
        stream(good.astype(np.float64))
    with pytest.raises(ValueError, match=r"out has the shape \(B, R\) .* R=4; got \(2, 3\)"):
        stream(good, out=good)
    with pytest.raises(ValueError, match=r"out is an array of float32 .* can be written to"):
        stream(good, out=np.empty((2, 8), np.float32)[:, ::2])
    with pytest.raises(ValueError, match="overlap in part"):
        square = lnrnn.Stream(weights_of(NATIVE["lstm"], 3, 3))
        both = np.zeros((5, 1, 3), np.float32)
        square(both[:4], out=both[1:])
    for rows in (2, -1, [0, 5], [True], 0.5, np.array([[0]])):
        with pytest.raises(ValueError, match="rows are numbers from 0 to 1, or 2 flags"):
            stream.reset(rows)
    with pytest.raises(ValueError, match=r"A state has \[2\] arrays"):
        stream.state = ((np.zeros((2, 4), np.float32),),)
    with pytest.raises(ValueError, match=r"state has the shape \(B, R\).*got \(4, 2\)"):
        stream.state = ((np.zeros((4, 2), np.float32),) * 2,)


def test_sources_that_no_stream_computes() -> None:
    with pytest.raises(ValueError, match="reverse direction"):
        lnrnn.Stream(LayerNormLSTM(3, 4, bidirectional=True))
    with pytest.raises(ValueError, match="got Linear in Sequential"):
        lnrnn.Stream(torch.nn.Sequential(LayerNormLSTMCell(3, 4), torch.nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="layer 1 takes 3 inputs and layer 0 gives 4"):
        lnrnn.Stream([weights_of(NATIVE["lstm"], 4, 3)] * 2)
    with pytest.raises(ValueError, match="weights is one of"):
        lnrnn.Stream(weights_of(NATIVE["lstm"], 4, 3), weights="int4")
    with pytest.raises(ValueError, match="batch is a whole number"):
        lnrnn.Stream(weights_of(NATIVE["lstm"], 4, 3), batch=0)


def test_damaged_bytes_are_refused(tmp_path: Any) -> None:
    path = tmp_path / "layer.safetensors"
    lnrnn.save(path, weights_of(NATIVE["gru_x_h_groups"], 4, 3))
    whole = path.read_bytes()
    for cut in (0, 7, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(FileError):
            lnrnn.Stream(path)
        with pytest.raises(ValueError, match=r"^[A-Z].*\.$"):
            core.stream(whole[:cut], 1, 0)
    for old, new in (
        (b'version\\":1', b'version\\":2'),
        (b"gru", b"gxu"),
        (b"[3,4,4]", b"[3,5,5]"),
        (b'"F32"', b'"F99"'),
        (b'"F32"', b'"I32"'),
        (b"zoneout", b"zoneouf"),
    ):
        assert old in whole
        with pytest.raises(ValueError, match=r"^[A-Z].*\.$"):
            core.stream(whole.replace(old, new, 1), 1, 0)
