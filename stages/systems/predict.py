"""Run a system over questions: the loop that training's tune accuracy and `vqa eval` share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.artifacts.clips import ClipRows
from stages.benchmarks.batches import QuestionFeatures
from stages.benchmarks.questions import Question
from stages.benchmarks.scorers.accuracy import is_correct
from stages.systems.blind import Blindfold
from stages.systems.face import FrameSource, System
from stages.systems.seen import Candidate, SeenFrames


@dataclass(frozen=True)
class Prediction:
    """What a system said about one question.

    Attributes:
        question: The question.
        prediction: Option index or text.
        scores: One per option.
        frames: Frame indices within the video that were kept.
        times: Their presentation times in seconds.
        frame_scores: One per frame seen, if the selector scores frames.
        candidate_times: Times of the T frames that there were.
        frame_rule: By what rule the frames were chosen; see `Selector`.
        tied: Whether the choice of frames hung on the rule for ties; none: not known.
        by_frame: What each kept frame alone says; empty where frames are read together.
    """

    question: Question
    prediction: int | str
    scores: list[float]
    frames: list[int]
    times: list[float]
    frame_scores: list[float]
    candidate_times: list[float]
    frame_rule: str
    tied: bool | None
    by_frame: list[int | str]

    @property
    def correct(self) -> bool | None:
        """Whether it is right; None when the question is unlabelled."""
        return is_correct(self.prediction, self.question.truth)


@torch.no_grad()
def predict(
    system: System,
    data: QuestionFeatures,
    indices: Sequence[int],
    batch_size: int,
    *,
    blind: Blindfold | None = None,
) -> Iterator[Prediction]:
    """Predictions for questions `indices` of `data`, in that order.

    Args:
        system: Selector and answerer.
        data: Questions with T = `system.frames` features each. A selector that is a `FrameSource`
            brings its own K; of the T frames only the times are read then.
        indices: Positions of usable questions without a `problem`.
        batch_size: Questions per forward pass; part of the compute shape.
        blind: What is seen in the place of the videos.
    """
    for start in range(0, len(indices), batch_size):
        part = indices[start : start + batch_size]
        rows = [
            _Row(index, candidate)
            for index in part
            for candidate in system.candidates(data.questions[index])
        ]
        yield from _predict_rows(system, data, part, rows, _seen(system, data, rows, blind))


@dataclass(frozen=True)
class _Row:
    """One candidate of question `index`; most questions have only one."""

    index: int
    candidate: Candidate


def _seen(
    system: System, data: QuestionFeatures, rows: Sequence[_Row], blind: Blindfold | None
) -> SeenFrames:
    """The frames that each row is about, or those that are shown in their place."""

    def clip_of(index: int, place: int) -> ClipRows:
        """What the selector chooses from: frames of its own, or the T frames."""
        if isinstance(system.selector, FrameSource):
            return system.selector.clip_of(data, index, system.keep, place)
        return data.clip(index, place=place)

    def shown(row: _Row) -> ClipRows:
        place = row.candidate.place
        return blind.clip(row.index, place, clip_of) if blind else clip_of(row.index, place)

    return SeenFrames(
        data.reader,
        [data.questions[row.index] for row in rows],
        [shown(row) for row in rows],
        system.device,
        None if blind is None else blind.replace,
        [data.shares_clip(row.index, row.candidate.place) for row in rows],
        [row.candidate for row in rows],
    )


def _predict_rows(
    system: System,
    data: QuestionFeatures,
    part: Sequence[int],
    rows: Sequence[_Row],
    seen: SeenFrames,
) -> Iterator[Prediction]:
    """One prediction for each question of `part`, whose candidates are `rows`."""
    selection = system.selector.select(seen, system.keep)
    answers = system.answerer.answer(seen, selection.indices)
    kept = selection.indices.cpu().numpy()
    for number, index in enumerate(part):
        row = number if answers.rows is None else answers.rows[number]
        place = rows[row].candidate.place
        yield Prediction(
            question=data.questions[index],
            prediction=answers.predictions[number],
            scores=answers.scores[number],
            frames=seen.frames[row][kept[row]].tolist(),
            times=seen.times[row][kept[row]].tolist(),
            frame_scores=_listed(selection.scores, row),
            candidate_times=data.clip(index, place=place).times.tolist(),
            frame_rule=system.selector.rule,
            tied=None if selection.tied is None else selection.tied[row],
            by_frame=[] if answers.by_frame is None else answers.by_frame[number],
        )


def _listed(scores: Tensor | None, row: int) -> list[float]:
    return [] if scores is None else [float(value) for value in scores[row].tolist()]


def right_of(
    system: System, data: QuestionFeatures, indices: Sequence[int], batch: int
) -> tuple[int, int]:
    """(right, labelled) among questions `indices`; several processes add up their parts."""
    correct = [item.correct for item in predict(system, data, indices, batch)]
    labelled = [value for value in correct if value is not None]
    return sum(labelled), len(labelled)
