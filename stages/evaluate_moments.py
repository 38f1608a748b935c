"""Find moments with SeViLA's localizer, and score them as the benchmark does.

Reads: questions, features, weights of a localizer.   Writes: predictions (Parquet shards and
metrics). Every frame of a clip is scored by itself; how frames become spans is decided afterwards
(`benchmarks.moment_spans`), so that another gap costs no further forward pass: frame scores are
taken over from an earlier evaluation that differs in nothing else. Paper: SeViLA
(arXiv 2305.06988) section 4.5; specs/sevila.md 4.4.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
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
from stages.benchmarks.moment_gaps import ChosenGap, ScoredQuestion, frame_metrics, tune_gap
from stages.benchmarks.questions import Question
from stages.benchmarks.scorers.judge import Judged, judge
from stages.benchmarks.scorers.moments import Moments
from stages.benchmarks.scorers.rows import has_truth
from stages.benchmarks.statistics import tally
from stages.core.device import resolve_device
from stages.core.errors import DataError, UsageError
from stages.core.memory import require_room
from stages.core.out_of_memory import room_for
from stages.core.runtime import Runtime
from stages.engines import Build, Built, ShardWork, Spent, build_shards
from stages.models.backbones.catalog import backbone_host
from stages.systems.build import load_sevila
from stages.systems.inputs import EvaluateInputs
from stages.systems.memory import evaluation_peak
from stages.systems.moment_inputs import MomentsConfig, contents_of, frames_key, kept_contents
from stages.systems.seen import SeenFrames
from stages.systems.sevila import SevilaLocalizer

STAGE = "eval"
FRAME_RULE = "all"
Records = list[dict[str, Any]]


# --- the stage -----------------------------------------------------------------------------------


def evaluate_moments(
    workspace: Workspace,
    inputs: EvaluateInputs,
    config: MomentsConfig,
    runtime: Runtime,
    gap: ChosenGap | None = None,
) -> StageResult:
    """Write moments and metrics of one split, continuing what an earlier run left.

    Args:
        workspace: Where to write.
        inputs: From `find_moment_inputs`.
        config: From `moments_config`.
        runtime: Device, shards, progress.
        gap: How the gap was decided, for the notes.

    Raises:
        UsageError: The gap is to be tuned where no moments are known.
        OutOfMemory: Not even one question fits; larger batches are halved, as another version.
    """
    return in_smaller_batches(
        lambda one: _moments(workspace, inputs, one, runtime, gap),
        config,
        smaller_batch_size,
        lambda one: evaluation_peak(inputs, one, resolve_device(runtime.device).type),
    )


def _moments(
    workspace: Workspace,
    inputs: EvaluateInputs,
    config: MomentsConfig,
    runtime: Runtime,
    gap: ChosenGap | None,
) -> StageResult:
    started = time.monotonic()
    request = _request(config, inputs, runtime)
    told = _Told(inputs, gap or ChosenGap(config.moments.gap, "given"), started)
    existing = reusable(workspace, request, runtime)
    if existing is not None:
        return told.result(existing, reused=True)
    data = QuestionFeatures(inputs.questions, inputs.features, config.frames)
    if config.tuning is not None:
        _refuse_unlabelled(data.questions, config)
    device = resolve_device(runtime.device)
    require_room(evaluation_peak(inputs, config, device.type), device)
    known = None if runtime.force else _scored_before(workspace, inputs, config)
    parts = shards_by_clip(data.questions, config.questions_per_shard)
    draft = workspace.draft(request, force=runtime.force)
    sharded = ShardedDraft(draft, len(parts), STEM, ".parquet", runtime.shards)
    sharded.announce(len(data.questions))
    shards = _Shards(sharded, config, inputs, parts, known, data)
    work = ShardWork(sharded, len(data.questions), "questions", shards.open, device.type)
    host = _host(build_shards(work, runtime), inputs)
    artifact = sharded.finish_if_complete(lambda: _finish(draft, sharded, config, parts, host))
    if artifact is None:
        counts = sharded.item_counts(len(data.questions))
        unfinished = unfinished_result(draft, counts, time.monotonic() - started)
        return replace(unfinished, notes=[*told.notes(), *unfinished.notes])
    return told.result(artifact, reused=False, known=known)


def plan_moments(
    workspace: Workspace, inputs: EvaluateInputs, config: MomentsConfig, runtime: Runtime
) -> dict[str, Any]:
    """What `evaluate_moments` would read and write; writes nothing and loads no model."""
    request = _request(config, inputs, runtime)
    existing = reusable(workspace, request, runtime)
    data = QuestionFeatures(inputs.questions, inputs.features, config.frames)
    usable = sum(not data.problem(index) for index in range(len(data.questions)))
    parts = shards_by_clip(data.questions, config.questions_per_shard)
    known = existing or (None if runtime.force else _scored_before(workspace, inputs, config))
    return {
        "artifact": existing.id if existing else request.id,
        "reused": existing is not None,
        "inputs": [item.id for item in request.inputs.values()],
        "questions": len(data.questions),
        "with_features": usable,
        "shards": len(parts),
        "memory": evaluation_peak(inputs, config, resolve_device(runtime.device).type).as_json(),
        "frames_scored": 0 if known else usable * config.frames,
    }


def _request(config: MomentsConfig, inputs: EvaluateInputs, runtime: Runtime) -> Request:
    made = "sevila"
    if inputs.selector is not None:
        made = inputs.selector.label.removeprefix(f"{config.benchmark}-")
    parts = [config.benchmark, config.split, made, f"moments-{config.frames}"]
    if config.tuning is not None:
        parts.append("tuned")
    label = runtime.name or "-".join(parts)
    return Request("predictions", label, config.as_json(), inputs.as_inputs())


def _refuse_unlabelled(questions: Sequence[Question], config: MomentsConfig) -> None:
    if not any(question.spans for question in questions):
        raise UsageError(
            f"there is nothing to tune on: no moment of {config.benchmark} {config.split} is known"
        )


def _scored_before(
    workspace: Workspace, inputs: EvaluateInputs, config: MomentsConfig
) -> Artifact | None:
    """The newest evaluation of the very same frames by the very same localizer."""
    fitting = [
        item
        for item in workspace.finished("predictions")
        if "moments" in item.config
        and kept_contents(item) == contents_of(inputs)
        and frames_key(item.config) == frames_key(config.as_json())
    ]
    return fitting[-1] if fitting else None


# --- scoring frames ------------------------------------------------------------------------------


@dataclass
class _Shards:
    """How the shards of one evaluation of moments are built, in whatever process."""

    sharded: ShardedDraft
    config: MomentsConfig
    inputs: EvaluateInputs
    parts: list[list[int]]
    known: Artifact | None
    data: QuestionFeatures | None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "data": None}  # open files stay with their process

    @contextmanager
    def open(self, runtime: Runtime) -> Iterator[Build]:
        """Load the localizer, or what an earlier evaluation says."""
        data = self.data or QuestionFeatures(
            self.inputs.questions, self.inputs.features, self.config.frames
        )
        run = _Run(data, self.config, self.inputs, runtime, self.known)
        yield lambda claims: run.build(self.sharded, claims, self.parts)


class _Run:
    """What scores frames: the localizer, or an earlier evaluation that did."""

    def __init__(
        self,
        data: QuestionFeatures,
        config: MomentsConfig,
        inputs: EvaluateInputs,
        runtime: Runtime,
        known: Artifact | None,
    ) -> None:
        self.data, self.config, self.runtime = data, config, runtime
        self.known: Records | None = None
        if known is not None:
            self.known = prediction_records(known)
        else:
            self.device = resolve_device(runtime.device)
            self.localizer = _load_localizer(config, inputs, self.device)
        self.answered = 0

    def build(
        self, sharded: ShardedDraft, claims: Iterator[Claim], parts: Sequence[list[int]]
    ) -> Iterator[Built]:
        """Score and commit every claimed shard."""
        for claim in claims:
            before, started = self.answered, time.monotonic()
            try:
                with room_for(f"{self.config.batch_size} questions"):
                    records = self._shard(parts[claim.shard])
                seconds = time.monotonic() - started
                data = encode_predictions(records, open_ended=False, moments=True)
                failed = sum(record["status"] == "failed" for record in records)
                counts = {"done": len(records) - failed, "failed": failed}
                sharded.commit(claim, data, {"records": records, "counts": counts})
            finally:
                claim.lock.release()
            yield Built(claim.shard, self.answered - before, seconds)

    def _shard(self, positions: Sequence[int]) -> Records:
        if self.known is not None:
            taken = [self.known[index] for index in positions]
            return [_frames_only(record) for record in taken]
        usable = [index for index in positions if not self.data.problem(index)]
        scored: dict[int, dict[str, Any]] = {}
        for first in range(0, len(usable), self.config.batch_size):
            batch = usable[first : first + self.config.batch_size]
            scored |= dict(zip(batch, self._score(batch), strict=True))
            self.answered += len(batch)
            self.runtime.progress(self.answered, len(self.data.questions), "questions")
        return [self._record(index, scored.get(index)) for index in positions]

    def _score(self, batch: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Frames, times, scores and margins of some questions."""
        data = self.data
        seen = SeenFrames(
            data.reader,
            [data.questions[index] for index in batch],
            [data.clip(index) for index in batch],
            self.device,
            shared=[data.shares_clip(index) for index in batch],
        )
        with torch.no_grad():
            found = self.localizer.scores(seen)
        scores = found.as_score(self.localizer.model.config.score).tolist()
        margins = (found.yes - found.no).tolist()
        for row in range(len(batch)):
            yield {
                "frames": seen.frames[row].tolist(),
                "times": seen.times[row].tolist(),
                "frame_scores": scores[row],
                "frame_margins": margins[row],
                "frame_rule": FRAME_RULE,
            }

    def _record(self, index: int, scored: dict[str, Any] | None) -> dict[str, Any]:
        question = self.data.questions[index]
        reason = self.data.problem(index)
        if scored is None and self.runtime.strict:
            raise DataError(f"{question.question_id}: {reason}", "run without --strict")
        status = "ok" if has_truth(question, "moments") else "unlabelled"
        return _empty_record(question.question_id) | (
            {"status": "failed", "reason": reason}
            if scored is None
            else scored | {"status": status}
        )


def _load_localizer(
    config: MomentsConfig, inputs: EvaluateInputs, device: torch.device
) -> SevilaLocalizer:
    torch.manual_seed(config.seed)
    trained = dict(inputs.selector.config["model"]) if inputs.selector else {}
    model = load_sevila(
        inputs.selector_backbone,
        device,
        config.precision,
        {**trained, **config.model},
        localizer=inputs.selector,
    )
    return SevilaLocalizer(model, load_manifest(config.benchmark))


def _empty_record(question_id: str) -> dict[str, Any]:
    return {
        "question_id": question_id,
        "prediction": None,
        "answer": None,
        "correct": None,
        "scores": [],
        "frames": [],
        "times": [],
        "frame_scores": [],
        "frame_rule": None,
        "tied": None,
        "by_frame": [],
        "status": "failed",
        "reason": "",
        "windows": None,
        "saliency": None,
        "frame_margins": [],
        "value": None,
    }


def _frames_only(record: Mapping[str, Any]) -> dict[str, Any]:
    """A finished row without what was made of its frames."""
    return {**record, "windows": None, "saliency": None, "value": None}


# --- from frames to figures ----------------------------------------------------------------------


def _host(spent: Spent, inputs: EvaluateInputs) -> dict[str, Any]:
    """Model time per question from stored features, of what this run scored."""
    return {
        "ms_per_video": 1000 * spent.seconds / spent.items if spent.items else None,
        "answered_in_this_run": spent.items,
        **backbone_host(inputs.selector_backbone),
    }


def _finish(
    draft: Draft,
    sharded: ShardedDraft,
    config: MomentsConfig,
    parts: Sequence[list[int]],
    host: dict[str, Any],
) -> Artifact:
    questions = load_questions(draft.request.inputs["questions"])
    made = [item for record in sharded.records() for item in record["records"]]
    places = [index for part in parts for index in part]
    ordered = [made[place] for place in np.argsort(places, kind="stable").tolist()]
    scored = [ScoredQuestion.of(*pair) for pair in zip(questions, ordered, strict=True)]
    gap = ChosenGap(config.moments.gap, "given")
    if config.tuning is not None:
        gap = tune_gap(scored, config.moments, config.tuning)
    rule = config.moments.model_copy(update={"gap": gap.seconds})
    predicted = [item.moments(rule) for item in scored]
    rows = [item.row(moments) for item, moments in zip(scored, predicted, strict=True)]
    judged = judge(rows, load_manifest(config.benchmark), seed=config.seed)
    metrics = judged.metrics | frame_metrics(scored, rule)
    atomic.write_bytes(
        draft.path / PREDICTIONS_TABLE,
        encode_predictions(_complete(ordered, predicted, judged), open_ended=False, moments=True),
    )
    atomic.write_json(draft.path / METRICS_FILE, metrics)
    failed = [row for row in rows if row.status == "failed"]
    write_failures(
        draft.path, [Failure(row.question_id, STAGE, "failed", row.reason) for row in failed]
    )
    return draft.finish(
        {"total": len(rows), "done": len(rows) - len(failed), "failed": len(failed)},
        extra={
            "metrics": metrics,
            "tally": tally([row.status for row in rows]).as_json(),
            "ci95_of": judged.ci95_of,
            "moments": gap.as_json(config.split),
            "scorer_notes": judged.notes,
            "shards": sharded.num_shards,
        },
        host=host,
    )


def _complete(records: Records, predicted: Sequence[Moments | None], judged: Judged) -> Records:
    """The rows of `predictions.parquet`."""
    return [
        record
        | {
            "windows": None if said is None else [list(window) for window in said.windows],
            "saliency": None if said is None else list(said.saliency or ()),
            "value": value,
        }
        for record, said, value in zip(records, predicted, judged.values, strict=True)
    ]


# --- what is said about it -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Told:
    """Notes and JSON of one run."""

    inputs: EvaluateInputs
    gap: ChosenGap
    started: float

    def notes(self) -> list[str]:
        selector = self.inputs.selector
        localizer = selector.id if selector else f"{self.inputs.selector_backbone} as it is"
        notes = [
            f"questions: {self.inputs.questions.id}",
            f"features: {self.inputs.features.id}",
            f"localizer: {localizer}",
        ]
        asked = self.inputs.questions.config["benchmark"]
        if selector is not None and selector.config["benchmark"] != asked:
            notes.append(f"{selector.id} was trained on {selector.config['benchmark']}")
        return notes

    def _gap_note(self, facts: Mapping[str, Any]) -> str:
        seconds = f"gap: {facts['gap']:g} s"
        if "tuned_on" in facts:
            return f"{seconds}, the best of {len(facts['gaps'])} on this very split"
        if self.gap.source == "default":
            return f"{seconds}, the default; choose it with --tune-gap or --set moments.gap=SECONDS"
        return seconds if self.gap.source == "given" else f"{seconds}, from {self.gap.source}"

    def result(
        self, artifact: Artifact, *, reused: bool, known: Artifact | None = None
    ) -> StageResult:
        """The finished artifact's result."""
        facts, config = artifact.manifest, artifact.config
        notes = [*self.notes(), self._gap_note(facts["moments"]), *facts["scorer_notes"]]
        if known is not None:
            notes.append(f"frame scores: taken over from {known.id}")
        if not facts["metrics"]:
            notes.append("nothing is labelled: no metrics")
        tuned = "tuned_on" in facts["moments"]
        source = "tuned" if tuned else self.gap.source
        return finished_result(
            artifact,
            reused=reused,
            seconds=time.monotonic() - self.started,
            next_commands=_next_commands(config)
            if tuned
            else [f"vqa artifacts show {artifact.id}"],
            notes=notes,
            details={
                "benchmark": config["benchmark"],
                "split": config["split"],
                "system": config["system"],
                **facts["tally"],
                "metrics": facts["metrics"],
                "ci95_of": facts["ci95_of"],
                "moments": facts["moments"] | {"gap_from": source},
                "ms_per_video": facts["host"].get("ms_per_video"),
            },
        )


def _next_commands(config: Mapping[str, Any]) -> list[str]:
    benchmark = config["benchmark"]
    report = load_manifest(benchmark).report_split
    return [f"vqa eval --benchmark {benchmark} --system sevila --split {report} --export official"]


# --- official files ------------------------------------------------------------------------------


def export_moments(
    inputs: EvaluateInputs, result: StageResult, destination: Path | None
) -> StageResult:
    """Write a finished evaluation as the benchmark's official prediction file.

    Args:
        inputs: What was evaluated.
        result: From `evaluate_moments`; an unfinished one is returned as it is.
        destination: Where to; none: `<label>-official.jsonl` in the current folder.

    Returns:
        The result with the file's path as `export`.
    """
    artifact = result.artifact
    if artifact is None:
        return result
    benchmark = str(artifact.config["benchmark"])
    path = destination or Path(f"{artifact.label}-official{official_suffix(benchmark)}")
    predicted = [_as_moments(record) for record in prediction_records(artifact)]
    atomic.make_directory(path.parent)
    write_official(path, benchmark, load_questions(inputs.questions), predicted)
    empty = sum(prediction is None for prediction in predicted)
    note = f"official file: {path}" + (f" ({empty} questions without an answer)" if empty else "")
    return replace(
        result,
        notes=[*result.notes, note],
        details={**result.details, "export": str(path)},
    )


def _as_moments(record: Mapping[str, Any]) -> Moments | None:
    if record["windows"] is None:
        return None
    windows = tuple((start, end, score) for start, end, score in record["windows"])
    return Moments(windows, tuple(record["saliency"]))
