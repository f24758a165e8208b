"""A cell drawn from its `Variant`, as SVG.

Every gate is a lane that runs downwards: the input part on the left, the recurrent part on
the right, their sum below.  The states run from left to right under the lanes.  A box that
lies over several lanes is one norm with one mean and variance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import NamedTuple

from lnrnn.variant import Activation, Norm, Site, Variant

_TEXT, _SMALL = 14, 11  # sizes of the first and the second line of a box
_GLYPH = 0.62  # of its size: no common sans serif is wider on average
_PAD, _MARGIN, _GAP, _LANE_GAP = 8, 24, 20, 8
_SIGNS: dict[Activation, str] = {
    "tanh": "tanh",
    "sigmoid": "σ",
    "relu": "relu",
    "hard_sigmoid": "hard σ",
    "keras2_hard_sigmoid": "hard σ, 0.2",
    "linear": "linear",
}
# kind: fill and stroke on light, fill and stroke on dark
_COLOURS = {
    "state": ("#ffffff", "#333333", "#1b1d24", "#d8dae2"),
    "norm": ("#ffe9a8", "#a87500", "#5a4300", "#f0c24b"),
    "step": ("#f1f2f5", "#7a7f8c", "#2e323d", "#9aa0b0"),
    "clip": ("#ffffff", "#b3261e", "#1b1d24", "#ff8a80"),
    "peephole": ("#f6e3f1", "#9c3f80", "#4b2340", "#e79acb"),
    "i": ("#d6e8f7", "#0072b2", "#123a56", "#6bb8ec"),
    "f": ("#fde3c8", "#b85c00", "#573008", "#ffa657"),
    "g": ("#d2f0e5", "#00805c", "#0b4535", "#4fd0a5"),
    "n": ("#d2f0e5", "#00805c", "#0b4535", "#4fd0a5"),
    "o": ("#e5def7", "#5e3fbe", "#35266b", "#b39cf5"),
    "r": ("#fde3c8", "#b85c00", "#573008", "#ffa657"),
    "z": ("#d6e8f7", "#0072b2", "#123a56", "#6bb8ec"),
}


class Label(NamedTuple):
    """What a box says: its kind, a line, and a smaller line below it or nothing."""

    kind: str
    text: str
    below: str = ""

    @property
    def width(self) -> float:
        """An upper bound for the width of its text."""
        plain = self.text.replace("_", "")
        return _GLYPH * max(_TEXT * len(plain), _SMALL * len(self.below))

    @property
    def height(self) -> int:
        """Of the box around it."""
        return 44 if self.below else 30


@dataclass(frozen=True)
class Box:
    """A label in its place."""

    label: Label
    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    @property
    def level(self) -> float:
        return self.y + self.height / 2


@dataclass(frozen=True)
class Layout:
    """Boxes, wires (corners, and whether an arrow ends them), notes below, and the size."""

    boxes: tuple[Box, ...]
    wires: tuple[tuple[tuple[tuple[float, float], ...], bool], ...]
    notes: tuple[str, ...]
    width: float
    height: float


# a row of lanes: the gates that a box lies over, and its label
Row = list[tuple[str, Label]]


def draw(variant: Variant | str) -> str:
    """A drawing of a cell, as SVG.

    Shows the products, the norms with the gates that share them, biases, peepholes, bounds,
    activations, and the way of the states; all of it is read from the variant.

    Args:
        variant: a variant, or the name of a dialect.

    Returns:
        The text of an SVG file, for light and dark backgrounds; the same for the same variant.

    Raises:
        ValueError: there is no dialect of that name.

    Example:
        >>> draw("haste_lnlstm").startswith("<svg")
        True

    Source: the equations of [lnrnn.Variant][].
    """
    title = variant if isinstance(variant, str) else variant.cell
    if isinstance(variant, str):
        from lnrnn import dialects

        variant = dialects.get(variant).variant
    return _svg(layout(variant), title)


def layout(variant: Variant) -> Layout:
    """Where everything of a drawing lies."""
    gates = variant.gates
    inputs, recurrent, total = _input_rows(variant), _recurrent_rows(variant), _sum_rows(variant)
    singles = [la for rows in (inputs, recurrent, total) for row in rows for g, la in row if g]
    lane = max(46.0, *(la.width + 2 * _PAD for la in singles)) + _LANE_GAP
    panel = lane * len(gates)
    chains = _chains(variant)
    widest = max(_chain_width(chain) for chain in chains) + _GAP
    span = 2 * panel + 2 * _GAP
    width = max(span, widest, 420) + 2 * _MARGIN
    left = (width - span) / 2
    right = left + panel + 2 * _GAP

    boxes: list[Box] = []
    wires: list[tuple[tuple[tuple[float, float], ...], bool]] = []

    def place(label: Label, x: float, y: float, wide: float) -> Box:
        boxes.append(Box(label, x, y, wide, label.height))
        return boxes[-1]

    def down(x: float, start: float, end: float) -> None:
        wires.append((((x, start), (x, end)), True))

    def lanes(rows: Sequence[Row], x: float, y: float) -> float:
        """Rows of boxes over the lanes that begin at x; the y below them."""
        for row in rows:
            if not row:
                continue
            for over, label in row:
                first, last = gates.index(over[0]), gates.index(over[-1])
                wide = (last - first + 1) * lane - _LANE_GAP
                place(label, x + first * lane + _LANE_GAP / 2, y, wide)
            y += max(label.height for _, label in row) + _GAP
        return y

    def threads(x: float, start: float, end: float) -> None:
        for k in range(len(gates)):
            down(x + (k + 0.5) * lane, start, end)

    # the inputs, and a norm or a bound before the products
    y = float(_MARGIN + 34)
    tops = {left: Label("state", "x(t)"), right: Label("state", "h(t−1)")}
    for x, label in tops.items():
        wide = label.width + 2 * _PAD
        place(label, x + (panel - wide) / 2, y, wide)
    y += 30 + _GAP
    starts = {x: y - _GAP for x in tops}
    if variant.hidden_clip is not None:
        label = _bound(variant.hidden_clip)
        wide = label.width + 2 * _PAD
        box = place(label, right + (panel - wide) / 2, y, wide)
        down(box.middle, starts[right], y)
        y += 30 + _GAP
        starts[right] = y - _GAP
    for norm in variant.norms_at("pre"):
        label = _norm(variant, norm, of=" of [x, h]")
        place(label, left, y, span)
        for x in tops:
            down(x + panel / 2, starts[x], y)
        y += label.height + _GAP
        starts = {x: y - _GAP for x in tops}
    for x in tops:
        down(x + panel / 2, starts[x], y)
        wires.append((((x + lane / 2, y), (x + panel - lane / 2, y)), False))

    # lanes of both parts, their sum, lanes of the sum
    top = y
    y += _GAP
    y = max(lanes(inputs, left, y), lanes(recurrent, right, y))
    threads(left, top, y)
    threads(right, top, y)
    bar = place(Label("step", "+"), left, y, span)
    top = y + bar.height
    below = left + (span - panel) / 2
    y = lanes(total, below, top + _GAP)
    threads(below, top, y - _GAP - 30)

    # the states
    y += _GAP
    branch: tuple[float, float] | None = None
    for chain in chains:
        x = (width - _chain_width(chain)) / 2
        level, before = y + 22, None
        if branch is not None:
            turn = y - _GAP / 2
            corners = (branch, (branch[0], turn), (x - _GAP, turn), (x - _GAP, level), (x, level))
            wires.append((corners, True))
        for label in chain:
            if label.kind == "branch":
                assert before is not None
                branch = (before.x + before.width + _GAP / 2, level)
                continue
            wide = label.width + 2 * _PAD
            box = place(label, x, level - label.height / 2, wide)
            if before is not None:
                wires.append((((before.x + before.width, level), (x, level)), True))
            before, x = box, x + wide + _GAP
        y += 44 + _GAP

    notes = tuple(_wrapped(_notes(variant), width - 2 * _MARGIN))
    return Layout(tuple(boxes), tuple(wires), notes, width, y + 18 * len(notes) + _MARGIN / 2)


# ---- what is there


def _each(gates: str, kind: str, text: str, names: bool = False) -> Row:
    """The same box in every lane named."""
    return [(g, Label(g if names else kind, f"{text}_{g}" if names else text)) for g in gates]


def _norm(variant: Variant, norm: Norm, of: str = "") -> Label:
    return _normalise(variant, norm.gain, norm.bias, of)


def _normalise(variant: Variant, gain: bool, bias: bool, of: str = "") -> Label:
    weights = ", ".join(["γ"] * gain + ["β"] * bias)
    return Label("norm", ("LN" if variant.norm == "layer" else "RMS") + of, weights or "no γ, β")


def _norms(variant: Variant, site: Site) -> Row:
    """The norms at a site; one whose gates do not lie side by side says which they are."""
    row: Row = []
    for norm in variant.norms_at(site):
        places = [variant.gates.index(g) for g in norm.gates]
        runs = [
            "".join(variant.gates[p] for _, p in run)
            for _, run in groupby(enumerate(places), lambda pair: pair[1] - pair[0])
        ]
        of = f" {norm.gates}" if len(runs) > 1 else ""
        row += [(run, _norm(variant, norm, of)) for run in runs]
    return row


def _reset(variant: Variant, when: str) -> Row:
    """The reset gate's product, in the lane of the candidate."""
    if variant.cell != "gru" or variant.reset != when:
        return []
    gate = "z" if variant.coupled else "r"
    return [("n", Label(gate, f"× {gate}"))]


def _bound(bound: float) -> Label:
    return Label("clip", f"clip ±{bound:g}")


def _plus(constant: float) -> str:
    return f"{'+' if constant >= 0 else '−'} {abs(constant):g}"


def _input_rows(variant: Variant) -> list[Row]:
    gates = variant.gates
    inner = "+ b_x" if variant.bias_x else "+ b" if variant.tied_bias else ""
    bias = _each(gates, "step", inner) if inner else []
    return [_each(gates, "", "W", names=True), bias, _norms(variant, "x")]


def _recurrent_rows(variant: Variant) -> list[Row]:
    gates = variant.gates
    product = _each(gates, "", "U", names=True)
    if variant.cell == "indrnn":
        product = [("n", Label("n", "u ⊙"))]
    return [
        _reset(variant, "before"),
        product,
        _each(gates, "step", "+ b_h") if variant.bias_h else [],
        _norms(variant, "h"),
        _reset(variant, "after") + _reset(variant, "inside"),
    ]


def _sum_rows(variant: Variant) -> list[Row]:
    gates, sigma = variant.gates, _SIGNS[variant.recurrent_activation]
    in_gate = variant.peephole_gates
    if variant.output_peephole == "cell":
        in_gate = in_gate.replace("o", "")
    cells = {g: "c(t)" if g == "o" else "c(t−1)" for g in in_gate}
    peepholes: Row = [(g, Label("peephole", f"+ w_{g} {c}")) for g, c in cells.items()]
    constants = {"f": variant.forget_bias, "z": variant.update_bias}
    activations = {g: _SIGNS[variant.activation] if g in "gn" else sigma for g in gates}
    return [
        peepholes if variant.peephole == "inside" else [],
        _norms(variant, "sum"),
        _each(gates, "step", "+ b") if variant.bias else [],
        _reset(variant, "whole"),
        peepholes if variant.peephole == "after" else [],
        [(g, Label("step", _plus(v))) for g, v in constants.items() if g in gates and v],
        [(g, Label("step", sign)) for g, sign in activations.items()],
        [("i", Label("clip", "≤ 1 − f"))] if variant.capped else [],
        [(g, Label(g, g)) for g in gates],
    ]


def _chains(variant: Variant) -> list[list[Label]]:
    """The ways of the states; `branch` is where the output leaves the way of the cell."""
    hidden = [_normalise(variant, True, True)] if variant.hidden_norm else []
    end = [*hidden, Label("state", "h(t)")]
    if variant.cell == "lstm":
        return _lstm_chains(variant, end)
    if variant.cell in ("simple", "indrnn"):
        return [[Label("n", "n"), *end]]
    keep, new = ("z", "(1 − z)") if variant.update == "keep" else ("(1 − z)", "z")
    bound = [_bound(variant.cell_clip)] if variant.cell_clip is not None else []
    start = [Label("state", "h(t−1)"), Label("z", f"× {keep}"), Label("n", f"+ {new} n")]
    return [[*start, *bound, *end]]


def _lstm_chains(variant: Variant, end: list[Label]) -> list[list[Label]]:
    def clip(place: str) -> list[Label]:
        here = variant.cell_clip is not None and variant.cell_clip_at == place
        return [_bound(variant.cell_clip)] if here and variant.cell_clip is not None else []

    def norm(place: str) -> list[Label]:
        here = variant.cell_norm == place
        return [_normalise(variant, variant.cell_norm_gain, variant.cell_norm_bias)] if here else []

    in_cell = variant.peephole != "none" and variant.output_peephole == "cell"
    projection = Label("step", "W_p", "+ b" if variant.projection_bias else "")
    shrink = variant.projection_clip
    cell = [
        Label("state", "c(t−1)"),
        *clip("incoming"),
        Label("f", "× f"),
        Label("i", "+ (1 − f) g" if variant.coupled else "+ i g"),
        *clip("before_norm"),
        *norm("carry"),
        *clip("after_norm"),
        Label("branch", ""),
        *norm("carry_only"),
        *clip("carried"),
        Label("state", "c(t)"),
    ]
    output = [
        *norm("output"),
        *([Label("peephole", "+ w_o c(t)")] if in_cell else []),
        Label("step", _SIGNS[variant.output_activation]),
        *norm("after_tanh"),
        Label("o", "× o"),
        *([projection] if variant.projection else []),
        *([_bound(shrink)] if shrink is not None else []),
        *end,
    ]
    return [cell, output]


def _notes(variant: Variant) -> str:
    gates = "W, U: one product each, with a block of columns for each gate."
    if variant.cell == "indrnn":
        gates = "W: a product; u ⊙: unit by unit."
    if not (variant.norms or variant.hidden_norm or variant.cell_norm != "none"):
        return gates
    layer = variant.norm == "layer"
    what = "the variance" if layer else "the mean square"
    if variant.epsilon_at == "deviation":
        what = "the standard deviation" if layer else "the root mean square"
    name = "LN: one mean and variance" if layer else "RMS: one root mean square"
    parts = [gates, f"{name} over all lanes under the box; ε = {variant.epsilon:g} added to {what}"]
    parts += ["squares divided by n − 1"] * variant.ddof
    return ", ".join([" ".join(parts[:2]), *parts[2:]]) + ". γ: gain; β: bias."


# ---- how it is written


def _chain_width(chain: Sequence[Label]) -> float:
    shown = [label for label in chain if label.kind != "branch"]
    return sum(label.width + 2 * _PAD + _GAP for label in shown) - _GAP


def _wrapped(text: str, width: float) -> Iterator[str]:
    """Lines of at most a width."""
    line = ""
    for word in text.split():
        if line and len(f"{line} {word}") * _GLYPH * _SMALL > width:
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    yield line


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _svg(drawn: Layout, title: str) -> str:
    width, height = _number(drawn.width), _number(drawn.height)
    said = "; ".join(" ".join(filter(None, box.label[1:])).replace("_", " ") for box in drawn.boxes)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-labelledby="title desc">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="desc">{escape(said)}. {escape(" ".join(drawn.notes))}</desc>',
        f"<style>{_style()}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>',
        f'<rect class="page" width="{width}" height="{height}" rx="8"/>',
        f'<text class="title" x="{_MARGIN}" y="{_MARGIN + 12}">{escape(title)}</text>',
    ]
    for corners, arrow in drawn.wires:
        points = " ".join(f"{_number(x)},{_number(y)}" for x, y in corners)
        tip = ' marker-end="url(#tip)"' if arrow else ""
        lines.append(f'<polyline points="{points}"{tip}/>')
    for box in drawn.boxes:
        lines += _box(box)
    for k, note in enumerate(drawn.notes):
        y = drawn.height - _MARGIN / 2 - 18 * (len(drawn.notes) - k - 1) - 6
        lines.append(f'<text class="note" x="{_MARGIN}" y="{_number(y)}">{escape(note)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _box(box: Box) -> list[str]:
    label, middle = box.label, _number(box.middle)
    radius = 15 if label.kind == "state" else 5
    first = box.level + (-3 if label.below else 5)
    lines = [
        f'<rect class="{label.kind}" x="{_number(box.x)}" y="{_number(box.y)}" '
        f'width="{_number(box.width)}" height="{_number(box.height)}" rx="{radius}"/>',
        f'<text x="{middle}" y="{_number(first)}">{_lowered(label.text)}</text>',
    ]
    if label.below:
        y = _number(box.level + 14)
        lines.append(f'<text class="below" x="{middle}" y="{y}">{escape(label.below)}</text>')
    return lines


def _lowered(text: str) -> str:
    """A letter after an underscore is a subscript."""
    first, *rest = text.split("_")
    parts = [escape(first)]
    for part in rest:
        parts.append(f'<tspan class="below" dy="4">{escape(part[0])}</tspan>')
        if part[1:]:
            parts.append(f'<tspan dy="-4">{escape(part[1:])}</tspan>')
    return "".join(parts)


def _style() -> str:
    light = "".join(
        f".{k}{{fill:{fill};stroke:{stroke}}}" for k, (fill, stroke, *_) in _COLOURS.items()
    )
    dark = "".join(
        f".{k}{{fill:{fill};stroke:{stroke}}}" for k, (*_, fill, stroke) in _COLOURS.items()
    )
    return (
        f"text{{font:{_TEXT}px system-ui,'DejaVu Sans',sans-serif;text-anchor:middle;fill:#111}}"
        f".below,.note{{font-size:{_SMALL}px}}.title,.note{{text-anchor:start}}"
        ".title{font-size:16px;font-weight:600}"
        "polyline{fill:none;stroke:#666;stroke-width:1.4}marker path{fill:#666}"
        f".page{{fill:#fff}}{light}"
        "@media (prefers-color-scheme:dark){text{fill:#f2f3f7}polyline{stroke:#a4a9b6}"
        f"marker path{{fill:#a4a9b6}}.page{{fill:#16181e}}{dark}}}"
    )
