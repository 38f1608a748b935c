"""One door to every official metric, for predictions made here and for files made by anyone.

Reads and writes nothing: `judge` takes the rows of a split and the benchmark, whose `scorer` says
which metrics they are measured by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stages.benchmarks.manifest import BenchmarkManifest
from stages.benchmarks.scorers.accuracy import keyframe_metrics, score, video_interval
from stages.benchmarks.scorers.moments import Moments, MomentTruth, score_moments
from stages.benchmarks.scorers.retrieval import (
    Place,
    Places,
    found_within,
    retrieval_metrics,
)
from stages.benchmarks.scorers.rows import ScoredRow
from stages.benchmarks.scorers.rules import Rules

DEFAULT = Rules()


@dataclass(frozen=True, slots=True)
class Judged:
    """Figures of a split, and each question's share of the one that has the interval."""

    metrics: dict[str, Any]
    """In percent, not rounded; `{}` when nothing is labelled."""
    values: list[float | None]
    """Per row, in percent; none unless it was scored."""
    ci95_of: str | None
    """The figure that `ci95` is of and that `values` average to; none without one."""
    notes: list[str] = field(default_factory=list)


def judge(
    rows: Sequence[ScoredRow],
    manifest: BenchmarkManifest,
    *,
    rules: Rules = DEFAULT,
    seed: int = 0,
    videos: Places | None = None,
) -> Judged:
    """Metrics of `rows` as the benchmark measures them.

    Rows with status `ok` hold the right kind of prediction: an index or a text, `Moments`, or the
    `Place` of a text's video.

    Args:
        rows: One per question, in any order.
        manifest: The benchmark.
        rules: What to do where the public scorer differs from ours.
        seed: Of the interval's resamples.
        videos: For retrieval, where each video's captions lie; none: not known.
    """
    if manifest.scorer == "moments":
        return _judge_moments(rows, rules, seed)
    if manifest.scorer == "retrieval":
        return _judge_retrieval(rows, rules, seed, videos)
    metrics = score(rows, manifest, seed, as_published=rules.as_published)
    values = [None if row.correct is None else 100.0 * row.correct for row in rows]
    notes = _answer_notes(metrics, rows, manifest, rules)
    return Judged(metrics, values, "accuracy" if "accuracy" in metrics else None, notes)


def _answer_notes(
    metrics: dict[str, Any],
    rows: Sequence[ScoredRow],
    manifest: BenchmarkManifest,
    rules: Rules,
) -> list[str]:
    """What is absent from the figures of answers, and why."""
    notes = []
    scored = [row for row in rows if row.correct is not None]
    if any(row.video is None for row in scored):
        notes.append("no interval: the questions' videos are not known")
    missing = [name for name in manifest.macro_types if name not in metrics.get("by_type", {})]
    if scored and missing:
        notes.append(f"no accuracy_macro: not one question of type {', '.join(missing)} is scored")
    if rules.as_published and manifest.macro_types and scored and "agg_metrics" not in metrics:
        notes.append("no agg_metrics: the public scorer stops at a type without a right answer")
    return notes


def _judge_moments(rows: Sequence[ScoredRow], rules: Rules, seed: int) -> Judged:
    scored = [
        (index, row, row.prediction)
        for index, row in enumerate(rows)
        if row.status == "ok" and isinstance(row.prediction, Moments)
    ]
    values: list[float | None] = [None] * len(rows)
    if not scored:
        return Judged({}, values, None)
    scored.sort(key=_by_id)
    result = score_moments(
        [MomentTruth(row.spans, row.duration, row.saliency) for _, row, _ in scored],
        [prediction for _, _, prediction in scored],
        as_published=rules.as_published,
    )
    headline = "R1@0.5" if "R1@0.5" in result.metrics else "mAP"
    shares = result.r1 if headline == "R1@0.5" else result.ap
    kept = [place for place, item in enumerate(scored) if headline != "mAP" or item[2].windows]
    for place in kept:
        values[scored[place][0]] = float(shares[place])
    interval = video_interval(shares[kept].tolist(), [scored[place][1] for place in kept], seed)
    metrics = _with_interval(result.metrics, interval)
    named = headline if headline in metrics else None
    return Judged(metrics | keyframe_metrics(rows), values, named, result.notes)


def _judge_retrieval(
    rows: Sequence[ScoredRow], rules: Rules, seed: int, videos: Places | None
) -> Judged:
    scored = [
        (index, row, row.prediction)
        for index, row in enumerate(rows)
        if row.status == "ok" and isinstance(row.prediction, Place)
    ]
    values: list[float | None] = [None] * len(rows)
    if not scored:
        return Judged({}, values, None)
    scored.sort(key=_by_id)
    places = Places.of([place for _, _, place in scored])
    metrics = retrieval_metrics(places, rules.ties)
    interval = None
    if rules.ties != "every":  # where a query has no share of its own
        shares = 100.0 * found_within(places, 1, rules.ties)
        interval = video_interval(shares.tolist(), [row for _, row, _ in scored], seed)
        for share, (index, _, _) in zip(shares, scored, strict=True):
            values[index] = float(share)
    metrics = _with_interval(metrics, interval)
    notes = _tie_notes(places)
    if videos is not None and len(videos):
        metrics["video_to_text"] = retrieval_metrics(videos, rules.ties)
    return Judged(metrics, values, "R@1" if rules.ties != "every" else None, notes)


def _by_id(item: tuple[int, ScoredRow, object]) -> str:
    """Sorted by it, the order of the rows cannot change a bit of a mean."""
    return item[1].question_id


def _tie_notes(places: Places) -> list[str]:
    tied = int(np.count_nonzero(places.tied > 1))
    if not tied:
        return []
    return [f"{tied} of {len(places)} texts score another video exactly like the right one"]


def _with_interval(metrics: dict[str, Any], interval: tuple[float, float] | None) -> dict[str, Any]:
    return metrics if interval is None else metrics | {"ci95": list(interval)}
