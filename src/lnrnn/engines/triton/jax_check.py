"""The self-check on JAX, see [lnrnn.engines.triton.answers][]: kernels beside the definition with
exact products, before they compute for the first time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lnrnn.engines.fused.call import INCOMING
from lnrnn.engines.fused.jax_op import Arrays, bind
from lnrnn.engines.triton import answers
from lnrnn.engines.triton.cell import INTERPRETED


def refusal(how: Any, given: Arrays) -> str | None:
    """Why the kernels are not to be used for a call, or None.

    Args:
        how: what is static of the call, a [How][lnrnn.engines.triton.jax_op.How].
        given: its arrays, which may be traced; their shapes count, not their values.
    """
    if not answers.wanted(not INTERPRETED):
        return None
    ranks = tuple(a.ndim for a in given)
    batch = answers.batch_like(how.inputs(given).x.shape[1], how.loops)
    parts = ("jax", jax.__version__, how, ranks, how.loops(batch), batch)
    return answers.answer(parts, lambda: compare(how, given, batch))


def compare(how: Any, given: Arrays, batch: int) -> str | None:
    """Run kernels on random arrays like these and compare: the largest error if it is too large."""
    shapes = {n: a.shape for n, a in zip(how.names, given, strict=True)}
    dtypes = {n: a.dtype for n, a in zip(how.names, given, strict=True)}
    like_x = dtypes["x"]
    moving = how.differentiable
    # a call may be traced, and its check is not
    with jax.ensure_compile_time_eval():
        drawn = answers.drawn(shapes, batch)
        arrays = {n: jnp.asarray(drawn[n], dtypes[n]) for n in how.names}
        incoming = [
            jnp.asarray(drawn[n], like_x if n == "dh" else dtypes["kernel"])
            for n in INCOMING
            if n in drawn
        ]

        def passes(run: Any) -> list[Any]:
            def of_moving(*some: jax.Array) -> tuple[jax.Array, ...]:
                return tuple(run(arrays | dict(zip(moving, some, strict=True))))

            values, pull = jax.vjp(of_moving, *(arrays[n] for n in moving))
            return [*values, *pull(tuple(incoming))]

        found = passes(lambda by_name: bind(how, by_name))
        with jax.default_matmul_precision("highest"):
            expected = passes(lambda by_name: how.define(list(by_name.values())))
    names = [*how.results, *(f"gradient of {n}" for n in moving)]
    return answers.worst(how.kind, names, found, expected, len(how.results))
