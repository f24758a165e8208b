"""PyTorch: our modules, `torch.nn`, and layer-normalised loops in TorchScript and torch.compile."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lnrnn.bench.problem import LIMIT, NORMALISED, PLAIN, Competitor, Problem, Runs
from lnrnn.bench.settings import COMPILED, Settings
from lnrnn.convert import Weights
from lnrnn.stream import Stream
from lnrnn.stream.stream import FORMS
from lnrnn.torch import (
    LayerNormGRU,
    LayerNormGRUCell,
    LayerNormLSTM,
    LayerNormLSTMCell,
    LayerNormRNN,
    LayerNormRNNCell,
)

_MODULES: dict[str, tuple[Any, Any]] = {
    "lstm": (LayerNormLSTM, nn.LSTM),
    "gru": (LayerNormGRU, nn.GRU),
    "simple": (LayerNormRNN, nn.RNN),
}
_CELLS: dict[str, tuple[Any, Any]] = {
    "lstm": (LayerNormLSTMCell, nn.LSTMCell),
    "gru": (LayerNormGRUCell, nn.GRUCell),
    "simple": (LayerNormRNNCell, nn.RNNCell),
}


def competitors(settings: Settings) -> list[Competitor]:
    """What is measured from PyTorch without Keras."""
    if settings.task == "step":
        return _steps(settings)
    packed, projected = settings.task == "packed", settings.task == "projected"
    found = _modules(settings.cell, settings.dtype, _packed if packed else _module)
    if projected:
        return found
    if settings.dtype == "float32":
        found.append(Competitor("TorchScript loop", NORMALISED, lambda p: scripted_loop(p, packed)))
        if settings.compiled:
            found.append(
                Competitor(
                    "torch.compile loop",
                    NORMALISED,
                    lambda p: compiled_loop(p, packed),
                    lambda point: point == COMPILED,
                )
            )
    if not packed:
        dtype = getattr(torch, settings.dtype)
        found.append(Competitor("limit", LIMIT, lambda p: products(p, dtype)))
    return found


def _modules(cell: str, dtype: str, run: Callable[[Any, Problem, str], Runs]) -> list[Competitor]:
    """Our module and PyTorch's, with float32 beside another dtype."""

    def ours(name: str, kind: str, engine: str, dtype: str, base: bool = False) -> Competitor:
        def build(problem: Problem) -> Runs:
            return run(our_module(problem, kind, engine), problem, dtype)

        return Competitor(name, kind, build, dtype=dtype, base=base)

    def stock(name: str, dtype: str, base: bool) -> Competitor:
        return Competitor(
            name, PLAIN, lambda p: run(stock_module(p), p, dtype), dtype=dtype, base=base
        )

    if dtype == "float32":
        return [
            ours("lnrnn native", NORMALISED, "native", dtype),
            ours("lnrnn portable", NORMALISED, "portable", dtype, base=True),
            ours("lnrnn un-normalised", PLAIN, "native", dtype),
            stock(stock_name(cell), dtype, base=True),
        ]
    return [
        ours("lnrnn", NORMALISED, "auto", dtype),
        ours("lnrnn portable", NORMALISED, "portable", dtype),
        ours("lnrnn un-normalised", PLAIN, "auto", dtype),
        stock(stock_name(cell), dtype, base=False),
        ours("lnrnn, float32", NORMALISED, "auto", "float32", base=True),
        stock(f"{stock_name(cell)}, float32", "float32", base=True),
    ]


def stock_name(cell: str) -> str:
    """The name of PyTorch's own module."""
    return f"torch.nn.{_MODULES[cell][1].__name__}"


def runs(
    call: Callable[[Tensor], Tensor],
    weights: Sequence[Tensor],
    problem: Problem,
    gradients: Callable[[list[np.ndarray]], Mapping[str, np.ndarray]],
    batch_first: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Runs:
    """The runs of a function of x.

    Args:
        call: from x to y, both (T, B, .), or (B, T, .) with `batch_first`.
        weights: what is differentiated beside x.
        problem: at whose x and dy.
        gradients: from those of the weights to those of canonical ones, by name.
        batch_first: the layout.
        dtype: of x.
    """

    def laid_out(array: np.ndarray) -> Any:
        return np.ascontiguousarray(array.swapaxes(0, 1)) if batch_first else array

    x = torch.tensor(laid_out(problem.x)).to(dtype)
    dy = torch.tensor(laid_out(problem.dy))
    return _runs(call, x, dy, weights, lambda a: laid_out(_array(a)), gradients)


def _runs(
    call: Callable[[Tensor], Tensor],
    x: Tensor,
    dy: Tensor,
    weights: Sequence[Tensor],
    array: Callable[[Tensor], np.ndarray],
    gradients: Callable[[list[np.ndarray]], Mapping[str, np.ndarray]],
) -> Runs:
    """Of a function of x, whose results and gradients `array` lays out as (T, B, .)."""
    x.requires_grad_()

    def forward() -> Tensor:
        with torch.no_grad():
            return call(x)

    dy = dy.to(forward().dtype)

    def training() -> Sequence[Tensor]:
        return torch.autograd.grad(call(x), [x, *weights], dy)

    def named() -> Mapping[str, np.ndarray]:
        of_x, *of_weights = training()
        return {"x": array(of_x), **gradients([_array(g) for g in of_weights])}

    return Runs({"forward": forward, "training": training}, lambda: array(forward()), named)


def _array(t: Tensor) -> np.ndarray:
    return t.float().numpy(force=True)


def _in(dtype: str) -> Any:
    """The scope in which products are of a dtype."""
    return torch.autocast("cpu", getattr(torch, dtype), enabled=dtype != "float32")


def our_module(problem: Problem, kind: str, engine: str) -> Any:
    """Our module with the weights of a problem."""
    make = _MODULES[problem.cell][0]
    variant = None if kind == NORMALISED else "none"
    module = make(
        problem.point.units, problem.point.units, variant=variant, engine=engine, **_sizes(problem)
    )
    module.load_params(problem.params[kind])
    return module


def _sizes(problem: Problem) -> dict[str, int]:
    return {"proj_size": problem.hidden} if problem.projected else {}


def stock_module(problem: Problem) -> Any:
    """PyTorch's module with the weights of a problem."""
    make, units = _MODULES[problem.cell][1], problem.point.units
    module = make(units, units, **_sizes(problem))
    module.load_state_dict(our_module(problem, PLAIN, "portable").state_dict())
    return module


def transposed(found: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Gradients of a module's weights as those of the canonical kernels."""
    # the first two parameters are those of the kernels
    return {"kernel": found[0].T, "recurrent_kernel": found[1].T}


def _module(module: nn.Module, problem: Problem, dtype: str) -> Runs:
    def call(x: Tensor) -> Tensor:
        with _in(dtype):
            return module(x)[0]

    return runs(call, list(module.parameters()), problem, transposed)


def _packed(module: nn.Module, problem: Problem, dtype: str) -> Runs:
    """Of a module on a PackedSequence, which is made before."""
    lengths = torch.tensor(problem.lengths)
    packed = pack_padded_sequence(torch.tensor(problem.x), lengths)
    dy = pack_padded_sequence(torch.tensor(problem.dy), lengths)

    def call(data: Tensor) -> Tensor:
        with _in(dtype):
            return module(PackedSequence(data, packed.batch_sizes))[0].data

    def padded(data: Tensor) -> np.ndarray:
        return pad_packed_sequence(PackedSequence(data.float(), packed.batch_sizes))[0].numpy()

    return _runs(call, packed.data, dy.data, list(module.parameters()), padded, transposed)


def _steps(settings: Settings) -> list[Competitor]:
    """One step from given states, without gradients."""
    stock = stock_name(settings.cell)

    def row(
        name: str, kind: str, build: Callable[[Problem], Any], of_cell: bool, base: bool = False
    ) -> Competitor:
        def ready(problem: Problem) -> Runs:
            return _step(build(problem), problem, settings.dtype, of_cell)

        return Competitor(name, kind, ready, dtype=settings.dtype, base=base)

    def compiled(problem: Problem) -> Any:
        return torch.compile(_our_cell(problem), fullgraph=True)

    return [
        row(
            "lnrnn module.step", NORMALISED, lambda p: our_module(p, NORMALISED, "auto").step, False
        ),
        row("lnrnn cell", NORMALISED, _our_cell, True),
        row("lnrnn cell, exported", NORMALISED, _exported, True),
        *([row("lnrnn cell, compiled", NORMALISED, compiled, True)] if settings.compiled else []),
        row(
            "lnrnn, T = 1",
            NORMALISED,
            lambda p: _of_one(our_module(p, NORMALISED, "auto")),
            False,
            True,
        ),
        *(_streams() if settings.dtype == "float32" else []),
        row(f"{stock}Cell", PLAIN, _stock_cell, True),
        row(f"{stock}, T = 1", PLAIN, lambda p: _of_one(stock_module(p)), False, True),
        *(
            [_in_integers(stock)]
            if settings.dtype == "float32" and settings.cell != "simple"
            else []
        ),
    ]


def _streams() -> list[Competitor]:
    """Streams by the form of their weights, into an array that is there."""

    def row(form: str) -> Competitor:
        def ready(problem: Problem) -> Runs:
            weights = Weights(problem.variants[NORMALISED], problem.params[NORMALISED])
            stream = Stream(weights, problem.point.batch, form)
            x, y = problem.x[0], np.empty_like(problem.states[0])

            def first() -> np.ndarray:
                stream.state = (tuple(problem.states),)
                return stream(x)

            # what 8 bits give is near, to no tolerance of a dtype
            return Runs({"step": lambda: stream(x, out=y)}, first if form != "int8" else None)

        name = "lnrnn.Stream" if form == "float32" else f"lnrnn.Stream, {form}"
        return Competitor(name, NORMALISED, ready, dtype=form)

    return [row(form) for form in FORMS]


def _in_integers(stock: str) -> Competitor:
    """PyTorch's module with weights of 8 bits, rounded as they are read."""

    def ready(problem: Problem) -> Runs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.ao.quantization.quantize_dynamic(
                nn.Sequential(stock_module(problem)), {nn.LSTM, nn.GRU}, dtype=torch.qint8
            )[0]
        return _step(_of_one(module), problem, "float32", False)._replace(y=None)

    return Competitor(f"{stock}, int8, T = 1", PLAIN, ready)


def _step(step: Callable[[Tensor, Any], Any], problem: Problem, dtype: str, of_cell: bool) -> Runs:
    """Of a function of x (B, I) and the states, (B, H) for a cell and (1, B, H) for a module."""
    x, states = torch.tensor(problem.x[0]), _states(problem)
    states = states if of_cell else [s[None] for s in states]
    hx = tuple(states) if len(states) == 2 else states[0]

    def call() -> Any:
        with torch.no_grad(), _in(dtype):
            return step(x, hx)

    def array() -> np.ndarray:
        found = call()
        output = found[0] if isinstance(found, tuple) else found
        return output.float().numpy().reshape(problem.states[0].shape)

    return Runs({"step": call}, array)


def _states(problem: Problem) -> list[Tensor]:
    return [torch.tensor(s) for s in problem.states]


def _of_one(module: Any) -> Callable[[Tensor, Any], Any]:
    """A module on a sequence of one step."""
    return lambda x, hx: module(x[None], hx)


def _our_cell(problem: Problem) -> Any:
    cell = _CELLS[problem.cell][0](problem.point.units, problem.point.units)
    cell.load_params(problem.params[NORMALISED])
    return cell.eval()


def _exported(problem: Problem) -> Any:
    states = _states(problem)
    given = torch.tensor(problem.x[0]), tuple(states) if len(states) == 2 else states[0]
    return torch.export.export(_our_cell(problem), given).module()


def _stock_cell(problem: Problem) -> Any:
    cell = _CELLS[problem.cell][1](problem.point.units, problem.point.units)
    weights = our_module(problem, PLAIN, "portable").state_dict()
    cell.load_state_dict({n.removesuffix("_l0"): w for n, w in weights.items()})
    return cell


def lstm(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    """A layer-normalised LSTM as one writes it, (T, B, I) to (T, B, H)."""
    h = x.new_zeros(x.size(1), w["recurrent_kernel"].size(0))
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
    h = x.new_zeros(x.size(1), w["recurrent_kernel"].size(0))
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
    h = x.new_zeros(x.size(1), w["recurrent_kernel"].size(0))
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


def _loop(
    loop: Callable[[Tensor, dict[str, Tensor]], Tensor], problem: Problem, packed: bool = False
) -> Runs:
    """Of a loop; what it computes beyond the lengths of packed sequences is set to zero."""
    weights = {
        n: torch.tensor(a, requires_grad=True) for n, a in problem.params[NORMALISED].items()
    }
    valid = torch.tensor(problem.valid)
    return runs(
        lambda x: loop(x, weights) * valid if packed else loop(x, weights),
        list(weights.values()),
        problem,
        lambda found: {"kernel": found[0], "recurrent_kernel": found[1]},
    )


def scripted_loop(problem: Problem, packed: bool = False) -> Runs:
    """The runs of a loop in TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit.script as a whole
        loop: Any = torch.jit.script(_LOOPS[problem.cell])
    return _loop(loop, problem, packed)


def compiled_loop(problem: Problem, packed: bool = False) -> Runs:
    """The runs of a loop by torch.compile."""
    return _loop(torch.compile(_LOOPS[problem.cell], fullgraph=True), problem, packed)


def products(problem: Problem, dtype: torch.dtype) -> Runs:
    """Large products of the same floating-point work."""
    a, b = (torch.randn(shape, dtype=dtype) for shape in problem.product)

    def times(count: int) -> None:
        for _ in range(count):
            torch.mm(a, b)

    return Runs({"forward": lambda: times(2), "training": lambda: times(6)})
