"""From a command's values and the workspace's artifacts to a ready run of SeViLA training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import nn

from stages.artifacts.store import Artifact
from stages.core.device import resolve_device
from stages.core.errors import ConfigError
from stages.core.optional import require
from stages.core.runtime import Runtime
from stages.models.backbones.catalog import backbone_fingerprint, backbone_label, backbone_path
from stages.models.backbones.folder import BackboneFolder
from stages.models.sevila import selection_settings
from stages.training.inputs import TrainingInputs, check_vision, count_of, stored_frames
from stages.training.loop import Fit, Forward, TrainingData, make_accelerator
from stages.training.sevila import AnswererConfig, LocalizerConfig

DEFAULT_KEEP = 4
Made = TypeVar("Made", AnswererConfig, LocalizerConfig)


def sevila_values(values: dict[str, Any], inputs: TrainingInputs) -> dict[str, Any]:
    """A command's values with what the inputs decide.

    Args:
        values: Recipe, flags and overrides; `seed` is that of training.
        inputs: What is read.

    Raises:
        ConfigError: `frames` or `keep` is no number of frames, or `training` no group.
    """
    values = dict(values)
    training = values.get("training", {})
    if not isinstance(training, dict):
        raise ConfigError(f"training: a group of settings, not {training!r}", "--set training.KEY=")
    if "seed" in values:
        values["training"] = {**training, "seed": values.pop("seed")}
    count_of(values, "keep")
    folder = BackboneFolder(backbone_path(inputs.backbone))
    return {
        **values,
        "frames": count_of(values, "frames") or stored_frames(inputs.train_features),
        "benchmark": inputs.train_questions.config["benchmark"],
        "backbone": backbone_label(inputs.backbone),
        "backbone_weights": backbone_fingerprint(folder),
    }


def with_selection(values: dict[str, Any], localizer: Artifact | None) -> dict[str, Any]:
    """A command's values, with how trained localizer weights keep frames where nothing else is
    said: an answerer learns from the frames that they would keep, a refinement goes on from them.
    """
    given = values.get("model", {})
    if localizer is None or not isinstance(given, dict):
        return values
    return {**values, "model": {**selection_settings(localizer.config["model"]), **given}}


def default_keep(frames: int) -> int:
    """K where none is given."""
    return min(DEFAULT_KEEP, frames)


@dataclass
class SevilaSetup:
    """What a run of SeViLA training needs besides its network."""

    config: AnswererConfig | LocalizerConfig
    inputs: TrainingInputs
    runtime: Runtime
    accelerator: Accelerator
    events: Path | None = None
    """Folder for TensorBoard event files."""

    @classmethod
    def make(
        cls,
        config: AnswererConfig | LocalizerConfig,
        inputs: TrainingInputs,
        runtime: Runtime,
        events: Path | None = None,
    ) -> SevilaSetup:
        """Check the features and start `accelerate`.

        Raises:
            ConfigError: Features of another vision tower, or a precision that the device lacks.
        """
        if events is not None:
            require("tensorboard", "tensorboard")
        check_vision(inputs)
        torch.manual_seed(config.training.seed)
        accelerator = make_accelerator(resolve_device(runtime.device), config.training)
        return cls(config, inputs, runtime, accelerator, events)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.accelerator.device

    def fit(
        self,
        model: nn.Module,
        data: TrainingData,
        directory: Path,
        forward: Forward,
        evaluate: Callable[[nn.Module], float] | None,
    ) -> Fit:
        """The run of training of `model`."""
        return Fit(
            model,
            data,
            self.config.training,
            directory,
            forward=forward,
            evaluate=evaluate,
            accelerator=self.accelerator,
            progress=self.runtime.progress,
            events=self.events,
        )


def trained_note(what: str, weights: Artifact | None) -> str:
    """Which weights a frozen or starting part has."""
    return f"{what}: {weights.id if weights else 'the backbone as it is'}"
