"""Run a system over questions: the loop that training's tune accuracy and `vqa eval` share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch

from stages.artifacts.clips import ClipRows
from stages.artifacts.rows import Array
from stages.benchmarks.batches import QuestionFeatures
from stages.benchmarks.questions import Question
from stages.benchmarks.scorers.accuracy import is_correct
from stages.systems.face import FrameSource, System
from stages.systems.seen import SeenFrames

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
    replace = None if blind is None else partial(_noise_like, seed)
    for start in range(0, len(indices), batch_size):
        part = indices[start : start + batch_size]
        questions = [data.questions[index] for index in part]
        clips = [_clip_of(system, data, index) for index in part]
        seen = SeenFrames(data.reader, questions, clips, system.device, replace)
        yield from _predict_batch(system, seen, [data.clip(index).times for index in part])


def _clip_of(system: System, data: QuestionFeatures, index: int) -> ClipRows:
    """The frames that the selector chooses from: its own, or the T frames."""
    if isinstance(system.selector, FrameSource):
        return system.selector.clip_of(data, index, system.keep)
    return data.clip(index)


def _predict_batch(
    system: System, seen: SeenFrames, candidate_times: Sequence[Array]
) -> Iterator[Prediction]:
    selection = system.selector.select(seen, system.keep)
    answers = system.answerer.answer(seen, selection.indices)
    kept = selection.indices.cpu().numpy()
    scores = None if selection.scores is None else selection.scores.cpu().tolist()
    for row, question in enumerate(seen.questions):
        yield Prediction(
            question=question,
            prediction=answers.predictions[row],
            scores=answers.scores[row],
            frames=seen.frames[row][kept[row]].tolist(),
            times=seen.times[row][kept[row]].tolist(),
            frame_scores=[] if scores is None else scores[row],
            candidate_times=candidate_times[row].tolist(),
            frame_rule=system.selector.rule,
        )


def _noise_like(seed: int, question: Question, features: Array) -> Array:
    """Gaussian noise [T, N, C] with the mean and spread of the question's own features.

    Drawn per question id, so that a row does not depend on the batch it is in.
    """
    values = features.astype(np.float32)
    drawn = _generator(seed, question.question_id).standard_normal(values.shape, np.float32)
    return drawn * values.std() + values.mean()


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
