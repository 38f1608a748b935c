"""Accuracy of answers and recall of keyframes, under the names of the JSON output.

Reads and writes nothing: `score` takes one `ScoredRow` per question of a split. Multiple choice
compares indices; open-ended answers are compared as text without outer blanks and in lower case.
Definitions: `specs/benchmarks.md` 1, 2 and 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

from stages.benchmarks.manifest import BenchmarkManifest
from stages.benchmarks.questions import Question
from stages.benchmarks.statistics import (
    Status,
    cluster_interval,
    macro,
    percent,
    percent_by,
    percent_in_groups,
)

Spans = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """One question with what a system answered."""

    question_id: str
    video: str
    type: str | None
    answer: int | str | None
    """Index or text; none when unlabelled."""
    prediction: int | str | None
    status: Status
    spans: Spans = ()
    """Where the evidence is, in seconds of the video; empty: not known."""
    kept_times: tuple[float, ...] = ()
    """Times of the frames that were kept, in seconds of the video."""
    candidate_times: tuple[float, ...] = ()
    """Times of the frames they were kept from; empty: not known."""

    @property
    def correct(self) -> bool | None:
        """Whether the prediction is right; none when unlabelled or failed."""
        if self.status != "ok":
            return None
        return is_correct(self.prediction, self.answer)


def is_correct(prediction: int | str | None, answer: int | str | None) -> bool | None:
    """Whether `prediction` is `answer`; none when unlabelled. No prediction is a wrong one."""
    if answer is None:
        return None
    if isinstance(answer, str):
        return isinstance(prediction, str) and _plain(prediction) == _plain(answer)
    return prediction is not None and not isinstance(prediction, str) and prediction == answer


def _plain(text: str) -> str:
    return text.strip().lower()


def row_of(
    question: Question,
    prediction: int | str | None,
    status: Status,
    kept_times: Sequence[float] = (),
    candidate_times: Sequence[float] = (),
) -> ScoredRow:
    """The row of `question`; an answered question without a label is `unlabelled`."""
    return ScoredRow(
        question_id=question.question_id,
        video=question.video,
        type=question.type,
        answer=question.truth,
        prediction=prediction,
        status="unlabelled" if status == "ok" and not question.labelled else status,
        spans=question.spans,
        kept_times=tuple(kept_times),
        candidate_times=tuple(candidate_times),
    )


def score(rows: Sequence[ScoredRow], manifest: BenchmarkManifest, seed: int = 0) -> dict[str, Any]:
    """Metrics of a split in percent, not rounded; `{}` when nothing is labelled.

    `accuracy` is over the answered, labelled questions; `accuracy_all` counts labelled questions
    that failed as wrong. `ci95` needs two videos, `accuracy_macro` every type it is a mean of;
    what cannot be computed is absent. The order of `rows` does not matter.
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
    interval = cluster_interval(
        [100.0 * right for right in correct], [r.video for r in scored], seed
    )
    if interval is not None:
        metrics["ci95"] = list(interval)
    return metrics | keyframe_metrics(rows)


def _typed(
    scored: Sequence[ScoredRow], correct: Sequence[bool], manifest: BenchmarkManifest
) -> dict[str, Any]:
    """`accuracy_macro`, `by_type` and `by_group`, where the benchmark has types and groups."""
    pairs = [(row.type, right) for row, right in zip(scored, correct, strict=True) if row.type]
    types, right_or_not = [name for name, _ in pairs], [right for _, right in pairs]
    by_type = percent_by(types, right_or_not)
    mean = macro(by_type, manifest.macro_types)
    metrics: dict[str, Any] = {} if mean is None else {"accuracy_macro": mean}
    if by_type:
        metrics["by_type"] = by_type
    by_group = percent_in_groups(manifest.groups, types, right_or_not)
    return metrics | ({"by_group": by_group} if by_group else {})


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
