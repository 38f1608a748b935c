"""The figures that papers print, as data: loaded, validated, and set out as tables.

Reads `data_manifests/published/papers.toml` (papers, doubts, column names) and the CSV file of each
paper, and the workspace's own results to set beside them; writes nothing. Every figure is kept as
it is printed; what is doubtful is said with it.
"""

from __future__ import annotations

import csv
import io
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any, Self

from pydantic import Field, model_validator

from stages.artifacts.store import Artifact, Workspace
from stages.core.config import Config
from stages.core.errors import ConfigError

FOLDER = "published"
SOURCES = "papers.toml"

SHORT_METRICS = {
    "accuracy": "",
    "relative_change_percent": "",
    "recall_R@1": "R@1",
    "recall_R@5": "R@5",
    "recall_R@10": "R@10",
    "introduced_params_M": "new params, M",
    "inference_ms_per_video": "ms a video",
    "oracle_accuracy_any_of_4_frames": "any of 4 frames",
    "performance_change_percent_unsigned_as_printed": "change, %",
}
"""Metric as the files name it -> what a column's head says of it; empty: the category alone."""

APART = {
    "relative_change_percent": "relative change, %",
    "performance_change_percent_unsigned_as_printed": "performance change, printed without sign",
}
"""Metrics that would double a table's columns and get a table of their own, with its title."""


class Figure(Config):
    """One printed number."""

    paper: str = Field(min_length=1)
    table: str = Field(min_length=1)
    system: str = Field(min_length=1)
    frames: str
    """Frames as printed, such as `32->4`; empty: not given."""
    benchmark: str = Field(min_length=1)
    """The benchmark's published name (`published_as` of a manifest)."""
    split_or_category: str = Field(min_length=1)
    """`split/category` or `split/kind/category`."""
    metric: str = Field(min_length=1)
    value: str
    """As it was copied from print."""
    setting: str
    """fine-tuned, zero-shot, ...; empty: not given."""

    @model_validator(mode="after")
    def _a_number(self) -> Self:
        try:
            finite = math.isfinite(float(self.value))
        except ValueError:
            finite = False
        if not finite:
            raise ValueError(f"value {self.value!r} is not a number")
        return self

    @property
    def key(self) -> tuple[str, ...]:
        """What no two figures share."""
        return (
            *(self.paper, self.table, self.benchmark, self.system, self.frames),
            *(self.setting, self.split_or_category, self.metric),
        )

    def as_row(self) -> dict[str, Any]:
        """For JSON: the value as a number, and as printed."""
        return self.as_json() | {"value": float(self.value), "printed": self.value}


class Paper(Config):
    """Where figures were printed."""

    name: str
    file: str
    title: str
    authors: str
    published: str


class Doubt(Config):
    """What to know before comparing with some figures."""

    paper: str
    """Empty: every paper."""
    tables: tuple[str, ...]
    """Empty: every table."""
    benchmark: str
    """Empty: every benchmark of these tables."""
    text: str

    def concerns(self, figure: Figure) -> bool:
        """Whether it is about `figure`'s table."""
        return (
            self.paper in ("", figure.paper)
            and self.benchmark in ("", figure.benchmark)
            and (not self.tables or figure.table in self.tables)
        )


class Sources(Config):
    """The whole of `papers.toml`."""

    papers: tuple[Paper, ...]
    doubts: tuple[Doubt, ...]
    columns: dict[str, dict[str, str]]
    """Benchmark -> printed category -> our metric (`a.b`: `b` of the group `a`)."""


@cache
def load_sources() -> Sources:
    """Papers, doubts and column names (`ConfigError` where the file is wrong)."""
    source = f"data_manifests/{FOLDER}/{SOURCES}"
    try:
        values = tomllib.loads(_text(SOURCES))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not TOML: {error}") from None
    return Sources.build(values, source)


@cache
def load_figures() -> tuple[Figure, ...]:
    """Every published figure, papers in turn, as printed from top to bottom.

    Raises:
        ConfigError: A file names a figure twice, a value is no number, a column is missing.
    """
    return tuple(
        figure
        for paper in load_sources().papers
        for figure in parse_figures(_text(paper.file), f"data_manifests/{FOLDER}/{paper.file}")
    )


def parse_figures(text: str, source: str) -> list[Figure]:
    """The figures of one CSV file; `source` names it in errors (`ConfigError`)."""
    reader = csv.DictReader(io.StringIO(text))
    figures, seen = [], set[tuple[str, ...]]()
    for number, record in enumerate(reader, 2):
        figure = Figure.build(dict(record), f"{source}, line {number}")
        if figure.key in seen:
            raise ConfigError(f"{source}, line {number}: the same figure a second time")
        seen.add(figure.key)
        figures.append(figure)
    return figures


def _text(name: str) -> str:
    return (resources.files("data_manifests") / FOLDER / name).read_text(encoding="utf-8")


def figures_of(published_as: str) -> list[Figure]:
    """What is printed about a benchmark, by the name that the papers give it."""
    return [figure for figure in load_figures() if figure.benchmark == published_as]


def doubts_about(figures: Sequence[Figure]) -> list[Doubt]:
    """Every doubt that concerns at least one of `figures`."""
    doubts = load_sources().doubts
    return [doubt for doubt in doubts if any(doubt.concerns(figure) for figure in figures)]


def where_printed(doubt: Doubt) -> str:
    """`VLAP, tables 1 and 5`; empty for what holds everywhere."""
    numbers = " and ".join(filter(None, [", ".join(doubt.tables[:-1]), *doubt.tables[-1:]]))
    tables = f"table{'s' if len(doubt.tables) > 1 else ''} {numbers}" if doubt.tables else ""
    return ", ".join(part for part in (doubt.paper, tables) if part)


# --- tables --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PublishedRow:
    """One system under one setting."""

    system: str
    frames: str
    setting: str
    values: Mapping[str, str]
    """Column -> as printed."""


@dataclass(frozen=True)
class PublishedTable:
    """Part of one printed table: one benchmark and split."""

    paper: str
    table: str
    split: str
    note: str
    """What kind of numbers, where it is not the measure itself."""
    columns: tuple[str, ...]
    rows: tuple[PublishedRow, ...]

    @property
    def title(self) -> str:
        """For a caption."""
        about = ", ".join(part for part in (self.split, self.note) if part)
        return f"{self.paper}, table {self.table}" + (f": {about}" if about else "")


def tables(figures: Iterable[Figure]) -> list[PublishedTable]:
    """Figures of one benchmark with a row per system and setting, in the order of print."""
    parts: dict[tuple[str, str, str, str], list[Figure]] = {}
    for figure in figures:
        split, note = split_and_column(figure)[0], APART.get(figure.metric, "")
        parts.setdefault((figure.paper, figure.table, split, note), []).append(figure)
    return [_table(*key, members) for key, members in parts.items()]


def _table(paper: str, table: str, split: str, note: str, members: list[Figure]) -> PublishedTable:
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for figure in members:
        row = rows.setdefault((figure.system, figure.frames, figure.setting), {})
        row[split_and_column(figure)[1]] = figure.value
    # The fullest row knows the order of the columns.
    ordered = sorted(rows.values(), key=len, reverse=True)
    columns = tuple(dict.fromkeys(column for row in ordered for column in row))
    shown = tuple(PublishedRow(*key, row) for key, row in rows.items())
    return PublishedTable(paper, table, split, note, columns, shown)


def split_and_column(figure: Figure) -> tuple[str, str]:
    """The split that a figure is about, and the head of its column.

    The head is the last part of `split/kind/category` without remarks in brackets, or the metric
    where that is not the category's accuracy. A category by itself belongs to no named split.
    """
    split, _, category = figure.split_or_category.partition("/")
    metric = SHORT_METRICS.get(figure.metric, figure.metric)
    if not category and not metric:
        split, category = "", split
    return split, metric or category.rsplit("/", 1)[-1].split(" (")[0]


# --- our own figures beside them -----------------------------------------------------------------


@dataclass(frozen=True)
class OwnResult:
    """What an artifact of the workspace says about a benchmark."""

    artifact: str
    kind: str
    label: str
    split: str
    created: str
    n_scored: int
    as_published: bool
    metrics: Mapping[str, Any]
    ci95_of: str | None
    """The metric that `ci95` among the metrics is of."""

    def as_json(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def own_results(workspace: Workspace, benchmark: str) -> list[OwnResult]:
    """The newest scored predictions and metrics of each label and split, newest first."""
    artifacts = [item for kind in ("predictions", "metrics") for item in workspace.finished(kind)]
    artifacts.sort(key=lambda item: str(item.manifest["created"]), reverse=True)
    found: dict[tuple[str, str], OwnResult] = {}
    for item in artifacts:
        if item.config["benchmark"] == benchmark and item.manifest["metrics"]:
            found.setdefault((item.label, str(item.config["split"])), _own_result(item))
    return list(found.values())


def _own_result(artifact: Artifact) -> OwnResult:
    manifest = artifact.manifest
    return OwnResult(
        artifact=artifact.id,
        kind=artifact.kind,
        label=artifact.label,
        split=str(artifact.config["split"]),
        created=str(manifest["created"]),
        n_scored=int(manifest["tally"]["n_scored"]),
        as_published=bool(artifact.config.get("as_published")),
        metrics=manifest["metrics"],
        ci95_of=manifest.get("ci95_of", "accuracy"),
    )


def under_published_heads(
    published_as: str, metrics: Mapping[str, Any], headline: str
) -> dict[str, float]:
    """Our metrics under the heads of the published columns that they belong to.

    A category belongs to the metric that `papers.toml` names, to the metric, type or group of the
    same spelling (case and blanks aside), or, if it stands for everything, to the headline metric.
    """
    flat = {_folded(name): value for name, value in _flat_metrics(metrics)}
    named = load_sources().columns.get(published_as, {})
    printed = [table for table in tables(figures_of(published_as)) if not table.note]
    found: dict[str, float] = {}
    for column in (column for table in printed for column in table.columns):
        pooled = _folded(column) in ("all", "avg", "average")
        name = _folded(named.get(column, headline if pooled else column))
        if name in flat:
            found[column] = flat[name]
    return found


def _flat_metrics(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Single numbers by name, types and groups first by their own names, then by `kind.name`."""
    for kind in ("by_type", "by_group"):
        for name, value in metrics.get(kind, {}).items():
            yield name, value
            yield f"{kind}.{name}", value
    for name, value in metrics.items():
        if isinstance(value, int | float):
            yield name, float(value)


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9.@]", "", name.lower())
