"""Drawings of cells: nothing overlaps, nothing is missing, and two functions give two pictures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args, get_type_hints
from xml.etree import ElementTree

import pytest

import lnrnn
from lnrnn import cli, dialects
from lnrnn.insight.drawing import Box, Layout, draw, layout
from lnrnn.testing.cases import VARIANTS
from lnrnn.variant import Variant

ALL = {d.variant for d in dialects.DIALECTS.values()} | set(VARIANTS.values())


def kind(drawn: Layout, name: str) -> list[Box]:
    return [box for box in drawn.boxes if box.label.kind == name]


@pytest.mark.parametrize("cell", ["simple", "indrnn", "ligru", "gru", "lstm"])
def test_nothing_overlaps(cell):
    for variant in ALL:
        if variant.cell != cell:
            continue
        drawn = layout(variant)
        for a, b in itertools.combinations(drawn.boxes, 2):
            beside = a.x + a.width <= b.x or b.x + b.width <= a.x
            above = a.y + a.height <= b.y or b.y + b.height <= a.y
            assert beside or above, (variant, a, b)
        for box in drawn.boxes:
            assert box.label.width <= box.width and box.label.height <= box.height, (variant, box)
            assert box.x >= 0 and box.x + box.width <= drawn.width, (variant, box)
            assert box.y >= 50, "the title is above"
            assert box.y + box.height + 18 * len(drawn.notes) < drawn.height, (variant, box)


def runs(gates: str, within: str) -> list[str]:
    """Maximal runs of neighbours: `ig` within `ifgo` are two."""
    marked = "".join(g if g in gates else " " for g in within)
    return marked.split()


def test_every_norm_peephole_and_bound_is_there():
    for variant in ALL:
        drawn = layout(variant)
        # what lies under a norm, and the weights that it says
        expected = [
            (f"{norm.site} {run}", norm.gain, norm.bias)
            for norm in variant.norms
            for run in ([""] if norm.site == "pre" else runs(norm.gates, variant.gates))
        ]
        if variant.cell_norm != "none":
            expected.append(("state ", variant.cell_norm_gain, variant.cell_norm_bias))
        if variant.hidden_norm:
            expected.append(("state ", True, True))
        assert sorted(norms_in(drawn, variant.gates)) == sorted(expected), variant
        assert len(kind(drawn, "peephole")) == len(variant.peephole_gates), variant
        bounds = [variant.cell_clip, variant.hidden_clip, variant.projection_clip]
        given = [f"clip ±{b:g}" for b in bounds if b is not None] + ["≤ 1 − f"] * variant.capped
        assert sorted(b.label.text for b in kind(drawn, "clip")) == sorted(given), variant


def norms_in(drawn: Layout, gates: str) -> Iterator[tuple[str, bool, bool]]:
    """Each norm of a drawing: its site and the gates under it, whether it has a gain, a bias."""
    first: dict[str, Box] = {}
    for box in drawn.boxes:
        first.setdefault(box.label.text, box)
    bar, ends = first["+"], first[gates[-1]]
    lanes = {
        "x": {g: first[f"W_{g}"] for g in gates},
        "h": {g: first.get(f"U_{g}", first.get("u ⊙", bar)) for g in gates},
        "sum": {g: first[g] for g in gates},
    }
    for box in kind(drawn, "norm"):
        says = set(box.label.below.removeprefix("no γ, β")) & {"γ", "β"}
        if "[x, h]" in box.label.text:
            place = "pre "
        elif box.y > ends.y:
            place = "state "
        else:
            middle = drawn.width / 2
            site = "sum" if box.y > bar.y else "x" if box.middle < middle else "h"
            under = (g for g, b in lanes[site].items() if box.x < b.middle < box.x + box.width)
            place = f"{site} {''.join(under)}"
        yield place, "γ" in says, "β" in says


def test_different_functions_give_different_drawings():
    pictures: dict[str, Variant] = {}
    forms = {(v.cell, v.reset, v.peephole, v.projection): v for v in VARIANTS.values()}
    for variant in ALL.union(*map(changed, forms.values())):
        picture = draw(variant)
        assert pictures.setdefault(picture, essence(variant)) == essence(variant)


def essence(variant: Variant) -> Variant:
    """Without what has no effect: the order of norms, options of what is not there."""
    plain: dict[str, Any] = {"norms": tuple(sorted(variant.norms, key=str))}
    if not (variant.norms or variant.hidden_norm or variant.cell_norm != "none"):
        plain |= {"epsilon": 0, "norm": "layer", "ddof": 0, "epsilon_at": "variance"}
    if variant.cell_norm == "none":
        plain |= {"cell_norm_gain": True, "cell_norm_bias": True}
    if variant.cell_clip is None:
        plain["cell_clip_at"] = "before_norm"
    return variant.replace(**plain)


def changed(variant: Variant) -> Iterator[Variant]:
    """The variant with one field changed, where there is such a variant."""
    others = {float: (0.25,), float | None: (0.75,), bool: (True, False)}
    for name, hint in get_type_hints(Variant).items():
        if name in ("cell", "norms"):
            continue
        for value in others.get(hint) or get_args(hint):
            with suppress(ValueError):  # there is no such variant
                yield variant.replace(**{name: value})


def test_order_on_the_way_of_the_cell():
    def way(**fields: Any) -> list[str]:
        drawn = layout(Variant(cell="lstm", cell_norm="carry", cell_clip=3.0, **fields))
        start = next(box for box in drawn.boxes if box.label.text == "c(t−1)")
        row = (b for b in drawn.boxes if b.level == start.level)
        return [b.label.text for b in sorted(row, key=lambda b: b.x)]

    start = ["c(t−1)", "× f", "+ i g"]
    assert way() == [*start, "clip ±3", "LN", "c(t)"]
    assert way(cell_clip_at="after_norm") == [*start, "LN", "clip ±3", "c(t)"]


def test_a_drawing_can_be_read_aloud_and_in_the_dark():
    text = lnrnn.draw("haste_lnlstm")
    root = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    assert root.findtext(f"{space}title") == "haste_lnlstm"
    about = root.findtext(f"{space}desc") or ""
    assert "LN γ" in about and "ε = 1e-05" in about
    assert "prefers-color-scheme:dark" in text and "http" not in text.replace(space[1:-1], "")
    assert text == lnrnn.draw("haste_lnlstm")


def test_the_command_draws_names_and_fields(tmp_path: Path, capsysbinary):
    file = tmp_path / "cell.svg"
    assert cli.main(["draw", "haste_lngru", "--out", str(file)]) == 0
    assert file.read_text(encoding="utf-8") == draw("haste_lngru")
    assert cli.main(["draw", '{"cell": "gru", "norms": [{"site": "x"}]}']) == 0
    drawn = capsysbinary.readouterr().out.decode()
    assert drawn == draw(Variant(cell="gru", norms=(lnrnn.Norm("x"),)))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("haste_lnlst", "no dialect named"),
        ('{"cell": "lstm", "reset": "inside"}', "reset is an option"),
        ('{"cell"', "JSON object"),
        ("{}", "JSON object"),
    ],
)
def test_the_command_refuses_what_is_no_variant(given, said, capsys):
    assert cli.main(["draw", given]) == 2
    assert said in capsys.readouterr().err
