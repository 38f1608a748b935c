"""Published rows beside ours: which stand in the table, and the figure that both have.

Papers print a benchmark's own headline, which need not be the figure that we rank by: on STAR it
is the mean over types, and comparing it with an accuracy over questions would compare two things.
"""

from __future__ import annotations

import re

from stages.report_page.model import Page, Published, System

MOST_IN_TABLE = 8
"""Published rows in the table of systems; the others are folded away below it."""


def headline(page: Page) -> str:
    """The figure that the table ranks by."""
    return page.systems[0].headline if page.systems else page.reported or "accuracy"


def further_headline(page: Page) -> str | None:
    """The figure that papers print, where it is not the one that we rank by."""
    return page.reported if page.reported and page.reported != headline(page) else None


def beside_papers(page: Page) -> str:
    """The figure to draw where published rows are drawn too: one that these have."""
    further = further_headline(page)
    has = further is not None and any(further in item.metrics for item in page.published)
    return further if further is not None and has else headline(page)


def system_value(item: System, figure: str) -> float | None:
    """Our own row's `figure`."""
    return item.value if figure == item.headline else item.metrics.get(figure)


def in_table(page: Page) -> tuple[list[Published], list[Published]]:
    """Published rows of the table and those folded away.

    The shown systems' families come first, then rows that say how many frames they kept.
    """
    if len(page.published) <= MOST_IN_TABLE:
        return list(page.published), []
    families = {_folded(item.family.split("-")[0]) for item in page.systems}
    wanted = tuple(family for family in families if family)

    def place(item: Published) -> tuple[bool, bool]:
        return not _folded(item.name).startswith(wanted), item.keep is None

    ranked = sorted(page.published, key=place)
    return ranked[:MOST_IN_TABLE], ranked[MOST_IN_TABLE:]


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())
