"""Training questions of SeViLA as batches; see `loop.TrainingData`.

Axes: B questions, T frames stored, K frames kept, F frames labelled, N tokens, C width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stages.artifacts.clips import ClipRows
from stages.artifacts.pseudo_labels import FrameLabels
from stages.artifacts.rows import Array
from stages.benchmarks.batches import QuestionFeatures
from stages.benchmarks.manifest import BenchmarkManifest
from stages.benchmarks.prompts import AnswerMode, candidates, prompt, target
from stages.benchmarks.questions import Question
from stages.benchmarks.sevila_prompts import localizer_form, localizer_prompt, moment_labels
from stages.core.errors import DataError
from stages.models.backbones.text import BackboneText, PromptIds
from stages.training.draws import random_positions, random_view

KeptFrames = Callable[[Question, int, int], Array | None]
"""Positions [K] of a question's kept frames, given its view and the epoch; none: all T."""


@dataclass(frozen=True)
class AnswererBatch:
    """One batch of the answerer on the CPU.

    Attributes:
        features: [B, K, N, C] of the kept frames, or [B, T, N, C] where they are still to be
            chosen.
        prompts: The answerer's prompts.
        labels: Target tokens [B, L].
        chosen_for: What decides the choice where it is still to be made; else none.
    """

    features: Tensor
    prompts: PromptIds
    labels: Tensor
    chosen_for: PromptIds | None


@dataclass(frozen=True)
class AskedFrames:
    """What the answerer needs to label frames itself."""

    prompts: PromptIds
    answers: list[int]
    num_options: list[int] | None
    options: list[tuple[str, ...]] | None


@dataclass(frozen=True)
class LocalizerBatch:
    """One batch of the localizer on the CPU.

    Attributes:
        features: [B, F, N, C].
        prompts: The localizer's prompts.
        labels: Yes or no, or soft ones, [B, F]; none: the answerer labels the frames.
        weights: Of the frames, [B, F]; none: all the same.
        asked: For the answerer, where it labels the frames.
    """

    features: Tensor
    prompts: PromptIds
    labels: Tensor | None
    weights: Tensor | None
    asked: AskedFrames | None


class FrameTruth(Protocol):
    """Labels of frames."""

    def usable(self, question: Question) -> bool:
        """Whether there are any for this question."""
        ...

    def of(self, question: Question, positions: Array, times: Array) -> tuple[Array, Array | None]:
        """Labels [F] of the frames at `positions`, and their weights (none: all the same)."""
        ...


class SpanLabels:
    """A frame is a yes if its time lies in a true span, ends included (specs/sevila.md 4.3)."""

    def usable(self, question: Question) -> bool:
        """Whether the question has spans."""
        return bool(question.spans)

    def of(self, question: Question, positions: Array, times: Array) -> tuple[Array, Array | None]:
        """See `FrameTruth`."""
        return np.array(moment_labels(times.tolist(), question.spans)), None


class StoredLabels:
    """Pseudo-labels, hard or soft, the unsure ones left out."""

    def __init__(self, table: Mapping[str, FrameLabels], *, soft: bool, threshold: float) -> None:
        self.table, self.soft, self.threshold = table, soft, threshold

    def usable(self, question: Question) -> bool:
        """Whether the question was labelled."""
        return question.question_id in self.table

    def of(self, question: Question, positions: Array, times: Array) -> tuple[Array, Array | None]:
        """See `FrameTruth`."""
        row = self.table[question.question_id]
        scores = row.scores[positions].astype(np.float32)
        labels = scores if self.soft else row.labels[positions]
        if self.threshold == 0.0:
            return labels, None
        return labels, (np.maximum(scores, 1 - scores) >= self.threshold).astype(np.float32)


class _Questions:
    """What both kinds of training data share: which questions, their prompts and features."""

    def __init__(
        self,
        data: QuestionFeatures,
        indices: Sequence[int],
        text: BackboneText,
        manifest: BenchmarkManifest,
        seed: int,
    ) -> None:
        self.data, self.indices, self.text = data, list(indices), text
        self.manifest, self.seed = manifest, seed

    def __len__(self) -> int:
        return len(self.indices)

    def ids(self, indices: Sequence[int]) -> list[str]:
        """Question ids, for messages."""
        return [self.question(index).question_id for index in indices]

    def question(self, index: int) -> Question:
        """Training question number `index`."""
        return self.data.questions[self.indices[index]]

    def answer_prompts(self, questions: Sequence[Question], mode: AnswerMode) -> PromptIds:
        """What the answerer reads."""
        rule = self.manifest.prompt
        return self.text.encode_plain([prompt(question, mode, rule) for question in questions])

    def localizer_prompts(self, questions: Sequence[Question]) -> PromptIds:
        """What the localizer reads."""
        form, rule = localizer_form(self.manifest), self.manifest.prompt
        return self.text.encode_plain([localizer_prompt(q, rule, form) for q in questions])

    def read(self, clips: Sequence[ClipRows]) -> Tensor:
        """Features [B, F, N, C] of clips of F frames each."""
        reader = self.data.reader
        rows = np.concatenate([clip.rows for clip in clips])
        shape = (len(clips), len(clips[0].rows), reader.tokens, reader.width)
        return torch.from_numpy(np.asarray(reader.read(rows)).reshape(shape))

    def view(self, question: Question, epoch: int) -> int:
        """The random view that is shown in this epoch; 0 when none are stored."""
        return random_view(self.seed, epoch, question.question_id, self.data.views)


class AnswererData(_Questions):
    """Questions with the frames that the answerer learns from.

    Args:
        data: The train split.
        indices: Positions of the questions that are used.
        text: Tokenizers.
        manifest: The benchmark, whose wording is used.
        seed: Seed of random views.
        mode: Answer mode.
        kept: Which frames.
        choosing: Whether the forward pass chooses, and so needs to know by what.
    """

    def __init__(
        self,
        data: QuestionFeatures,
        indices: Sequence[int],
        text: BackboneText,
        manifest: BenchmarkManifest,
        seed: int,
        *,
        mode: AnswerMode,
        kept: KeptFrames,
        choosing: bool,
    ) -> None:
        super().__init__(data, indices, text, manifest, seed)
        self.mode, self.kept, self.choosing = mode, kept, choosing

    def batch(self, indices: Sequence[int], epoch: int) -> AnswererBatch:
        """See `loop.TrainingData`."""
        questions = [self.question(index) for index in indices]
        clips = [self._clip(index, epoch) for index in indices]
        return AnswererBatch(
            self.read(clips),
            self.answer_prompts(questions, self.mode),
            self.text.encode_targets([_target(question, self.mode) for question in questions]),
            self.localizer_prompts(questions) if self.choosing else None,
        )

    def _clip(self, index: int, epoch: int) -> ClipRows:
        question = self.question(index)
        view = self.view(question, epoch)
        clip = self.data.clip(self.indices[index], view)
        kept = self.kept(question, view, epoch)
        return clip if kept is None else frames_at(clip, kept)


class LocalizerData(_Questions):
    """Questions with random frames and their labels.

    Args:
        data: The train split.
        indices: Positions of the questions that are used.
        text: Tokenizers.
        manifest: The benchmark, whose wording is used.
        seed: Seed of the frames that are drawn.
        frames: F, frames of a question in a step.
        truth: Their labels; none: the answerer labels them in the forward pass.
        mode: Its answer mode.
    """

    def __init__(
        self,
        data: QuestionFeatures,
        indices: Sequence[int],
        text: BackboneText,
        manifest: BenchmarkManifest,
        seed: int,
        *,
        frames: int,
        truth: FrameTruth | None,
        mode: AnswerMode | None,
    ) -> None:
        super().__init__(data, indices, text, manifest, seed)
        self.frames, self.truth, self.mode = frames, truth, mode

    def batch(self, indices: Sequence[int], epoch: int) -> LocalizerBatch:
        """See `loop.TrainingData`."""
        questions = [self.question(index) for index in indices]
        drawn = [self._drawn(question, epoch) for question in questions]
        clips = [self._clip(index, epoch, at) for index, at in zip(indices, drawn, strict=True)]
        features, prompts = self.read(clips), self.localizer_prompts(questions)
        if self.truth is None:
            return LocalizerBatch(features, prompts, None, None, self._asked(questions))
        found = [
            self.truth.of(question, at, clip.times)
            for question, at, clip in zip(questions, drawn, clips, strict=True)
        ]
        labels = torch.from_numpy(np.stack([labels for labels, _ in found]))
        weights = [weights for _, weights in found if weights is not None]
        return LocalizerBatch(
            features,
            prompts,
            labels,
            torch.from_numpy(np.stack(weights)) if weights else None,
            None,
        )

    def _drawn(self, question: Question, epoch: int) -> Array:
        total, few = self.data.frames, self.frames
        return random_positions(self.seed, epoch, question.question_id, total, few)

    def _clip(self, index: int, epoch: int, positions: Array) -> ClipRows:
        # Stored labels are those of view 0.
        stored = isinstance(self.truth, StoredLabels)
        view = 0 if stored else self.view(self.question(index), epoch)
        return frames_at(self.data.clip(self.indices[index], view), positions)

    def _asked(self, questions: Sequence[Question]) -> AskedFrames:
        assert self.mode is not None
        letters = self.mode == "letter"
        return AskedFrames(
            self.answer_prompts(questions, self.mode),
            [_answer(question) for question in questions],
            [len(question.options) for question in questions] if letters else None,
            None if letters else [candidates(question, self.mode) for question in questions],
        )


def frames_at(clip: ClipRows, positions: Array) -> ClipRows:
    """The frames of a clip at `positions`."""
    return ClipRows(clip.rows[positions], clip.frames[positions], clip.times[positions])


def _target(question: Question, mode: AnswerMode) -> str:
    text = target(question, mode)
    if text is None:
        raise DataError(f"question {question.question_id} is unlabelled")
    return text


def _answer(question: Question) -> int:
    if question.answer is None:
        raise DataError(f"question {question.question_id} is unlabelled or open-ended")
    return question.answer
