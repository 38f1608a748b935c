"""What is left of an accuracy without the video, type by type.

Reads and writes nothing. A large drop says that a system looks; what remains it answers from the
question alone (arXiv 2404.00973, Tables 3, 11 and 12). Both runs are compared question by question,
so the intervals are those of a paired difference, clustered by video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.benchmarks.manifest import BenchmarkManifest
from stages.benchmarks.questions import Question
from stages.benchmarks.scorers.rows import video_of
from stages.benchmarks.statistics import difference_interval


@dataclass(frozen=True, slots=True)
class Drop:
    """Accuracy with and without the video, over the questions that both runs answered.

    Attributes:
        questions: How many those are.
        seeing, blind: Accuracies in percent.
        ci95: Of the drop in percentage points; none with fewer than two videos.
    """

    questions: int
    seeing: float
    blind: float
    ci95: tuple[float, float] | None

    @property
    def points(self) -> float:
        """What the video is worth, in percentage points."""
        return self.seeing - self.blind

    @property
    def change(self) -> float | None:
        """The same relative to the accuracy with the video, in percent and below 0 for a loss, as
        the paper prints it; none where nothing was right with the video."""
        return -100.0 * self.points / self.seeing if self.seeing else None

    def as_json(self) -> dict[str, Any]:
        """For the JSON of an evaluation."""
        return {
            "questions": self.questions,
            "seeing": self.seeing,
            "blind": self.blind,
            "drop": self.points,
            "change": self.change,
            "ci95": None if self.ci95 is None else list(self.ci95),
        }


def language_drop(
    questions: Sequence[Question],
    seeing: Sequence[bool | None],
    blind: Sequence[bool | None],
    manifest: BenchmarkManifest,
    seed: int = 0,
) -> tuple[Drop | None, dict[str, Drop]]:
    """The drop over all questions and by type; None where no question was answered by both.

    Args:
        questions: Of the split.
        seeing: Whether each was answered rightly with the video; None: not answered, no label.
        blind: The same without it.
        manifest: The benchmark; where its questions have several categories, each counts.
        seed: Of the intervals' resamples.
    """
    both = [
        (question, bool(first), bool(second))
        for question, first, second in zip(questions, seeing, blind, strict=True)
        if first is not None and second is not None
    ]
    if not both:
        return None, {}
    by_label: dict[str, list[tuple[Question, bool, bool]]] = {}
    for item in both:
        for label in _labels(item[0], manifest):
            by_label.setdefault(label, []).append(item)
    parts = {label: _drop(by_label[label], seed) for label in sorted(by_label)}
    return _drop(both, seed), parts


def _labels(question: Question, manifest: BenchmarkManifest) -> list[str]:
    if manifest.scorer == "categories":
        return list(dict.fromkeys(question.categories))
    return [question.type] if question.type else []


def _drop(rows: Sequence[tuple[Question, bool, bool]], seed: int) -> Drop:
    first = 100.0 * np.array([row[1] for row in rows], np.float64)
    second = 100.0 * np.array([row[2] for row in rows], np.float64)
    videos = [video_of(row[0]) for row in rows]
    interval = difference_interval(first - second, videos, seed)
    return Drop(len(rows), float(first.mean()), float(second.mean()), interval)
