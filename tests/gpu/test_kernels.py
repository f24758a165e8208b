"""The kernels, interpreted, against the NumPy reference: variants, shapes, options, memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import device
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import GridExecutor

from lnrnn import engines, reference
from lnrnn.bench import on_cuda, problem
from lnrnn.bench.settings import Point, Settings
from lnrnn.engines import select
from lnrnn.engines.fused.call import Inputs, Numbers
from lnrnn.engines.triton import answers, check, choose, describe, torch_op
from lnrnn.engines.triton.device import Device
from lnrnn.testing import adapters, golden
from lnrnn.testing.cases import VARIANTS, Extra, random_inputs, random_params, sizes_for
from lnrnn.testing.tolerances import assert_close
from lnrnn.torch import LayerNormGRU, LayerNormLSTM, inputs
from lnrnn.variant import Variant

SUPPORTED = {n: v for n, v in VARIANTS.items() if describe.refusal(v) is None}
EXTRAS: tuple[Extra, ...] = (
    "mask", "reset", "zoneout", "recurrent_mask", "candidate_mask", "reset_states",
)  # fmt: skip
GOLDEN = Path(__file__).parents[1] / "golden"
_GUARD = 64


@pytest.fixture(params=["tile", "rows"])
def kernel(request, monkeypatch) -> str:
    """Which kernel computes the loop over time."""
    if request.param == "rows":
        monkeypatch.setattr(choose, "fits_tile", lambda *_: False)
    return request.param


@pytest.fixture
def guarded(monkeypatch) -> Iterator[None]:
    """New tensors hold NaN and lie between rows of NaN, which nothing may overwrite."""
    around, plain = [], torch.Tensor.new_empty

    def empty(shape: Any, dtype: Any) -> torch.Tensor:
        n = torch.Size(shape).numel()
        whole = torch.full((n + 2 * _GUARD,), float("nan"), dtype=dtype)
        around.append(whole)
        return whole[_GUARD : _GUARD + n].view(shape)

    def new_empty(like: torch.Tensor, *shape: Any, **options: Any) -> torch.Tensor:
        if not like.is_floating_point():  # Triton's own
            return plain(like, *shape, **options)
        return empty(shape[0] if not isinstance(shape[0], int) else shape, like.dtype)

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
    monkeypatch.setattr(torch, "empty_like", lambda t, **_: empty(t.shape, t.dtype))
    yield
    assert around
    for whole in around:
        assert whole[:_GUARD].isnan().all() and whole[-_GUARD:].isnan().all()


def compute(
    variant: Variant, params: Any, given: Any, dtype: str = "float32", clip: float | None = None
) -> dict[str, np.ndarray]:
    """Outputs and gradients by the engine, by name."""
    request = select.Request(variant, "torch", dtype, named=True)
    run = select.choose("triton", request).load(request)
    low = getattr(torch, dtype)

    def tensor(array: Any, of: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.tensor(array) if array.dtype == bool else torch.tensor(array, dtype=of)

    states = {"h0": given.h0} | ({} if given.c0 is None else {"c0": given.c0})
    extras = dict(given.extras)
    of_resets = {n: extras.pop(n) for n in ("reset_h", "reset_c") if n in extras}
    begun = {"x": given.x} | states | of_resets
    leaves = {n: tensor(a, low) for n, a in begun.items()}
    leaves |= {n: tensor(p) for n, p in params.items()}
    leaves = {n: t.requires_grad_() for n, t in leaves.items()}
    y, final = run(
        variant,
        {n: leaves[n] for n in params},
        leaves["x"],
        tuple(leaves[n] for n in states),
        masked_output="hold",
        recurrent_gradient_clip=clip,
        reset_states=tuple(leaves[n] for n in of_resets) or None,
        **{n: tensor(a) for n, a in extras.items()},
    )
    weights = [given.dy, given.dh, *([] if given.c0 is None else [given.dc])]
    total: Any = sum((tensor(w) * v).sum() for w, v in zip(weights, (y, *final), strict=True))
    gradients = torch.autograd.grad(
        total, list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    found = {"y": y, **{f"final {i}": s for i, s in enumerate(final)}}
    found |= {f"gradient of {n}": g for n, g in zip(leaves, gradients, strict=True)}
    return {n: v.detach().float().numpy() for n, v in found.items()}


def by_reference(
    variant: Variant, params: Any, given: Any, clip: float | None = None
) -> dict[str, Any]:
    run = reference.forward(
        variant, params, given.x, given.h0, given.c0, masked_output="hold", **given.extras
    )
    back = reference.backward(run, given.dy, given.dh, given.dc, recurrent_gradient_clip=clip)
    found = {"y": run.y, "final 0": run.h, "gradient of x": back.x, "gradient of h0": back.h0}
    if given.c0 is not None:
        found |= {"final 1": run.c, "gradient of c0": back.c0}
    if "reset_h" in given.extras:
        found["gradient of reset_h"] = back.reset_h
    if "reset_c" in given.extras:
        found["gradient of reset_c"] = back.reset_c
    return found | {f"gradient of {n}": g for n, g in back.params.items()}


def draw(variant: Variant, shape: tuple[int, int, int], extras: Any = (), seed: int = 1):
    """Weights and inputs for T, B and H."""
    steps, batch, units = shape
    rng = np.random.default_rng(seed)
    sizes = sizes_for(variant, 3, units)
    return random_params(variant, sizes, rng), random_inputs(
        variant, sizes, rng, steps, batch, extras
    )


def compare(variant: Variant, drawn: Any, dtype: str = "float32", clip: float | None = None):
    found = compute(variant, *drawn, dtype, clip)
    for name, value in by_reference(variant, *drawn, clip).items():
        assert_close(name, found[name], value, dtype, gradient="gradient" in name)


@pytest.mark.parametrize("name", SUPPORTED)
def test_every_variant(name, kernel, guarded):
    compare(SUPPORTED[name], draw(SUPPORTED[name], (4, 5, 7)))


@pytest.mark.parametrize("name", SUPPORTED)
def test_every_option(name, kernel, guarded):
    compare(SUPPORTED[name], draw(SUPPORTED[name], (5, 3, 16), EXTRAS), clip=0.05)


SOME = ("lstm_x_h_cell_output", "gru_x_h", "gru_before_x_h_groups", "simple_x_h")


@pytest.mark.parametrize("shape", [(3, 1, 1), (4, 18, 33), (2, 17, 128)])
@pytest.mark.parametrize("name", SOME)
def test_shapes(name, shape, kernel, guarded):
    compare(SUPPORTED[name], draw(SUPPORTED[name], shape))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", SOME)
def test_half_precision(name, dtype, kernel):
    variant = SUPPORTED[name]
    params, given = draw(variant, (5, 5, 33), EXTRAS)
    low = getattr(torch, dtype)

    def rounded(array: np.ndarray) -> np.ndarray:
        return torch.tensor(array).to(low).double().numpy()

    given = given._replace(**{n: rounded(getattr(given, n)) for n in ("x", "h0")})
    if given.c0 is not None:
        given = given._replace(c0=rounded(given.c0))
    compare(variant, (params, given), dtype)


@pytest.mark.parametrize("epsilon", [0.0, 1e-12])
def test_small_epsilons(epsilon, kernel):
    variant = SUPPORTED["lstm_x_h_cell_output"].replace(epsilon=epsilon)
    compare(variant, draw(variant, (4, 3, 9)))


def test_a_zero_prefix(kernel):
    """Zero inputs at a zero state: norms of zeros, forward and backward."""
    variant = SUPPORTED["lstm_x_h_cell_output"].replace(epsilon=1e-3)
    params, given = draw(variant, (6, 3, 9))
    x = given.x.copy()
    x[:4] = 0
    given = given._replace(x=x, h0=0 * given.h0, c0=0 * given.c0)
    compare(variant, (params, given))


def test_a_sequence_of_another_layout():
    """x as a batch-first caller has it, and weights as a module does."""
    variant = SUPPORTED["gru_x_h"]
    params, given = draw(variant, (4, 5, 7))
    expected = compute(variant, params, given)
    turned = given._replace(x=np.ascontiguousarray(given.x.swapaxes(0, 1)).swapaxes(0, 1))
    found = compute(variant, {n: np.asfortranarray(p) for n, p in params.items()}, turned)
    for name, value in expected.items():
        assert_close(name, found[name], value, "float32", gradient="gradient" in name)


def test_inference_keeps_nothing_and_gives_the_same(kernel):
    module = LayerNormLSTM(3, 9, engine="triton")
    x = torch.randn(4, 5, 3)
    with torch.no_grad():
        y, _ = module(x)
    assert torch.equal(y, module(x)[0])


@pytest.mark.parametrize("path", golden.find([GOLDEN]), ids=lambda path: path.name)
def test_golden_files(path):
    file = golden.read(path)
    if file is None or file.dtype != "float32":
        return
    try:
        assert golden.compare(file, adapters.choose("triton")) is None
    except adapters.Unsupported as answer:
        assert select.report(select.Request(file.variant, "torch"))["triton"] == select.No(
            str(answer)
        )


# ---- the engine


def test_its_runs_are_counted():
    module = LayerNormGRU(3, 5, 2, engine="triton")
    before = engines.runs(), engines.runs(backward=True)
    module(torch.randn(3, 2, 3))[0].sum().backward()
    two = {("triton", "torch"): 2}
    assert dict(engines.runs() - before[0]) == two
    assert dict(engines.runs(backward=True) - before[1]) == two


class Launches(TorchDispatchMode):
    """Counts what would start a kernel of a device: operations that compute, and our kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self._inside = 0, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not (self._inside or func.is_view or "empty" in name or name in ("detach", "alias")):
            self.count += 1
        return func(*args, **(kwargs or {}))

    def kernel(self, run: Any) -> Any:
        """A kernel that the interpreter runs, as one launch."""

        def launch(*args: Any, **kwargs: Any) -> Any:
            self.count, self._inside = self.count + 1, True
            try:
                return run(*args, **kwargs)
            finally:
                self._inside = False

        return launch


def test_a_half_module_casts_its_weights_at_once(monkeypatch):
    """As on a device: few launches, and the same gradients."""
    module = LayerNormLSTM(3, 16, engine="triton").bfloat16()
    x = torch.randn(4, 2, 3, dtype=torch.bfloat16)

    def gradients() -> list[torch.Tensor]:
        loss = module(x)[0].float().square().sum()
        return list(torch.autograd.grad(loss, list(module.parameters())))

    launches = Launches()
    run = GridExecutor.__call__
    monkeypatch.setattr(GridExecutor, "__call__", lambda *a, **k: launches.kernel(run)(*a, **k))
    with launches:
        apart = gradients()
    count, launches.count = launches.count, 0
    monkeypatch.setattr(inputs, "launches", lambda v: True)
    with launches:
        together = gradients()
    # eight weights, and their gradients
    assert launches.count <= count - 8
    for one, other in zip(apart, together, strict=True):
        assert torch.equal(one, other) and one.dtype == other.dtype == torch.bfloat16


# forward: weights, x W, norms of x, the loop; backward: the loop, the rest, two sums, dx, dW, dU
@pytest.mark.parametrize(("name", "most"), [("lstm_x_h_cell_output", 11), ("gru", 9)])
def test_a_training_step_launches_few_kernels(name, most, monkeypatch):
    variant = SUPPORTED[name]
    params, given = draw(variant, (3, 4, 16))
    request = select.Request(variant, "torch", named=True)
    launches = Launches()
    run = GridExecutor.__call__
    monkeypatch.setattr(GridExecutor, "__call__", lambda *a, **k: launches.kernel(run)(*a, **k))
    numbers = Numbers(epsilon=variant.epsilon)
    leaves = {n: torch.tensor(p, dtype=torch.float32) for n, p in params.items()}
    caught: list[Any] = []
    kernels = torch_op.recurrence.passes
    monkeypatch.setattr(kernels, "ready", lambda *a: caught.append(a) or True)
    x = torch.tensor(given.x, dtype=torch.float32)
    states = [torch.tensor(s, dtype=torch.float32) for s in (given.h0, given.c0) if s is not None]
    select.choose("triton", request).load(request)(variant, leaves, x, tuple(states))
    cell, _, inputs, _ = caught[0]
    launches.count = 0
    with launches:
        h, *kept, h_last, c_last = kernels.forward(cell, numbers, inputs, 1)
        incoming = (torch.empty_like(h), h_last, c_last if c_last.numel() else None)
        kernels.backward(cell, numbers, inputs, tuple(kept), incoming, True)
    assert 0 < launches.count <= most


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_a_benchmark_measures_computes_the_same(dtype):
    settings = Settings(framework="torch", threads=1, dtype=dtype, device="cuda")
    given = problem.Problem("lstm", Point(4, 3, 8))
    ready = {c: c.build(given) for c in on_cuda.on_device(settings, "triton")}
    problem.check(ready)
    first = next(iter(ready))
    before = engines.runs()
    ready[first].calls["training"]()
    assert dict(engines.runs() - before) == {("triton", "torch"): 1}


def test_second_derivatives_are_the_definitions():
    torch.manual_seed(0)
    module = LayerNormLSTM(3, 5, engine="triton")
    portable = LayerNormLSTM(3, 5, engine="portable")
    portable.load_state_dict(module.state_dict())
    x = torch.randn(3, 2, 3)

    def penalty(m: Any) -> list[torch.Tensor]:
        given = x.clone().requires_grad_()
        first = torch.autograd.grad(m(given)[0].square().sum(), given, create_graph=True)[0]
        return [first, *torch.autograd.grad(first.square().sum(), list(m.parameters()))]

    for found, expected in zip(penalty(module), penalty(portable), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_vmap_takes_the_definition():
    module = LayerNormLSTM(3, 5, engine="triton").eval()
    x = torch.randn(2, 4, 1, 3)
    with torch.no_grad():
        found = torch.func.vmap(lambda v: module(v)[0])(x)
        assert torch.allclose(found, torch.stack([module(v)[0] for v in x]), atol=1e-5)


def test_the_operator_keeps_its_contract():
    params, given = draw(SUPPORTED["lstm_x_h_cell_output"], (3, 2, 5))
    variant = SUPPORTED["lstm_x_h_cell_output"]

    def leaf(array: Any) -> torch.Tensor:
        return torch.tensor(array, dtype=torch.float32, requires_grad=True)

    a = Inputs(**dict.fromkeys(Inputs._fields))._replace(
        kernel=leaf(params["kernel"]),
        recurrent=leaf(params["recurrent_kernel"]),
        gain_x=leaf(params["x_norm_gain"]),
        gain_h=leaf(params["h_norm_gain"]),
        gain_c=leaf(params["cell_norm_gain"]),
        x=leaf(given.x),
        h0=leaf(given.h0),
        c0=leaf(given.c0),
    )
    torch.library.opcheck(
        torch_op.recurrence.operator,
        (*a, [*describe.encode(variant)], [*Numbers(epsilon=variant.epsilon)], 1),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


def test_what_it_refuses():
    def answer(variant: Variant, **options: Any) -> str:
        found = select.report(select.Request(variant, "torch", **options))["triton"]
        return "" if isinstance(found, select.Yes) else found.reason

    lstm = VARIANTS["lstm"]
    assert answer(lstm) == ""
    assert "float64" in answer(lstm, dtype="float64")
    assert "cuda" in answer(lstm, device="cuda")
    assert "peephole" in answer(VARIANTS["lstm_coupled_peephole_inside"])
    assert "projection" in answer(VARIANTS["lstm_projection_hidden"])
    assert "pre" in answer(VARIANTS["gru_whole_pre"])
    assert "NVIDIA" in select.report(select.Request(lstm, "jax"))["triton"].reason
    with pytest.raises(ValueError, match="float64"):
        LayerNormLSTM(3, 5, engine="triton").double()(torch.randn(2, 1, 3).double())


@pytest.mark.parametrize("name", SUPPORTED)
def test_numbers_say_what_a_cell_is(name):
    variant = SUPPORTED[name]
    again = describe.decode(describe.encode(variant))
    assert describe.encode(again) == describe.encode(variant)
    assert describe.describe(again, 5).__dict__ == describe.describe(variant, 5).__dict__


# ---- the self-check


@pytest.fixture
def checked(monkeypatch, tmp_path):
    """The self-check as on a device, with a file of its own."""
    monkeypatch.setenv("LNRNN_GPU_CHECK", "force")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch_op.recurrence.passes, "_refusals", {})
    monkeypatch.setattr(answers, "_answers", {})
    monkeypatch.setattr(answers, "_warned", set())
    return tmp_path / "lnrnn" / "gpu-check.json"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("module", [LayerNormLSTM, LayerNormGRU])
def test_right_kernels_pass_the_check(module, dtype, checked, kernel):
    run = module(3, 20, engine="triton").to(getattr(torch, dtype))
    run(torch.randn(3, 2, 3).to(getattr(torch, dtype)))
    assert list(torch_op.recurrence.passes._refusals.values()) == [None]


@pytest.fixture
def wrong(monkeypatch):
    """Kernels whose last step is off by a little in one unit."""
    forward = torch_op._forward

    def off(*args: Any, **kwargs: Any) -> Any:
        h, *rest = forward(*args, **kwargs)
        h[-1, :, 0] += 0.1
        return h, *rest

    monkeypatch.setattr(torch_op, "_forward", off)


def test_a_wrong_kernel_is_refused(checked, wrong):
    x = torch.randn(3, 2, 3)
    torch.manual_seed(0)
    named = LayerNormLSTM(3, 8, engine="triton")
    with pytest.raises(ValueError, match=r"self-check: the error of h is .*engine='portable'"):
        named(x)
    free = LayerNormLSTM(3, 8)
    free.load_state_dict(named.state_dict())
    request = select.Request(free.variant, "torch")
    run = select.Triton().load(request)
    params = {n: torch.tensor(p).float() for n, p in free.params().items()}
    states = torch.zeros(2, 8), torch.zeros(2, 8)
    with pytest.warns(UserWarning, match="The portable engine computes"):
        y, _ = run(free.variant, params, x, states)
    portable = select.Portable().load(request)
    assert torch.allclose(y, portable(free.variant, params, x, states)[0])


def test_the_script_for_a_device_says_what_is_refused(checked, wrong):
    assert len(device.entries(few=False)) > 250
    said = device.refused(("gru_x_h", "float32", 20), "cpu")
    assert said and said.startswith("gru_x_h, float32, 20 units: The Triton engine is refused")


def test_the_script_for_a_device_passes(checked):
    assert device.refused(("lstm_peephole_cell_output", "bfloat16", 20), "cpu") is None
    assert list(torch_op.recurrence.passes._refusals.values()) == [None]


def test_answers_are_of_a_device_and_its_driver(monkeypatch):
    """PyTorch tells the one, and need not tell the other."""
    card = SimpleNamespace(name="H100", major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(check.device, "first", lambda: Device(9, 0, 132, 1 << 17, "H100", 13000))
    like: Any = SimpleNamespace(is_cuda=True, device="cuda:0")
    assert check._device(like) == ("H100", 9, 0, torch.version.cuda, 13000)


def test_answers_are_kept_in_a_file(checked):
    answers._write("a", None)
    answers._write("b", "off")
    assert answers._read() == {"a": None, "b": "off"}
    checked.write_text("no answers")
    assert answers._read() == {}
