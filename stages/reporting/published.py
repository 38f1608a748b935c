"""Published rows of the same benchmark and split, under the names of our own metrics.

Reads: `data_manifests/published`.   Writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from stages.benchmarks.manifest import BenchmarkManifest
from stages.benchmarks.published import (
    PublishedRow,
    PublishedTable,
    figures_of,
    load_sources,
    tables,
)
from stages.report_page.model import Published

POOLED = ("all", "avg", "average")


def published_rows(manifest: BenchmarkManifest, split: str) -> list[Published]:
    """What papers print about the split, in their order; figures without one of ours are left out.

    Relative changes are no figure of ours.
    """
    if not manifest.published_as:
        return []
    rows = [
        _published(table, row, manifest)
        for table in tables(figures_of(manifest.published_as))
        if table.split == split and not table.note
        for row in table.rows
    ]
    return [row for row in rows if row.metrics]


def _published(table: PublishedTable, row: PublishedRow, manifest: BenchmarkManifest) -> Published:
    frames, keep = frame_counts(row.frames)
    named = ((own_name(manifest, column), text) for column, text in row.values.items())
    return Published(
        name=f"{row.system}, {row.setting}" if row.setting else row.system,
        source=f"{table.paper}, table {table.table}",
        frames=frames,
        keep=keep,
        metrics={name: float(text) for name, text in named if name is not None},
    )


def frame_counts(printed: str) -> tuple[int | None, int | None]:
    """Frames seen and kept: `32->4` is (32, 4), `20` is (20, 20), anything else unknown."""
    match = re.fullmatch(r"(\d+)(?:\s*->\s*(\d+))?", printed.strip())
    if match is None:
        return None, None
    return int(match[1]), int(match[2] or match[1])


def own_name(manifest: BenchmarkManifest, column: str) -> str | None:
    """What we call the figure of a published column; none: it is none of ours."""
    given = load_sources().columns.get(manifest.published_as, {}).get(column)
    if given is not None:
        return given
    if _folded(column) in POOLED:
        return manifest.metrics[0]
    known = {_folded(name): name for name in _known_names(manifest)}
    return known.get(_folded(column))


def _known_names(manifest: BenchmarkManifest) -> Iterable[str]:
    """Metrics, types by their own names, groups as `by_group.NAME`."""
    yield from (f"by_group.{name}" for name in manifest.groups)
    yield from manifest.metrics
    yield from manifest.types.names


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9.@]", "", name.lower())
