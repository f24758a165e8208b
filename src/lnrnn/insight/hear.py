"""What layers ask of engines while they run: one record for each sequence that one computes.

A `Tap` knows a framework: how its tensors become numbers, and how the derivative of a loss with
respect to what an engine returned is read.  The rest is the same for all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from lnrnn.engines.listen import listening
from lnrnn.params import gates_of
from lnrnn.variant import Variant

Array = np.ndarray[Any, Any]

# arguments of a sequence that say how it is computed and not what
_MANNER = ("functions", "gates", "unroll", "return_sequences")
# tensors that lie (T, B, .) or (T, B)
_GIVEN = ("mask", "reset", "take_h", "take_c", "recurrent_mask", "candidate_mask")


@dataclass(eq=False)
class Heard:
    """One sequence that an engine computed.

    Args:
        variant: the cell.
        options: arguments that are no tensors, by name.
        gates: their order in the weights.
        path: of the layer, or empty where the framework does not tell.
        numbers: all tensors: weights as `params.<name>`, `x`, states `h0` and `c0`, outputs `y`,
            final states `h` and `c`, and arguments by their names.
        gradients: of the loss, with respect to `y`, `h` and `c`.
    """

    variant: Variant
    options: dict[str, Any]
    gates: str
    path: str
    numbers: dict[str, Array] = field(default_factory=dict)
    gradients: dict[str, Array] = field(default_factory=dict)

    @property
    def params(self) -> dict[str, Array]:
        """The weights, their gates in canonical order."""
        found = {
            name.removeprefix("params."): value
            for name, value in self.numbers.items()
            if name.startswith("params.")
        }
        if self.gates and self.gates != self.variant.gates:
            for name, value in found.items():
                own = gates_of(self.variant, name)
                given = [g for g in self.gates if g in own]
                if given != list(own):
                    parts = dict(zip(given, np.split(value, len(own), axis=-1), strict=True))
                    found[name] = np.concatenate([parts[g] for g in own], axis=-1)
        return found

    @property
    def given(self) -> dict[str, Any]:
        """The arguments of [lnrnn.reference.forward][] beside weights and inputs."""
        return {**self.options, **{n: self.numbers[n] for n in _GIVEN if n in self.numbers}}


class Tap(Protocol):
    """What a framework does differently."""

    def note(self, tensors: Mapping[str, Any], store: Callable[[dict[str, Array]], Any]) -> None:
        """Hand the numbers of tensors to `store`."""
        ...

    def probe(self, tensor: Any, store: Callable[[Array], Any]) -> Any:
        """The tensor; the loss's derivative with respect to it is handed to `store`."""
        ...

    def run(self, call: Callable[[], Any], loss: Callable[[Any], Any] | None) -> tuple[Any, Any]:
        """What the call returns, and the loss of it, all derivatives stored."""
        ...


def hear(
    target: Any, inputs: Sequence[Any], keywords: Mapping[str, Any], loss: Any
) -> tuple[list[Heard], Any, float | None]:
    """Run a layer, module or function; what engines computed, what it returned, and the loss."""
    calls: list[Heard] = []
    names = _Names()
    tap = _tap_of(target, inputs)

    def listener(function: Callable[..., Any], request: Any) -> Callable[..., Any]:
        def sequence(
            variant: Variant, params: Mapping[str, Any], x: Any, states: Any, **given: Any
        ) -> tuple[Any, tuple[Any, ...]]:
            if request.functions:
                raise ValueError(
                    f"A trace needs activations that have names; got a function for "
                    f"{request.functions[0]}: use a layer that names it."
                )
            y, final = function(variant, params, x, states, **given)
            call = Heard(
                variant,
                {
                    name: value
                    for name, value in given.items()
                    if value is not None and name not in _MANNER and not _is_tensor(value)
                },
                given.get("gates", ""),
                names.next(),
            )
            tensors = {f"params.{name}": value for name, value in params.items()}
            tensors |= {"x": x, "y": y}
            tensors |= dict(zip(("h0", "c0"), states, strict=False))
            tensors |= dict(zip(("h", "c"), final, strict=False))
            tensors |= {n: v for n, v in given.items() if n in _GIVEN and _is_tensor(v)}
            tap.note(tensors, call.numbers.update)
            calls.append(call)
            if loss is None:
                return y, tuple(final)

            def probed(name: str, tensor: Any) -> Any:
                return tap.probe(tensor, lambda g: call.gradients.update({name: g}))

            return probed("y", y), tuple(map(probed, ("h", "c"), final))

        return sequence

    with ExitStack() as stack:
        stack.enter_context(listening(listener))
        stack.enter_context(_named(target, names))
        output, value = tap.run(lambda: target(*inputs, **keywords), loss)
    _name_by_weights(target, calls)
    return calls, output, value


class _Names:
    """The path of the layer that an engine computes for, as far as it is known."""

    def __init__(self) -> None:
        self._ahead: list[str] = []

    def next(self) -> str:
        return self._ahead.pop(0) if self._ahead else ""

    def ahead(self, paths: list[str]) -> None:
        """The paths of the next calls."""
        self._ahead = paths


def _is_tensor(value: Any) -> bool:
    return value is not None and not isinstance(value, (str, bool, int, float, Mapping))


def _tap_of(target: Any, inputs: Sequence[Any]) -> Tap:
    keras, torch = sys.modules.get("keras"), sys.modules.get("torch")
    if keras is not None and isinstance(target, keras.Layer):
        return {"torch": Torch, "tensorflow": TensorFlow, "jax": Jax}[keras.backend.backend()]()
    if torch is not None and isinstance(target, torch.nn.Module):
        return Torch()
    if not callable(target):
        raise ValueError(
            "A trace is of a layer, a module, a function or what lnrnn.load gives; got "
            f"{type(target).__name__}: pass one of them."
        )
    tensorflow = sys.modules.get("tensorflow")
    if torch is not None and any(isinstance(x, torch.Tensor) for x in inputs):
        return Torch()
    if tensorflow is not None and any(isinstance(x, tensorflow.Tensor) for x in inputs):
        return TensorFlow()
    return Jax()


# ---- names


@contextmanager
def _named(target: Any, names: _Names) -> Iterator[None]:
    """Tell the paths of layers as they are called."""
    keras, torch = sys.modules.get("keras"), sys.modules.get("torch")
    if keras is not None and isinstance(target, keras.Layer):
        from lnrnn.keras.layers import LayerNormRNN

        own = [target] if isinstance(target, LayerNormRNN) else []
        inner = [x for x in target._flatten_layers() if isinstance(x, LayerNormRNN)]
        layers = {id(x): x for x in (*own, *inner)}.values()
        for layer in layers:
            object.__setattr__(layer, "inner_loop", _announced(layer, names))
        try:
            yield
        finally:
            for layer in layers:
                object.__delattr__(layer, "inner_loop")
        return
    if torch is not None and isinstance(target, torch.nn.Module):
        from lnrnn.torch.recurrent import Recurrent

        modules = {n: m for n, m in target.named_modules() if isinstance(m, Recurrent)}
        with ExitStack() as stack:
            for name, module in modules.items():
                # a module asks an engine once and keeps the answer
                stack.callback(setattr, module, "_functions", module._functions)
                module._functions = type(module._functions)()
                places = [suffix.removeprefix("_l").split("_") for suffix in module._stems]
                paths = [
                    ".".join([*[name] * bool(name), "layers", layer, *(rest or ["forward"])])
                    for layer, *rest in places
                ]
                hook = module.register_forward_pre_hook(
                    lambda module, args, paths=paths: names.ahead(list(paths))
                )
                stack.callback(hook.remove)
            yield
        return
    yield


def _announced(layer: Any, names: _Names) -> Callable[..., Any]:
    path, loop = layer.path or layer.name, layer.inner_loop

    def inner_loop(*args: Any, **keywords: Any) -> Any:
        names.ahead([path])
        return loop(*args, **keywords)

    return inner_loop


def _name_by_weights(target: Any, calls: list[Heard]) -> None:
    """Paths of modules of Flax by their weights, and of all others by their number."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(target, nnx.Module):
        from lnrnn.nnx.recurrent import Recurrent

        modules = [(p, m) for p, m in nnx.iter_graph(target) if isinstance(m, Recurrent)]
        for call in calls:
            kernel = call.numbers["params.kernel"]
            for path, module in modules:
                own = np.asarray(module.params()["kernel"])
                if module.variant == call.variant and np.array_equal(own, kernel):
                    call.path = ".".join(map(str, path))
    seen: dict[str, int] = {}
    for index, call in enumerate(calls):
        path = call.path or f"layers.{index}"
        # a layer that is called again
        seen[path] = seen.get(path, 0) + 1
        call.path = path if seen[path] == 1 else f"{path}#{seen[path]}"


# ---- frameworks


def number(value: Any) -> Array:
    """A tensor on the CPU as NumPy's, floats in float64."""
    found = np.asarray(value)
    return found if found.dtype == bool else found.astype(np.float64)


class Torch:
    """PyTorch: a leaf of zeros is added to each result."""

    def __init__(self) -> None:
        self._probes: list[tuple[Any, Callable[[Array], Any]]] = []

    @staticmethod
    def _number(tensor: Any) -> Array:
        tensor = tensor.detach().to("cpu")
        return number(tensor.double().numpy() if tensor.is_floating_point() else tensor.numpy())

    def note(self, tensors: Mapping[str, Any], store: Callable[[dict[str, Array]], Any]) -> None:
        """At once."""
        store({name: self._number(tensor) for name, tensor in tensors.items()})

    def probe(self, tensor: Any, store: Callable[[Array], Any]) -> Any:
        """The tensor plus a leaf."""
        import torch

        leaf = torch.zeros_like(tensor, requires_grad=True)
        self._probes.append((leaf, store))
        return tensor + leaf

    def run(self, call: Callable[[], Any], loss: Callable[[Any], Any] | None) -> tuple[Any, Any]:
        """With autograd where there is a loss; `grad` of the parameters stays as it is."""
        import torch

        with nullcontext() if loss is None else torch.enable_grad():
            output = call()
            if loss is None:
                return output, None
            value = loss(output)
            leaves = [leaf for leaf, _ in self._probes]
            found = torch.autograd.grad(value, leaves, allow_unused=True)
        for gradient, (leaf, store) in zip(found, self._probes, strict=True):
            store(self._number(torch.zeros_like(leaf) if gradient is None else gradient))
        return output, float(value.detach())


class TensorFlow:
    """TensorFlow, eagerly: a watched tensor of zeros is added to each result."""

    def __init__(self) -> None:
        self._probes: list[tuple[Any, Callable[[Array], Any]]] = []
        self._tape: Any = None

    def note(self, tensors: Mapping[str, Any], store: Callable[[dict[str, Array]], Any]) -> None:
        """At once."""
        if not all(hasattr(tensor, "numpy") for tensor in tensors.values()):
            raise ValueError(
                "A trace reads tensors as they are computed; got a layer within a tf.function: "
                "trace it outside, where TensorFlow is eager."
            )
        store({name: number(tensor.numpy()) for name, tensor in tensors.items()})

    def probe(self, tensor: Any, store: Callable[[Array], Any]) -> Any:
        """The tensor plus zeros."""
        import tensorflow as tf

        zeros = tf.zeros_like(tensor)
        self._tape.watch(zeros)
        self._probes.append((zeros, store))
        return tensor + zeros

    def run(self, call: Callable[[], Any], loss: Callable[[Any], Any] | None) -> tuple[Any, Any]:
        """Under a tape where there is a loss."""
        if loss is None:
            return call(), None
        import tensorflow as tf

        with tf.GradientTape() as self._tape:
            output = call()
            value = loss(output)
        zeros = [probe for probe, _ in self._probes]
        found = self._tape.gradient(value, zeros, unconnected_gradients="zero")
        for gradient, (_, store) in zip(found, self._probes, strict=True):
            store(number(gradient.numpy()))
        return output, float(value)


class Jax:
    """JAX: callbacks, so that what is traced within `jit` and `grad` is heard too."""

    def __init__(self) -> None:
        self._zero: Any = None

    def note(self, tensors: Mapping[str, Any], store: Callable[[dict[str, Array]], Any]) -> None:
        """When it is computed."""
        import jax

        jax.debug.callback(
            lambda found: store({name: number(a) for name, a in found.items()}), dict(tensors)
        )

    def probe(self, tensor: Any, store: Callable[[Array], Any]) -> Any:
        """The tensor through an identity whose derivative is heard."""
        import jax

        def back(_: None, gradient: Any) -> tuple[Any]:
            jax.debug.callback(lambda found: store(number(found)), gradient)
            return (gradient,)

        same = jax.custom_vjp(lambda v: v)
        same.defvjp(lambda v: (v, None), back)
        return same(tensor + self._zero.astype(tensor.dtype))

    def run(self, call: Callable[[], Any], loss: Callable[[Any], Any] | None) -> tuple[Any, Any]:
        """The gradient with respect to a zero on which every result depends."""
        import jax
        import jax.numpy as jnp

        if loss is None:
            output, value = call(), None
        else:

            def whole(zero: Any) -> tuple[Any, Any]:
                self._zero = zero
                output = call()
                return loss(output), output

            (value, output), _ = jax.value_and_grad(whole, has_aux=True)(jnp.zeros(()))
        jax.effects_barrier()
        return output, None if value is None else float(value)
