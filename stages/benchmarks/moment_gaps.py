"""Judging spans made of scored frames: the gap that fits a split best, and the frames themselves.

Reads and writes nothing. What joins frames to spans is in `moment_spans`, what spans are worth in
`scorers.moments`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from stages.benchmarks.moment_spans import ScoredFrames, SpanRule, predicted_moments
from stages.benchmarks.questions import Question
from stages.benchmarks.scorers.moments import Moments, MomentTruth, score_moments
from stages.benchmarks.scorers.rows import ScoredRow, row_of
from stages.benchmarks.sevila_prompts import moment_labels
from stages.benchmarks.statistics import Status
from stages.core.config import Config
from stages.core.errors import DataError

TUNE_FIGURES = ("R1@0.5", "R1@0.7", "mAP")
Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class GapTuning(Config):
    """How the gap is chosen on a split whose moments are known."""

    gaps: tuple[Seconds, ...] = Field(default=(0, 2, 4, 6, 8, 10, 12, 16, 20, 30), min_length=1)
    """Seconds that are tried."""
    by: Literal["R1@0.5", "R1@0.7", "mAP"] = "mAP"
    """The figure that decides; of equals the smallest gap."""


@dataclass(frozen=True)
class ChosenGap:
    """The gap that spans were made with, and how it came about.

    Attributes:
        seconds: The gap.
        source: `given`, `default`, `tuned`, or the id of the evaluation that it was tuned in.
        tried: With `tuned`, one row of figures for every gap that was tried.
    """

    seconds: float
    source: str
    tried: tuple[dict[str, float], ...] = ()

    def as_json(self, split: str) -> dict[str, Any]:
        """For the JSON and the artifact."""
        facts: dict[str, Any] = {"gap": self.seconds}
        return facts | ({"tuned_on": split, "gaps": list(self.tried)} if self.tried else {})


@dataclass(frozen=True)
class ScoredQuestion:
    """A question with the scores of its frames.

    Attributes:
        question: The question.
        frames: Its frames; none if it failed.
        reason: Why it failed.
    """

    question: Question
    frames: ScoredFrames | None
    reason: str = ""

    @classmethod
    def of(cls, question: Question, record: Mapping[str, Any]) -> ScoredQuestion:
        """From a row of predictions."""
        if record["status"] == "failed":
            return cls(question, None, record["reason"])
        frames = ScoredFrames(
            tuple(record["times"]),
            tuple(record["frame_scores"]),
            tuple(record["frame_margins"]),
            _seconds(question),
            question.start or 0.0,
        )
        return cls(question, frames)

    def moments(self, rule: SpanRule) -> Moments | None:
        """What is predicted; none if it failed."""
        return None if self.frames is None else predicted_moments(self.frames, rule)

    def row(self, moments: Moments | None) -> ScoredRow:
        """What the scorers take."""
        status: Status = "failed" if moments is None else "ok"
        return row_of(self.question, moments, status, scorer="moments", reason=self.reason)


def _seconds(question: Question) -> float | None:
    """Length of the clip by the annotations."""
    if question.duration is not None:
        return question.duration
    return None if question.end is None else question.end - (question.start or 0.0)


def tune_gap(scored: Sequence[ScoredQuestion], rule: SpanRule, tuning: GapTuning) -> ChosenGap:
    """The best gap of those tried, with the figures of all.

    Raises:
        DataError: Not one question with a known moment has scores.
    """
    known = [item for item in scored if item.frames is not None and item.question.spans]
    if not known:
        raise DataError("the gap cannot be tuned: no question with a known moment has scores")
    truths = [
        MomentTruth(item.question.spans, item.question.duration, item.question.saliency)
        for item in known
    ]
    tried = []
    for gap in sorted(set(tuning.gaps)):
        with_gap = rule.model_copy(update={"gap": gap})
        said = [item.moments(with_gap) or Moments(()) for item in known]
        figures = score_moments(truths, said).metrics
        tried.append({"gap": gap, **{name: figures[name] for name in TUNE_FIGURES}})
    best = max(tried, key=lambda row: (row[tuning.by], -row["gap"]))
    return ChosenGap(best["gap"], "tuned", tuple(tried))


def frame_metrics(scored: Sequence[ScoredQuestion], rule: SpanRule) -> dict[str, float]:
    """How often frames are told right, in percent; `{}` where no moments are known.

    frame_accuracy: share of frames that are positive exactly when their time lies in a true span,
    ends included (specs/sevila.md 4.3); a frame counts once for every question about it.
    frame_accuracy_constant: the same for always saying what is more common.
    frame_precision, frame_recall: of the positive frames.
    """
    said: list[bool] = []
    true: list[bool] = []
    for item in scored:
        if item.frames is not None and item.question.spans:
            said += item.frames.positive(rule)
            true += moment_labels(item.frames.times, item.question.spans)
    if not true:
        return {}
    both = sum(one and other for one, other in zip(said, true, strict=True))
    right = sum(one == other for one, other in zip(said, true, strict=True))
    share = sum(true) / len(true)
    metrics = {
        "frame_accuracy": 100.0 * right / len(true),
        "frame_accuracy_constant": 100.0 * max(share, 1 - share),
    }
    if any(said):
        metrics["frame_precision"] = 100.0 * both / sum(said)
    if any(true):
        metrics["frame_recall"] = 100.0 * both / sum(true)
    return metrics
