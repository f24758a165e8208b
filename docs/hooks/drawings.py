"""What is made when pages are built: drawings of dialects, figures, the worker of the search."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.utils import get_relative_url

from lnrnn.dialects import DIALECTS
from lnrnn.insight.drawing import draw

sys.path.insert(0, str(Path(__file__).parent))
import figures

_WORKER = "assets/worker.js"
_FOREIGN = "https://unpkg.com/iframe-worker/shim"


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """The hook of mkdocs: the pages with `drawings/NAME.svg` and `figures/NAME.svg` beside them."""
    pictures = {f"drawings/{name}.svg": draw(name) for name in DIALECTS}
    pictures |= {f"figures/{name}.svg": make() for name, make in figures.FIGURES.items()}
    for path, picture in pictures.items():
        files.append(File.generated(config, path, content=picture))
    worker = Path(__file__).with_name("worker.js")
    files.append(File.generated(config, _WORKER, abs_src_path=str(worker)))
    return files


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Searches with a worker of ours; the theme would ask another site for one."""
    return output.replace(_FOREIGN, get_relative_url(_WORKER, page.url))


def on_post_template(output: str, **_: Any) -> str:
    """The page for what is not found comes from a server, where browsers have workers."""
    return output.replace(f'<script src="{_FOREIGN}"></script>', "")
