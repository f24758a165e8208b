"""Who may import whom, read from the sources, and what an import loads, seen from outside."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import lnrnn

ROOT = Path(lnrnn.__file__).parent
FRAMEWORKS = {"keras", "tensorflow", "jax", "jaxlib", "torch", "flax"}
TRAINING_TOOLS = {"rich", "matplotlib"}


class Rule(NamedTuple):
    """What a room may import, beside the standard library and itself.

    Args:
        room: a module and all modules below it.
        always: what any of its imports may name.
        inside: what only an import inside a function (or for types only) may name.
    """

    room: str
    always: frozenset[str] = frozenset()
    inside: frozenset[str] = frozenset()


def rule(room: str, *always: str, inside: tuple[str, ...] = ()) -> Rule:
    return Rule(room, frozenset(always), frozenset(inside))


_MATHEMATICS = ("numpy", "lnrnn.variant", "lnrnn.params")
_RELATIVES = "lnrnn.relatives"
_SETTINGS = "lnrnn.train.settings"
_PROGRAMS = (
    "ai_edge_litert",
    "haste_pytorch",
    "keras_layernorm_rnn",
    "labml_nn",
    "mxnet",
    "sockeye",
    "speechbrain",
    "tensorflow",
    "tensorflow_addons",
    "torch",
    "torchaudio",
    "torchrl",
)
# the rule with the longest room counts
RULES = (
    rule("lnrnn", "lnrnn.variant"),
    rule("lnrnn.variant"),
    rule("lnrnn.params", "numpy", "lnrnn.variant"),
    # below all programs
    rule("lnrnn.files"),
    rule("lnrnn.console"),
    rule("lnrnn.dialects", *_MATHEMATICS),
    rule("lnrnn.relatives", *_MATHEMATICS, "lnrnn.dialects"),
    rule("lnrnn.reference", *_MATHEMATICS, _RELATIVES),
    rule(
        "lnrnn.insight",
        *_MATHEMATICS,
        "lnrnn.console",
        "lnrnn.engines.listen",
        "lnrnn.files",
        "lnrnn.frontends",
        "lnrnn.reference",
        inside=(
            "lnrnn.convert",
            "lnrnn.keras",
            "lnrnn.nnx",
            "lnrnn.torch",
            "lnrnn.train",
            "matplotlib",
            *FRAMEWORKS,
        ),
    ),
    rule("lnrnn.insight.drawing", "lnrnn.variant", inside=("lnrnn.dialects",)),
    rule("lnrnn.engines"),
    rule(
        "lnrnn.engines.select",
        "lnrnn.variant",
        _RELATIVES,
        "lnrnn.engines.listen",
        # engines are imported where a layer asks, as statements that torch.compile can trace
        inside=(
            "lnrnn.engines.native",
            "lnrnn.engines.portable",
            "lnrnn.engines.triton",
            "lnrnn.stream",
        ),
    ),
    rule("lnrnn.stream", *_MATHEMATICS, "lnrnn.convert", "lnrnn.engines.native"),
    rule(
        "lnrnn.stream.torch_step",
        "torch",
        *_MATHEMATICS,
        "lnrnn.convert",
        "lnrnn.engines.native",
        "lnrnn.engines.portable",
    ),
    rule("lnrnn.engines.sites", *_MATHEMATICS, "lnrnn.engines.portable.ops"),
    rule("lnrnn.engines.portable", *_MATHEMATICS, _RELATIVES, "lnrnn.engines.sites"),
    rule(
        "lnrnn.engines.fused",
        *_MATHEMATICS,
        _RELATIVES,
        "lnrnn.engines.sites",
        "lnrnn.engines.portable",
    ),
    rule(
        "lnrnn.engines.fused.torch_op",
        "torch",
        "lnrnn.variant",
        "lnrnn.engines.fused",
        "lnrnn.engines.portable",
    ),
    rule("lnrnn.engines.fused.jax_op", "jax", "numpy", "lnrnn.engines.fused"),
    rule("lnrnn.engines.native", *_MATHEMATICS, _RELATIVES, "lnrnn.engines.fused"),
    # says what it computes where neither PyTorch nor Triton is there
    *(
        rule(
            f"lnrnn.engines.triton{m}",
            "lnrnn.variant",
            "lnrnn.engines.fused",
            inside=("torch", "lnrnn.engines.portable", "lnrnn.engines.triton"),
        )
        for m in ("", ".describe")
    ),
    rule(
        "lnrnn.engines.triton.refuse",
        "lnrnn.variant",
        "lnrnn.engines.triton.describe",
        inside=("torch", "lnrnn.engines.native.core", "lnrnn.engines.triton.device"),
    ),
    *(
        rule(
            f"lnrnn.engines.triton.{m}",
            "torch",
            "triton",
            "lnrnn.__version__",
            "lnrnn.variant",
            "lnrnn.engines.counting",
            "lnrnn.engines.fused",
            "lnrnn.engines.portable",
            "lnrnn.engines.triton",
        )
        for m in ("buffers", "check", "divide", "loops", "torch_op")
    ),
    *(
        rule(
            f"lnrnn.engines.triton.{m}",
            "jax",
            "triton",
            "numpy",
            "lnrnn.variant",
            "lnrnn.engines.counting",
            "lnrnn.engines.fused",
            "lnrnn.engines.native.core",
            "lnrnn.engines.portable",
            "lnrnn.engines.triton",
        )
        for m in ("jax_check", "jax_launch", "jax_op")
    ),
    rule(
        "lnrnn.engines.triton.answers",
        "numpy",
        "triton",
        "lnrnn.__version__",
        "lnrnn.engines.triton",
    ),
    rule("lnrnn.engines.triton.device"),
    # the kernels, which JAX launches without PyTorch
    *(
        rule(f"lnrnn.engines.triton.{m}", "triton", "lnrnn.engines.triton")
        for m in (
            "arrays",
            "cell",
            "choose",
            "exchange",
            "prepare",
            "memory",
            "parallel",
            "rows",
            "split",
            "step",
            "tile",
        )
    ),
    *(
        rule(
            f"lnrnn.engines.native.{m}_op",
            m.partition("_")[0],
            "numpy",
            "lnrnn.variant",
            _RELATIVES,
            "lnrnn.engines.fused",
            "lnrnn.engines.native",
            "lnrnn.engines.portable",
        )
        for m in ("tensorflow", "tensorflow_block", "jax", "jax_block", "torch", "torch_block")
    ),
    # what it imports of jax2onnx stands in a function that jax2onnx calls
    rule("lnrnn.engines.fused.jax_onnx", "jax", "numpy", inside=("jax2onnx",)),
    rule("lnrnn.engines.native.tensorflow_library", "tensorflow", "lnrnn.engines.native._core"),
    *(
        rule(
            f"lnrnn.engines.portable.ops_{f}",
            f,
            "numpy",
            "lnrnn.variant",
            "lnrnn.engines.counting",
            "lnrnn.engines.portable.ops",
        )
        for f in ("tensorflow", "jax", "torch")
    ),
    rule("lnrnn.frontends", *_MATHEMATICS, "lnrnn.dialects"),
    rule("lnrnn.frontends.block_gru", _RELATIVES, "lnrnn.frontends.arguments"),
    # runs the portable step in NumPy
    rule("lnrnn.frontends.advice", *_MATHEMATICS, "lnrnn.engines.portable", "lnrnn.engines.sites"),
    rule(
        "lnrnn.keras",
        "keras",
        *_MATHEMATICS,
        _RELATIVES,
        "lnrnn.dialects",
        "lnrnn.frontends",
        "lnrnn.engines.select",
        # Keras has no public name for the device of its torch backend, nor for the values of
        # variables where a step is traced
        inside=("torch", "tensorflow"),
    ),
    rule(
        "lnrnn.torch",
        "torch",
        *_MATHEMATICS,
        _RELATIVES,
        "lnrnn.dialects",
        "lnrnn.frontends",
        "lnrnn.engines.select",
    ),
    rule(
        "lnrnn.jax",
        "jax",
        *_MATHEMATICS,
        _RELATIVES,
        "lnrnn.dialects",
        "lnrnn.frontends",
        "lnrnn.engines.select",
    ),
    rule(
        "lnrnn.nnx",
        "flax",
        "jax",
        *_MATHEMATICS,
        _RELATIVES,
        "lnrnn.engines.select",
        "lnrnn.frontends",
        "lnrnn.jax",
    ),
    rule(
        "lnrnn.testing",
        *_MATHEMATICS,
        _RELATIVES,
        "lnrnn.dialects",
        "lnrnn.reference",
        "lnrnn.engines.runs",
        "lnrnn.engines.select",
        "lnrnn.engines.fused.call",
        inside=(
            "lnrnn.convert",
            "lnrnn.keras",
            "lnrnn.torch",
            "lnrnn.jax",
            "lnrnn.nnx",
            "lnrnn.engines",
            *FRAMEWORKS,
        ),
    ),
    rule("lnrnn.insight.keras", "keras", "numpy", "lnrnn.insight"),
    rule("lnrnn.insight.torch", "torch", "lnrnn.insight", "lnrnn.torch"),
    rule(
        "lnrnn.cli",
        "lnrnn.__version__",
        _SETTINGS,
        inside=(
            "lnrnn.bench",
            "lnrnn.console",
            "lnrnn.convert",
            "lnrnn.dialects",
            "lnrnn.engines.native.core",
            "lnrnn.engines.select",
            "lnrnn.insight.command",
            "lnrnn.insight.drawing",
            _RELATIVES,
            "lnrnn.train",
            "lnrnn.variant",
        ),
    ),
    rule("lnrnn.__main__", "lnrnn.cli"),
    rule(
        "lnrnn.bench",
        *_MATHEMATICS,
        "lnrnn.__version__",
        "lnrnn.engines.fused",
        "lnrnn.engines.native",
        "lnrnn.engines.runs",
        "lnrnn.frontends",
        _RELATIVES,
        "lnrnn.testing",
        "lnrnn.train",
        inside=("matplotlib",),
    ),
    rule(
        "lnrnn.bench.report",
        "rich",
        "lnrnn.__version__",
        "lnrnn.bench",
        "lnrnn.files",
        inside=("matplotlib",),
    ),
    rule("lnrnn.bench.fit", "keras", "numpy", "lnrnn.bench"),
    rule("lnrnn.bench.blocks", "numpy", "torch", "lnrnn.bench", _RELATIVES, "lnrnn.torch"),
    rule(
        "lnrnn.bench.on_cuda",
        "numpy",
        "torch",
        "lnrnn.bench",
        "lnrnn.engines.triton.refuse",
        "lnrnn.variant",
    ),
    *(
        rule(
            f"lnrnn.bench.on_{f}",
            f,
            *_MATHEMATICS,
            "lnrnn.bench",
            f"lnrnn.{f}",
            *(("lnrnn.convert", "lnrnn.stream") if f == "torch" else ()),
            inside=("tensorflow", "flax"),
        )
        for f in ("torch", "keras", "jax", "tensorflow")
    ),
    rule(
        "lnrnn.convert",
        *_MATHEMATICS,
        _RELATIVES,
        "lnrnn.dialects",
        "lnrnn.frontends",
        "lnrnn.files",
        "lnrnn.console",
        inside=("flatbuffers", "google_crc32c", "h5py", "lnrnn.keras", "torch"),
    ),
    # compares with the reference, and is loaded when a comparison is asked for
    rule(
        "lnrnn.convert.check",
        *_MATHEMATICS,
        _RELATIVES,
        "lnrnn.convert",
        "lnrnn.reference",
        "lnrnn.testing",
    ),
    # runs original programs, in a process of its own
    rule("lnrnn.convert.programs", "numpy", inside=_PROGRAMS),
    rule(
        "lnrnn.train",
        "numpy",
        "lnrnn.__version__",
        "lnrnn.console",
        "lnrnn.dialects",
        "lnrnn.files",
        inside=("keras", "matplotlib"),
    ),
    # loaded by lnrnn.train.program when training begins, inside a function
    rule(
        "lnrnn.train.model",
        "keras",
        "numpy",
        _SETTINGS,
        "lnrnn.engines.select",
        "lnrnn.stream",
        "lnrnn.train.world",
        inside=("lnrnn.keras",),
    ),
    # loaded by lnrnn.train.join for processes on their backend
    rule("lnrnn.train.world_torch", "keras", "numpy", "torch", _SETTINGS, "lnrnn.train.world"),
    rule("lnrnn.train.world_jax", "jax", "keras", "numpy", "lnrnn.train.world"),
    rule("lnrnn.train.inside", "keras", "numpy", "lnrnn.insight", "lnrnn.train"),
    rule("lnrnn.train.loop", "numpy", "lnrnn.train"),
    rule("lnrnn.train.display", "rich", "lnrnn.train"),
)


class Import(NamedTuple):
    """What is imported, and whether the import runs only when a function does."""

    name: str
    inside: bool
    line: int


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = ("lnrnn", *path.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[Import]:
    """The imports of a source file; `from a import b` names a.b, a module or not."""

    def walk(node: ast.AST, inside: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for name in child.names:
                    yield Import(name.name, inside, child.lineno)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0 and child.module, f"{path}:{child.lineno} is relative"
                for name in child.names:
                    yield Import(f"{child.module}.{name.name}", inside, child.lineno)
            else:
                yield from walk(child, inside or _is_deferred(child))

    return walk(ast.parse(path.read_text(encoding="utf-8")), False)


def _is_deferred(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))


def covers(room: str, module: str) -> bool:
    return module == room or module.startswith(room + ".")


def rule_of(module: str) -> Rule:
    return max((r for r in RULES if covers(r.room, module)), key=lambda r: len(r.room))


def violations(module: str, path: Path) -> list[str]:
    """Sentences on the imports of a module that its rule does not allow."""
    found = []
    own = rule_of(module)
    for name, inside, line in imports(path):
        if name.split(".")[0] in sys.stdlib_module_names:
            continue
        # a room sees its own files, the whole package does not
        allowed = own.always | (own.inside if inside else set())
        allowed |= {own.room} if own.room != "lnrnn" else set()
        if not any(covers(room, name) for room in allowed):
            when = "inside a function" if inside else "when it is loaded"
            found.append(f"{path.relative_to(ROOT)}:{line} imports {name} {when}")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_keep_the_rules(module):
    assert violations(module, MODULES[module]) == []


def test_no_two_modules_import_each_other():
    def module_of(name: str) -> str:
        return name if name in MODULES else name.rpartition(".")[0]

    needed = {m: {module_of(i.name) for i in imports(path)} for m, path in MODULES.items()}
    pairs = {(m, n) for m, found in needed.items() for n in found if m < n}
    assert not {(m, n) for m, n in pairs if m in needed.get(n, ())}


@pytest.mark.parametrize("module", MODULES)
def test_every_room_has_a_rule_of_its_own(module):
    assert module == "lnrnn" or rule_of(module).room != "lnrnn", f"add a rule for {module}"


def test_each_file_of_operations_imports_its_framework_and_no_other():
    for framework in ("tensorflow", "jax", "torch"):
        path = MODULES[f"lnrnn.engines.portable.ops_{framework}"]
        found = {i.name.split(".")[0] for i in imports(path)} & FRAMEWORKS
        assert found == {framework}


@pytest.mark.parametrize(
    ("module", "source", "problem"),
    [
        ("lnrnn.variant", "import numpy", "numpy"),
        (
            "lnrnn.reference.cells",
            "from lnrnn.engines.portable import on",
            "lnrnn.engines.portable.on",
        ),
        ("lnrnn.engines.portable.ops", "from lnrnn import reference", "lnrnn.reference"),
        ("lnrnn.engines.portable.sequence", "import jax.numpy", "jax.numpy"),
        ("lnrnn.keras.layers", "def f():\n  from lnrnn import reference", "lnrnn.reference"),
        ("lnrnn.keras.cells", "from lnrnn.engines import portable", "lnrnn.engines.portable"),
        ("lnrnn.torch.layers", "import lnrnn.keras", "lnrnn.keras"),
        ("lnrnn.testing.golden", "import keras", "keras"),
        ("lnrnn.train.program", "if True:\n  import keras", "keras"),
    ],
)
def test_a_forbidden_import_is_seen(module, source, problem, tmp_path, monkeypatch):
    path = tmp_path / "module.py"
    path.write_text(source)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (found,) = violations(module, path)
    assert f"imports {problem} " in found


def test_no_framework_is_loaded_until_it_is_needed():
    light = (
        "lnrnn",
        "lnrnn.variant",
        "lnrnn.params",
        "lnrnn.dialects",
        "lnrnn.insight.drawing",
        "lnrnn.reference",
        "lnrnn.engines.select",
        "lnrnn.engines.portable",
        "lnrnn.frontends.carry",
        "lnrnn.testing",
        "lnrnn.testing.golden",
        "lnrnn.convert",
        "lnrnn.convert.check",
        "lnrnn.train.program",
        "lnrnn.cli",
    )
    program = (
        "import importlib, sys\n"
        f"for name in {light!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = {FRAMEWORKS | TRAINING_TOOLS!r} & set(sys.modules)\n"
        "    assert not heavy, f'{name} loads {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
