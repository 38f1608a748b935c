"""What every training stage reads, and how it is found in the workspace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.artifacts.lookup import (
    check_one_release,
    features_of,
    prepared_splits,
    questions_for,
)
from stages.artifacts.store import Artifact, Request, Workspace
from stages.artifacts.weights import backbone_of
from stages.benchmarks.batches import QuestionFeatures, load_questions
from stages.benchmarks.manifest import load_manifest, split_name
from stages.benchmarks.prompts import AnswerMode, letter_problem
from stages.core.device import resolve_device
from stages.core.errors import ConfigError, DataError, MissingInput, UsageError
from stages.models.backbones.catalog import (
    CLIP_LAYOUT,
    backbone_label,
    backbone_path,
    in_layout,
)
from stages.models.backbones.folder import BackboneFolder
from stages.training.loop import TrainingConfig
from stages.training.memory import weights_peak


@dataclass(frozen=True)
class TrainingInputs:
    """Artifacts that a training stage reads.

    Attributes:
        train_questions, train_features: What is learnt from.
        tune_questions, tune_features: What chooses the checkpoint, if there is such a split.
        backbone: Name or folder of the backbone.
    """

    train_questions: Artifact
    train_features: Artifact
    tune_questions: Artifact | None
    tune_features: Artifact | None
    backbone: str

    def as_inputs(self, **weights: Artifact | None) -> dict[str, Artifact]:
        """Role to artifact, for the request."""
        named = {
            "train_questions": self.train_questions,
            "train_features": self.train_features,
            "tune_questions": self.tune_questions,
            "tune_features": self.tune_features,
            **weights,
        }
        return {role: item for role, item in named.items() if item is not None}

    def notes(self) -> list[str]:
        """What was chosen, for the terminal."""
        notes = [f"questions: {self.train_questions.id}", f"features: {self.train_features.id}"]
        if self.tune_questions is not None and self.tune_features is not None:
            notes.append(f"tuned on: {self.tune_questions.id}, {self.tune_features.id}")
        return notes


def find_inputs(
    workspace: Workspace,
    benchmark: str,
    backbone: str | None,
    frames: int | None,
    references: Sequence[str],
    *,
    questions: Sequence[str] = (),
    split: str | None = None,
    layout: str | None = None,
) -> TrainingInputs:
    """Features of the splits that are learnt from and tuned on.

    Args:
        workspace: Where to look.
        benchmark: Name of the benchmark.
        backbone: Name or folder; none: the one that the features were made with.
        frames: Frames per clip that must be stored.
        references: Features artifacts that the user named.
        questions: Questions artifacts that the user named.
        split: Split that is learnt from; none: the benchmark's own train split. It is not tuned on
            as well.
        layout: Layout that the backbone must have; features then fit if their vision tower is the
            same, whatever the backbone is called that they were made with.

    Raises:
        MissingInput: No features of the train split. A missing tune split is no error.
        UsageError: Several fit, or the two splits are of different releases of the benchmark.
    """
    manifest = load_manifest(benchmark)
    if backbone is not None and layout is not None:
        backbone = in_layout(backbone, layout)
    label = backbone_label(backbone) if backbone and layout is None else None
    tower = _tower(backbone) if backbone and layout is not None else None
    prepared = prepared_splits(workspace, benchmark)

    def first_of(splits: Sequence[str]) -> tuple[Artifact, Artifact] | None:
        ready = [name for name in splits if name in prepared]
        if not ready:
            return None
        asked = questions_for(
            workspace,
            benchmark,
            ready[0],
            questions=questions,
            features=references,
            backbone=label,
        )
        found = features_of(
            workspace,
            asked,
            backbone=label,
            frames=frames,
            references=references,
            folder=backbone,
            tower=tower,
            with_cls=layout == CLIP_LAYOUT,
        )
        return asked, found

    learnt = [split_name(manifest, split)] if split else list(manifest.splits_for("train"))
    train = first_of(learnt)
    if train is None:
        name = (*learnt, "train")[0]
        raise MissingInput(
            f"no prepared {name} split of {benchmark} in workspace {workspace.root}",
            f"vqa prepare --benchmark {benchmark} --split {name} ...",
        )
    tune = first_of([name for name in manifest.splits_for("tune") if name not in learnt])
    check_one_release([train[0], *([tune[0]] if tune else [])])
    used = backbone or backbone_of(train[1])
    return TrainingInputs(
        *train,
        tune[0] if tune else None,
        tune[1] if tune else None,
        used if layout is None else in_layout(used, layout),
    )


def _tower(backbone: str) -> str:
    return BackboneFolder(backbone_path(backbone)).tower_fingerprint()


def count_of(values: Mapping[str, Any], name: str) -> int | None:
    """The number of frames called `name`, if it is given.

    Raises:
        ConfigError: Not a number above 0.
    """
    value = values.get(name)
    if value is not None and (type(value) is not int or value < 1):
        raise ConfigError(f"{name}: a number of frames, not {value!r}")
    return value


def stored_frames(features: Artifact) -> int:
    """T where none is asked for: the largest stored number of frames per clip."""
    return max(features.config["sampling"]["frames"])


def check_vision(inputs: TrainingInputs) -> BackboneFolder:
    """The backbone's folder, if all features come from its vision tower.

    Raises:
        ConfigError: Some come from another tower.
    """
    folder = BackboneFolder(backbone_path(inputs.backbone))
    vision = folder.tower_fingerprint()
    for features in (inputs.train_features, inputs.tune_features):
        if features is not None and features.config["weights"] != vision:
            raise ConfigError(
                f"{features.id} was extracted with another vision tower than {folder.path} has",
                "give the folder it was made with: --backbone PATH, or extract again",
            )
    return folder


def check_answerable(questions: Artifact, mode: AnswerMode) -> None:
    """Refuse, before training starts, labelled questions that have no target in `mode`.

    Raises:
        DataError: More options than letters; names the first such question.
        UsageError: An open-ended question in letter mode.
    """
    for question in load_questions(questions) if mode == "letter" else []:
        problem = letter_problem(question) if question.labelled else ""
        if problem and question.open_ended:
            raise UsageError(f"{question.question_id}: {problem}", "use --answer rank")
        if problem:
            raise DataError(f"{questions.id}: {question.question_id}: {problem}", "--answer rank")


def training_plan(
    workspace: Workspace,
    request: Request,
    inputs: TrainingInputs,
    training: TrainingConfig,
    *,
    frames: int,
    answer: AnswerMode,
    device: str,
    limit: int | None = None,
) -> dict[str, Any]:
    """What a run of training would read and do; writes nothing and loads no model."""
    data = QuestionFeatures(inputs.train_questions, inputs.train_features, frames)
    count = len(data.usable(labelled=True)[:limit])
    for questions in (inputs.train_questions, inputs.tune_questions):
        if questions is not None:
            check_answerable(questions, answer)
    return request_plan(workspace, request, training, count, inputs.backbone, device)


def request_plan(
    workspace: Workspace,
    request: Request,
    training: TrainingConfig,
    count: int,
    backbone: str,
    device: str,
) -> dict[str, Any]:
    """What training on `count` questions would do, and the memory that it would take."""
    kind = resolve_device(device).type
    existing = workspace.existing(request)
    passes = max(1, count // training.batch_size) * training.epochs if count else 0
    return {
        "artifact": existing.id if existing else request.id,
        "reused": existing is not None,
        "inputs": [item.id for item in request.inputs.values()],
        "questions": count,
        "epochs": training.epochs,
        "forward_passes": 0 if existing else passes,
        "memory": weights_peak(request.config, backbone, kind).as_json(),
    }


def events_folder(workspace: Workspace, request: Request, wanted: bool) -> Path | None:
    """Where TensorBoard event files of a run go: beside the artifacts, since they hold times."""
    return workspace.root / ".logs" / request.id if wanted else None
