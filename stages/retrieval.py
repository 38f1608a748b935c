"""Rank every video of a split for every text, and the other way round, and score the ranks.

Reads: questions (texts), features, VideoDistill weights.   Writes: predictions (Parquet shards of
texts; `scores` hold one value per video, in the order of `videos.json`).
v_cls* depends on the text, so texts × videos are forward passes (specs/videodistill.md 6): what
that comes to is known before the start (`outlook`), and shards of texts can be shared and resumed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.artifacts import atomic
from stages.artifacts.clips import ClipSpan, Failure
from stages.artifacts.halving import in_smaller_batches, smaller_batch_size
from stages.artifacts.predictions import (
    METRICS_FILE,
    PREDICTIONS_TABLE,
    STEM,
    VIDEOS_FILE,
    encode_predictions,
    prediction_records,
)
from stages.artifacts.questions import write_failures
from stages.artifacts.result import StageResult, finished_result, unfinished_result
from stages.artifacts.shards import Claim, ShardedDraft, reusable, split_into_shards
from stages.artifacts.store import Artifact, Draft, Request, Workspace
from stages.benchmarks.batches import QuestionFeatures
from stages.benchmarks.exports import official_suffix, write_official
from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.questions import Question
from stages.benchmarks.scorers.judge import Judged, judge
from stages.benchmarks.scorers.retrieval import Floats, Ints, places_of_texts, places_of_videos
from stages.benchmarks.scorers.rows import row_of
from stages.benchmarks.statistics import tally
from stages.core.device import resolve_device
from stages.core.errors import DataError, UsageError
from stages.core.memory import require_room
from stages.core.out_of_memory import room_for
from stages.core.runtime import Runtime
from stages.engines import Build, Built, ShardWork, Spent, build_shards
from stages.models.backbones.catalog import backbone_host, backbone_path
from stages.models.backbones.folder import BackboneFolder
from stages.models.sentences import Sentences
from stages.models.videodistill_config import VideoDistillConfig
from stages.systems.inputs import EvaluateConfig, EvaluateInputs
from stages.systems.memory import evaluation_peak
from stages.systems.retrieval import Candidates, PairScorer, pair_flops, text_problem
from stages.systems.videodistill import load_network, reading_of

STAGE = "eval"


def evaluate(
    workspace: Workspace, inputs: EvaluateInputs, config: EvaluateConfig, runtime: Runtime
) -> StageResult:
    """Write scores and ranks of one split, continuing what an earlier run left.

    Raises:
        UsageError: Another system than VideoDistill, weights without a head that matches, another
            selector than its own, or a blind run: without videos there is nothing to rank.
        DataError: No text of the split has a video with features.
        OutOfMemory: Not even one pair fits; larger batches are halved, as another version.
    """
    return in_smaller_batches(
        lambda one: _rank(workspace, inputs, one, runtime),
        config,
        smaller_batch_size,
        lambda one: evaluation_peak(inputs, one, resolve_device(runtime.device).type),
    )


def _rank(
    workspace: Workspace, inputs: EvaluateInputs, config: EvaluateConfig, runtime: Runtime
) -> StageResult:
    started = time.monotonic()
    _refuse_impossible(inputs, config)
    request, notes = _request(config, inputs, runtime), inputs.notes()
    existing = reusable(workspace, request, runtime)
    if existing is not None:
        return _result(existing, True, started, notes)
    device = resolve_device(runtime.device)
    require_room(evaluation_peak(inputs, config, device.type), device)
    split = _Split.of(inputs, config)
    draft = workspace.draft(request, force=runtime.force)
    sharded = ShardedDraft(draft, len(split.parts), STEM, ".parquet", runtime.shards)
    sharded.announce(len(split.questions))
    shards = _Shards(sharded, config, inputs, split)
    pairs = split.num_texts * len(split.candidates)
    spent = build_shards(ShardWork(sharded, pairs, "pairs", shards.open, device.type), runtime)
    host = _host(spent, inputs)
    artifact = sharded.finish_if_complete(lambda: _finish(draft, sharded, split, host))
    if artifact is None:
        counts = sharded.item_counts(len(split.questions))
        unfinished = unfinished_result(draft, counts, time.monotonic() - started)
        return replace(unfinished, notes=[*notes, *unfinished.notes])
    return _result(artifact, False, started, notes)


def plan(
    workspace: Workspace, inputs: EvaluateInputs, config: EvaluateConfig, runtime: Runtime
) -> dict[str, Any]:
    """What `evaluate` would read, compute and write; writes nothing and loads no model."""
    _refuse_impossible(inputs, config)
    request = _request(config, inputs, runtime)
    existing = reusable(workspace, request, runtime)
    split = _Split.of(inputs, config)
    pairs = 0 if existing else split.num_texts * len(split.candidates)
    return {
        "artifact": existing.id if existing else request.id,
        "reused": existing is not None,
        "inputs": [item.id for item in request.inputs.values()],
        "texts": split.num_texts,
        "videos": len(split.candidates),
        "pairs": pairs,
        "gflop_per_pair": _flops(inputs) / 1e9,
        "tflop": pairs * _flops(inputs) / 1e12,
        "shards": len(split.parts),
        "memory": evaluation_peak(inputs, config, resolve_device(runtime.device).type).as_json(),
    }


def outlook(inputs: EvaluateInputs, config: EvaluateConfig) -> str:
    """What a run costs, in a sentence for the terminal."""
    split = _Split.of(inputs, config)
    pairs, flops = split.num_texts * len(split.candidates), _flops(inputs)
    return (
        f"{split.num_texts:,} texts x {len(split.candidates):,} videos = {pairs:,} forward passes "
        f"of {flops / 1e9:,.3g} GFLOP, {pairs * flops / 1e12:,.3g} TFLOP in all, in "
        f"{len(split.parts)} shards that can be shared (--shard i/n) and resumed"
    )


def _flops(inputs: EvaluateInputs) -> int:
    assert inputs.weights is not None
    made = VideoDistillConfig.build(inputs.weights.config["model"], inputs.weights.id)
    return pair_flops(BackboneFolder(backbone_path(inputs.backbone)), made)


def _refuse_impossible(inputs: EvaluateInputs, config: EvaluateConfig) -> None:
    if config.system != "videodistill":
        raise UsageError(
            f"{config.system} answers questions; {config.benchmark} asks for the video of a text",
            "--system videodistill ranks videos",
        )
    if config.blind is not None or config.select != "own":
        option = "--blind" if config.blind else "--select"
        raise UsageError(f"{option} is for questions, {config.benchmark} ranks videos")
    assert inputs.weights is not None
    if reading_of(inputs.weights, config.read) == "answer":
        raise UsageError(
            f"{inputs.weights.id} answers open-ended questions and matches nothing",
            f"vqa train-videodistill --benchmark {config.benchmark}",
        )


def _request(config: EvaluateConfig, inputs: EvaluateInputs, runtime: Runtime) -> Request:
    assert inputs.weights is not None
    made = inputs.weights.label.removeprefix(f"{config.benchmark}-")
    label = f"{config.benchmark}-{config.split}-{made}"
    return Request("predictions", runtime.name or label, config.as_json(), inputs.as_inputs())


# --- what is ranked ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Split:
    """Texts and videos of a split.

    Attributes:
        data: Texts and features.
        candidates: The videos.
        problems: Why a text cannot be ranked, by its place.
        parts: Places of each shard's texts.
        config: How they are ranked.
    """

    data: QuestionFeatures
    candidates: Candidates
    problems: dict[int, str]
    parts: list[range]
    config: EvaluateConfig

    @classmethod
    def of(cls, inputs: EvaluateInputs, config: EvaluateConfig) -> _Split:
        """Read the index; no feature is read."""
        data = QuestionFeatures(inputs.questions, inputs.features, config.frames)
        found = {index: text_problem(data, index) for index in range(len(data.questions))}
        problems = {index: problem for index, problem in found.items() if problem}
        if len(problems) == len(data.questions):
            raise DataError(
                f"no text of {inputs.questions.id} has a video with features",
                f"the first: {next(iter(problems.values()), 'there is none')}",
            )
        parts = split_into_shards(len(data.questions), config.questions_per_shard)
        return cls(data, Candidates(data), problems, parts, config)

    @property
    def questions(self) -> list[Question]:
        """Every text of the split."""
        return self.data.questions

    @property
    def num_texts(self) -> int:
        """Texts that can be ranked."""
        return len(self.questions) - len(self.problems)

    @property
    def names(self) -> list[str]:
        """What each video is called, the clip with its times."""
        return [ClipSpan(0, *key).id for key in self.candidates.keys]


@dataclass
class _Shards:
    """How the shards of one ranking are built, in whatever process."""

    sharded: ShardedDraft
    config: EvaluateConfig
    inputs: EvaluateInputs
    split: _Split | None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "split": None}  # open files stay with their process

    @contextmanager
    def open(self, runtime: Runtime) -> Iterator[Build]:
        """Load the network and open the features."""
        split = self.split or _Split.of(self.inputs, self.config)
        run = _Run(split, self.config, self.inputs, runtime)
        yield lambda claims: run.build(self.sharded, claims)


class _Run:
    """The loaded network and how many pairs it has scored."""

    def __init__(
        self, split: _Split, config: EvaluateConfig, inputs: EvaluateInputs, runtime: Runtime
    ) -> None:
        assert inputs.weights is not None
        self.split, self.config, self.runtime = split, config, runtime
        device = resolve_device(runtime.device)
        torch.manual_seed(config.seed)
        network = load_network(
            inputs.weights, device, backbone=inputs.backbone, overrides=config.model
        )
        self.scorer = PairScorer(
            network,
            Sentences.load(BackboneFolder(backbone_path(inputs.backbone))),
            reading_of(inputs.weights, config.read),
            config.batch_size,
            inputs.weights.config["training"]["precision"],
        )
        self.pairs = 0

    def build(self, sharded: ShardedDraft, claims: Iterator[Claim]) -> Iterator[Built]:
        """Score and commit every claimed shard."""
        for claim in claims:
            before = self.pairs
            try:
                with room_for(f"{self.config.batch_size} pairs"):
                    records, seconds = self._shard(claim.shard)
                failed = sum(record["status"] == "failed" for record in records)
                counts = {"done": len(records) - failed, "failed": failed}
                data = encode_predictions(records, True)
                sharded.commit(claim, data, {"records": records, "counts": counts})
            finally:
                claim.lock.release()
            yield Built(claim.shard, self.pairs - before, seconds)

    def _shard(self, number: int) -> tuple[list[dict[str, Any]], float]:
        """The rows of a shard, and the network's time in seconds."""
        split, places = self.split, self.split.parts[number]
        ranked = [index for index in places if index not in split.problems]
        texts = [split.questions[index].question.strip() for index in ranked]
        total = split.num_texts * len(split.candidates)

        def tell(pairs: int) -> None:
            self.pairs += pairs
            self.runtime.progress(self.pairs, total, "pairs")

        # Noise in evaluation draws from here: each shard by itself, so that a resumed run draws
        # the same.
        torch.manual_seed(
            int(np.random.SeedSequence([self.config.seed, number]).generate_state(1)[0])
        )
        started = time.monotonic()
        scores = self.scorer.scores(texts, split.candidates.clips, split.data.reader, tell)
        seconds = time.monotonic() - started
        rows = dict(zip(ranked, scores, strict=True)) if ranked else {}
        return [self._record(index, rows.get(index)) for index in places], seconds

    def _record(self, index: int, scores: Floats | None) -> dict[str, Any]:
        question = self.split.questions[index]
        record: dict[str, Any] = {
            "question_id": question.question_id,
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
            "reason": self.split.problems.get(index, ""),
        }
        if scores is None:
            if self.runtime.strict:
                raise DataError(f"{question.question_id}: {record['reason']}", "without --strict")
            return record
        own, names = self.split.candidates.column(question), self.split.names
        assert own is not None
        best = int(scores.argmax())
        return record | {
            "prediction": names[best],
            "answer": names[own],
            "correct": best == own,
            "scores": scores.tolist(),
            "tied": bool((scores == scores[own]).sum() > 1),
            "status": "ok",
        }


# --- finishing -----------------------------------------------------------------------------------


def _host(spent: Spent, inputs: EvaluateInputs) -> dict[str, Any]:
    """Time per pair, of what this run scored."""
    return {
        "ms_per_pair": 1000 * spent.seconds / spent.items if spent.items else None,
        "pairs_in_this_run": spent.items,
        **backbone_host(inputs.backbone),
    }


def _finish(draft: Draft, sharded: ShardedDraft, split: _Split, host: dict[str, Any]) -> Artifact:
    records = [row for record in sharded.records() for row in record["records"]]
    judged = _judged(records, split)
    counted = tally([row["status"] for row in records])
    atomic.write_bytes(draft.path / PREDICTIONS_TABLE, encode_predictions(records, True))
    atomic.write_json(draft.path / METRICS_FILE, judged.metrics)
    atomic.write_json(draft.path / VIDEOS_FILE, split.names)
    failed = [record for record in records if record["status"] == "failed"]
    write_failures(
        draft.path,
        [Failure(record["question_id"], STAGE, "failed", record["reason"]) for record in failed],
    )
    return draft.finish(
        {"total": len(records), "done": len(records) - len(failed), "failed": len(failed)},
        extra={
            "metrics": judged.metrics,
            "ci95_of": judged.ci95_of,
            "tally": counted.as_json(),
            "videos": len(split.candidates),
            "notes": judged.notes,
            "shards": sharded.num_shards,
        },
        host=host,
    )


def _judged(records: Sequence[dict[str, Any]], split: _Split) -> Judged:
    """Text to video with its interval, and video to text under `video_to_text`."""
    ranked = [index for index, row in enumerate(records) if row["status"] == "ok"]
    scores = np.array([records[index]["scores"] for index in ranked], np.float64)
    own = [split.candidates.column(split.questions[index]) for index in ranked]
    columns: Ints = np.array(own, np.int64)
    texts = places_of_texts(scores, columns)
    found = dict(zip(ranked, range(len(ranked)), strict=True))
    rows = [
        row_of(
            split.questions[index],
            texts[found[index]] if index in found else None,
            row["status"],
            scorer="retrieval",
            reason=row["reason"],
        )
        for index, row in enumerate(records)
    ]
    # A video without a text is a candidate for every text, and not itself a query.
    asked = np.unique(columns)
    numbers = np.zeros(scores.shape[1], np.int64)
    numbers[asked] = np.arange(len(asked))
    videos = places_of_videos(scores[:, asked], numbers[columns])
    return judge(rows, load_manifest(split.config.benchmark), seed=split.config.seed, videos=videos)


def _result(artifact: Artifact, reused: bool, started: float, notes: Sequence[str]) -> StageResult:
    config, made = artifact.config, artifact.manifest
    details = {
        "benchmark": config["benchmark"],
        "split": config["split"],
        "system": config["system"],
        **made["tally"],
        "videos": made["videos"],
        "metrics": made["metrics"],
        "ms_per_pair": made["host"].get("ms_per_pair"),
    }
    return finished_result(
        artifact,
        reused=reused,
        seconds=time.monotonic() - started,
        next_commands=["vqa report"],
        notes=[*notes, f"ranked among {made['videos']} videos", *made["notes"]],
        details=details,
    )


def export_official(
    inputs: EvaluateInputs, result: StageResult, destination: Path | None
) -> StageResult:
    """Write the videos of each text, best first; see `stages.benchmarks.exports`.

    Returns:
        The result with the file's path as `export`; an unfinished one as it is.
    """
    artifact = result.artifact
    if artifact is None:
        return result
    benchmark = artifact.config["benchmark"]
    path = destination or Path(f"{artifact.label}-official{official_suffix(benchmark)}")
    config = EvaluateConfig.build(artifact.config, artifact.id)
    split = _Split.of(inputs, config)
    names = split.names
    predictions = [
        [names[place] for place in np.argsort(-np.array(row["scores"]), kind="stable")]
        if row["status"] == "ok"
        else None
        for row in prediction_records(artifact)
    ]
    atomic.make_directory(path.parent)
    write_official(path, benchmark, split.questions, predictions)
    return replace(
        result,
        notes=[*result.notes, f"official file: {path}"],
        details={**result.details, "export": str(path)},
    )
