"""Exports run at other batch sizes and lengths than they were made with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch_cases import INPUTS, KINDS, Kind, assert_same, flat, made, states_of

from lnrnn.torch import export_step

ANY = torch.export.Dim.DYNAMIC
SEQUENCE = {0: ANY, 1: ANY}


def float_module(kind: Kind, **options: Any) -> Any:
    return made(kind, **options).float().eval()


def sizes_of(module: Any) -> dict[str, Any]:
    """What varies in `input` and `hx`: time and batch, and the batch of each state."""
    several = len(module.variant.states) > 1
    return {"input": SEQUENCE, "hx": ({1: ANY}, {1: ANY}) if several else {1: ANY}}


def arguments(module: Any, steps: int, batch: int) -> tuple[Tensor, Any]:
    return torch.randn(steps, batch, INPUTS), states_of(module, batch, torch.randn)


def write_onnx(module: nn.Module, given: tuple[Any, ...], path: Path, shapes: Any) -> None:
    """Without gradients: the exporter cannot trace the derivative of a scan."""
    with torch.no_grad():
        torch.onnx.export(module, given, path, dynamic_shapes=shapes, verbose=False)


def in_runtime(path: Path, *inputs: Tensor) -> list[Tensor]:
    """The outputs of an ONNX file in ONNX Runtime."""
    session = onnxruntime.InferenceSession(path)
    names = [given.name for given in session.get_inputs()]
    arrays = dict(zip(names, (i.numpy() for i in inputs), strict=True))
    return [torch.as_tensor(np.asarray(o)) for o in session.run(None, arrays)]


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_torch_export(kind: str, tmp_path) -> None:
    module = float_module(KINDS[kind])
    exported = torch.export.export(module, arguments(module, 5, 2), dynamic_shapes=sizes_of(module))
    torch.export.save(exported, tmp_path / "module.pt2")
    loaded = torch.export.load(tmp_path / "module.pt2").module()
    for steps, batch in ((9, 4), (2, 3)):
        given = arguments(module, steps, batch)
        assert_same(loaded(*given), module(*given), "float32")


def test_torch_export_of_masks() -> None:
    module = float_module(KINDS["rnn"])
    given = (torch.randn(5, 2, INPUTS),)
    flags = {"lengths": torch.tensor([5, 3]), "reset": torch.rand(5, 2) < 0.3}
    shapes = {"input": SEQUENCE, "lengths": {0: ANY}, "reset": SEQUENCE}
    exported = torch.export.export(module, given, flags, dynamic_shapes=shapes)
    x, flags = (
        torch.randn(8, 3, INPUTS),
        {"lengths": torch.tensor([8, 2, 5]), "reset": torch.rand(8, 3) < 0.3},
    )
    assert_same(exported.module()(x, **flags), module(x, **flags), "float32")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("rnn", {"bidirectional": True}),
        ("gru", {"num_layers": 2, "batch_first": True}),
        ("lstm", {}),
        ("lstm", {"variant": "tflite_lnlstm", "proj_size": 2}),
    ],
    ids=["both_directions", "two_layers", "default", "peepholes_and_projection"],
)
def test_onnx(kind: str, options: dict[str, Any], tmp_path) -> None:
    """The states are inputs and outputs of the graph: a stream runs in chunks of any length."""
    module = float_module(KINDS[kind], **options)
    given = arguments(module, 5, 2)
    if options.get("batch_first"):
        given = (given[0].transpose(0, 1), given[1])
    path = tmp_path / "module.onnx"
    write_onnx(module, given, path, sizes_of(module))
    x, hx = arguments(module, 9, 4)
    x = x.transpose(0, 1) if options.get("batch_first") else x
    expected = module(x, hx)
    assert_same(in_runtime(path, x, *flat(hx)), flat(expected), "float32")
    if not options.get("bidirectional"):
        states, outputs = flat(hx), []
        for chunk in x.split(4, dim=1 if options.get("batch_first") else 0):
            output, *states = in_runtime(path, chunk, *states)
            outputs.append(output)
        joined = torch.cat(outputs, dim=1 if options.get("batch_first") else 0)
        assert_same([joined, *states], flat(expected), "float32")


class Masked(nn.Module):
    """A model that reads padded input with its lengths, as an exported one does."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.rnn(x, lengths=lengths)[0]


class Flagged(nn.Module):
    """A model that reads a mask and the starts of episodes."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor, mask: Tensor, reset: Tensor) -> Any:
        return self.rnn(x, mask=mask, reset=reset)


def test_onnx_of_masks_and_resets(tmp_path) -> None:
    """In both directions, of which the reverse one looks for the next valid step."""
    model = Flagged(float_module(KINDS["rnn"], bidirectional=True)).eval()
    path = tmp_path / "model.onnx"
    flags = [torch.rand(6, 3) < 0.6 for _ in range(2)]
    write_onnx(model, (torch.randn(6, 3, INPUTS), *flags), path, (SEQUENCE,) * 3)
    for steps, batch in ((9, 4), (1, 2)):
        given = [torch.randn(steps, batch, INPUTS), *(torch.rand(2, steps, batch) < 0.6)]
        assert_same(in_runtime(path, *given), flat(model(*given)), "float32")


def test_onnx_of_a_cell(tmp_path) -> None:
    cell = KINDS["lstm"].cell(INPUTS, 5).eval()
    path = tmp_path / "cell.onnx"
    hx = torch.randn(2, 3, 5).unbind()
    write_onnx(cell, (torch.randn(3, INPUTS), hx), path, {"input": {0: ANY}, "hx": ({0: ANY},) * 2})
    x, h, c = torch.randn(7, INPUTS), torch.randn(7, 5), torch.randn(7, 5)
    assert_same(in_runtime(path, x, h, c), flat(cell(x, (h, c))), "float32")


@pytest.mark.parametrize("of_cell", [False, True], ids=["layers", "cell"])
def test_a_step_in_one_call(of_cell: bool, tmp_path) -> None:
    kind = KINDS["lstm"]
    module = kind.cell(INPUTS, 5) if of_cell else float_module(kind, num_layers=2)
    path = tmp_path / "step.onnx"
    module.train()
    export_step(module, path)
    assert module.training
    session = onnxruntime.InferenceSession(path)
    assert [i.name for i in session.get_inputs()] == ["x", "h", "c"]
    assert [o.name for o in session.get_outputs()] == ["y", "h_next", "c_next"]
    module.eval()
    shape = (3, 5) if of_cell else (2, 3, 5)
    states = [torch.randn(shape), torch.randn(shape)]
    hx: Any = tuple(states)
    for _ in range(100):
        x = torch.randn(3, INPUTS)
        with torch.no_grad():
            if of_cell:
                hx = module(x, hx)
            y, hx = (hx[0], hx) if of_cell else module.step(x, hx)
        given = dict(zip(("x", "h", "c"), (x, *states), strict=True))
        found = session.run(None, {name: t.numpy() for name, t in given.items()})
        found = [torch.as_tensor(np.asarray(array)) for array in found]
        states = found[1:]
        assert_same(found, [y, *hx], "float32")


def test_steps_that_cannot_be_exported(tmp_path) -> None:
    with pytest.raises(ValueError, match="got bidirectional=True"):
        export_step(float_module(KINDS["gru"], bidirectional=True), tmp_path / "step.onnx")
    with pytest.raises(ValueError, match="got Linear"):
        export_step(nn.Linear(2, 2), tmp_path / "step.onnx")


def test_onnx_of_lengths(tmp_path) -> None:
    model = Masked(float_module(KINDS["rnn"], bidirectional=True)).eval()
    given = torch.randn(5, 2, INPUTS), torch.tensor([5, 3])
    path = tmp_path / "model.onnx"
    write_onnx(model, given, path, (SEQUENCE, {0: ANY}))
    x, lengths = torch.randn(9, 3, INPUTS), torch.tensor([2, 9, 4])
    assert_same(in_runtime(path, x, lengths), [model(x, lengths)], "float32")


def test_a_step_exports() -> None:
    module = float_module(KINDS["lstm"])

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = module

        def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
            return self.rnn.step(x, (h, c))

    h, c = states_of(module, 2, torch.randn)
    exported = torch.export.export(Step(), (torch.randn(2, INPUTS), h, c))
    x = torch.randn(2, INPUTS)
    assert_same(exported.module()(x, h, c), module.step(x, (h, c)), "float32")
