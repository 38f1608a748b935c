"""Run a system over questions: the loop that training's tune accuracy and `vqa eval` share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from stages.artifacts.rows import Array
from stages.benchmarks.batches import QuestionBatch, QuestionFeatures
from stages.benchmarks.questions import Question
from stages.benchmarks.scorers.accuracy import is_correct
from stages.systems.face import FrameSource, System, gather_frames

Blind = Literal["gaussian"]


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
    """

    question: Question
    prediction: int | str
    scores: list[float]
    frames: list[int]
    times: list[float]
    frame_scores: list[float]
    candidate_times: list[float]
    frame_rule: str

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
    blind: Blind | None = None,
    seed: int = 0,
) -> Iterator[Prediction]:
    """Predictions for questions `indices` of `data`, in that order.

    Args:
        system: Selector and answerer.
        data: Questions with T = `system.frames` features each. A selector that is a `FrameSource`
            brings its own K; of the T frames only the times are read then.
        indices: Positions of usable questions without a `problem`.
        batch_size: Questions per forward pass; part of the compute shape.
        blind: Replace what is seen: `gaussian` noise of the features' mean and spread.
        seed: Seed of that noise.
    """
    for start in range(0, len(indices), batch_size):
        part = indices[start : start + batch_size]
        batch = _batch_for(system, data, part)
        if blind is not None:
            batch = _blinded(batch, seed)
        yield from _predict_batch(system, batch, [data.clip(index).times for index in part])


def _batch_for(system: System, data: QuestionFeatures, indices: Sequence[int]) -> QuestionBatch:
    """The frames that the selector chooses from: its own, or the T frames."""
    if isinstance(system.selector, FrameSource):
        return system.selector.frames_of(data, indices, system.keep)
    return data.batch(indices)


def _predict_batch(
    system: System, batch: QuestionBatch, candidate_times: Sequence[Array]
) -> Iterator[Prediction]:
    features = torch.from_numpy(batch.features).to(system.device).float()
    selection = system.selector.select(batch, features, system.keep)
    answers = system.answerer.answer(gather_frames(features, selection.indices), batch.questions)
    kept = selection.indices.cpu().numpy()
    scores = None if selection.scores is None else selection.scores.cpu().tolist()
    for row, question in enumerate(batch.questions):
        yield Prediction(
            question=question,
            prediction=answers.predictions[row],
            scores=answers.scores[row],
            frames=batch.frames[row][kept[row]].tolist(),
            times=batch.times[row][kept[row]].tolist(),
            frame_scores=[] if scores is None else scores[row],
            candidate_times=candidate_times[row].tolist(),
            frame_rule=system.selector.rule,
        )


def _blinded(batch: QuestionBatch, seed: int) -> QuestionBatch:
    """The same questions with noise in place of the video.

    Drawn per question id with the mean and spread of the question's own features, so that a row
    does not depend on the batch it is in.
    """
    noise = np.empty(batch.features.shape, dtype=np.float32)
    for row, question in enumerate(batch.questions):
        seen = batch.features[row].astype(np.float32)
        drawn = _generator(seed, question.question_id).standard_normal(seen.shape, np.float32)
        noise[row] = drawn * seen.std() + seen.mean()
    return QuestionBatch(batch.questions, noise, batch.frames, batch.times)


def _generator(seed: int, question_id: str) -> np.random.Generator:
    numbers = [seed, *question_id.encode()]
    return np.random.Generator(np.random.PCG64(numbers))


def right_of(
    system: System, data: QuestionFeatures, indices: Sequence[int], batch: int
) -> tuple[int, int]:
    """(right, labelled) among questions `indices`; several processes add up their parts."""
    correct = [item.correct for item in predict(system, data, indices, batch)]
    labelled = [value for value in correct if value is not None]
    return sum(labelled), len(labelled)
