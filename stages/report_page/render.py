"""Draw a report page: one HTML file with its style, script, pictures and questions inside.

Reads: the templates, style and scripts beside this file.   Writes: nothing; the caller keeps the
text. The page loads nothing: its content security policy allows the one style and the one script
that it holds (by their hashes) and pictures written into it, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import math
from functools import cache
from importlib import resources
from typing import TypeGuard
from urllib.parse import quote

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from stages.report_page.lineage import lineage_graph
from stages.report_page.model import Page
from stages.report_page.plots import (
    SHAPES,
    against_frames,
    against_time,
    intervals,
    kept_over_time,
    look_of,
    shortened,
    training_curves,
    type_bars,
)
from stages.report_page.published import further_headline, headline, in_table, system_value
from stages.report_page.questions import num_thinned, questions_json

PAGE = "report.html.j2"
PARTS = (
    PAGE,
    "pictures.html.j2",
    "summary.html.j2",
    "questions.html.j2",
    "training.html.j2",
    "origins.html.j2",
)
STYLE = "page.css"
SCRIPTS = ("page.js", "question.js", "questions.js")


def render(page: Page) -> str:
    """The whole page as text; equal pages give equal text."""
    environment, style, script = _drawing_tools()
    text = environment.get_template(PAGE).render(
        page=page,
        style=style,
        style_hash=content_hash(style),
        script=script,
        script_hash=content_hash(script),
        look=look_of,
        published_shape=SHAPES[3],
        headline=headline(page),
        further_headline=further_headline(page),
        published=in_table(page),
        system_value=system_value,
        intervals=intervals(page),
        scatters=[plot for plot in (against_frames(page), against_time(page)) if plot],
        type_bars=type_bars(page),
        runs=[(run, training_curves(run)) for run in page.runs],
        histograms=kept_over_time(page),
        graph=lineage_graph(
            page.lineage, (f"{page.benchmark}-{page.split}-", f"{page.benchmark}-")
        ),
        num_thinned=num_thinned(page),
        data=questions_json(page) if page.shown else None,
    )
    # Half a character, from a broken file name, could not be written as UTF-8.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@cache
def _drawing_tools() -> tuple[Environment, Markup, Markup]:
    """Templates, style and script, which do not change while a process runs."""
    sources = page_sources()
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=DictLoader({name: sources[name] for name in PARTS}),
    )
    environment.tests["known"] = known
    environment.filters["shortened"] = shortened
    environment.filters["figure"] = figure
    environment.filters["size"] = size
    environment.filters["fragment"] = fragment
    script = Markup("\n".join(sources[name] for name in SCRIPTS))
    return environment, Markup(sources[STYLE]), script


def page_sources() -> dict[str, str]:
    """Every file that decides what the page looks like, by name."""
    folder = resources.files("stages.report_page")
    return {name: (folder / name).read_text("utf-8") for name in (*PARTS, STYLE, *SCRIPTS)}


def content_hash(text: str) -> str:
    """The source expression by which a content security policy allows an inline text."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def known(value: float | None) -> TypeGuard[float]:
    """Whether there is a number."""
    return value is not None and math.isfinite(value)


def figure(value: float | None, digits: int = 1) -> str:
    """A number for a table; a dash where there is none."""
    return f"{value:.{digits}f}" if known(value) else "–"


def fragment(text: str) -> str:
    """A name as a value in the part of an address after `#`."""
    return quote(text.encode("utf-8", "replace"), safe="")


def size(count: int) -> str:
    """Bytes in the largest unit that keeps a digit before the point."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
