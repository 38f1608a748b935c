"""Is the difference between two systems real? The same questions, both systems' answers.

Reads: two predictions or metrics artifacts.   Writes: nothing (a list of flips, if asked for).
Only questions that both sides answered and that are labelled are compared; the others are counted
and named.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.artifacts import atomic
from stages.artifacts.clips import write_table
from stages.artifacts.scored import scored_records
from stages.artifacts.store import MANIFEST, Artifact, Workspace, pick_by_name
from stages.benchmarks.manifest import BenchmarkManifest, load_manifest
from stages.benchmarks.statistics import (
    PairedDifference,
    difference_interval,
    holm,
    paired_difference,
)
from stages.core.errors import DataError, UsageError

KINDS = ("predictions", "metrics")
NAMED = 3
"""How many questions an error names."""

FLIP_COLUMNS = ("question_id", "video", "type", "answer", "a", "b", "better")

Row = dict[str, Any]
"""One question of one side, under the names of `SCORED_SCHEMA`."""


@dataclass(frozen=True)
class Side:
    """One of the two systems."""

    artifact: Artifact
    rows: dict[str, Row]
    """By question id, in the artifact's order."""

    @property
    def measure(self) -> str | None:
        """The figure that the questions' values average to; none where nothing is scored."""
        found: str | None = self.artifact.manifest.get("ci95_of", "accuracy")
        return found

    def as_json(self, figures: dict[str, float]) -> dict[str, Any]:
        """Who it is, and its figures on the common questions."""
        return {
            "artifact": self.artifact.id,
            "kind": self.artifact.kind,
            "label": self.artifact.label,
            "system": self.artifact.config.get("system"),
            "n_questions": len(self.rows),
            **figures,
        }


@dataclass(frozen=True)
class Aligned:
    """The questions of both sides, sorted out."""

    common: list[tuple[Row, Row]]
    """Scored on both sides."""
    only_a: list[str]
    only_b: list[str]
    not_scored: list[Row]
    """On both sides, but failed on one of them: question_id and both statuses and reasons."""
    unlabelled: int
    """On both sides, without a known answer."""


def find_side(workspace: Workspace, reference: str) -> Side:
    """The predictions or metrics that a user named by id, label, start of an id, or path.

    Raises:
        MissingInput: Nothing of that name, or the questions behind predictions are gone.
        UsageError: Several, an artifact of another kind, or a plain file.
    """
    path = Path(reference)
    if path.is_file():
        raise UsageError(
            f"{reference} is a file, not an artifact",
            "score it first: vqa score --benchmark B --split S --predictions FILE",
        )
    if (path / MANIFEST).exists():
        artifact = workspace.open(path.absolute())
        home = Workspace(artifact.path.parents[1])
    else:
        every = [item for kind in KINDS for item in workspace.finished(kind)]
        artifact = pick_by_name(every, reference, "predictions or metrics", workspace.root)
        home = workspace
    if artifact.kind not in KINDS:
        raise UsageError(
            f"{artifact.id} is {artifact.kind}; only predictions and metrics can be compared",
            "vqa artifacts ls predictions",
        )
    return Side(artifact, {row["question_id"]: row for row in scored_records(home, artifact)})


def compare(workspace: Workspace, first: str, second: str, seed: int = 0) -> dict[str, Any]:
    """Everything that can be said about the difference, first minus second.

    Args:
        workspace: Where to look.
        first: Id, label, start of an id or path of predictions or metrics.
        second: The same.
        seed: Of resamples and sign flips.

    Returns:
        The JSON object of `vqa compare`.

    Raises:
        UsageError: The two are about different benchmarks or splits, or measured differently.
        DataError: Equal ids stand for different questions, or none is scored on both sides.
    """
    started = time.monotonic()
    a, b = find_side(workspace, first), find_side(workspace, second)
    _refuse_unlike(a, b)
    aligned = align(a, b)
    measure = a.measure or "accuracy"
    manifest = load_manifest(str(a.artifact.config["benchmark"]))
    videos = [_either("video", pair) for pair in aligned.common]
    measured = Measured(aligned.common, None if None in videos else videos, seed)
    whole, labels = measured.whole(), labels_of(aligned.common)
    figures = measured.figures(measure, whole, manifest.macro_types)
    known = measured.videos is not None
    return {
        "command": "compare",
        "benchmark": manifest.name,
        "split": a.artifact.config["split"],
        "measure": measure,
        "a": a.as_json({name: row["a"] for name, row in figures.items()}),
        "b": b.as_json({name: row["b"] for name, row in figures.items()}),
        "n_common": len(aligned.common),
        "n_videos": len(set(videos)) if known else None,
        "only_a": aligned.only_a,
        "only_b": aligned.only_b,
        "not_scored": aligned.not_scored,
        "n_unlabelled": aligned.unlabelled,
        "difference": whole.difference,
        "ci95": measured.interval(whole),
        "p_value": whole.p_value,
        "test": whole.test,
        "p_value_clustered": measured.clustered(whole),
        "a_better": whole.only_first,
        "b_better": whole.only_second,
        "detectable": whole.detectable,
        "figures": figures,
        "by_type": measured.by_label(labels),
        "by_group": measured.by_label(groups_of(labels, manifest)),
        "flips": find_flips(aligned.common),
        "seed": seed,
        "notes": _notes(a, b, known, whole),
        "seconds": round(time.monotonic() - started, 3),
    }


# --- the same questions --------------------------------------------------------------------------


def _refuse_unlike(a: Side, b: Side) -> None:
    ours, theirs = a.artifact.config, b.artifact.config
    for name in ("benchmark", "split"):
        if ours[name] != theirs[name]:
            raise UsageError(
                f"{a.artifact.id} is about {name} {ours[name]}, {b.artifact.id} about"
                f" {theirs[name]}",
                "compare two systems on the same questions",
            )
    if _rules(ours) != _rules(theirs):
        raise UsageError(
            f"{a.artifact.id} and {b.artifact.id} were scored by different rules",
            "score both with --as-published, or both without, and with the same --ties",
        )
    if _rules(ours)[1] == "every":
        raise UsageError(
            f"{a.artifact.id} and {b.artifact.id} count every position of a tie as a rank: a query"
            " has no share of a figure that could be compared",
            "score both with other --ties",
        )
    if None not in (a.measure, b.measure) and a.measure != b.measure:
        raise UsageError(
            f"{a.artifact.id} is measured by {a.measure}, {b.artifact.id} by {b.measure}",
            "score both again, with the same rules",
        )


def _rules(config: dict[str, Any]) -> tuple[bool, str]:
    """Where a score had a choice; evaluations never have."""
    return bool(config.get("as_published")), str(config.get("ties", "expected"))


def align(a: Side, b: Side) -> Aligned:
    """Sort the questions of two sides.

    Raises:
        DataError: Equal ids stand for different questions, or no question is scored on both sides.
    """
    both = [(row, b.rows[name]) for name, row in a.rows.items() if name in b.rows]
    differing = [one["question_id"] for one, other in both if not _same_question(one, other)]
    if differing:
        raise DataError(
            f"{a.artifact.id} and {b.artifact.id} are about different questions:"
            f" {len(differing)} of {len(both)} equal ids have another answer or video"
            f" ({_few(differing)})",
            "the two were made from different releases of the annotations",
        )
    common = [pair for pair in both if _scored(pair[0]) and _scored(pair[1])]
    if not common:
        raise DataError(
            f"no question is scored in both {a.artifact.id} and {b.artifact.id}:"
            f" {len(both)} have equal ids",
            "vqa artifacts show ID tells how many were scored",
        )
    failed = [pair for pair in both if "failed" in (pair[0]["status"], pair[1]["status"])]
    return Aligned(
        common=common,
        only_a=[name for name in a.rows if name not in b.rows],
        only_b=[name for name in b.rows if name not in a.rows],
        not_scored=[_not_scored(*pair) for pair in failed],
        unlabelled=len(both) - len(common) - len(failed),
    )


def _same_question(one: Row, other: Row) -> bool:
    return all(
        one[name] == other[name] or one[name] is None or other[name] is None
        for name in ("answer", "video")
    )


def _scored(row: Row) -> bool:
    return row["status"] == "ok" and row["value"] is not None


def _not_scored(one: Row, other: Row) -> Row:
    return {
        "question_id": one["question_id"],
        "a": one["reason"] if one["status"] == "failed" else one["status"],
        "b": other["reason"] if other["status"] == "failed" else other["status"],
    }


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _either(name: str, pair: tuple[Row, Row]) -> Any:
    return pair[1][name] if pair[0][name] is None else pair[0][name]


# --- figures -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """The common questions, ready to be compared in whole and in parts.

    Attributes:
        common: Rows of both sides.
        videos: Of each question; none where some are not known: then there is no interval, and the
            tests take the questions as independent.
        seed: Of resamples and sign flips.
    """

    common: Sequence[tuple[Row, Row]]
    videos: Sequence[str] | None
    seed: int

    def whole(self) -> PairedDifference:
        """All of them."""
        return self.part(range(len(self.common)))

    def part(self, chosen: Sequence[int]) -> PairedDifference:
        """Some of them, by position."""
        pairs = [self.common[at] for at in chosen]
        return paired_difference(
            [one["value"] for one, _ in pairs],
            [other["value"] for _, other in pairs],
            [self.common[at][0]["question_id"] for at in chosen]
            if self.videos is None
            else [self.videos[at] for at in chosen],
            self.seed,
        )

    def interval(self, paired: PairedDifference) -> list[float] | None:
        """The interval of a comparison, where videos are known."""
        return None if self.videos is None or paired.ci95 is None else list(paired.ci95)

    def means(self, chosen: Iterable[int]) -> dict[str, float]:
        """The figure of both sides."""
        pairs = [self.common[at] for at in chosen]
        return {
            side: sum(sorted(pair[at]["value"] for pair in pairs)) / len(pairs)
            for at, side in enumerate(("a", "b"))
        }

    def by_label(self, labels: dict[str, list[int]]) -> dict[str, Row]:
        """Each label's figures.

        `p_holm` is Holm's p-value for as many labels, of the test by video; where the videos are
        not known, of the test that `test` names.
        """
        found = {name: self.part(chosen) for name, chosen in labels.items()}
        adjusted = holm([self._p_value(paired) for paired in found.values()])
        return {
            name: {
                "n": len(labels[name]),
                **self.means(labels[name]),
                "difference": paired.difference,
                "ci95": self.interval(paired),
                "p_value": paired.p_value,
                "p_value_clustered": self.clustered(paired),
                "p_holm": p_holm,
            }
            for (name, paired), p_holm in zip(found.items(), adjusted, strict=True)
        }

    def clustered(self, paired: PairedDifference) -> float | None:
        """The p-value of the test by video, where videos are known."""
        return None if self.videos is None else paired.p_value_clustered

    def _p_value(self, paired: PairedDifference) -> float:
        return paired.p_value if self.videos is None else paired.p_value_clustered

    def figures(self, measure: str, whole: PairedDifference, macro_types: Sequence[str]) -> Figures:
        """The measure and, where the benchmark reports one, the unweighted mean over types."""
        pooled: Row = {
            **self.means(range(len(self.common))),
            "difference": whole.difference,
            "ci95": self.interval(whole),
        }
        unweighted = self._unweighted(macro_types)
        return {measure: pooled} | ({f"{measure}_macro": unweighted} if unweighted else {})

    def _unweighted(self, members: Sequence[str]) -> Row | None:
        """None unless every member has a scored question."""
        types = [_either("type", pair) for pair in self.common]
        chosen = {name: [at for at, own in enumerate(types) if own == name] for name in members}
        if not members or not all(chosen.values()):
            return None
        means = [self.means(places) for places in chosen.values()]
        a, b = (sum(mean[side] for mean in means) / len(means) for side in ("a", "b"))
        gains = [one["value"] - other["value"] for one, other in self.common]
        ends = None
        if self.videos is not None:
            ends = difference_interval(gains, self.videos, self.seed, labels=types, members=members)
        return {"a": a, "b": b, "difference": a - b, "ci95": None if ends is None else list(ends)}


Figures = dict[str, Row]
"""Name of a figure -> a, b, difference, ci95."""


def labels_of(common: Sequence[tuple[Row, Row]]) -> dict[str, list[int]]:
    """Type, or every category where they overlap -> positions, names sorted."""
    found: dict[str, list[int]] = {}
    for at, pair in enumerate(common):
        own = _either("type", pair)
        names = pair[0]["categories"] or pair[1]["categories"] or ([own] if own else [])
        for name in names:
            found.setdefault(name, []).append(at)
    return {name: found[name] for name in sorted(found)}


def groups_of(by_label: dict[str, list[int]], manifest: BenchmarkManifest) -> dict[str, list[int]]:
    """Each group that the benchmark reports pooled -> positions; empty groups are left out."""
    found = {
        name: sorted({at for member in members for at in by_label.get(member, [])})
        for name, members in manifest.groups.items()
    }
    return {name: chosen for name, chosen in found.items() if chosen}


# --- flips ---------------------------------------------------------------------------------------


def find_flips(common: Sequence[tuple[Row, Row]]) -> list[Row]:
    """The questions on which one side is better than the other; columns: `FLIP_COLUMNS`."""
    return [
        {
            "question_id": one["question_id"],
            "video": _either("video", (one, other)),
            "type": _either("type", (one, other)),
            "answer": _either("answer", (one, other)),
            "a": one["prediction"],
            "b": other["prediction"],
            "better": "a" if one["value"] > other["value"] else "b",
        }
        for one, other in common
        if one["value"] != other["value"]
    ]


def write_flips(path: Path, flips: Sequence[Row]) -> None:
    """Write the flips as JSON lines, CSV or Parquet, by the ending of `path`.

    Raises:
        UsageError: Another ending.
    """
    check_flips_path(path)
    atomic.make_directory(path.parent)
    if path.suffix == ".parquet":
        schema = pa.schema([(name, pa.string()) for name in FLIP_COLUMNS])
        write_table(path, pa.Table.from_pylist(list(flips), schema=schema))
    elif path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, FLIP_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flips)
        atomic.write_text(path, text.getvalue())
    else:
        lines = [json.dumps(flip, ensure_ascii=False) + "\n" for flip in flips]
        atomic.write_text(path, "".join(lines))


def check_flips_path(path: Path) -> None:
    """Refuse an ending that `write_flips` does not know, before any work (`UsageError`)."""
    if path.suffix not in (".jsonl", ".csv", ".parquet"):
        raise UsageError(f"--flips {path}", "known endings: .jsonl, .csv, .parquet")


def _notes(a: Side, b: Side, videos_known: bool, paired: PairedDifference) -> list[str]:
    """What a reader has to know about the figures."""
    notes = []
    if a.artifact.id == b.artifact.id:
        notes.append("both are the same artifact")
    if not videos_known:
        notes.append(
            "the questions' videos are not known: no intervals, and the tests take the questions"
            " as independent"
        )
    elif paired.test == "mcnemar-exact" and (paired.p_value <= 0.05 < paired.p_value_clustered):
        notes.append(
            "McNemar's test takes the questions as independent; the test that flips whole videos"
            " finds no difference at 5 %"
        )
    return notes
