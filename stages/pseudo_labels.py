"""Ask the frozen answerer of every frame whether it alone gives the answer (the reverse chain).

Reads: questions, features, an answerer's weights.   Writes: pseudo-labels (Parquet shards).
Paper: SeViLA (arXiv 2305.06988) section 3.3; specs/sevila.md 4.2. The published code labels random
frames in every training step, with dropout; here every stored frame is labelled once, without.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field

from stages.artifacts.clips import Failure
from stages.artifacts.halving import in_smaller_batches, smaller_batch_size
from stages.artifacts.lookup import NO_WEIGHTS
from stages.artifacts.pseudo_labels import STEM, encode_pseudo_labels
from stages.artifacts.questions import write_failures
from stages.artifacts.result import StageResult, finished_result, unfinished_result
from stages.artifacts.shards import Claim, ShardedDraft, reusable
from stages.artifacts.store import Artifact, Draft, Request, Workspace
from stages.benchmarks.batches import QuestionFeatures
from stages.benchmarks.clip_order import shards_by_clip
from stages.benchmarks.manifest import load_manifest, split_name
from stages.benchmarks.prompts import AnswerMode, candidates, letter_problem, prompt
from stages.benchmarks.questions import Question
from stages.core.config import Config
from stages.core.device import resolve_device, torch_version
from stages.core.errors import DataError, MissingInput, UsageError
from stages.core.memory import Peak, require_room
from stages.core.out_of_memory import room_for
from stages.core.runtime import Runtime
from stages.engines import Build, Built, ShardWork, build_shards
from stages.models.backbones.catalog import (
    backbone_fingerprint,
    backbone_host,
    backbone_label,
    backbone_path,
)
from stages.models.backbones.folder import BackboneFolder
from stages.models.memory import answering_peak
from stages.models.sevila import PseudoLabels, SevilaConfig
from stages.systems.build import load_sevila
from stages.systems.clip_cache import ClipCache
from stages.systems.inputs import EvaluateInputs, find_inputs
from stages.systems.memory import precision_of
from stages.systems.tuning import seen_frames

STAGE = "pseudo-label"
CHANGEABLE = ("rank_norm", "row_budget")
"""Options of the network that leave its weights as they are."""


class PseudoLabelConfig(Config):
    """What decides the bytes of pseudo-labels, besides features and weights."""

    benchmark: str
    """Name of the benchmark."""
    split: str
    """Split that is labelled."""
    backbone: str
    """Name of the answerer's backbone."""
    backbone_weights: str
    """Its fingerprint."""
    answer: AnswerMode
    """How answers are read."""
    frames: int = Field(ge=1)
    """T, frames that are labelled of each question."""
    round: int = Field(default=1, ge=1)
    """Which refinement these labels are for."""
    max_questions: int | None = Field(default=None, ge=1)
    """Label the first ones only; none: all."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of a zero-shot backbone; trained weights bring their own."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Options of the network that differ from training (`rank_norm`, `row_budget`)."""
    batch_size: int = Field(default=16, ge=1)
    """Questions per forward pass."""
    questions_per_shard: int = Field(default=256, ge=1)
    """Questions in one shard."""
    device: str
    """Device type."""
    torch: str
    """Major and minor version."""


def find_answerer(
    workspace: Workspace,
    benchmark: str,
    split: str | None,
    values: dict[str, Any],
    *,
    weights: str | None = None,
    features: Sequence[str] = (),
    questions: str | None = None,
    backbone: str | None = None,
) -> EvaluateInputs:
    """What is labelled and by whom.

    Args:
        workspace: Where to look.
        benchmark: Name of the benchmark.
        split: Its split; none: the one that is learnt from.
        values: Settings; `frames` and `round` among them.
        weights: Answerer weights that the user named, or `none`; None: the backbone as it is in
            round 1, the workspace's answerer in later ones.
        features: Features that the user named.
        questions: Questions that the user named.
        backbone: Name or folder of the backbone.

    Raises:
        MissingInput: Nothing is prepared, or a later round has no trained answerer.
    """
    manifest = load_manifest(benchmark)
    later = values.get("round", 1) != 1
    found = find_inputs(
        workspace,
        benchmark,
        split_name(manifest, split) if split else (*manifest.splits_for("train"), "train")[0],
        system="blip2-voting",
        select="all",
        weights=weights or (None if later else NO_WEIGHTS),
        features=features,
        questions=questions,
        backbone=backbone,
        frames=values.get("frames"),
    )
    if later and weights is None and found.weights is None:
        raise MissingInput(
            f"round {values['round']} needs an answerer trained on the localizer's keyframes",
            f"vqa train-answerer --benchmark {benchmark}, or --weights none",
        )
    return found


def pseudo_label_config(
    inputs: EvaluateInputs, values: dict[str, Any], device: str
) -> PseudoLabelConfig:
    """The configuration; what is not given comes from the weights, else from the benchmark.

    Raises:
        ConfigError: An unknown key, or a network option that only training may set.
        UsageError: An option that labelling may not change.
    """
    asked, trained = inputs.questions.config, inputs.weights.config if inputs.weights else {}
    manifest = load_manifest(asked["benchmark"])
    frames = max(inputs.features.config["sampling"]["frames"])
    defaults = {
        "answer": trained.get("answer", manifest.answer_default),
        "frames": frames,
        "precision": trained.get("training", {}).get("precision", "float32"),
    }
    config = PseudoLabelConfig.build(
        {
            **defaults,
            **values,
            "benchmark": asked["benchmark"],
            "split": asked["split"],
            "backbone": backbone_label(inputs.backbone),
            "backbone_weights": backbone_fingerprint(
                BackboneFolder(backbone_path(inputs.backbone))
            ),
            "device": resolve_device(device).type,
            "torch": torch_version(),
        },
        STAGE,
    )
    fixed = sorted(set(config.model) - set(CHANGEABLE))
    if fixed:
        raise UsageError(
            f"{STAGE}: model.{fixed[0]} has no say here", f"open: {', '.join(CHANGEABLE)}"
        )
    SevilaConfig.build(_network(config, inputs.weights), f"{STAGE}: model")
    return config


def pseudo_label(
    workspace: Workspace, inputs: EvaluateInputs, config: PseudoLabelConfig, runtime: Runtime
) -> StageResult:
    """Write the labels of one split, continuing what an earlier run left.

    Raises:
        UsageError: No question of the split can be labelled in this way. A single such question is
            a failed row instead.
        OutOfMemory: Not even one question fits; larger batches are halved, as another version.
    """
    return in_smaller_batches(
        lambda one: _pseudo_label(workspace, inputs, one, runtime),
        config,
        smaller_batch_size,
        lambda one: _peak(inputs, one),
    )


def _peak(inputs: EvaluateInputs, config: PseudoLabelConfig) -> Peak:
    """Every frame of a batch is read by T5 alone."""
    made = inputs.weights.config if inputs.weights else {}
    return answering_peak(
        BackboneFolder(backbone_path(inputs.backbone)).config,
        device=config.device,
        batch=config.batch_size,
        seen=config.frames,
        kept=1,
        half=precision_of(made, config.precision) != "float32",
        scores_frames=True,
        budget=int(config.model.get("row_budget", made.get("model", {}).get("row_budget", 256))),
    )


def _pseudo_label(
    workspace: Workspace, inputs: EvaluateInputs, config: PseudoLabelConfig, runtime: Runtime
) -> StageResult:
    started = time.monotonic()
    request, notes = _request(config, inputs, runtime), _notes(inputs)
    existing = reusable(workspace, request, runtime)
    if existing is not None:
        return _result(existing, True, started, notes)
    device = resolve_device(runtime.device)
    require_room(_peak(inputs, config), device)
    run = _Run(inputs, config, runtime)
    draft = workspace.draft(request, force=runtime.force)
    sharded = ShardedDraft(draft, len(run.parts), STEM, ".parquet", runtime.shards)
    sharded.announce(run.total)
    shards = _Shards(sharded, inputs, config, run)
    build_shards(ShardWork(sharded, run.total, "questions", shards.open, device.type), runtime)
    artifact = sharded.finish_if_complete(lambda: _finish(draft, sharded, inputs.backbone))
    if artifact is None:
        counts = sharded.item_counts(run.total)
        unfinished = unfinished_result(draft, counts, time.monotonic() - started)
        return replace(unfinished, notes=[*notes, *unfinished.notes])
    return _result(artifact, False, started, notes)


def plan(
    workspace: Workspace, inputs: EvaluateInputs, config: PseudoLabelConfig, runtime: Runtime
) -> dict[str, Any]:
    """What `pseudo_label` would read and write; writes nothing and loads no model."""
    request = _request(config, inputs, runtime)
    existing = reusable(workspace, request, runtime)
    run = _Run(inputs, config, runtime)
    usable = sum(not run.problem(index) for part in run.parts for index in part)
    return {
        "artifact": existing.id if existing else request.id,
        "reused": existing is not None,
        "inputs": [item.id for item in request.inputs.values()],
        "questions": run.total,
        "frames": usable * config.frames,
        "shards": len(run.parts),
        "forward_passes": 0 if existing else math.ceil(usable / config.batch_size),
        "memory": _peak(inputs, config).as_json(),
    }


def _request(config: PseudoLabelConfig, inputs: EvaluateInputs, runtime: Runtime) -> Request:
    made = inputs.weights.label if inputs.weights else inputs.backbone
    by = backbone_label(inputs.backbone) if inputs.weights is None else made
    parts = [config.benchmark, config.split, by.removeprefix(f"{config.benchmark}-")]
    label = runtime.name or "-".join([*parts, f"{config.frames}f", f"round{config.round}"])
    return Request("pseudo-labels", label, config.as_json(), inputs.as_inputs())


def _network(config: PseudoLabelConfig, weights: Artifact | None) -> dict[str, Any]:
    return {**(weights.config["model"] if weights else {}), **config.model}


def _notes(inputs: EvaluateInputs) -> list[str]:
    by = inputs.weights.id if inputs.weights else f"{inputs.backbone} as it is (zero-shot)"
    return [
        f"questions: {inputs.questions.id}",
        f"features: {inputs.features.id}",
        f"labelled by: {by}",
    ]


# --- labelling -----------------------------------------------------------------------------------


@dataclass
class _Shards:
    """How the shards of one pseudo-labels artifact are built, in whatever process."""

    sharded: ShardedDraft
    inputs: EvaluateInputs
    config: PseudoLabelConfig
    run: _Run | None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "run": None}  # open files stay with their process

    @contextmanager
    def open(self, runtime: Runtime) -> Iterator[Build]:
        """Load the answerer."""
        run = self.run or _Run(self.inputs, self.config, runtime)
        run.load()
        yield lambda claims: run.build(self.sharded, claims)


class _Run:
    """Questions in shards, and the answerer once it is loaded."""

    def __init__(self, inputs: EvaluateInputs, config: PseudoLabelConfig, runtime: Runtime) -> None:
        self.inputs, self.config, self.runtime = inputs, config, runtime
        self.data = QuestionFeatures(inputs.questions, inputs.features, config.frames)
        self.rule = load_manifest(config.benchmark).prompt
        self.total = len(self.data.questions[: config.max_questions])
        self.parts = shards_by_clip(self.data.questions[: self.total], config.questions_per_shard)
        self.labelled = 0
        questions = self.data.questions[: self.total]
        problems = [self._unfit(question) for question in questions]
        if questions and all(problems):
            raise UsageError(
                f"no question of {inputs.questions.id} can be labelled: {problems[0]}",
                "pseudo-labels need options and the right answer",
            )

    def _unfit(self, question: Question) -> str:
        """Why a question has no pseudo-labels whatever is seen, or an empty string."""
        if question.open_ended:
            return "it has no options to be right or wrong about"
        if question.answer is None:
            return "its right answer is not known"
        return letter_problem(question) if self.config.answer == "letter" else ""

    def problem(self, index: int) -> str:
        """Why question `index` is a failed row, or an empty string."""
        return self.data.problem(index) or self._unfit(self.data.questions[index])

    def load(self) -> None:
        """Load the answerer."""
        device = resolve_device(self.runtime.device)
        self.device = device
        self.model = load_sevila(
            self.inputs.backbone,
            device,
            self.config.precision,
            _network(self.config, self.inputs.weights),
            answerer=self.inputs.weights,
            with_localizer=False,
        )
        # In the half precisions the reference labels frames with float32 tokens before T5.
        self.tokens = ClipCache(lambda seen: self.model.answerer_tokens(seen, uniform=True))

    def build(self, sharded: ShardedDraft, claims: Iterator[Claim]) -> Iterator[Built]:
        """Label and commit every claimed shard."""
        for claim in claims:
            before = self.labelled
            try:
                with room_for(f"{self.config.batch_size} questions"):
                    records, facts = self._shard(self.parts[claim.shard])
                sharded.commit(claim, encode_pseudo_labels(records), facts)
            finally:
                claim.lock.release()
            yield Built(claim.shard, self.labelled - before)

    def _shard(self, part: Sequence[int]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        problems = {index: self.problem(index) for index in part}
        fit = [index for index in part if not problems[index]]
        rows: dict[int, list[dict[str, Any]]] = {}
        for start in range(0, len(fit), self.config.batch_size):
            rows |= self._batch(fit[start : start + self.config.batch_size])
        for index in part:
            if problems[index]:
                rows[index] = [self._failed(index, problems[index])]
        positives = [sum(bool(row["label"]) for row in rows[index]) for index in fit]
        facts = {
            "counts": {"done": len(fit), "failed": len(part) - len(fit)},
            "frames": len(fit) * self.config.frames,
            "positive": sum(positives),
            "without_positive": positives.count(0),
            "failures": [row for index in part if problems[index] for row in rows[index]],
        }
        return [row for index in part for row in rows[index]], facts

    def _batch(self, indices: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
        seen = seen_frames(self.data, indices, self.device)
        mode, questions = self.config.answer, seen.questions
        letters = mode == "letter"
        made = self.model.pseudo_labels(
            self.tokens.of(seen),
            [prompt(question, mode, self.rule) for question in questions],
            [question.answer or 0 for question in questions],
            num_options=[len(question.options) for question in questions] if letters else None,
            options=None if letters else [candidates(question, mode) for question in questions],
        )
        self.labelled += len(indices)
        self.runtime.progress(self.labelled, self.total, "questions")
        return {
            index: _rows(questions[row].question_id, seen.frames[row], seen.times[row], made, row)
            for row, index in enumerate(indices)
        }

    def _failed(self, index: int, reason: str) -> dict[str, Any]:
        name = self.data.questions[index].question_id
        if self.runtime.strict:
            raise DataError(f"{name}: {reason}", "run without --strict")
        return {"question_id": name, "status": "failed", "reason": reason}


def _rows(
    question_id: str, frames: Any, times: Any, made: PseudoLabels, row: int
) -> list[dict[str, Any]]:
    labels, predicted = made.labels[row].tolist(), made.predictions[row].tolist()
    scores = made.confidence[row].double().tolist()
    return [
        {
            "question_id": question_id,
            "frame": int(frames[position]),
            "position": position,
            "time": float(times[position]),
            "label": labels[position],
            "predicted": predicted[position],
            "score": scores[position],
            "status": "ok",
            "reason": "",
        }
        for position in range(len(labels))
    ]


# --- finishing -----------------------------------------------------------------------------------


def _finish(draft: Draft, sharded: ShardedDraft, backbone: str) -> Artifact:
    records = list(sharded.records())
    failures = [row for record in records for row in record["failures"]]
    write_failures(
        draft.path,
        [Failure(row["question_id"], STAGE, "failed", row["reason"]) for row in failures],
    )
    frames = sum(record["frames"] for record in records)
    positive = sum(record["positive"] for record in records)
    done = sum(record["counts"]["done"] for record in records)
    labels = {
        "frames": frames,
        "positive": positive,
        "share_positive": 100.0 * positive / frames if frames else None,
        "without_positive": sum(record["without_positive"] for record in records),
    }
    return draft.finish(
        {"total": done + len(failures), "done": done, "failed": len(failures)},
        extra={"labels": labels, "shards": sharded.num_shards},
        host=backbone_host(backbone),
    )


def _result(artifact: Artifact, reused: bool, started: float, notes: Sequence[str]) -> StageResult:
    made, labels = artifact.config, artifact.manifest["labels"]
    said = f"{labels['positive']:,} of {labels['frames']:,} frames give the answer"
    if labels["frames"]:
        said += f" ({labels['share_positive']:.1f} %)"
    return finished_result(
        artifact,
        reused=reused,
        seconds=time.monotonic() - started,
        next_commands=[
            f"vqa refine-localizer --benchmark {made['benchmark']}"
            + (f" --round {made['round']}" if made["round"] > 1 else "")
        ],
        notes=[
            *notes,
            said,
            f"{labels['without_positive']:,} questions have no frame that does",
        ],
        details={"labels": labels},
    )
