"""Moments and highlights of a text query: QVHighlights (`specs/benchmarks.md` 6)."""

from __future__ import annotations

from typing import Any

from stages.benchmarks.annotation_files import Record
from stages.benchmarks.layouts import cells
from stages.benchmarks.layouts.layout import Layout, RawQuestion
from stages.benchmarks.questions import refuse

CLIP_SECONDS = 2.0
"""Ratings are given for clips of this length."""


def _parse_qvhighlights(record: Record) -> RawQuestion:
    """`{qid, query, duration, vid, relevant_windows, relevant_clip_ids, saliency_scores}`."""
    duration = cells.seconds(record, "duration")
    if duration is None:
        raise refuse("duration", "missing")
    return RawQuestion(
        qid=cells.name(record, "qid"),
        video=cells.name(record, "vid"),
        question=cells.text(record, "query"),
        spans=cells.spans(record.get("relevant_windows"), "relevant_windows"),
        duration=duration,
        saliency=_saliency(record, duration),
    )


def _saliency(record: Record, duration: float) -> tuple[tuple[int, ...], ...]:
    """Ratings of every 2 s clip; a clip that the file does not list was rated 0 by all."""
    clips, scores = record.get("relevant_clip_ids"), record.get("saliency_scores")
    if clips is None and scores is None:
        return ()
    if not isinstance(clips, list) or not isinstance(scores, list) or len(clips) != len(scores):
        raise refuse("saliency_scores", "not one entry for each of relevant_clip_ids")
    if not clips:
        return ()
    raters = {len(ratings) if isinstance(ratings, list) else 0 for ratings in scores}
    if len(raters) != 1 or 0 in raters:
        raise refuse("saliency_scores", "the clips have different numbers of ratings")
    dense = [(0,) * raters.pop()] * int(duration / CLIP_SECONDS)
    for clip, ratings in zip(clips, scores, strict=True):
        if not _whole(clip) or not 0 <= clip < len(dense):
            raise refuse("relevant_clip_ids", f"{cells.shown(clip)} is not a clip of the video")
        if not all(_whole(rating) and 0 <= rating <= 4 for rating in ratings):
            raise refuse("saliency_scores", f"{cells.shown(ratings)} are not ratings of 0 to 4")
        dense[clip] = tuple(ratings)
    return tuple(dense)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


LAYOUTS: dict[str, Layout] = {
    "qvhighlights-jsonl": Layout(
        "jsonl",
        frozenset({"qid", "query", "duration", "vid"}),
        frozenset({"question", "pred_relevant_windows"}),
        _parse_qvhighlights,
    ),
}
