"""Which variant a layer computes, from what its `variant=` argument says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from lnrnn import dialects
from lnrnn.dialects import Dialect
from lnrnn.frontends.errors import ArgumentTypeError
from lnrnn.variant import Cell, Norm, Variant

VariantArgument = str | Variant | Mapping[str, Any] | None


@dataclass(frozen=True)
class Family:
    """A kind of layer: the cells that it computes.

    Args:
        name: how messages call it.
        cells: values of `Variant.cell`, the plain cell first.
        default: name of the dialect whose equations are the default.
    """

    name: str
    cells: tuple[Cell, ...]
    default: str


SIMPLE = Family("simple RNN", ("simple", "indrnn"), "book_lnsimplernn")
LSTM = Family("LSTM", ("lstm",), "haste_lnlstm")
GRU = Family("GRU", ("gru", "ligru"), "haste_lngru")
FAMILIES = (SIMPLE, LSTM, GRU)


def plain(family: Family) -> Variant:
    """The cell without any norm; a GRU with the two biases of Keras and PyTorch."""
    if family is GRU:
        return Variant(cell="gru", bias_x=True, bias_h=True)
    return Variant(cell=family.cells[0], bias=True)


def find(family: Family, given: VariantArgument) -> tuple[Variant, Dialect | None]:
    """The variant that `variant=` means, and its dialect if it was chosen by name.

    Raises:
        ValueError: an unknown name, or a variant of another cell.
        ArgumentTypeError: neither a name nor a variant.
    """
    dialect = None
    if given is None:
        variant = dialects.get(family.default).variant
    elif given == "none":
        variant = plain(family)
    elif isinstance(given, str):
        dialect = dialects.get(given)
        variant = dialect.variant
    elif isinstance(given, Variant):
        variant = given
    elif isinstance(given, Mapping):
        variant = Variant.from_dict(given)
    else:
        raise ArgumentTypeError(
            f"variant is the name of a dialect, 'none' or a Variant; got {given!r}: "
            f"use for example variant={family.default!r}."
        )
    if variant.cell not in family.cells:
        other = next(f for f in FAMILIES if variant.cell in f.cells)
        raise ValueError(
            f"The layer-normalised {family.name} computes cells "
            f"{' or '.join(map(repr, family.cells))}; got variant={given!r} of cell "
            f"{variant.cell!r}: use the {other.name}."
        )
    return variant, dialect


def named(given: str | Variant) -> tuple[Variant, Dialect | None]:
    """The variant that a name means where any cell is possible, and its dialect if it is one.

    Args:
        given: `"lstm"`, `"gru"` or `"simple"` for the default of that family, the name of a
            dialect, or a variant.

    Raises:
        ValueError: an unknown name.
        ArgumentTypeError: neither a name nor a variant.
    """
    family = next((f for f in FAMILIES if f.cells[0] == given), None)
    if family is not None:
        return find(family, None)
    if isinstance(given, str):
        dialect = dialects.get(given)
        return dialect.variant, dialect
    if isinstance(given, Variant):
        return given, None
    raise ArgumentTypeError(
        f"variant is 'lstm', 'gru', 'simple', the name of a dialect or a Variant; got {given!r}: "
        "use for example variant='lstm'."
    )


class Left(NamedTuple):
    """Why a family of layers is left."""

    reason: str


def chosen(variant: Any, named: Mapping[str, Family]) -> dict[str, Any]:
    """For each family, as a front end names it, the `variant=` of its layers or a `Left`.

    Args:
        variant: for all families, or a mapping from the names of some.
        named: the families.

    Raises:
        ValueError: a name of no family, a variant that does not exist or has a projection.
    """
    if isinstance(variant, Mapping):
        if not set(variant) <= set(named):
            raise ValueError(
                f"A dict of variants has the keys {', '.join(map(repr, named))}; got "
                f"{', '.join(map(repr, variant))}: name the classes to replace."
            )
        found = {n: Left(f"variant= does not name {n}") for n in named} | dict(variant)
    elif variant is None or variant == "none":
        found = dict.fromkeys(named, variant)
    else:
        cell = (variant if isinstance(variant, Variant) else dialects.get(variant).variant).cell
        found = {
            name: variant
            if cell in family.cells
            else Left(f"variant={_short(variant)} computes no {name}")
            for name, family in named.items()
        }
    for name, given in found.items():
        if not isinstance(given, Left) and find(named[name], given)[0].projection:
            raise ValueError(
                f"layer_normalize keeps the width of h; got variant={_short(given)} with a "
                f"projection for {name}: use a variant without one."
            )
    return found


def _short(variant: Any) -> str:
    return f"Variant(cell={variant.cell!r}, ...)" if isinstance(variant, Variant) else repr(variant)


def without_bias(variant: Variant) -> Variant:
    """The variant without any bias on its pre-activations; a cell norm keeps its own."""
    norms = tuple(Norm(n.site, n.gates, n.gain, bias=False) for n in variant.norms)
    return variant.replace(norms=norms, bias=False, bias_x=False, bias_h=False, tied_bias=False)
