"""From a command's values and the workspace's artifacts to a ready run of VLAP training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from stages.artifacts.store import Request, Workspace
from stages.benchmarks.batches import QuestionFeatures
from stages.benchmarks.manifest import load_manifest
from stages.core.device import resolve_device
from stages.core.errors import ConfigError, UsageError
from stages.core.optional import require
from stages.core.runtime import Runtime
from stages.models.backbones.catalog import (
    backbone_fingerprint,
    backbone_label,
    backbone_path,
)
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.instructblip import InstructBlip
from stages.models.vlap import PRESETS, VlapStudent, VlapTeacher, trained_state
from stages.training.inputs import (
    TrainingInputs,
    check_answerable,
    check_vision,
    count_of,
    stored_frames,
    training_plan,
)
from stages.training.loop import Fit, make_accelerator
from stages.training.vlap import TauForward, VlapData, VlapStageConfig

PRESET_TRAINING: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "reference": {"accumulate_rule": "sum"},
}
PRESET_TEMPERATURE: Mapping[str, Mapping[str, Any]] = {
    "paper": {"total": "steps"},
    "reference": {"total": "epochs", "epochs": 50},
}
"""What the presets of specs/vlap.md 10 say beyond the network's own options."""


def with_preset(values: dict[str, Any]) -> dict[str, Any]:
    """Settings with their preset spelled out; what the user set stands over it.

    Raises:
        UsageError: No such preset.
    """
    values = dict(values)
    name = values.pop("preset", "paper")
    if name not in PRESETS:
        raise UsageError(f"no preset called {name!r}", f"known: {', '.join(PRESETS)}")
    groups = {"model": PRESETS, "training": PRESET_TRAINING, "temperature": PRESET_TEMPERATURE}
    for group, presets in groups.items():
        given = values.get(group, {})
        if not isinstance(given, dict):
            raise ConfigError(f"{group}: a group of settings, not {given!r}", f"--set {group}.KEY=")
        values[group] = {**presets[name], **given}
    for key in {"frames", "keep"} & set(values["model"]):
        raise ConfigError(f"model.{key} is decided by {key}", f"--{key} N, or --set {key}=N")
    return values


def stage_config(
    values: dict[str, Any], role: str, inputs: TrainingInputs, command: str
) -> VlapStageConfig:
    """The validated configuration of a training stage.

    Args:
        values: Recipe, flags and overrides: `frames`, `keep`, `answer`, `seed`, `preset`, and the
            groups `model`, `training`, `temperature`.
        role: `teacher`, `start` or `student`.
        inputs: What is read.
        command: For error messages.
    """
    values = with_preset(values)
    benchmark = inputs.train_questions.config["benchmark"]
    folder = BackboneFolder(backbone_path(inputs.backbone))
    frames = count_of(values, "frames") or stored_frames(inputs.train_features)
    keep = count_of(values, "keep")
    keep = keep or frames
    values = {name: value for name, value in values.items() if name not in ("frames", "keep")}
    values["model"] = {"frames": frames, "keep": keep, **values["model"]}
    if "prompter" in values:
        values["model"]["prompter"] = values.pop("prompter")
    if "seed" in values:
        values["training"]["seed"] = values.pop("seed")
    values.setdefault("answer", load_manifest(benchmark).answer_default)
    return VlapStageConfig.build(
        {
            **values,
            "role": role,
            "benchmark": benchmark,
            "backbone": backbone_label(inputs.backbone),
            "backbone_weights": backbone_fingerprint(folder),
            "tokens": inputs.train_features.manifest["tokens"],
        },
        command,
    )


@dataclass
class VlapSetup:
    """Everything that a run of VLAP training needs besides its network."""

    config: VlapStageConfig
    inputs: TrainingInputs
    runtime: Runtime
    accelerator: Accelerator
    backbone: InstructBlip
    events: Path | None = None
    """Folder for TensorBoard event files."""

    @classmethod
    def make(
        cls,
        config: VlapStageConfig,
        inputs: TrainingInputs,
        runtime: Runtime,
        events: Path | None = None,
    ) -> VlapSetup:
        """Load the backbone and start `accelerate`."""
        if events is not None:
            require("tensorboard", "tensorboard")
        for questions in (inputs.train_questions, inputs.tune_questions):
            if questions is not None:
                check_answerable(questions, config.answer)
        if inputs.train_features.config["backbone"] != config.backbone:
            raise ConfigError(
                f"{inputs.train_features.id} was extracted with "
                f"{inputs.train_features.config['backbone']}, not {config.backbone}"
            )
        folder = check_vision(inputs)
        torch.manual_seed(config.training.seed)
        accelerator = make_accelerator(resolve_device(runtime.device), config.training)
        backbone = InstructBlip.load(folder, accelerator.device, config.training.precision)
        backbone = backbone.to(accelerator.device)
        return cls(config, inputs, runtime, accelerator, backbone, events)

    def train_data(self) -> VlapData:
        """The training questions."""
        data = QuestionFeatures(
            self.inputs.train_questions, self.inputs.train_features, self.config.model.frames
        )
        rule = load_manifest(self.config.benchmark).prompt
        return VlapData(
            data,
            self.backbone.text,
            self.config.answer,
            rule,
            self.config.training.seed,
            self.config.max_train_questions,
        )

    def fit(
        self,
        model: nn.Module,
        data: VlapData,
        directory: Path,
        evaluate: Callable[[nn.Module], float] | None,
    ) -> Fit:
        """The run of training of `model`."""
        return Fit(
            model,
            data,
            self.config.training,
            directory,
            forward=TauForward(self.config, self.accelerator.device),
            evaluate=evaluate,
            accelerator=self.accelerator,
            progress=self.runtime.progress,
            events=self.events,
        )


def vlap_plan(
    workspace: Workspace,
    request: Request,
    config: VlapStageConfig,
    inputs: TrainingInputs,
    device: str,
) -> dict[str, Any]:
    """What a run of VLAP training would read and do; see `training_plan`."""
    return training_plan(
        workspace,
        request,
        inputs,
        config.training,
        frames=config.model.frames,
        answer=config.answer,
        device=device,
        limit=config.max_train_questions,
    )


def vlap_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a VLAP weights artifact."""
    assert isinstance(model, VlapTeacher | VlapStudent)
    return trained_state(model)
