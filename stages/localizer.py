"""Train SeViLA's localizer: on true spans, or on what the answerer says of each frame.

Reads: features of the train and tune splits, pseudo-labels, weights to start from, the answerer's.
Writes: weights (role `localizer`). Paper: SeViLA (arXiv 2305.06988) sections 3.3, 3.4 and 4.4;
specs/sevila.md 4.2 and 4.3. A start is always explicit: weights, or the backbone as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.artifacts.lookup import input_of
from stages.artifacts.pseudo_labels import FrameLabels, read_pseudo_labels
from stages.artifacts.result import StageResult
from stages.artifacts.store import Artifact, Request, Workspace
from stages.benchmarks.batches import QuestionFeatures, load_questions
from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.scorers.accuracy import keyframe_metrics, row_of
from stages.core.errors import DataError, MissingInput, UsageError
from stages.core.runtime import Runtime
from stages.models.sevila import Sevila, side_state
from stages.systems.build import load_sevila
from stages.systems.face import System
from stages.systems.sevila import BlipAnswerer, SevilaLocalizer
from stages.systems.tuning import FrameAccuracy, TuneAccuracy, seen_frames
from stages.training.inputs import (
    TrainingInputs,
    check_answerable,
    count_of,
    events_folder,
    request_plan,
)
from stages.training.loop import Fit
from stages.training.memory import require_training_room
from stages.training.run import reuse_weights, run_training
from stages.training.sevila import LocalizerConfig, LocalizerForward, sevila_of
from stages.training.sevila_batches import FrameTruth, LocalizerData, SpanLabels, StoredLabels
from stages.training.sevila_origin import Origin
from stages.training.sevila_setup import (
    SevilaSetup,
    default_keep,
    sevila_values,
    trained_note,
    with_selection,
)
from stages.training.smaller import train_in_smaller_batches

# --- on spans ------------------------------------------------------------------------------------


def train_localizer(
    workspace: Workspace,
    inputs: TrainingInputs,
    values: dict[str, Any],
    runtime: Runtime,
    *,
    start: Artifact | None,
    tensorboard: bool = False,
) -> StageResult:
    """Train and write the weights of one localizer on the true spans of its questions.

    Args:
        workspace: Where to write.
        inputs: Features and backbone.
        values: Settings.
        runtime: How to run.
        start: Localizer weights to start from; None: the backbone as it is.
        tensorboard: Write event files below the workspace's `.logs`; an extra.

    Raises:
        DataError: No question of the train split has spans.
    """
    return train_in_smaller_batches(
        lambda given: _train_on_spans(workspace, inputs, given, runtime, start, tensorboard),
        values,
        lambda given: _span_request(inputs, given, runtime, start)[0],
        inputs.backbone,
        runtime.device,
    )


def _train_on_spans(
    workspace: Workspace,
    inputs: TrainingInputs,
    values: dict[str, Any],
    runtime: Runtime,
    start: Artifact | None,
    tensorboard: bool,
) -> StageResult:
    config, request = _span_request(inputs, values, runtime, start)
    benchmark = config.benchmark
    following = [f"vqa eval --benchmark {benchmark} --system sevila"]
    notes = [
        *inputs.notes(),
        trained_note("starts from", start),
        "tuned by: frames rightly judged, yes or no",
    ]
    reused = reuse_weights(workspace, request, runtime, following, notes)
    if reused is not None:
        return reused
    require_training_room(request, inputs.backbone, runtime)
    setup = SevilaSetup.make(
        config, inputs, runtime, events_folder(workspace, request, tensorboard)
    )

    def build(directory: Path) -> Fit:
        model = _model(setup, start, None)
        evaluate = _frame_accuracy(setup)
        data = _training_data(setup, model, SpanLabels())
        return setup.fit(model, data, directory, LocalizerForward(config, setup.device), evaluate)

    return run_training(
        workspace,
        request,
        runtime,
        setup.accelerator,
        inputs.backbone,
        build,
        _state,
        following,
        notes,
    )


def plan_spans(
    workspace: Workspace,
    inputs: TrainingInputs,
    values: dict[str, Any],
    runtime: Runtime,
    start: Artifact | None,
) -> dict[str, Any]:
    """What `train_localizer` would read and do; writes nothing."""
    config, request = _span_request(inputs, values, runtime, start)
    return _plan(workspace, request, inputs, config, SpanLabels(), runtime.device)


def _span_request(
    inputs: TrainingInputs, values: dict[str, Any], runtime: Runtime, start: Artifact | None
) -> tuple[LocalizerConfig, Request]:
    values = with_selection(sevila_values(values, inputs), start) | {"trained_on": "spans"}
    config = LocalizerConfig.build(values, "train-localizer")
    label = f"{config.benchmark}-sevila-localizer-spans-{config.frames}f"
    given = inputs.as_inputs(start=start)
    return config, Request("weights", runtime.name or label, config.as_json(), given)


def _frame_accuracy(setup: SevilaSetup) -> Callable[[nn.Module], float] | None:
    """The tune figure; none where the tune split has no spans."""
    questions, features = setup.inputs.tune_questions, setup.inputs.tune_features
    if questions is None or features is None:
        return None
    if not any(question.spans for question in load_questions(questions)):
        return None
    config = setup.config
    return FrameAccuracy(
        questions,
        features,
        config.frames,
        config.eval_batch_size,
        setup.accelerator,
        config.max_tune_questions,
    )


# --- on pseudo-labels ----------------------------------------------------------------------------


def refine_localizer(
    workspace: Workspace,
    inputs: TrainingInputs,
    values: dict[str, Any],
    runtime: Runtime,
    origin: Origin,
    *,
    tensorboard: bool = False,
) -> StageResult:
    """Train and write the weights of one localizer on pseudo-labels.

    The tune figure is that of the whole forward chain: keyframes, then the frozen answerer. Where
    there is a tune split, the result's `change` says what the refinement did to its keyframes.

    Args:
        workspace: Where to write.
        inputs: Features and backbone.
        values: Settings.
        runtime: How to run.
        origin: From `sevila_origin.find_origin`.
        tensorboard: Write event files below the workspace's `.logs`; an extra.
    """
    return train_in_smaller_batches(
        lambda given: _refine(workspace, inputs, given, runtime, origin, tensorboard),
        values,
        lambda given: _refine_request(inputs, given, runtime, origin)[0],
        inputs.backbone,
        runtime.device,
    )


def _refine(
    workspace: Workspace,
    inputs: TrainingInputs,
    values: dict[str, Any],
    runtime: Runtime,
    origin: Origin,
    tensorboard: bool,
) -> StageResult:
    config, request = _refine_request(inputs, values, runtime, origin)
    following = _after(config)
    notes = [*inputs.notes(), *origin.notes()]
    reused = reuse_weights(workspace, request, runtime, following, notes)
    if reused is not None:
        return reused
    require_training_room(request, inputs.backbone, runtime)
    if inputs.tune_questions is not None and config.answer is not None:
        check_answerable(inputs.tune_questions, config.answer)
    setup = SevilaSetup.make(
        config, inputs, runtime, events_folder(workspace, request, tensorboard)
    )
    refinement = _Refinement(workspace, setup, origin, config)
    return run_training(
        workspace,
        request,
        runtime,
        setup.accelerator,
        inputs.backbone,
        refinement.fit,
        _state,
        following,
        notes,
        facts=refinement.facts,
    )


def plan_refinement(
    workspace: Workspace,
    inputs: TrainingInputs,
    values: dict[str, Any],
    runtime: Runtime,
    origin: Origin,
) -> dict[str, Any]:
    """What `refine_localizer` would read and do; writes nothing."""
    config, request = _refine_request(inputs, values, runtime, origin)
    truth = _stored_labels(origin, config) if origin.labels else None
    return _plan(workspace, request, inputs, config, truth, runtime.device)


def _refine_request(
    inputs: TrainingInputs, values: dict[str, Any], runtime: Runtime, origin: Origin
) -> tuple[LocalizerConfig, Request]:
    asked = count_of(values, "frames")
    values = with_selection(sevila_values(values, inputs), origin.start)
    made = origin.labels.config if origin.labels else {}
    trained = origin.answerer.config if origin.answerer else {}
    frames = made.get("frames", values["frames"])
    if asked not in (None, frames):
        raise UsageError(
            f"{origin.labels.id if origin.labels else ''} labels {frames} frames, not {asked}",
            f"vqa pseudo-label --frames {asked}, or leave --frames out",
        )
    own = load_manifest(values["benchmark"]).answer_default
    values |= {
        "trained_on": "pseudo-labels",
        "frames": frames,
        "keep": values.get("keep") or trained.get("keep") or default_keep(frames),
        "answer": values.get("answer") or made.get("answer") or trained.get("answer") or own,
        "round": values.get("round", 1),
    }
    config = LocalizerConfig.build(values, "refine-localizer")
    label = f"{config.benchmark}-sevila-localizer-refined{config.round}-{config.frames}f"
    given = inputs.as_inputs(**origin.as_inputs())
    return config, Request("weights", runtime.name or label, config.as_json(), given)


def _after(config: LocalizerConfig) -> list[str]:
    benchmark, following = config.benchmark, config.round + 1
    return [
        f"vqa eval --benchmark {benchmark} --system sevila",
        f"vqa train-answerer --benchmark {benchmark} --select localizer",
        f"vqa pseudo-label --benchmark {benchmark} --round {following}",
    ]


@dataclass
class _Refinement:
    """One run of refinement, and what it changed."""

    workspace: Workspace
    setup: SevilaSetup
    origin: Origin
    config: LocalizerConfig
    start: dict[str, Tensor] = field(default_factory=dict)
    """The localizer as it was, kept by the process that reports."""

    def fit(self, directory: Path) -> Fit:
        """The run of training."""
        setup, config, inputs = self.setup, self.config, self.setup.inputs
        model = _model(setup, self.origin.start, self.origin.answerer)
        if setup.accelerator.is_main_process:
            self.start = {k: v.detach().cpu().clone() for k, v in _state(model).items()}
        evaluate = TuneAccuracy.of_split(
            inputs.tune_questions,
            inputs.tune_features,
            config.frames,
            config.eval_batch_size,
            setup.accelerator,
            self._system,
            config.max_tune_questions,
        )
        truth = _stored_labels(self.origin, config) if self.origin.labels else None
        data = _training_data(setup, model, truth)
        forward = LocalizerForward(config, setup.device)
        return setup.fit(model, data, directory, forward, evaluate)

    def _system(self, model: nn.Module) -> System:
        config, sevila = self.config, sevila_of(model)
        assert config.answer is not None
        assert config.keep is not None
        manifest = load_manifest(config.benchmark)
        selector = SevilaLocalizer(sevila, manifest)
        answerer = BlipAnswerer(sevila, config.answer, manifest, uniform=False)
        device = self.setup.device
        return System("sevila", selector, answerer, config.frames, config.keep, device)

    def facts(self, model: nn.Module) -> dict[str, Any]:
        """What this round changed, under `change`."""
        change: dict[str, Any] = {"round": self.config.round, "before": None}
        if self.origin.start is not None:
            change["before"] = self.origin.start.id
        change |= self._keyframe_change(sevila_of(model)) | self._label_change()
        return {"change": change}

    def _keyframe_change(self, model: Sevila) -> dict[str, Any]:
        """Keyframes of the tune split before and after."""
        inputs, config = self.setup.inputs, self.config
        if inputs.tune_questions is None or inputs.tune_features is None:
            return {}
        data = QuestionFeatures(inputs.tune_questions, inputs.tune_features, config.frames)
        model.eval()
        after, judged = self._keyframes(model, data)
        trained = {k: v.detach().clone() for k, v in _state(model).items()}
        _fill(model, self.start)
        before, judged_before = self._keyframes(model, data)
        _fill(model, trained)
        same = [len(np.intersect1d(a, b)) for a, b in zip(after, before, strict=True)]
        changed = 100.0 * (1 - sum(same) / (len(same) * after.shape[1])) if len(same) else None
        return {
            "split": inputs.tune_questions.config["split"],
            "keyframes_changed": changed,
            **{f"{name}_before": value for name, value in judged_before.items()},
            **{f"{name}_after": value for name, value in judged.items()},
        }

    def _keyframes(
        self, model: Sevila, data: QuestionFeatures
    ) -> tuple[np.ndarray[Any, Any], dict[str, float]]:
        """Kept positions [questions, K], and their recall and precision where spans are known."""
        assert self.config.keep is not None
        selector = SevilaLocalizer(model, load_manifest(self.config.benchmark))
        usable = data.usable()[: self.config.max_tune_questions]
        size = self.config.eval_batch_size
        kept, rows = [], []
        for start in range(0, len(usable), size):
            seen = seen_frames(data, usable[start : start + size], self.setup.device)
            chosen = selector.select(seen, self.config.keep).indices.cpu().numpy()
            kept.append(chosen)
            for question, times, at in zip(seen.questions, seen.times, chosen, strict=True):
                rows.append(row_of(question, None, "ok", times[at].tolist(), times.tolist()))
        metrics = keyframe_metrics(rows)
        wanted = ("keyframe_recall", "keyframe_precision")
        empty = np.empty((0, self.config.keep), dtype=np.int64)
        return (
            np.concatenate(kept) if kept else empty,
            {name: metrics[name] for name in wanted if name in metrics},
        )

    def _label_change(self) -> dict[str, Any]:
        """How far these labels agree with those of the round before."""
        earlier = (
            input_of(self.workspace, self.origin.start, "pseudo_labels")
            if self.origin.start is not None
            else None
        )
        if earlier is None or self.origin.labels is None:
            return {}
        share = label_agreement(read_pseudo_labels(earlier), read_pseudo_labels(self.origin.labels))
        return {"labels_before": earlier.id, "label_agreement": share}


def label_agreement(first: dict[str, FrameLabels], second: dict[str, FrameLabels]) -> float | None:
    """Percent of frames, of questions labelled both times, whose labels are the same."""
    same = total = 0
    for name in first.keys() & second.keys():
        one, two = first[name], second[name]
        if len(one.labels) == len(two.labels):
            same += int((one.labels == two.labels).sum())
            total += len(one.labels)
    return 100.0 * same / total if total else None


# --- shared --------------------------------------------------------------------------------------


def _model(setup: SevilaSetup, start: Artifact | None, answerer: Artifact | None) -> Sevila:
    torch.manual_seed(setup.config.training.seed)
    return load_sevila(
        setup.inputs.backbone,
        setup.device,
        setup.config.training.precision,
        setup.config.model.as_json(),
        answerer=answerer,
        localizer=start,
    ).train_side("localizer")


def _state(model: nn.Module) -> dict[str, Tensor]:
    return side_state(sevila_of(model), "localizer")


@torch.no_grad()
def _fill(model: Sevila, state: dict[str, Tensor]) -> None:
    for name, tensor in _state(model).items():
        tensor.copy_(state[name])


def _training_data(setup: SevilaSetup, model: Sevila, truth: FrameTruth | None) -> LocalizerData:
    config, inputs = setup.config, setup.inputs
    assert isinstance(config, LocalizerConfig)
    data = QuestionFeatures(inputs.train_questions, inputs.train_features, config.frames)
    indices = _learnable(data, inputs, config, truth)
    if isinstance(truth, StoredLabels):
        _check_frames(data, indices, truth)
    return LocalizerData(
        data,
        indices,
        model.backbone.text,
        load_manifest(config.benchmark),
        config.training.seed,
        frames=config.frames_per_question,
        truth=truth,
        mode=config.answer,
    )


def _learnable(
    data: QuestionFeatures,
    inputs: TrainingInputs,
    config: LocalizerConfig,
    truth: FrameTruth | None,
) -> list[int]:
    """Positions of the questions that can be learnt from."""
    known = data.questions
    if truth is None:
        indices = [i for i in data.usable() if known[i].answer is not None]
    else:
        indices = [i for i in data.usable() if truth.usable(known[i])]
    if not indices:
        what = "spans" if isinstance(truth, SpanLabels) else "labels"
        raise MissingInput(
            f"no question of {inputs.train_questions.id} has {what} and features",
            "train-localizer learns from questions whose moments are known; "
            "vqa pseudo-label makes labels for others",
        )
    return indices[: config.max_train_questions]


def _check_frames(data: QuestionFeatures, indices: Sequence[int], truth: StoredLabels) -> None:
    """Refuse labels of other frames than those that are stored."""
    for index in indices:
        name = data.questions[index].question_id
        if not np.array_equal(data.clip(index).frames, truth.table[name].frames):
            raise DataError(
                f"{name}: the pseudo-labels are of other frames than the features",
                "label the features that are learnt from: vqa pseudo-label --features ID",
            )


def _stored_labels(origin: Origin, config: LocalizerConfig) -> StoredLabels:
    assert origin.labels is not None
    table = read_pseudo_labels(origin.labels)
    return StoredLabels(table, soft=config.soft_labels, threshold=config.threshold)


def _plan(
    workspace: Workspace,
    request: Request,
    inputs: TrainingInputs,
    config: LocalizerConfig,
    truth: FrameTruth | None,
    device: str,
) -> dict[str, Any]:
    data = QuestionFeatures(inputs.train_questions, inputs.train_features, config.frames)
    count = len(_learnable(data, inputs, config, truth))
    return request_plan(workspace, request, config.training, count, inputs.backbone, device)
