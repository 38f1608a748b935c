"""What every scorer takes: one row a question, with what a system said about it.

Reads and writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages.benchmarks.manifest import Scorer
from stages.benchmarks.questions import Question
from stages.benchmarks.scorers.moments import Moments
from stages.benchmarks.scorers.retrieval import Place
from stages.benchmarks.statistics import Status

Predicted = int | str | Moments | Place | None
"""An option's index, a text, windows, a rank, or nothing."""


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """One question with what a system answered."""

    question_id: str
    video: str | None
    """What intervals are clustered by; none: not known."""
    type: str | None
    answer: int | str | None
    """Index or text; none when unlabelled, and where the answer is a span or a video."""
    prediction: Predicted
    status: Status
    spans: tuple[tuple[float, float], ...] = ()
    """Where the evidence is, in seconds of the video; empty: not known."""
    kept_times: tuple[float, ...] = ()
    """Times of the frames that were kept, in seconds of the video."""
    candidate_times: tuple[float, ...] = ()
    """Times of the frames they were kept from; empty: not known."""
    categories: tuple[str, ...] = ()
    """Every category that the question counts in, where categories overlap."""
    duration: float | None = None
    """Length of the clip in seconds, for moment retrieval."""
    saliency: tuple[tuple[int, ...], ...] = ()
    """Ratings [clip][rater], for highlight detection."""
    reason: str = ""
    """Why the question failed."""

    @property
    def correct(self) -> bool | None:
        """Whether the prediction is right; none when unlabelled or failed."""
        if self.status != "ok":
            return None
        return is_correct(self.prediction, self.answer)


def is_correct(prediction: Predicted, answer: int | str | None) -> bool | None:
    """Whether `prediction` is `answer`; none when unlabelled. No prediction is a wrong one."""
    if answer is None:
        return None
    if isinstance(answer, str):
        return isinstance(prediction, str) and _plain(prediction) == _plain(answer)
    return prediction is not None and not isinstance(prediction, str) and prediction == answer


def _plain(text: str) -> str:
    return text.strip().lower()


def has_truth(question: Question, scorer: Scorer) -> bool:
    """Whether the question can be scored: an answer, for moments a span; a text has its video."""
    if scorer == "moments":
        return bool(question.spans)
    return scorer == "retrieval" or question.labelled


def truth_of(question: Question) -> int | str | None:
    """The right answer: an index (of an option, or of a candidate video) or a text."""
    return question.answer_text if question.answer is None else question.answer


def video_of(question: Question) -> str:
    """The video that a question is about; of several candidates the right one, if it is known."""
    if len(question.videos) > 1 and question.answer is not None:
        return question.videos[question.answer]
    return question.video


def row_of(
    question: Question,
    prediction: Predicted,
    status: Status,
    kept_times: Sequence[float] = (),
    candidate_times: Sequence[float] = (),
    *,
    scorer: Scorer = "accuracy",
    reason: str = "",
) -> ScoredRow:
    """The row of `question`; an answered question without a label is `unlabelled`."""
    known = has_truth(question, scorer)
    return ScoredRow(
        question_id=question.question_id,
        video=video_of(question),
        type=question.type,
        answer=truth_of(question),
        prediction=prediction,
        status="unlabelled" if status == "ok" and not known else status,
        spans=question.spans,
        kept_times=tuple(kept_times),
        candidate_times=tuple(candidate_times),
        categories=question.categories,
        duration=question.duration,
        saliency=question.saliency,
        reason=reason,
    )
