"""JAX's way to the kernels: our handler of launches, which a driver that is none tells of, with
kernels interpreted; and what is lowered for CUDA where there is no device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import emulated
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from test_kernels import EXTRAS, SUPPORTED, by_reference, draw

from lnrnn import engines
from lnrnn.engines import select
from lnrnn.engines.triton import answers, choose, device, jax_launch, jax_op, refuse
from lnrnn.testing.tolerances import assert_close


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> emulated.Emulated:
    return emulated.Emulated(tmp_path_factory.mktemp("driver"))


@pytest.fixture(autouse=True)
def driver(library, monkeypatch) -> Any:
    """The driver, and no failure of what it ran."""
    monkeypatch.setattr(jax_launch, "binary", library.binary)
    device.first.cache_clear()  # asked before the driver was there
    refuse._of_driver.cache_clear()
    jax.clear_caches()
    library.launches.clear()
    yield library
    assert library.failure is None, library.failure


@pytest.fixture(params=["tile", "rows", "split"])
def kernel(request, monkeypatch) -> str:
    """Which kernel computes the loop over time; one program of K3 has all columns."""
    if request.param != "tile":
        monkeypatch.setattr(choose, "fits_tile", lambda *_: False)
    options = choose.Split(16, 16, 4, 16, 1) if request.param == "split" else None
    monkeypatch.setattr(choose, "split", lambda *_: options)
    return request.param


def compute(
    variant: Any, params: Any, given: Any, dtype: str = "float32", clip: float | None = None
) -> dict[str, np.ndarray]:
    """Outputs and gradients by the engine, by name."""
    request = select.Request(variant, "jax", dtype, named=True)
    run = select.choose("triton", request).load(request)
    extras = {
        n: jnp.asarray(a, a.dtype if a.dtype == bool else "float32")
        for n, a in given.extras.items()
    }
    begun = {"x": given.x, "h0": given.h0} | ({} if given.c0 is None else {"c0": given.c0})
    leaves = {n: jnp.asarray(a, dtype) for n, a in begun.items()}
    leaves |= {n: jnp.asarray(extras.pop(n), dtype) for n in ("reset_h", "reset_c") if n in extras}
    leaves |= {n: jnp.asarray(p, "float32") for n, p in params.items()}

    def total(leaves: dict[str, jax.Array]) -> Any:
        y, final = run(
            variant,
            {n: leaves[n] for n in params},
            leaves["x"],
            tuple(leaves[n] for n in ("h0", "c0") if n in leaves),
            masked_output="hold",
            recurrent_gradient_clip=clip,
            reset_states=tuple(leaves[n] for n in ("reset_h", "reset_c") if n in leaves) or None,
            **extras,
        )
        weights = [given.dy, given.dh, *([] if given.c0 is None else [given.dc])]
        loss = sum((jnp.asarray(w) * v).sum() for w, v in zip(weights, (y, *final), strict=True))
        return loss, {"y": y} | {f"final {i}": s for i, s in enumerate(final)}

    gradients, found = jax.jit(jax.grad(total, has_aux=True))(leaves)
    found |= {f"gradient of {n}": g for n, g in gradients.items()}
    return {n: np.asarray(v, np.float32) for n, v in found.items()}


def compare(variant: Any, drawn: Any, dtype: str = "float32", clip: float | None = None) -> None:
    found = compute(variant, *drawn, dtype, clip)
    for name, value in by_reference(variant, *drawn, clip).items():
        assert_close(name, found[name], value, dtype, gradient="gradient" in name)


SOME = ("lstm_x_h_cell_output", "gru_inside_groups", "ligru_mixed_sites")


@pytest.mark.parametrize("name", SOME)
def test_variants_with_every_option(name, kernel):
    compare(SUPPORTED[name], draw(SUPPORTED[name], (4, 3, 7), EXTRAS), clip=0.05)


@pytest.mark.parametrize(
    "name", ["lstm_peephole_cell_output", "gru_x_h", "indrnn", "lstm_x_h_hidden"]
)
def test_variants(name):
    compare(SUPPORTED[name], draw(SUPPORTED[name], (3, 18, 16)))


@pytest.mark.parametrize("loop", ["tile", "rows"])
def test_a_product_that_waits_for_r(loop, monkeypatch):
    monkeypatch.setattr(choose, "fits_tile", lambda *_: loop == "tile")
    variant = SUPPORTED["gru_before_x_h_groups"]
    compare(variant, draw(variant, (4, 3, 7), EXTRAS))


def test_half_precision(kernel):
    variant = SUPPORTED["lstm_x_h_cell_output"]
    params, given = draw(variant, (3, 5, 9))
    rounded = {
        n: np.asarray(jnp.asarray(getattr(given, n), "bfloat16"), np.float64)
        for n in ("x", "h0", "c0")
    }
    compare(variant, (params, given._replace(**rounded)), "bfloat16")


def test_launches_of_a_training_step(driver, kernel):
    variant = SUPPORTED["lstm_x_h_cell_output"]
    params, given = draw(variant, (3, 18, 7))
    before = engines.runs(), engines.runs(backward=True)
    compute(variant, params, given)
    assert dict(engines.runs() - before[0]) == {("triton", "jax"): 1}
    assert dict(engines.runs(backward=True) - before[1]) == {("triton", "jax"): 1}
    kernels = {
        "tile": ["tile.forward", "tile.backward"],
        "split": ["split.forward", "split.backward"],
        "rows": ["rows.begin", *3 * ["rows.forward_at"], *3 * ["rows.backward_at"], "rows.end"],
    }[kernel]
    expected = ["prepare.weights", "parallel.inputs", *kernels, "parallel.gradients"]
    assert [launch.kernel for launch in driver.launches] == expected
    at_once = kernel == "split"
    of_loop = driver.launches[2 : 2 + len(kernels)]
    assert [launch.at_once for launch in of_loop] == [at_once] * len(kernels)
    assert of_loop[1].scalars["B"] == 18
    assert of_loop[1].scalars["T"] == 3
    loop = of_loop[0]
    assert loop.grid == ((1, 2, 1) if at_once else (2, 1, 1) if kernel == "tile" else (1, 1, 1))
    assert loop.shared == emulated.SHARED
    assert driver.library.lnrnn_most_shared() == emulated.SHARED
    assert driver.library.lnrnn_contexts() == 0


def test_a_kernel_is_loaded_once(driver):
    variant = SUPPORTED["gru_x_h"]
    params, given = draw(variant, (3, 2, 7))
    names = [n for n in ("h0", "c0") if getattr(given, n) is not None]
    run = select.choose("triton", select.Request(variant, "jax")).load(
        select.Request(variant, "jax")
    )
    leaves = {n: jnp.asarray(p, "float32") for n, p in params.items()}
    states = tuple(jnp.asarray(getattr(given, n), "float32") for n in names)
    call = jax.jit(lambda x: run(variant, leaves, x, states)[0])
    x = jnp.asarray(given.x, "float32")
    y = call(x).block_until_ready()
    loads = driver.library.lnrnn_loads()
    assert (call(x) == y).all()
    assert driver.library.lnrnn_loads() == loads


def test_a_flag_is_an_error_at_the_next_call(driver, monkeypatch):
    monkeypatch.setattr(choose, "fits_tile", lambda *_: False)
    monkeypatch.setattr(choose, "split", lambda *_: choose.Split(16, 16, 4, 16, 1))
    variant = SUPPORTED["gru_x_h"]
    drawn = draw(variant, (3, 2, 7))
    driver.library.lnrnn_raise()
    with pytest.raises(
        jax.errors.JaxRuntimeError, match=r"waited for each other in vain.*portable"
    ):
        compute(variant, *drawn)
    compare(variant, drawn)


def test_a_driver_that_says_no(driver, monkeypatch):
    def broken(*args: Any) -> jax_launch.Binary:
        return driver.binary(*args)._replace(image=b"broken", key="broken")

    monkeypatch.setattr(jax_launch, "binary", broken)
    variant = SUPPORTED["gru_x_h"]
    with pytest.raises(
        jax.errors.JaxRuntimeError, match=r"Loading of the kernel .* image is invalid"
    ):
        compute(variant, *draw(variant, (3, 2, 7)))
    assert driver.library.lnrnn_contexts() == 0


def test_forward_mode_takes_the_definition(driver):
    variant = SUPPORTED["simple_x_h"]
    params, given = draw(variant, (2, 2, 5))
    leaves = {n: jnp.asarray(p, "float32") for n, p in params.items()}
    x, h0 = jnp.asarray(given.x, "float32"), jnp.asarray(given.h0, "float32")

    def moved(engine: str) -> Any:
        request = select.Request(variant, "jax", named=True)
        run = select.choose(engine, request).load(request)
        return jax.jvp(lambda x: run(variant, leaves, x, (h0,))[0], (x,), (jnp.cos(x),))[1]

    assert_close("tangent", np.asarray(moved("triton")), np.asarray(moved("portable")), "float32")


def test_a_batch_of_batches_is_one_launch(driver):
    variant = SUPPORTED["gru_x_h"]
    params, given = draw(variant, (3, 4, 7))
    leaves = {n: jnp.asarray(p, "float32") for n, p in params.items()}
    x, h0 = jnp.asarray(given.x, "float32"), jnp.asarray(given.h0, "float32")
    request = select.Request(variant, "jax", named=True)
    run = select.choose("triton", request).load(request)
    once = run(variant, leaves, x, (h0,))[0].block_until_ready()
    count = len(driver.launches)

    def part(x: jax.Array, h0: jax.Array) -> jax.Array:
        return run(variant, leaves, x, (h0,))[0]

    halves = x.reshape(3, 2, 2, 3).swapaxes(0, 1), h0.reshape(2, 2, 7)
    y = jax.vmap(part)(*halves).swapaxes(0, 1).reshape(3, 4, 7)
    assert jnp.allclose(y, once, atol=1e-6)
    assert len(driver.launches) == 2 * count


def test_a_batch_that_is_divided_among_devices(driver):
    variant = SUPPORTED["lstm_x_h_cell_output"]
    params, given = draw(variant, (3, 4, 7))
    leaves = {n: jnp.asarray(p, "float32") for n, p in params.items()}
    x, h0, c0 = (jnp.asarray(a, "float32") for a in (given.x, given.h0, given.c0))
    request = select.Request(variant, "jax", named=True)
    run = select.choose("triton", request).load(request)

    @jax.jit
    def gradients(leaves: Any, x: jax.Array, states: Any) -> Any:
        def total(leaves: Any, x: jax.Array, states: Any) -> jax.Array:
            return (run(variant, leaves, x, states)[0] * given.dy).sum()

        return jax.grad(total, argnums=(0, 1, 2))(leaves, x, states)

    mesh = Mesh(np.array(jax.devices()), ("parts",))

    def placed(array: jax.Array, *axes: str | None) -> jax.Array:
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*axes)))

    whole = jax.block_until_ready(gradients(leaves, x, (h0, c0)))
    driver.launches.clear()
    states = placed(h0, "parts"), placed(c0, "parts")
    found = gradients(jax.tree.map(placed, leaves), placed(x, None, "parts"), states)
    assert found[1].sharding.spec[1] == "parts"
    jax.block_until_ready(found)
    for one, two in zip(*map(jax.tree.leaves, (whole, found)), strict=True):
        assert_close("gradient", np.asarray(two), np.asarray(one), "float32", gradient=True)
    assert {launch.scalars["B"] for launch in driver.launches if "tile" in launch.kernel} == {2}


# ---- the self-check


@pytest.fixture
def checked(monkeypatch, tmp_path):
    """The self-check as on a device, with a file of its own."""
    monkeypatch.setenv("LNRNN_GPU_CHECK", "force")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(answers, "_answers", {})
    monkeypatch.setattr(answers, "_warned", set())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_right_kernels_pass_the_check(dtype, checked):
    """It runs while the call that asks is traced."""
    variant = SUPPORTED["lstm_x_h_cell_output"]
    compute(variant, *draw(variant, (3, 2, 7), EXTRAS), dtype)
    assert list(answers._answers.values()) == [None]


def test_a_wrong_kernel_is_refused(checked, monkeypatch):
    forward = jax_op._Pass.forward

    def off(self: Any, keep: bool) -> Any:
        found = forward(self, keep)
        return found | {"h": found["h"] + 0.1}

    monkeypatch.setattr(jax_op._Pass, "forward", off)
    variant = SUPPORTED["gru_x_h"]
    params, given = draw(variant, (3, 2, 7))
    with pytest.raises(ValueError, match=r"self-check: the error of h is .*engine='portable'"):
        compute(variant, params, given)
    request = select.Request(variant, "jax")
    leaves = {n: jnp.asarray(p, "float32") for n, p in params.items()}
    x, h0 = jnp.asarray(given.x, "float32"), jnp.asarray(given.h0, "float32")
    with pytest.warns(UserWarning, match="The portable engine computes"):
        y, _ = select.Triton().load(request)(variant, leaves, x, (h0,))
    assert jnp.allclose(y, select.Portable().load(request)(variant, leaves, x, (h0,))[0])


def test_a_check_has_the_kernels_of_the_call():
    def kernel(batch: int) -> str:
        return "split" if batch <= 100 else "rows"

    assert answers.batch_like(7, kernel) == 7
    assert answers.batch_like(90, kernel) == 19
    assert answers.batch_like(1000, kernel) == 125


# ---- what a device is asked


def test_the_driver_says_what_the_device_is():
    assert device.first() == device.Device(9, 0, 132, 232_448, "none", 12_080)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, "NVIDIA's driver finds no device"),
        (device.Device(7, 5, 40, 65_536), "compute capability 8.0, and the device has 7.5"),
    ],
)
def test_devices_that_are_refused(found, reason, monkeypatch):
    monkeypatch.setattr(device, "first", lambda: found)
    answer = select.report(select.Request(SUPPORTED["gru"], "jax"))["triton"]
    assert isinstance(answer, select.No) and reason in answer.reason


# ---- what is lowered for a device


@pytest.fixture(scope="module")
def lowered() -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).with_name("lowered.py"))]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


LOOPS = {
    "64 bfloat16": [("forward", [2, 1, 1], 0), ("backward", [2, 1, 1], 0)],
    "256 float32": [("forward", [16, 2, 1], 1), ("backward", [16, 2, 1], 1)],
    "1100 bfloat16": [
        ("begin", [20, 1, 1], 0), ("forward_at", [20, 1, 1], 0), ("backward_at", [20, 1, 1], 0),
        ("end", [20, 1, 1], 0),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_lowering_for_cuda(lowered, name):
    launches = lowered[name]
    names = [launch["name"] for launch in launches]
    loop = [n for n, _, _ in LOOPS[name]]
    # what is in a loop of XLA stands apart
    assert sorted(names) == sorted(["weights", "inputs", *loop, "gradients"])
    by_name = {launch["name"]: launch for launch in launches}
    for of_loop, grid, at_once in LOOPS[name]:
        launch = by_name[of_loop]
        *found, threads, shared, once = launch["launch"]
        assert (found, once) == (grid, at_once)
        assert threads in (64, 128, 256, 512)
        assert shared <= 232_448
        # every parameter is an operand, a result or a number, but those that Triton adds
        assert launch["parameters"][-2:] == [-2, -2]
        arrays = len(launch["operands"]) + len(launch["results"])
        assert max(launch["parameters"]) < arrays
    units, dtype = name.split()
    short = {"bfloat16": "bf16", "float32": "f32"}[dtype]
    made = by_name[next(n for n in names if n.startswith("forward"))]
    assert f"5x20x{units}x{short}" in made["results"]
    assert f"6x20x{-(-int(units) // 16) * 16}x{short}" in made["results"]
