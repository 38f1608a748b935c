"""Batches and losses of VideoDistill's trainings: what a step reads and how it is asked.

Four tasks and the captions of pre-training read the same features, all N frames of them, because
every frame's soft weight has a gradient (specs/videodistill.md 3, 5, 6).

Axes: V clips, R rows (sentence and clip), N frames, P patches, C width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from stages.artifacts.rows import Array
from stages.benchmarks.batches import QuestionFeatures
from stages.benchmarks.captions import asked_text, caption_of
from stages.benchmarks.manifest import BenchmarkManifest
from stages.benchmarks.questions import Question
from stages.benchmarks.vocabulary import AnswerVocabulary
from stages.core.config import Config
from stages.models.losses import IGNORED
from stages.models.sentences import Sentence, Sentences
from stages.models.text_tower import TokenIds
from stages.models.videodistill import (
    Choice,
    Contrastive,
    OpenEnded,
    Target,
    VideoDistill,
    VideoDistillOutput,
    VideoFeatures,
)
from stages.models.videodistill_config import VideoDistillConfig
from stages.training.draws import random_view
from stages.training.loop import Moment, TrainingConfig
from stages.training.sampler_start import FrameTable, SamplerStartConfig

TrainedTask = Literal["open-ended", "choice", "contrastive", "matching"]
"""Answers from a vocabulary; candidates (texts or videos) by the matching head; retrieval by
cosine; retrieval by the matching head, with exchanged captions."""
StageTask = Literal["open-ended", "choice", "contrastive", "matching", "captions"]


class VideoDistillStageConfig(Config):
    """What decides the bytes of VideoDistill weights, besides features and starting weights."""

    system: Literal["videodistill"] = "videodistill"
    """Name of the system."""
    role: Literal["pretrained", "trained"]
    """On captions, or on a benchmark's own task."""
    benchmark: str
    """Name of the benchmark."""
    backbone: str
    """Name of the backbone."""
    backbone_weights: str
    """Fingerprint of the backbone."""
    task: StageTask
    """What is learnt."""
    model: VideoDistillConfig
    """The network and its losses."""
    vocabulary_size: int = Field(default=1500, ge=2)
    """Open-ended: answers at most, the most frequent ones of the train split."""
    training: TrainingConfig = TrainingConfig()
    """Optimisation."""
    sampler_start: SamplerStartConfig = SamplerStartConfig()
    """What the sampler learns from CLIP before the training."""
    eval_batch_size: int = Field(default=16, ge=1)
    """Questions per forward pass when the tune split is scored."""
    tune_texts: int = Field(default=64, ge=0)
    """Retrieval: texts of the tune split whose videos are ranked after every epoch, all with all;
    0: the last epoch is kept."""
    frame_chunk: int | None = Field(default=None, ge=1)
    """Frames whose patches are converted at a time; none: all. Saves memory."""
    max_train_questions: int | None = Field(default=None, ge=1)
    """Train on the first ones only; none: on all."""

    @model_validator(mode="after")
    def _fits_together(self) -> VideoDistillStageConfig:
        if (self.role == "pretrained") != (self.task == "captions"):
            raise ValueError("captions are what pre-training learns from")
        if (self.task == "open-ended") != (self.model.answers is not None):
            raise ValueError("model.answers is decided by the vocabulary of open-ended questions")
        return self


@dataclass(frozen=True)
class VideoDistillBatch:
    """One training batch on the CPU.

    Attributes:
        video: Features of V clips, as stored.
        tokens: R sentences.
        videos: int [R], the clip of each; none: row i has clip i.
        target: What is to be said; none: captions, which are drawn as the step is made.
    """

    video: VideoFeatures
    tokens: TokenIds
    videos: Tensor | None
    target: Target | None


@dataclass(frozen=True)
class _Asked:
    """What one question adds to a batch: its sentences, and the candidate clip of each."""

    sentences: list[Sentence]
    places: list[int]


class VideoDistillData:
    """Training questions as batches; see `loop.TrainingData`.

    Args:
        data: Questions and features.
        config: The stage's.
        manifest: The benchmark.
        sentences: The text tower's tokenizer.
        vocabulary: Answers of open-ended questions.
    """

    def __init__(
        self,
        data: QuestionFeatures,
        config: VideoDistillStageConfig,
        manifest: BenchmarkManifest,
        sentences: Sentences,
        vocabulary: AnswerVocabulary | None = None,
    ) -> None:
        self.data, self.task, self.manifest = data, config.task, manifest
        self.sentences, self.vocabulary = sentences, vocabulary
        self.seed = config.training.seed
        self.indices = learnable(data, config.task, vocabulary)[: config.max_train_questions]

    def __len__(self) -> int:
        return len(self.indices)

    def ids(self, indices: Sequence[int]) -> list[str]:
        """Question ids, for messages."""
        return [self._question(index).question_id for index in indices]

    def batch(self, indices: Sequence[int], epoch: int) -> VideoDistillBatch:
        """Features, sentences and targets of these questions."""
        questions = [self._question(index) for index in indices]
        asked = [self._asked(question) for question in questions]
        clips, videos = self._clips(asked)
        views = [random_view(self.seed, epoch, q.question_id, self.data.views) for q in questions]
        return VideoDistillBatch(
            self._features([(indices[number], views[number], place) for number, place in clips]),
            self.sentences.encode([text for item in asked for text in item.sentences]),
            videos,
            self._target(questions, [len(item.sentences) for item in asked]),
        )

    def table(self, indices: Sequence[int]) -> FrameTable:
        """Frame CLS and sentences of these questions; no patch is read."""
        asked = [self._asked(self._question(index)) for index in indices]
        clips, videos = self._clips(asked)
        rows = [self._rows(indices[number], 0, place) for number, place in clips]
        cls = self.data.reader.read_cls(np.concatenate(rows)).reshape(len(rows), len(rows[0]), -1)
        tokens = self.sentences.encode([text for item in asked for text in item.sentences])
        return FrameTable(torch.from_numpy(cls), tokens, videos)

    def _question(self, index: int) -> Question:
        return self.data.questions[self.indices[index]]

    def _asked(self, question: Question) -> _Asked:
        if self.task in ("contrastive", "matching"):
            return _Asked([question.question.strip()], [0])
        if self.task == "captions":
            return _Asked([caption_of(question)], [0])
        text = asked_text(question, self.manifest)
        if self.task == "open-ended":
            return _Asked([text], [0])
        if len(question.videos) > 1:
            return _Asked([text] * len(question.videos), list(range(len(question.videos))))
        options = [option.strip() for option in question.options]
        return _Asked([(text, option) for option in options], [0] * len(options))

    def _clips(self, asked: Sequence[_Asked]) -> tuple[list[tuple[int, int]], Tensor | None]:
        """(question, candidate) of each clip of the batch, and the clip of each row."""
        rows = [(number, place) for number, item in enumerate(asked) for place in item.places]
        clips = list(dict.fromkeys(rows))
        if clips == rows:
            return clips, None
        numbers = {clip: number for number, clip in enumerate(clips)}
        return clips, torch.tensor([numbers[row] for row in rows])

    def _features(self, clips: Sequence[tuple[int, int, int]]) -> VideoFeatures:
        """Stored features of (index, view, candidate) clips."""
        stored = [self._rows(*clip) for clip in clips]
        rows, reader = np.concatenate(stored), self.data.reader
        shape = (len(clips), len(stored[0]))
        cls = reader.read_cls(rows).reshape(*shape, -1)
        patches = reader.read(rows).reshape(*shape, reader.tokens, reader.width)
        return VideoFeatures(torch.from_numpy(cls), torch.from_numpy(patches))

    def _rows(self, index: int, view: int, place: int) -> Array:
        """Row numbers [N] of a candidate clip."""
        return self.data.clip(self.indices[index], view, place).rows

    def _target(self, questions: Sequence[Question], counts: list[int]) -> Target | None:
        if self.task in ("captions", "matching"):
            return None
        if self.task == "contrastive":
            return Contrastive()
        if self.task == "choice":
            return Choice(tuple(counts), torch.tensor([question.answer for question in questions]))
        assert self.vocabulary is not None
        places = [self.vocabulary.place(question.target_text) for question in questions]
        return OpenEnded(torch.tensor([IGNORED if place is None else place for place in places]))


def learnable(
    data: QuestionFeatures, task: StageTask, vocabulary: AnswerVocabulary | None = None
) -> list[int]:
    """Positions of the questions that have features and something to learn.

    Open-ended ones need an answer of the vocabulary: the others would add nothing to the loss.
    """
    questions = data.questions
    if task == "captions":
        return [index for index in data.usable() if caption_of(questions[index])]
    if task in ("contrastive", "matching"):
        return [index for index in data.usable() if questions[index].question.strip()]
    labelled = data.usable(labelled=True)
    if task == "choice":
        return [index for index in labelled if questions[index].options]
    known = vocabulary or AnswerVocabulary((), ())
    return [index for index in labelled if known.place(questions[index].target_text) is not None]


class VideoDistillForward:
    """Calls a network on a batch with the noise, temperature and captions of the moment.

    What chance decides is drawn here, in the main thread, from the random state that every
    checkpoint holds.
    """

    def __init__(self, config: VideoDistillStageConfig, device: torch.device) -> None:
        self.config, self.device = config, device

    def __call__(self, model: nn.Module, batch: VideoDistillBatch, moment: Moment) -> LoggedOutput:
        """See `loop.Forward`."""
        network, device = network_of(model), self.device
        tokens = batch.tokens.to(device)
        target = on_device(batch.target, device)
        if target is None:
            target = network.draw_captions(tokens)
        done = moment.epoch * moment.per_epoch + moment.iteration
        progress = done / max(moment.epochs * moment.per_epoch - 1, 1)
        tau = self.config.model.tau_at(progress)
        output: VideoDistillOutput = model(
            VideoFeatures(batch.video.cls.to(device), batch.video.patches.to(device)),
            tokens,
            target,
            videos=None if batch.videos is None else batch.videos.to(device),
            noise=network.draw_noise(len(tokens), batch.video.cls.shape[1]),
            tau=tau,
        )
        return LoggedOutput(output, tau)


def on_device(target: Target | None, device: torch.device) -> Target | None:
    """The labels of a batch on `device`."""
    if isinstance(target, OpenEnded):
        return OpenEnded(target.answers.to(device))
    if isinstance(target, Choice):
        return Choice(target.counts, target.answers.to(device))
    return target


def network_of(model: nn.Module) -> VideoDistill:
    """The network below a wrapper for several processes."""
    inner = getattr(model, "module", model)
    assert isinstance(inner, VideoDistill)
    return inner


class LoggedOutput:
    """An output as the training loop wants it: a loss and named parts for the log."""

    def __init__(self, output: VideoDistillOutput, tau: float) -> None:
        self.loss = output.loss
        self.parts = {**output.parts, "tau": torch.tensor(tau)}
