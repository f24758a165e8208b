"""Runs `lnrnn.jax` on a batch that is sharded over two devices; prints gradients as JSON."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax_cases import DIALECTS, case, weighted

import lnrnn.jax as lj
from lnrnn.engines import runs

variant, params, x, state = case(DIALECTS["lstm"])
mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))


def results(params: Any, x: Any, state: Any) -> Any:
    return lj.apply(params, x, state, variant=variant)


def gradients(run: Any, *given: Any) -> list[Any]:
    loss = jax.jit(jax.grad(lambda *a: weighted(run(*a)), argnums=(0, 1)))
    return [np.asarray(g).tolist() for g in jax.tree.leaves(loss(*given))]


plain = gradients(results, params, x, state)
before = runs()
place = partial(jax.device_put, device=NamedSharding(mesh, P("batch")))
sharded_x, sharded_state = jax.tree.map(place, (x, state))
text = jax.jit(results).lower(params, sharded_x, sharded_state).compile().as_text()
sharded = gradients(results, params, sharded_x, sharded_state)
mapped = jax.shard_map(
    results, mesh=mesh, in_specs=(P(), P("batch"), P("batch")), out_specs=P("batch")
)
found = {
    "plain": plain,
    "sharded": sharded,
    "mapped": gradients(mapped, params, x, state),
    "native": set(runs() - before) == {("native", "jax")},
    "gathered": "all-gather" in str(text),
}
print(json.dumps(found))
