"""Pictures of a trace: gates, norms, the reach of gradients, forget times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lnrnn.files import replacing
from lnrnn.insight.diagnose import VANISHES
from lnrnn.insight.measures import carried_back, without_norms
from lnrnn.insight.reach import forget_times, kept_shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lnrnn.insight.trace import LayerTrace, Trace

# told apart by the colour-blind as well (Okabe and Ito)
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_STYLES = ("solid", "dashed", "dotted")
_TITLES = {
    "i": "input gate i", "f": "forget gate f", "o": "output gate o", "g": "candidate g",
    "r": "reset gate r", "z": "update gate z", "n": "candidate n", "c": "cell c", "h": "state h",
}  # fmt: skip
_SIGMOIDS = "iforz"
_DOTS = 150  # an inch, of PNG


def plot(trace: Trace, out: Path | str | None = None, *, sequence: int = 0) -> dict[str, Figure]:
    """Draw what a trace has, a row for each layer and direction.

    | name | what it shows |
    |---|---|
    | `gates` | gates, candidate and states of one sequence, unit by unit, over time |
    | `norms` | variances that norms meet over time, zero at the foot (median, range); epsilon |
    | `gradient` | a gradient of the last outputs carried back in time, and the same without norms |
    | `forget_times` | in how many steps each unit forgets, beside the length of the sequences |

    A picture that no layer has something for is left out: a simple cell has no forget times.
    Matplotlib is needed: `pip install 'lnrnn[plot]'`.

    Args:
        trace: of [lnrnn.trace][lnrnn.insight.trace.trace].
        out: a folder, into which each picture is written as PNG and as SVG; None writes none.
        sequence: of the batch, whose gates are drawn.

    Returns:
        The figures by name.

    Raises:
        ValueError: no such sequence in the batch.

    Example:
        >>> from lnrnn import trace
        >>> from lnrnn.torch import LayerNormLSTM
        >>> import torch
        >>> sorted(plot(trace(LayerNormLSTM(3, 8), torch.randn(9, 2, 3))))
        ['forget_times', 'gates', 'gradient', 'norms']
    """
    batch = min(layer["x"].shape[1] for layer in trace.values())
    if not 0 <= sequence < batch:
        raise ValueError(
            f"A trace of {batch} sequences has those from 0 to {batch - 1}; got "
            f"sequence={sequence}: choose one of them."
        )
    figures = {
        "gates": _gates(trace, sequence),
        "norms": _figure(trace, _norms, lambda layer: bool(layer.norms)),
        "gradient": _figure(trace, _gradient, lambda layer: len(layer["x"]) > 1),
        "forget_times": _figure(trace, _forget_times, lambda layer: kept_shares(layer) is not None),
    }
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    if out is not None:
        for name, figure in drawn.items():
            for ending in ("png", "svg"):
                with replacing(Path(out, f"{name}.{ending}")) as path:
                    figure.savefig(path, dpi=_DOTS)
    return drawn


def _new(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _figure(
    trace: Trace,
    draw: Callable[[Axes, LayerTrace], None],
    has: Callable[[LayerTrace], bool],
) -> Figure | None:
    """A figure with a panel for each layer that has something to draw."""
    layers = {path: layer for path, layer in trace.items() if has(layer)}
    if not layers:
        return None
    figure = _new(7.0, 0.4 + 2.8 * len(layers))
    panels = figure.subplots(len(layers), 1, squeeze=False)[:, 0]
    for axes, (path, layer) in zip(panels, layers.items(), strict=True):
        axes.set_title(path, fontsize=10, loc="left")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes, layer)
    return figure


def _beside(axes: Axes) -> None:
    """The legend, to the right of a panel."""
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


# ---- gates


def _gates(trace: Trace, sequence: int) -> Figure:
    drawn = [
        [n for n in (*layer.variant.gates, "c", "h") if n in layer] for layer in trace.values()
    ]
    columns = max(map(len, drawn))
    figure = _new(0.8 + 2.1 * columns, 0.5 + 2.4 * len(trace))
    rows = figure.subplots(len(trace), columns, squeeze=False)
    for panels, names, (path, layer) in zip(rows, drawn, trace.items(), strict=True):
        valid = layer.mask[:, sequence]
        order = _order(layer, sequence)
        for axes, name in zip(panels, names, strict=False):
            values = layer[name][:, sequence]
            values = values[:, order] if values.shape[1] == len(order) else values
            _heat(axes, name, np.where(valid[:, None], values, np.nan))
            axes.set_title(_TITLES[name], fontsize=9)
            axes.set_xlabel("step", fontsize=8)
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        panels[0].set_ylabel(f"{path}\nunits", fontsize=9)
    figure.suptitle(f"sequence {sequence} of the batch; units by {_ordered_by(trace)}", fontsize=9)
    return figure


def _ordered_by(trace: Trace) -> str:
    kept = any(kept_shares(layer) is not None for layer in trace.values())
    return "how much of their state they keep, the most below" if kept else "their mean"


def _order(layer: LayerTrace, sequence: int) -> np.ndarray:
    """Units by what they keep of their state, so that a picture has a shape."""
    kept = kept_shares(layer)
    values = layer["h"] if kept is None else kept
    return np.argsort(values[layer.mask[:, sequence], sequence].mean(0), kind="stable")


def _heat(axes: Axes, name: str, values: np.ndarray) -> None:
    if name in _SIGMOIDS:
        limits, colours = (0.0, 1.0), "cividis"
    else:
        size = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
        limits, colours = (-size, size), "PuOr"
    image = axes.imshow(
        values.T, vmin=limits[0], vmax=limits[1], cmap=colours, aspect="auto",
        interpolation="nearest", rasterized=True,
    )  # fmt: skip
    axes.tick_params(labelsize=7)
    figure: Any = axes.figure
    figure.colorbar(image, ax=axes, pad=0.02).ax.tick_params(labelsize=7)


# ---- norms


def _norms(axes: Axes, layer: LayerTrace) -> None:
    floor = _floor(layer)
    seen = layer.mask.any(1)
    variances = {
        name: np.where(layer.mask, layer[f"{name}.variance"][..., 0], np.nan)[seen]
        for name in layer.norms
    }  # (T',B)
    positive = [v[v > 0].min(initial=floor) for v in variances.values()]
    foot = min(floor, *positive) / 10  # where a variance of zero stands
    steps = np.flatnonzero(seen)
    for colour, style, name in _lines(layer.norms):
        low, middle, high = (
            np.maximum(f(variances[name], axis=1), foot)
            for f in (np.nanmin, np.nanmedian, np.nanmax)
        )
        axes.plot(
            steps, middle, color=colour, linestyle=style, linewidth=1.3, label=_norm_title(name)
        )
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.axhline(floor, color="black", linewidth=1.0, linestyle=(0, (6, 3)), label=_epsilon(layer))
    axes.set_yscale("log")
    axes.set_ylim(bottom=foot)
    axes.set_xlabel("step")
    axes.set_ylabel("variance" if layer.variant.norm == "layer" else "mean square")
    _beside(axes)


def _floor(layer: LayerTrace) -> float:
    """The variance that weighs as much as epsilon."""
    epsilon = layer.variant.epsilon
    return epsilon if layer.variant.epsilon_at == "variance" else epsilon**2


def _epsilon(layer: LayerTrace) -> str:
    return "epsilon" if layer.variant.epsilon_at == "variance" else "epsilon squared"


def _norm_title(name: str) -> str:
    """`x_norm[ifgo]` -> `x: i f g o`, `cell_norm` -> `cell`."""
    site, _, gates = name.removesuffix("]").partition("_norm")
    return f"{site}: {' '.join(gates[1:])}" if gates else site


def _lines(names: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """A colour and a style for each name."""
    for index, name in enumerate(names):
        turn, place = divmod(index, len(_COLOURS))
        yield _COLOURS[place], _STYLES[turn % len(_STYLES)], name


# ---- gradients


def _gradient(axes: Axes, layer: LayerTrace) -> None:
    lines = {
        "with its norms": carried_back(layer),
        "without norms": carried_back(without_norms(layer)),
    }
    for colour, style, (label, norms) in zip(_COLOURS, _STYLES, lines.items(), strict=False):
        axes.plot(
            np.where(np.isfinite(norms) & (norms > 0), norms, np.nan),
            color=colour, linestyle=style, linewidth=1.5, label=label,
        )  # fmt: skip
    if min(np.nanmin(norms) for norms in lines.values()) < 10 * VANISHES:
        axes.axhline(
            VANISHES, color="black", linewidth=1.0, linestyle=(0, (1, 2)), label="a millionth"
        )
    axes.set_yscale("log")
    axes.set_xlabel("steps back from the last one")
    axes.set_ylabel("gradient, last step = 1")
    _beside(axes)


# ---- forget times


def _forget_times(axes: Axes, layer: LayerTrace) -> None:
    times = forget_times(layer)
    assert times is not None  # where there is no gate, no panel is
    longest = int(layer.mask.sum(0).max())
    times = np.clip(times, 0.1, 1e5)
    low, high = min(times.min(), 1.0), max(times.max(), longest) * 1.1
    axes.hist(
        times, np.geomspace(low, high, 41), color=_COLOURS[0], edgecolor="white", linewidth=0.3
    )
    axes.axvline(longest, color=_COLOURS[1], linewidth=1.5, label=f"{longest} steps given")
    axes.axvline(
        np.median(times),
        color="black",
        linewidth=1.2,
        linestyle="dashed",
        label=f"median {np.median(times):.2g}",
    )
    axes.set_xscale("log")
    axes.set_xlabel("steps until 1/e of a unit's state is left")
    axes.set_ylabel("units")
    _beside(axes)
