"""A step as an ONNX file."""

from __future__ import annotations

import os
import warnings
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from lnrnn.torch.cells import LayerNormCell
from lnrnn.torch.layers import LayerNormRNNBase


class _Step(nn.Module):
    """x and each state in; the output and each state out."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        several = len(states) > 1
        hx: Any = states if several else next(iter(states))
        if isinstance(self.module, LayerNormCell):
            new = self.module(x, hx)
            return (new[0], *new) if several else (new, new)
        y, new = self.module.step(x, hx)
        return (y, *new) if several else (y, new)


def export_step(module: Any, path: str | os.PathLike[str]) -> None:
    """Write one step as an ONNX file, with the states as inputs and outputs.

    The inputs are `x` (B, I), `h` and of an LSTM `c`; the outputs are `y` (B, R), `h_next` and
    `c_next`.  States have the shapes of the module's: (L, B, R) and (L, B, H) of layers, (B, R) and
    (B, H) of a cell.  B varies.  The file holds the weights, in float32, and computes what the
    module does in evaluation mode.

    Args:
        module: a layer or cell of this package, of one direction.
        path: of the file, by custom ending in `.onnx`.

    Raises:
        ValueError: another module, or one of both directions.
        ModuleNotFoundError: the packages onnx and onnxscript are not installed.

    Example:
        >>> from lnrnn.torch import LayerNormGRU
        >>> export_step(LayerNormGRU(3, 8), "step.onnx")
    """
    if not isinstance(module, (LayerNormCell, LayerNormRNNBase)):
        raise ValueError(
            f"A step is that of a layer or cell of lnrnn.torch; got {type(module).__name__}: "
            "export that part of it."
        )
    if getattr(module, "bidirectional", False):
        raise ValueError(
            "The reverse direction begins at the end of a sequence; got bidirectional=True: "
            "export a module of one direction."
        )
    weight = next(module.parameters())
    batch = 2  # of a sample: the exporter takes 1 for a constant
    several = len(module.variant.states) > 1
    of_cell = isinstance(module, LayerNormCell)
    layers = () if of_cell else (module.num_layers,)
    width = module.proj_size or module.hidden_size
    sizes = (width, module.hidden_size) if several else (width,)
    states = [torch.zeros(*layers, batch, n) for n in sizes]
    names = ["h", "c"][: len(states)]
    varies = torch.export.Dim.DYNAMIC
    axis = {len(layers): varies}
    training = module.training
    given = (torch.zeros(batch, module.input_size), *states)
    # a copy where the module is elsewhere, or of another dtype
    ready = deepcopy(module).to("cpu", torch.float32) if _differs(weight) else module
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about itself
            torch.onnx.export(
                _Step(ready.eval()),
                given,
                os.fspath(path),
                input_names=["x", *names],
                output_names=["y", *(f"{name}_next" for name in names)],
                dynamic_shapes={"x": {0: varies}, "states": tuple(axis for _ in states)},
                verbose=False,
            )
    finally:
        module.train(training)


def _differs(weight: Tensor) -> bool:
    return weight.device.type != "cpu" or weight.dtype != torch.float32
