"""A recurrence and its gradient on JAX, lowered for CUDA where there is no device.

Prints as JSON, for some sizes and dtypes, what each launch is told.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)
os.environ["LNRNN_GPU_CHECK"] = "skip"

import jax
import jax.numpy as jnp

from lnrnn.engines import triton
from lnrnn.engines.triton import device
from lnrnn.params import Sizes, shapes
from lnrnn.testing.cases import VARIANTS

VARIANT = VARIANTS["lstm_x_h_cell_output"]
STEPS, BATCH, INPUTS = 5, 20, 7
LAUNCH = re.compile(r"custom_call @lnrnn_launch\(.*")


def lowered(units: int, dtype: str) -> str:
    """The program of the gradient of all, in StableHLO."""
    run = triton.on("jax", named=True).sequence
    of = shapes(VARIANT, Sizes(INPUTS, units, units))
    params = {n: jax.ShapeDtypeStruct(shape, jnp.float32) for n, shape in of.items()}
    x = jax.ShapeDtypeStruct((STEPS, BATCH, INPUTS), dtype)
    state = jax.ShapeDtypeStruct((BATCH, units), dtype)

    def total(params: Any, x: jax.Array, states: Any) -> jax.Array:
        return run(VARIANT, params, x, states)[0].astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(total, argnums=(0, 1, 2))).trace(params, x, (state, state))
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def launches(program: str) -> list[dict[str, Any]]:
    """What each launch of a program is told, in their order."""
    found = []
    for text in LAUNCH.findall(program):
        operands, results = text.rsplit(" : ", 1)[1].split(" -> ")
        found.append(
            dict(
                name=re.search(r' name = "(\w+)"', text)[1],  # pyright: ignore
                operands=re.findall(r"tensor<(.*?)>", operands),
                results=re.findall(r"tensor<(.*?)>", results),
                **{
                    n: json.loads(re.search(rf" {n} = dense<(\[.*?\])>", text)[1])  # pyright: ignore
                    for n in ("launch", "parameters")
                },
            )
        )
    return found


if __name__ == "__main__":
    # an H100, which need not be there
    device.first = lambda: device.Device(9, 0, 132, 232_448)
    sizes = ((64, "bfloat16"), (256, "float32"), (1100, "bfloat16"))
    print(json.dumps({f"{u} {d}": launches(lowered(u, d)) for u, d in sizes}))
