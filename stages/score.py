"""Official figures of a prediction file that anyone may have made.

Reads: a prediction file or artifact; annotations, prepared questions, or the answers that the
file carries itself.   Writes: metrics (metrics.json, scored.parquet, failures.parquet).
The metrics are those of `vqa eval`: `stages.benchmarks.scorers` holds each of them once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from stages.artifacts import atomic
from stages.artifacts.clips import Failure
from stages.artifacts.lookup import questions_of
from stages.artifacts.predictions import METRICS_FILE, PREDICTIONS_TABLE
from stages.artifacts.questions import write_failures
from stages.artifacts.result import StageResult, finished_result
from stages.artifacts.scored import write_scored
from stages.artifacts.store import LABEL_CHARACTERS, MANIFEST, Artifact, Draft, Request, Workspace
from stages.benchmarks.answer_keys import key_layout, read_key
from stages.benchmarks.batches import load_questions
from stages.benchmarks.manifest import BenchmarkManifest, load_manifest, split_name
from stages.benchmarks.prediction_files.asked import (
    Asked,
    asked_from_file,
    asked_of,
    asked_of_key,
)
from stages.benchmarks.prediction_files.given import PredictionFile
from stages.benchmarks.prediction_files.joining import Joined, join
from stages.benchmarks.prediction_files.reading import read_predictions
from stages.benchmarks.readers import BadRow, QuestionStream
from stages.benchmarks.scorers.judge import Judged, judge
from stages.benchmarks.scorers.moments import Moments
from stages.benchmarks.scorers.retrieval import Place, TieRule
from stages.benchmarks.scorers.rows import Predicted, ScoredRow
from stages.benchmarks.scorers.rules import DIFFERENCES, Rules, rule_sentences
from stages.benchmarks.statistics import Tally, tally
from stages.core.config import Config
from stages.core.errors import DataError, MissingInput, UsageError
from stages.core.runtime import Runtime

STAGE = "score"
Source = Literal["annotations", "prepared questions", "predictions", "none"]
"""Who says which answers are right."""
SAID = {
    "annotations": "the annotations",
    "prepared questions": "the prepared questions",
    "predictions": "the prediction file itself",
    "none": "the order of the matrix",
}


class ScoreConfig(Config):
    """What decides the bytes of a metrics artifact."""

    benchmark: str
    split: str
    system: str
    """What the predictions are called in tables."""
    truth: Source
    annotations: str = ""
    """Sha256 of the annotation file; empty: not used."""
    predictions: str
    """Sha256 of the prediction file."""
    vocabulary: str = ""
    """Sha256 of the vocabulary that indices were decoded with; empty: none was given."""
    as_published: bool = False
    ties: TieRule = "expected"
    """What equal retrieval scores count as."""
    seed: int = Field(default=42, ge=0)
    """Of the interval's resamples."""


@dataclass(frozen=True)
class ScoreInputs:
    """What is scored against what.

    Attributes:
        manifest: The benchmark.
        split: One of its splits.
        file: The predictions.
        asked: The questions; empty for a matrix without annotations.
        truth: Where they come from.
        annotations: The annotation file, if it is one.
        vocabulary: Words of a system that predicts indices, if given.
        questions: Prepared questions, if they come from there.
        predictions: The artifact that the predictions come from, if they do.
        notes: What was noticed in reading.
    """

    manifest: BenchmarkManifest
    split: str
    file: PredictionFile
    asked: list[Asked]
    truth: Source
    annotations: Path | None = None
    vocabulary: Path | None = None
    questions: Artifact | None = None
    predictions: Artifact | None = None
    notes: list[str] = field(default_factory=list)
    captions: Path | None = None
    """Captions of a list of videos, if they were given."""

    def host(self) -> dict[str, str | None]:
        """Where the files were; what they hold is in the configuration."""
        files = {
            "predictions": self.file.path,
            "annotations": self.annotations,
            "captions": self.captions,
            "vocabulary": self.vocabulary,
        }
        return {name: str(path.resolve()) if path else None for name, path in files.items()}


def read_inputs(
    workspace: Workspace,
    benchmark: str,
    split: str | None,
    predictions: str,
    *,
    annotations: Path | None = None,
    questions: str | None = None,
    captions: Path | None = None,
    vocabulary: Path | None = None,
    as_published: bool = False,
) -> ScoreInputs:
    """Read the predictions and find out who says which answers are right.

    The annotations if they are given, else the workspace's prepared questions, else the answers
    that the prediction file carries.

    Args:
        workspace: Where prepared questions and prediction artifacts are.
        benchmark: Name of the benchmark.
        split: Its split; none: that of a predictions artifact, or the one that papers report.
        predictions: A file, a predictions artifact's folder, or its id or label.
        annotations: Official annotations, or an answer key.
        questions: Prepared questions that the user named.
        captions: Captions of a list of videos (msrvtt-retrieval).
        vocabulary: Words of an open-ended system that predicts indices.
        as_published: Read the file as the public scorer does.

    Raises:
        MissingInput: A file is not there, or nothing says which answers are right.
        DataError: A file's content. UsageError: Inputs that do not go together.
    """
    if annotations is not None and questions is not None:
        raise UsageError("--annotations and --questions both say which answers are right")
    if vocabulary is not None and not vocabulary.is_file():
        raise MissingInput(f"vocabulary not found: {vocabulary}", "check --vocabulary")
    manifest = load_manifest(benchmark)
    path, artifact = _resolve(workspace, predictions)
    _check_benchmark(artifact, benchmark)
    chosen = (
        split_name(manifest, split) if split is not None else _default_split(manifest, artifact)
    )
    if artifact is not None and artifact.config["split"] != chosen:
        raise UsageError(f"{artifact.id} answers {artifact.config['split']}, not {chosen}")
    file = read_predictions(path, manifest, as_published=as_published)
    if annotations is not None:
        asked, notes = _from_annotations(manifest, chosen, annotations, captions)
        return ScoreInputs(
            manifest, chosen, file, asked, "annotations", annotations, vocabulary,
            predictions=artifact, notes=notes, captions=captions,
        )  # fmt: skip
    prepared = _prepared(workspace, manifest, chosen, questions, artifact, file)
    if prepared is not None:
        asked = [asked_of(item, manifest.scorer) for item in load_questions(prepared)]
        return ScoreInputs(
            manifest, chosen, file, asked, "prepared questions", None, vocabulary,
            questions=prepared, predictions=artifact, notes=[f"questions: {prepared.id}"],
        )  # fmt: skip
    own = asked_from_file(file, manifest)
    truth: Source = "none" if file.matrix is not None else "predictions"
    return ScoreInputs(
        manifest, chosen, file, own, truth, None, vocabulary, notes=_unknown_class(file, manifest)
    )


def _unknown_class(file: PredictionFile, manifest: BenchmarkManifest) -> list[str]:
    """What an open-ended file of indices alone leaves open: whether its 0 is a word."""
    truths = {item.truth for item in file.given}
    if manifest.task != "open-ended" or 0 not in truths or -1 in truths:
        return []
    return [
        "the file does not say whether index 0 is a word or the unknown class, it is taken for a "
        "word; --annotations would tell"
    ]


def _resolve(workspace: Workspace, reference: str) -> tuple[Path, Artifact | None]:
    """The prediction file, and the artifact that it belongs to if it was named as one."""
    path = Path(reference)
    if path.is_file():
        return path, None
    if path.is_dir() and not (path / MANIFEST).exists():
        raise DataError(f"{path} is a folder, not a prediction file or a finished artifact")
    if not path.exists() and len(path.parts) > 1:
        raise MissingInput(f"prediction file not found: {path}", "check --predictions")
    try:
        artifact = workspace.by_reference("predictions", reference)
    except MissingInput as error:
        raise MissingInput(
            f"no prediction file and no predictions artifact called {reference!r}", error.hint
        ) from None
    if artifact.kind != "predictions":
        raise UsageError(f"{artifact.id} is {artifact.kind}, not predictions")
    return artifact.path / PREDICTIONS_TABLE, artifact


def _check_benchmark(artifact: Artifact | None, benchmark: str) -> None:
    if artifact is not None and artifact.config["benchmark"] != benchmark:
        raise UsageError(
            f"{artifact.id} holds predictions for {artifact.config['benchmark']}, not {benchmark}"
        )


def _default_split(manifest: BenchmarkManifest, artifact: Artifact | None) -> str:
    return manifest.report_split if artifact is None else str(artifact.config["split"])


def _from_annotations(
    manifest: BenchmarkManifest, split: str, path: Path, captions: Path | None
) -> tuple[list[Asked], list[str]]:
    """The questions of an annotation file or of an answer key, and what was odd about it."""
    if manifest.keys and key_layout(path) in manifest.keys:
        rows = read_key(manifest, split, path)
        return [asked_of_key(row, manifest) for row in rows], [f"{path.name} is an answer key"]
    stream = QuestionStream(manifest, split, path, captions=captions)
    asked, bad_rows = [], []
    for item in stream:
        if isinstance(item, BadRow):
            bad_rows.append(item)
        else:
            asked.append(asked_of(item, manifest.scorer))
    videos = {item.video for item in asked}
    expected = manifest.splits[split].differences(len(asked), len(videos), stream.layout)
    notes = [*stream.warnings, *(f"{manifest.name} {split}: {text}" for text in expected)]
    if bad_rows:
        shown = "; ".join(str(row) for row in bad_rows[:3])
        notes.append(f"{len(bad_rows)} annotation rows cannot be read: {shown}")
    if not asked:
        raise DataError(f"{path}: not one question can be read", notes[-1] if notes else "")
    return asked, notes


def _prepared(
    workspace: Workspace,
    manifest: BenchmarkManifest,
    split: str,
    reference: str | None,
    artifact: Artifact | None,
    file: PredictionFile,
) -> Artifact | None:
    """The workspace's questions; none where there are none and the file can do without."""
    if artifact is not None and reference is None:
        reference = next(
            str(item["id"]) for item in artifact.manifest["inputs"] if item["role"] == "questions"
        )
    try:
        return questions_of(workspace, manifest.name, split, reference)
    except MissingInput as error:
        if reference is None and (file.has_truth or file.matrix is not None):
            return None
        raise MissingInput(
            f"nothing says which answers are right: {error.message}",
            "give --annotations FILE, or prepare the questions first",
        ) from None


def score_config(
    inputs: ScoreInputs, rules: Rules, *, system: str | None, seed: int
) -> ScoreConfig:
    """The configuration of a score.

    Raises:
        UsageError: A tie rule where nothing is ranked.
    """
    if rules.ties != "expected" and inputs.manifest.scorer != "retrieval":
        raise UsageError(f"--ties is for retrieval, {inputs.manifest.name} ranks nothing")
    own = inputs.predictions.config["system"] if inputs.predictions else _stem(inputs.file.path)
    return ScoreConfig(
        benchmark=inputs.manifest.name,
        split=inputs.split,
        system=system or str(own),
        truth=inputs.truth,
        annotations=_digest(inputs.annotations),
        predictions=_predictions_digest(inputs.file),
        vocabulary=_digest(inputs.vocabulary),
        as_published=rules.as_published,
        ties=rules.ties,
        seed=seed,
    )


def _digest(path: Path | None) -> str:
    return "" if path is None else atomic.sha256_file(path)


def _predictions_digest(file: PredictionFile) -> str:
    """Of the file, and of the names of what it ranks where these lie in another one."""
    own = atomic.sha256_file(file.path)
    return atomic.sha256_json([own, list(file.videos)]) if file.videos else own


def _stem(path: Path) -> str:
    """The file's name without its last extensions."""
    name = path.name.removesuffix(".gz")
    return name.rpartition(".")[0] or name


def score_predictions(
    workspace: Workspace, inputs: ScoreInputs, config: ScoreConfig, runtime: Runtime
) -> StageResult:
    """Write the metrics of a prediction file.

    Raises:
        DataError: Predictions for unknown questions, no usable one, or a failed one with `strict`.
    """
    started = time.monotonic()
    rules = Rules(config.as_published, config.ties)
    joined = join(inputs.asked, inputs.file, inputs.manifest, rules, inputs.vocabulary)
    _stop_if_strict(joined.rows, runtime)
    inputs_by_role = {"questions": inputs.questions, "predictions": inputs.predictions}
    request = Request(
        "metrics",
        runtime.name or _label(config),
        config.as_json(),
        {role: item for role, item in inputs_by_role.items() if item is not None},
    )
    with workspace.exclusive(request, force=runtime.force) as (draft, done):
        artifact = done or _write(draft, inputs, config, joined, rules)
    return _result(artifact, done is not None, started)


def _stop_if_strict(rows: Sequence[ScoredRow], runtime: Runtime) -> None:
    failed = next((row for row in rows if row.status == "failed"), None)
    if runtime.strict and failed is not None:
        raise DataError(f"{failed.question_id}: {failed.reason}", "run without --strict")


def _label(config: ScoreConfig) -> str:
    parts = [config.benchmark, config.split, config.system]
    if config.as_published:
        parts.append("as-published")
    joined = "-".join(parts)
    return "".join(c if c in LABEL_CHARACTERS else "_" for c in joined)


def _write(
    draft: Draft, inputs: ScoreInputs, config: ScoreConfig, joined: Joined, rules: Rules
) -> Artifact:
    judged = judge(
        joined.rows, inputs.manifest, rules=rules, seed=config.seed, videos=joined.videos
    )
    counted = tally([row.status for row in joined.rows])
    atomic.write_json(draft.path / METRICS_FILE, judged.metrics)
    write_scored(
        draft,
        [_record(row, value) for row, value in zip(joined.rows, judged.values, strict=True)],
    )
    failed = [row for row in joined.rows if row.status == "failed"]
    write_failures(
        draft.path, [Failure(row.question_id, STAGE, "failed", row.reason) for row in failed]
    )
    return draft.finish(
        {"total": len(joined.rows), "done": len(joined.rows) - len(failed), "failed": len(failed)},
        extra=_facts(inputs, config, joined, rules, judged, counted),
        host=inputs.host(),
    )


def _facts(
    inputs: ScoreInputs,
    config: ScoreConfig,
    joined: Joined,
    rules: Rules,
    judged: Judged,
    counted: Tally,
) -> dict[str, Any]:
    """What the manifest keeps besides files and counts."""
    manifest = inputs.manifest
    notes = [*inputs.notes, *joined.notes, *judged.notes]
    if rules.as_published and manifest.name not in DIFFERENCES:
        notes.append(f"no difference between {manifest.name}'s public scorer and ours is known")
    scorer: dict[str, Any] = {
        "name": manifest.scorer,
        "as_published": rules.as_published,
        "rules": rule_sentences(manifest, rules),
        "form": inputs.file.form,
        "truth": config.truth,
        "notes": notes,
    }
    if manifest.scorer == "retrieval":
        scorer["ties"] = rules.ties
    return {
        "metrics": judged.metrics,
        "tally": counted.as_json(),
        "ci95_of": judged.ci95_of,
        "scorer": scorer,
    }


def _record(row: ScoredRow, value: float | None) -> dict[str, Any]:
    """One row of `scored.parquet`."""
    return {
        "question_id": row.question_id,
        "video": row.video,
        "type": row.type,
        "categories": list(row.categories),
        "prediction": _as_text(row.prediction),
        "answer": _truth_text(row),
        "correct": row.correct,
        "value": value,
        "status": row.status,
        "reason": row.reason,
    }


def _as_text(prediction: Predicted) -> str | None:
    """A prediction for people: an index, words, windows, or the place of the right video."""
    if prediction is None:
        return None
    if isinstance(prediction, Moments):
        return json.dumps([list(window) for window in prediction.windows])
    if isinstance(prediction, Place):
        last = prediction.better + prediction.tied
        return f"{prediction.better + 1}" + (f"-{last}" if prediction.tied > 1 else "")
    return str(prediction)


def _truth_text(row: ScoredRow) -> str | None:
    if row.answer is not None:
        return str(row.answer)
    if isinstance(row.prediction, Moments) and row.spans:
        return json.dumps([list(span) for span in row.spans])
    return row.video if isinstance(row.prediction, Place) else None


def _result(artifact: Artifact, reused: bool, started: float) -> StageResult:
    facts, config = artifact.manifest, artifact.config
    scorer = facts["scorer"]
    notes = [f"read as {scorer['form']}; {SAID[scorer['truth']]} say which answers are right"]
    if scorer["truth"] in ("predictions", "none"):
        notes = [f"read as {scorer['form']}; {SAID[scorer['truth']]} says which answers are right"]
    notes += ["rules: as published" if scorer["as_published"] else "rules: ours"]
    notes += [f"  {sentence}" for sentence in scorer["rules"]]
    notes += scorer["notes"]
    if not facts["metrics"]:
        notes.append("nothing is labelled: no metrics")
    return finished_result(
        artifact,
        reused=reused,
        seconds=time.monotonic() - started,
        next_commands=[f"vqa compare {artifact.id} OTHER"],
        notes=notes,
        details={
            "benchmark": config["benchmark"],
            "split": config["split"],
            "system": config["system"],
            **facts["tally"],
            "metrics": facts["metrics"],
            "ci95_of": facts["ci95_of"],
            "scorer": scorer,
        },
    )
