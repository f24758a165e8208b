"""The commands `lnrnn convert` and `lnrnn inspect`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args, get_type_hints

from lnrnn.convert import export, file, relatives
from lnrnn.convert.containers import open_file
from lnrnn.convert.errors import FileError, TargetError
from lnrnn.convert.find import Fit, Found, find, read_layers, with_settings
from lnrnn.convert.tensors import Array, Container
from lnrnn.convert.weights import Checkpoint, Weights
from lnrnn.relatives.relative import Relative
from lnrnn.relatives.table import RELATIVES, Published
from lnrnn.relatives.weights import sizes_of
from lnrnn.variant import Variant

_NAMES = {"eps": "epsilon"}
_RATES = ("zoneout", "zoneout_cell")


def read(
    path: Path,
    dialect: str | None = None,
    select: str | None = None,
    settings: dict[str, Any] | None = None,
) -> tuple[Checkpoint, list[str]]:
    """The recurrent layers of any file that a reader knows.

    Args:
        path: of the file, in any of the containers of the guide.
        dialect: name of the form of its weights; None takes the one that fits, if only one does.
        select: the start of the names of the weights that are wanted, or for a file of this
            package the start of a path.
        settings: fields of the variant in place of the form's.

    Returns:
        The layers, and sentences about what was found and assumed.

    Raises:
        FileError: a file that cannot be used, or a layer that fits none or several forms.
        OSError: there is no such file, or it cannot be read.
    """
    return _layers(open_file(path), path.name, dialect, select, settings)


def _layers(
    container: Container,
    name: str,
    dialect: str | None,
    select: str | None,
    settings: dict[str, Any] | None,
) -> tuple[Checkpoint, list[str]]:
    if relatives.is_ours(container):
        raise FileError(
            "The file is of a relative, which is no layer with a variant: use "
            "lnrnn.convert.relatives.load."
        )
    if not file.is_ours(container):
        cells = relatives.find(container, select) if dialect is None else []
        if cells:
            raise FileError(
                f"The file has a relative, {cells[0]}, which is no layer with a variant: lnrnn "
                f"convert with --from {cells[0].form.name} reads it, with another --from or a "
                "--select what lies beside it."
            )
        return read_layers(container, name, dialect, select, settings)
    if dialect is not None:
        raise FileError(
            f"{name} is a file of this package and says what it holds: leave --from out."
        )
    layers = {
        at: weights
        for at, weights in file.from_container(container).items()
        if select is None or at.startswith(select)
    }
    if not layers:
        raise FileError(f"{name} has no layer whose path begins with {select!r}.")
    if settings:
        layers = {at: _changed(weights, settings) for at, weights in layers.items()}
    return Checkpoint(layers), [
        f"{at}: I={w.sizes.inputs} H={w.sizes.units}" for at, w in layers.items()
    ]


def convert(
    source: Path,
    to: Path,
    dialect: str | None = None,
    form: str | None = None,
    select: str | None = None,
    settings: Iterable[str] = (),
    form_settings: Iterable[str] = (),
    check: str | None = None,
    int8: bool = False,
) -> int:
    """Read a file, write another; see `lnrnn convert --help`."""
    _check_target(to, form, form_settings := list(form_settings))
    if int8 and to.suffix != ".tflite":
        raise TargetError(f"--int8 goes with a .tflite file; got {to.name!r}.")
    container = open_file(source)
    found = _relative(container, dialect, select)
    if found is not None:
        relative, params, origin = found
        sizes = sizes_of(relative, params)
        said = f"{origin.name if origin else relative.cell}: I={sizes.inputs} H={sizes.units}"
        given = {"--set": tuple(settings), "--as-set": form_settings}
        _refuse(said, given | {"--int8": int8, "--as with .tflite": to.suffix == ".tflite"})
        print(said)
        if check is not None:
            from lnrnn.convert.check import check_relative

            print(check_relative(origin, params, check))
        if form is None:
            relatives.save(to, relative, params)
        else:
            arrays = relatives.originals(relative, params, form)
            export.write_arrays(to, arrays, dict.fromkeys(arrays, ""))
        print(f"wrote {to}")
        return 0
    checkpoint, sentences = _layers(container, source.name, dialect, select, parse(settings))
    for sentence in sentences:
        print(_shown(sentence))
    if check is not None:
        from lnrnn.convert.check import check_layer

        for at, weights in checkpoint.items():
            print(f"{at}: {check_layer(weights, check)}")
    if form is None:
        file.save(to, checkpoint)
    else:
        export.write(to, checkpoint, form, parse(form_settings), int8)
    print(f"wrote {to}")
    return 0


def _relative(
    container: Container, dialect: str | None, select: str | None
) -> tuple[Relative, dict[str, Array], Published | None] | None:
    """A relative of a file, its weights and whose they are; None where layers are to be read."""
    if relatives.is_ours(container) and dialect is None and select is None:
        return *relatives.from_container(container), None
    if dialect is not None:
        form = RELATIVES.get(dialect)
    else:
        cells = [] if file.is_ours(container) else relatives.find(container, select)
        alone = len(cells) == 1 and not _beside(find(container), cells, select)
        form = cells[0].form if alone else None
    if form is None:
        return None
    return form.relative, relatives.read(container, form, select), form


def _beside(
    layers: list[Found], cells: list[relatives.Found], select: str | None = None
) -> list[Found]:
    """The layers that are no part of a relative."""
    taken = [set(cell.names) for cell in cells]
    return [
        layer
        for layer in layers
        if layer.scope.startswith(select or "")
        and not any(set(fit.names.values()) <= names for fit in layer.fits for names in taken)
    ]


def _refuse(said: str, options: dict[str, Any]) -> None:
    """Refuse the options that a relative has no place for."""
    given = [name for name, value in options.items() if value]
    if given:
        raise FileError(
            f"{given[0]} is for layers with a variant; got it with a relative, {said}: "
            "leave it out."
        )


def _check_target(to: Path, form: str | None, form_settings: list[str]) -> None:
    """Refuse what cannot be written before anything is read."""
    if form is not None:
        export.check_ending(to)
    elif to.suffix != ".safetensors":
        raise TargetError(
            f"A file of this package ends in .safetensors; got {to.name!r}: write that, or name "
            "another program's form with --as."
        )
    elif form_settings:
        raise TargetError(
            f"--as-set goes with --as, the form that it changes; got {form_settings[0]!r}: use "
            "--set for the file that is read."
        )


def inspect(source: Path, tensors: bool = False) -> int:
    """List the recurrent layers of a file; see `lnrnn inspect --help`."""
    from lnrnn.console import columns

    container = open_file(source)
    print(f"{source.name}: {container.kind}, {len(container.entries)} tensors\n")
    if file.is_ours(container):
        checkpoint = file.from_container(container)
        rows = [
            (at, w.variant.cell, str(w.sizes.inputs), str(w.sizes.units), str(w.sizes.hidden),
             w.origin.dialect if w.origin else "")
            for at, w in checkpoint.items()
        ]  # fmt: skip
        print(columns(("layer", "cell", "I", "H", "R", "came from"), rows))
        return 0
    if relatives.is_ours(container):
        relative, params = relatives.from_container(container)
        sizes = sizes_of(relative, params)
        row = (relative.cell, str(sizes.inputs), str(sizes.units), str(sizes.hidden))
        print(columns(("relative", "I", "H", "R"), [row]))
        return 0
    cells = relatives.find(container)
    found = _beside(find(container), cells)
    rows = [
        (_shown(one.scope) or "(top)", fit.name, fit.variant.cell, str(fit.sizes.inputs),
         str(fit.sizes.units), _constants(fit))
        for one in found
        for fit in one.fits
    ] + [
        (_shown(cell.scope) or "(top)", cell.form.name, cell.form.relative.cell,
         str(cell.sizes.inputs), str(cell.sizes.units), f"epsilon={cell.form.relative.epsilon:g}")
        for cell in cells
    ]  # fmt: skip
    if rows:
        print(columns(("--select", "--from", "cell", "I", "H", "assumed"), rows))
    for one in found:
        scope = _shown(one.scope) or "(top)"
        if len(one.fits) > 1:
            print(
                f"\n{scope} fits {len(one.fits)} forms; --from says which, --set what else differs."
            )
        if one.unclear:
            stated = _shown(", ".join(one.unclear.values()))
            print(
                f"\nThe configuration of {scope} has {stated}, which no form here expresses; lnrnn "
                "convert says what it needs."
            )
        if one.beside:
            print(f"\nBeside the weights at {scope}: {_shown(', '.join(one.beside))}.")
    if not rows:
        print("No tensors have the names and shapes of a known recurrent layer.")
    if tensors or not rows:
        _print_tensors(container, columns)
    return 0


def parse(settings: Iterable[str]) -> dict[str, Any]:
    """Fields of the variant, zoneout and zoneout_cell from `name=value`.

    Raises:
        FileError: another name, or a value that is not of its kind.
    """
    found: dict[str, Any] = {}
    hints = get_type_hints(Variant)
    fields = [f.name for f in dataclasses.fields(Variant) if f.name not in ("cell", "norms")]
    for setting in settings:
        given, equals, text = setting.partition("=")
        name = _NAMES.get(given, given)
        if not equals or name not in (*fields, *_RATES):
            raise FileError(
                f"A setting is NAME=VALUE, NAME one of {', '.join([*_NAMES, *fields, *_RATES])}; "
                f"got {setting!r}."
            )
        found[name] = _value(name, text, float if name in _RATES else hints[name])
    return found


def _value(name: str, text: str, hint: Any) -> Any:
    if hint is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if hint in (float, float | None):
        if text.lower() == "none" and hint is not float:
            return None
        try:
            return float(text)
        except ValueError as error:
            raise FileError(f"{name} is a number; got {text!r}.") from error
    choices = get_args(hint)
    for choice in choices:
        if str(choice) == text:
            return choice
    allowed = ", ".join(map(str, choices)) if choices else "true, false"
    raise FileError(f"{name} is one of {allowed}; got {text!r}.")


def _changed(weights: Weights, settings: dict[str, Any]) -> Weights:
    rates = {n: v for n, v in settings.items() if n in _RATES}
    changes = {n: v for n, v in settings.items() if n not in _RATES}
    variant = with_settings(weights.variant, weights.sizes, changes, "the layer")
    return dataclasses.replace(weights, variant=variant, **rates)


def _shown(text: str) -> str:
    """A text from a file as a terminal can show it, without control characters."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _constants(fit: Fit) -> str:
    return ", ".join(f"{name}={value}" for name, value in fit.assumed.items())


def _print_tensors(container: Container, columns: Any) -> None:
    rows = [
        (_shown(name), "x".join(map(str, entry.shape)) or "scalar", entry.dtype.name)
        for name, entry in container.entries.items()
    ]
    print("\n" + columns(("tensor", "shape", "dtype"), rows), file=sys.stdout)
