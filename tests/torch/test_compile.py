"""torch.compile takes a whole module as one graph, for any number of steps."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._guards import detect_fake_mode
from torch._inductor.fx_passes.post_grad import decompose_scan_to_while_loop
from torch._inductor.virtualized import V
from torch.nn.utils.rnn import pack_padded_sequence
from torch_cases import BATCH, INPUTS, KINDS, UNITS, assert_same, flat, made, states_of

LENGTHS = (6, 7, 9)


class Counting:
    """A backend that runs graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: list[Any]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


def compare(module: Any, compiled: Any, steps: int, **options: Any) -> None:
    """Outputs, states and gradients."""
    results = []
    x, hx = torch.randn(steps, BATCH, INPUTS), states_of(module, make=torch.randn)
    options = {n: make(steps) for n, make in options.items()}
    for run in (module, compiled):
        torch.manual_seed(steps)
        module.zero_grad()
        x = x.detach().requires_grad_()
        found = run(x, hx, **options)
        torch.stack([t.square().sum() for t in flat(found)]).sum().backward()
        results.append((found, [x.grad, *(p.grad for p in module.parameters())]))
    assert_same(results[1][0], results[0][0], "float32")
    assert_same(results[1][1], results[0][1], "float32", gradient=True)


def mask_of(steps: int) -> Tensor:
    return torch.rand(steps, BATCH) < 0.7


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "lstm": ("lstm", {}, {"mask": mask_of}),
    "gru_reset": ("gru", {}, {"reset": mask_of}),
    "rnn_both": (
        "rnn",
        {"bidirectional": True},
        {"lengths": lambda t: torch.tensor([t, 1, 2, 3])},
    ),
}


@pytest.mark.parametrize(
    ("case", "engine"),
    [("lstm", "portable"), ("lstm", "native"), ("gru_reset", "native"), ("rnn_both", "native")],
)
def test_a_new_length_needs_no_new_graph(case: str, engine: str) -> None:
    """The first length is compiled as a number, the second as a symbol, others are not."""
    kind, options, flags = CASES[case]
    module, backend = made(KINDS[kind], engine=engine, **options).float(), Counting()
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    for steps in LENGTHS:
        compare(module, compiled, steps, **flags)
    assert backend.graphs <= 2


def test_dynamic_from_the_start() -> None:
    module, backend = made(KINDS["lstm"], engine="portable").float(), Counting()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=backend)
    for steps in LENGTHS:
        compare(module, compiled, steps)
    assert backend.graphs == 1


def test_training_with_random_masks() -> None:
    module = KINDS["lstm"].layer(INPUTS, UNITS, 2, zoneout=0.2, recurrent_dropout=0.2)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(6, BATCH, INPUTS)
    first, second = compiled(x)[0], compiled(x)[0]
    assert first.isfinite().all() and not torch.equal(first, second)
    first.sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_autocast() -> None:
    module = KINDS["gru"].layer(INPUTS, UNITS)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(6, BATCH, INPUTS)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(compiled(x), module(x), "bfloat16")


def test_a_cell_in_a_loop() -> None:
    cell = KINDS["lstm"].cell(INPUTS, UNITS)
    compiled = torch.compile(cell, fullgraph=True, backend="aot_eager")
    state = None
    for x_t in torch.randn(3, BATCH, INPUTS):
        expected, state = cell(x_t, state), compiled(x_t, state)
        assert_same(state, expected, "float32")


@pytest.mark.parametrize(
    ("engine", "options", "lengths"),
    [
        ("portable", {"fullgraph": True, "dynamic": True}, LENGTHS[:2]),
        ("native", {}, LENGTHS[:1]),
    ],
)
def test_inductor(engine: str, options: dict[str, Any], lengths: tuple[int, ...]) -> None:
    """Gradients as well: Inductor adds up those of captured vectors wrongly in a scan."""
    module = made(KINDS["lstm"], engine=engine).float()
    compiled = torch.compile(module, **options)
    for steps in lengths:
        compare(module, compiled, steps)


def lowered(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    """A scan as Inductor lowers it, to a loop that indexes its inputs, and no compiler."""
    with V.set_fake_mode(detect_fake_mode(inputs)):  # pyright: ignore[reportArgumentType]
        decompose_scan_to_while_loop(graph)
    return graph.forward


LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "projection": ("lstm", {"proj_size": 2}),
    "clips": ("lstm", {"variant": "tf1_lnlstm_peephole_clip", "recurrent_gradient_clip": 0.01}),
    "gru": ("gru", {"engine": "portable"}),
    "rnn": ("rnn", {"engine": "portable", "zoneout": 0.2, "recurrent_dropout": 0.2}),
}


@pytest.mark.parametrize("case", LOOPS)
def test_what_the_portable_engine_computes_needs_no_whole_graph(case: str) -> None:
    kind, options = LOOPS[case]
    module = made(KINDS[kind], **options).float()
    compare(module, torch.compile(module, backend=aot_autograd(fw_compiler=lowered)), LENGTHS[0])


def test_half_precision_needs_no_whole_graph() -> None:
    module = KINDS["lstm"].layer(INPUTS, UNITS)
    compiled = torch.compile(module, backend=aot_autograd(fw_compiler=lowered))
    x = torch.randn(6, BATCH, INPUTS)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(compiled(x), module(x), "bfloat16")


@pytest.mark.parametrize("engine", ["portable", "native"])
def test_packed_sequences(engine: str) -> None:
    """PyTorch leaves the packing to Python, and so breaks the graph there, as with its own."""
    module, backend = made(KINDS["lstm"], engine=engine).float(), Counting()
    compiled = torch.compile(module, backend=backend)
    for lengths in ([6, 4, 2], [7, 7, 1], [9, 5, 5]):
        x = pack_padded_sequence(torch.randn(lengths[0], 3, INPUTS), torch.tensor(lengths))
        graphs = backend.graphs
        expected, found = module(x), compiled(x)
        assert_same((found[0].data, found[1]), (expected[0].data, expected[1]), "float32")
    assert backend.graphs == graphs


NUMBERS: dict[str, dict[str, Any]] = {
    "zoneout": {"zoneout": 0.2, "zoneout_cell": 0.1},
    "clips": {"variant": "tf1_lnlstm_peephole_clip", "recurrent_gradient_clip": 0.01},
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_of_the_options_are_no_symbols(case: str) -> None:
    module, backend = made(KINDS["lstm"], engine="portable", **NUMBERS[case]).float(), Counting()
    compiled = torch.compile(module.eval(), dynamic=True, fullgraph=True, backend=backend)
    for steps in LENGTHS:
        compare(module, compiled, steps)
    assert backend.graphs == 1


PROGRAM = """
import torch
from lnrnn.torch import LayerNormGRU, LayerNormLSTM

emptied = LayerNormLSTM(3, 4, device="meta").to_empty(device="cpu")
emptied.reset_parameters()
assigned = LayerNormGRU(3, 4, device="meta")
assigned.load_state_dict(LayerNormGRU(3, 4).state_dict(), assign=True)
x = torch.randn(5, 2, 3)
for module in (emptied, assigned):
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x)[0], module(x)[0])
"""


def test_modules_that_were_on_meta_in_a_fresh_process() -> None:
    """Where nothing has loaded the engines yet, which a tracer cannot do."""
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
