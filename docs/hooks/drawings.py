"""Pictures that are made when the pages are built: a drawing of each dialect, and the figures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from lnrnn.dialects import DIALECTS
from lnrnn.insight.drawing import draw

sys.path.insert(0, str(Path(__file__).parent))
import figures  # noqa: E402  a neighbour, once its folder is known


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """The hook of mkdocs: the pages with `drawings/NAME.svg` and `figures/NAME.svg` beside them."""
    pictures = {f"drawings/{name}.svg": draw(name) for name in DIALECTS}
    pictures |= {f"figures/{name}.svg": make() for name, make in figures.FIGURES.items()}
    for path, picture in pictures.items():
        files.append(File.generated(config, path, content=picture))
    return files
