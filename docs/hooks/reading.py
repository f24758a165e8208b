"""A griffe extension: how our sources are read for the API pages."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import griffe


class Reading(griffe.Extension):
    """Shows the section `Example:` as code, and the signatures of the Keras layers and cells."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Give `Example:` the plural by which griffe knows the section."""
        if obj.docstring is not None:
            text = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.M)
            obj.docstring.value = text

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Take the signatures of layers and cells, made when they are loaded, from there."""
        if pkg.name != "lnrnn":
            return
        front_end = importlib.import_module("lnrnn.keras")
        for module in ("layers", "cells"):
            for name, found in pkg[f"keras.{module}"].classes.items():
                if hasattr(front_end, name):
                    found.set_member("__init__", _constructor(getattr(front_end, name)))


def _constructor(loaded: type) -> griffe.Function:
    parameters = [
        griffe.Parameter(
            p.name,
            annotation=None if p.annotation is p.empty else p.annotation,
            kind=griffe.ParameterKind[p.kind.name.lower()],
            default=None if p.default is p.empty else repr(p.default),
        )
        for p in inspect.signature(loaded).parameters.values()
    ]
    return griffe.Function("__init__", parameters=griffe.Parameters(*parameters))
