"""How Sphinx builds these pages, without a network: see docs/extending.md."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

_project = tomllib.loads(
    (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
)["project"]

project = "vqa"
version = release = _project["version"]
copyright = "the authors, Apache-2.0"
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
highlight_language = "none"
smartquotes = False

html_theme = "furo"
html_title = f"vqa {version}"
html_static_path = ["_static"]
html_css_files = ["vqa.css"]
html_copy_source = False
html_show_sphinx = False

_CHILDREN = "\n```{toctree}\n:hidden:\n:glob:\n\n[!R]*\n```\n"


def _add_children(app: Sphinx, page: str, source: list[str]) -> None:
    """The list of benchmarks is a generated page that code hosts show too: no directive in it."""
    if page == "benchmarks/README":
        source[0] += _CHILDREN


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_lexer("sh", TextLexer)  # a shell lexer colours the words test and eval
    app.connect("source-read", _add_children)
