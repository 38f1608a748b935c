"""Accuracy of answers and recall of keyframes, under the names of the JSON output.

Reads and writes nothing: `score` takes one `ScoredRow` per question of a split. Multiple choice
compares indices; open-ended answers are compared as text without outer blanks and in lower case,
so that an answer outside a system's vocabulary is simply one that it never gives. Definitions:
`specs/benchmarks.md` 1, 2, 7, 8, 9 and 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any

from stages.benchmarks.manifest import BenchmarkManifest
from stages.benchmarks.scorers.rows import ScoredRow, is_correct, row_of
from stages.benchmarks.statistics import (
    cluster_interval,
    macro,
    percent,
    percent_by,
    percent_in_groups,
)

__all__ = [
    "ScoredRow",
    "is_correct",
    "keyframe_metrics",
    "num_inside",
    "random_recall",
    "row_of",
    "score",
]

Spans = tuple[tuple[float, float], ...]
INTER_INTRA = ("inter", "intra")


def score(
    rows: Sequence[ScoredRow],
    manifest: BenchmarkManifest,
    seed: int = 0,
    *,
    as_published: bool = False,
) -> dict[str, Any]:
    """Metrics of a split in percent, not rounded; `{}` when nothing is labelled.

    `accuracy` is over the answered, labelled questions; `accuracy_all` counts labelled questions
    that failed as wrong. `by_type` holds a question in each of its `categories` where the benchmark
    has such (AGQA, EgoTaskQA). `ci95` needs two videos and every question's video, `accuracy_macro`
    every type it is a mean of; what cannot be computed is absent. The order of `rows` does not
    matter.

    Args:
        rows: One per question.
        manifest: The benchmark, with its types and groups.
        seed: Of the interval's resamples.
        as_published: Names and numbers of the public scorer where they differ: `agg_metrics` of
            STAR, `inter` and `intra` of EgoMCQ.
    """
    labelled = [row for row in rows if row.answer is not None and row.status != "unlabelled"]
    if not labelled:
        return {}
    scored = [row for row in labelled if row.status == "ok"]
    correct = [bool(row.correct) for row in scored]
    metrics: dict[str, Any] = {}
    if scored:
        metrics["accuracy"] = percent(correct)
    metrics["accuracy_all"] = percent(correct, out_of=len(labelled))
    metrics |= _typed(scored, correct, manifest)
    if manifest.scorer == "inter-intra":
        metrics |= _inter_intra(metrics.get("by_type", {}), as_published)
    if as_published and manifest.macro_types and scored:
        metrics |= _aggregate(metrics, manifest)
    interval = video_interval([100.0 * right for right in correct], scored, seed)
    if interval is not None:
        metrics["ci95"] = list(interval)
    return metrics | keyframe_metrics(rows)


def video_interval(
    values: Sequence[float], rows: Sequence[ScoredRow], seed: int
) -> tuple[float, float] | None:
    """95 % interval of the mean of `values`, clustered by the rows' videos.

    None with fewer than two videos, or where a row does not say its video: an interval that takes
    questions about one video for independent is too narrow.
    """
    videos = [row.video for row in rows if row.video is not None]
    return cluster_interval(values, videos, seed) if len(videos) == len(rows) else None


def _typed(
    scored: Sequence[ScoredRow], correct: Sequence[bool], manifest: BenchmarkManifest
) -> dict[str, Any]:
    """`accuracy_macro`, `by_type` and `by_group`, where the benchmark has types and groups."""
    if manifest.scorer == "categories":
        by_category = _by_category(scored, correct)
        return {"by_type": by_category} if by_category else {}
    pairs = [(row.type, right) for row, right in zip(scored, correct, strict=True) if row.type]
    types, right_or_not = [name for name, _ in pairs], [right for _, right in pairs]
    by_type = percent_by(types, right_or_not)
    mean = macro(by_type, manifest.macro_types)
    metrics: dict[str, Any] = {} if mean is None else {"accuracy_macro": mean}
    if by_type:
        metrics["by_type"] = by_type
    by_group = percent_in_groups(manifest.groups, types, right_or_not)
    return metrics | ({"by_group": by_group} if by_group else {})


def _by_category(scored: Sequence[ScoredRow], correct: Sequence[bool]) -> dict[str, float]:
    """Accuracy per category; a question counts once in each category that it is in."""
    pairs = [
        (name, right)
        for row, right in zip(scored, correct, strict=True)
        for name in dict.fromkeys(row.categories)
    ]
    return percent_by([name for name, _ in pairs], [right for _, right in pairs])


def _inter_intra(by_type: dict[str, float], as_published: bool) -> dict[str, float]:
    """EgoMCQ's two figures by their right names, or by those of EgoVLP and LaViLa.

    Their code names the types that occur, in order of their numbers, `intra` and then `inter`,
    while number 1 is inter-video; a file with one type alone is `intra` (specs/benchmarks.md 10).
    """
    there = [name for name in INTER_INTRA if name in by_type]
    names = reversed(INTER_INTRA) if as_published else there
    return {name: by_type[found] for name, found in zip(names, there, strict=False)}


def _aggregate(metrics: dict[str, Any], manifest: BenchmarkManifest) -> dict[str, float]:
    """SeViLA's `agg_metrics`: the mean of the types, or accuracy as a fraction if one is absent.

    Its code stops at a type without a right answer, so there is none then.
    """
    by_type = metrics.get("by_type", {})
    if any(by_type.get(name) == 0.0 for name in manifest.macro_types):
        return {}
    return {"agg_metrics": metrics.get("accuracy_macro", metrics["accuracy"] / 100)}


def keyframe_metrics(rows: Sequence[ScoredRow]) -> dict[str, float]:
    """Recall, precision and chance recall of kept frames; `{}` where no spans are known.

    keyframe_recall: share of questions with at least one kept frame inside a true span.
    keyframe_precision: share of all kept frames that are inside one.
    keyframe_recall_random: expected recall of as many frames drawn without replacement from the
    candidates (hypergeometric, exact); absent unless every row has its candidates.
    """
    judged = [row for row in rows if row.spans and row.kept_times and row.status != "failed"]
    if not judged:
        return {}
    hits = [num_inside(row.kept_times, row.spans) for row in judged]
    metrics = {
        "keyframe_recall": percent([hit > 0 for hit in hits]),
        "keyframe_precision": 100.0 * sum(hits) / sum(len(row.kept_times) for row in judged),
    }
    if all(len(row.candidate_times) >= len(row.kept_times) for row in judged):
        chances = sorted(_chance(row) for row in judged)
        metrics["keyframe_recall_random"] = 100.0 * sum(chances) / len(chances)
    return metrics


def num_inside(times: Sequence[float], spans: Spans) -> int:
    """How many of `times` lie in one of `spans`, ends included."""
    return sum(any(low <= time <= high for low, high in spans) for time in times)


def _chance(row: ScoredRow) -> float:
    inside = num_inside(row.candidate_times, row.spans)
    return random_recall(inside, len(row.candidate_times), len(row.kept_times))


def random_recall(num_inside: int, num_candidates: int, num_kept: int) -> float:
    """Chance, 0 to 1, that `num_kept` of `num_candidates` frames include one of `num_inside`."""
    outside = comb(num_candidates - num_inside, num_kept)
    return 1.0 - outside / comb(num_candidates, num_kept)
