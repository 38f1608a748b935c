"""Answer every question of a split with a system, and score the answers.

Reads: questions, features, weights.   Writes: predictions (Parquet shards and metrics).
A question without features is a failed row, never a missing or another one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from stages.artifacts import atomic
from stages.artifacts.clips import Failure
from stages.artifacts.lookup import (
    features_of,
    prepared_splits,
    questions_for,
    questions_of,
    weights_of,
)
from stages.artifacts.predictions import (
    METRICS_FILE,
    PREDICTIONS_TABLE,
    STEM,
    encode_predictions,
    prediction_records,
)
from stages.artifacts.questions import write_failures
from stages.artifacts.result import StageResult, finished_result, unfinished_result
from stages.artifacts.shards import Claim, ShardedDraft, reusable, split_into_shards
from stages.artifacts.store import Artifact, Draft, Request, Workspace
from stages.artifacts.weights import backbone_of
from stages.benchmarks.batches import QuestionFeatures, load_questions, stores
from stages.benchmarks.exports import OFFICIAL
from stages.benchmarks.manifest import load_manifest, split_name
from stages.benchmarks.prompts import AnswerMode
from stages.benchmarks.questions import Question
from stages.benchmarks.scorers.accuracy import ScoredRow, is_correct, row_of, score
from stages.benchmarks.statistics import tally
from stages.core.config import Config
from stages.core.device import resolve_device, torch_version
from stages.core.errors import ConfigError, DataError, UsageError
from stages.core.runtime import Runtime
from stages.models.backbones.catalog import backbone_label, backbone_path
from stages.models.backbones.folder import BackboneFolder
from stages.models.vlap import VlapConfig
from stages.systems.face import System
from stages.systems.predict import Blind, Prediction, predict
from stages.systems.selectors import PLAIN_SELECTORS, plain_selector
from stages.systems.vlap import load_vlap

STAGE = "eval"
CHANGEABLE = ("answer", "eval_noise", "frame_prefix_text", "rank_norm", "restrict_options")
"""Options of the network that leave its weights as they are."""


class EvaluateConfig(Config):
    """What decides the bytes of a predictions artifact, besides features and weights."""

    benchmark: str
    """Name of the benchmark."""
    split: str
    """Split that is answered."""
    system: Literal["vlap"]
    """Name of the system."""
    select: str = "own"
    """`own`: the system's selector; or uniform, random, oracle, all."""
    stored_sampling: bool = False
    """`uniform` takes the K frames that extraction sampled, not the middle ones of the T."""
    keep: int
    """Frames that are kept."""
    frames: int
    """Frames that they are kept from."""
    answer: AnswerMode
    """How answers are read."""
    blind: Blind | None = None
    """What is shown instead of the video."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Options of the network that differ from training (`eval_noise`, `restrict_options`, ...)."""
    seed: int = Field(default=42, ge=0)
    """Seed of random selection, noise and intervals."""
    batch_size: int = Field(default=16, ge=1)
    """Questions per forward pass."""
    questions_per_shard: int = Field(default=256, ge=1)
    """Questions in one shard."""
    device: str
    """Device type."""
    torch: str
    """Major and minor version."""


@dataclass(frozen=True)
class EvaluateInputs:
    """Artifacts that an evaluation reads."""

    questions: Artifact
    features: Artifact
    weights: Artifact


def find_inputs(
    workspace: Workspace,
    benchmark: str,
    split: str | None,
    *,
    system: str = "vlap",
    role: str | None = None,
    weights: str | None = None,
    features: Sequence[str] = (),
    questions: str | None = None,
    backbone: str | None = None,
) -> EvaluateInputs:
    """Choose what to evaluate: the report split; a student before a start or a teacher.

    Args:
        workspace: Where to look.
        benchmark: Name of the benchmark.
        split: Its split; none: the one that the literature prints.
        system: Name of the system.
        role: Role of the weights; none: the first of student, start, teacher that there is.
        weights: Weights that the user named; they may be another benchmark's.
        features: Features that the user named.
        questions: Questions that the user named.
        backbone: Name or folder of the backbone; none: whatever the weights were trained with.
    """
    named = [workspace.by_reference("features", reference) for reference in features]
    if questions is not None:
        named.append(workspace.by_reference("questions", questions))
    name = _split_of(benchmark, split, named)
    if name not in prepared_splits(workspace, benchmark):
        questions_of(workspace, benchmark, name)  # says how to prepare it
    made_by = [item.config["backbone"] for item in named if item.kind == "features"]
    label = backbone_label(backbone) if backbone else next(iter(made_by), None)
    roles = [role] if role else ["student", "start", "teacher"]
    chosen = weights_of(
        workspace, benchmark, roles, system=system, backbone=label, reference=weights
    )
    made = chosen.config
    label = label or made["backbone"]
    if questions is not None:
        asked = questions_of(workspace, benchmark, name, questions)
    else:
        asked = questions_for(
            workspace, benchmark, name, features=features, backbone=label, weights=chosen
        )
    found = features_of(
        workspace,
        asked,
        backbone=label,
        frames=made["model"]["frames"],
        references=features,
        folder=backbone or backbone_of(chosen),
    )
    return EvaluateInputs(asked, found, chosen)


def _split_of(benchmark: str, split: str | None, named: Sequence[Artifact]) -> str:
    """The split that is asked for; none: that of what the user named, else the report split."""
    manifest = load_manifest(benchmark)
    if split is not None:
        return split_name(manifest, split)
    splits = {str(item.config["split"]) for item in named if item.config["benchmark"] == benchmark}
    return splits.pop() if len(splits) == 1 else manifest.report_split


def evaluate_config(inputs: EvaluateInputs, values: dict[str, Any], device: str) -> EvaluateConfig:
    """The configuration of an evaluation; what is not given comes from the weights.

    Raises:
        UsageError: No such selector, more frames are to be kept than are seen, or another number
            than a prompter was trained for or `all` implies.
        ConfigError: An unknown key, or a network option that only training may set.
    """
    made = inputs.weights.config
    trained = VlapConfig.build(made["model"], inputs.weights.id)
    select = values.pop("select", None) or "own"
    if select not in ("own", *PLAIN_SELECTORS):
        raise UsageError(
            f"no selector called {select!r}", f"known: own, {', '.join(PLAIN_SELECTORS)}"
        )
    given = values.pop("keep", None)
    keep = (trained.frames if select == "all" else trained.keep) if given is None else given
    if type(keep) is not int or keep < 1:
        raise ConfigError(f"keep: a number of frames, not {keep!r}")
    if select == "all" and keep != trained.frames:
        raise UsageError(
            f"--select all keeps all {trained.frames} frames, not {keep}",
            "leave --keep out, or choose another --select",
        )
    if keep > trained.frames:
        raise UsageError(f"cannot keep {keep} of {trained.frames} frames")
    if select == "own" and keep != trained.keep:
        raise UsageError(
            f"{inputs.weights.id} keeps {trained.keep} frames by itself, not {keep}",
            "choose another --select, or weights trained for it",
        )
    config = EvaluateConfig.build(
        {
            "system": made["system"],
            "answer": made["answer"],
            **values,
            "benchmark": inputs.questions.config["benchmark"],
            "split": inputs.questions.config["split"],
            "select": select,
            "stored_sampling": select == "uniform" and stores(inputs.features, keep),
            "keep": keep,
            "frames": trained.frames,
            "device": resolve_device(device).type,
            "torch": torch_version(),
        },
        "eval",
    )
    fixed = sorted(set(config.model) - set(CHANGEABLE))
    if fixed:
        raise ConfigError(
            f"eval: model.{fixed[0]} is decided by training", f"open: {', '.join(CHANGEABLE)}"
        )
    VlapConfig.build(made["model"] | config.model, "eval: model")
    return config


def evaluate(
    workspace: Workspace,
    inputs: EvaluateInputs,
    config: EvaluateConfig,
    runtime: Runtime,
    *,
    backbone: str | None = None,
) -> StageResult:
    """Write predictions and metrics of one split, continuing what an earlier run left.

    Raises:
        UsageError: No question can be answered in this way: open-ended ones by letters, or by an
            oracle without spans. A single such question is a failed row instead.
    """
    started = time.monotonic()
    request, notes = _request(config, inputs, runtime), _chosen(inputs)
    existing = reusable(workspace, request, runtime)
    if existing is not None:
        return _result(existing, True, started, notes)
    data = QuestionFeatures(inputs.questions, inputs.features, config.frames)
    _refuse_impossible(data.questions, config)
    ranges = split_into_shards(len(data.questions), config.questions_per_shard)
    draft = workspace.draft(request, force=runtime.force)
    sharded = ShardedDraft(draft, len(ranges), STEM, ".parquet", runtime.shards)
    run = _Run(data, config, inputs, runtime, backbone)
    sharded.announce(len(data.questions))
    sharded.run_passes(lambda claims: run.build(sharded, claims, ranges))
    artifact = sharded.finish_if_complete(lambda: _finish(draft, sharded, config, run.host()))
    if artifact is None:
        counts = sharded.item_counts(len(data.questions))
        unfinished = unfinished_result(draft, counts, time.monotonic() - started)
        return replace(unfinished, notes=[*notes, *unfinished.notes])
    return _result(artifact, False, started, notes)


def plan(
    workspace: Workspace, inputs: EvaluateInputs, config: EvaluateConfig, runtime: Runtime
) -> dict[str, Any]:
    """What `evaluate` would read and write; writes nothing and loads no model."""
    request = _request(config, inputs, runtime)
    existing = reusable(workspace, request, runtime)
    data = QuestionFeatures(inputs.questions, inputs.features, config.frames)
    _refuse_impossible(data.questions, config)
    usable = set(data.usable())
    ranges = split_into_shards(len(data.questions), config.questions_per_shard)
    batches = [math.ceil(len(usable & set(part)) / config.batch_size) for part in ranges]
    return {
        "artifact": existing.id if existing else request.id,
        "reused": existing is not None,
        "inputs": [item.id for item in request.inputs.values()],
        "questions": len(data.questions),
        "with_features": len(usable),
        "shards": len(ranges),
        "forward_passes": 0 if existing else sum(batches),
    }


def _request(config: EvaluateConfig, inputs: EvaluateInputs, runtime: Runtime) -> Request:
    return Request(
        "predictions",
        runtime.name or _label(config, inputs.weights),
        config.as_json(),
        {
            "questions": inputs.questions,
            "features": inputs.features,
            "weights": inputs.weights,
        },
    )


def _chosen(inputs: EvaluateInputs) -> list[str]:
    """What was chosen, for the terminal."""
    notes = [
        f"questions: {inputs.questions.id}",
        f"features: {inputs.features.id}",
        f"weights: {inputs.weights.id}",
    ]
    asked, trained = inputs.questions.config["benchmark"], inputs.weights.config["benchmark"]
    if asked != trained:
        notes.append(f"these weights were trained on {trained}, not on {asked}")
    return notes


def _refuse_impossible(questions: Sequence[Question], config: EvaluateConfig) -> None:
    if config.answer == "letter" and _open_ended(questions):
        raise UsageError(
            f"the questions of {config.benchmark} {config.split} have no options to letter",
            "use --answer rank",
        )
    if config.select == "oracle" and not any(question.spans for question in questions):
        raise UsageError(
            f"the oracle needs the true spans, and {config.benchmark} {config.split} has none",
            "choose another --select",
        )


def _label(config: EvaluateConfig, weights: Artifact) -> str:
    parts = [config.benchmark, config.split, weights.label.removeprefix(f"{config.benchmark}-")]
    if config.select != "own":
        parts.append(f"{config.select}{config.keep}")
    if config.blind:
        parts.append(f"blind-{config.blind}")
    return "-".join(parts)


# --- answering -----------------------------------------------------------------------------------


class _Run:
    """The loaded system and how long it took."""

    def __init__(
        self,
        data: QuestionFeatures,
        config: EvaluateConfig,
        inputs: EvaluateInputs,
        runtime: Runtime,
        backbone: str | None,
    ) -> None:
        self.data, self.config, self.runtime = data, config, runtime
        self.system = _system(config, inputs, runtime, backbone)
        self.seconds = 0.0
        self.answered = 0

    def build(self, sharded: ShardedDraft, claims: Iterator[Claim], ranges: Sequence[range]) -> int:
        """Answer and commit every claimed shard."""
        count = 0
        for claim in claims:
            try:
                records = self._shard(ranges[claim.shard])
                data = encode_predictions(records, _open_ended(self.data.questions))
                failed = sum(record["status"] == "failed" for record in records)
                counts = {"done": len(records) - failed, "failed": failed}
                sharded.commit(claim, data, {"records": records, "counts": counts})
            finally:
                claim.lock.release()
            count += 1
        return count

    def host(self) -> dict[str, Any]:
        """Model time per question from stored features, of what this run answered."""
        per_question = 1000 * self.seconds / self.answered if self.answered else None
        return {"ms_per_video": per_question, "answered_in_this_run": self.answered}

    def _shard(self, positions: range) -> list[dict[str, Any]]:
        usable = [index for index in positions if not self._problem(index)]
        self._warm_up(usable)
        # Evaluation with noise draws from here: each shard by itself, so that a resumed run and
        # one that builds every n-th shard draw the same.
        torch.manual_seed(_shard_seed(self.config.seed, positions.start))
        answered: dict[int, Prediction] = {}
        started = time.monotonic()
        predictions = predict(
            self.system,
            self.data,
            usable,
            self.config.batch_size,
            blind=self.config.blind,
            seed=self.config.seed,
        )
        for index, prediction in zip(usable, predictions, strict=True):
            answered[index] = prediction
            self.answered += 1
            self.runtime.progress(self.answered, len(self.data.questions), "questions")
        self.seconds += time.monotonic() - started
        return [self._record(index, answered.get(index)) for index in positions]

    def _problem(self, index: int) -> str:
        """Why this question is a failed row, or an empty string."""
        return self.data.problem(index) or self.system.problem(self.data.questions[index])

    def _warm_up(self, usable: Sequence[int]) -> None:
        """One batch outside the clock."""
        if self.answered == 0:
            for _ in predict(self.system, self.data, usable[:1], 1, blind=self.config.blind):
                continue

    def _record(self, index: int, prediction: Prediction | None) -> dict[str, Any]:
        question = self.data.questions[index]
        record: dict[str, Any] = {
            "question_id": question.question_id,
            "prediction": None,
            "answer": question.truth,
            "correct": None,
            "scores": [],
            "frames": [],
            "times": [],
            "frame_scores": [],
            "frame_rule": None,
            "candidate_times": [],
            "status": "failed",
            "reason": "",
        }
        if prediction is None:
            reason = self._problem(index)
            if self.runtime.strict:
                raise DataError(f"{question.question_id}: {reason}", "run without --strict")
            return record | {"reason": reason}
        return record | {
            "prediction": prediction.prediction,
            "correct": is_correct(prediction.prediction, question.truth),
            "scores": prediction.scores,
            "frames": prediction.frames,
            "times": prediction.times,
            "frame_scores": prediction.frame_scores,
            "frame_rule": prediction.frame_rule,
            "candidate_times": prediction.candidate_times,
            "status": "ok" if question.labelled else "unlabelled",
        }


def _system(
    config: EvaluateConfig, inputs: EvaluateInputs, runtime: Runtime, backbone: str | None
) -> System:
    weights = inputs.weights
    torch.manual_seed(config.seed)
    folder = BackboneFolder(backbone_path(backbone or backbone_of(weights)))
    if folder.content_fingerprint(["vision_model."]) != inputs.features.config["weights"]:
        raise DataError(
            f"{inputs.features.id} was extracted with another vision tower than {folder.path} has",
            "give the folder it was made with: --backbone PATH, or extract again",
        )
    system = load_vlap(
        weights,
        resolve_device(runtime.device),
        backbone=backbone,
        answer=config.answer,
        overrides=config.model,
        benchmark=config.benchmark,
    )
    if config.select == "own":
        return system
    selector = plain_selector(config.select, config.seed, stored=config.stored_sampling)
    return System(system.name, selector, system.answerer, system.frames, config.keep, system.device)


def _shard_seed(seed: int, first: int) -> int:
    return int(np.random.SeedSequence([seed, first]).generate_state(1)[0])


def _open_ended(questions: Sequence[Question]) -> bool:
    return any(question.open_ended for question in questions)


# --- finishing -----------------------------------------------------------------------------------


def _finish(
    draft: Draft, sharded: ShardedDraft, config: EvaluateConfig, host: dict[str, Any]
) -> Artifact:
    records = [item for record in sharded.records() for item in record["records"]]
    questions = load_questions(draft.request.inputs["questions"])
    rows = [
        _scored_row(question, record) for question, record in zip(questions, records, strict=True)
    ]
    metrics = score(rows, load_manifest(config.benchmark), config.seed)
    counted = tally([row.status for row in rows])
    atomic.write_bytes(
        draft.path / PREDICTIONS_TABLE, encode_predictions(records, _open_ended(questions))
    )
    atomic.write_json(draft.path / METRICS_FILE, metrics)
    failed = [record for record in records if record["status"] == "failed"]
    write_failures(
        draft.path,
        [Failure(record["question_id"], STAGE, "failed", record["reason"]) for record in failed],
    )
    return draft.finish(
        {"total": len(rows), "done": len(rows) - len(failed), "failed": len(failed)},
        extra={"metrics": metrics, "tally": counted.as_json(), "shards": sharded.num_shards},
        host=host,
    )


def _scored_row(question: Question, record: dict[str, Any]) -> ScoredRow:
    return row_of(
        question,
        record["prediction"],
        record["status"],
        record["times"],
        record["candidate_times"],
    )


def _result(artifact: Artifact, reused: bool, started: float, notes: Sequence[str]) -> StageResult:
    metrics, counted = artifact.manifest["metrics"], artifact.manifest["tally"]
    config = artifact.config
    details = {
        "benchmark": config["benchmark"],
        "split": config["split"],
        "system": config["system"],
        **counted,
        "metrics": metrics,
        "ms_per_video": artifact.manifest["host"].get("ms_per_video"),
    }
    return finished_result(
        artifact,
        reused=reused,
        seconds=time.monotonic() - started,
        next_commands=["vqa report"],
        notes=[*notes, *([] if metrics else ["nothing is labelled: no metrics"])],
        details=details,
    )


# --- official files ------------------------------------------------------------------------------


def export_official(
    inputs: EvaluateInputs, result: StageResult, destination: Path | None
) -> StageResult:
    """Write a finished evaluation as the benchmark's official prediction file.

    Args:
        inputs: What was evaluated.
        result: From `evaluate`; an unfinished one is returned as it is.
        destination: Where to; none: `<label>-official.json` in the current folder.

    Returns:
        The result with the file's path as `export`.
    """
    artifact = result.artifact
    if artifact is None:
        return result
    path = destination or Path(f"{artifact.label}-official.json")
    questions = load_questions(inputs.questions)
    predictions = [record["prediction"] for record in prediction_records(artifact)]
    atomic.make_directory(path.parent)
    atomic.write_json(path, OFFICIAL[artifact.config["benchmark"]](questions, predictions))
    empty = sum(prediction is None for prediction in predictions)
    note = f"official file: {path}" + (f" ({empty} questions without an answer)" if empty else "")
    return replace(
        result,
        notes=[*result.notes, note],
        details={**result.details, "export": str(path)},
    )
