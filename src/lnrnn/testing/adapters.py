"""What runs a golden file: each engine and front end behind one small function."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeVar
from unittest import mock

import numpy as np

from lnrnn import reference
from lnrnn.engines import runs, select
from lnrnn.engines.fused import call as fused
from lnrnn.params import sizes_of
from lnrnn.reference import relatives
from lnrnn.relatives import Relative
from lnrnn.relatives import weights as relative_weights
from lnrnn.variant import Variant

Array = np.ndarray
Tensor = Any
Found = TypeVar("Found")


class Pass(NamedTuple):
    """One run over a sequence, and the loss weights of its results.

    Args:
        x: (T,B,I).
        h0: (B,R); None is zeros.
        c0: (B,H); None is zeros.
        options: `mask`, `masked_output`, `reset`, `take_h`, `take_c`, as
            [lnrnn.reference.forward][] names them.
        dy: (T,B,R), weights of y in the loss, or None.
        dh: (B,R), weights of the final h, or None.
        dc: (B,H), weights of the final c, or None.
        dtype: `"float32"` or `"float64"`; on tensors of a framework also `"bfloat16"` or
            `"float16"`, in which the weights stay in float32.
    """

    x: Array
    h0: Array | None
    c0: Array | None
    options: Mapping[str, Any]
    dy: Array | None
    dh: Array | None
    dc: Array | None
    dtype: str

    @property
    def has_loss(self) -> bool:
        """Whether there is a loss to differentiate."""
        return any(d is not None for d in (self.dy, self.dh, self.dc))


class Results(NamedTuple):
    """What a run gives.

    Args:
        y: (T,B,R).
        h: final h (B,R).
        c: final c (B,H), None where the cell has none.
        gradients: of the loss by `x`, `h0`, `c0` and canonical weight names; None where
            the pass has no loss.
    """

    y: Array
    h: Array
    c: Array | None
    gradients: dict[str, Array] | None


Adapter = Callable[[Variant | Relative, Mapping[str, Array], Pass], Results]
# from tensors by name, and a converter of constants, to (y, h) or (y, h, c)
Function = Callable[[dict[str, Tensor], Callable[[Any], Tensor]], Sequence[Tensor]]


def run_reference(variant: Variant | Relative, params: Mapping[str, Array], given: Pass) -> Results:
    """The NumPy reference, always in float64."""
    if isinstance(variant, Relative):
        return _relative_reference(variant, params, given)
    run = reference.forward(variant, params, given.x, given.h0, given.c0, **given.options)
    if not given.has_loss:
        return Results(run.y, run.h, run.c, None)
    dy = np.zeros_like(run.y) if given.dy is None else given.dy
    found = reference.backward(run, dy, given.dh, given.dc)
    gradients = {"x": found.x, "h0": found.h0, **found.params}
    if found.c0 is not None:
        gradients["c0"] = found.c0
    return Results(run.y, run.h, run.c, gradients)


def classes(frontend: str, form: str) -> dict[str, Any]:
    """The layers of a front end, or its cells, by [Variant.cell][lnrnn.Variant].

    Args:
        frontend: `"keras"`, `"torch"` or `"nnx"`.
        form: `"layer"` or `"cell"`.
    """
    simple = {("torch", "layer"): "RNN", ("torch", "cell"): "RNN", ("nnx", "cell"): "Simple"}
    words = dict.fromkeys(("simple", "indrnn"), simple.get((frontend, form), "SimpleRNN"))
    words |= {"lstm": "LSTM", "gru": "GRU", "ligru": "GRU"}
    module, end = import_module(f"lnrnn.{frontend}"), "Cell" if form == "cell" else ""
    return {cell: getattr(module, f"LayerNorm{word}{end}") for cell, word in words.items()}


def _relative_reference(relative: Relative, params: Mapping[str, Array], given: Pass) -> Results:
    wide, batch = widths(relative, params), given.x.shape[1]
    options = {n: given.options[n] for n in ("mask", "reset") if n in given.options}
    states = _states(wide, given.h0, given.c0, batch)
    run = relatives.forward(relative, params, given.x, list(states.values()), **options)
    h, c = together(dict(zip(wide, run.states, strict=True)))
    if not given.has_loss:
        return Results(run.y, h, c, None)
    dy = np.zeros_like(run.y) if given.dy is None else given.dy
    gradients = relatives.backward(run, dy, list(apart(wide, given.dh, given.dc).values()))
    return Results(run.y, h, c, _joined(wide, gradients))


def widths(variant: Variant | Relative, params: Mapping[str, Array]) -> dict[str, int]:
    """Name and width of every state of a cell."""
    if isinstance(variant, Relative):
        return relative_weights.widths(variant, relative_weights.sizes_of(variant, params))
    sizes = sizes_of(variant, params)
    return {name: {"h": sizes.hidden, "c": sizes.units}[name] for name in variant.states}


def apart(wide: Mapping[str, int], h: Any, c: Any) -> dict[str, Any]:
    """Each state, from an h and a c in which those of one letter stand side by side."""
    found, left = {}, {"h": h, "c": c}
    for name, width in wide.items():
        whole = left[name[-1]]
        found[name] = None if whole is None else whole[:, :width]
        left[name[-1]] = None if whole is None else whole[:, width:]
    return found


def together(states: Mapping[str, Array]) -> tuple[Array, Array | None]:
    """An h and a c in which the states of one letter stand side by side."""
    h, c = ([s for name, s in states.items() if name[-1] == letter] for letter in "hc")
    return np.concatenate(h, -1), np.concatenate(c, -1) if c else None


def _states(wide: Mapping[str, int], h0: Any, c0: Any, batch: int) -> dict[str, Array]:
    given = apart(wide, h0, c0)
    return {n: np.zeros((batch, wide[n])) if s is None else s for n, s in given.items()}


def _joined(wide: Mapping[str, int], gradients: dict[str, Array]) -> dict[str, Array]:
    """The gradients with those of the states under `h0` and `c0`."""
    h, c = together({name: gradients.pop(f"{name}0") for name in wide})
    return gradients | {"h0": h} | ({} if c is None else {"c0": c})


class Unsupported(Exception):
    """An engine does not compute the variant of a file; the message says why."""


def tensors(engine: str, framework: str) -> Adapter:
    """An engine on a framework's own tensors, in the dtype of the file."""

    def run(variant: Variant | Relative, params: Mapping[str, Array], given: Pass) -> Results:
        names = state_names(variant)

        def of(sequence: Callable[..., Any]) -> Function:
            def function(tensors: dict[str, Tensor], constant: Callable[[Any], Tensor]) -> Any:
                options = {n: constant(v) for n, v in given.options.items()}
                weights = {n: tensors[n] for n in params}
                states = tuple(tensors[n] for n in names)
                y, final = sequence(variant, weights, tensors["x"], states, **options)
                return y, *final

            return function

        request = select.Request(variant, framework, given.dtype)
        answer = select.report(request)[engine]
        if isinstance(answer, select.No):
            raise Unsupported(answer.reason)
        sequence = select.choose(engine, request).load(request)
        return differentiate(framework, of(sequence), variant, params, given)

    return _ran(engine, framework, allow_double(framework, run))


def keras_layers(engine: str) -> Adapter:
    """The Keras layers on Keras's backend, in the dtype of the file.

    A masked step whose output is the held state is something that Keras's layers have no word
    for: such a file is run step by step, the states handed from call to call.
    """
    import keras
    from keras import ops

    framework = keras.backend.backend()
    layers = classes("keras", "layer")

    def run(variant: Variant, params: Mapping[str, Array], given: Pass) -> Results:
        options = dict(given.options)
        mask, reset = options.get("mask"), options.get("reset")
        masked_output = options.get("masked_output")
        shares = {n: options[n] for n in ("take_h", "take_c") if n in options}
        training = any(np.ndim(share) for share in shares.values())
        rates = {n: 1 - s for n, s in shares.items() if not np.ndim(s)}
        sizes = sizes_of(variant, params)
        # the weights come from the file, so nothing need be drawn
        groups = ("kernel", "recurrent", "bias", "gain", "norm_bias")
        arguments: dict[str, Any] = {f"{group}_initializer": "zeros" for group in groups}
        if variant.cell == "lstm":
            arguments["zoneout_cell"] = rates.get("take_c", 0.0)
        if variant.projection:
            arguments["projection_units"] = sizes.hidden
        layer = layers[variant.cell](
            sizes.units,
            variant=variant,
            zoneout=rates.get("take_h", 0.0),
            return_sequences=True,
            return_state=True,
            zero_output_for_mask=masked_output == "zero",
            engine=engine,
            dtype=given.dtype,
            **arguments,
        )
        layer.build((given.x.shape[1], given.x.shape[0], sizes.inputs))
        layer.load_params(params)
        cell = layer.cell

        def call(x: Tensor, states: list[Tensor], **flags: Any) -> tuple[Tensor, list[Tensor]]:
            flags = {n: ops.convert_to_tensor(f.T) for n, f in flags.items() if f is not None}
            x = ops.transpose(x, (1, 0, 2))
            y, *states = layer(x, initial_state=states, training=training, **flags)
            return ops.transpose(y, (1, 0, 2)), states

        def function(tensors: dict[str, Tensor], constant: Callable[[Any], Tensor]) -> Any:
            if training:
                # the file's mask in place of the one that the layer would draw
                masks = {n: constant(s) for n, s in shares.items()}
                cell.noise = lambda *_, **__: dict(masks)
            states = [tensors[n] for n in state_names(variant)]
            weights = cell.layout.from_canonical({n: tensors[n] for n in params}, ops)
            mapping = [(getattr(cell, n), weight) for n, weight in weights.items()]
            with keras.StatelessScope(state_mapping=mapping):
                if masked_output != "hold":
                    y, states = call(tensors["x"], states, mask=mask, reset=reset)
                    return y, *states
                outputs = []
                for t in range(given.x.shape[0]):
                    step = slice(t, t + 1)
                    flags = {n: options[n][step] for n in ("mask", "reset") if n in options}
                    _, states = call(tensors["x"][step], states, **flags)
                    outputs.append(states[0])
                return ops.stack(outputs), *states

        return differentiate(framework, function, variant, params, given)

    return allow_double(framework, _variants_only(run))


def torch_modules(engine: str) -> Adapter:
    """The PyTorch modules, in the dtype of the file.

    A masked step of theirs emits zeros; what it emits in a file that repeats the last
    output, or holds h, is filled in here.
    """
    import torch

    from lnrnn.torch import names

    layers = classes("torch", "layer")

    def run(variant: Variant, params: Mapping[str, Array], given: Pass) -> Results:
        options = dict(given.options)
        sizes = sizes_of(variant, params)
        module = layers[variant.cell](
            sizes.inputs,
            sizes.units,
            proj_size=sizes.hidden if variant.projection else 0,
            variant=variant,
            engine=engine,
            dtype=getattr(torch, given.dtype),
        )
        stems = names.stems(variant, sizes)
        several = variant.cell == "lstm"

        def function(tensors: dict[str, Tensor], constant: Callable[[Any], Tensor]) -> Any:
            flags = {n: constant(options[n]) for n in ("mask", "reset") if n in options}
            # the shares of the file in place of those that the module would draw or expect
            shares = {n: constant(options[n]) for n in ("take_h", "take_c") if n in options}
            module.noise = lambda *_: shares
            weights = names.from_canonical(stems, {n: tensors[n] for n in params})
            weights = {f"{stem}_l0": weight for stem, weight in weights.items()}
            states = tuple(tensors[n].unsqueeze(0) for n in state_names(variant))
            hx = states if several else states[0]
            y, hx = torch.func.functional_call(module, weights, (tensors["x"], hx), flags)
            states = hx if several else (hx,)
            y = _filled_in(torch, y, tensors["h0"], options, flags)
            return y, *(s[0] for s in states)

        return differentiate("torch", function, variant, params, given)

    return _variants_only(run)


def jax_functions(engine: str) -> Adapter:
    """The functions of [lnrnn.jax][], in the dtype of the file; outputs as of `torch_modules`."""
    import jax.numpy as jnp

    from lnrnn.jax import functions

    def run(variant: Variant, params: Mapping[str, Array], given: Pass) -> Results:
        options = dict(given.options)

        def function(tensors: dict[str, Tensor], constant: Callable[[Any], Tensor]) -> Any:
            flags = {n: constant(options[n]) for n in ("mask", "reset") if n in options}
            shares = {n: constant(options[n]) for n in ("take_h", "take_c") if n in options}
            weights = {n: tensors[n] for n in params}
            states = tuple(tensors[n] for n in state_names(variant))
            # the shares of the file in place of those that the function would draw or expect
            with mock.patch.object(functions, "noise_of", lambda *_: shares):
                y, state = functions.apply(
                    weights,
                    tensors["x"],
                    functions.shown(states),
                    variant=variant,
                    time_major=True,
                    engine=engine,
                    **flags,
                )
            y = _filled_in(jnp, y, tensors["h0"], options, flags)
            return y, *(state if len(states) > 1 else (state,))

        return differentiate("jax", function, variant, params, given)

    return allow_double("jax", _variants_only(run))


def nnx_modules(engine: str) -> Adapter:
    """The layers of [lnrnn.nnx][], in the dtype of the file; outputs as of `torch_modules`."""
    import jax.numpy as jnp
    from flax import nnx

    from lnrnn.jax import functions

    layers = classes("nnx", "layer")

    def run(variant: Variant, params: Mapping[str, Array], given: Pass) -> Results:
        options = dict(given.options)
        sizes = sizes_of(variant, params)
        layer = layers[variant.cell](
            sizes.inputs,
            sizes.units,
            rngs=nnx.Rngs(0),
            variant=variant,
            projection_features=sizes.hidden if variant.projection else None,
            dtype=given.dtype,
            param_dtype=wide(given.dtype),
            time_major=True,
            return_carry=True,
            engine=engine,
        )
        graph, state = nnx.split(layer)

        def function(tensors: dict[str, Tensor], constant: Callable[[Any], Tensor]) -> Any:
            flags = {n: constant(options[n]) for n in ("mask", "reset") if n in options}
            shares = {n: constant(options[n]) for n in ("take_h", "take_c") if n in options}
            module = nnx.merge(graph, state)
            for name in params:
                setattr(module, name, nnx.Param(tensors[name]))
            carry: Any = tuple(tensors[n] for n in state_names(variant))[::-1]
            with mock.patch.object(functions, "noise_of", lambda *_: shares):
                first = carry if len(carry) > 1 else carry[0]
                carry, y = module(tensors["x"], initial_carry=first, **flags)
            y = _filled_in(jnp, y, tensors["h0"], options, flags)
            return y, *(carry[::-1] if isinstance(carry, tuple) else (carry,))

        return differentiate("jax", function, variant, params, given)

    return allow_double("jax", _variants_only(run))


def _filled_in(
    framework: Any, y: Tensor, h0: Tensor, options: Mapping[str, Any], flags: Mapping[str, Tensor]
) -> Tensor:
    """Outputs whose masked steps are zeros, with what a file has there."""
    masked_output = options.get("masked_output", "zero")
    if "mask" not in flags or masked_output == "zero":
        return y
    outputs = [h0 if masked_output == "hold" else framework.zeros_like(y[0])]
    for valid, output in zip(flags["mask"], y, strict=True):
        outputs.append(framework.where(valid[:, None], output, outputs[-1]))
    return framework.stack(outputs[1:])


ENGINES = ("reference", "portable", "native", "triton")
# the framework whose tensors an engine computes without the layers of a front end
OPERATORS = {"torch-op": "torch", "jax-op": "jax", "tensorflow-op": "tensorflow"}
FRONTENDS = ("keras", "torch", "jax", "nnx", *OPERATORS)
FRAMEWORKS = ("jax", "tensorflow", "torch")


def choose(engine: str | None = None, frontend: str | None = None) -> Adapter:
    """The adapter of an engine, or of a front end with an engine.

    Args:
        engine: `"reference"` or the name of an engine; None is the reference, or what a
            front end chooses itself.
        frontend: `"keras"`, on the backend that KERAS_BACKEND names, `"torch"`, `"jax"` or `"nnx"`;
            `"torch-op"`, `"jax-op"` and `"tensorflow-op"` run the engine (native if not named) on
            those frameworks' tensors, None on those of Keras's backend or of the first that is
            installed.

    Raises:
        ValueError: a front end with the reference, or no framework is installed.
    """
    if frontend is not None:
        if engine == "reference":
            raise ValueError("No front end computes with the reference: use --engine portable.")
        if frontend in OPERATORS:
            return tensors(engine or "native", OPERATORS[frontend])
        made, framework = {
            "keras": (keras_layers, None),
            "torch": (torch_modules, "torch"),
            "jax": (jax_functions, "jax"),
            "nnx": (nnx_modules, "jax"),
        }[frontend]
        layers = made(engine or "auto")
        if engine is None:
            return layers
        framework = framework or _framework()
        return _supported(engine, framework, _ran(engine, framework, layers))
    if engine in (None, "reference"):
        return run_reference
    return tensors(engine, "torch" if engine == "triton" else _framework())


def _variants_only(run: Callable[..., Results]) -> Adapter:
    """The adapter of layers that have a variant."""

    def checked(variant: Variant | Relative, params: Mapping[str, Array], given: Pass) -> Results:
        if isinstance(variant, Relative):
            raise Unsupported("a relative has no variant, which these layers compute")
        return run(variant, params, given)

    return checked


def _supported(engine: str, framework: str, run: Adapter) -> Adapter:
    """The adapter for the files that an engine computes."""

    def checked(variant: Variant | Relative, params: Mapping[str, Array], given: Pass) -> Results:
        if isinstance(variant, Relative):
            return run(variant, params, given)
        answer = select.report(select.Request(variant, framework, given.dtype))[engine]
        if isinstance(answer, select.No):
            raise Unsupported(answer.reason)
        return run(variant, params, given)

    return checked


def _ran(engine: str, framework: str, run: Adapter) -> Adapter:
    """The adapter, which fails where that engine did not compute all of a pass."""

    def counted(variant: Variant | Relative, params: Mapping[str, Array], given: Pass) -> Results:
        before = runs(), runs(backward=True)
        results = run(variant, params, given)
        forward, back = runs() - before[0], runs(backward=True) - before[1]
        wanted = {(engine, framework)}
        if set(forward) != wanted or set(back) != (set() if engine == "portable" else wanted):
            raise ValueError(
                f"The engine {engine!r} computes a file on {framework}, forward and backward; "
                f"there ran {dict(forward)} and {dict(back)}."
            )
        return results

    return counted


def _framework() -> str:
    installed = [name for name in FRAMEWORKS if find_spec(name)]
    if not installed:
        raise ValueError(f"This engine needs one of {', '.join(FRAMEWORKS)}: install one.")
    return os.environ.get("KERAS_BACKEND") or installed[0]


def allow_double(
    framework: str, run: Callable[[Any, Mapping[str, Array], Pass], Found]
) -> Callable[[Any, Mapping[str, Array], Pass], Found]:
    """An adapter with float64 allowed where a pass needs it; JAX has it only on demand."""
    if framework != "jax":
        return run
    config = import_module("jax").config

    def allowed(variant: Any, params: Mapping[str, Array], given: Pass) -> Found:
        before = config.jax_enable_x64
        config.update("jax_enable_x64", given.dtype == "float64")
        try:
            return run(variant, params, given)
        finally:
            config.update("jax_enable_x64", before)

    return allowed


def state_names(variant: Variant | Relative) -> tuple[str, ...]:
    return tuple(f"{state}0" for state in variant.states)


def differentiate(
    framework: str,
    function: Function,
    variant: Variant | Relative,
    params: Mapping[str, Array],
    given: Pass,
) -> Results:
    """The results of a function, and the gradients of the pass's loss, by autodiff."""
    wide_states = widths(variant, params)
    states = _states(wide_states, given.h0, given.c0, given.x.shape[1])
    arrays = {"x": given.x, **{f"{n}0": s for n, s in states.items()}, **params}
    arrays = {n: np.asarray(a, wide(given.dtype)) for n, a in arrays.items()}
    nothing = np.zeros((*given.x.shape[:2], wide_states["h"]))
    weights = apart(wide_states, given.dh, given.dc).values()
    loss = [given.dy if given.has_loss else nothing, *weights]
    outputs, gradients = _AUTODIFF[framework](function, arrays, loss, given.dtype)
    h, c = together(dict(zip(wide_states, outputs[1:], strict=True)))
    return Results(outputs[0], h, c, _joined(wide_states, gradients) if given.has_loss else None)


Differentiated = tuple[list[Array], dict[str, Array]]


def _jax(function: Function, arrays: Any, weights: Any, dtype: str) -> Differentiated:
    import jax
    import jax.numpy as jnp

    def constant(value: Any) -> Any:
        return _constant(value, wide(dtype), narrow)

    def narrow(value: Any) -> Any:
        array = jnp.asarray(value)
        return array if array.dtype == bool else array.astype(dtype)

    def loss(tensors: dict[str, Any]) -> Any:
        outputs = function(tensors, constant)
        return _weighted(outputs, weights, constant, jnp.sum), outputs

    tensors = {n: narrow(a) if n in _NARROW else jnp.asarray(a) for n, a in arrays.items()}
    (_, outputs), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(tensors)
    return [np.asarray(o) for o in outputs], {n: np.asarray(g) for n, g in gradients.items()}


def _torch(function: Function, arrays: Any, weights: Any, dtype: str) -> Differentiated:
    import torch

    def constant(value: Any) -> Any:
        return _constant(value, wide(dtype), narrow)

    def narrow(value: Any) -> Any:
        tensor = torch.tensor(value)
        return tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor

    def array(tensor: Any) -> Array:
        return tensor.detach().to(getattr(torch, wide(str(tensor.dtype)[6:]))).numpy()

    tensors = {n: narrow(a) if n in _NARROW else torch.tensor(a) for n, a in arrays.items()}
    tensors = {n: t.requires_grad_() for n, t in tensors.items()}
    outputs = function(tensors, constant)
    loss = _weighted(outputs, weights, constant, torch.sum)
    gradients = torch.autograd.grad(
        loss, list(tensors.values()), allow_unused=True, materialize_grads=True
    )
    return (
        [array(o) for o in outputs],
        {n: array(g) for n, g in zip(tensors, gradients, strict=True)},
    )


def _tensorflow(function: Function, arrays: Any, weights: Any, dtype: str) -> Differentiated:
    import tensorflow as tf

    def constant(value: Any) -> Any:
        return _constant(value, wide(dtype), narrow)

    def narrow(value: Any) -> Any:
        tensor = tf.constant(value)
        return tensor if tensor.dtype == tf.bool else tf.cast(tensor, dtype)

    def array(tensor: Any) -> Array:
        tensor = tf.convert_to_tensor(tensor)
        return tf.cast(tensor, wide(tensor.dtype.name)).numpy()

    tensors = {n: narrow(a) if n in _NARROW else tf.constant(a) for n, a in arrays.items()}
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        outputs = function(tensors, constant)
        loss = _weighted(outputs, weights, constant, tf.reduce_sum)
    gradients = tape.gradient(loss, tensors, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [array(o) for o in outputs], {n: array(g) for n, g in gradients.items()}


# what is of half precision where weights are not
_NARROW = ("x", "h0", "c0", "hyper_h0", "hyper_c0")


def wide(dtype: str) -> str:
    """The dtype of NumPy's arrays for tensors of a dtype."""
    return "float32" if dtype in fused.HALVES else dtype


_AUTODIFF = {"jax": _jax, "torch": _torch, "tensorflow": _tensorflow}


def _weighted(
    outputs: Sequence[Tensor],
    weights: Sequence[Array | None],
    constant: Callable[[Any], Tensor],
    total: Callable[[Tensor], Tensor],
) -> Tensor:
    """The loss: the sum of the outputs that have weights, each times its weight."""
    pairs = zip(outputs, weights, strict=False)
    return sum(total(o * constant(w)) for o, w in pairs if w is not None)


def _constant(value: Any, dtype: str, tensor: Callable[[Any], Tensor]) -> Any:
    """An option as the engine takes it: arrays as tensors, masks boolean, others of the dtype."""
    if not isinstance(value, np.ndarray):
        return value
    return tensor(value if value.dtype == bool else value.astype(dtype))
