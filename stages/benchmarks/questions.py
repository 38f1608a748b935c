"""A question, as every stage sees it, whatever file it came from.

Reads and writes nothing. A `Question` validates itself when made, so a stage that holds one need
not look again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from stages.core.errors import DataError


def refuse(field: str, reason: str) -> DataError:
    """The error of one wrong field; readers take `field` back from the message's first word."""
    return DataError(f"{field}: {reason}")


@dataclass(frozen=True, slots=True)
class Question:
    """One question about one video (or, for later benchmarks, several candidate videos).

    Raises:
        DataError: at construction; the message is `field: reason`.
    """

    question_id: str
    videos: tuple[str, ...]
    """Paths below a video folder as the benchmark names them, often without extension."""
    question: str
    """The text; empty where a benchmark asks none (a reader decides whether it may be)."""
    options: tuple[str, ...]
    """Texts of the options; empty for open-ended questions."""
    answer: int | None
    """Index of the right option, from 0; none: unlabelled or open-ended."""
    answer_text: str | None
    """The true answer of an open-ended question."""
    start: float | None
    """Start of the clip in seconds; none: the beginning."""
    end: float | None
    """End of the clip in seconds; none: the end of the video."""
    type: str | None
    spans: tuple[tuple[float, float], ...]
    """Where the evidence is, in seconds of the whole video; empty: not known."""
    split: str
    source_row: int
    """Number of the record in the annotation file, the first one (header not counted) is 1."""
    clips: tuple[tuple[float, float], ...] = ()
    """[start, end] in seconds within each of several candidate `videos`; empty: `start`, `end`."""
    categories: tuple[str, ...] = ()
    """Every category that a benchmark with overlapping ones counts the question in."""
    duration: float | None = None
    """Length of the clip in seconds as the annotations state it (moment retrieval)."""
    saliency: tuple[tuple[int, ...], ...] = ()
    """Ratings [clip][rater] of each 2 s clip from the beginning (highlight detection)."""

    def __post_init__(self) -> None:
        _check_text(self)
        _check_answer(self)
        _check_times(self)

    @property
    def video(self) -> str:
        """The first video; the only one except where several are compared."""
        return self.videos[0]

    @property
    def open_ended(self) -> bool:
        """Whether there are no options to choose from."""
        return not self.options

    @property
    def labelled(self) -> bool:
        """Whether the right answer is known."""
        return self.answer is not None or self.answer_text is not None

    @property
    def truth(self) -> int | str | None:
        """The right answer in the form predictions have: an index, or text when open-ended."""
        return self.answer if self.options else self.answer_text

    @property
    def target_text(self) -> str | None:
        """The right answer's words; none when unlabelled."""
        return self.options[self.answer] if self.answer is not None else self.answer_text


def _check_text(question: Question) -> None:
    named = [("question_id", question.question_id)]
    named += [("video", video) for video in question.videos]
    named += [(f"options[{index}]", text) for index, text in enumerate(question.options)]
    if not question.videos:
        raise refuse("video", "missing")
    _check_encodable("question", question.question)
    for field, text in named:
        if not text.strip():
            raise refuse(field, "empty")
        _check_encodable(field, text)
    for field, optional in (("answer", question.answer_text), ("type", question.type)):
        if optional is not None:
            _check_encodable(field, optional)


def _check_encodable(field: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise refuse(field, "not valid UTF-8 text") from None


def _check_answer(question: Question) -> None:
    if question.options and question.answer_text is not None:
        raise refuse("answer", "an index is expected where there are options, not a text")
    if question.answer is None:
        return
    if not question.options:
        raise refuse("answer", "an index is given, but there are no options")
    if not 0 <= question.answer < len(question.options):
        last = len(question.options) - 1
        raise refuse("answer", f"{question.answer} is not an index from 0 to {last}")


def _check_times(question: Question) -> None:
    for field, seconds in (("start", question.start), ("end", question.end)):
        if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
            raise refuse(field, f"{seconds} is not a time in seconds")
    # Equal times occur in published files; a clip of one moment still has one frame.
    if question.start is not None and question.end is not None and question.start > question.end:
        raise refuse("end", f"{question.end} is before the start {question.start}")
    for low, high in question.spans:
        if not (math.isfinite(low) and math.isfinite(high) and 0 <= low <= high):
            raise refuse("spans", f"[{low}, {high}] is not a span in seconds")
    if question.clips and len(question.clips) != len(question.videos):
        raise refuse("clips", f"{len(question.clips)} for {len(question.videos)} videos")
    for low, high in question.clips:
        if not (math.isfinite(low) and math.isfinite(high) and 0 <= low <= high):
            raise refuse("clips", f"[{low}, {high}] is not a span in seconds")
    if question.duration is not None and not (0 < question.duration < math.inf):
        raise refuse("duration", f"{question.duration} is not a length in seconds")
