"""Latency of one step at B = 1, as of a stream, beside PyTorch's cells.

`python benchmarks/torch_step.py [--units 256] [--calls 300] [--backend inductor]`
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lnrnn.torch import LayerNormLSTM, LayerNormLSTMCell


def microseconds(run: Callable[[], Any], calls: int, rounds: int = 9) -> float:
    """Time of a call: the smallest mean of several rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            run()
        best = min(best, (time.perf_counter() - start) / calls)
    return 1e6 * best


def main() -> None:
    """Print one line for each module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    given = parser.parse_args()
    units = given.units
    x, h, c = (torch.randn(1, units) for _ in range(3))
    layer, cell = LayerNormLSTM(units, units).eval(), LayerNormLSTMCell(units, units).eval()
    stock, stock_layer = nn.LSTMCell(units, units).eval(), nn.LSTM(units, units).eval()
    hx, states, one = (h[None], c[None]), (h, c), x[None]
    traced = torch.export.export(cell, (x, states)).module()
    compiled = torch.compile(cell, fullgraph=True, backend=given.backend)
    runs: dict[str, Callable[[], Any]] = {
        "nn.LSTMCell": lambda: stock(x, states),
        "nn.LSTM, one step": lambda: stock_layer(one, hx),
        "LayerNormLSTMCell": lambda: cell(x, states),
        "LayerNormLSTM.step": lambda: layer.step(x, hx),
        "LayerNormLSTM, one step": lambda: layer(one, hx),
        "LayerNormLSTMCell, exported": lambda: traced(x, states),
        "LayerNormLSTMCell, compiled": lambda: compiled(x, states),
    }
    print(f"one step, B = 1, I = H = {units}, {torch.get_num_threads()} threads")
    with torch.inference_mode():
        for name, run in runs.items():
            run()
            print(f"{name:<28}{microseconds(run, given.calls):8.0f} us")


if __name__ == "__main__":
    main()
