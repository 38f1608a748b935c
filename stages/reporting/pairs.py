"""Systems beside each other on all questions: who flipped what, and where kept frames lie.

Reads: rows of predictions.   Writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.benchmarks.questions import Question
from stages.report_page.model import Flips, Histogram, System
from stages.reporting.evaluations import Evaluation

BINS = 20
EVERY_PAIR = 6
"""Up to so many systems are compared each with each, more with the best one only: the best that
saw the videos and chose its frames without the answer."""
TRUE_SPANS = "true spans"
Bounds = tuple[float, float]


def flips_of(
    systems: Sequence[System], evaluations: Sequence[Evaluation], questions: Sequence[Question]
) -> list[Flips]:
    """How often each pair was right and wrong together and apart; without a common question none.

    A question counts where both sides answered and were judged.
    """
    verdicts = [_verdicts(item, questions) for item in evaluations]
    found = (_flips(verdicts, one, other) for one, other in pairs_of(systems))
    return [flips for flips in found if flips is not None]


def pairs_of(systems: Sequence[System]) -> list[tuple[int, int]]:
    """Places of the systems that are compared."""
    places = range(len(systems))
    if len(systems) <= EVERY_PAIR:
        return [(one, other) for one in places for other in places if one < other]
    best = max(places, key=lambda at: (_honest(systems[at]), _figure(systems[at]), -at))
    return [(best, other) for other in places if other != best]


def _honest(system: System) -> bool:
    """Whether it saw the videos, and no true span."""
    return system.blind is None and system.select != "oracle"


def _figure(system: System) -> float:
    return -np.inf if system.value is None else system.value


def _verdicts(evaluation: Evaluation, questions: Sequence[Question]) -> NDArray[np.int8]:
    """Per question 1 right, 0 wrong, -1 not judged."""
    rows = [evaluation.rows.get(question.question_id) for question in questions]
    return np.array(
        [
            -1 if row is None or row["status"] != "ok" or row["correct"] is None
            else int(row["correct"])
            for row in rows
        ],
        dtype=np.int8,
    )  # fmt: skip


def _flips(verdicts: Sequence[NDArray[np.int8]], first: int, second: int) -> Flips | None:
    one, other = verdicts[first], verdicts[second]
    judged = (one >= 0) & (other >= 0)
    if not judged.any():
        return None
    one, other = one[judged] == 1, other[judged] == 1
    return Flips(
        first=first,
        second=second,
        both_right=int((one & other).sum()),
        only_first=int((one & ~other).sum()),
        only_second=int((~one & other).sum()),
        both_wrong=int((~one & ~other).sum()),
    )


# --- where kept frames lie -----------------------------------------------------------------------


def histograms_of(
    evaluations: Sequence[Evaluation],
    questions: Sequence[Question],
    videos: Mapping[str, Mapping[str, Any]],
) -> list[Histogram]:
    """Shares of kept frames over `BINS` equal parts of their clips, and of the true spans.

    Only of systems that chose some of the frames that they saw, with the videos.
    """
    bounds = {
        question.question_id: ends
        for question in questions
        if len(question.videos) == 1 and (ends := _bounds(question, videos)) is not None
    }
    found = [
        _histogram(item.name, _kept_counts(item, bounds))
        for item in evaluations
        if not item.blind and item.keep < item.frames
    ]
    spans = _histogram(TRUE_SPANS, _span_counts(questions, bounds))
    return [item for item in [*found, spans] if item is not None]


def _bounds(question: Question, videos: Mapping[str, Mapping[str, Any]]) -> Bounds | None:
    """First and last second of the question's clip, as far as the video reaches."""
    duration = (videos.get(question.video) or {}).get("duration")
    start = question.start or 0.0
    ends = [end for end in (question.end, duration) if end is not None]
    return (start, min(ends)) if ends and min(ends) > start else None


def _histogram(name: str, counts: NDArray[np.float64]) -> Histogram | None:
    total = counts.sum()
    if total <= 0:
        return None
    return Histogram(name, tuple(round(float(share), 5) for share in counts / total))


def _kept_counts(evaluation: Evaluation, bounds: Mapping[str, Bounds]) -> NDArray[np.float64]:
    """Kept frames in each bin."""
    shares: list[float] = []
    for name, row in evaluation.rows.items():
        if name in bounds and row.get("windows") is None:
            start, end = bounds[name]
            shares += [(seconds - start) / (end - start) for seconds in row["times"]]
    inside = np.clip(np.array(shares, dtype=np.float64), 0.0, np.nextafter(1.0, 0.0))
    return np.bincount((inside * BINS).astype(np.int64), minlength=BINS).astype(np.float64)


def _span_counts(
    questions: Sequence[Question], bounds: Mapping[str, Bounds]
) -> NDArray[np.float64]:
    """How much of each bin the true spans cover, each question's spans counting as one."""
    counts = np.zeros(BINS)
    edges = np.linspace(0.0, 1.0, BINS + 1)
    for question in questions:
        if question.question_id not in bounds or not question.spans:
            continue
        start, end = bounds[question.question_id]
        covered = np.zeros(BINS)
        for low, high in question.spans:
            low, high = (low - start) / (end - start), (high - start) / (end - start)
            covered += np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None)
        if covered.sum() > 0:
            counts += covered / covered.sum()
    return counts
