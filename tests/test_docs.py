"""The documentation, held against the code: its snippets run, its tables and names are true."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest

import lnrnn
from lnrnn.dialects import DIALECTS, OUTSIDE
from lnrnn.frontends import initial
from lnrnn.keras import DreamerBlockGRU, LayerNormGRU, LayerNormLSTM, LayerNormSimpleRNN
from lnrnn.params import sizes_of as variant_sizes_of
from lnrnn.relatives import RELATIVES
from lnrnn.relatives.weights import sizes_of
from lnrnn.testing import TOLERANCES
from lnrnn.variant import Variant

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BACKEND = keras.backend.backend()
LAYERS = (LayerNormLSTM, LayerNormGRU, LayerNormSimpleRNN)


def blocks(page: Path) -> list[tuple[str, str, int]]:
    """The fenced blocks of a page: language, text, and the line where the text begins."""
    text = page.read_text(encoding="utf-8")
    return [(f[1], f[2], text[: f.start(2)].count("\n") + 1) for f in FENCE.finditer(text)]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def rows(text: str) -> list[list[str]]:
    """The cells of all tables, without headings."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    rules = [i for i, row in enumerate(cells) if set(row[0]) <= set("-:")]
    return [row for i, row in enumerate(cells) if i not in rules and i + 1 not in rules]


def section(page: Path, heading: str) -> str:
    """The text under a heading, up to the next."""
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"^##+ {re.escape(heading)}$(.*?)(?=^##|\Z)", text, re.M | re.S)
    assert found, f"{name_of(page)} has no heading {heading!r}"
    return found[1]


def codes(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working directory, and no layer names of another test."""
    monkeypatch.chdir(tmp_path)
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(20160721)
    yield


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b[0] == "python" for b in blocks(p))], ids=name_of
)
def test_snippets_run(page, fresh, monkeypatch):
    """All Python blocks of a page in order, as one program on the backend of this process."""
    monkeypatch.setenv("KERAS_BACKEND", BACKEND)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for language, text, line in blocks(page):
        if language == "python":
            # so that an error shows the line of the page
            exec(compile("\n" * (line - 1) + text, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_say_what_they_are(page):
    assert {language for language, _, _ in blocks(page)} <= {"python", "bash", "text", "c", "cmake"}


def modules() -> list[ModuleType]:
    """The modules of the package whose examples need no framework but Keras."""
    names = ["lnrnn", *(m.name for m in pkgutil.walk_packages(lnrnn.__path__, "lnrnn."))]
    rooms = ("lnrnn.engines.portable.ops_", "lnrnn.engines.triton.", "lnrnn.train")
    return [importlib.import_module(n) for n in names if not n.startswith(rooms)]


MODULES = modules()


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [
        test
        for module in MODULES
        for test in finder.find(module, extraglobs={"keras": keras, "np": np})
        if test.examples
    ]


@pytest.mark.parametrize("example", examples(), ids=lambda test: test.name)
def test_examples_of_docstrings(example, fresh):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=flags)
    printed: list[str] = []
    assert runner.run(example, out=printed.append).failed == 0, "".join(printed)


def public() -> dict[str, Any]:
    """Functions, methods and classes with an `Args:` section, by name."""
    found: dict[str, Any] = {}
    for module in MODULES:
        for name, thing in vars(module).items():
            kind = inspect.isclass(thing) or inspect.isfunction(thing)
            if not kind or thing.__module__ != module.__name__:
                continue
            found[f"{module.__name__}.{name}"] = thing
            if inspect.isclass(thing):
                members = {n: m for n, m in vars(thing).items() if inspect.isfunction(m)}
                found |= {f"{module.__name__}.{name}.{n}": m for n, m in members.items()}
    return {n: t for n, t in found.items() if documented(t) and t not in LAYERS}


def documented(thing: Any) -> dict[str, str]:
    """Argument to description, from the section `Args:` of a docstring."""
    text = inspect.cleandoc(thing.__doc__ or "")
    found = re.search(r"^Args:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
    entries = re.split(r"^    (?=\S)", found[1] if found else "", flags=re.MULTILINE)
    pairs = (entry.split(":", 1) for entry in entries if entry.strip())
    return {name.strip().lstrip("*"): " ".join(about.split()) for name, about in pairs}


@pytest.mark.parametrize("name", public())
def test_documented_arguments_are_those_of_the_signature(name):
    thing = public()[name]
    # the class of a module of Flax is called with anything
    anything = inspect.isclass(thing) and type(thing).__name__ == "ModuleMeta"
    made = thing.__init__ if anything else thing
    signature = set(inspect.signature(made).parameters) - {"self", "cls"}
    assert set(documented(thing)) == signature


def accepted(layer: type) -> set[str]:
    """The arguments that a layer takes."""
    parameters = inspect.signature(layer).parameters.values()
    return {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}


def described(layer: type) -> set[str]:
    """The arguments in the docstring of a layer, those of a `likewise` included."""
    found = set(documented(layer))
    for role in ("regularizer", "constraint"):
        same = codes(documented(layer).get(f"kernel_{role}", ""))
        found |= {name if name.endswith(role) else name + role for name in same if "_" in name}
    return found


def test_every_argument_of_the_lstm_is_described():
    assert described(LayerNormLSTM) == accepted(LayerNormLSTM)


@pytest.mark.parametrize("layer", LAYERS[1:])
def test_arguments_of_the_other_layers_are_described(layer):
    """Those of the LSTM, without the ones that the docstring names, and their own."""
    text = " ".join((layer.__doc__ or "").split())
    (without,) = re.findall(r"\], without (`.*?)[.;]", text)
    shared = described(LayerNormLSTM) - set(codes(without))
    assert accepted(layer) <= shared | set(documented(layer))
    assert set(documented(layer)) <= accepted(layer)
    assert not set(codes(without)) & accepted(layer)


def hooks(name: str = "tables") -> Any:
    """The module that fills in the tables when the pages are built."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "hooks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_dialect_is_in_the_tables():
    page = hooks().on_page_markdown((DOCS / "dialects.md").read_text(encoding="utf-8"))
    assert "<!-- table" not in page
    shown = [codes(row[0])[0] for row in rows(page)]
    assert sorted(shown) == sorted([*DIALECTS, *OUTSIDE])


@pytest.mark.parametrize("row", rows((DOCS / "coming-from.md").read_text()), ids=lambda r: r[3])
def test_each_program_has_a_layer_that_takes_its_weights(row):
    layer, form = codes(row[2])[0], codes(row[3])[0]
    path = next((ROOT / "tests" / "golden").glob(f"{form}__a__f32.npz"))
    with np.load(path) as file:
        weights = {n[2:]: file[n] for n in file.files if n.startswith("w/")}
    if form in RELATIVES:
        params = RELATIVES[form].to_canonical(weights)
        sizes = sizes_of(RELATIVES[form].relative, params)
        assert layer == "DreamerBlockGRU"
        made = DreamerBlockGRU(
            sizes.units, projection=sizes.projection, blocks=sizes.blocks, actions=sizes.actions
        )
    else:
        params = DIALECTS[form].to_canonical(weights)
        sizes = variant_sizes_of(DIALECTS[form].variant, params)
        made = getattr(lnrnn.keras, layer)(sizes.units, variant=form)
    made.build((None, None, sizes.inputs))
    made.load_params(params)
    for name, value in made.params().items():
        np.testing.assert_array_equal(value, params[name])


def test_a_row_of_a_table_says_what_the_dialect_is():
    table = hooks().table("lstm")
    (row,) = [r for r in rows(table) if codes(r[0]) == ["tf1_lnlstm_peephole_clip"]]
    assert row[2] == "1e-12" and "`peephole=after`" in row[3] and "`cell_clip=1.0`" in row[3]
    above = table[: table.index(row[0])].rsplit("### ", 1)[1].splitlines()[0]
    assert above == "Sum, gate by gate; the normed cell used and carried"
    (row,) = [r for r in rows(table) if codes(r[0]) == ["axlearn_rmslstm"]]
    assert row[3] == "sum without bias, `norm=rms`"


def test_each_function_under_a_heading_is_drawn_once():
    drawn = [
        re.findall(r"^\[!\[([^]]*)\]\(drawings/(\w+)\.svg\)", hooks().table(cell), re.M)
        for cell in ("lstm", "gru", "ligru", "simple", "indrnn")
    ]
    pictures = [(names.split(", "), file) for found in drawn for names, file in found]
    assert sorted(name for names, _ in pictures for name in names) == sorted(DIALECTS)
    for names, file in pictures:
        assert {DIALECTS[name].variant for name in names} == {DIALECTS[file].variant}


def test_dialects_under_one_heading_are_one_form_and_under_two_are_two():
    forms: dict[str, set[object]] = {}
    for dialect in DIALECTS.values():
        heading = dialect.variant.cell + hooks().function(dialect.variant)
        forms.setdefault(heading, set()).add(_form(dialect.variant))
    assert [len(found) for found in forms.values()] == [1] * len(forms)
    assert len(set.union(*forms.values())) == len(forms)


def _form(variant: Variant) -> tuple[object, ...]:
    """What the dialects of one heading have in common."""
    norms = frozenset((norm.site, norm.gates) for norm in variant.norms)
    options = variant.hidden_norm, variant.coupled, variant.reset, variant.update
    return variant.cell, norms, variant.cell_norm, *options


def test_options_of_the_commands_are_on_their_page():
    page = hooks().on_page_markdown((DOCS / "command-line.md").read_text(encoding="utf-8"))
    assert "--learning-rate" in page and "--temperature" in page and "<!-- help" not in page


def test_formulas_are_drawn_by_the_browser_itself():
    line = r'<p><span class="arithmatex">\(a &lt; b\)</span></p>'
    page = hooks("maths").on_page_content(line + r'<div class="arithmatex">\[\sigma\]</div>')
    assert page.count("<math") == 2 and 'display="block"' in page and "amp;" not in page
    assert "\\" not in page and "arithmatex" not in page


def test_only_published_pages_ask_for_other_versions(monkeypatch):
    """The list of versions is a file above the pages, which pages on a disk do not have."""
    assert "- docs/hooks/versions.py" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    monkeypatch.delenv("MIKE_DOCS_VERSION", raising=False)
    assert "version" not in hooks("versions").on_config({"extra": {}})["extra"]
    monkeypatch.setenv("MIKE_DOCS_VERSION", "0.2")
    assert hooks("versions").on_config({"extra": {}})["extra"]["version"] == {"provider": "mike"}


def test_dialects_in_the_readme_exist():
    named = [
        code for row in rows(section(ROOT / "README.md", "Dialects")) for code in codes(row[2])
    ]
    assert named and set(named) <= set(DIALECTS)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_variants_in_the_text_exist(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"variant=[\"'](\w+)[\"']", text)) - {"none", "lstm", "gru", "simple"}
    assert named <= set(DIALECTS)


def test_initial_values_in_the_text():
    text = " ".join(section(DOCS / "zero-prefixes.md", "Default initial values").split())
    doc = " ".join((LayerNormLSTM.__doc__ or "").split())
    gains, deviation = initial.RECURRENT_GAINS, initial.BIAS_DEVIATION
    assert f"gains of recurrent norms at {gains['h_norm_gain']}," in text
    assert f"gains of sum norms at {gains['sum_norm_gain']}," in text
    assert f"normal noise of deviation {deviation} " in text
    assert f"gains of recurrent norms start at {gains['h_norm_gain']} " in doc
    assert f"(of sum norms at {gains['sum_norm_gain']})" in doc
    assert f"normal noise of deviation {deviation}." in doc


def test_tolerances_in_the_text():
    table = rows(section(DOCS / "testing.md", "Tolerances"))
    shown = {dtype: (float(values), float(gradients)) for dtype, values, gradients in table}
    assert shown == {dtype: tuple(tolerance) for dtype, tolerance in TOLERANCES.items()}


def test_arguments_in_the_migration_table_exist():
    page = DOCS / "tensorflow-addons.md"
    both = accepted(LayerNormLSTM) | accepted(LayerNormSimpleRNN)
    for old, new in (row[:2] for row in rows(section(page, "Arguments"))):
        named = [code.split("=")[0] for code in codes(new)] or codes(old)
        assert set(named) <= both, f"{old} -> {new}"


def test_links_within_the_repository():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{name_of(page)} links to {target}"
