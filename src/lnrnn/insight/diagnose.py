"""Findings: what the numbers of a trace say, in sentences with a place and a cure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lnrnn.frontends import advice
from lnrnn.insight.reach import forget_times, gradient_by_distance, kept_shares
from lnrnn.insight.trace import LayerTrace, Trace, trace
from lnrnn.params import sizes_of

Array = np.ndarray[Any, Any]

# what counts as a finding, each number once
EXPLODES = 1e6  # of a gradient on its way back, over the one that it began with
VANISHES = 1e-6
EARLY = 10  # steps: a gradient that vanishes within them reaches nothing
SATURATED = 0.01  # from the ends of a sigmoid
MOST = 0.8  # of all values
DEAD = 1e-6  # range of a unit over all steps
DEAD_SHARE = 0.05  # of the units
SHORT = 1.0  # steps of forget time
RESCALED = 2.0  # of a carried cell, at each step
SCALES = 10.0  # between the 5th and the 95th percentile of the norms of inputs
PADDED = 0.05  # of all steps
DEPARTS = 0.1  # of the outputs from the definition
LONG = 20  # steps from which time scales mean something


@dataclass(frozen=True)
class Finding:
    """One thing that the numbers show.

    Args:
        rank: 0 is the most serious.
        place: the layer, and the step and norm where there is one.
        number: what was measured.
        sentence: what it is, with the number.
        cure: what to do.
        page: of the documentation.
    """

    rank: int
    place: str
    number: float
    sentence: str
    cure: str
    page: str

    def __str__(self) -> str:
        return f"{self.place}: {self.sentence} {self.cure} (docs: {self.page})"


@dataclass(frozen=True)
class Diagnosis:
    """What [lnrnn.diagnose][lnrnn.insight.diagnose.diagnose] returns; printed it is the report.

    Args:
        findings: the most serious first.
        trace: in which they were found.
        summary: one line on time scales.
    """

    findings: tuple[Finding, ...]
    trace: Trace
    summary: str

    def __str__(self) -> str:
        if not self.findings:
            return f"Nothing found. {self.summary}"
        return "\n".join([*map(str, self.findings), self.summary])


def diagnose(
    target: Any, *inputs: Any, loss: Callable[[Any], Any] | None = None, **keywords: Any
) -> Diagnosis:
    """Say what is wrong inside the layers of a model, from one batch.

    Args:
        target: as of [lnrnn.trace][lnrnn.insight.trace.trace], or a trace.
        inputs: its positional arguments.
        loss: from what it returns to a scalar; without one the gradients of final states are
            looked at.
        keywords: its other arguments.

    Returns:
        The findings, the most serious first, each with its place, its number and a cure.

    Raises:
        ValueError: as `trace`.

    Example:
        >>> import torch
        >>> from lnrnn.torch import LayerNormLSTM
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...>
        >>> diagnose(LayerNormLSTM(8, 16), torch.randn(30, 4, 8)).findings
        ()
    """
    found = target if isinstance(target, Trace) else None
    if found is None:
        found = trace(target, *inputs, loss=loss, **keywords)
    findings = [
        finding
        for index, (path, layer) in enumerate(found.items())
        for rule in (*RULES, *(OF_INPUTS if index == 0 else ()))
        for finding in rule(path, layer)
    ]
    if found.loss is not None and not np.isfinite(found.loss):
        findings = _with_loss(findings, found.loss)
    ordered = sorted(findings, key=lambda f: f.rank)
    return Diagnosis(tuple(ordered), found, _summary(found))


# ---- rules: each yields findings of one layer


def not_finite(path: str, layer: LayerTrace) -> Iterator[Finding]:
    """Values that are no numbers, at their first step."""
    for name in ("x", "h", "dh"):
        if name not in layer:
            continue
        bad = ~np.isfinite(layer[name]).all(-1) & layer.mask
        if bad.any():
            steps = np.flatnonzero(bad.any(1))
            step = int(steps[-1] if name == "dh" else steps[0])
            what = {"x": "the input", "h": "the state", "dh": "the gradient of the state"}[name]
            cure = {
                "x": "Look at the data, or at the layers before this one.",
                "h": "Look at the weights for values that are no numbers.",
                "dh": "The findings below say where it grows.",
            }[name]
            share = float(bad.mean())
            yield Finding(
                0 if name != "dh" else 1,
                f"{path}, step {step}",
                share,
                f"{what} is not finite in {share:.0%} of the steps, "
                f"{'the last' if name == 'dh' else 'the first'} of them this one.",
                cure,
                "diagnosis",
            )
            return


def near_epsilon(path: str, layer: LayerTrace) -> Iterator[Finding]:
    """Norms on the way of the recurrence that divide by their epsilon, step after step."""
    variant = layer.variant
    floor = variant.epsilon if variant.epsilon_at == "variance" else variant.epsilon**2
    factor = variant.epsilon ** (-0.5 if variant.epsilon_at == "variance" else -1)
    worst: tuple[int, str, int, float] | None = None
    for norm in layer.norms:
        if norm.startswith("x_norm"):  # nothing returns through it
            continue
        low = (layer[f"{norm}.variance"][..., 0] <= floor) & layer.mask  # (T,B)
        length, first = _longest(low)
        if length >= 2 and (worst is None or length > worst[0]):
            least = float(layer[f"{norm}.variance"][..., 0][low].min())
            worst = length, norm, first, least
    if worst is None:
        return
    length, norm, first, least = worst
    quiet = not np.any(layer["x"][first : first + length])
    zero = [n for n in layer.params if n.endswith("bias") or n in ("bias_x", "bias_h")]
    zero = bool(zero) and not any(np.any(layer.params[n]) for n in zero)
    yield Finding(
        2,
        f"{path}, steps {first} to {first + length - 1}, {norm}",
        float(length),
        f"the variance stays below epsilon ({least:.1e} <= {floor:.0e}) for {length} steps in a "
        f"row{', where the input is zero' if quiet else ''}: each multiplies gradients by up to "
        f"{factor:.0f}.",
        (
            "All biases are zero: start them with noise, as the default does, or use "
            "learn_initial_state=True."
            if zero
            else "Use learn_initial_state=True, start biases with noise, or set "
            "recurrent_gradient_clip."
        ),
        "zero-prefixes",
    )


def growth(path: str, layer: LayerTrace) -> Iterator[Finding]:
    """Gradients that explode on their way back, or vanish within a few steps."""
    ratios = gradient_by_distance(layer)
    steps = len(ratios)
    with np.errstate(all="ignore"):
        largest = np.where(np.isfinite(ratios), ratios, np.inf).max(1)
        typical = np.median(ratios, axis=1)
    beyond = np.flatnonzero(largest > EXPLODES)
    if len(beyond):
        distance = int(beyond[0])
        rate = largest[distance] ** (1 / max(distance, 1)) if np.isfinite(largest[distance]) else 0
        yield Finding(
            1,
            f"{path}, step {steps - 1 - distance}",
            float(largest[distance]),
            f"a gradient of the last state is {largest[distance]:.0e} times as large {distance} "
            f"steps before it{f', {rate:.3g} times at each' if rate else ''}.",
            "Set recurrent_gradient_clip, and clip the gradients of the optimizer.",
            "zero-prefixes",
        )
    below = np.flatnonzero(typical < VANISHES)
    if len(below) and below[0] <= EARLY and steps >= LONG:
        distance = int(below[0])
        yield Finding(
            4,
            f"{path}, step {steps - 1 - distance}",
            float(distance),
            f"a gradient of the last state falls below {VANISHES:.0e} of it within {distance} of "
            f"{steps} steps.",
            f"{_keeping(layer)}, or raise the gains of recurrent norms.",
            "choosing",
        )


def _keeping(layer: LayerTrace) -> str:
    """What makes the cell of a layer keep its state."""
    if "f" in layer:
        return "Start the bias of the forget gate at one"
    if "z" in layer:
        start = "one" if layer.variant.update == "keep" else "minus one"
        return f"Start the bias of the update gate at {start}"
    return "Use an LSTM or a GRU, whose gates keep the state"


def short_memory(path: str, layer: LayerTrace) -> Iterator[Finding]:
    """Units that forget within a step."""
    times = forget_times(layer)
    if times is None or len(layer.mask) < LONG:
        return
    if np.median(times) < SHORT:
        gate = "f" if "f" in layer else "z"
        shares = kept_shares(layer)
        mean = float(np.asarray(shares)[layer.mask].mean())
        yield Finding(
            3,
            f"{path}, gate {gate}",
            float(np.median(times)),
            f"half of the units forget within {np.median(times):.2g} steps of {len(layer.mask)}, "
            f"as the gate keeps {mean:.1%} of the state on average.",
            f"{_keeping(layer)}.",
            "choosing",
        )


def saturated(path: str, layer: LayerTrace) -> Iterator[Finding]:
    """Gates that stand at an end nearly always."""
    if layer.variant.recurrent_activation == "linear":
        return
    kept = {"f": "f", "z": "z"}
    for gate in "iorz":
        if gate not in layer or (gate == "i" and layer.variant.coupled):
            continue
        values = layer[gate][layer.mask]
        if not values.size:
            continue
        low, high = float((values < SATURATED).mean()), float((values > 1 - SATURATED).mean())
        share, end = max((low, "shut"), (high, "open"))
        # an update gate that keeps everything is a memory
        keeps = gate in kept and (end == "open") == (layer.variant.update == "keep")
        if share > MOST and not keeps:
            yield Finding(
                5,
                f"{path}, gate {gate}",
                share,
                f"{share:.0%} of its values are within {SATURATED} of {end}, where nothing is "
                "learned.",
                "Scale the inputs, lower the gains of the norms, or look at its bias.",
                "choosing",
            )


def dead_units(path: str, layer: LayerTrace) -> Iterator[Finding]:
    """Units that never change."""
    values = layer["h"][layer.mask]
    if not len(values) or len(layer.mask) < 2 or not np.isfinite(values).all():
        return
    still = (values.max(0) - values.min(0)) < DEAD
    if still.mean() > DEAD_SHARE:
        yield Finding(
            5,
            path,
            float(still.mean()),
            f"{int(still.sum())} of {still.size} units of h are the same at all steps.",
            "Lower the learning rate, or use tanh where relu is; see gains and biases of these.",
            "choosing",
        )


def rescaled_cell(path: str, layer: LayerTrace) -> Iterator[Finding]:
    """A norm of the carried cell that multiplies it at every step."""
    if layer.variant.cell_norm not in ("carry", "carry_only"):
        return
    gain = np.abs(layer.params.get("cell_norm_gain", np.ones(1)))
    factor = float(np.median(gain) / np.median(layer["cell_norm.scale"][layer.mask]))
    if not 1 / RESCALED < factor < RESCALED:
        yield Finding(
            6,
            f"{path}, cell_norm",
            factor,
            f"the norm of the carried cell multiplies it by {factor:.2g} at each step, whatever "
            "the forget gate says.",
            "Use a variant that norms the cell on its way out only (cell_norm='output').",
            "choosing",
        )


def zero_gains(path: str, layer: LayerTrace) -> Iterator[Finding]:
    """Norms whose gains are all zero."""
    gains = {n: v for n, v in layer.params.items() if n.endswith("_norm_gain")}
    sentence = advice.about_gains(gains)
    if sentence is not None:
        yield _advised(3, path, 0.0, sentence, "choosing")


def of_one_number(path: str, layer: LayerTrace) -> Iterator[Finding]:
    """One feature or one unit under a norm."""
    sizes = sizes_of(layer.variant, layer.params)
    for sentence in (
        *advice.about_inputs(layer.variant, sizes),
        *advice.about_units(layer.variant, sizes),
    ):
        yield _advised(2, path, 1.0, sentence, "choosing")


def departs(path: str, layer: LayerTrace) -> Iterator[Finding]:
    """Outputs that are not those of the definition."""
    if layer.difference > DEPARTS * max(1.0, float(np.abs(layer["y"]).max(initial=0.0))):
        yield Finding(
            1,
            path,
            layer.difference,
            f"the layer's outputs depart from the definition by {layer.difference:.2g}.",
            "Try dtype='float32' and engine='portable'; if it stays, please report it.",
            "engines",
        )


RULES = (
    not_finite,
    near_epsilon,
    growth,
    short_memory,
    saturated,
    dead_units,
    rescaled_cell,
    zero_gains,
    of_one_number,
    departs,
)


def padding(path: str, layer: LayerTrace) -> Iterator[Finding]:
    """Sequences that end in zeros, of different lengths, without a mask."""
    if not layer.mask.all():
        return
    zero = ~np.any(layer["x"] != 0, axis=-1)  # (T,B)
    trailing = np.cumprod(zero[::-1], axis=0).sum(0)
    leading = np.cumprod(zero, axis=0).sum(0)
    for counts, side in ((trailing, "end"), (leading, "begin")):
        counts = np.where(counts < len(zero), counts, 0)
        share = float(counts.sum() / zero.size)
        if share > PADDED and len(set(counts.tolist())) > 1 and (counts == 0).any():
            yield Finding(
                4 if side == "end" else 5,
                path,
                share,
                f"{int((counts > 0).sum())} of {len(counts)} sequences {side} with zeros, up to "
                f"{int(counts.max())} steps, and there is no mask.",
                "Pass a mask (a Masking layer in Keras, lengths= in PyTorch and JAX).",
                "masks-and-states",
            )
            return


def scale_of_inputs(path: str, layer: LayerTrace) -> Iterator[Finding]:
    """Inputs whose size says something that a norm takes away."""
    if not layer.variant.norms_at("x") or layer["x"].shape[-1] == 1:
        return
    norms = np.linalg.norm(layer["x"][layer.mask], axis=-1)
    norms = norms[norms > 0]
    if not norms.size:
        return
    low, high = np.percentile(norms, [5, 95])
    if high > SCALES * low:
        yield Finding(
            6,
            path,
            float(high / low),
            f"the size of the inputs differs {high / low:.0f} times between steps, which the norm "
            "of the input projection takes away.",
            "Use a variant that norms the sum, or scale the inputs (their logarithm, for example).",
            "choosing",
        )


OF_INPUTS = (padding, scale_of_inputs)


# ---- helpers


def _advised(rank: int, place: str, number: float, sentence: str, page: str) -> Finding:
    rule, _, cure = sentence.partition(": ") if ": " in sentence else sentence.partition("; ")
    return Finding(rank, place, number, f"{rule}.", f"{cure[:1].upper()}{cure[1:]}", page)


def _longest(low: Array) -> tuple[int, int]:
    """The longest run of True down the columns (T, B), and where it begins."""
    best, begin, lengths = 0, 0, np.zeros(low.shape[1], int)
    for t, row in enumerate(low):
        lengths = np.where(row, lengths + 1, 0)
        if lengths.max(initial=0) > best:
            best = int(lengths.max())
            begin = t - best + 1
    return best, begin


def _with_loss(findings: list[Finding], loss: float) -> list[Finding]:
    """A loss that is no number, where nothing else says why."""
    if findings:
        return findings
    sentence = f"the loss is {loss}, and all values inside the layers are finite."
    return [Finding(0, "loss", loss, sentence, "Look at what follows the layers.", "diagnosis")]


def _summary(found: Trace) -> str:
    """One line on time scales, of the layer whose gradients reach least far."""
    lines = []
    for path, layer in found.items():
        typical = np.median(gradient_by_distance(layer), axis=1)
        below = np.flatnonzero(typical < VANISHES)
        steps = len(typical)
        reach = f"{int(below[0])} of {steps}" if len(below) else f"all {steps}"
        times = forget_times(layer)
        memory = "" if times is None else f", units forget within {np.median(times):.2g}"
        lines.append((int(below[0]) if len(below) else steps, f"{path}: {reach} steps{memory}"))
    shown = [line for _, line in sorted(lines)[:1]]
    rest = f" (the least of {len(lines)} layers)" if len(lines) > 1 else ""
    return f"Gradients reach back, {'; '.join(shown)}{rest}."
