"""Which tensors of a file are a recurrent layer, and which published forms they fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lnrnn.convert.containers import keras_config
from lnrnn.convert.errors import FileError
from lnrnn.convert.forms import FORMS, form, spellings
from lnrnn.convert.tensors import Container, natural
from lnrnn.convert.weights import Checkpoint, Origin, Weights, check_float
from lnrnn.dialects import Dialect
from lnrnn.params import Sizes, shapes
from lnrnn.variant import Variant

Array = np.ndarray

_SEPARATORS = "/._:"
_DIRECTIONS = (
    ("forward", "backward"),
    ("fwd", "bwd"),
    ("fw", "bw"),
    ("forward", "reverse"),
    ("fwd", "rev"),
    ("directions.0", "directions.1"),
)
OWN = "lnrnn"


@dataclass(frozen=True)
class Fit:
    """A form whose names and shapes some tensors have.

    Args:
        name: of the form; `"lnrnn"` for a layer of this package.
        variant: its mathematics, with what the file says about them.
        names: original name to the name in the file.
        sizes: I, H and R.
        stated: the fields of the variant that the file itself sets.
        zoneout: of h and c.
    """

    name: str
    variant: Variant
    names: Mapping[str, str]
    sizes: Sizes
    stated: frozenset[str] = frozenset()
    zoneout: tuple[float, float] = (0.0, 0.0)

    @property
    def assumed(self) -> dict[str, Any]:
        """Constants that are the form's and not the file's: `epsilon`, `forget_bias`, clips."""
        defaults = {f.name: f.default for f in dataclasses.fields(Variant)}
        constants = (
            "epsilon", "forget_bias", "update_bias", "cell_clip", "hidden_clip",
            "projection_clip",
        )  # fmt: skip
        return {
            name: getattr(self.variant, name)
            for name in constants
            if name not in self.stated
            and (name == "epsilon" or getattr(self.variant, name) != defaults[name])
        }


@dataclass(frozen=True)
class Found:
    """A recurrent layer in a file.

    Args:
        scope: what stands before the names of its weights.
        fits: the forms that it may have; several where names and shapes do not tell.
        beside: further tensors that lie with its weights and belong to none of the fits.
    """

    scope: str
    fits: tuple[Fit, ...]
    beside: tuple[str, ...] = ()


def find(container: Container) -> list[Found]:
    """The recurrent layers of a file, in the order of the model where the file has one.

    Args:
        container: what a reader gave.

    Returns:
        The layers; none where no tensors fit any form.
    """
    by_scope: dict[str, list[Fit]] = {}
    for fit, scope in _fits(container):
        by_scope.setdefault(scope, []).append(fit)
    found = []
    for scope, fits in by_scope.items():
        largest = [f for f in fits if not any(_within(f, other) for other in fits)]
        told = _told(container, scope, largest)
        found.append(Found(scope, told, _beside(container, scope, told)))
    return sorted(found, key=lambda one: _order(container, one))


def read_layers(
    container: Container,
    file: str,
    dialect: str | None = None,
    select: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> tuple[Checkpoint, list[str]]:
    """The recurrent layers of a foreign file in canonical form.

    Args:
        container: what a reader gave.
        file: name of the file, kept as the origin.
        dialect: name of the form; None takes the one that fits, if it is only one.
        select: the scope of the layer to take, or the start of several layers' scopes.
        settings: fields of the variant, `zoneout` and `zoneout_cell`, in place of the form's.

    Returns:
        The layers, and sentences about what was assumed.

    Raises:
        FileError: no layer fits, or several forms fit one.
    """
    found = find(container)
    if select is not None:
        found = [f for f in found if f.scope.startswith(select) or f.scope.rstrip("/.") == select]
    if dialect is not None:
        wanted = form(dialect).name
        found = [_only(f, wanted) for f in found if any(t.name == wanted for t in f.fits)]
    if not found:
        raise FileError(_nothing(container, dialect, select))
    layers: dict[str, Weights] = {}
    sentences = []
    for path, one in zip(_paths([f.scope for f in found]), found, strict=True):
        fit = _decided(one)
        if one.beside and dialect is None:
            raise FileError(
                f"The weights of {fit.name} at {one.scope!r} lie with others that it has not, "
                f"{_list(one.beside)}: name the form with --from, if these can be left out."
            )
        layers[path] = weights = _load(container, file, one.scope, fit, settings or {})
        told = ", ".join(f"{n}={v:g}" for n, v in fit.assumed.items() if n not in (settings or {}))
        sentences.append(
            f"{path}: {fit.name} at {one.scope or 'the top of the file'}, I={weights.sizes.inputs} "
            f"H={weights.sizes.units}" + (f", assumed {told}" if told else "")
        )
        if one.beside:
            sentences.append(f"{path}: left out {_list(one.beside)}")
    return Checkpoint(layers), sentences


def _fits(container: Container) -> Iterator[tuple[Fit, str]]:
    """Every form that fits somewhere, with its scope."""
    entries = container.entries
    for name, dialect in FORMS.items():
        for names in spellings(name):
            pivot = max(names.values(), key=len)
            for entry in entries:
                if not entry.endswith(pivot):
                    continue
                scope = entry[: len(entry) - len(pivot)]
                if scope and scope[-1] not in _SEPARATORS:
                    continue
                placed = {n: scope + spelt for n, spelt in names.items()}
                sizes = _sizes(dialect, entries, placed)
                if sizes is not None:
                    yield Fit(name, dialect.variant, placed, sizes), scope
    for scope, fact in container.facts.items():
        if _is_fact(fact):
            yield from _own(container, scope, fact)


def _sizes(dialect: Dialect, entries: Mapping[str, Any], placed: Mapping[str, str]) -> Sizes | None:
    if not all(name in entries for name in placed.values()):
        return None
    try:
        return dialect.sizes_of({n: entries[at].shape for n, at in placed.items()})
    except ValueError:
        return None


def _own(container: Container, scope: str, fact: Mapping[str, Any]) -> Iterator[tuple[Fit, str]]:
    """A layer of this package in a .keras file: its weights are numbered in canonical order."""
    known = keras_config.own_variant(fact)
    if known is None:
        return
    variant, *zoneout = known
    entries = container.entries
    first, second = (entries.get(f"{scope}vars/{i}") for i in (0, 1))
    if first is None or second is None or len(first.shape) != 2:
        return
    sizes = Sizes(first.shape[0], first.shape[1] // len(variant.gates), second.shape[0])
    try:
        expected = shapes(variant, sizes)
    except ValueError:
        return
    placed = {name: f"{scope}vars/{i}" for i, name in enumerate(expected)}
    if all(p in entries and entries[p].shape == expected[n] for n, p in placed.items()):
        stated = frozenset(f.name for f in dataclasses.fields(Variant))
        yield Fit(OWN, variant, placed, sizes, stated, (zoneout[0], zoneout[1])), scope


def _within(fit: Fit, other: Fit) -> bool:
    return set(fit.names.values()) < set(other.names.values())


def _told(container: Container, scope: str, fits: list[Fit]) -> tuple[Fit, ...]:
    """The fits that agree with what the file says of the layer, with what it sets."""
    fact = container.facts.get(scope)
    if not isinstance(fact, dict):
        return tuple(fits)
    if "lite" in fact:
        return tuple(_set(fit, fact["lite"]) for fit in fits if fit.name.count("_clip") == 0)
    known = keras_config.dialect_of(fact)
    own = [fit for fit in fits if fit.name == OWN]
    if own:
        return tuple(own)
    if known is None:
        return tuple(fits)
    name, changes = known
    named = [fit for fit in fits if fit.name == name]
    try:
        return tuple(_set(fit, changes) for fit in named) or tuple(fits)
    except ValueError:
        return tuple(fits)


def _set(fit: Fit, changes: Mapping[str, Any]) -> Fit:
    variant = fit.variant.replace(**changes)
    return dataclasses.replace(fit, variant=variant, stated=frozenset(changes))


def _is_fact(fact: Any) -> bool:
    return isinstance(fact, dict) and "class" in fact


def _beside(container: Container, scope: str, fits: tuple[Fit, ...]) -> tuple[str, ...]:
    """Tensors in the same places as the weights of a layer that no fit takes."""
    used = {name for fit in fits for name in fit.names.values()}
    places = {name.rpartition("/")[0] if "/" in name else _dotted(name) for name in used}
    return tuple(
        name
        for name in container.entries
        if name not in used
        and name.startswith(scope)
        and (name.rpartition("/")[0] if "/" in name else _dotted(name)) in places
    )


def _dotted(name: str) -> str:
    return name.rpartition(".")[0]


def _order(container: Container, found: Found) -> tuple[Any, ...]:
    """A key that sorts layers as the model has them, each direction after its forward one."""
    facts = [at for at, fact in container.facts.items() if _is_fact(fact)]
    fact = facts.index(found.scope) if found.scope in facts else len(facts)
    ahead, first = _ahead(found.scope), 0
    if container.ordered:
        places = (i for i, name in enumerate(container.entries) if _ahead(name).startswith(ahead))
        first = min(places, default=0)
    return fact, first, natural(ahead), ahead != found.scope


def _ahead(name: str) -> str:
    """A name with the words of the other direction replaced by those of the forward one."""
    for forward, back in _DIRECTIONS:
        name = name.replace(back, forward)
    return name


def _only(found: Found, name: str) -> Found:
    return dataclasses.replace(found, fits=tuple(f for f in found.fits if f.name == name))


def _decided(found: Found) -> Fit:
    """The fit of a layer, where all that fit compute the same from the same numbers."""
    first = found.fits[0]
    same = [f for f in found.fits if _same(f, first)]
    if len(same) == len(found.fits):
        return first
    names = ", ".join(f.name for f in found.fits)
    raise FileError(
        f"The weights at {found.scope or 'the top of the file'!r} fit several forms that compute "
        f"differently, {names}: say which with --from ({_difference(found.fits)})."
    )


def _same(one: Fit, other: Fit) -> bool:
    if one.variant != other.variant or one.names != other.names:
        return False
    return one.name == other.name or form(one.name).layout == form(other.name).layout


def _difference(fits: tuple[Fit, ...]) -> str:
    """In which fields the variants of some fits differ."""
    fields = [f.name for f in dataclasses.fields(Variant)]
    differing = [n for n in fields if len({str(getattr(f.variant, n)) for f in fits}) > 1]
    return "they differ in " + (", ".join(differing) if differing else "the order of the gates")


def _load(
    container: Container, file: str, scope: str, fit: Fit, settings: Mapping[str, Any]
) -> Weights:
    values = {n: container.entries[at].load() for n, at in fit.names.items()}
    for name, value in values.items():
        check_float(fit.names[name], value)
    zoneout = {
        "zoneout": settings.get("zoneout", fit.zoneout[0]),
        "zoneout_cell": settings.get("zoneout_cell", fit.zoneout[1]),
    }
    changes = {n: v for n, v in settings.items() if n not in zoneout}
    try:
        variant = fit.variant.replace(**changes)
    except (ValueError, TypeError) as error:
        raise FileError(f"The settings do not fit {fit.name}: {error}") from error
    if fit.name == OWN:
        return Weights(variant, values, **zoneout)
    dialect = form(fit.name)
    params = dialect.to_canonical(values)
    again = dialect.from_canonical(params, "")
    common = next(iter(params.values())).dtype
    origin = Origin(
        dialect=fit.name,
        scope=scope,
        file=file,
        container=container.kind,
        dtypes={n: v.dtype.name for n, v in values.items() if v.dtype != common},
        kept={n: v for n, v in values.items() if again[n].astype(v.dtype).tobytes() != v.tobytes()},
    )
    return Weights(variant, params, origin=origin, **zoneout)


def _paths(scopes: list[str]) -> list[str]:
    """`layers.0.forward`, … for scopes in order; pairs of directions share a number."""
    paths: list[str] = []
    place = -1
    for i, scope in enumerate(scopes):
        before = scopes[i - 1] if i else None
        if before is not None and any(
            ahead in before and before.replace(ahead, back) == scope for ahead, back in _DIRECTIONS
        ):
            paths.append(f"layers.{place}.reverse")
            continue
        place += 1
        paths.append(f"layers.{place}.forward")
    return paths


def _nothing(container: Container, dialect: str | None, select: str | None) -> str:
    where = f" under {select!r}" if select else ""
    if dialect is None:
        return (
            f"No tensors{where} have the names and shapes of a known recurrent layer: lnrnn "
            "inspect lists the tensors, and --from says what is due."
        )
    wanted = form(dialect)
    spelt = sorted(wanted.layout)
    shown = wanted.shapes(Sizes(3, 5, 4 if wanted.variant.projection else 5))
    missing = [n for n in spelt if not any(e.endswith(n) for e in container.entries)]
    if missing:
        return (
            f"The weights of {dialect} are {', '.join(spelt)}, behind one prefix or none; the file "
            f"has no {_list(tuple(missing))}{where}."
        )
    return (
        f"The weights of {dialect} at I=3, H=5 have the shapes {shown}; those{where} in the file "
        "are of none such."
    )


def _list(names: tuple[str, ...]) -> str:
    shown = ", ".join(repr(n) for n in names[:4])
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")
