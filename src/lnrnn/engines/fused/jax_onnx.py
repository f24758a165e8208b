"""What jax2onnx writes of the primitives of fused engines: their meaning.

It reads a program of JAX before that is lowered, by a table of primitives.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np


def tell(meanings: dict[str, Callable[..., Any]]) -> None:
    """Let jax2onnx, where it is loaded, know primitives by their names."""
    plugins: Any = sys.modules.get("jax2onnx.plugins.plugin_system")
    if plugins is not None:
        for name, meaning in meanings.items():
            plugins.PLUGIN_REGISTRY.setdefault(name, _Written(meaning))


class _Written:
    """A row of its table."""

    def __init__(self, meaning: Callable[..., Any]) -> None:
        self._meaning = meaning

    def lower(self, ctx: Any, eqn: Any) -> None:
        """Write the equations of the meaning in the place of one equation."""
        from jax2onnx.plugins.jax.lax._control_flow_utils import (  # pyright: ignore
            lower_jaxpr_eqns,
        )

        shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
        closed = jax.make_jaxpr(partial(self._meaning, **eqn.params))(*shapes)
        inner = closed.jaxpr
        for variable, value in zip(inner.constvars, closed.consts, strict=True):
            ctx.bind_const_for_var(variable, np.asarray(value))
        for outer, variable in zip(eqn.invars, inner.invars, strict=True):
            ctx.bind_value_for_var(variable, ctx.get_value_for_var(outer))
        lower_jaxpr_eqns(ctx, inner, source=eqn.primitive.name)
        for outer, variable in zip(eqn.outvars, inner.outvars, strict=True):
            ctx.bind_value_for_var(outer, ctx.get_value_for_var(variable))
