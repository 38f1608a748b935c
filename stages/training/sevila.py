"""Settings of SeViLA's training stages, and how a batch goes through the network.

The answerer learns from keyframes that are chosen before training or in the forward pass, the
localizer from labels per frame (specs/sevila.md 4).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from stages.benchmarks.prompts import AnswerMode
from stages.core.config import Config
from stages.models.learnt_selectors import FrameSelectorConfig, SelectingAnswerer
from stages.models.sevila import Sevila, SevilaConfig, SevilaOutput
from stages.training.loop import Moment, StepOutput, TrainingConfig
from stages.training.schedule import TemperatureConfig, temperature
from stages.training.sevila_batches import AnswererBatch, LocalizerBatch

AnswererSelect = Literal["localizer", "uniform", "random", "all", "oracle", "topk", "atp"]
EvalSelect = Literal["localizer", "uniform", "random", "all", "oracle", "topk", "atp"]
LEARNT = ("topk", "atp")
"""Selectors that are trained with the answerer."""


class SevilaTraining(Config):
    """What both sides' training has in common."""

    system: Literal["sevila"] = "sevila"
    """Name of the system."""
    benchmark: str
    """Name of the benchmark."""
    backbone: str
    """Name of the backbone."""
    backbone_weights: str
    """Its fingerprint."""
    frames: int = Field(ge=1)
    """T, frames that keyframes are chosen from."""
    model: SevilaConfig = SevilaConfig()
    """The network."""
    training: TrainingConfig = TrainingConfig()
    """Optimisation."""
    eval_batch_size: int = Field(default=16, ge=1)
    """Questions per forward pass when the tune split is scored."""
    max_train_questions: int | None = Field(default=None, ge=1)
    """Train on the first ones only; none: on all."""
    max_tune_questions: int | None = Field(default=None, ge=1)
    """Score the first ones of the tune split only; none: all."""


class AnswererConfig(SevilaTraining):
    """What decides the bytes of an answerer's weights, besides features and localizer."""

    role: Literal["answerer"] = "answerer"
    """Which side is trained."""
    answer: AnswerMode
    """`letter` trains on `Option X`, `rank` on the option's text."""
    keep: int = Field(ge=1)
    """K, frames that are answered from."""
    select: AnswererSelect = "localizer"
    """How keyframes are chosen in training: by the frozen localizer, the middle or a random frame
    of each of K segments, all frames, by the true spans; `topk` and `atp` are trained as well."""
    eval_select: EvalSelect
    """How they are chosen on the tune split, which decides the epoch that is kept."""
    dropout_in_choice: bool = False
    """The localizer chooses afresh in every step with dropout, as in the reference; otherwise its
    choice is the one of evaluation, made once."""
    freeze_answerer: bool = False
    """Of `topk` and `atp`, train the selector alone, before an answerer as it is (Table 6)."""
    frame_selector: FrameSelectorConfig = FrameSelectorConfig()
    """The network of `topk` and `atp`."""
    temperature: TemperatureConfig = TemperatureConfig(start=1.0, end=1.0)
    """Temperature of ATP's Gumbel-softmax."""

    @model_validator(mode="after")
    def _fits_together(self) -> AnswererConfig:
        if self.keep > self.frames:
            raise ValueError(f"keep: cannot keep {self.keep} of {self.frames} frames")
        if self.select == "all" and self.keep != self.frames:
            raise ValueError(f"keep: select=all keeps all {self.frames} frames, not {self.keep}")
        if (self.eval_select == "all") and self.keep != self.frames:
            raise ValueError(f"eval_select: all keeps {self.frames} frames, trained on {self.keep}")
        if self.eval_select in LEARNT and self.eval_select != self.select:
            raise ValueError(f"eval_select: {self.eval_select} is not trained here")
        if self.freeze_answerer and self.select not in LEARNT:
            raise ValueError(f"freeze_answerer: select={self.select} has nothing to train then")
        if self.dropout_in_choice and not (self.select == "localizer" and self._drops_out):
            raise ValueError(
                "dropout_in_choice: needs select=localizer and model.frozen_dropout=true"
            )
        return self

    @property
    def _drops_out(self) -> bool:
        return self.model.frozen_dropout


class LocalizerConfig(SevilaTraining):
    """What decides the bytes of a localizer's weights, besides features, labels and its start."""

    role: Literal["localizer"] = "localizer"
    """Which side is trained."""
    trained_on: Literal["spans", "pseudo-labels"]
    """True spans (specs/sevila.md 4.3), or what the answerer says of each frame (4.2)."""
    frames_per_question: int = Field(default=4, ge=1)
    """Random frames of each question in a step, one in each of as many segments."""
    answer: AnswerMode | None = None
    """Answer mode of the frozen answerer; none where it is not asked."""
    keep: int | None = Field(default=None, ge=1)
    """K, frames that are answered from when the tune split is scored; none where it is not."""
    round: int = Field(default=0, ge=0)
    """Which refinement this is, from 1; 0 for spans."""
    on_the_fly: bool = False
    """The answerer labels the frames of every step with dropout, as in the reference."""
    soft_labels: bool = False
    """Learn the probability of the right option instead of right or wrong."""
    threshold: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Leave out frames of which the answerer is less sure, one way or the other."""

    @model_validator(mode="after")
    def _fits_together(self) -> LocalizerConfig:
        if self.frames_per_question > self.frames:
            raise ValueError(
                f"frames_per_question: {self.frames_per_question} of {self.frames} frames"
            )
        if self.keep is not None and self.keep > self.frames:
            raise ValueError(f"keep: cannot keep {self.keep} of {self.frames} frames")
        used = [name for name in ("on_the_fly", "soft_labels", "threshold") if getattr(self, name)]
        if self.trained_on == "spans" and used:
            raise ValueError(f"{used[0]}: spans are labels as they are")
        return self


class LabelledOutput:
    """A localizer's output with the share of positive labels for the log."""

    def __init__(self, output: SevilaOutput, labels: Tensor, weights: Tensor | None) -> None:
        self.loss = output.loss
        used = labels.float() if weights is None else labels.float()[weights > 0]
        share = used.mean() if used.numel() else torch.tensor(0.0)
        self.parts = {**output.parts, "share_positive": share}


class AnswererForward:
    """The answerer on keyframes: chosen before, here by the frozen localizer, or as it learns."""

    def __init__(self, config: AnswererConfig, device: torch.device) -> None:
        self.config, self.device = config, device

    def __call__(self, model: nn.Module, batch: AnswererBatch, moment: Moment) -> StepOutput:
        """See `loop.Forward`."""
        features, labels = batch.features.to(self.device), batch.labels.to(self.device)
        if self.config.select in LEARNT:
            tau = temperature(
                self.config.temperature,
                epoch=moment.epoch,
                iteration=moment.iteration,
                epochs=moment.epochs,
                per_epoch=moment.per_epoch,
            )
            output: SevilaOutput = model(
                features.float(), batch.prompts, labels, chosen_for=batch.chosen_for, tau=tau
            )
            return output
        if batch.chosen_for is not None:
            chosen = sevila_of(model).keyframes(features, batch.chosen_for, self.config.keep)
            rows = torch.arange(len(features), device=self.device)[:, None]
            features = features[rows, chosen.indices]
        trained: SevilaOutput = model(features, batch.prompts, labels, side="answerer")
        return trained


class LocalizerForward:
    """The localizer on labelled frames; the answerer labels them here where none are stored."""

    def __init__(self, config: LocalizerConfig, device: torch.device) -> None:
        self.config, self.device = config, device

    def __call__(self, model: nn.Module, batch: LocalizerBatch, moment: Moment) -> StepOutput:
        """See `loop.Forward`."""
        features = batch.features.to(self.device)
        labels, weights = self._labels(model, batch, features)
        output: SevilaOutput = model(
            features, batch.prompts, labels, side="localizer", weights=weights
        )
        return LabelledOutput(output, labels, weights)

    def _labels(
        self, model: nn.Module, batch: LocalizerBatch, features: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        if batch.asked is None:
            assert batch.labels is not None
            given = batch.labels.to(self.device)
            return given, None if batch.weights is None else batch.weights.to(self.device)
        sevila, asked = sevila_of(model), batch.asked
        made = sevila.pseudo_labels(
            sevila.answerer_tokens(features),
            asked.prompts,
            asked.answers,
            num_options=asked.num_options,
            options=asked.options,
        )
        labels = made.confidence if self.config.soft_labels else made.labels
        return labels, sure_enough(made.confidence, self.config.threshold)


def sure_enough(confidence: Tensor, threshold: float) -> Tensor | None:
    """Weights [B, F], 0 for frames whose label is too unsure; None: all count.

    Args:
        confidence: Probability of the right option, [B, F].
        threshold: Smallest probability of what the label says.
    """
    if threshold == 0.0:
        return None
    return (torch.maximum(confidence, 1 - confidence) >= threshold).float()


def sevila_of(model: nn.Module) -> Sevila:
    """The network below a wrapper for several processes, or beside a selector."""
    inner = getattr(model, "module", model)
    if isinstance(inner, SelectingAnswerer):
        return inner.sevila
    assert isinstance(inner, Sevila)
    return inner
