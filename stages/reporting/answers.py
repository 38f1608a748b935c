"""What every system said about each shown question.

Reads: rows of predictions, times of the frames seen.   Writes nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from stages.artifacts.atomic import sha256_json
from stages.artifacts.clips import ClipKey, ClipSpan
from stages.benchmarks.batches import clip_keys
from stages.benchmarks.questions import Question
from stages.core.probabilities import softmax
from stages.report_page.model import Answer, Point, Shown
from stages.reporting.evaluations import Evaluation, Row, row_value
from stages.reporting.frame_times import FrameTimes, clip_name
from stages.reporting.strips import ClipPictures, WantedClip
from stages.reporting.thinning import thinned

SHOWN_KEPT = 16
"""A system that keeps more frames adds none to the strips: they would be most of the video."""
COUNTS_VOTES = ("blip2-voting",)
"""Systems whose scores are counts, which have no softmax."""
CURVE_POINTS = 60_000
"""Of all curves of a page together, besides those of kept frames; a point takes a dozen bytes."""
FEWEST_POINTS = 8
PLAIN_KEY = re.compile(r"[A-Za-z0-9_.-]{1,80}")
NOT_IN_STRIP = -1


def shown_clip(question: Question) -> ClipKey:
    """The clip whose frames are shown: of several to choose from the right one, else the first."""
    keys = clip_keys(question)
    return keys[question.answer or 0] if len(keys) > 1 else keys[0]


def wanted_clips(
    questions: Sequence[Question], evaluations: Sequence[Evaluation]
) -> list[WantedClip]:
    """The clips of the questions, each once, with the frames that systems kept in them."""
    wanted: dict[ClipKey, WantedClip] = {}
    for question in questions:
        key = shown_clip(question)
        clip = wanted.setdefault(key, WantedClip(ClipSpan(len(wanted), *key)))
        for evaluation in evaluations:
            row = evaluation.rows.get(question.question_id)
            if row is not None and len(row["frames"]) <= SHOWN_KEPT:
                clip.kept.update(set(_kept_frames(evaluation, question, row)))
    return list(wanted.values())


def _kept_frames(evaluation: Evaluation, question: Question, row: Row) -> list[int]:
    """Frame numbers within the shown clip; a blind system looked at none."""
    if evaluation.blind or _seen_clip(question, row) != shown_clip(question):
        return []
    return list(row["frames"])


def _seen_clip(question: Question, row: Row) -> ClipKey:
    keys = clip_keys(question)
    place = row["prediction"] if len(keys) > 1 and isinstance(row["prediction"], int) else 0
    return keys[place]


def shown_questions(
    questions: Sequence[Question],
    evaluations: Sequence[Evaluation],
    times: FrameTimes,
) -> list[Shown]:
    """The questions with all answers; `strip` and `tiles` are still to be filled in."""
    most = max(FEWEST_POINTS, CURVE_POINTS // max(1, _num_curves(questions, evaluations)))
    places = {key: at for at, key in enumerate(dict.fromkeys(map(shown_clip, questions)))}
    return [
        Shown(
            key=question_key(question.question_id),
            question_id=question.question_id,
            video=question.video,
            type=question.type or "",
            text=question.question,
            options=_options(question),
            truth=question.answer,
            truth_text=_truth_text(question, evaluations),
            spans=question.spans,
            strip=places[shown_clip(question)],
            answers=tuple(
                _answer(number, evaluation, question, times, most)
                for number, evaluation in enumerate(evaluations)
            ),
        )
        for question in questions
    ]


def _num_curves(questions: Sequence[Question], evaluations: Sequence[Evaluation]) -> int:
    rows = (item.rows.get(question.question_id) for item in evaluations for question in questions)
    return sum(bool(row and row["frame_scores"]) for row in rows)


def question_key(question_id: str) -> str:
    """What a link to the question ends in: its id, or a digest of one that no link can hold."""
    return question_id if PLAIN_KEY.fullmatch(question_id) else sha256_json(question_id)[:16]


def _options(question: Question) -> tuple[str, ...]:
    """The options' words; where videos are chosen, the clips' names."""
    if question.options or len(question.videos) == 1:
        return question.options
    return tuple(clip_name(*key) for key in clip_keys(question))


def _truth_text(question: Question, evaluations: Sequence[Evaluation]) -> str:
    """The right answer's words; in retrieval the right video's name, which the rows know."""
    options = _options(question)
    if question.answer is not None and question.answer < len(options):
        return options[question.answer]
    if question.answer_text is not None:
        return question.answer_text
    rows = (item.rows.get(question.question_id) for item in evaluations)
    return next((row["answer"] for row in rows if row and isinstance(row["answer"], str)), "")


def _answer(
    number: int, evaluation: Evaluation, question: Question, times: FrameTimes, most: int
) -> Answer:
    row = evaluation.rows.get(question.question_id)
    if row is None or row["status"] == "failed":
        reason = row["reason"] if row else "there is no row of it"
        return Answer(number, "", None, None, "failed", reason, (), (), (), (), (), "")
    options = _options(question)
    windows = row.get("windows")
    scores = tuple(row["scores"]) if len(row["scores"]) == len(options) else ()
    kept = _kept_times(evaluation, question, row)
    curve = _curve(evaluation, question, row, times)
    return Answer(
        system=number,
        text=_answer_text(options, row) + _rank(evaluation, row),
        option=row["prediction"] if options and isinstance(row["prediction"], int) else None,
        correct=row["correct"],
        status=row["status"],
        reason=row["reason"],
        option_scores=tuple(_short(score) for score in scores),
        option_probabilities=_probabilities(evaluation, scores),
        kept=kept,
        tiles=(),
        curve=thinned(curve, most, kept if len(kept) <= SHOWN_KEPT else ()),
        curve_name=evaluation.select if curve else "",
        windows=tuple((round(s, 3), round(e, 3), _short(score)) for s, e, score in windows or ()),
        value=row_value(row),
        num_scores=len(curve),
    )


def _answer_text(options: Sequence[str], row: Row) -> str:
    """An option, a text, or where the best span lies."""
    if row.get("windows") is not None:
        best = [f"{start:.1f} to {end:.1f} s" for start, end, _ in row["windows"][:1]]
        return best[0] if best else "no span"
    answer = row["prediction"]
    if isinstance(answer, int) and answer < len(options):
        return options[answer]
    return "" if answer is None else str(answer)


def _rank(evaluation: Evaluation, row: Row) -> str:
    """Where retrieval puts the right video; empty for everything else, and where it is first."""
    if row["answer"] not in evaluation.ranked or len(row["scores"]) != len(evaluation.ranked):
        return ""
    own = row["scores"][evaluation.ranked.index(row["answer"])]
    rank = 1 + sum(score > own for score in row["scores"])
    return f" (the right one is number {rank} of {len(evaluation.ranked)})" if rank > 1 else ""


def _kept_times(evaluation: Evaluation, question: Question, row: Row) -> tuple[float, ...]:
    """Seconds of the kept frames; where spans are found every frame is seen and none is kept."""
    if row.get("windows") is not None or not _kept_frames(evaluation, question, row):
        return ()
    return tuple(round(seconds, 3) for seconds in row["times"])


def _probabilities(evaluation: Evaluation, scores: Sequence[float]) -> tuple[float, ...]:
    votes = evaluation.artifact.config["system"] in COUNTS_VOTES
    if votes or len(scores) < 2 or not all(map(math.isfinite, scores)):
        return ()
    return tuple(round(share, 4) for share in softmax(scores))


def _curve(evaluation: Evaluation, question: Question, row: Row, times: FrameTimes) -> list[Point]:
    """(seconds, score) of every frame seen of the shown clip; a blind system saw none of it."""
    scores = row["frame_scores"]
    if not scores or evaluation.blind or _seen_clip(question, row) != shown_clip(question):
        return []
    seen = times.seen(evaluation, row)
    if len(seen) != len(scores):
        return []
    return [
        (round(seconds, 3), _short(score))
        for seconds, score in zip(seen, scores, strict=True)
        if math.isfinite(score)
    ]


def _short(number: float) -> float:
    """Four significant digits: a page is read, not computed with."""
    return float(f"{number:.4g}")


def placed_tiles(
    shown: Shown,
    question: Question,
    evaluations: Sequence[Evaluation],
    pictures: Mapping[ClipKey, ClipPictures],
) -> list[tuple[int, ...]]:
    """For each answer, its kept frames' places in the strip; `NOT_IN_STRIP` where they are not.

    Empty for one that keeps more than `SHOWN_KEPT`, and where there is no picture.
    """
    tiles = pictures[shown_clip(question)].tiles
    found: list[tuple[int, ...]] = []
    for evaluation, answer in zip(evaluations, shown.answers, strict=True):
        frames: list[int] = []
        if tiles and 0 < len(answer.kept) <= SHOWN_KEPT:
            frames = evaluation.rows[question.question_id]["frames"]
        found.append(tuple(tiles.get(frame, NOT_IN_STRIP) for frame in frames))
    return found
