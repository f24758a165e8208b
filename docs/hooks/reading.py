"""A griffe extension: how our sources are read for the API pages."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Reading(griffe.Extension):
    """Shows the section `Example:` as code, and the full signature of the Keras layers."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Give `Example:` the plural by which griffe knows the section."""
        if obj.docstring is not None:
            text = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.M)
            obj.docstring.value = text

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Put the arguments that a layer hands to its cell where `**cell_options` stands."""
        if pkg.name != "lnrnn":
            return
        layer = pkg["keras.layers.LayerNormRNN.__init__"]
        cell = pkg["keras.cells.LayerNormCell.__init__"]
        own = [p for p in layer.parameters if p.name != "cell_options"]
        positional = [p for p in own if p.kind is griffe.ParameterKind.positional_or_keyword]
        named = {p.name for p in own} | {"kwargs"}
        handed = [
            griffe.Parameter(p.name, annotation=p.annotation, default=p.default, kind=_KEYWORD)
            for p in cell.parameters
            if p.name not in named
        ]
        layer.parameters = griffe.Parameters(*positional, *handed, *own[len(positional) :])


_KEYWORD = griffe.ParameterKind.keyword_only
