"""The split kernel in Triton's interpreter, which runs programs one after another.

Here each runs in a process of its own over tensors in shared memory, so that they wait for each
other as on a device.

Prints one line of JSON: of each case the errors raised, the outputs' and gradients' largest errors.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
import time
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch

from lnrnn.engines.fused import definition
from lnrnn.engines.fused.call import DIFFERENTIABLE, Inputs, Numbers
from lnrnn.engines.portable import ops_torch
from lnrnn.engines.triton import choose, divide, exchange, split, torch_op
from lnrnn.variant import Norm, Variant

SMALLEST_SCALE = 0.1
LSTM = Variant(cell="lstm", norms=(Norm("x", "ifgo"), Norm("h", "ifgo")), cell_norm="output")
BY_GATE = Variant(
    cell="lstm",
    norms=tuple(Norm("h", g) for g in "ifgo"),
    cell_norm="carry",
    hidden_norm=True,
    peephole="after",
)
GRU = Variant(cell="gru", norms=(Norm("x", "rzn"), Norm("h", "rzn")))
INSIDE = Variant(
    cell="gru", norms=(Norm("sum", "rz"), Norm("sum", "n")), reset="inside", hidden_norm=True
)
SUM = Variant(cell="lstm", norms=(Norm("sum", "ifgo"),), norm="rms", cell_norm="after_tanh")
SIMPLE = Variant(cell="simple", norms=(Norm("sum", "n"),))

# variant, T, B, H, x's dtype, columns of a chunk, arrays besides, bound on derivatives
CASES = {
    "two programs": (LSTM, 6, 3, 32, "float32", 32, ("mask", "reset", "bias_h"), 0.0),
    "a part of a program, two tiles of rows": (LSTM, 2, 18, 29, "float32", 16, ("bias_h",), 0.0),
    "four programs": (LSTM, 3, 3, 60, "float32", 32, ("take", "dropout"), 0.0),
    "no norms": (Variant(cell="lstm"), 8, 3, 48, "float32", 64, (), 0.0),
    "groups": (BY_GATE, 3, 3, 32, "float32", 32, ("reset", "reset_states"), 0.05),
    "gru": (GRU, 3, 3, 29, "float32", 32, ("mask", "reset", "take"), 0.0),
    "gru inside": (INSIDE, 3, 3, 29, "float32", 32, (), 0.05),
    "sum": (SUM, 3, 3, 29, "float32", 32, (), 0.0),
    "simple": (SIMPLE, 3, 3, 32, "float32", 32, (), 0.0),
    "pairs, two tiles of rows": (LSTM, 2, 18, 48, "bfloat16", 32, ("mask",), 0.0),
}
DELAYED = ("two programs", "no norms")


def problem(variant: Variant, steps: int, batch: int, units: int, extras: tuple[str, ...]):
    """Random asymmetric arrays in float64, and weights of a loss."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    def chance(*shape: int):
        return torch.rand(*shape, generator=draw) < 0.7

    wide, inputs = len(variant.gates) * units, 5
    site_x, site_h, site_sum = (bool(variant.norms_at(s)) for s in ("x", "h", "sum"))
    cell, lstm = variant.cell_norm != "none", variant.cell == "lstm"
    sequence = (steps, batch, units)
    given = dict(
        kernel=normal(inputs, wide) / inputs**0.5,
        recurrent=normal(units, wide) / units**0.5,
        bias_x=None,
        bias_h=normal(wide) / 5 if "bias_h" in extras else None,
        gain_x=1 + normal(wide) / 3 if site_x else None,
        shift_x=normal(wide) / 3 if site_x else None,
        gain_h=1 + normal(wide) / 3 if site_h else None,
        shift_h=normal(wide) / 3 if site_h else None,
        gain_sum=1 + normal(wide) / 3 if site_sum else None,
        shift_sum=normal(wide) / 3 if site_sum else None,
        gain_c=1 + normal(units) / 3 if cell else None,
        shift_c=normal(units) / 3 if cell else None,
        peephole=normal(3 * units) / 3 if variant.peephole != "none" else None,
        gain_hidden=1 + normal(units) / 3 if variant.hidden_norm else None,
        shift_hidden=normal(units) / 3 if variant.hidden_norm else None,
        x=normal(steps, batch, inputs),
        h0=normal(batch, units),
        c0=normal(batch, units) if lstm else None,
        reset_h=normal(batch, units) if "reset_states" in extras else None,
        reset_c=normal(batch, units) if "reset_states" in extras and lstm else None,
        mask=chance(steps, batch) if "mask" in extras else None,
        reset=~chance(steps, batch) if "reset" in extras else None,
        take_h=chance(*sequence).double() if "take" in extras else None,
        take_c=chance(*sequence).double() if "take" in extras and lstm else None,
        recurrent_mask=chance(batch, units) / 0.7 if "dropout" in extras else None,
        candidate_mask=chance(*sequence) / 0.7 if "dropout" in extras else None,
    )
    arrays = Inputs(*(given.get(name) for name in Inputs._fields))  # pyright: ignore
    arrays = Inputs(*(a.double() if a is not None and a.is_floating_point() else a for a in arrays))
    return arrays, [normal(*sequence), normal(batch, units), normal(batch, units)]


def converted(arrays: Inputs, dtype: torch.dtype) -> Inputs:
    def of(name: str, a):
        if a is None or a.dtype == torch.bool:
            return a
        return a.to(dtype if name == "x" else torch.float32)

    return Inputs(*(of(n, a) for n, a in arrays._asdict().items()))


def computed(run, arrays: Inputs, weights):
    """Outputs and gradients by name, in float64."""
    leaves = {
        n: a.clone().requires_grad_()
        for n, a in arrays._asdict().items()
        if n in DIFFERENTIABLE and a is not None
    }
    outputs = run(arrays._replace(**leaves))
    losses = [(o.double() * w).sum() for o, w in zip(outputs, weights, strict=False)]
    gradients = torch.autograd.grad(losses, list(leaves.values()))
    return (
        [o.detach().double() for o in outputs],
        {n: g.double() for n, g in zip(leaves, gradients, strict=True)},
    )


def error(found, wanted) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=SMALLEST_SCALE))


def by_processes(start, absent: int = -1):
    """`divide.launch` by one process per program, of which one may be absent."""

    def launch(kernel, grid, arrays, known):
        known = {k: v for k, v in known.items() if k != "num_warps"}
        for a in arrays:
            if isinstance(a, torch.Tensor):
                a.share_memory_()

        def run(q: int) -> None:
            torch.set_num_threads(1)
            start(q)
            kernel[(1, grid[1])](*arrays, q, **known)

        fork = multiprocessing.get_context("fork").Process
        programs = [fork(target=run, args=(q,)) for q in range(grid[0]) if q != absent]
        for p in programs:
            p.start()
        for p in programs:
            p.join()
        if any(p.exitcode not in (0, KILLED) for p in programs):
            raise RuntimeError(f"programs ended with {[p.exitcode for p in programs]}")

    return launch


KILLED = 9


def late(q: int) -> None:
    """Every send waits for a while by chance."""
    chance, send = random.Random(q), exchange.store

    def store(at, words, m=None):
        time.sleep(chance.random() / 100)
        return send(at, words, m)

    exchange.store = split.store = store


def dies(q: int) -> None:
    """The second program ends after a few sends."""
    sends, send = [0], exchange.store

    def store(at, words, m=None):
        sends[0] += 1
        if q == 1 and sends[0] == 5:
            os._exit(KILLED)
        return send(at, words, m)

    exchange.store = split.store = store


def case(name: str) -> dict:
    variant, steps, batch, units, dtype, chunk, extras, clip = CASES[name]
    choose.split = lambda *_: choose.Split(16, 16, 4, chunk, 2)
    choose.fits_tile = lambda c, kind, shared: False
    divide.launch = by_processes(late if name in DELAYED else lambda q: None)
    arrays, weights = problem(variant, steps, batch, units, extras)
    numbers = Numbers(epsilon=variant.epsilon, clip=clip)
    values, gradients = computed(
        lambda a: torch_op.recurrence(variant, numbers, a),
        converted(arrays, getattr(torch, dtype)),
        weights,
    )
    divide.check()
    of_values, of_gradients = computed(
        lambda a: definition.recurrence(ops_torch, variant, numbers, a), arrays, weights
    )
    return dict(
        dtype=dtype,
        values=max(error(v, w) for v, w in zip(values, of_values, strict=True)),
        gradients={n: error(g, of_gradients[n]) for n, g in gradients.items()},
    )


def abandoned(start, absent: int) -> str:
    """What `divide.check` says after programs that a peer has left, whose last h is NaN."""
    choose.split = lambda *_: choose.Split(16, 16, 4, 32, 2)
    choose.fits_tile = lambda c, kind, shared: False
    divide.launch = by_processes(start, absent)
    choose.POLLS = 100
    arrays, _ = problem(LSTM, 3, 3, 32, ())
    found = torch_op.recurrence(LSTM, Numbers(), converted(arrays, torch.float32))
    assert all(f[..., :16].isnan().any() for f in (found[0][-1], found[1]))
    try:
        divide.check()
    except RuntimeError as e:
        return str(e)
    return ""


if __name__ == "__main__":
    torch.set_num_threads(1)
    results: dict[str, Any] = {name: case(name) for name in CASES}
    results["absent"] = abandoned(lambda q: None, 1)
    results["killed"] = abandoned(dies, -1)
    json.dump(results, sys.stdout)
