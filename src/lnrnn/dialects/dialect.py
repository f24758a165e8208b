"""A published form of a cell: where it comes from, its mathematics, its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lnrnn.dialects.layout import Layout, Parts, Shared
from lnrnn.params import Sizes, shapes
from lnrnn.variant import Variant

Initializer = str | float | Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """Where a form was published.

    Args:
        repository: owner and name on GitHub, or a package on PyPI.
        path: file and class (or function).
        commit: the commit or release that was read.
        licence: SPDX identifier, or a few words where none fits.
    """

    repository: str
    path: str
    commit: str
    licence: str

    def __str__(self) -> str:
        return f"{self.repository}:{self.path} @{self.commit} ({self.licence})"


@dataclass(frozen=True, kw_only=True, eq=False)
class Dialect:
    """A published form of a layer-normalised cell, with exact maps of its weights.

    Args:
        name: the key in [DIALECTS][lnrnn.dialects.DIALECTS].
        title: one line for people.
        source: repository, file, class, commit and licence.
        variant: the mathematics.
        layout: original weight name to its place in the canonical weights.
        scope: what stands before every weight name by default.
        initializers: canonical name to the original's default initialiser: a Keras
            identifier, a number (constant) or a Keras initialiser config.  Names left out
            get `"glorot_uniform"` (matrices), `"orthogonal"` (the recurrent matrix),
            `"ones"` (gains) or `"zeros"` (biases).  Where the original draws `[x, h]` as
            one matrix, its two parts are drawn with fans of their own here.
        per_gate: canonical matrices that the original draws gate by gate.
        drawn_together: gates whose columns of these matrices are nevertheless drawn as one.
        forget_bias_init: canonical bias name to the initial value of its forget columns.
        zoneout: the states to which the original applies zoneout: `""`, `"h"` or `"hc"`.
        masked_output: what a masked step emits in the original: `"repeat"` the last output
            and zeros before the first, `"hold"` the held state, `"zero"` zeros.

    Raises:
        ValueError: the layout misses an element of a canonical weight or has one twice.

    Example:
        >>> from lnrnn.dialects import get
        >>> haste = get("haste_lnlstm")
        >>> weights = {n: np.zeros(s) for n, s in haste.shapes(Sizes(3, 8, 8)).items()}
        >>> params = haste.to_canonical(weights)
        >>> haste.from_canonical(params)["gamma"].shape
        (2, 32)
    """

    name: str
    title: str
    source: Source
    variant: Variant
    layout: Mapping[str, Layout]
    scope: str = ""
    initializers: Mapping[str, Initializer] = field(default_factory=dict)
    per_gate: tuple[str, ...] = ()
    drawn_together: str = ""
    forget_bias_init: Mapping[str, float] = field(default_factory=dict)
    zoneout: Literal["", "h", "hc"] = ""
    masked_output: Literal["repeat", "hold", "zero"] = "repeat"

    def __post_init__(self) -> None:
        sizes = Sizes(2, 3, 4 if self.variant.projection else 3)
        names = shapes(self.variant, sizes)
        given = dict(self.initializers)
        object.__setattr__(
            self, "initializers", {n: given.get(n, _default_initializer(n)) for n in names}
        )
        numbers = self._numbers(sizes)
        packed = self._pack(numbers, offsets=False).values()
        times = np.bincount(np.concatenate([a.ravel() for a in packed]))
        times.resize(1 + sum(a.size for a in numbers.values()))
        wrong = [n for n, a in numbers.items() if (times[a] != 1).any()]
        if wrong:
            raise ValueError(
                f"A layout places each element of a canonical weight once; {self.name!r} does "
                f"not for {', '.join(wrong)}: correct its layout."
            )

    def shapes(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        """The original's weight names (without scope) and shapes at some sizes."""
        zeros = {n: np.zeros(s, bool) for n, s in shapes(self.variant, sizes).items()}
        packed = self._pack(zeros, offsets=False)
        return {n: a.shape for n, a in self._joined(packed, np.any).items()}

    def scope_of(self, weights: Mapping[str, Any]) -> str:
        """What stands before the names of `weights`, the same before each.

        Raises:
            ValueError: the names are not those of this dialect behind one prefix.
        """
        first = next(iter(self.layout))
        for name in weights:
            scope = name.removesuffix(first)
            if name.endswith(first) and {scope + n for n in self.layout} == set(weights):
                return scope
        raise ValueError(
            f"{self.name!r} has the weights {sorted(self.layout)}, all behind one prefix or none; "
            f"got {sorted(weights)}."
        )

    def to_canonical(self, weights: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Canonical weights from the original's.

        Args:
            weights: original name to array, all behind one prefix or none.

        Returns:
            Canonical name to array, in the common dtype of `weights`; see
            [lnrnn.params][] for names and shapes.

        Raises:
            ValueError: names or shapes that are not those of this dialect.
        """
        scope = self.scope_of(weights)
        found = {n: np.asarray(weights[scope + n]) for n in self.layout}
        sizes = self.sizes_of({n: a.shape for n, a in found.items()})
        numbers = self._numbers(sizes)
        dtype = np.result_type(*found.values())
        zeros = {n: np.zeros(a.shape, dtype) for n, a in numbers.items()}
        offsets = self._pack(zeros, offsets=True)
        flat = np.empty(sum(a.size for a in numbers.values()), dtype)
        for name, number in self._pack(numbers, offsets=False).items():
            used = number > 0
            flat[number[used] - 1] = (found[name] - offsets[name])[used]
        return {n: flat[a - 1] for n, a in numbers.items()}

    def from_canonical(
        self,
        params: Mapping[str, Any],
        scope: str | None = None,
        *,
        unused: Mapping[str, Any] | None = None,
    ) -> dict[str, np.ndarray]:
        """The original's weights from canonical ones.

        Args:
            params: canonical name to array.
            scope: what to put before each name; None puts the dialect's own scope.
            unused: original weights to take the elements from that the original stores
                and never reads; None makes them zeros.

        Returns:
            Original name to array, in the dtype of the canonical weights.

        Raises:
            ValueError: gains or biases differ that are one weight in the original.
        """
        packed = self._pack(params, offsets=True)
        for name, layout in self.layout.items():
            copies = packed[name]
            if isinstance(layout, Shared) and not np.array_equal(
                copies, np.broadcast_to(copies[:1], copies.shape), equal_nan=True
            ):
                raise ValueError(
                    f"{self.name!r} has one weight {name!r} for {len(copies)} gates; got gates "
                    "that differ: write another dialect."
                )
        packed = self._joined(packed, lambda copies, axis: copies.take(0, axis))
        if unused is not None:
            before = self.scope_of(unused)
            ones = {n: np.ones_like(a, bool) for n, a in params.items()}
            for name, used in self._joined(self._pack(ones, offsets=False), np.any).items():
                packed[name] = np.where(used, packed[name], unused[before + name])
        return self._scoped(packed, scope)

    def gradients(
        self, gradients: Mapping[str, Any], scope: str | None = None
    ) -> dict[str, np.ndarray]:
        """Gradients of the original's weights from those of the canonical ones.

        The same rearrangement as `from_canonical` without the offsets of gains stored
        minus one; an unused weight has a zero gradient, and that of one weight which stands
        for several is the sum of theirs.

        Args:
            gradients: canonical name to gradient.
            scope: what to put before each name; None puts the dialect's own scope.

        Returns:
            Original name to gradient.
        """
        packed = self._pack(gradients, offsets=False)
        return self._scoped(self._joined(packed, np.sum), scope)

    def _joined(
        self, packed: dict[str, np.ndarray], join: Callable[..., np.ndarray]
    ) -> dict[str, np.ndarray]:
        """`packed` with the copies of a shared weight made one by `join(copies, axis)`."""
        return {
            n: join(a, axis=0) if isinstance(self.layout[n], Shared) else a
            for n, a in packed.items()
        }

    def _pack(self, arrays: Mapping[str, Any], *, offsets: bool) -> dict[str, np.ndarray]:
        parts = Parts(self.variant, {n: np.asarray(a) for n, a in arrays.items()}, offsets)
        return {n: np.array(layout.pack(parts)) for n, layout in self.layout.items()}

    def _scoped(self, weights: dict[str, np.ndarray], scope: str | None) -> dict[str, np.ndarray]:
        before = self.scope if scope is None else scope
        return {before + n: a for n, a in weights.items()}

    def _numbers(self, sizes: Sizes) -> dict[str, np.ndarray]:
        """Canonical weights whose elements are numbered from 1; 0 is left for unused ones."""
        found, start = {}, 1
        for name, shape in shapes(self.variant, sizes).items():
            size = int(np.prod(shape))
            found[name] = np.arange(start, start + size).reshape(shape)
            start += size
        return found

    def sizes_of(self, given: Mapping[str, tuple[int, ...]]) -> Sizes:
        """I, H and R from the shapes of the original weights, which are linear in them.

        Args:
            given: original name (without scope) to shape.

        Returns:
            The sizes; nothing as large as the weights is allocated.

        Raises:
            ValueError: no sizes give these shapes.
        """
        steps = (Sizes(1, 0, 0), Sizes(0, 1, 0), Sizes(0, 0, 1))
        if not self.variant.projection:
            steps = (Sizes(1, 0, 0), Sizes(0, 1, 1))
        one = _flat(self.shapes(Sizes(1, 1, 1)))
        slopes = [_flat(self.shapes(Sizes(*(1 + s for s in step)))) - one for step in steps]
        wanted = _flat({n: given[n] for n in self.layout})
        sizes, fit = Sizes(0, 0, 0), False
        if [len(given[n]) for n in self.layout] == [
            len(s) for s in self.shapes(Sizes(1, 1, 1)).values()
        ]:
            slope = np.stack(slopes, 1)
            more = np.round(np.linalg.lstsq(slope, wanted - one, rcond=None)[0])
            sizes = Sizes(*(int(s) for s in 1 + more @ np.array(steps)))
            fit = bool((one + slope @ more == wanted).all())
        if min(sizes) < 1 or not fit:
            example = Sizes(3, 5, 4 if self.variant.projection else 5)
            raise ValueError(
                f"At I={example.inputs}, H={example.units}, R={example.hidden} the weights of "
                f"{self.name!r} have the shapes {self.shapes(example)}; got {dict(given)}, "
                "which no sizes give."
            )
        return sizes


def fan_scaled(scale: float, mode: str, distribution: str = "uniform") -> Initializer:
    """The config of Keras's VarianceScaling; uniform draws have the bound sqrt(3 scale / fan)."""
    config = {"scale": scale, "mode": mode, "distribution": distribution}
    return {"class_name": "VarianceScaling", "config": config}


def _flat(named: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    return np.array([d for shape in named.values() for d in shape], float)


def _default_initializer(name: str) -> Initializer:
    if name.endswith("gain"):
        return "ones"
    if "bias" in name:
        return "zeros"
    return "orthogonal" if name == "recurrent_kernel" else "glorot_uniform"
