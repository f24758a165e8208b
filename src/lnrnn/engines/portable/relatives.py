"""One step of every relative, in a framework's own operations, over the engine's own loop.

A class prepares, once per call, what does not change over time; `inputs` is the part of a step
that sees no state, which the loop takes ahead where that pays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, Self

from lnrnn.engines.portable.ops import Array, Ops, States
from lnrnn.engines.portable.recurrence import Noise, Recurrence
from lnrnn.engines.portable.sequence import Course, run
from lnrnn.engines.sites import site_vectors
from lnrnn.relatives.relative import Relative
from lnrnn.relatives.weights import Sizes, sizes_of
from lnrnn.variant import Variant


class Steps:
    """What the relatives share."""

    # the weights that a step takes as vectors, not what `inputs` does
    names: tuple[str, ...] = ()

    def __init__(
        self, ops: Ops, relative: Relative, params: Mapping[str, Array], sizes: Sizes | None = None
    ) -> None:
        self.ops, self.relative = ops, relative
        self.params = dict(params)
        self.statistics = relative.statistics
        self.sizes = sizes_of(relative, params) if sizes is None else sizes
        self.sigma, self.tanh = ops.activation("sigmoid"), ops.activation("tanh")

    def vectors(self) -> dict[str, Array]:
        """The vectors of a step by name, for a loop that hands them over step by step."""
        return {name: self.params[name] for name in self.names}

    def with_vectors(self, vectors: Mapping[str, Array]) -> Self:
        """The same steps with these vectors."""
        new = copy(self)
        new.params = self.params | dict(vectors)
        return new

    def inputs(self, x: Array) -> Array:
        """What a step takes of x (..., I)."""
        raise NotImplementedError

    def step(self, x: Array, states: States, noise: Noise) -> States:
        """The new states after `inputs`."""
        raise NotImplementedError

    def norm(self, v: Array, name: str, suffix: str = "") -> Array:
        """The norm of v with its gain and, of a layer norm that has one, its bias."""
        own = self.relative.norm == "layer"
        bias = self.params.get(f"{name}bias{suffix}") if own else None
        return self.ops.norm(v, self.params[f"{name}gain{suffix}"], bias, self.statistics)


class BlockSteps(Steps):
    """What Dreamer's does of h, behind the inputs.

    The first block product has the weights `state_kernel` (K, H/K, H/K), of h, and
    `projected_kernel` (P, H), of its projection.
    """

    def __init__(
        self, ops: Ops, relative: Relative, params: Mapping[str, Array], sizes: Sizes
    ) -> None:
        super().__init__(ops, relative, params, sizes)
        self.phi = ops.activation(relative.activation)
        later = [f"block_{kind}_{k}" for k in range(sizes.layers) for kind in ("bias", "gain")]
        self.names = ("hidden_bias", "hidden_gain", *later[1:], "gate_bias")

    def step(self, x: Array, states: States, noise: Noise) -> States:
        """x is (B, H), the share of the inputs in the first block product."""
        ops, params, (h,) = self.ops, self.params, states
        seen = ops.matmul(self._projected(h, "hidden"), params["projected_kernel"])
        v = x + seen + self._blocks(h, params["state_kernel"])
        for layer in range(self.sizes.layers):
            if layer:
                v = self._blocks(v, params[f"block_kernel_{layer}"]) + params[f"block_bias_{layer}"]
            v = self.phi(self.norm(v, "block_", f"_{layer}"))
        p = self._blocks(v, params["gate_kernel"]) + params["gate_bias"]
        one = self.sizes.units // self.sizes.blocks
        r, n, z = map(ops.unfold, ops.split(ops.fold(p, 3 * one), 3))
        n = self.tanh(self.sigma(r) * n)
        z = self.sigma(z + self.relative.update_bias)
        return (z * n + (1 - z) * h,)

    def _projected(self, v: Array, name: str) -> Array:
        p = self.ops.matmul(v, self.params[f"{name}_kernel"]) + self.params[f"{name}_bias"]
        return self.phi(self.norm(p, f"{name}_"))

    def _blocks(self, v: Array, kernel: Array) -> Array:
        """Each block of v (..., K m) times its own of kernel (K, m, n)."""
        folded = self.ops.fold(v, kernel.shape[1])
        return self.ops.unfold(self.ops.einsum("...km,kmn->...kn", folded, kernel))


class BlockGRU(BlockSteps):
    """Dreamer's: what the first block product takes of the inputs is done in `inputs`."""

    def __init__(self, ops: Ops, relative: Relative, params: Mapping[str, Array]) -> None:
        sizes = sizes_of(relative, params)
        super().__init__(ops, relative, params, sizes)
        one = sizes.units // sizes.blocks
        kernel, ends = params["block_kernel_0"], (one, one + sizes.projection)
        # of h, its projection and those of the inputs, the latter as matrices for all blocks; a
        # traced scan takes fresh tensors and no views of one
        self.params |= {
            "state_kernel": ops.concat([kernel[:, : ends[0]]]),
            "projected_kernel": ops.concat(ops.unstack(kernel[:, ends[0] : ends[1]])),
            "inputs_kernel": ops.concat(ops.unstack(kernel[:, ends[1] :])),
        }

    def inputs(self, x: Array) -> Array:
        """The share of the inputs in the first block product, with its bias: (..., H)."""
        actions = self.sizes.actions
        features, action = (x[..., :-actions], x[..., -actions:]) if actions else (x, None)
        seen = [self._projected(features, "input")]
        if action is not None:
            action = action / self.ops.divisor(action)
            seen.append(self._projected(action, "action"))
        shared = self.ops.matmul(self.ops.concat(seen), self.params["inputs_kernel"])
        return shared + self.params["block_bias_0"]


class ATR(Steps):
    """Twin gates of the sum and the difference of two norms."""

    names = ("h_norm_gain", "h_norm_bias", "bias")

    def inputs(self, x: Array) -> Array:
        """p: (..., H)."""
        return self.norm(self.ops.matmul(x, self.params["kernel"]), "x_norm_")

    def step(self, x: Array, states: States, noise: Noise) -> States:
        """x is p (B, H)."""
        (h,) = states
        q = self.norm(self.ops.matmul(h, self.params["recurrent_kernel"]), "h_norm_")
        q = q + self.params["bias"]
        return (self.sigma(x + q) * x + self.sigma(x - q) * h,)


class LRN(Steps):
    """Gates of the input and of h itself; the olrn has a gate on its output."""

    def inputs(self, x: Array) -> Array:
        """All gates: (..., G H)."""
        return self.norm(self.ops.matmul(x, self.params["kernel"]), "x_norm_")

    def step(self, x: Array, states: States, noise: Noise) -> States:
        """x is (B, G H)."""
        (h,) = states
        p, q, r, *u = self.ops.split(x, 4 if self.relative.cell == "olrn" else 3)
        new = self.sigma(p + h) * r + self.sigma(q - h) * h
        return (self.sigma(u[0] - new) * new if u else new,)


class SRU(LRN):
    """Gates of the input and the old c; a highway from the input to h."""

    names = ("peephole_r", "peephole_f")

    def step(self, x: Array, states: States, noise: Noise) -> States:
        """x is (B, 4 H)."""
        _, c = states
        r, f, g, skip = self.ops.split(x, 4)
        r = self.sigma(r + self.params["peephole_r"] * c)
        f = self.sigma(f + self.params["peephole_f"] * c)
        new = f * c + (1 - f) * g
        return r * new + (1 - r) * skip, new


class SRUCarry(LRN):
    """An SRU whose gates are normed one by one, and whose normed c is carried."""

    names = ("r_norm_gain", "r_norm_bias", "f_norm_gain", "f_norm_bias", "cell_norm_gain", "bias")

    def inputs(self, x: Array) -> Array:
        """Both gates, g and the highway: (..., 4 H)."""
        r, f, g, skip = self.ops.split(self.ops.matmul(x, self.params["kernel"]), 4)
        r, f = (self.sigma(self.norm(v, name)) for v, name in ((r, "r_norm_"), (f, "f_norm_")))
        return self.ops.concat([r, f, g, skip + self.params["bias"]])

    def step(self, x: Array, states: States, noise: Noise) -> States:
        """x is (B, 4 H), as from `inputs`."""
        _, c = states
        r, f, g, skip = self.ops.split(x, 4)
        new = self.norm(f * c + (1 - f) * g, "cell_norm_")
        if self.relative.cell_clip is not None:
            new = self.ops.clip(new, self.relative.cell_clip)
        return r * self.tanh(new) + (1 - r) * skip, new


class GRUTwice(LRN):
    """A GRU whose candidate is normed on its parts and again on their sum."""

    names = ("h_norm_gain", "h_norm_bias", "bias_h", "n_norm_gain", "n_norm_bias")

    def inputs(self, x: Array) -> Array:
        """The normed product of x, with its bias: (..., 3 H)."""
        return super().inputs(x) + self.params["bias_x"]

    def step(self, x: Array, states: States, noise: Noise) -> States:
        """x is (B, 3 H)."""
        (h,) = states
        H = self.norm(self.ops.matmul(h, self.params["recurrent_kernel"]), "h_norm_")
        x_r, x_z, x_n = self.ops.split(x, 3)
        h_r, h_z, h_n = self.ops.split(H + self.params["bias_h"], 3)
        n = self.tanh(self.norm(x_n + self.sigma(x_r + h_r) * h_n, "n_norm_"))
        return (n + self.sigma(x_z + h_z) * (h - n),)


class HyperLSTM(Steps):
    """An LSTM whose products a small one scales, gate by gate, and whose gates it shifts."""

    def __init__(self, ops: Ops, relative: Relative, params: Mapping[str, Array]) -> None:
        super().__init__(ops, relative, params)
        self.names = tuple(n for n, p in params.items() if len(p.shape) == 1)
        self._make_lstms()

    def _make_lstms(self) -> None:
        ops, relative = self.ops, self.relative
        small = {n.removeprefix("hyper_"): p for n, p in self.params.items() if n[:6] == "hyper_"}
        self.small = lstm(ops, relative.small_lstm, small)
        self.large = lstm(ops, relative.lstm, self.params)

    def with_vectors(self, vectors: Mapping[str, Array]) -> Self:
        """The same steps with these vectors."""
        new = super().with_vectors(vectors)
        new._make_lstms()
        return new

    def inputs(self, x: Array) -> Array:
        """The products of the large LSTM and of the small one: (..., 4 H + 4 E)."""
        kernels = (self.params[name] for name in ("kernel", "hyper_kernel"))
        return self.ops.concat([self.ops.matmul(x, kernel) for kernel in kernels])

    def step(self, x: Array, states: States, noise: Noise) -> States:
        """x is (B, 4 H + 4 E)."""
        ops, params, wide = self.ops, self.params, 4 * self.sizes.units
        h, c, small_h, small_c = states
        seen = x[..., wide:] + ops.matmul(h, params["hyper_h_kernel"])
        small_h, small_c = self.small.step(seen, (small_h, small_c), noise)
        scale_x, scale_h, shift = (
            self._gates(small_h, name) for name in ("x_scale", "h_scale", "shift")
        )
        X, H = scale_x * x[..., :wide], scale_h * ops.matmul(h, params["recurrent_kernel"])
        return *self.large.lstm(X, H + shift + params["shift_bias"], c, noise), small_h, small_c

    def _gates(self, e: Array, name: str) -> Array:
        """A scale or shift of all gates (B, 4 H), each from an embedding of its own."""
        ops, bias = self.ops, self.params.get(f"{name}_embedding_bias")
        z = ops.matmul(e, self.params[f"{name}_embedding_kernel"])
        z = ops.fold(z if bias is None else z + bias, self.sizes.projection)
        kernel = ops.fold(self.params[f"{name}_kernel"], self.sizes.units)  # (P, 4, H)
        return ops.unfold(ops.einsum("...kp,pkn->...kn", z, kernel))


def double_projection(ops: Ops, relative: Relative, params: Mapping[str, Array]) -> Recurrence:
    """An LSTM whose matrices are products: of the joint projection's and that of the gates."""
    sizes_of(relative, params)
    products = {
        name: ops.matmul(params[joint], params["kernel"])
        for name, joint in (("kernel", "joint_kernel"), ("recurrent_kernel", "joint_h_kernel"))
    }
    return lstm(ops, relative.lstm, {**params, **products})


def lstm(ops: Ops, variant: Variant, params: Mapping[str, Array]) -> Recurrence:
    """The steps of an LSTM with some of these weights."""
    units = params["recurrent_kernel"].shape[-1] // 4
    return Recurrence(ops, variant, params, site_vectors(ops, variant, params, units))


STEPS: Mapping[str, Callable[[Ops, Relative, Mapping[str, Array]], Any]] = {
    "block_gru": BlockGRU,
    "atr": ATR,
    "lrn": LRN,
    "olrn": LRN,
    "sru": SRU,
    "sru_carry": SRUCarry,
    "gru_twice": GRUTwice,
    "hyper_lstm": HyperLSTM,
    "double_projection": double_projection,
}


def sequence(
    ops: Ops,
    relative: Relative,
    params: Mapping[str, Array],
    x: Array,
    states: States,
    **options: Any,
) -> tuple[Array, States]:
    """Run a relative over a sequence.

    Args:
        ops: a framework's operations.
        relative: the cell.
        params: its weights, see [lnrnn.relatives.weights][].
        x: inputs (T, B, I).
        states: as [Relative.states][lnrnn.relatives.Relative] names them, each (B, its width).
        **options: see [Course][lnrnn.engines.portable.sequence.Course]; relatives have no noise.

    Returns:
        Outputs (T, B, R), or the last (B, R), and the final states.
    """
    ops.count()
    return run(STEPS[relative.cell](ops, relative, params), x, states, Course(**options))


def step(
    ops: Ops, relative: Relative, params: Mapping[str, Array], x: Array, states: States
) -> States:
    """Run a relative for one step: x (B, I); h of the new states is the output."""
    ops.count()
    steps = STEPS[relative.cell](ops, relative, params)
    return steps.step(steps.inputs(x), tuple(states), Noise())
