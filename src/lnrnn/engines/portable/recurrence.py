"""One step of every cell, in a framework's own operations.

A `Recurrence` prepares, once per call, all that does not change over time: weights cut
into the runs of gates that a step computes together, and the additive constants of
each gate folded into the input projection or into the bias of a sum norm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from lnrnn.engines.portable.ops import Array, Ops, States
from lnrnn.engines.sites import Affine
from lnrnn.params import columns
from lnrnn.variant import Site, Variant

# beginnings of the names of vectors that a step uses itself, not as gain or shift of a site
_VECTORS = ("recurrent_scale", "bias_h", "pre_", "peephole", "cell_", "hidden_", "projection_bias")


class Noise(NamedTuple):
    """The regularisers of one step; None is off.

    Args:
        take_h: share of the new h that zoneout lets through, (B, R) or a number.
        take_c: share of the new c, (B, H) or a number.
        recurrent: factor on h where it enters the recurrent projection, (B, R).
        candidate: factor on the activated candidate, (B, H).
    """

    take_h: Array | float | None = None
    take_c: Array | float | None = None
    recurrent: Array | None = None
    candidate: Array | None = None


class GateNorm:
    """The norms of one site on a run of neighbouring gates; identity where there are none."""

    def __init__(
        self,
        ops: Ops,
        variant: Variant,
        site: Site,
        run: str,
        units: int,
        gain: Array | None,
        bias: Array | None,
    ) -> None:
        self.ops, self.variant, self.run, self.units = ops, variant, run, units
        norms = [n for n in variant.norms_at(site) if n.gates[0] in run]
        self.groups = ["".join(g for g in run if g in n.gates) for n in norms]
        self.gain, self.bias = gain, bias
        # one norm for each gate of the run: all of them in one call, gates as rows
        self.alone = len(self.groups) == len(run) > 1
        if self.alone:
            self.gain = None if gain is None else ops.fold(gain, units)
            self.bias = None if bias is None else ops.fold(bias, units)

    def __call__(self, v: Array) -> Array:
        """(..., g H) to (..., g H)."""
        if not self.groups:
            return v if self.bias is None else v + self.bias
        if self.groups == [self.run]:
            return self.ops.norm(v, self.gain, self.bias, self.variant)
        if self.alone:
            folded = self.ops.fold(v, self.units)
            return self.ops.unfold(self.ops.norm(folded, self.gain, self.bias, self.variant))
        return self._grouped(v)

    def _grouped(self, v: Array) -> Array:
        """Groups of any gates, which need not be neighbours or cover the run."""
        parts = {gate: v[..., columns(self.run, gate, self.units)] for gate in self.run}
        for group in self.groups:
            joined = self.ops.concat([parts[gate] for gate in group])
            normed = self.ops.norm(joined, None, None, self.variant)
            for gate in group:
                parts[gate] = normed[..., columns(group, gate, self.units)]
        v = self.ops.concat([parts[gate] for gate in self.run])
        v = v if self.gain is None else v * self.gain
        return v if self.bias is None else v + self.bias


class Recurrence:
    """The step of one variant with one set of weights.

    Args:
        ops: a framework's operations.
        variant: the cell.
        params: canonical weights, tensors of one dtype.
        sites: gains and shifts, as from [lnrnn.engines.sites.site_vectors][].
        functions: activations in place of those that the variant names, by the name of
            the variant's field.
        recurrent_gradient_clip: bound on the derivatives that return at each step.
        gates: their order in the weights and sites; empty for the canonical one.
    """

    def __init__(
        self,
        ops: Ops,
        variant: Variant,
        params: Mapping[str, Array],
        sites: Mapping[Site, Affine],
        functions: Mapping[str, Callable[[Array], Array]] | None = None,
        recurrent_gradient_clip: float | None = None,
        gates: str = "",
    ) -> None:
        self.ops, self.variant, self.params, self.sites = ops, variant, params, sites
        self.units = units_of(variant, params)
        self.gates = gates or variant.gates
        self.phi, self.sigma, self.psi = (
            (functions or {}).get(field) or ops.activation(getattr(variant, field))
            for field in ("activation", "recurrent_activation", "output_activation")
        )
        self.functions, self.limit = functions, recurrent_gradient_clip
        # the gates of a run are computed together, the last run from what came before
        self.runs = _runs(variant, self.gates)
        self.x_norm = self._norm("x", self.gates)
        self.sum_norms = {r: self._norm("sum", r) for r in self.runs}
        self.h_runs = self.runs if variant.reset == "before" else (self.gates,)
        self.h_norms = {r: self._norm("h", r) for r in self.h_runs}
        self.recurrent = {r: self._columns("recurrent_kernel", r) for r in self.h_runs}
        self.bias_h = {r: self._columns("bias_h", r) for r in self.h_runs}
        self.peephole = {
            g: params["peephole"][columns(variant.peephole_gates, g, self.units)]
            for g in variant.peephole_gates
        }

    def vectors(self) -> dict[str, Array]:
        """The weights of the steps that are vectors, for `with_vectors`."""
        found = {n: p for n, p in self.params.items() if n.startswith(_VECTORS) and p is not None}
        for site, affine in self.sites.items():
            found |= {f"{site} {n}": v for n, v in affine._asdict().items() if v is not None}
        return found

    def with_vectors(self, vectors: Mapping[str, Array]) -> Recurrence:
        """The same steps with other tensors for those weights."""
        params = {n: vectors.get(n, p) for n, p in self.params.items()}
        sites: dict[Site, Affine] = {
            site: Affine(vectors.get(f"{site} gain"), vectors.get(f"{site} shift"))
            for site in self.sites
        }
        return Recurrence(
            self.ops, self.variant, params, sites, self.functions, self.limit, self.gates
        )

    def inputs(self, x: Array) -> Array:
        """The part of a step that needs no state, for any leading axes: (..., I) to (..., G H)."""
        if self.variant.norms_at("pre"):
            return x
        return self.x_norm(project(self.ops, self.variant, self.params, x))

    def step(self, inputs: Array, states: States, noise: Noise) -> States:
        """The states after one step: `inputs` as from the method of that name."""
        # looked up here: kept, a bound method would hold this object in a cycle
        cell = getattr(self, f"_{self.variant.cell}")
        new = cell(inputs, self._clip_incoming(states), noise)
        takes = (noise.take_h, noise.take_c)
        return tuple(
            n if take is None else old + take * (n - old)
            for n, old, take in zip(new, states, takes, strict=False)
        )

    def _simple(self, inputs: Array, states: States, noise: Noise) -> States:
        X, H = self._projections(inputs, states[0], noise)
        return (self._hidden_norm(self.phi(self._sum(X, H))),)

    _indrnn = _simple

    def _ligru(self, inputs: Array, states: States, noise: Noise) -> States:
        (h,) = states
        P = self._sum(*self._projections(inputs, h, noise))
        z = self.sigma(self._gate(P, "z"))
        n = self._candidate(self._gate(P, "n"), noise)
        return (self._update(h, n, z),)

    def _gru(self, inputs: Array, states: States, noise: Noise) -> States:
        (h,) = states
        reset, units = self.variant.reset, self.units
        X, H = self._projections(inputs, h, noise)
        early = self._sum(X, H) if reset == "whole" else self._sum(X, H, self.runs[0])
        sigmoid = self.gates[:-1]  # r and z, or z for both
        both = self.sigma(early[..., : len(sigmoid) * units])
        z = self._gate(both, "z", sigmoid)
        r = z if self.variant.coupled else self._gate(both, "r", sigmoid)
        if reset == "whole":
            pre = r * self._gate(early, "n")
        else:
            if reset == "before":
                H_n = self._recurrent_projection(r * h, noise, "n")
            else:
                H_n = r * self._gate(H, "n")
            X_n = self._gate(X, "n")
            pre = self.sum_norms["n"](X_n + H_n)
        return (self._update(h, self._candidate(pre, noise), z),)

    def _lstm(self, inputs: Array, states: States, noise: Noise) -> States:
        h, c = states
        X, H = self._projections(inputs, h, noise)
        return self.lstm(X, H, c, noise)

    def lstm(self, X: Array, H: Array, c: Array, noise: Noise) -> States:
        """The new states of an LSTM from what its gates take of x and of h, (B, 4 H) each."""
        variant, units = self.variant, self.units
        run = self.runs[0]
        P = self._sum(X, H, run, self._peephole_inside(c, run))
        if variant.coupled:
            f = self.sigma(self._peephole_after(self._gate(P, "f", run), "f", c))
            i = 1 - f
        elif variant.peephole == "after":
            i, f = (self.sigma(self._peephole_after(self._gate(P, g, run), g, c)) for g in "if")
        else:
            both = self.sigma(P[..., : 2 * units])
            i, f = both[..., :units], both[..., units:]
        if variant.capped:
            i = i - self.ops.activation("relu")(i - (1 - f))
        g = self._candidate(self._gate(P, "g", run), noise)
        carried, shown = self._cell_norm(f * c + i * g)

        if variant.peephole == "inside":
            seen = self._peep("o", carried)
            o = self.sum_norms["o"](self._gate(X, "o") + self._gate(H, "o") + seen)
        else:
            o = self._gate(P, "o", run)
            if variant.peephole == "after" and variant.output_peephole == "gate":
                o = o + self._peep("o", carried)
        if variant.output_peephole == "cell":
            shown = shown + self._peep("o", carried)
        shown = self.psi(shown)
        if variant.cell_norm == "after_tanh":
            shown = self._state_norm(shown, "cell_norm")
        return self._output(self.sigma(o) * shown), carried

    def _projections(self, inputs: Array, h: Array, noise: Noise) -> tuple[Array, Array]:
        """X and H of a step, normed at their own sites; H of the gates that need no r."""
        if not self.variant.norms_at("pre"):
            return inputs, self._recurrent_projection(h, noise, self.h_runs[0])
        h = h if noise.recurrent is None else h * noise.recurrent
        normed = self._affine_norm(self.ops.concat([inputs, h]), "pre_norm")
        split = self.params["kernel"].shape[0]
        X = self.ops.matmul(normed[..., :split], self.params["kernel"])
        H = self.ops.matmul(normed[..., split:], self.params["recurrent_kernel"])
        return self.x_norm(self._clip_gradient(X)), self._clip_gradient(H)

    def _recurrent_projection(self, h: Array, noise: Noise, run: str) -> Array:
        h = h if noise.recurrent is None else h * noise.recurrent
        if self.variant.cell == "indrnn":
            product = h * self.params["recurrent_scale"]
        else:
            product = self.ops.matmul(h, self.recurrent[run])
        product = self._clip_gradient(product)
        bias = self.bias_h[run]
        return self.h_norms[run](product if bias is None else product + bias)

    def _sum(self, X: Array, H: Array, run: str = "", extra: Array | None = None) -> Array:
        """The pre-activations of a run of gates, sum norms and constants included."""
        run = run or self.gates
        if run != self.gates:
            X = X[..., : len(run) * self.units]
            H = H[..., : len(run) * self.units]
        total = X + H if extra is None else X + H + extra
        return self.sum_norms[run](total)

    def _candidate(self, pre: Array, noise: Noise) -> Array:
        n = self.phi(pre)
        return n if noise.candidate is None else n * noise.candidate

    def _update(self, h: Array, n: Array, z: Array) -> Array:
        new = n + z * (h - n) if self.variant.update == "keep" else h + z * (n - h)
        clip = self.variant.cell_clip
        return self._hidden_norm(new if clip is None else self.ops.clip(new, clip))

    def _cell_norm(self, c: Array) -> tuple[Array, Array]:
        """The cell that is carried and the one that the output sees."""
        variant = self.variant
        if variant.cell_clip is not None and variant.cell_clip_at == "before_norm":
            c = self.ops.clip(c, variant.cell_clip)
        carried = shown = c
        if variant.cell_norm in ("output", "carry", "carry_only"):
            normed = self._state_norm(c, "cell_norm")
            carried = c if variant.cell_norm == "output" else normed
            shown = c if variant.cell_norm == "carry_only" else normed
        if variant.cell_clip is not None and variant.cell_clip_at == "after_norm":
            carried = self.ops.clip(carried, variant.cell_clip)
            shown = self.ops.clip(shown, variant.cell_clip)
        if variant.cell_clip is not None and variant.cell_clip_at == "carried":
            carried = self.ops.clip(carried, variant.cell_clip)
        return carried, shown

    def _output(self, h: Array) -> Array:
        variant = self.variant
        if variant.projection:
            h = self.ops.matmul(h, self.params["projection_kernel"])
            if variant.projection_bias:
                h = h + self.params["projection_bias"]
            if variant.projection_clip is not None:
                h = self.ops.clip(h, variant.projection_clip)
        return self._hidden_norm(h)

    def _hidden_norm(self, h: Array) -> Array:
        return self._state_norm(h, "hidden_norm") if self.variant.hidden_norm else h

    def _clip_incoming(self, states: States) -> States:
        variant = self.variant
        if variant.hidden_clip is not None:
            states = (self.ops.clip(states[0], variant.hidden_clip), *states[1:])
        if variant.cell_clip is not None and variant.cell_clip_at == "incoming":
            states = (states[0], self.ops.clip(states[1], variant.cell_clip))
        return states

    def _peephole_after(self, P: Array, gate: str, c: Array) -> Array:
        return P + self._peep(gate, c) if self.variant.peephole == "after" else P

    def _peephole_inside(self, c: Array, run: str) -> Array | None:
        if self.variant.peephole != "inside":
            return None
        return self.ops.concat([self._peep(g, c) if g in self.peephole else 0 * c for g in run])

    def _affine_norm(self, v: Array, name: str) -> Array:
        params = self.params
        return self.ops.norm(
            v, params.get(f"{name}_gain"), params.get(f"{name}_bias"), self.variant
        )

    def _state_norm(self, v: Array, name: str) -> Array:
        """The norm of a new c or h."""
        return self._affine_norm(self._clip_gradient(v), name)

    def _peep(self, gate: str, c: Array) -> Array:
        return self._clip_gradient(self.peephole[gate] * c)

    def _clip_gradient(self, v: Array) -> Array:
        return v if self.limit is None else self.ops.clip_gradient(v, self.limit)

    def _gate(self, v: Array, gate: str, run: str = "") -> Array:
        return v[..., columns(run or self.gates, gate, self.units)]

    def _columns(self, name: str, run: str) -> Array | None:
        """The columns of a run of neighbouring gates; None where there is no such weight."""
        weight = self.params.get(name)
        if weight is None or run == self.gates:
            return weight
        start = self.gates.index(run[0]) * self.units
        return weight[..., start : start + len(run) * self.units]

    def _norm(self, site: Site, run: str) -> GateNorm:
        parts = []
        for vector in self.sites[site]:
            if vector is not None and run != self.gates:
                start = self.gates.index(run[0]) * self.units
                vector = vector[start : start + len(run) * self.units]
            parts.append(vector)
        return GateNorm(self.ops, self.variant, site, run, self.units, *parts)


def project(ops: Ops, variant: Variant, params: Mapping[str, Array], x: Array) -> Array:
    """The input projection with its inner bias, before its norm: (..., I) to (..., G H)."""
    projected = ops.matmul(x, params["kernel"])
    inner = inner_bias(variant, params)
    return projected if inner is None else projected + inner


def inner_bias(variant: Variant, params: Mapping[str, Array]) -> Array | None:
    """The bias (G H) of the input projection before its norm, or None."""
    return params.get("bias" if variant.tied_bias else "bias_x")


def units_of(variant: Variant, params: Mapping[str, Array]) -> int:
    """H, read off the recurrent weights."""
    name = "recurrent_scale" if variant.cell == "indrnn" else "recurrent_kernel"
    return params[name].shape[-1] // len(variant.gates)


def _runs(variant: Variant, gates: str) -> tuple[str, ...]:
    """The gates that are computed together, and those that need the first ones' result."""
    if variant.cell == "gru" and variant.reset != "whole":
        return gates[:-1], "n"
    if variant.peephole == "inside":
        return gates[:-1], "o"
    return (gates,)
