"""Distil a student that looks at K of T frames, chosen by its frame prompter.

Reads: features, teacher weights, weights to start from.   Writes: weights (role `student`).
Paper: VLAP (arXiv 2312.08367) sections 3.2-3.4; specs/vlap.md 2 and 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stages.artifacts.lookup import weights_of
from stages.artifacts.result import StageResult
from stages.artifacts.store import Artifact, Request, Workspace
from stages.artifacts.weights import read_weights
from stages.core.errors import UsageError
from stages.core.runtime import Runtime
from stages.models.vlap import VlapStudent, load_trained_state
from stages.systems.tuning import TuneAccuracy, vlap_of
from stages.training.inputs import TrainingInputs, count_of, events_folder, stored_frames
from stages.training.loop import Fit
from stages.training.memory import require_training_room
from stages.training.run import reuse_weights, run_training
from stages.training.smaller import train_in_smaller_batches
from stages.training.vlap import VlapData, VlapStageConfig
from stages.training.vlap_setup import VlapSetup, stage_config, vlap_plan, vlap_state

INITS = ("start", "teacher", "base")
TARGET_BATCH = 16


@dataclass(frozen=True)
class Origin:
    """Weights that a student is distilled from and starts from.

    Attributes:
        teacher: Teacher weights; None only where the student has no teacher branch.
        start: Weights that it starts from; None starts from the backbone.
    """

    teacher: Artifact | None
    start: Artifact | None


def find_origin(
    workspace: Workspace,
    inputs: TrainingInputs,
    values: dict[str, Any],
    teacher: str | None = None,
    start: str | None = None,
) -> Origin:
    """Choose teacher and start; takes `init` out of `values`.

    Without `init` the student starts from a start of its own K and T if there is one, else from
    the teacher (specs/vlap.md 3.4). Both are of the features' backbone. A teacher of the same T is
    preferred; its weights do not depend on T, so another one will do.

    Args:
        workspace: Where to look.
        inputs: Features that are learnt from.
        values: Settings.
        teacher: Teacher weights that the user named.
        start: Weights to start from that the user named.

    Raises:
        UsageError: Several fit, or `init` and `start` contradict each other.
        MissingInput: No teacher, or no start where one is asked for.
    """
    init = values.pop("init", None)
    if init is not None and init not in INITS:
        raise UsageError(f"--init {init!r}", f"one of {', '.join(INITS)}")
    if init == "base" and start is not None:
        raise UsageError(
            "--init base starts from the backbone, --weights from other weights", "leave one out"
        )
    needs_teacher = values.get("model", {}).get("teacher", "frozen") != "none"
    search = _Search(workspace, inputs, values)
    found = search.teacher(teacher) if needs_teacher or init == "teacher" else None
    if start is not None:
        roles = ROLES if init is None else (init,)
        benchmark = inputs.train_questions.config["benchmark"]
        return Origin(found, weights_of(workspace, benchmark, roles, reference=start))
    if init == "base":
        return Origin(found, None)
    if init == "teacher" or (init is None and not search.has_start()):
        return Origin(found, found)
    return Origin(found, search.start())


class _Search:
    """Weights in the workspace that suit a student of these inputs and settings."""

    def __init__(
        self, workspace: Workspace, inputs: TrainingInputs, values: dict[str, Any]
    ) -> None:
        self.workspace = workspace
        self.benchmark = str(inputs.train_questions.config["benchmark"])
        self.backbone = str(inputs.train_features.config["backbone"])
        self.frames = count_of(values, "frames") or stored_frames(inputs.train_features)
        self.keep = count_of(values, "keep")

    def teacher(self, reference: str | None) -> Artifact:
        """The teacher, of this T if there is one."""
        same = any(self._suits(item, "teacher") for item in self.workspace.finished("weights"))
        return weights_of(
            self.workspace,
            self.benchmark,
            ["teacher"],
            backbone=self.backbone,
            frames=self.frames if same else None,
            reference=reference,
            option="--teacher",
        )

    def has_start(self) -> bool:
        """Whether there is a start of this K and T."""
        finished = self.workspace.finished("weights")
        return any(
            self._suits(item, "start") and item.config["model"]["keep"] == self.keep
            for item in finished
        )

    def start(self) -> Artifact:
        """The start of this K and T."""
        return weights_of(
            self.workspace,
            self.benchmark,
            ["start"],
            backbone=self.backbone,
            frames=self.frames,
            keep=self.keep,
        )

    def _suits(self, item: Artifact, role: str) -> bool:
        made = item.config
        given = (made["system"], made["benchmark"], made["backbone"], made["role"])
        wanted = ("vlap", self.benchmark, self.backbone, role)
        return given == wanted and bool(made["model"]["frames"] == self.frames)


ROLES = ("start", "teacher", "student")


def distill(
    workspace: Workspace,
    inputs: TrainingInputs,
    values: dict[str, Any],
    runtime: Runtime,
    *,
    teacher: Artifact | None,
    start: Artifact | None,
    tensorboard: bool = False,
) -> StageResult:
    """Train and write the weights of one student.

    Args:
        workspace: Where to write.
        inputs: Features and backbone.
        values: Settings; `keep` and `prompter` among them.
        runtime: How to run.
        teacher: Teacher weights; None only with `model.teacher=none`.
        start: Weights that the student starts from; None starts from the backbone.
        tensorboard: Write event files below the workspace's `.logs`; an extra.
    """
    origin = Origin(teacher, start)
    return train_in_smaller_batches(
        lambda given: _train(workspace, inputs, given, runtime, origin, tensorboard),
        values,
        lambda given: _request(inputs, given, runtime, origin)[0],
        inputs.backbone,
        runtime.device,
    )


def _train(
    workspace: Workspace,
    inputs: TrainingInputs,
    values: dict[str, Any],
    runtime: Runtime,
    origin: Origin,
    tensorboard: bool,
) -> StageResult:
    teacher, start = origin.teacher, origin.start
    config, request = _request(inputs, values, runtime, origin)
    following = [f"vqa eval --benchmark {config.benchmark} --system vlap"]
    notes = [
        *inputs.notes(),
        f"teacher: {teacher.id if teacher else 'none'}",
        f"starts from: {start.id if start else 'the backbone'}",
    ]
    reused = reuse_weights(workspace, request, runtime, following, notes)
    if reused is not None:
        return reused
    require_training_room(request, inputs.backbone, runtime)
    events = events_folder(workspace, request, tensorboard)
    setup = VlapSetup.make(config, inputs, runtime, events)

    def build(directory: Path) -> Fit:
        student = _student(setup, teacher, start)
        data = setup.train_data()
        if config.cache_teacher_targets:
            keep_targets(student, data, setup)
        evaluate = TuneAccuracy.of_split(
            inputs.tune_questions,
            inputs.tune_features,
            config.model.frames,
            config.eval_batch_size,
            setup.accelerator,
            vlap_of(config.answer, config.benchmark),
        )
        return setup.fit(student, data, directory, evaluate)

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
    workspace: Workspace,
    inputs: TrainingInputs,
    values: dict[str, Any],
    runtime: Runtime,
    origin: Origin,
) -> dict[str, Any]:
    """What `distill` would read and do; writes nothing."""
    config, request = _request(inputs, values, runtime, origin)
    return vlap_plan(workspace, request, config, inputs, runtime.device)


def _request(
    inputs: TrainingInputs, values: dict[str, Any], runtime: Runtime, origin: Origin
) -> tuple[VlapStageConfig, Request]:
    config = stage_config(values, "student", inputs, "distill")
    model = config.model
    label = f"{config.benchmark}-vlap-student-{model.prompter}-{model.frames}to{model.keep}"
    given = inputs.as_inputs(teacher=origin.teacher, start=origin.start)
    return config, Request("weights", runtime.name or label, config.as_json(), given)


def _student(setup: VlapSetup, teacher: Artifact | None, start: Artifact | None) -> VlapStudent:
    """The student network, its start and its teacher loaded."""
    device = setup.accelerator.device
    student = VlapStudent(setup.backbone, setup.config.model, tokens=setup.config.tokens)
    if start is not None:
        load_trained_state(student, read_weights(start), start=True)
    if teacher is not None and student.teacher is not None:
        student.load_teacher(read_weights(teacher))
    return student.to(device)


@torch.no_grad()
def keep_targets(student: VlapStudent, data: VlapData, setup: VlapSetup) -> None:
    """Give `data` the frozen teacher's tokens [questions, T * Q, D] and, where the prompter learns
    from them, the likelihoods of the answer from each frame [questions, T].

    Computed in fixed batches in the questions' order, so that a resumed run has the same bits.
    """
    student.eval()
    device, tokens, likelihoods = setup.accelerator.device, [], []
    for first in range(0, len(data), TARGET_BATCH):
        batch = data.batch(range(first, min(first + TARGET_BATCH, len(data))), epoch=0)
        features, text = batch.features.to(device), batch.text.to(device)
        if student.config.relevance:
            seen, likely = student.both_targets(features, text, batch.labels)
            likelihoods.append(likely.cpu())
        else:
            seen = student.teacher_targets(features, text)
        tokens.append(seen.cpu())
        setup.runtime.progress(min(first + TARGET_BATCH, len(data)), len(data), "teacher targets")
    data.teacher_targets = torch.cat(tokens)
    data.relevance_targets = torch.cat(likelihoods) if likelihoods else None
