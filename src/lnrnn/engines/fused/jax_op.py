"""Fused recurrences as JAX primitives: a recurrence, its tangent map and its gradient.

Each primitive has a meaning, the portable definition of what it computes, and a fast form, a
call of an engine.  Programs that are compiled for the engine's platforms run the fast form; what
is exported or differentiated again takes the meaning.  `vmap` over sequences is a larger batch;
over weights, or of gradients that sum over a batch, it takes the meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Protocol

import jax
import jax.core
import jax.extend
import jax.numpy as jnp
import numpy as np

# what partitions itself has to know the devices when it is compiled; there is no public name
from jax._src.dispatch import prim_requires_devices_during_lowering as _needs_devices
from jax.experimental.custom_partitioning import custom_partitioning
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from lnrnn.engines.fused import jax_onnx
from lnrnn.engines.fused.call import HALVES, VECTORS, Passes

Arrays = Sequence[jax.Array]
PLATFORMS = ("cpu", "cuda")

# the axes of every array: time t, batch b, inputs i, units h, width r of h, columns of all gates w,
# those of i f o p, the joint row j of x and h
AXES = {
    "kernel": "iw",
    "recurrent": "rw",
    **dict.fromkeys(VECTORS, "w"),
    "gain_c": "h",
    "shift_c": "h",
    "peephole": "p",
    **dict.fromkeys(("gain_pre", "shift_pre"), "j"),
    **dict.fromkeys(("gain_hidden", "shift_hidden", "projection_bias"), "r"),
    "projection": "hr",
    "x": "tbi",
    **dict.fromkeys(("h0", "reset_h", "h_last"), "br"),
    **dict.fromkeys(("c0", "reset_c", "c_last"), "bh"),
    **dict.fromkeys(("mask", "reset"), "tb"),
    **dict.fromkeys(("h", "take_h"), "tbr"),
    "take_c": "tbh",
}


def axes_of(axes: dict[str, str], name: str, rank: int | None, diagonal: bool) -> str:
    """Of an array of this name, or its gradient, and of this rank where it may have one of two."""
    if name in ("recurrent_mask", "candidate_mask"):
        return ("tb" if rank == 3 else "b") + ("r" if name == "recurrent_mask" else "h")
    if diagonal and name.removeprefix("d") == "recurrent":
        return "r"
    return axes[name] if name in axes else axes[name.removeprefix("d")]


class Call(Passes, Protocol):
    """What is static of a call of an engine, hashable; of its arrays those named are there."""

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays that are there, in the order in which they are given."""
        ...

    @property
    def platforms(self) -> tuple[str, ...]:
        """Those of `PLATFORMS` for which there is a fast form."""
        ...

    def axes(self, name: str, rank: int | None = None) -> str:
        """The letters of an array's axes, b that of the batch."""
        ...

    def lengths(self, arrays: Arrays) -> dict[str, int]:
        """How long the axes are."""
        ...

    def like(self, arrays: Arrays, name: str) -> jax.Array:
        """What has the dtype of an array of this name."""
        ...

    def call(
        self, which: str, names: tuple[str, ...], results: tuple[str, ...]
    ) -> Callable[..., Sequence[jax.Array]]:
        """The fast form of a pass, `"forward"` or `"backward"`, on arrays of these names."""
        ...

    def define(self, arrays: Arrays) -> tuple[jax.Array, ...]:
        """The results in JAX's operations."""
        ...


def bind(how: Call, given: dict[str, jax.Array]) -> list[jax.Array]:
    """The results of a call."""
    jax_onnx.tell(_MEANINGS)
    return _recurrence.bind(*given.values(), how=how, keep=False)


def varying(given: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Within `shard_map`, all arrays as those of one device: no engine adds up over devices."""
    axes = {n: _axes_of(a) for n, a in given.items()}
    every = frozenset().union(*axes.values())
    return {n: _made_varying(a, every - axes[n]) for n, a in given.items()}


def _made_varying(a: jax.Array, axes: frozenset[str]) -> jax.Array:
    """An array as one that differs over axes of `shard_map`; newer releases name it otherwise."""
    if not axes:
        return a
    lax: Any = jax.lax
    if hasattr(lax, "pcast"):
        return lax.pcast(a, tuple(axes), to="varying")
    return lax.pvary(a, tuple(axes))


def _axes_of(a: jax.Array) -> frozenset[str]:
    """The axes of `shard_map` over which an array differs."""
    kind: Any = jax.typeof(a)
    now = getattr(kind, "manual_axis_type", None)  # in newer releases
    return getattr(kind, "vma", frozenset()) if now is None else now.varying


def widened(a: jax.Array) -> jax.Array:
    return a.astype(np.float32) if a.dtype.name in HALVES else a


# ---- the fast forms


def _forward(*arrays: jax.Array, how: Call, keep: bool) -> list[jax.Array]:
    return list(how.call("forward", *_of_forward(how, keep))(*arrays))


def _of_forward(how: Call, keep: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of operands and results."""
    return how.names, (*how.results, *how.kept) if keep else how.results


def _backward(
    *arrays: jax.Array, how: Call, incoming: tuple[str, ...], of: tuple[str, ...]
) -> list[jax.Array]:
    names, wanted = _of_backward(how, incoming, of)
    of_x = how.needs_dx or "x" in of
    outgoing = tuple(f"d{n}" for n in how.differentiable if of_x or n != "x")
    found = how.call("backward", names, outgoing)(*arrays)
    by_name = dict(zip(outgoing, found, strict=True))
    return [by_name[name] for name in wanted]


def _of_backward(
    how: Call, incoming: tuple[str, ...], of: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of operands and results."""
    return (*how.names, "h", *how.kept, *incoming), tuple(f"d{n}" for n in of)


def sharded(
    how: Call, names: tuple[str, ...], results: tuple[str, ...], local: Callable[..., Any]
) -> Callable[..., Any]:
    """A fast form, `local`, whose sharded batch stays where it is."""

    def shardings(mesh: Any, arrays: Any) -> tuple[Any, list[Any], list[Any]]:
        spec = arrays[names.index("x")].sharding.spec
        batch = spec[1] if len(spec) > 1 else None

        def place(letters: str) -> NamedSharding:
            return NamedSharding(
                mesh, PartitionSpec(*(batch if i == "b" else None for i in letters))
            )

        ranks = [len(a.shape) for a in arrays]
        return (
            batch,
            [place(how.axes(n, r)) for n, r in zip(names, ranks, strict=True)],
            [place(how.axes(n)) for n in results],
        )

    def infer(mesh: Any, arrays: Any, _: Any) -> Any:
        return tuple(shardings(mesh, arrays)[2])

    def partition(mesh: Any, arrays: Any, _: Any) -> Any:
        batch, given, found = shardings(mesh, arrays)

        def each_part(*arrays: jax.Array) -> tuple[jax.Array, ...]:
            parts = local(*arrays)
            # sums over the batch are added up over its parts; what is kept of weights is no sum
            return tuple(
                p
                if batch is None or "b" in how.axes(n) or n in how.kept
                else jax.lax.psum(p, batch)
                for n, p in zip(results, parts, strict=True)
            )

        return mesh, each_part, tuple(found), tuple(given)

    @cache
    def partitioned(ranks: tuple[int, ...]) -> Any:
        function = custom_partitioning(local)
        left = ", ".join(" ".join(how.axes(n, r)) for n, r in zip(names, ranks, strict=True))
        right = ", ".join(" ".join(how.axes(n)) for n in results)
        function.def_partition(
            partition=partition,
            infer_sharding_from_operands=infer,
            sharding_rule=f"{left} -> {right}",
            # in the order of their appearance, as the rule's own
            need_replication_factors=tuple(sorted(set(left) - set("b, "), key=left.index)),
        )
        return function

    return lambda *arrays: partitioned(tuple(a.ndim for a in arrays))(*arrays)


# ---- their meanings


def _define(*arrays: jax.Array, how: Call, keep: bool) -> list[jax.Array]:
    found = list(how.define(arrays))
    length = how.lengths(arrays) if keep else {}
    # what is kept is for the fast gradient only
    return found + [
        jnp.zeros(tuple(length[i] for i in how.axes(n)), how.like(arrays, n).dtype)
        for n in how.kept
        if keep
    ]


def _define_tangent(*arrays: jax.Array, how: Call, moving: tuple[int, ...]) -> list[jax.Array]:
    count = len(how.names)
    return _tangent_of(
        partial(_define, how=how, keep=False),
        arrays[:count],
        dict(zip(moving, arrays[count + 1 + len(how.kept) :], strict=True)),
    )[1]


def _define_gradient(
    *arrays: jax.Array, how: Call, incoming: tuple[str, ...], of: tuple[str, ...]
) -> list[jax.Array]:
    count = len(how.names)
    a, given = arrays[:count], dict(zip(incoming, arrays[count + 1 + len(how.kept) :], strict=True))
    where = [how.names.index(n) for n in of]

    def of_moving(*some: jax.Array) -> list[jax.Array]:
        return _define(*_replaced(a, dict(zip(where, some, strict=True))), how=how, keep=False)

    results, pull = jax.vjp(of_moving, *(a[i] for i in where))
    gradients = [
        given.get(f"d{name}", jnp.zeros_like(r))
        for name, r in zip(how.results, results, strict=True)
    ]
    return list(pull(gradients))


def _replaced(arrays: Arrays, by_index: dict[int, Any]) -> list[Any]:
    return [by_index.get(i, a) for i, a in enumerate(arrays)]


def _tangent_of(function: Any, arrays: Arrays, tangents: dict[int, Any]) -> Any:
    """Values and tangents of a function where only some arguments move."""
    where = list(tangents)
    return jax.jvp(
        lambda *some: function(*_replaced(arrays, dict(zip(where, some, strict=True)))),
        tuple(arrays[i] for i in where),
        tuple(tangents.values()),
    )


# ---- the primitives


_MEANINGS: dict[str, Callable[..., Any]] = {}


def _primitive(
    name: str,
    meaning: Callable[..., Any],
    fast: Callable[..., Any],
    names: Callable[..., tuple[tuple[str, ...], tuple[str, ...]]] | None = None,
) -> Any:
    """A primitive whose every rule comes from its meaning, but its compiled form.

    Where the names of its operands and results are known, `vmap` makes a larger batch.
    """
    _MEANINGS[name] = meaning
    primitive = jax.extend.core.Primitive(name)
    primitive.multiple_results = True

    def abstract(*arrays: Any, **options: Any) -> Any:
        found = jax.make_jaxpr(partial(meaning, **options))(*arrays).out_avals
        return [f.update(weak_type=False) for f in found]

    def jvp(arrays: Arrays, tangents: Arrays, **options: Any) -> Any:
        moving = {i: t for i, t in enumerate(tangents) if type(t) is not ad.Zero}
        return _tangent_of(partial(meaning, **options), arrays, moving)

    def batched(arrays: Arrays, axes: Sequence[Any], **options: Any) -> Any:
        if names is not None:
            how, (operands, results) = options["how"], names(**options)
            if _only_batch_is_mapped(how, operands, arrays, axes, results):
                run = partial(primitive.bind, **options)
                return _in_one_batch(run, how, operands, arrays, axes, results)
        found = jax.vmap(partial(meaning, **options), in_axes=tuple(axes))(*arrays)
        return found, [0] * len(found)

    def lowered(platform: str, context: Any, *arrays: Any, **options: Any) -> Any:
        exported = context.module_context.lowering_parameters.for_export
        form = fast if platform in options["how"].platforms and not exported else meaning
        return mlir.lower_fun(partial(form, **options), multiple_results=True)(context, *arrays)

    def run(*arrays: Any, **options: Any) -> Any:
        disabled: bool = jax.config.jax_disable_jit  # pyright: ignore[reportAttributeAccessIssue]
        if disabled:  # a compiled call would come back here
            here = jax.default_backend().replace("gpu", "cuda") in options["how"].platforms
            return (fast if here else meaning)(*arrays, **options)
        return _compiled(primitive, **options)(*arrays)

    primitive.def_impl(run)
    primitive.def_abstract_eval(abstract)
    ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(
        primitive, mlir.lower_fun(lambda *a, **o: meaning(*a, **o), multiple_results=True)
    )
    for platform in PLATFORMS:
        mlir.register_lowering(primitive, partial(lowered, platform), platform=platform)
    return primitive


@cache
def _compiled(primitive: Any, **options: Any) -> Any:
    return jax.jit(partial(primitive.bind, **options))


def _only_batch_is_mapped(
    how: Call, operands: Sequence[str], arrays: Arrays, axes: Sequence[Any], results: Sequence[str]
) -> bool:
    """Whether weights are the same in every call, and no result is a sum over a batch."""
    mapped = [
        (n, a.ndim - 1) for n, a, i in zip(operands, arrays, axes, strict=True) if i is not None
    ]
    return all("b" in how.axes(*m) for m in mapped) and all("b" in how.axes(n) for n in results)


def _in_one_batch(
    run: Callable[..., Any],
    how: Call,
    operands: Sequence[str],
    arrays: Arrays,
    axes: Sequence[Any],
    results: Sequence[str],
) -> tuple[list[jax.Array], list[int]]:
    """Calls that differ in sequences only as one; their results, and the axis of the calls."""
    calls = next(a.shape[i] for a, i in zip(arrays, axes, strict=True) if i is not None)

    def joined(name: str, a: jax.Array, mapped: int | None) -> jax.Array:
        at = how.axes(name, a.ndim - (mapped is not None)).find("b")
        if at < 0:
            return a
        if mapped is None:
            a, mapped = jnp.broadcast_to(a, (calls, *a.shape)), 0
        a = jnp.moveaxis(a, mapped, at)
        return a.reshape(*a.shape[:at], calls * a.shape[at + 1], *a.shape[at + 2 :])

    found = run(*map(joined, operands, arrays, axes))
    places = [how.axes(name).index("b") for name in results]
    return [
        f.reshape(*f.shape[:at], calls, f.shape[at] // calls, *f.shape[at + 1 :])
        for f, at in zip(found, places, strict=True)
    ], places


_recurrence = _primitive("lnrnn_recurrence", _define, _forward, _of_forward)
_tangent = _primitive("lnrnn_tangent", _define_tangent, _define_tangent)
_gradient = _primitive("lnrnn_gradient", _define_gradient, _backward, _of_backward)
_needs_devices.update((_recurrence, _gradient))


def _differentiate(arrays: Arrays, tangents: Arrays, how: Call, keep: bool) -> Any:
    moving = {i: t for i, t in enumerate(tangents) if type(t) is not ad.Zero}
    if any(
        how.names[i] not in how.differentiable for i in moving
    ):  # of random masks: not an engine's
        return _tangent_of(partial(_define, how=how, keep=keep), arrays, moving)
    found = _recurrence.bind(*arrays, how=how, keep=True)
    results, kept = found[: len(how.results)], found[len(how.results) :]
    moved = _tangent.bind(*arrays, found[0], *kept, *moving.values(), how=how, moving=tuple(moving))
    if not keep:
        return results, moved
    # a second derivative takes the meaning, which does not read what is kept
    return found, [*moved, *(jnp.zeros_like(k) for k in kept)]


def _transpose(gradients: Arrays, *arrays: Any, how: Call, moving: tuple[int, ...]) -> list[Any]:
    known = len(how.names) + 1 + len(how.kept)
    given = {
        f"d{name}": g
        for name, g in zip(how.results, gradients, strict=True)
        if type(g) is not ad.Zero
    }
    found = _gradient.bind(
        *arrays[:known],
        *given.values(),
        how=how,
        incoming=tuple(given),
        of=tuple(how.names[i] for i in moving),
    )
    return [None] * known + found


ad.primitive_jvps[_recurrence] = _differentiate
ad.primitive_transposes[_tangent] = _transpose
