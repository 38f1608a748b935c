"""What `train-teacher` and `distill` share: batches of VLAP questions and one run of training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from stages.benchmarks.batches import QuestionFeatures
from stages.benchmarks.manifest import PromptRule
from stages.benchmarks.prompts import AnswerMode, prompt, target
from stages.benchmarks.questions import Question
from stages.core.config import Config
from stages.core.errors import DataError
from stages.models.backbones.text import BackboneText, TextBatch
from stages.models.selectors import gumbel_noise
from stages.models.vlap import VlapConfig, VlapOutput
from stages.training.draws import random_view
from stages.training.loop import (
    Moment,
    TrainingConfig,
)
from stages.training.schedule import TemperatureConfig, temperature

log = logging.getLogger(__name__)


class VlapStageConfig(Config):
    """What decides the bytes of VLAP weights, besides features and starting weights."""

    system: Literal["vlap"] = "vlap"
    """Name of the system."""
    role: Literal["teacher", "start", "student"]
    """Teacher on all frames, K-frame model that a student starts from, or student."""
    benchmark: str
    """Name of the benchmark."""
    backbone: str
    """Name of the backbone."""
    backbone_weights: str
    """Fingerprint of the backbone."""
    tokens: int
    """Tokens a frame of the stored features."""
    answer: AnswerMode
    """`letter` trains on `Option X`, `rank` on the option's text."""
    model: VlapConfig
    """The network and its losses."""
    temperature: TemperatureConfig = TemperatureConfig()
    """Temperature of the frame prompter's Gumbel-softmax."""
    training: TrainingConfig = TrainingConfig()
    """Optimisation."""
    eval_batch_size: int = Field(default=16, ge=1)
    """Questions per forward pass when the tune split is scored."""
    cache_teacher_targets: bool = False
    """Compute the frozen teacher's targets once; exact only while `ln_vision` is not trained."""
    max_train_questions: int | None = Field(default=None, ge=1)
    """Train on the first ones only; none: on all."""

    @model_validator(mode="after")
    def _cache_is_exact(self) -> VlapStageConfig:
        if self.cache_teacher_targets and (
            self.model.train_ln_vision
            or self.model.teacher != "frozen"
            or self.model.teacher_mode != "eval"
        ):
            raise ValueError(
                "cache_teacher_targets needs model.teacher=frozen, model.teacher_mode=eval and "
                "model.train_ln_vision=false: otherwise the targets change while training"
            )
        return self


@dataclass(frozen=True)
class VlapBatch:
    """One training batch on the CPU.

    Attributes:
        features: [B, T, N, C] as stored.
        text: The prompts.
        labels: Target tokens [B, L].
        teacher_targets: Kept teacher tokens [B, T * Q, D], if there are any.
        relevance_targets: Kept likelihoods of the answer from each frame [B, T], if there are any.
    """

    features: Tensor
    text: TextBatch
    labels: Tensor
    teacher_targets: Tensor | None
    relevance_targets: Tensor | None


class VlapData:
    """Training questions as batches; see `loop.TrainingData`."""

    def __init__(
        self,
        data: QuestionFeatures,
        text: BackboneText,
        mode: AnswerMode,
        rule: PromptRule,
        seed: int,
        limit: int | None = None,
    ) -> None:
        self.data, self.text, self.mode, self.rule, self.seed = data, text, mode, rule, seed
        self.indices = data.usable(labelled=True)[:limit]
        self.teacher_targets: Tensor | None = None
        self.relevance_targets: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def ids(self, indices: Sequence[int]) -> list[str]:
        """Question ids, for messages."""
        return [self._question(index).question_id for index in indices]

    def batch(self, indices: Sequence[int], epoch: int) -> VlapBatch:
        """Features, prompts and targets of these questions."""
        questions = [self._question(index) for index in indices]
        views = [self._view(question, epoch) for question in questions]
        batch = self.data.batch([self.indices[index] for index in indices], views)
        return VlapBatch(
            torch.from_numpy(batch.features),
            self.text.encode([prompt(q, self.mode, self.rule) for q in questions], training=True),
            self.text.encode_targets([self._target(question) for question in questions]),
            None if self.teacher_targets is None else self.teacher_targets[list(indices)],
            None if self.relevance_targets is None else self.relevance_targets[list(indices)],
        )

    def _question(self, index: int) -> Question:
        return self.data.questions[self.indices[index]]

    def _target(self, question: Question) -> str:
        text = target(question, self.mode)
        if text is None:
            raise DataError(f"question {question.question_id} is unlabelled")
        return text

    def _view(self, question: Question, epoch: int) -> int:
        """One of the stored random views, another one each epoch; view 0 when there are none."""
        return random_view(self.seed, epoch, question.question_id, self.data.views)


class TauForward:
    """Calls a VLAP model on a batch with the temperature and noise of the moment."""

    def __init__(self, config: VlapStageConfig, device: torch.device) -> None:
        self.config, self.device = config, device

    def __call__(self, model: nn.Module, batch: VlapBatch, moment: Moment) -> LoggedOutput:
        """See `loop.Forward`."""
        shape = (len(batch.features), self.config.model.keep, self.config.model.segment)
        arguments: dict[str, Any] = {
            "noise": self._noise(shape),
            "tau": temperature(
                self.config.temperature,
                epoch=moment.epoch,
                iteration=moment.iteration,
                epochs=moment.epochs,
                per_epoch=moment.per_epoch,
            ),
        }
        if batch.teacher_targets is not None:
            arguments["teacher_targets"] = batch.teacher_targets.to(self.device)
        if batch.relevance_targets is not None:
            arguments["relevance_targets"] = batch.relevance_targets.to(self.device)
        output: VlapOutput = model(
            batch.features.to(self.device),
            batch.text.to(self.device),
            batch.labels.to(self.device),
            **arguments,
        )
        return LoggedOutput(output, arguments["tau"])

    def _noise(self, shape: tuple[int, int, int]) -> Tensor | None:
        if self.config.model.keep == self.config.model.frames:
            return None
        return gumbel_noise(shape).to(self.device)


class LoggedOutput:
    """A VLAP output as the training loop wants it: a loss and named parts for the log."""

    def __init__(self, output: VlapOutput, tau: float) -> None:
        self.loss = output.loss
        self.parts = {
            "task_loss": output.task_loss,
            "distill_loss": output.distill_loss,
            "relevance_loss": output.relevance_loss,
            "tau": torch.tensor(tau),
        }
