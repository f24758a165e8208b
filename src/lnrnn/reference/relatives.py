"""The executable definition of the relatives: one step of each, and the loop over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lnrnn.reference.norm import Array
from lnrnn.reference.tape import Tape, Value
from lnrnn.relatives.relative import Relative
from lnrnn.relatives.weights import Sizes, sizes_of, widths


@dataclass(frozen=True)
class Cell:
    """A relative with its weights, on a tape."""

    relative: Relative
    tape: Tape
    weights: Mapping[str, Value]
    sizes: Sizes

    def norm(self, v: Value, name: str, suffix: str = "") -> Value:
        """The norm of v with its gain and, of a layer norm that has one, its bias."""
        tape = self.tape
        u = tape.times(
            tape.standardised(v, self.relative.statistics), self.weights[f"{name}gain{suffix}"]
        )
        own = self.relative.norm == "layer"
        bias = self.weights.get(f"{name}bias{suffix}") if own else None
        return u if bias is None else tape.add(u, bias)

    def mixed(self, gate: Value, a: Value, b: Value) -> Value:
        """gate a + (1 - gate) b."""
        tape = self.tape
        return tape.add(tape.times(gate, a), tape.times(tape.scaled(gate, -1.0, 1.0), b))


States = tuple[Value, ...]


def block_gru_step(cell: Cell, x: Value, states: States) -> States:
    """Projections of h, input and action; block layers; a GRU of block-diagonal gates."""
    tape, weights, sizes, (h,) = cell.tape, cell.weights, cell.sizes, states
    phi, blocks, one = cell.relative.activation, sizes.blocks, sizes.units // sizes.blocks

    def projected(v: Value, name: str) -> Value:
        p = tape.add(tape.product(v, weights[f"{name}_kernel"]), weights[f"{name}_bias"])
        return tape.activated(cell.norm(p, f"{name}_"), phi)

    sources = {"hidden": h} | _sources(tape, x, sizes)
    seen = [tape.repeat(projected(v, name), blocks) for name, v in sources.items()]
    v = tape.join([tape.reshape(h, -1, blocks, one), *seen])  # (B, K, H/K + 2P or 3P)
    for layer in range(sizes.layers):
        product = tape.block_product(v, weights[f"block_kernel_{layer}"])
        p = tape.add(tape.reshape(product, -1, sizes.units), weights[f"block_bias_{layer}"])
        p = tape.activated(cell.norm(p, "block_", f"_{layer}"), phi)
        v = tape.reshape(p, -1, blocks, one)
    product = tape.block_product(v, weights["gate_kernel"])
    p = tape.add(tape.reshape(product, -1, 3 * sizes.units), weights["gate_bias"])
    gates = tape.split(tape.reshape(p, -1, blocks, 3 * one), 3)
    r, n, z = (tape.reshape(gate, -1, sizes.units) for gate in gates)
    n = tape.activated(tape.times(tape.activated(r, "sigmoid"), n), "tanh")
    z = tape.activated(tape.scaled(z, 1.0, cell.relative.update_bias), "sigmoid")
    return (cell.mixed(z, n, h),)


def _sources(tape: Tape, x: Value, sizes: Sizes) -> dict[str, Value]:
    """The input and the action within its bound, whose divisor is a constant."""
    if not sizes.actions:
        return {"input": x}
    cut = sizes.inputs - sizes.actions
    eye = np.eye(sizes.inputs)
    features = tape.product(x, Value(eye[:, :cut]))
    action = tape.product(x, Value(eye[:, cut:]))
    return {
        "input": features,
        "action": tape.scaled(action, 1 / np.maximum(1, np.abs(action.array))),
    }


def atr_step(cell: Cell, x: Value, states: States) -> States:
    """Twin gates of the sum and the difference of two norms."""
    tape, weights, (h,) = cell.tape, cell.weights, states
    p = cell.norm(tape.product(x, weights["kernel"]), "x_norm_")
    q = cell.norm(tape.product(h, weights["recurrent_kernel"]), "h_norm_")
    q = tape.add(q, weights["bias"])
    i, f = (tape.activated(tape.add(p, q, sign), "sigmoid") for sign in (1.0, -1.0))
    return (tape.add(tape.times(i, p), tape.times(f, h)),)


def lrn_step(cell: Cell, x: Value, states: States) -> States:
    """Gates of the input and of h itself; the olrn has a gate on its output."""
    tape, (h,) = cell.tape, states
    out = cell.relative.cell == "olrn"
    normed = cell.norm(tape.product(x, cell.weights["kernel"]), "x_norm_")
    p, q, r, *u = tape.split(normed, 4 if out else 3)
    i, f = (
        tape.activated(tape.add(p, h), "sigmoid"),
        tape.activated(tape.add(q, h, -1.0), "sigmoid"),
    )
    new = tape.add(tape.times(i, r), tape.times(f, h))
    if out:
        new = tape.times(tape.activated(tape.add(u[0], new, -1.0), "sigmoid"), new)
    return (new,)


def sru_step(cell: Cell, x: Value, states: States) -> States:
    """Gates of the input and the old c; a highway from the input to h."""
    tape, weights, (_, c) = cell.tape, cell.weights, states
    normed = cell.norm(tape.product(x, weights["kernel"]), "x_norm_")
    r, f, g, skip = tape.split(normed, 4)
    r, f = (
        tape.activated(tape.add(gate, tape.times(c, weights[f"peephole_{name}"])), "sigmoid")
        for gate, name in ((r, "r"), (f, "f"))
    )
    new = cell.mixed(f, c, g)
    return cell.mixed(r, new, skip), new


def sru_carry_step(cell: Cell, x: Value, states: States) -> States:
    """An SRU whose gates are normed one by one, and whose normed c is carried."""
    tape, weights, (_, c) = cell.tape, cell.weights, states
    r, f, g, skip = tape.split(tape.product(x, weights["kernel"]), 4)
    r, f = (
        tape.activated(cell.norm(gate, f"{name}_norm_"), "sigmoid")
        for gate, name in ((r, "r"), (f, "f"))
    )
    new = tape.clipped(cell.norm(cell.mixed(f, c, g), "cell_norm_"), cell.relative.cell_clip)
    shown = tape.activated(new, "tanh")
    return cell.mixed(r, shown, tape.add(skip, weights["bias"])), new


def gru_twice_step(cell: Cell, x: Value, states: States) -> States:
    """A GRU whose candidate is normed on its parts and again on their sum."""
    tape, weights, (h,) = cell.tape, cell.weights, states
    products = {
        "x": tape.product(x, weights["kernel"]),
        "h": tape.product(h, weights["recurrent_kernel"]),
    }
    (x_r, x_z, x_n), (h_r, h_z, h_n) = (
        tape.split(tape.add(cell.norm(p, f"{name}_norm_"), weights[f"bias_{name}"]), 3)
        for name, p in products.items()
    )
    r, z = (tape.activated(tape.add(a, b), "sigmoid") for a, b in ((x_r, h_r), (x_z, h_z)))
    pre = cell.norm(tape.add(x_n, tape.times(r, h_n)), "n_norm_")
    return (cell.mixed(z, h, tape.activated(pre, "tanh")),)


def hyper_lstm_step(cell: Cell, x: Value, states: States) -> States:
    """An LSTM whose products a small one scales, gate by gate, and whose gates it shifts."""
    tape, weights, (h, c, small_h, small_c) = cell.tape, cell.weights, states
    small = {n.removeprefix("hyper_"): w for n, w in weights.items() if n.startswith("hyper_")}
    of_x, of_h = small["kernel"], small.pop("h_kernel")
    small["kernel"] = tape.below(of_x, of_h)
    seen = tape.join([x, h])
    small_h, small_c = tape.lstm(cell.relative.small_lstm, small, seen, small_h, small_c)

    def of_gates(name: str) -> Value:
        z = tape.product(small_h, weights[f"{name}_embedding_kernel"])
        bias = weights.get(f"{name}_embedding_bias")
        z = z if bias is None else tape.add(z, bias)
        pairs = zip(tape.split(z, 4), tape.split(weights[f"{name}_kernel"], 4), strict=True)
        return tape.join([tape.product(one, kernel) for one, kernel in pairs])

    of_x = tape.times(of_gates("x_scale"), tape.product(x, weights["kernel"]))
    of_h = tape.times(of_gates("h_scale"), tape.product(h, weights["recurrent_kernel"]))
    shift = tape.add(of_gates("shift"), weights["shift_bias"])
    p = tape.add(tape.add(of_x, of_h), shift)  # (B, 4 H)
    return *gated(cell, p, Value(np.eye(p.array.shape[1])), c), small_h, small_c


def double_projection_step(cell: Cell, x: Value, states: States) -> States:
    """An LSTM whose gates read a joint projection of x and h."""
    tape, weights, (h, c) = cell.tape, cell.weights, states
    joint = tape.add(
        tape.product(x, weights["joint_kernel"]), tape.product(h, weights["joint_h_kernel"])
    )
    return gated(cell, joint, weights["kernel"], c)


def gated(cell: Cell, v: Value, kernel: Value, c: Value) -> tuple[Value, Value]:
    """The new h and c of an LSTM that sees v (B, m) through a kernel (m, 4 H), and nothing else."""
    units, hidden = cell.sizes.units, cell.sizes.hidden
    names = ("sum_norm_gain", "sum_norm_bias", "cell_norm_gain", "cell_norm_bias")
    own = {n: w for n, w in cell.weights.items() if n in (*names, "projection_kernel")}
    own |= {"kernel": kernel, "recurrent_kernel": Value(np.zeros((hidden, 4 * units)))}
    nothing = Value(np.zeros((len(c.array), hidden)))
    return cell.tape.lstm(cell.relative.lstm, own, v, nothing, c)


STEPS: Mapping[str, Callable[[Cell, Value, States], States]] = {
    "block_gru": block_gru_step,
    "atr": atr_step,
    "lrn": lrn_step,
    "olrn": lrn_step,
    "sru": sru_step,
    "sru_carry": sru_carry_step,
    "gru_twice": gru_twice_step,
    "hyper_lstm": hyper_lstm_step,
    "double_projection": double_projection_step,
}


@dataclass(frozen=True)
class Forward:
    """Outputs y (T,B,R) and final states of a run, and what its way back needs."""

    y: Array
    states: tuple[Array, ...]
    cell: Cell
    x: tuple[Value, ...]
    first: States
    last: States
    emitted: tuple[Value, ...]


def forward(
    relative: Relative,
    params: Mapping[str, ArrayLike],
    x: ArrayLike,
    states: Sequence[ArrayLike] | None = None,
    *,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
) -> Forward:
    """Run a relative over a sequence, in float64.

    Args:
        relative: the cell.
        params: its weights, as [lnrnn.relatives.weights][] names them.
        x: (T,B,I).
        states: as `relative.states` names them, each (B, its width); None is zeros.
        mask: (T,B), True where a step is valid; a masked step holds the states and emits zeros.
        reset: (T,B), True where the states are zeroed before a valid step.

    Returns:
        Outputs, final states and what `backward` needs.

    Example:
        >>> params = {"kernel": np.eye(3, 12), "x_norm_gain": np.ones(12)}
        >>> params["x_norm_bias"] = np.zeros(12)
        >>> forward(Relative(cell="lrn"), params, np.ones((5, 2, 3))).y.shape
        (5, 2, 4)
    """
    arrays = {n: np.asarray(p, np.float64) for n, p in params.items()}
    sizes, tape = sizes_of(relative, arrays), Tape()
    cell = Cell(relative, tape, {n: Value(a) for n, a in arrays.items()}, sizes)
    x = np.asarray(x, np.float64)
    steps, batch, _ = x.shape
    valid = np.ones((steps, batch)) if mask is None else np.asarray(mask, np.float64)
    fresh = valid * (np.zeros((steps, batch)) if reset is None else np.asarray(reset))
    x = np.where(valid[..., None] > 0, x, 0.0)
    zeros = [np.zeros((batch, width)) for width in widths(relative, sizes).values()]
    given = zeros if states is None else states
    first = now = tuple(Value(np.asarray(s, np.float64)) for s in given)
    inputs, emitted = tuple(Value(row) for row in x), []
    for t, one in enumerate(inputs):
        share = valid[t, :, None]
        begun = tuple(tape.scaled(s, 1 - fresh[t, :, None]) for s in now)
        new = STEPS[relative.cell](cell, one, begun)
        now = tuple(
            tape.add(tape.scaled(n, share), tape.scaled(s, 1 - share))
            for n, s in zip(new, now, strict=True)
        )
        emitted.append(tape.scaled(now[0], share))
    y = np.stack([value.array for value in emitted])
    return Forward(y, tuple(s.array for s in now), cell, inputs, first, now, tuple(emitted))


def backward(
    run: Forward, dy: ArrayLike, dstates: Sequence[ArrayLike | None] | None = None
) -> dict[str, Array]:
    """From the gradients of a run's results to those of x, the states and the weights.

    Args:
        run: what `forward` returned; it goes back once.
        dy: gradient of the outputs (T,B,R).
        dstates: gradients of the final states; None is zeros.

    Returns:
        Gradients by `x`, `h0` (and `c0`, ... of the other states) and the names of weights.
    """
    for value, gradient in zip(run.emitted, np.asarray(dy, np.float64), strict=True):
        value.gradient = value.gradient + gradient
    for value, gradient in zip(run.last, dstates or [None] * len(run.last), strict=True):
        if gradient is not None:
            value.gradient = value.gradient + np.asarray(gradient)
    run.cell.tape.back()
    found = {"x": np.stack([value.gradient for value in run.x])}
    for name, value in zip(run.cell.relative.states, run.first, strict=True):
        found[f"{name}0"] = value.gradient
    return found | {name: value.gradient for name, value in run.cell.weights.items()}
