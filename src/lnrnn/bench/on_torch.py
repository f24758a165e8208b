"""PyTorch: our modules, `torch.nn`, and layer-normalised loops in TorchScript and torch.compile."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lnrnn.bench.problem import (
    LIMIT,
    NORMALISED,
    OURS,
    PLAIN,
    Competitor,
    Problem,
    Runs,
)
from lnrnn.bench.settings import COMPILED
from lnrnn.torch import LayerNormGRU, LayerNormLSTM, LayerNormRNN

_MODULES: dict[str, tuple[Any, Any]] = {
    "lstm": (LayerNormLSTM, nn.LSTM),
    "gru": (LayerNormGRU, nn.GRU),
    "simple": (LayerNormRNN, nn.RNN),
}


def competitors(cell: str, compiled: bool) -> list[Competitor]:
    """What is measured from PyTorch without Keras."""
    loops = [Competitor("TorchScript loop", NORMALISED, _scripted)]
    if compiled:
        loops.append(
            Competitor("torch.compile loop", NORMALISED, _compiled, lambda point: point == COMPILED)
        )
    return [
        Competitor(OURS, NORMALISED, lambda p: _module(_ours(p, NORMALISED, "native"), p)),
        Competitor(
            "lnrnn portable", NORMALISED, lambda p: _module(_ours(p, NORMALISED, "portable"), p)
        ),
        Competitor("lnrnn un-normalised", PLAIN, lambda p: _module(_ours(p, PLAIN, "native"), p)),
        Competitor(stock_name(cell), PLAIN, _stock),
        *loops,
        Competitor("limit", LIMIT, _limit),
    ]


def stock_name(cell: str) -> str:
    """The name of PyTorch's own module."""
    return f"torch.nn.{_MODULES[cell][1].__name__}"


def runs(
    call: Callable[[Tensor], Tensor],
    weights: Sequence[Tensor],
    problem: Problem,
    gradients: Callable[[list[np.ndarray]], tuple[np.ndarray, np.ndarray]],
    batch_first: bool = False,
) -> Runs:
    """The runs of a function of x.

    Args:
        call: from x to y, both (T, B, .), or (B, T, .) with `batch_first`.
        weights: what is differentiated beside x.
        problem: at whose x and dy.
        gradients: from those of the weights to those of the canonical `kernel` and
            `recurrent_kernel`.
        batch_first: the layout.
    """

    def laid_out(array: np.ndarray) -> Any:
        return np.ascontiguousarray(array.swapaxes(0, 1)) if batch_first else array

    x = torch.tensor(laid_out(problem.x), requires_grad=True)
    dy = torch.tensor(laid_out(problem.dy))

    def forward() -> Tensor:
        with torch.no_grad():
            return call(x)

    def named(found: Sequence[Tensor]) -> dict[str, np.ndarray]:
        of_x, *of_weights = (g.numpy() for g in found)
        kernel, recurrent = gradients(of_weights)
        return {"x": laid_out(of_x), "kernel": kernel, "recurrent_kernel": recurrent}

    return Runs(
        forward,
        lambda: torch.autograd.grad(call(x), [x, *weights], dy),
        lambda y: laid_out(y.numpy()),
        named,
    )


def _ours(problem: Problem, kind: str, engine: str) -> Any:
    make = _MODULES[problem.cell][0]
    variant = None if kind == NORMALISED else "none"
    module = make(problem.point.units, problem.point.units, variant=variant, engine=engine)
    module.load_params(problem.params[kind])
    return module


def _module(module: nn.Module, problem: Problem) -> Runs:
    # the first two parameters are those of the kernels, transposed
    return runs(
        lambda x: module(x)[0],
        list(module.parameters()),
        problem,
        lambda found: (found[0].T, found[1].T),
    )


def _stock(problem: Problem) -> Runs:
    module = _MODULES[problem.cell][1](problem.point.units, problem.point.units)
    module.load_state_dict(_ours(problem, PLAIN, "portable").state_dict())
    return _module(module, problem)


def lstm(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    """A layer-normalised LSTM as one writes it, (T, B, I) to (T, B, H)."""
    h = torch.zeros(x.size(1), w["recurrent_kernel"].size(0))
    c = torch.zeros_like(h)
    wide, units = w["bias"].size(0), h.size(1)
    z_x = torch.layer_norm(x @ w["kernel"], [wide], w["x_norm_gain"]) + w["bias"]
    outputs: list[Tensor] = []
    for z in z_x.unbind(0):
        z = z + torch.layer_norm(h @ w["recurrent_kernel"], [wide], w["h_norm_gain"])
        i, f, g, o = z.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        normed = torch.layer_norm(c, [units], w["cell_norm_gain"], w["cell_norm_bias"])
        h = torch.sigmoid(o) * torch.tanh(normed)
        outputs.append(h)
    return torch.stack(outputs)


def gru(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    """A layer-normalised GRU as one writes it, (T, B, I) to (T, B, H)."""
    h = torch.zeros(x.size(1), w["recurrent_kernel"].size(0))
    wide = w["recurrent_kernel"].size(1)
    z_x = torch.layer_norm(x @ w["kernel"], [wide], w["x_norm_gain"], w["x_norm_bias"])
    outputs: list[Tensor] = []
    for z in z_x.unbind(0):
        s = torch.layer_norm(h @ w["recurrent_kernel"], [wide], w["h_norm_gain"], w["h_norm_bias"])
        r_x, u_x, n_x = z.chunk(3, 1)
        r_h, u_h, n_h = s.chunk(3, 1)
        u = torch.sigmoid(u_x + u_h)
        n = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
        h = u * h + (1 - u) * n
        outputs.append(h)
    return torch.stack(outputs)


def simple(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    """A layer-normalised simple RNN as one writes it, (T, B, I) to (T, B, H)."""
    h = torch.zeros(x.size(1), w["recurrent_kernel"].size(0))
    outputs: list[Tensor] = []
    for z in (x @ w["kernel"] + w["bias_x"]).unbind(0):
        z = z + h @ w["recurrent_kernel"]
        normed = torch.layer_norm(z, [h.size(1)], w["sum_norm_gain"], w["sum_norm_bias"], 1e-3)
        h = torch.tanh(normed)
        outputs.append(h)
    return torch.stack(outputs)


_LOOPS: dict[str, Callable[[Tensor, dict[str, Tensor]], Tensor]] = {
    "lstm": lstm,
    "gru": gru,
    "simple": simple,
}


def _loop(loop: Callable[[Tensor, dict[str, Tensor]], Tensor], problem: Problem) -> Runs:
    weights = {
        n: torch.tensor(a, requires_grad=True) for n, a in problem.params[NORMALISED].items()
    }
    return runs(
        lambda x: loop(x, weights),
        list(weights.values()),
        problem,
        lambda found: (found[0], found[1]),
    )


def _scripted(problem: Problem) -> Runs:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit.script as a whole
        loop: Any = torch.jit.script(_LOOPS[problem.cell])
    return _loop(loop, problem)


def _compiled(problem: Problem) -> Runs:
    return _loop(torch.compile(_LOOPS[problem.cell], fullgraph=True), problem)


def _limit(problem: Problem) -> Runs:
    a, b = (torch.randn(shape) for shape in problem.product)
    return Runs(lambda: _products(a, b, 2), lambda: _products(a, b, 6))


def _products(a: Tensor, b: Tensor, times: int) -> None:
    for _ in range(times):
        torch.mm(a, b)
