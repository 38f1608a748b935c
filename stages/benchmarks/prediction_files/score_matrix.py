"""A retrieval score matrix and the texts that its rows are about.

Reads and writes nothing. Rows are the texts in the annotations' order, columns their videos in the
order in which they first occur. Without annotations, texts are taken to be ordered by video, the
same number for each: row i belongs to column i // captions. Our own rankings name both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.benchmarks.prediction_files.asked import Asked
from stages.benchmarks.prediction_files.given import Given
from stages.benchmarks.prediction_files.values import NOTHING, numbers
from stages.benchmarks.scorers.retrieval import (
    Place,
    Places,
    best_caption_scores,
    places_of_texts,
    places_of_videos,
)
from stages.benchmarks.scorers.rows import ScoredRow
from stages.benchmarks.scorers.rules import Rules
from stages.core.errors import DataError


def join_matrix(
    asked: Sequence[Asked], scores: NDArray[np.float64], path: Path, rules: Rules
) -> tuple[list[ScoredRow], Places | None, list[str]]:
    """A row for each text, where the videos' captions lie, and what was assumed.

    A score that is not finite costs its text, and for video-to-text its video.

    Raises:
        DataError: The matrix has other numbers of rows and columns than texts and videos.
    """
    if asked:
        ids, names = [item.question_id for item in asked], [item.video or "" for item in asked]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        videos = np.array([numbers[name] for name in names], np.int64)
        _check_shape(scores, len(ids), len(numbers), path)
        note = "matrix: rows are the texts in the annotations' order, columns their videos"
    else:
        captions = _captions_per_video(scores, path)
        videos = np.arange(len(scores), dtype=np.int64) // captions
        ids, names = [str(row) for row in range(len(scores))], [f"column {v}" for v in videos]
        note = f"matrix without annotations: row i belongs to column i // {captions}"
    places = places_of_texts(scores, videos)
    sound: NDArray[np.bool_] = np.isfinite(scores)
    columns: NDArray[np.bool_] = np.logical_and.reduce(sound, axis=0)
    rows = [
        _row(name, video, places, index, bool(sound[index].all()))
        for index, (name, video) in enumerate(zip(ids, names, strict=True))
    ]
    return rows, _video_places(scores, videos, columns, rules), [note]


def join_ranking(
    asked: Sequence[Asked], given: Mapping[str, Given], names: Sequence[str], rules: Rules
) -> tuple[list[ScoredRow], Places | None]:
    """A row for each text, and where the captions of each text's video lie.

    A text without scores, or whose video is not among those ranked, is a failed row. A video
    without a text is a candidate for every text, and not itself a query.

    Args:
        asked: The texts.
        given: The scores of each text, by its id, and the name of its clip.
        names: What the scores are about, `VIDEO` or `VIDEO@START-END`.
        rules: What equal scores count as.
    """
    columns = {name: number for number, name in enumerate(names)}
    read = [_scores_of(item, given.get(item.question_id), columns) for item in asked]
    ranked = [(scores, column) for scores, column, reason in read if not reason]
    matrix = np.array([scores for scores, _ in ranked], np.float64).reshape(len(ranked), -1)
    own = np.array([column for _, column in ranked], np.int64)
    places = places_of_texts(matrix, own)
    found = iter(range(len(ranked)))
    rows = [
        _ranked(item, None if reason else places[next(found)], reason)
        for item, (_, _, reason) in zip(asked, read, strict=True)
    ]
    if not ranked:
        return rows, None
    queries, videos = np.unique(own, return_inverse=True)
    sound = np.ones(len(queries), dtype=np.bool_)
    return rows, _video_places(matrix[:, queries], videos.astype(np.int64), sound, rules)


def _scores_of(
    asked: Asked, given: Given | None, columns: Mapping[str, int]
) -> tuple[Sequence[float], int, str]:
    """Scores of one text and the column of its video, or why there are none."""
    if given is None:
        return (), -1, NOTHING
    scores, reason = numbers(given.value)
    if scores is None:
        return (), -1, given.reason or reason
    if len(scores) != len(columns):
        return (), -1, f"{len(scores)} scores for {len(columns)} videos"
    column = columns.get(_own_name(asked.video, given.video))
    return (scores, column, "") if column is not None else ((), -1, "its video is not ranked")


def _own_name(video: str | None, said: str | None) -> str:
    """The right clip: what the file says, if it is of the video that the annotations say."""
    if said is not None and (video is None or said == video or said.startswith(f"{video}@")):
        return said
    return video or ""


def _ranked(asked: Asked, place: Place | None, reason: str) -> ScoredRow:
    return ScoredRow(
        question_id=asked.question_id,
        video=asked.video,
        type=asked.type,
        answer=None,
        prediction=place,
        status="ok" if place is not None else "failed",
        reason=reason,
    )


def _row(name: str, video: str, places: Places, index: int, sound: bool) -> ScoredRow:
    return ScoredRow(
        question_id=name,
        video=video,
        type=None,
        answer=None,
        prediction=places[index] if sound else None,
        status="ok" if sound else "failed",
        reason="" if sound else "a score is NaN or infinite",
    )


def _check_shape(scores: NDArray[np.float64], texts: int, videos: int, path: Path) -> None:
    if scores.shape == (texts, videos):
        return
    turned = scores.shape == (videos, texts)
    raise DataError(
        f"{path} is a matrix of {scores.shape[0]} x {scores.shape[1]}, "
        f"and the split has {texts} texts of {videos} videos",
        "rows are texts and columns videos; turn it" if turned else "is it of this split?",
    )


def _captions_per_video(scores: NDArray[np.float64], path: Path) -> int:
    captions, rest = divmod(scores.shape[0], scores.shape[1])
    if rest or not captions:
        raise DataError(
            f"{path}: {scores.shape[0]} texts are no multiple of {scores.shape[1]} videos",
            "give --annotations, which say which video each text is of",
        )
    return captions


def _video_places(
    scores: NDArray[np.float64], videos: NDArray[np.int64], sound: NDArray[np.bool_], rules: Rules
) -> Places | None:
    """Video to text, without videos that have a score which is not finite."""
    if not sound.any():
        return None
    if rules.ties == "every":  # CLIP4Clip compares videos by their best captions
        best = best_caption_scores(scores, videos)
        kept = np.flatnonzero(sound)
        return places_of_texts(best[np.ix_(kept, kept)], np.arange(len(kept)))
    kept_texts = sound[videos]
    numbers = np.cumsum(sound) - 1
    return places_of_videos(scores[np.ix_(kept_texts, sound)], numbers[videos[kept_texts]])
