"""The figures of the pages, as SVG: of what they show where it is computed, or of boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lnrnn import dialects, params, reference

Array = NDArray[np.float64]
_STYLE = (
    "text{font:14px system-ui,'DejaVu Sans',sans-serif;fill:#111}.small{font-size:12px}"
    ".big{font-size:16px;font-weight:600}.mid{text-anchor:middle}.end{text-anchor:end}"
    ".page{fill:#fff}.box{fill:#f1f2f5;stroke:#7a7f8c}.norm{fill:#ffe9a8;stroke:#a87500}"
    ".cell{fill:#d6e8f7;stroke:#0072b2}.line{fill:none;stroke:#666;stroke-width:1.5}"
    ".tip{fill:#666}.grid{stroke:#ddd}.curve{fill:none;stroke-width:2.4}"
    ".c0{stroke:#b3261e}.c1{stroke:#b85c00}.c2{stroke:#00805c}.c3{stroke:#0072b2}"
    "@media (prefers-color-scheme:dark){text{fill:#f2f3f7}.page{fill:#16181e}"
    ".box{fill:#2e323d;stroke:#9aa0b0}.norm{fill:#5a4300;stroke:#f0c24b}"
    ".cell{fill:#123a56;stroke:#6bb8ec}.line{stroke:#a4a9b6}.tip{fill:#a4a9b6}"
    ".grid{stroke:#3a3e49}"
    ".c0{stroke:#ff8a80}.c1{stroke:#ffa657}.c2{stroke:#4fd0a5}.c3{stroke:#6bb8ec}}"
)


class Box(NamedTuple):
    """A box with lines of text in its middle."""

    x: float
    y: float
    width: float
    height: float
    text: str
    kind: str = "box"

    def svg(self) -> str:
        lines = self.text.split("\n")
        top = self.y + self.height / 2 + 5 - 9 * (len(lines) - 1)
        size = (f'class="mid{" small" * (k > 0)}" y="{top + 18 * k:g}"' for k in range(len(lines)))
        return (
            f'<rect class="{self.kind}" x="{self.x:g}" y="{self.y:g}" width="{self.width:g}" '
            f'height="{self.height:g}" rx="6"/>'
        ) + "".join(
            f'<text x="{self.x + self.width / 2:g}" {at}>{escape(line)}</text>'
            for at, line in zip(size, lines, strict=True)
        )


def _arrow(*corners: tuple[float, float]) -> str:
    points = " ".join(f"{x:g},{y:g}" for x, y in corners)
    return f'<polyline class="line" points="{points}" marker-end="url(#tip)"/>'


def _text(x: float, y: float, text: str, kind: str = "small") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(text)}</text>'


def _picture(width: int, height: int, title: str, about: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-labelledby="title desc"><title id="title">{title}'
        f'</title><desc id="desc">{escape(about)}</desc><style>{_STYLE}</style><defs><marker '
        'id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path class="tip" d="M0 0 8 4 0 8z"/></marker></defs>'
        f'<rect class="page" width="{width}" height="{height}" rx="8"/>{"".join(parts)}</svg>\n'
    )


# ---- the library


def library() -> str:
    """What the library is: one value, from many programs to three frameworks."""
    sources = ("TensorFlow Addons", "haste", "SpeechBrain, icefall", "Dreamer, Sonnet, …")
    fronts = ("Keras: LayerNormLSTM", "PyTorch: LayerNormLSTM", "JAX, Flax NNX", "C, streams")
    parts = [
        _text(110, 34, "Published cells, their weights", "mid"),
        _text(400, 34, "One value says what a cell is", "mid"),
        _text(690, 34, "Layers you call", "mid"),
        Box(
            300, 76, 200, 84, "Variant\nwhere the norms sit,\nand every other choice", "norm"
        ).svg(),
        Box(300, 192, 200, 50, "reference in float64\nchecked against the originals").svg(),
        Box(300, 274, 200, 50, "engines\nCPU in C++, Triton, portable", "cell").svg(),
        _arrow((400, 160), (400, 190)),
        _arrow((400, 242), (400, 272)),
    ]
    for k, (source, front) in enumerate(zip(sources, fronts, strict=True)):
        y = 54 + 42 * k
        parts += [Box(20, y, 180, 32, source).svg(), Box(590, y, 196, 32, front, "cell").svg()]
        parts += [_arrow((200, y + 16), (248, y + 16), (248, 118), (298, 118))]
        parts += [_arrow((500, 118), (550, 118), (550, y + 16), (588, y + 16))]
    about = "Published cells and their weights become one Variant; layers and engines compute it."
    return _picture(800, 344, "lnrnn", about, parts)


# ---- normalised within, and after


def inside_and_after() -> str:
    """LN in the recurrence, and LN of what an LSTM returned."""
    parts: list[str] = []
    for row, (title, inner) in enumerate((("LayerNormLSTM(x)", True), ("LN(LSTM(x))", False))):
        top = 16 + 226 * row
        parts.append(_text(20, top + 16, title, "big"))
        for k in range(3):
            x, y = 100 + 220 * k, top + (96 if inner else 104)
            time = f"t−{2 - k}" if k < 2 else "t"
            if inner:
                parts.append(Box(x, y, 130, 44, "LN within\ngates and cell", "norm").svg())
                parts.append(_arrow((x + 65, y), (x + 65, top + 56)))
            else:
                parts.append(Box(x, y, 130, 36, "LSTM", "cell").svg())
                parts.append(Box(x + 30, top + 58, 70, 26, "LN", "norm").svg())
                parts += [_arrow((x + 65, y), (x + 65, top + 86))]
                parts += [_arrow((x + 65, top + 58), (x + 65, top + 46))]
            base, level = y + (44 if inner else 36), y + (22 if inner else 18)
            parts.append(_arrow((x + 65, top + 170), (x + 65, base + 2)))
            parts.append(_text(x + 65, top + 188, f"x({time})", "mid small"))
            parts.append(_text(x + 65, top + 40, f"y({time})", "mid small"))
            parts.append(_arrow((x - 88, level), (x - 2, level)))
            parts.append(_text(x - 45, level - 8, "h, c", "mid small"))
        parts.append(
            _arrow((670, top + (118 if inner else 122)), (740, top + (118 if inner else 122)))
        )
    about = (
        "Above, each step of the recurrence normalises its gates and its cell. Below, the outputs "
        "alone are normed, and no step of the recurrence sees it."
    )
    return _picture(760, 452, "Normalised within and after", about, parts)


# ---- how a step is computed


def one_step() -> str:
    """What the native engine does at a step, and what it keeps."""
    parts = [
        _text(20, 30, "Before the steps", "big"),
        Box(20, 46, 220, 50, "X = x W of a block\nof steps, 256 rows", "cell").svg(),
        Box(20, 112, 220, 50, "U packed into panels\nof neighbouring columns", "cell").svg(),
        _text(300, 30, "At each step, a thread and its sequences", "big"),
        Box(300, 80, 120, 50, "h U\nfrom panels", "cell").svg(),
        Box(450, 80, 120, 50, "mean, variance\nrow in cache", "norm").svg(),
        Box(600, 80, 130, 50, "gates, cell, norm\none pass over units", "box").svg(),
        _arrow((240, 71), (270, 71), (270, 95), (298, 95)),
        _arrow((240, 137), (270, 137), (270, 115), (298, 115)),
        _arrow((420, 105), (448, 105)),
        _arrow((570, 105), (598, 105)),
        _arrow((665, 130), (665, 156), (360, 156), (360, 132)),
        _text(512, 150, "h(t), to the next step", "mid small"),
        _text(300, 196, "Kept, where gradients are asked for", "big"),
        Box(300, 210, 430, 34, "h, c, and the projections x W and h U").svg(),
        _arrow((700, 130), (700, 208)),
    ]
    about = (
        "The product of the inputs is made for a block of steps and the recurrent kernel is "
        "packed once; each step multiplies h, takes statistics while the row is in cache, and "
        "computes gates and states in one pass."
    )
    return _picture(750, 264, "One step of the native engine", about, parts)


# ---- the gradient through zeros

_UNITS, _INPUTS, _BATCH, _ZEROS, _STEPS = 32, 4, 2, 16, 8


def zero_prefix() -> str:
    """The norm of dL/dh(t), L = |h(T)|^2, of haste's LSTM through a prefix of zeros."""
    curves = {
        "zero biases, gains 1": _reach(),
        "larger epsilon, 1e-3": _reach(epsilon=1e-3),
        "bound on derivatives, 1": _reach(clip=1.0),
        "noise in biases, gain 0.1": _reach(noise=0.1, gain=0.1),
    }
    return _chart(curves)


def _reach(
    noise: float = 0.0, gain: float = 1.0, epsilon: float | None = None, clip: float | None = None
) -> Array:
    """|dL/dh(t)| for each t from 0 to T, of a loss at the end."""
    rng = np.random.default_rng(20160721)
    variant = dialects.get("haste_lnlstm").variant
    variant = variant if epsilon is None else variant.replace(epsilon=epsilon)
    sizes = params.Sizes(_INPUTS, _UNITS, _UNITS)
    weights = {
        name: np.ones(shape) if name.endswith("gain") else np.zeros(shape)
        for name, shape in params.shapes(variant, sizes).items()
    }
    weights["kernel"] += rng.standard_normal((_INPUTS, 4 * _UNITS)) / np.sqrt(_INPUTS)
    square = np.linalg.qr(rng.standard_normal((4, _UNITS, _UNITS)))[0]
    weights["recurrent_kernel"] += np.concatenate(list(square), axis=1)
    weights["bias"] += noise * rng.standard_normal(4 * _UNITS)
    weights["h_norm_gain"] *= gain
    x = rng.standard_normal((_ZEROS + _STEPS, _BATCH, _INPUTS))
    x[:_ZEROS] = 0

    runs = []
    h, c = np.zeros((2, _BATCH, _UNITS))
    for t in range(len(x)):
        runs.append(reference.forward(variant, weights, x[t : t + 1], h, c))
        h, c = runs[-1].h, runs[-1].c
    dh, dc = 2 * h, np.zeros_like(c)
    norms = [np.hypot(np.linalg.norm(dh), np.linalg.norm(dc))]
    for run in reversed(runs):
        zero = np.zeros_like(run.y)
        back = reference.backward(run, zero, dh, dc, recurrent_gradient_clip=clip)
        dh, dc = back.h0, back.c0
        norms.append(np.hypot(np.linalg.norm(dh), np.linalg.norm(dc)))
    return np.array(norms[::-1])


def _chart(curves: Mapping[str, Array]) -> str:
    """Curves over time, on a logarithmic scale, each with its name at its side."""
    left, right, top, bottom = 70, 480, 64, 340
    decades = max(int(np.ceil(np.log10(curve.max()))) for curve in curves.values())
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100) if decades / s <= 8)

    def place(t: float, value: float) -> tuple[float, float]:
        x = left + (right - left) * t / (_ZEROS + _STEPS)
        return x, bottom - (bottom - top) * np.clip(np.log10(value) + step, 0, None) / (
            decades + step
        )

    parts = [_text(20, 30, "The gradient of the state at each step, of a loss at the end", "big")]
    for power in range(-step, decades + 1, step):
        y = place(0, 10.0**power)[1]
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{right}"/>')
        parts.append(_text(left - 8, y + 4, f"1e{power}", "end small"))
    end = place(_ZEROS, 1)[0]
    parts.append(f'<path class="grid" d="M{end:.1f} {top - 12}V{bottom}"/>')
    parts.append(_text((left + end) / 2, bottom + 22, f"{_ZEROS} steps of zeros", "mid small"))
    parts.append(_text((end + right) / 2, bottom + 22, f"{_STEPS} of data", "mid small"))
    parts.append(_text((left + right) / 2, bottom + 44, "step t", "mid small"))
    dashes = ("none", "8 3", "3 3", "10 3 2 3")
    for k, ((name, curve), dash) in enumerate(zip(curves.items(), dashes, strict=True)):
        points = " ".join("{:.1f},{:.1f}".format(*place(t, v)) for t, v in enumerate(curve))
        style = f'class="curve c{k}" stroke-dasharray="{dash}"'
        parts.append(f'<polyline {style} points="{points}"/>')
        y = top + 22 + 28 * k
        parts.append(f'<path {style} d="M500 {y - 5}h36"/>')
        parts.append(_text(544, y, f"{name}: {curve.max():.0e}"))
    parts.append(_text(500, top - 4, "the largest, of all steps"))
    about = "Largest gradient: " + "; ".join(f"{n} {c.max():.0e}" for n, c in curves.items())
    return _picture(760, 400, "The gradient through zeros", about, parts)


FIGURES: Mapping[str, Callable[[], str]] = {
    "library": library,
    "inside-and-after": inside_and_after,
    "one-step": one_step,
    "zero-prefix": zero_prefix,
}
