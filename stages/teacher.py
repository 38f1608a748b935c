"""Train the VLAP teacher on all frames, or the K-frame model that a student starts from.

Reads: features of the train and tune splits.   Writes: weights (role `teacher` or `start`).
Paper: VLAP (arXiv 2312.08367) section 3; specs/vlap.md 1 and 3.4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.artifacts.result import StageResult
from stages.artifacts.store import Request, Workspace
from stages.core.runtime import Runtime
from stages.models.vlap import VlapTeacher
from stages.systems.tuning import TuneAccuracy, vlap_of
from stages.training.inputs import TrainingInputs, count_of, events_folder, stored_frames
from stages.training.loop import Fit
from stages.training.memory import require_training_room
from stages.training.run import reuse_weights, run_training
from stages.training.smaller import train_in_smaller_batches
from stages.training.vlap import VlapStageConfig
from stages.training.vlap_setup import VlapSetup, stage_config, vlap_plan, vlap_state


def train_teacher(
    workspace: Workspace,
    inputs: TrainingInputs,
    values: dict[str, Any],
    runtime: Runtime,
    *,
    tensorboard: bool = False,
) -> StageResult:
    """Train and write the weights of one multi-frame model.

    Args:
        workspace: Where to write.
        inputs: Features and backbone.
        values: Settings; with `keep` smaller than `frames` the model is a K-frame start: a random
            frame of each segment in training, the middle one in evaluation.
        runtime: How to run.
        tensorboard: Write event files below the workspace's `.logs`; an extra.
    """
    return train_in_smaller_batches(
        lambda given: _train(workspace, inputs, given, runtime, tensorboard),
        values,
        lambda given: _request(inputs, given, runtime)[0],
        inputs.backbone,
        runtime.device,
    )


def _train(
    workspace: Workspace,
    inputs: TrainingInputs,
    values: dict[str, Any],
    runtime: Runtime,
    tensorboard: bool,
) -> StageResult:
    config, request = _request(inputs, values, runtime)
    following = [f"vqa distill --benchmark {config.benchmark} --keep 4"]
    notes = inputs.notes()
    reused = reuse_weights(workspace, request, runtime, following, notes)
    if reused is not None:
        return reused
    require_training_room(request, inputs.backbone, runtime)
    events = events_folder(workspace, request, tensorboard)
    setup = VlapSetup.make(config, inputs, runtime, events)

    def build(directory: Path) -> Fit:
        model = VlapTeacher(setup.backbone, config.model).to(setup.accelerator.device)
        evaluate = TuneAccuracy.of_split(
            inputs.tune_questions,
            inputs.tune_features,
            config.model.frames,
            config.eval_batch_size,
            setup.accelerator,
            vlap_of(config.answer, config.benchmark),
        )
        return setup.fit(model, setup.train_data(), directory, evaluate)

    return run_training(
        workspace,
        request,
        runtime,
        setup.accelerator,
        inputs.backbone,
        build,
        vlap_state,
        following,
        notes,
    )


def plan(
    workspace: Workspace, inputs: TrainingInputs, values: dict[str, Any], runtime: Runtime
) -> dict[str, Any]:
    """What `train_teacher` would read and do; writes nothing."""
    config, request = _request(inputs, values, runtime)
    return vlap_plan(workspace, request, config, inputs, runtime.device)


def _request(
    inputs: TrainingInputs, values: dict[str, Any], runtime: Runtime
) -> tuple[VlapStageConfig, Request]:
    frames = count_of(values, "frames") or stored_frames(inputs.train_features)
    role = "teacher" if values.get("keep") in (None, frames) else "start"
    config = stage_config(values, role, inputs, "train-teacher")
    label = runtime.name or f"{config.benchmark}-vlap-{role}-{config.model.keep}f"
    return config, Request("weights", label, config.as_json(), inputs.as_inputs())
