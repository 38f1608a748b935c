"""`vqa benchmarks`: what is known, what is prepared here, and what papers print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from vqa_cli import completion
from vqa_cli.console import Console
from vqa_cli.options import (
    COMPUTED,
    DEFAULT_WORKSPACE,
    DebugOption,
    JsonOption,
    QuietOption,
    WorkspaceOption,
    open_workspace,
)

if TYPE_CHECKING:
    from stages.artifacts.store import Artifact, Workspace
    from stages.benchmarks.manifest import BenchmarkManifest
    from stages.benchmarks.published import OwnResult, PublishedTable

WIDE = 110
"""Columns that the list with licences needs; narrower terminals get two tables."""
MAX_WIDTH = 120
MAX_CELL = {"system": 28, "result": 36, "setting": 20}
FIGURE_WIDTH = 6
MAX_OWN = 8
"""Own results shown; `--json` has all."""

Here = dict[str, "Artifact"]
"""Split -> its newest prepared questions."""


def benchmarks(
    name: Annotated[
        str | None,
        typer.Argument(
            help="One benchmark in full [all, in short].", autocompletion=completion.benchmarks
        ),
    ] = None,
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="What papers print, beside your latest results.",
            rich_help_panel=COMPUTED,
        ),
    ] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """The known benchmarks: task, splits, expected counts, licence, where to get the files."""
    from stages.benchmarks.manifest import benchmark_names, load_manifest

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    root = open_workspace(workspace)
    manifests = [load_manifest(item) for item in ([name] if name else benchmark_names())]
    prepared = _prepared(root)
    if as_json:
        rows = [_as_json(item, prepared.get(item.name, {})) for item in manifests]
        if published:
            rows = [
                row | _published_json(root, item) for row, item in zip(rows, manifests, strict=True)
            ]
        console.json({"benchmarks": rows})
    elif published:
        for manifest in manifests:
            _print_published(console, root, manifest, alone=name is not None)
    elif name:
        _print_one(console, manifests[0], prepared.get(name, {}))
    else:
        _print_list(console, manifests, prepared)


def _prepared(workspace: Workspace) -> dict[str, Here]:
    """Benchmark -> split -> the newest questions."""
    found: dict[str, Here] = {}
    for item in workspace.finished("questions"):
        found.setdefault(str(item.config["benchmark"]), {})[str(item.config["split"])] = item
    return found


def _as_json(manifest: BenchmarkManifest, here: Here) -> dict[str, Any]:
    return {
        **manifest.as_json(),
        "prepared": [split for split in manifest.splits if split in here],
        "missing": [split for split in manifest.splits if split not in here],
        "here": {
            split: {
                "artifact": item.id,
                "questions": item.counts["total"],
                "coverage": item.manifest.get("coverage", {}),
            }
            for split, item in here.items()
        },
    }


# --- the list ------------------------------------------------------------------------------------


def _print_list(
    console: Console, manifests: Sequence[BenchmarkManifest], prepared: dict[str, Here]
) -> None:
    wide = console.data.width >= WIDE
    grid = _grid(
        "benchmark", "split", "questions", "videos", "here", *(["licence"] if wide else [])
    )
    for manifest in manifests:
        here = prepared.get(manifest.name, {})
        cells = [f"{manifest.name}\n  {manifest.task}"]
        cells += ["\n".join(column) for column in zip(*_split_cells(manifest, here), strict=True)]
        grid.add_row(*map(escape, [*cells, *([manifest.licence] if wide else [])]))
    console.data.print(grid)
    if not wide:
        licences = _grid("benchmark", "licence")
        for manifest in manifests:
            licences.add_row(manifest.name, escape(manifest.licence))
        console.data.print(licences)
    console.note("vqa benchmarks NAME: where to get the files, and what is missing here")


def _grid(*columns: str) -> Table:
    grid = Table(box=SIMPLE_HEAD)
    for column in columns:
        number = column in ("questions", "videos")
        fixed = column not in ("licence", "what")
        grid.add_column(
            column, justify="right" if number else "left", no_wrap=fixed, overflow="fold"
        )
    return grid


def _split_cells(manifest: BenchmarkManifest, here: Here) -> list[list[str]]:
    """Per split: name, expected questions and videos, and whether it is prepared."""
    return [
        [name, _count(split.questions), _count(split.videos), "prepared" if name in here else "-"]
        for name, split in manifest.splits.items()
    ]


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


# --- one benchmark -------------------------------------------------------------------------------


def _print_one(console: Console, manifest: BenchmarkManifest, here: Here) -> None:
    from stages.benchmarks.published import figures_of
    from stages.benchmarks.scorers.rules import DIFFERENCES

    _line(console, f"{manifest.name}: {manifest.title}")
    _line(console, f"{manifest.task}; reported: {', '.join(manifest.metrics)}")
    for text in (manifest.citation, f"licence: {manifest.licence}"):
        _line(console, text)
    _line(console, "where to get the files:")
    for text in manifest.get:
        _line(console, f"  {text}")
    _line(console, f"video files: {manifest.videos.where}" if manifest.videos.where else "")
    _line(console, f"annotation layouts: {', '.join(_layouts(manifest))}")
    _print_splits(console, manifest, here)
    for difference in DIFFERENCES.get(manifest.name, ()):
        _line(console, f"scored: {difference.ours}")
        _line(console, f"  --as-published: {difference.published}")
    _print_missing(console, manifest, here)
    figures = figures_of(manifest.published_as)
    if figures:
        console.note(
            f"{len(figures)} published figures: vqa benchmarks {manifest.name} --published"
        )


def _layouts(manifest: BenchmarkManifest) -> list[str]:
    """Layouts, with the release that they hold where there are several."""
    return [
        f"{name} (release {manifest.releases[name]})" if name in manifest.releases else name
        for name in manifest.layouts
    ]


def _print_splits(console: Console, manifest: BenchmarkManifest, here: Here) -> None:
    rows = [
        [
            name,
            ", ".join(split.roles) or "-",
            _count(split.questions),
            _count(split.videos),
            "yes" if split.labelled else "no",
            _coverage(here[name]) if name in here else "missing",
        ]
        for name, split in manifest.splits.items()
    ]
    columns = ["split", "used to", "questions", "videos", "answers", "here"]
    console.table("", columns, rows)
    aliases = ", ".join(f"{alias} = {split}" for alias, split in manifest.aliases.items())
    _line(console, f"also called: {aliases}" if aliases else "")
    for name, split in manifest.splits.items():
        _line(console, f"{name}: {split.note}" if split.note else "")
        for layout, counts in split.by_layout.items():
            _line(console, f"{name} as {layout}: {_count(counts.questions)} questions")


def _coverage(questions: Artifact) -> str:
    """`7,098 questions; videos: 914 found`."""
    videos = questions.manifest.get("coverage", {}).get("videos", {})
    parts = [f"{count:,} {status}" for status, count in sorted(videos.items())]
    total = f"{questions.counts['total']:,} questions"
    return f"{total}; videos: {', '.join(parts)}" if parts else total


def _print_missing(console: Console, manifest: BenchmarkManifest, here: Here) -> None:
    missing = [name for name in manifest.splits if name not in here]
    if not missing:
        return
    console.note(f"missing here: {', '.join(missing)}; to prepare one:")
    files = "" if manifest.generated else " --annotations FILE --videos DIR"
    console.note(f"  vqa prepare --benchmark {manifest.name} --split {missing[0]}{files}")


# --- published figures ---------------------------------------------------------------------------


def _published_json(workspace: Workspace, manifest: BenchmarkManifest) -> dict[str, Any]:
    from stages.benchmarks.published import doubts_about, figures_of, own_results

    figures = figures_of(manifest.published_as)
    return {
        "published": [figure.as_row() for figure in figures],
        "published_notes": [doubt.as_json() for doubt in doubts_about(figures)],
        "own": [result.as_json() for result in own_results(workspace, manifest.name)],
    }


def _print_published(
    console: Console, workspace: Workspace, manifest: BenchmarkManifest, *, alone: bool
) -> None:
    from stages.benchmarks.published import (
        doubts_about,
        figures_of,
        load_sources,
        own_results,
        tables,
        where_printed,
    )

    figures = figures_of(manifest.published_as)
    if not figures:
        if alone:
            console.note(f"no published figures of {manifest.name} are known here")
        return
    _line(console, f"{manifest.name}: {manifest.title}")
    own = own_results(workspace, manifest.name)
    if own:
        _print_blocks(console, *_own_table(manifest, own))
    elif alone:
        console.note(f"no results of your own in {workspace.root}")
    for table in tables(figures):
        _print_blocks(console, *_published_table(table))
    for paper in load_sources().papers:
        if any(figure.paper == paper.name for figure in figures):
            _line(console, f"{paper.name}: {paper.authors}: {paper.title}. {paper.published}.")
    for doubt in doubts_about(figures):
        where = where_printed(doubt)
        _line(console, f"note ({where}): {doubt.text}" if where else f"note: {doubt.text}")


Rows = list[tuple[list[str], Mapping[str, str]]]
"""Cells of the first columns, and the figures by column."""


def _own_table(
    manifest: BenchmarkManifest, own: Sequence[OwnResult]
) -> tuple[str, list[str], list[str], Rows]:
    from stages.benchmarks.published import under_published_heads

    rows: Rows = []
    for result in own[:MAX_OWN]:
        values = under_published_heads(manifest.published_as, result.metrics, manifest.metrics[0])
        label = result.label + (" (as published)" if result.as_published else "")
        shown = {name: f"{value:.2f}" for name, value in values.items()}
        rows.append(([label, result.split, _own_interval(result)], shown))
    columns = list(dict.fromkeys(name for _, values in rows for name in values))
    more = f", the newest {MAX_OWN} of {len(own)}" if len(own) > MAX_OWN else ""
    title = f"here{more}: {manifest.name} results of this workspace, newest first"
    return title, ["result", "split", "95 % interval"], columns, rows


def _own_interval(result: OwnResult) -> str:
    """`accuracy 42.94 - 46.62`."""
    ends = result.metrics.get("ci95")
    return f"{result.ci95_of} {ends[0]:.2f} - {ends[1]:.2f}" if ends else "-"


def _published_table(table: PublishedTable) -> tuple[str, list[str], list[str], Rows]:
    settings = {row.setting for row in table.rows}
    same = settings.pop() if len(settings) == 1 else ""
    heads = ["system"]
    heads += ["frames"] if any(row.frames for row in table.rows) else []
    heads += ["setting"] if not same and any(row.setting for row in table.rows) else []
    rows: Rows = []
    for row in table.rows:
        cells = {"system": row.system, "frames": row.frames, "setting": row.setting}
        rows.append(([cells[head] for head in heads], row.values))
    title = f"{table.title}; {same}" if same else table.title
    return title, heads, list(table.columns), rows


def _print_blocks(
    console: Console, title: str, heads: list[str], columns: list[str], rows: Rows
) -> None:
    """A table; what is too wide goes on below, with the first columns repeated."""
    cells_by_head = zip(heads, zip(*(cells for cells, _ in rows), strict=True), strict=True)
    widths = {
        head: min(max(len(cell) for cell in (head, *cells)), MAX_CELL.get(head, MAX_WIDTH))
        for head, cells in cells_by_head
    }
    left = min(console.data.width, MAX_WIDTH) - sum(widths.values()) - 3 * len(widths) - 2
    _line(console, title)
    for block in _blocks(columns, left):
        grid = Table(box=SIMPLE_HEAD)
        for head, width in widths.items():
            grid.add_column(head, width=width, overflow="fold")
        for column in block:
            grid.add_column(escape(column), justify="right", no_wrap=True)
        for cells, values in rows:
            if any(column in values for column in block):
                figures = [values.get(column, "-") for column in block]
                grid.add_row(*map(escape, [*cells, *figures]))
        console.data.print(grid)


def _blocks(columns: Sequence[str], width: int) -> list[list[str]]:
    """Columns of figures, parted so that each part is at most `width` wide, or one column."""
    blocks: list[list[str]] = [[]]
    used = 0
    for column in columns:
        needed = max(len(column), FIGURE_WIDTH) + 3
        if blocks[-1] and used + needed > width:
            blocks.append([])
            used = 0
        blocks[-1].append(column)
        used += needed
    return blocks


def _line(console: Console, text: str) -> None:
    if text:
        console.data.print(text, markup=False, soft_wrap=True)
