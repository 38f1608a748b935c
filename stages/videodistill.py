"""Train VideoDistill: on captions, and on a benchmark's questions, texts or candidate videos.

Reads: CLIP features of the train and tune splits, weights to start from.   Writes: weights (role
`pretrained` or `trained`; for open-ended questions the answer vocabulary lies beside them).
Paper: VideoDistill (arXiv 2404.00973) sections 3 and 4, appendix B; specs/videodistill.md 5 and 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stages.artifacts import atomic
from stages.artifacts.halving import in_smaller_batches
from stages.artifacts.lookup import NO_WEIGHTS
from stages.artifacts.result import StageResult
from stages.artifacts.store import Artifact, Request, Workspace
from stages.artifacts.weights import read_weights
from stages.benchmarks.batches import QuestionFeatures, load_questions
from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.vocabulary import AnswerVocabulary
from stages.core.device import resolve_device
from stages.core.errors import DataError, OutOfMemory
from stages.core.memory import Peak
from stages.core.runtime import Runtime
from stages.models.videodistill import Task, VideoDistill, load_weights
from stages.systems.face import System
from stages.systems.retrieval import TuneRecall
from stages.systems.tuning import TuneAccuracy
from stages.systems.videodistill import READ_BY_TASK, VOCABULARY_FILE, videodistill_system
from stages.training.inputs import TrainingInputs, events_folder, request_plan
from stages.training.loop import STATE_FILE, Fit, TrainingConfig
from stages.training.memory import require_training_room, weights_peak
from stages.training.run import reuse_weights, run_training
from stages.training.sampler_start import start_sampler
from stages.training.smaller import named, smaller_training
from stages.training.videodistill import (
    StageTask,
    VideoDistillData,
    VideoDistillStageConfig,
    learnable,
    network_of,
)
from stages.training.videodistill_setup import (
    VideoDistillSetup,
    task_of,
    videodistill_values,
    vocabulary_of,
)

COMPARE_WITHIN_A_BATCH: tuple[StageTask, ...] = ("contrastive", "matching", "captions")
"""Tasks whose losses hold the texts and videos of a batch against each other: half of a batch is
another loss."""
NETWORK_TASKS: dict[StageTask, Task] = {
    "open-ended": "open-ended",
    "choice": "choice",
    "contrastive": "contrastive",
    "matching": "captions",
    "captions": "captions",
}
"""What each task trains of the network; matching is the captions' losses with one of them on."""


@dataclass(frozen=True)
class Training:
    """A training that is decided: what it writes, and what was found out on the way.

    Attributes:
        config: Everything that decides the weights, besides the inputs.
        request: The weights artifact.
        inputs: What is read.
        init: Weights to start from, besides CLIP's text tower.
        vocabulary: Answers of open-ended questions.
        coverage: How many questions of each split have their answer in the vocabulary.
    """

    config: VideoDistillStageConfig
    request: Request
    inputs: TrainingInputs
    init: Artifact | None
    vocabulary: AnswerVocabulary | None
    coverage: dict[str, dict[str, float]]

    @property
    def facts(self) -> dict[str, Any]:
        """For the manifest and the JSON."""
        if self.vocabulary is None:
            return {}
        return {"vocabulary": {"answers": len(self.vocabulary), **self.coverage}}

    def notes(self) -> list[str]:
        """What was chosen, for the terminal."""
        notes = [*self.inputs.notes(), f"task: {self.config.task}"]
        started = self.init.id if self.init else "CLIP's text tower, the rest at random"
        notes.append(f"starts from: {started}")
        if self.vocabulary is not None:
            shares = [
                f"{part['percent']:.1f} % of {split} ({part['covered']} of {part['labelled']})"
                for split, part in self.coverage.items()
            ]
            notes.append(f"vocabulary: {len(self.vocabulary)} answers cover {', '.join(shares)}")
        return notes


def find_init(workspace: Workspace, reference: str | None) -> Artifact | None:
    """VideoDistill weights that the user named, whatever they were trained on; None for none.

    Raises:
        UsageError: The named weights are another system's.
        MissingInput: Nothing of that name.
    """
    if reference is None or reference == NO_WEIGHTS:
        return None
    return workspace.choose(
        "weights",
        lambda item: item.config["system"] == "videodistill",
        described="VideoDistill weights",
        option="--init",
        command="vqa pretrain-videodistill --benchmark ...",
        reference=reference,
    )


def decide(
    inputs: TrainingInputs, values: dict[str, Any], runtime: Runtime, init: Artifact | None
) -> Training:
    """Resolve the configuration of a training; reads questions, no features and no weights.

    Args:
        inputs: Features and backbone.
        values: Settings; `task`, `variant`, `keep` among them. The task `captions` is pre-training.
        runtime: How to run.
        init: Weights to start from.
    """
    questions = load_questions(inputs.train_questions)
    manifest = load_manifest(inputs.train_questions.config["benchmark"])
    asked = values.get("task")
    task = asked if asked == "captions" else task_of(asked, manifest, questions)
    given = videodistill_values({**values, "task": task}, inputs)
    vocabulary, coverage = None, {}
    if task == "open-ended":
        vocabulary = vocabulary_of(given, questions)
        given["model"]["answers"] = len(vocabulary)
        coverage = {"train": vocabulary.coverage(questions).as_json()}
        if inputs.tune_questions is not None:
            tuned = vocabulary.coverage(load_questions(inputs.tune_questions))
            coverage["tune"] = tuned.as_json()
    command = "pretrain-videodistill" if task == "captions" else "train-videodistill"
    config = VideoDistillStageConfig.build(given, command)
    request = Request(
        "weights", runtime.name or _label(config), config.as_json(), inputs.as_inputs(init=init)
    )
    return Training(config, request, inputs, init, vocabulary, coverage)


def _label(config: VideoDistillStageConfig) -> str:
    model = config.model
    changed = [
        model.sampler if model.sampler != "hard" else "",
        "" if model.refinement else "transformer",
        "crossattention" if model.fusion == "cross_attention" else "",
    ]
    parts = [config.benchmark, "videodistill", config.task, f"{model.frames}to{model.keep}"]
    return "-".join([*parts, *filter(None, changed)])


def train(
    workspace: Workspace, training: Training, runtime: Runtime, *, tensorboard: bool = False
) -> StageResult:
    """Train and write the weights of one network.

    Args:
        workspace: Where to write.
        training: From `decide`.
        runtime: How to run.
        tensorboard: Write event files below the workspace's `.logs`; an extra.

    Raises:
        OutOfMemory: There is no smaller batch, or the loss compares the questions of a batch.
    """
    return in_smaller_batches(
        lambda one: _train(workspace, one, runtime, tensorboard),
        training,
        _smaller,
        lambda one: _peak(one, runtime),
    )


def _peak(training: Training, runtime: Runtime) -> Peak:
    device = resolve_device(runtime.device).type
    return weights_peak(training.config.as_json(), training.inputs.backbone, device)


def _smaller(training: Training) -> tuple[Training, str] | None:
    """The same with half the micro-batch, unless the batch is part of the loss."""
    task = training.config.task
    if task in COMPARE_WITHIN_A_BATCH:
        raise OutOfMemory(
            f"out of memory, and {task} compares the questions of a batch: half is another loss",
            "frame_chunk=N saves memory; a smaller training.batch_size is another training",
        )
    found = smaller_training(training.config.training)
    if found is None:
        return None
    smaller = TrainingConfig.build({**training.config.training.as_json(), **found})
    config = training.config.model_copy(update={"training": smaller})
    request = replace(training.request, config=config.as_json())
    return replace(training, config=config, request=request), named(found)


def _train(
    workspace: Workspace, training: Training, runtime: Runtime, tensorboard: bool
) -> StageResult:
    config, request = training.config, training.request
    following, notes = _following(training), training.notes()
    reused = reuse_weights(workspace, request, runtime, following, notes)
    if reused is not None:
        return _with_facts(reused, training)
    require_training_room(request, training.inputs.backbone, runtime)
    setup = VideoDistillSetup.make(
        config, training.inputs, runtime, events_folder(workspace, request, tensorboard)
    )
    result = run_training(
        workspace,
        request,
        runtime,
        setup.accelerator,
        training.inputs.backbone,
        lambda directory: _Run(training, setup).fit(directory),
        _state,
        following,
        notes,
        facts=lambda _: training.facts,
    )
    return _with_facts(result, training)


def plan(workspace: Workspace, training: Training, device: str = "auto") -> dict[str, Any]:
    """What `train` would read and do; writes nothing and loads no model."""
    config, inputs = training.config, training.inputs
    data = QuestionFeatures(inputs.train_questions, inputs.train_features, config.model.frames)
    usable = learnable(data, config.task, training.vocabulary)[: config.max_train_questions]
    known = {
        f"answers_covered_{split}_percent": part["percent"]
        for split, part in training.coverage.items()
    }
    return {
        **request_plan(
            workspace, training.request, config.training, len(usable), inputs.backbone, device
        ),
        "task": config.task,
        **known,
    }


def _following(training: Training) -> list[str]:
    benchmark = training.config.benchmark
    if training.config.role == "trained":
        return [f"vqa eval --benchmark {benchmark} --system videodistill"]
    return [f"vqa train-videodistill --benchmark ... --init {training.request.id}"]


def _with_facts(result: StageResult, training: Training) -> StageResult:
    return replace(result, details={**result.details, **training.facts})


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Everything: text tower and heads without a gradient are part of what answers."""
    return dict(network_of(model).state_dict())


# --- one run --------------------------------------------------------------------------------------


@dataclass
class _Run:
    """Network, data and tuning of one training."""

    training: Training
    setup: VideoDistillSetup

    def fit(self, directory: Path) -> Fit:
        """The run of training; writes the vocabulary into the draft."""
        config, vocabulary = self.training.config, self.training.vocabulary
        if vocabulary is not None and self.setup.accelerator.is_main_process:
            atomic.write_json(directory / VOCABULARY_FILE, vocabulary.as_json())
        network = self.setup.network()
        if self.training.init is not None:
            load_weights(network, read_weights(self.training.init), start=True)
        data = self._data()
        # A run that goes on has its weights in the saved state.
        if not (directory / STATE_FILE).exists():
            self._start_sampler(network, data)
        network.train_for(NETWORK_TASKS[config.task])
        return self.setup.fit(network, data, directory, self._tuning())

    def _start_sampler(self, network: VideoDistill, data: VideoDistillData) -> None:
        config, setup = self.training.config, self.setup
        start_sampler(
            network.train(),
            setup.folder,
            data,
            config.sampler_start,
            config.training.seed,
            setup.runtime.progress,
        )

    def _data(self) -> VideoDistillData:
        config, inputs = self.training.config, self.training.inputs
        data = QuestionFeatures(inputs.train_questions, inputs.train_features, config.model.frames)
        made = VideoDistillData(
            data,
            config,
            load_manifest(config.benchmark),
            self.setup.sentences,
            self.training.vocabulary,
        )
        if not len(made):
            raise DataError(
                f"no question of {inputs.train_questions.id} can be learnt from as {config.task}",
                "say with --task what is to be learnt",
            )
        return made

    def _tuning(self) -> Callable[[nn.Module], float] | None:
        """Accuracy on the tune split, or R@1 among its first texts; none for captions."""
        config, inputs = self.training.config, self.training.inputs
        if config.task == "captions":
            return None
        if config.task in ("contrastive", "matching"):
            return self._recall()
        return TuneAccuracy.of_split(
            inputs.tune_questions,
            inputs.tune_features,
            config.model.frames,
            config.eval_batch_size,
            self.setup.accelerator,
            self._system,
        )

    def _recall(self) -> TuneRecall | None:
        config, inputs = self.training.config, self.training.inputs
        if inputs.tune_questions is None or inputs.tune_features is None or not config.tune_texts:
            return None
        return TuneRecall(
            QuestionFeatures(inputs.tune_questions, inputs.tune_features, config.model.frames),
            config.tune_texts,
            self.setup.sentences,
            READ_BY_TASK[config.task],
            config.eval_batch_size,
            self.setup.accelerator,
        )

    def _system(self, model: nn.Module) -> System:
        config = self.training.config
        return videodistill_system(
            network_of(model),
            self.setup.sentences,
            load_manifest(config.benchmark),
            READ_BY_TASK[config.task],
            self.training.vocabulary,
            rows=config.eval_batch_size,
            precision=config.training.precision,
        )
