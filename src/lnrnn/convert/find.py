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
from lnrnn.convert.tensors import SEPARATORS, Container, natural
from lnrnn.convert.weights import Checkpoint, Origin, Weights, check_float
from lnrnn.dialects import Dialect
from lnrnn.frontends.keras_weights import CANONICAL, ORDERS, KerasLayout
from lnrnn.params import Sizes, shapes
from lnrnn.variant import Variant

Array = np.ndarray

_DIRECTIONS = (
    ("forward", "backward"),
    ("fwd", "bwd"),
    ("fw", "bw"),
    ("forward", "reverse"),
    ("fwd", "rev"),
    ("directions.0", "directions.1"),
)
_FIRST = (("kernel", "recurrent_kernel"), ("kernel", "recurrent_scale"))
_ZONEOUT = {"h": "zoneout", "c": "zoneout_cell"}
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
        order: in which a Keras layer of this package holds them.
    """

    name: str
    variant: Variant
    names: Mapping[str, str]
    sizes: Sizes
    stated: frozenset[str] = frozenset()
    zoneout: tuple[float, float] = (0.0, 0.0)
    order: str = CANONICAL

    @property
    def assumed(self) -> dict[str, str]:
        """What is the form's and not the file's: constants, activations, no zoneout."""
        variant, defaults = self.variant, {f.name: f.default for f in dataclasses.fields(Variant)}
        gated = variant.cell not in ("simple", "indrnn")
        always = ["epsilon", "activation", *(["recurrent_activation"] if gated else [])]
        constants = (
            "forget_bias", "update_bias", "cell_clip", "hidden_clip", "projection_clip",
            "output_activation",
        )  # fmt: skip
        others = [n for n in constants if getattr(variant, n) != defaults[n]]
        values = {n: getattr(variant, n) for n in (*always, *others) if n not in self.stated}
        if self.name != OWN and not self.stated:
            # a configuration of the original's class would have it
            values |= {_ZONEOUT[letter]: 0 for letter in form(self.name).zoneout}
        return {n: v if isinstance(v, str) else f"{v:g}" for n, v in values.items()}


@dataclass(frozen=True)
class Found:
    """A recurrent layer in a file.

    Args:
        scope: what stands before the names of its weights.
        fits: the forms that it may have; several where names and shapes do not tell.
        beside: further tensors that lie with its weights and belong to none of the fits.
        unclear: a field of the variant, or `"dialect"`, to what the file says of it that no form
            can express.
        backwards: whether it reads sequences from their end; None where the file does not say.
    """

    scope: str
    fits: tuple[Fit, ...]
    beside: tuple[str, ...] = ()
    unclear: Mapping[str, str] = dataclasses.field(default_factory=dict)
    backwards: bool | None = None


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
    for scope, fact in container.facts.items():
        # a cell that has weights of another layout is not passed over
        if _is_fact(fact) and keras_config.is_known(fact) and _has_weights(container, scope):
            by_scope.setdefault(scope, [])
    lost = [
        fact["class"]
        for scope, fact in container.facts.items()
        if _is_fact(fact) and keras_config.is_known(fact) and not _has_weights(container, scope)
    ]
    found = []
    for scope, fits in by_scope.items():
        largest = [f for f in fits if not any(_within(f, other) for other in fits)]
        told, unclear = _told(container, scope, largest)
        fact: Any = container.facts.get(scope)
        backwards = fact["backwards"] if _is_fact(fact) else None
        if fact is None and lost:
            unclear = {"dialect": f"a cell of the class {ascii(lost[0])[:60]} at another place"}
        beside = _beside(container, scope, told)
        found.append(Found(scope, told, beside, unclear, backwards))
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
    for path, one in zip(_paths(found), found, strict=True):
        _check_clear(one, dialect, settings or {})
        fit = _decided(one)
        if one.beside and dialect is None:
            raise FileError(
                f"The weights of {fit.name} at {one.scope!r} lie with others that it has not, "
                f"{_list(one.beside)}: name the form with --from, if these can be left out."
            )
        layers[path] = weights = _load(container, file, one.scope, fit, settings or {})
        told = ", ".join(f"{n}={v}" for n, v in fit.assumed.items() if n not in (settings or {}))
        sentences.append(
            f"{path}: {fit.name} at {one.scope or 'the top of the file'}, I={weights.sizes.inputs} "
            f"H={weights.sizes.units}" + (f", assumed {told}" if told else "")
        )
        if one.beside:
            sentences.append(f"{path}: left out {_list(one.beside)}")
    numbers = {path.split(".")[1] for path in layers}
    if len(numbers) > 1 and not container.ordered and any(f.backwards is None for f in found):
        sentences.append(
            "The file does not say in which order the model has these layers: their numbers "
            "follow the alphabet."
        )
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
                if scope and scope[-1] not in SEPARATORS:
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
    """A layer of this package: its weights have the names of its layout, or numbers in order."""
    told = keras_config.told(fact)
    if told.variant is None or told.order not in ORDERS:
        return
    entries = container.entries
    for numbered in (True, False):
        spelt = ["vars/0", "vars/1"] if numbered else list(_FIRST[told.variant.cell == "indrnn"])
        first, second = (entries.get(scope + name) for name in spelt)
        if first is None or second is None or len(first.shape) != 2 or not second.shape:
            continue
        sizes = Sizes(first.shape[0], first.shape[1] // len(told.variant.gates), second.shape[0])
        try:
            expected = KerasLayout(told.variant, sizes, told.order).weights
        except ValueError:
            continue
        placed = {
            name: f"{scope}vars/{i}" if numbered else f"{scope}{name}"
            for i, name in enumerate(expected)
        }
        if all(p in entries and entries[p].shape == expected[n].shape for n, p in placed.items()):
            stated = frozenset(told.fields)
            fit = Fit(OWN, told.variant, placed, sizes, stated, told.zoneout, told.order)
            yield fit, scope


def _within(fit: Fit, other: Fit) -> bool:
    return set(fit.names.values()) < set(other.names.values())


def _told(
    container: Container, scope: str, fits: list[Fit]
) -> tuple[tuple[Fit, ...], Mapping[str, str]]:
    """The fits that agree with what the file says of the layer, and what of that is unclear."""
    fact = container.facts.get(scope)
    if not isinstance(fact, dict):
        return tuple(fits), {}
    if "lite" in fact:
        return tuple(_set(f, fact["lite"]) for f in fits if f.name.count("_clip") == 0), {}
    told = keras_config.told(fact)
    unclear = dict(told.unclear)
    if fact["turned"]:
        unclear["direction"] = "go_backwards the other way round"
    own = [fit for fit in fits if fit.name == OWN]
    named = own or [fit for fit in fits if fit.name == told.dialect]
    if "dialect" in unclear:
        return tuple(fits), unclear
    try:
        agreeing = tuple(_agreeing(named, told))
    except (TypeError, ValueError) as error:
        return tuple(fits), {**unclear, "dialect": f"a combination that no Variant has ({error})"}
    if not agreeing:
        unclear["dialect"] = f"the class {ascii(fact['class'])[:60]}, whose weights these are not"
    return agreeing or tuple(fits), unclear


def _agreeing(fits: list[Fit], told: keras_config.Told) -> Iterator[Fit]:
    """The fits with what a configuration sets; none of other weights than it implies."""
    for fit in fits:
        if told.variant is None:
            yield _set(fit, told.fields)
        elif shapes(told.variant, fit.sizes) == shapes(fit.variant, fit.sizes):
            stated = frozenset(told.fields)
            yield dataclasses.replace(
                fit, variant=told.variant, stated=stated, zoneout=told.zoneout
            )


def _set(fit: Fit, changes: Mapping[str, Any]) -> Fit:
    variant = fit.variant.replace(**changes)
    return dataclasses.replace(fit, variant=variant, stated=frozenset(changes))


def _check_clear(found: Found, dialect: str | None, settings: Mapping[str, Any]) -> None:
    """Refuse a layer of which the file says what nothing here can express."""
    answered = {*settings, *(["dialect"] if dialect is not None else [])}
    left = {n: text for n, text in found.unclear.items() if n not in answered}
    if not left:
        return
    at = found.scope or "the top of the file"
    if "direction" in left:
        raise FileError(
            "The forward layer of a Bidirectional reads forwards and the backward layer backwards; "
            f"that at {at!r} has {left['direction']}: save its two layers apart."
        )
    sets = " ".join(f"--set {n}=…" for n in left if n != "dialect")
    says = " and ".join(
        filter(
            None, ["--from FORM (and --set for its constants)" if "dialect" in left else "", sets]
        )
    )
    stated = ", ".join(dict.fromkeys(left.values()))
    raise FileError(
        f"The configuration of {at!r} has {stated}, which no form here expresses: say with {says} "
        "what the cell computes."
    )


def _is_fact(fact: Any) -> bool:
    return isinstance(fact, dict) and "class" in fact


def _has_weights(container: Container, scope: str) -> bool:
    return any(name.startswith(scope) for name in container.entries)


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
    ahead, first = _ahead(found.scope), 0
    told = [at for at in (ahead, found.scope) if at in facts]
    fact = facts.index(told[0]) if told else len(facts)
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
    variant = with_settings(fit.variant, fit.sizes, changes, fit.name)
    if fit.name == OWN:
        params = KerasLayout(fit.variant, fit.sizes, fit.order).to_canonical(values)
        return Weights(variant, params, **zoneout)
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


def with_settings(variant: Variant, sizes: Sizes, changes: Mapping[str, Any], name: str) -> Variant:
    """A variant with some fields changed, that has the same weights.

    Raises:
        FileError: values that no variant has, or fields that say which weights there are.
    """
    try:
        changed = variant.replace(**changes)
    except (ValueError, TypeError) as error:
        raise FileError(f"The settings do not fit {name}: {error}") from error
    if changed.projection == variant.projection:
        have, want = set(shapes(variant, sizes)), set(shapes(changed, sizes))
    else:
        have, want = {"projection_kernel"}, set()
        have, want = (have, want) if variant.projection else (want, have)
    for names, verb in ((have - want, "has"), (want - have, "has no")):
        if names:
            given = ", ".join(f"{n}={v}" for n, v in changes.items())
            raise FileError(
                f"The settings change constants and functions; with {given} {name} would have "
                f"other weights, as the file {verb} {', '.join(sorted(names))}: leave it out, or "
                "name another form with --from."
            )
    return changed


def _paths(found: list[Found]) -> list[str]:
    """`layers.0.forward`, … for layers in order; pairs of directions share a number."""
    paths: list[str] = []
    place = -1
    for i, one in enumerate(found):
        before = found[i - 1].scope if i else None
        paired = before is not None and any(
            ahead in before and before.replace(ahead, back) == one.scope
            for ahead, back in _DIRECTIONS
        )
        if paired and one.backwards is not False:
            paths.append(f"layers.{place}.reverse")
            continue
        place += 1
        paths.append(f"layers.{place}.{'reverse' if one.backwards else 'forward'}")
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
