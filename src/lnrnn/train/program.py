"""The runs behind the commands: from options to files."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lnrnn import dialects
from lnrnn.console import columns
from lnrnn.files import replacing
from lnrnn.train import checkpoint, corpus, report, tokens
from lnrnn.train.corpus import Windows
from lnrnn.train.join import join
from lnrnn.train.settings import BACKENDS, CELLS, Settings, UserError
from lnrnn.train.world import World

if TYPE_CHECKING:
    from lnrnn.train.loop import Run

_FAMILY = {"ligru": "gru", "indrnn": "simple"}  # cells computed by the layer of another
_FILES = {
    "bpc.png": "bits per character against steps and against seconds",
    "metrics.csv": "every validation",
    "sample.txt": "text by the layer-normalised model",
    "run.json": "settings and results",
    "checkpoint.npz": "the run, for --resume and lnrnn sample",
}
_DEFAULT_STEPS = 1000
_SAMPLE_CHARACTERS = 600
_SAMPLE_TEMPERATURE = 0.8


def train(folder: Path | None, options: Mapping[str, Any]) -> int:
    """Begin a run and train.

    Args:
        folder: new or empty; None for one named by the time, in `runs`.
        options: fields of Settings that are not at their defaults.

    Returns:
        0 when the run is finished, 128 + the signal's number when it was interrupted.

    Raises:
        UserError: an option, the text or the folder cannot be used.
    """
    settings = _settings(options)
    folder = folder or Path("runs", time.strftime("%Y%m%d-%H%M%S"))
    _check_new(folder)
    plain = CELLS[settings.cell]
    names = [f"LayerNorm{plain}", plain] if settings.compare else [f"LayerNorm{plain}"]
    with _world(settings, folder) as world:
        text = _text(settings, world)
        text.check_length(settings.length)

        from lnrnn.train import loop

        return _train(loop.begin(folder, settings, text, names, world))


def resume(folder: Path, options: Mapping[str, Any]) -> int:
    """Go on with a run; see `train`.

    Args:
        folder: of the run.
        options: `steps` or `seconds`, to take the place of the bounds before.

    Raises:
        UserError: other options, a damaged or foreign folder, another text, or a
            finished run.
    """
    other = sorted(set(options) - {"steps", "seconds"})
    if other:
        raise UserError(
            f"--resume keeps the settings of the run, apart from --steps and --seconds: drop "
            f"--{other[0].replace('_', '-')}."
        )
    saved = checkpoint.read(folder)
    bounds = {"steps": None, "seconds": None} | dict(options) if options else {}
    settings = dataclasses.replace(saved.settings, **bounds)
    with _world(settings, folder) as world:
        text = _text(settings, world)
        if text.digest != saved.digest:
            raise UserError(
                f"The run in {folder} was begun on another text ({saved.text}): restore that text, "
                "or begin a new run."
            )

        from lnrnn.train import loop

        run = loop.resume(folder, saved, settings, text, world)
        if run.finished:
            raise UserError(
                f"The run in {folder} is finished: give a larger --steps or --seconds to go on."
            )
        return _train(run)


def sample(
    folder: Path, model: str | None, prompt: str, length: int, temperature: float, seed: int
) -> Iterator[str]:
    """Text from a model of a run, piece by piece, the prompt first.

    Args:
        folder: of the run.
        model: its name; None for the layer-normalised one.
        prompt: the beginning of the text.
        length: characters to write.
        temperature: divides the logits; 0 takes the likeliest character.
        seed: of the draws.

    Raises:
        UserError: a damaged or foreign folder, an unknown model, or a character of the
            prompt that the text of the run has not.
    """
    trained, vocabulary = restored(folder, model)

    from lnrnn.train.model import generate

    text = generate(trained, vocabulary, prompt, length, temperature, seed)
    first = next(text)  # an error comes before anything is written
    yield prompt + first
    yield from text


def restored(folder: Path, model: str | None = None) -> tuple[Any, str]:
    """A trained model of a run, and its characters.

    Args:
        folder: of the run.
        model: its name; None for the layer-normalised one.

    Raises:
        UserError: a damaged or foreign folder, or an unknown model.
    """
    saved = checkpoint.read(folder)
    name = model or next(iter(saved.progress))
    if name not in saved.progress:
        raise UserError(
            f"The run in {folder} has no model {name!r}: use {' or '.join(saved.progress)}."
        )
    load_keras(saved.settings.backend)

    from lnrnn.train.model import build, set_state

    trained = build(name, saved.settings, len(saved.vocabulary))
    set_state(trained, saved.arrays[name], World())
    return trained, saved.vocabulary


@contextmanager
def _world(settings: Settings, folder: Path) -> Iterator[World]:
    """The processes that train together, and a sentence when one of them is lost."""
    load_keras(settings.backend)
    with join(settings.backend, os.environ, settings.shard) as world:
        world.check_batch(settings)
        try:
            yield world
        except (RuntimeError, ValueError) as error:
            if not world.lost(error):
                raise
            saved = (
                f"{folder / checkpoint.FILE} is whole: start all again with --resume {folder}"
                if (folder / checkpoint.FILE).exists()
                else "nothing was written: see what that process said"
            )
            raise UserError(
                f"Process {world.rank} of {world.processes} lost another one, and {saved}."
            ) from error


def _text(settings: Settings, world: World) -> Windows:
    """The text of a run, the same in all processes."""

    def load() -> Windows:
        if settings.data is not None:
            return tokens.load(settings.data)
        return corpus.load(settings.text)

    text = load() if world.first else None  # makes what the others find
    world.gather(0)
    text = text or load()
    # 24 bits of the digest, as float32 holds them
    digests = world.gather(int(text.digest[:6], 16))[:, 0]
    if len(set(digests)) > 1:
        raise UserError(
            "All processes read the same text; the texts of the ranks differ: copy one to all "
            "machines."
        )
    return text


def _train(run: Run) -> int:
    from lnrnn.train import loop
    from lnrnn.train.display import Display

    world, settings = run.world, run.settings
    if world.first:
        print(f"Training on {run.corpus.name}: {run.corpus.characters:,} characters,", end=" ")
        print(f"{len(run.corpus.vocabulary)} distinct; Keras on {settings.backend}.", flush=True)
        if world.devices > 1:
            print(world.describe(settings), flush=True)
    with loop.Interruption() as interruption:
        with Display(settings, run.progress, world, run.reach) as display:
            loop.train(run, interruption, display)
        if world.devices > 1:
            loop.leave(run)
        if world.first:
            _finish(run, interrupted=bool(interruption))
    return 128 + interruption.signal if interruption else 0


def _finish(run: Run, *, interrupted: bool) -> None:
    """Write models, plot, sample and summary, and say what the run came to."""
    from lnrnn.train.model import generate

    settings, vocabulary = run.settings, run.corpus.vocabulary
    names = list(run.models)
    validated = all(p.rows for p in run.progress.values())
    for name, trained in run.models.items():
        with replacing(run.folder / f"{name}.keras") as path:
            trained.save(path)
    if validated:
        report.plot(
            run.folder / "bpc.png", run.progress, f"{' and '.join(names)} on {run.corpus.name}"
        )
    text = generate(
        run.models[names[0]],
        vocabulary,
        prompt="",
        length=_SAMPLE_CHARACTERS,
        temperature=_SAMPLE_TEMPERATURE,
        seed=settings.seed,
    )
    with replacing(run.folder / "sample.txt") as path:
        path.write_text("".join(text), encoding="utf-8")

    results = {
        name: report.Result.of(run.progress[name], settings, run.models[name].count_params())
        for name in names
    }
    report.write_summary(
        run.folder / "run.json",
        settings,
        {
            "finished": not interrupted,
            "text": {
                "name": run.corpus.name,
                "characters": run.corpus.characters,
                "vocabulary": len(vocabulary),
                "sha256": run.corpus.digest,
            },
            "world": {"processes": run.world.processes, "devices": run.world.devices},
            "models": {name: result._asdict() for name, result in results.items()},
        },
    )
    drawn = run.looks.draw(run.models[names[0]])
    print("\n" + report.table(results))
    if validated and settings.compare:
        print(report.comparison(run.progress))
    files = {f"{name}.keras": f"{name}, for keras.saving.load_model" for name in names} | _FILES
    written = {run.folder / file: content for file, content in files.items()}
    written |= drawn[1] if drawn else {}
    rows = [(str(path), content) for path, content in written.items() if path.exists()]
    print("\n" + columns(("file", "content"), rows))
    if interrupted:
        print(f"\nInterrupted; all is saved. To go on: lnrnn train --resume {run.folder}")
    else:
        print(f"\nFor more text: lnrnn sample {run.folder} --prompt 'My lord, '")
    if drawn:
        print(f"Inside {names[0]}: {str(drawn[0]).splitlines()[0]}")


def _settings(options: Mapping[str, Any]) -> Settings:
    """Settings from options, with cell and backend resolved."""
    resolved = dict(options)
    if resolved.get("variant") is not None:
        try:
            cell = dialects.get(resolved["variant"]).variant.cell
        except ValueError as error:
            raise UserError(str(error)) from error
        fitting = _FAMILY.get(cell, cell)
        if resolved.setdefault("cell", fitting) != fitting:
            raise UserError(
                f"The variant {resolved['variant']} is a form of --cell {fitting}; got --cell "
                f"{resolved['cell']}: drop --cell, or choose another --variant."
            )
    if resolved.get("data") is not None:
        if resolved.get("text") is not None:
            raise UserError("--text and --data both name the text: give one of them.")
        resolved["data"] = [str(Path(path).absolute()) for path in resolved["data"]]
    if resolved.get("text") is not None:
        resolved["text"] = str(Path(resolved["text"]).absolute())
    resolved.setdefault("backend", _default_backend())
    if "steps" not in resolved and "seconds" not in resolved:
        resolved["steps"] = _DEFAULT_STEPS
    return Settings(**resolved)


def _default_backend() -> str:
    """That of Keras if it is loaded, of KERAS_BACKEND if set, or the first installed."""
    if "keras" in sys.modules:
        return sys.modules["keras"].backend.backend()
    installed = [b for b in BACKENDS if find_spec(b)]
    return os.environ.get("KERAS_BACKEND") or (installed or BACKENDS)[0]


def _check_new(folder: Path) -> None:
    """Raise UserError unless a run can begin in `folder`; make nothing."""
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"The directory {folder} is not empty: name a new one, or go on with the run in it "
            f"by --resume {folder}."
        )
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(
            f"Cannot write into {folder}, as {there} is no directory that you may write to: "
            "name another --out."
        )


def load_keras(backend: str, option: str = "--backend") -> None:
    """Import Keras on a backend that an option of a command named, or say what is missing."""
    if backend not in BACKENDS:
        raise UserError(f"{option} is one of {', '.join(BACKENDS)}; got {backend!r}.")
    for package, extra in (
        (backend, backend),
        ("keras", backend),
        ("rich", "cli"),
        ("matplotlib", "cli"),
    ):
        if find_spec(package) is None:
            raise UserError(
                f"{package} is not installed: install it with pip install 'lnrnn[{extra}]'"
                + (f", or choose another {option}." if package == backend else ".")
            )
    os.environ["KERAS_BACKEND"] = backend

    import keras

    if keras.backend.backend() != backend:
        raise UserError(
            f"Keras already runs on {keras.backend.backend()} in this process, not on {backend}: "
            f"start a new process, or choose that {option}."
        )
