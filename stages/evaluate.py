"""Answer every question of a split with a system, and score the answers.

Reads: questions, features, weights.   Writes: predictions (Parquet shards and metrics).
A question without features is a failed row, never a missing or another one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.artifacts import atomic
from stages.artifacts.clips import Failure
from stages.artifacts.halving import in_smaller_batches, smaller_batch_size
from stages.artifacts.predictions import (
    METRICS_FILE,
    PREDICTIONS_TABLE,
    STEM,
    encode_predictions,
    prediction_records,
)
from stages.artifacts.questions import write_failures
from stages.artifacts.result import StageResult, finished_result, unfinished_result
from stages.artifacts.shards import Claim, ShardedDraft, reusable
from stages.artifacts.store import Artifact, Draft, Request, Workspace
from stages.benchmarks.batches import QuestionFeatures, load_questions
from stages.benchmarks.clip_order import shards_by_clip
from stages.benchmarks.exports import official_suffix, write_official
from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.questions import Question
from stages.benchmarks.scorers.accuracy import is_correct, row_of
from stages.benchmarks.scorers.judge import judge
from stages.benchmarks.statistics import percent, tally
from stages.core.device import resolve_device
from stages.core.errors import DataError, UsageError
from stages.core.memory import require_room
from stages.core.out_of_memory import room_for
from stages.core.runtime import Runtime
from stages.engines import Build, Built, ShardWork, Spent, build_shards
from stages.models.backbones.catalog import backbone_host
from stages.systems.blind import Blind, Blindfold
from stages.systems.build import build_system
from stages.systems.face import System
from stages.systems.inputs import EvaluateConfig, EvaluateInputs
from stages.systems.language_only import drop_note, language_only
from stages.systems.memory import evaluation_peak
from stages.systems.predict import Prediction, predict

STAGE = "eval"
ANSWERED = ("multiple-choice", "open-ended", "either")
"""Tasks whose questions are about one video and have an answer."""
CHOOSES_VIDEOS = ("videodistill",)
"""Systems that can choose among several videos."""


def evaluate(
    workspace: Workspace,
    inputs: EvaluateInputs,
    config: EvaluateConfig,
    runtime: Runtime,
) -> StageResult:
    """Write predictions and metrics of one split, continuing what an earlier run left.

    Raises:
        UsageError: No question can be answered in this way: open-ended ones by letters, or by an
            oracle without spans. A single such question is a failed row instead.
        OutOfMemory: Not even one question fits; larger batches are halved, as another version.
    """
    return _evaluate(workspace, inputs, config, runtime, _Loader(config, inputs))


def evaluate_with_blind(
    workspace: Workspace,
    inputs: EvaluateInputs,
    config: EvaluateConfig,
    runtime: Runtime,
    how: Blind = "gaussian",
) -> StageResult:
    """`evaluate`, and the same once more without the videos, by a system that is loaded once.

    Args:
        workspace: Where to write.
        inputs: What is read.
        config: How the questions are answered with the videos.
        runtime: How to run; a name is that of the predictions with the videos.
        how: What is shown in their place.

    Returns:
        The result with the videos, and under `blind` what was left without them; nothing there
        where nothing is labelled. Raises what `evaluate` raises.
    """
    load = _Loader(config, inputs)
    seeing = _evaluate(workspace, inputs, config, runtime, load)
    if seeing.artifact is None or not seeing.details["metrics"]:
        return seeing
    named = runtime.name and f"{runtime.name}-blind-{how}"
    fitted = {"blind": how, "batch_size": seeing.artifact.config["batch_size"]}
    unseeing = config.model_copy(update=fitted)
    blind = _evaluate(workspace, inputs, unseeing, replace(runtime, name=named), load)
    if blind.artifact is None:
        return seeing
    found = language_only(inputs.questions, seeing.artifact, blind.artifact)
    if not found:
        return seeing
    return replace(
        seeing,
        seconds=seeing.seconds + blind.seconds,
        notes=[*seeing.notes, f"without the videos ({how}): {blind.artifact.id}", drop_note(found)],
        details={**seeing.details, "blind": _blind_facts(how, blind, found)},
    )


def _blind_facts(how: Blind, blind: StageResult, found: dict[str, Any]) -> dict[str, Any]:
    """What the questions alone gave away, for the JSON."""
    assert blind.artifact is not None
    metrics = blind.details["metrics"]
    return {
        "how": how,
        "artifact": blind.artifact.id,
        "accuracy": metrics["accuracy"],
        "ci95": metrics.get("ci95"),
        "drop": found["drop"],
        "drop_ci95": found["ci95"],
        "drop_by_type": found["by_type"],
    }


@dataclass
class _Loader:
    """Builds the system when it is first needed, once in a process."""

    config: EvaluateConfig
    inputs: EvaluateInputs
    system: System | None = None

    def __call__(self, runtime: Runtime) -> System:
        """The system on the device of `runtime`."""
        if self.system is None:
            self.system = build_system(self.config, self.inputs, resolve_device(runtime.device))
        return self.system

    def for_batch(self, size: int) -> _Loader:
        """The same for another batch: some systems are built around its size."""
        if size != self.config.batch_size:
            self.config = self.config.model_copy(update={"batch_size": size})
            self.system = None
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "system": None}  # another process loads its own


def _evaluate(
    workspace: Workspace,
    inputs: EvaluateInputs,
    config: EvaluateConfig,
    runtime: Runtime,
    load: _Loader,
) -> StageResult:
    return in_smaller_batches(
        lambda one: _answer_all(workspace, inputs, one, runtime, load.for_batch(one.batch_size)),
        config,
        smaller_batch_size,
        lambda one: evaluation_peak(inputs, one, resolve_device(runtime.device).type),
    )


def _answer_all(
    workspace: Workspace,
    inputs: EvaluateInputs,
    config: EvaluateConfig,
    runtime: Runtime,
    load: _Loader,
) -> StageResult:
    started = time.monotonic()
    request, notes = _request(config, inputs, runtime), inputs.notes()
    existing = reusable(workspace, request, runtime)
    if existing is not None:
        drop = _language_only(workspace, inputs, config, existing)
        return _with_drop(_result(existing, True, started, notes), config, drop)
    device = resolve_device(runtime.device)
    require_room(evaluation_peak(inputs, config, device.type), device)
    data = QuestionFeatures(inputs.questions, inputs.features, config.frames)
    _refuse_impossible(data.questions, config)
    parts = shards_by_clip(data.questions, config.questions_per_shard)
    draft = workspace.draft(request, force=runtime.force)
    sharded = ShardedDraft(draft, len(parts), STEM, ".parquet", runtime.shards)
    sharded.announce(len(data.questions))
    shards = _Shards(sharded, config, inputs, parts, load, data)
    work = ShardWork(sharded, len(data.questions), "questions", shards.open, device.type)
    host = _host(build_shards(work, runtime), inputs)
    artifact = sharded.finish_if_complete(lambda: _finish(draft, sharded, config, parts, host))
    if artifact is None:
        counts = sharded.item_counts(len(data.questions))
        unfinished = unfinished_result(draft, counts, time.monotonic() - started)
        return replace(unfinished, notes=[*notes, *unfinished.notes])
    drop = _language_only(workspace, inputs, config, artifact)
    return _with_drop(_result(artifact, False, started, notes), config, drop)


def plan(
    workspace: Workspace, inputs: EvaluateInputs, config: EvaluateConfig, runtime: Runtime
) -> dict[str, Any]:
    """What `evaluate` would read and write; writes nothing and loads no model."""
    request = _request(config, inputs, runtime)
    existing = reusable(workspace, request, runtime)
    data = QuestionFeatures(inputs.questions, inputs.features, config.frames)
    _refuse_impossible(data.questions, config)
    usable = set(data.usable())
    parts = shards_by_clip(data.questions, config.questions_per_shard)
    batches = [math.ceil(len(usable & set(part)) / config.batch_size) for part in parts]
    return {
        "artifact": existing.id if existing else request.id,
        "reused": existing is not None,
        "inputs": [item.id for item in request.inputs.values()],
        "questions": len(data.questions),
        "with_features": len(usable),
        "shards": len(parts),
        "forward_passes": 0 if existing else sum(batches),
        "memory": evaluation_peak(inputs, config, resolve_device(runtime.device).type).as_json(),
    }


def _request(config: EvaluateConfig, inputs: EvaluateInputs, runtime: Runtime) -> Request:
    return Request(
        "predictions",
        runtime.name or _label(config, inputs),
        config.as_json(),
        inputs.as_inputs(),
    )


def _refuse_impossible(questions: Sequence[Question], config: EvaluateConfig) -> None:
    task = load_manifest(config.benchmark).task
    chooses = task == "multiple-choice-videos" and config.system in CHOOSES_VIDEOS
    if task not in ANSWERED and not chooses:
        raise UsageError(
            f"{config.system} answers questions about one video; {config.benchmark} is {task}",
            "choose another --system",
        )
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


def _label(config: EvaluateConfig, inputs: EvaluateInputs) -> str:
    weights = inputs.weights
    made = config.system if weights is None else weights.label.removeprefix(f"{config.benchmark}-")
    parts = [config.benchmark, config.split, made]
    if config.system != "vlap":
        parts.append(f"{config.select}-{config.frames}to{config.keep}")
    elif config.select != "own":
        parts.append(f"{config.select}{config.keep}")
    if config.blind:
        parts.append(f"blind-{config.blind}")
    return "-".join(parts)


# --- answering -----------------------------------------------------------------------------------


@dataclass
class _Shards:
    """How the shards of one predictions artifact are built, in whatever process."""

    sharded: ShardedDraft
    config: EvaluateConfig
    inputs: EvaluateInputs
    parts: list[list[int]]
    load: _Loader
    data: QuestionFeatures | None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "data": None}  # open files stay with their process

    @contextmanager
    def open(self, runtime: Runtime) -> Iterator[Build]:
        """Load the system and open the features."""
        data = self.data or QuestionFeatures(
            self.inputs.questions, self.inputs.features, self.config.frames
        )
        run = _Run(data, self.config, runtime, self.load(runtime))
        yield lambda claims: run.build(self.sharded, claims, self.parts)


class _Run:
    """The loaded system and how many questions it has answered."""

    def __init__(
        self, data: QuestionFeatures, config: EvaluateConfig, runtime: Runtime, system: System
    ) -> None:
        self.data, self.config, self.runtime = data, config, runtime
        self.system = system
        self.blind = Blindfold(config.blind, data, config.seed) if config.blind else None
        self.answered = 0

    def build(
        self, sharded: ShardedDraft, claims: Iterator[Claim], parts: Sequence[list[int]]
    ) -> Iterator[Built]:
        """Answer and commit every claimed shard."""
        for claim in claims:
            before = self.answered
            try:
                with room_for(f"{self.config.batch_size} questions"):
                    records, seconds = self._shard(claim.shard, parts[claim.shard])
                data = encode_predictions(records, _open_ended(self.data.questions))
                failed = sum(record["status"] == "failed" for record in records)
                counts = {"done": len(records) - failed, "failed": failed}
                sharded.commit(claim, data, {"records": records, "counts": counts})
            finally:
                claim.lock.release()
            yield Built(claim.shard, self.answered - before, seconds)

    def _shard(self, number: int, positions: Sequence[int]) -> tuple[list[dict[str, Any]], float]:
        """The rows of a shard, and the model's time in seconds."""
        usable = [index for index in positions if not self._problem(index)]
        self._warm_up(usable)
        # Evaluation with noise draws from here: each shard by itself, so that a resumed run and
        # one that builds every n-th shard draw the same.
        torch.manual_seed(_shard_seed(self.config.seed, number))
        answered: dict[int, Prediction] = {}
        started = time.monotonic()
        predictions = predict(
            self.system,
            self.data,
            usable,
            self.config.batch_size,
            blind=self.blind,
        )
        for index, prediction in zip(usable, predictions, strict=True):
            answered[index] = prediction
            self.answered += 1
            self.runtime.progress(self.answered, len(self.data.questions), "questions")
        seconds = time.monotonic() - started
        return [self._record(index, answered.get(index)) for index in positions], seconds

    def _problem(self, index: int) -> str:
        """Why this question is a failed row, or an empty string."""
        return self.data.problem(index) or self.system.problem(self.data.questions[index])

    def _warm_up(self, usable: Sequence[int]) -> None:
        """One batch outside the clock."""
        if self.answered == 0:
            for _ in predict(self.system, self.data, usable[:1], 1, blind=self.blind):
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
            "tied": None,
            "by_frame": [],
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
            "tied": prediction.tied,
            "by_frame": prediction.by_frame,
            "candidate_times": prediction.candidate_times,
            "status": "ok" if question.labelled else "unlabelled",
        }


def _shard_seed(seed: int, shard: int) -> int:
    return int(np.random.SeedSequence([seed, shard]).generate_state(1)[0])


def _open_ended(questions: Sequence[Question]) -> bool:
    return any(question.open_ended for question in questions)


# --- finishing -----------------------------------------------------------------------------------


def _host(spent: Spent, inputs: EvaluateInputs) -> dict[str, Any]:
    """Model time per question from stored features, of what this run answered."""
    return {
        "ms_per_video": 1000 * spent.seconds / spent.items if spent.items else None,
        "answered_in_this_run": spent.items,
        **backbone_host(inputs.backbone),
    }


def _finish(
    draft: Draft,
    sharded: ShardedDraft,
    config: EvaluateConfig,
    parts: Sequence[list[int]],
    host: dict[str, Any],
) -> Artifact:
    questions = load_questions(draft.request.inputs["questions"])
    answered = [item for record in sharded.records() for item in record["records"]]
    places = [index for part in parts for index in part]
    records = [
        record for _, record in sorted(zip(places, answered, strict=True), key=lambda pair: pair[0])
    ]
    manifest = load_manifest(config.benchmark)
    rows = [
        row_of(
            question,
            record["prediction"],
            record["status"],
            record["times"],
            record["candidate_times"],
            scorer=manifest.scorer,
        )
        for question, record in zip(questions, records, strict=True)
    ]
    judged = judge(rows, manifest, seed=config.seed)
    counted = tally([row.status for row in rows])
    # Nothing labelled: no metrics at all, however frames were chosen.
    metrics = judged.metrics | frame_metrics(records) if judged.metrics else {}
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
        extra={
            "metrics": metrics,
            "ci95_of": judged.ci95_of,
            "tally": counted.as_json(),
            "shards": sharded.num_shards,
        },
        host=host,
    )


def frame_metrics(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What single frames say, and how often equal scores decided which were kept; in percent.

    frame_accuracy: share of right answers among all kept frames, each answering alone.
    frame_oracle: share of questions that at least one of them answers rightly (the oracle of
    SeViLA's Table 9; specs/sevila.md 4.5).
    tie_rate: share of questions whose keyframes hung on the rule for ties.
    """
    metrics = {}
    judged = [row for row in records if row["by_frame"] and row["correct"] is not None]
    if judged:
        right = [[is_correct(said, row["answer"]) for said in row["by_frame"]] for row in judged]
        metrics["frame_accuracy"] = percent([bool(said) for row in right for said in row])
        metrics["frame_oracle"] = percent([any(row) for row in right])
    tied = [row["tied"] for row in records if row["tied"] is not None]
    return metrics | ({"tie_rate": percent(tied)} if tied else {})


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


def _language_only(
    workspace: Workspace, inputs: EvaluateInputs, config: EvaluateConfig, blind: Artifact
) -> dict[str, Any]:
    """The drop against the same evaluation with the videos; empty where there is none."""
    if config.blind is None:
        return {}
    with_video = config.model_copy(update={"blind": None})
    seeing = workspace.existing(_request(with_video, inputs, Runtime()))
    return {} if seeing is None else language_only(inputs.questions, seeing, blind)


def _with_drop(result: StageResult, config: EvaluateConfig, drop: dict[str, Any]) -> StageResult:
    """The result with what the video was worth, or how to find out."""
    if config.blind is None:
        return result
    missing = "the drop is known once the same command has run without --blind"
    note = drop_note(drop) if drop else missing
    found = {"language_only": drop} if drop else {}
    return replace(result, notes=[*result.notes, note], details={**result.details, **found})


# --- official files ------------------------------------------------------------------------------


def export_official(
    inputs: EvaluateInputs, result: StageResult, destination: Path | None
) -> StageResult:
    """Write a finished evaluation as the benchmark's official prediction file.

    Args:
        inputs: What was evaluated.
        result: From `evaluate`; an unfinished one is returned as it is.
        destination: Where to; none: `<label>-official.json` (or `.jsonl`) in the current folder.

    Returns:
        The result with the file's path as `export`.
    """
    artifact = result.artifact
    if artifact is None:
        return result
    benchmark = artifact.config["benchmark"]
    path = destination or Path(f"{artifact.label}-official{official_suffix(benchmark)}")
    questions = load_questions(inputs.questions)
    predictions = [record["prediction"] for record in prediction_records(artifact)]
    atomic.make_directory(path.parent)
    write_official(path, benchmark, questions, predictions)
    empty = sum(prediction is None for prediction in predictions)
    note = f"official file: {path}" + (f" ({empty} questions without an answer)" if empty else "")
    return replace(
        result,
        notes=[*result.notes, note],
        details={**result.details, "export": str(path)},
    )
