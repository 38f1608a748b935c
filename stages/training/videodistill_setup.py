"""From a command's values and the workspace's artifacts to a ready run of VideoDistill training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from accelerate import Accelerator
from torch import nn

from stages.benchmarks.manifest import BenchmarkManifest, load_manifest
from stages.benchmarks.questions import Question
from stages.benchmarks.vocabulary import AnswerVocabulary, build_vocabulary
from stages.core.device import resolve_device
from stages.core.errors import ConfigError, UsageError
from stages.core.optional import require
from stages.core.runtime import Runtime
from stages.models.backbones.catalog import backbone_fingerprint, backbone_label, backbone_path
from stages.models.backbones.folder import BackboneFolder
from stages.models.sentences import Sentences
from stages.models.videodistill import VideoDistill
from stages.models.videodistill_config import TABLE_4
from stages.models.videodistill_network import network_over
from stages.training.inputs import TrainingInputs, check_vision, count_of, stored_frames
from stages.training.loop import Fit, TrainingData, make_accelerator
from stages.training.videodistill import (
    TrainedTask,
    VideoDistillForward,
    VideoDistillStageConfig,
)

PAPER_KEEP = 16
PAPER_TRAINING: Mapping[str, Any] = {
    "batch_size": 128,
    "optimizer": {"weight_decay": 1e-3},
    "schedule": {"kind": "step_linear", "init_lr": 3e-5, "min_lr": 0.0, "warmup_lr": 0.0},
}
"""Optimisation of the paper (B.1, B.2); epochs and warm-up steps of fine-tuning are not given."""
PAPER_PRETRAINING: Mapping[str, Any] = {**PAPER_TRAINING, "batch_size": 256, "epochs": 2}
MATCHING_ALONE: Mapping[str, float] = {"contrastive_weight": 0.0, "mlm_weight": 0.0}
"""Of the losses on captions, what retrieval by the matching head is trained with."""
DEFAULT_VOCABULARY = 1500


def videodistill_values(values: dict[str, Any], inputs: TrainingInputs) -> dict[str, Any]:
    """A command's values with the paper's defaults and what the inputs decide.

    Args:
        values: Recipe, flags and overrides; `task`, `variant`, `frames`, `keep`, `seed` among them.
            None as the task is that of the benchmark, `captions` is pre-training.
        inputs: What is read.

    Raises:
        UsageError: No such variant or task, or the benchmark has no such task.
        ConfigError: `frames` or `keep` is no number of frames, or a group is none.
    """
    values = copy.deepcopy(values)
    manifest = load_manifest(inputs.train_questions.config["benchmark"])
    task = values.get("task")
    defaults = PAPER_PRETRAINING if task == "captions" else PAPER_TRAINING
    training = _over(defaults, _group(values, "training"))
    if "seed" in values:
        training["seed"] = values.pop("seed")
    frames = count_of(values, "frames") or stored_frames(inputs.train_features)
    keep = count_of(values, "keep") or min(PAPER_KEEP, frames)
    model = _group(values, "model")
    for name in {"frames", "keep"} & set(model):
        raise ConfigError(f"model.{name} is decided by {name}", f"--{name} N, or --set {name}=N")
    model |= variant(values.pop("variant", None))
    if task == "matching":
        model |= MATCHING_ALONE
    values = {name: value for name, value in values.items() if name not in ("frames", "keep")}
    return {
        **values,
        "role": "pretrained" if task == "captions" else "trained",
        "model": {**model, "frames": frames, "keep": keep},
        "training": training,
        "benchmark": manifest.name,
        "backbone": backbone_label(inputs.backbone),
        "backbone_weights": backbone_fingerprint(BackboneFolder(backbone_path(inputs.backbone))),
    }


def _group(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    given = values.get(name, {})
    if not isinstance(given, dict):
        raise ConfigError(f"{name}: a group of settings, not {given!r}", f"--set {name}.KEY=")
    return dict(given)


def _over(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` over the defaults, group by group."""
    merged = {name: dict(v) if isinstance(v, Mapping) else v for name, v in defaults.items()}
    for name, value in given.items():
        own = merged.get(name)
        both = isinstance(own, dict) and isinstance(value, Mapping)
        merged[name] = _over(own, value) if both and own is not None else value
    return merged


def variant(name: str | None) -> dict[str, Any]:
    """What a row of the paper's Table 4 changes.

    Raises:
        UsageError: There is no such row.
    """
    if name is None:
        return {}
    if name not in TABLE_4:
        raise UsageError(f"--variant {name!r}", f"rows of Table 4: {', '.join(TABLE_4)}")
    return dict(TABLE_4[name])


def task_of(
    asked: str | None, manifest: BenchmarkManifest, questions: Sequence[Question]
) -> TrainedTask:
    """What is learnt from a benchmark's questions: what the user says, or what they are.

    Raises:
        UsageError: No such task, or the questions have nothing to learn it from.
    """
    tasks: dict[str, TrainedTask] = {name: name for name in get_args(TrainedTask)}
    if asked is not None and asked not in tasks:
        raise UsageError(f"--task {asked!r}", f"known: {', '.join(tasks)}")
    if asked is not None:
        return tasks[asked]
    if manifest.task == "retrieval":
        return "contrastive"
    if manifest.task == "moments":
        raise UsageError(f"VideoDistill finds no moments, and {manifest.name} asks for them")
    return "choice" if any(question.options for question in questions) else "open-ended"


@dataclass
class VideoDistillSetup:
    """What a run of VideoDistill training needs besides its network."""

    config: VideoDistillStageConfig
    inputs: TrainingInputs
    runtime: Runtime
    accelerator: Accelerator
    folder: BackboneFolder
    sentences: Sentences
    events: Path | None = None
    """Folder for TensorBoard event files."""

    @classmethod
    def make(
        cls,
        config: VideoDistillStageConfig,
        inputs: TrainingInputs,
        runtime: Runtime,
        events: Path | None = None,
    ) -> VideoDistillSetup:
        """Check the features and start `accelerate`.

        Raises:
            ConfigError: Features of another vision tower, or without a frame CLS, or a precision
                that the device lacks.
        """
        if events is not None:
            require("tensorboard", "tensorboard")
        folder = check_vision(inputs)
        for features in (inputs.train_features, inputs.tune_features):
            if features is not None and not features.manifest.get("cls_width"):
                raise ConfigError(
                    f"{features.id} has no frame CLS apart from its tokens",
                    "extract features with a CLIP backbone",
                )
        torch.manual_seed(config.training.seed)
        accelerator = make_accelerator(resolve_device(runtime.device), config.training)
        sentences = Sentences.load(folder)
        return cls(config, inputs, runtime, accelerator, folder, sentences, events)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.accelerator.device

    def network(self) -> VideoDistill:
        """A network from CLIP's text tower and random weights, the same for an equal seed."""
        torch.manual_seed(self.config.training.seed)
        return network_over(
            self.folder,
            self.config.model,
            self.device,
            with_captions=self.config.task == "captions",
            frame_chunk=self.config.frame_chunk,
        )

    def fit(
        self,
        model: nn.Module,
        data: TrainingData,
        directory: Path,
        evaluate: Callable[[nn.Module], float] | None,
    ) -> Fit:
        """The run of training of `model`."""
        return Fit(
            model,
            data,
            self.config.training,
            directory,
            forward=VideoDistillForward(self.config, self.device),
            evaluate=evaluate,
            accelerator=self.accelerator,
            progress=self.runtime.progress,
            events=self.events,
        )


def vocabulary_of(values: Mapping[str, Any], questions: Sequence[Question]) -> AnswerVocabulary:
    """The answers that an open-ended training knows.

    Raises:
        ConfigError: `vocabulary_size` is no number of answers.
    """
    size = values.get("vocabulary_size", DEFAULT_VOCABULARY)
    if type(size) is not int or size < 2:
        raise ConfigError(f"vocabulary_size: a number of answers, at least 2, not {size!r}")
    return build_vocabulary(questions, size)
