"""Front ends as their contract asks them: sequences, steps, files, and what a call compiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lnrnn.params import sizes_of
from lnrnn.testing import adapters
from lnrnn.testing.adapters import (
    Adapter,
    Array,
    Function,
    Pass,
    Results,
    Tensor,
    allow_double,
    classes,
    differentiate,
    state_names,
    wide,
)
from lnrnn.variant import Variant

Params = Mapping[str, Array]
# from a variant, weights in float32 and the path of a file to the weights that come out of it
Kept = Callable[[Variant, Params, Path], dict[str, Array]]


class FrontEnd(NamedTuple):
    """A front end, as [verify_contract][lnrnn.testing.contract.verify_contract] asks it.

    Args:
        run: its layer over a sequence.
        steps: its cell, or its function of one step, in a loop over the sequence.
        kept: the weights of a new layer into which those of another went through a file.
        compiled: how often something is compiled where a call has been before, with other
            values of the same shapes.
    """

    run: Adapter
    steps: Adapter
    kept: Kept
    compiled: Callable[[Variant, Params, Pass], int]


class _Made(NamedTuple):
    """What a front end makes of weights in a dtype.

    Args:
        framework: whose tensors it takes.
        layer: with the weights; or, of functions, the weights in a dict.
        call: of that layer, on x (T, B, I).
        steps: a function of a pass, as of `adapters`.
        kept: as of `FrontEnd`.
    """

    framework: str
    layer: Callable[[Variant, Params, str], Any]
    call: Callable[[Any, Tensor], Tensor]
    steps: Callable[[Variant, Params, Pass], Function]
    kept: Kept


def front_end(name: str, engine: str | None = None) -> FrontEnd:
    """A front end.

    Args:
        name: `"keras"` on the backend that KERAS_BACKEND names, `"torch"`, `"jax"` or `"nnx"`.
        engine: the name of an engine; None is what the front end chooses.

    Example:
        >>> front_end("torch", "portable").run.__name__
        'checked'
    """
    made: _Made = {"keras": _keras, "torch": _torch, "jax": _jax, "nnx": _nnx}[name](
        engine or "auto"
    )

    def steps(variant: Variant, params: Params, given: Pass) -> Results:
        function = made.steps(variant, params, given)
        return differentiate(made.framework, function, variant, params, given)

    def compiled(variant: Variant, params: Params, given: Pass) -> int:
        layer = made.layer(variant, params, given.dtype)
        x = given.x.astype(given.dtype)
        return _COUNTED[made.framework](lambda x: made.call(layer, x), x, 2 * x)

    return FrontEnd(
        adapters.choose(engine, name),
        allow_double(made.framework, steps),
        made.kept,
        allow_double(made.framework, compiled),
    )


def _keras(engine: str) -> _Made:
    import keras
    from keras import ops

    layers, cells = classes("keras", "layer"), classes("keras", "cell")

    def layer(variant: Variant, params: Params, dtype: str) -> Any:
        sizes = sizes_of(variant, params)
        new = layers[variant.cell](
            sizes.units, variant=variant, engine=engine, dtype=dtype, return_sequences=True
        )
        new.build((None, None, sizes.inputs))
        new.load_params(params)
        return new

    def steps(variant: Variant, params: Params, given: Pass) -> Function:
        sizes = sizes_of(variant, params)
        cell = cells[variant.cell](sizes.units, variant=variant, engine=engine, dtype=given.dtype)
        cell.build((None, sizes.inputs))

        def function(tensors: dict[str, Tensor], _: Any) -> Any:
            weights = cell.layout.from_canonical({n: tensors[n] for n in params}, ops)
            mapping = [(getattr(cell, n), weight) for n, weight in weights.items()]
            states, outputs = [tensors[n] for n in state_names(variant)], []
            with keras.StatelessScope(state_mapping=mapping):
                for t in range(given.x.shape[0]):
                    y, states = cell(tensors["x"][t], states)
                    outputs.append(y)
            return ops.stack(outputs), *states

        return function

    def call(layer: Any, x: Tensor) -> Tensor:
        return layer(ops.transpose(x, (1, 0, 2)))

    return _Made(keras.backend.backend(), layer, call, steps, _restored(layer))


def _torch(engine: str) -> _Made:
    import torch

    from lnrnn.torch import names

    layers, cells = classes("torch", "layer"), classes("torch", "cell")

    def made(of: dict[str, Any], variant: Variant, params: Params, dtype: str) -> Any:
        sizes = sizes_of(variant, params)
        options = {"variant": variant, "engine": engine, "dtype": getattr(torch, dtype)}
        new = of[variant.cell](sizes.inputs, sizes.units, **options)
        new.load_params(params)
        return new

    def layer(variant: Variant, params: Params, dtype: str) -> Any:
        return made(layers, variant, params, dtype)

    def steps(variant: Variant, params: Params, given: Pass) -> Function:
        cell = made(cells, variant, params, given.dtype)
        stems = names.stems(variant, sizes_of(variant, params))

        def function(tensors: dict[str, Tensor], _: Any) -> Any:
            weights = names.from_canonical(stems, {n: tensors[n] for n in params})
            states, outputs = tuple(tensors[n] for n in state_names(variant)), []
            for x in tensors["x"]:
                hx = torch.func.functional_call(cell, weights, (x, _given(states)))
                states = hx if isinstance(hx, tuple) else (hx,)
                outputs.append(states[0])
            return torch.stack(outputs), *states

        return function

    return _Made("torch", layer, lambda layer, x: layer(x)[0], steps, _restored(layer))


def _jax(engine: str) -> _Made:
    import jax.numpy as jnp

    from lnrnn import jax as front

    def layer(variant: Variant, params: Params, dtype: str) -> Any:
        return variant, {n: jnp.asarray(p, dtype) for n, p in params.items()}

    def call(layer: Any, x: Tensor) -> Tensor:
        y, _ = front.apply(layer[1], x, variant=layer[0], time_major=True, engine=engine)
        return y

    def steps(variant: Variant, params: Params, given: Pass) -> Function:
        def function(tensors: dict[str, Tensor], _: Any) -> Any:
            weights = {n: tensors[n] for n in params}
            states, outputs = tuple(tensors[n] for n in state_names(variant)), []
            state = _given(states)
            for x in tensors["x"]:
                y, state = front.step(weights, x, state, variant=variant)
                outputs.append(y)
            return jnp.stack(outputs), *(state if len(states) > 1 else (state,))

        return function

    def kept(variant: Variant, params: Params, path: Path) -> dict[str, Array]:
        from lnrnn.convert import Weights, load, save

        _, weights = layer(variant, params, "float32")
        save(path, Weights(variant, {n: np.asarray(w) for n, w in weights.items()}))
        _, found = layer(variant, load(path).single.params, "float32")
        return {n: np.asarray(w) for n, w in found.items()}

    return _Made("jax", layer, call, steps, kept)


def _nnx(engine: str) -> _Made:
    import jax.numpy as jnp
    from flax import nnx

    layers, cells = classes("nnx", "layer"), classes("nnx", "cell")

    def made(
        of: dict[str, Any], variant: Variant, params: Params, dtype: str, **options: Any
    ) -> Any:
        sizes = sizes_of(variant, params)
        options |= {"variant": variant, "dtype": dtype, "param_dtype": wide(dtype)}
        new = of[variant.cell](sizes.inputs, sizes.units, rngs=nnx.Rngs(0), **options)
        new.load_params(params)
        return new

    def layer(variant: Variant, params: Params, dtype: str) -> Any:
        return made(layers, variant, params, dtype, engine=engine, time_major=True)

    def steps(variant: Variant, params: Params, given: Pass) -> Function:
        graph, state = nnx.split(made(cells, variant, params, given.dtype))

        def function(tensors: dict[str, Tensor], _: Any) -> Any:
            cell = nnx.merge(graph, state)
            for name in params:
                setattr(cell, name, nnx.Param(tensors[name]))
            states, outputs = tuple(tensors[n] for n in state_names(variant))[::-1], []
            carry = _given(states)
            for x in tensors["x"]:
                carry, y = cell(carry, x)
                outputs.append(y)
            return jnp.stack(outputs), *(carry[::-1] if len(states) > 1 else (carry,))

        return function

    return _Made("jax", layer, lambda layer, x: layer(x), steps, _restored(layer))


def _given(states: Any) -> Any:
    """States as a front end takes them: both of an LSTM, else the only one."""
    return states if len(states) > 1 else states[0]


def _restored(layer: Callable[[Variant, Params, str], Any]) -> Kept:
    """Weights through a file into a new layer, of layers that are objects."""

    def kept(variant: Variant, params: Params, path: Path) -> dict[str, Array]:
        from lnrnn.convert import load, restore, save

        new = layer(variant, {n: np.zeros_like(p) for n, p in params.items()}, "float32")
        save(path, layer(variant, params, "float32"))
        restore(new, load(path))
        return new.params()

    return kept


@cache
def _compilations_of_jax() -> list[str]:
    """What JAX has compiled since the first call; a listener cannot be taken off in every JAX."""
    import jax

    seen: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        seen.extend([event] * (event == "/jax/core/compile/backend_compile_duration"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    return seen


def _compiled_by_jax(call: Callable[[Any], Any], first: Array, second: Array) -> int:
    """By a call, one under `jit`, and a gradient."""
    import jax
    import jax.numpy as jnp

    x, other = jnp.asarray(first), jnp.asarray(second)
    uses = (call, jax.jit(call), jax.grad(lambda x: call(x).sum()))
    for use in uses:
        use(x)
    seen = _compilations_of_jax()
    before = len(seen)
    for use in uses:
        use(other)
    return len(seen) - before


def _compiled_by_tensorflow(call: Callable[[Any], Any], first: Array, second: Array) -> int:
    """By a `tf.function`, which is traced again where it is compiled again."""
    import tensorflow as tf

    use: Any = tf.function(call)
    for x in (first, second):
        use(tf.constant(x))
    return use.experimental_get_tracing_count() - 1


def _compiled_by_torch(call: Callable[[Any], Any], first: Array, second: Array) -> int:
    """By `torch.compile`, whose graphs are counted and run as they are."""
    import torch
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    use = torch.compile(call, backend=counter)
    use(torch.tensor(first))
    before = counter.frame_count
    use(torch.tensor(second))
    return counter.frame_count - before if before else -1


_COUNTED = {
    "jax": _compiled_by_jax,
    "tensorflow": _compiled_by_tensorflow,
    "torch": _compiled_by_torch,
}
