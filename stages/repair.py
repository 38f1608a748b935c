"""Rebuild a damaged artifact from what its manifest says it was made of.

Only the damaged files go: shards that are sound stay, and the stage that made the artifact
finishes it again, with the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages import (
    answerer,
    distill,
    evaluate,
    evaluate_moments,
    features,
    frames,
    localizer,
    prepare,
    pseudo_labels,
    report,
    retrieval,
    score,
    teacher,
    videodistill,
)
from stages.artifacts.atomic import fsync_directory, write_json
from stages.artifacts.locks import locked
from stages.artifacts.store import MANIFEST, Artifact, Workspace, damaged_files, verify_files
from stages.artifacts.weights import backbone_of
from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.official import PrepareChoices, Sources
from stages.benchmarks.scorers.rules import Rules
from stages.core.errors import DataError, MissingInput
from stages.core.runtime import Runtime
from stages.systems.inputs import EvaluateConfig, EvaluateInputs
from stages.systems.moment_inputs import MomentsConfig
from stages.training.inputs import TrainingInputs
from stages.training.sevila_origin import Origin

SHARD_FILE = re.compile(r"(?P<stem>.+-\d{5})\.(?:h5|parquet|json)")

DERIVED = ("system", "role", "benchmark", "backbone", "backbone_weights", "tokens")
"""What a training stage puts into its configuration itself."""

Rebuild = Callable[[Workspace, Artifact, dict[str, Artifact], Runtime], None]


def repair_artifact(workspace: Workspace, path: Path, runtime: Runtime) -> Artifact:
    """Delete the damaged files of the artifact at `path` and make them again.

    Raises:
        MissingInput: An input is gone or damaged itself (repair that one first), or the artifact
            was made from files that are not kept.
        DataError: The manifest itself cannot be read, or the rebuilt bytes differ.
    """
    artifact = workspace.open(path)
    if "imported" in artifact.config:
        raise MissingInput(
            f"{artifact.id} was imported from files, which are not kept",
            "import them once more: vqa checkpoint import FILE... --force",
        )
    inputs = _inputs(workspace, artifact)
    with locked(workspace.lock_path(artifact.kind, artifact.id, "artifact")):
        for name in damaged_files(artifact):
            _remove(path, name)
        if artifact.kind in ("questions", "weights", "metrics", "report"):
            for name in artifact.manifest["files"]:
                (path / name).unlink(missing_ok=True)
        # Last: without a manifest a stage takes every shard that is left for a sound one.
        fsync_directory(path)
        (path / MANIFEST).unlink()
    try:
        REBUILDS[artifact.kind](workspace, artifact, inputs, replace(runtime, name=artifact.label))
        rebuilt = workspace.open(path)
    except BaseException:
        # It says how the artifact is made: without it there would be no second attempt.
        write_json(path / MANIFEST, artifact.manifest)
        raise
    if rebuilt.content != artifact.content:
        raise DataError(
            f"{path} was rebuilt, but its content differs from before",
            "inputs or libraries changed since; artifacts made from it are now stale (vqa status)",
        )
    return rebuilt


def _inputs(workspace: Workspace, artifact: Artifact) -> dict[str, Artifact]:
    inputs = {}
    for record in artifact.manifest["inputs"]:
        found = workspace.open(workspace.root / record["kind"] / record["id"])
        if verify_files(found):
            raise MissingInput(
                f"{artifact.id} is made from {found.id}, which is damaged itself",
                f"vqa artifacts verify {found.id} --repair",
            )
        inputs[record["role"]] = found
    return inputs


def _remove(path: Path, name: str) -> None:
    """A damaged file, and with a shard's data or sidecar both."""
    shard = SHARD_FILE.fullmatch(name)
    if shard is None:
        (path / name).unlink(missing_ok=True)
        return
    for file in path.glob(f"{shard['stem']}.*"):
        file.unlink()


# --- how each kind is made ------------------------------------------------------------------------


def _questions(
    workspace: Workspace, artifact: Artifact, inputs: dict[str, Artifact], runtime: Runtime
) -> None:
    made, host = artifact.config, artifact.manifest["host"]
    if made["benchmark"] == "shapes":
        recipe = made["generated"]
        prepare.prepare_shapes(
            workspace,
            made["split"],
            runtime,
            num_videos=recipe["videos"],
            seed=recipe["seed"],
            hard=recipe["hard"],
        )
        return
    sources = Sources(
        Path(host["annotations"]),
        [Path(root) for root in host["video_roots"]],
        Path(host["video_map"]) if host["video_map"] else None,
        Path(host["captions"]) if host["captions"] else None,
    )
    choices = PrepareChoices(made["hash"], tuple(made["columns"]), made["video_rule"])
    prepare.prepare(workspace, made["benchmark"], made["split"], sources, runtime, choices)


def _frames(
    workspace: Workspace, artifact: Artifact, inputs: dict[str, Artifact], runtime: Runtime
) -> None:
    config = frames.FramesConfig.build(artifact.config, artifact.id)
    frames.extract_frames(workspace, inputs["questions"], config, runtime)


def _features(
    workspace: Workspace, artifact: Artifact, inputs: dict[str, Artifact], runtime: Runtime
) -> None:
    config = features.FeaturesConfig.build(artifact.config, artifact.id)
    backbone = backbone_of(artifact)
    job = features.FeatureJob(inputs["questions"], backbone, config, None)
    how = replace(runtime, device=config.compute.device)
    features.extract_features(workspace, job, how)


def _weights(
    workspace: Workspace, artifact: Artifact, inputs: dict[str, Artifact], runtime: Runtime
) -> None:
    values: dict[str, Any] = dict(artifact.config)
    for derived in DERIVED:
        values.pop(derived, None)
    given = TrainingInputs(
        inputs["train_questions"],
        inputs["train_features"],
        inputs.get("tune_questions"),
        inputs.get("tune_features"),
        backbone_of(artifact),
    )
    if artifact.config["system"] == "sevila":
        _sevila_weights(workspace, artifact, inputs, given, values, runtime)
        return
    model = dict(values["model"])
    values |= {"frames": model.pop("frames"), "keep": model.pop("keep"), "model": model}
    if artifact.config["system"] == "videodistill":
        training = videodistill.decide(given, values, runtime, inputs.get("init"))
        videodistill.train(workspace, training, runtime)
        return
    if artifact.config["role"] == "student":
        distill.distill(
            workspace,
            given,
            values,
            runtime,
            teacher=inputs.get("teacher"),
            start=inputs.get("start"),
        )
    else:
        teacher.train_teacher(workspace, given, values, runtime)


def _sevila_weights(
    workspace: Workspace,
    artifact: Artifact,
    inputs: dict[str, Artifact],
    given: TrainingInputs,
    values: dict[str, Any],
    runtime: Runtime,
) -> None:
    if artifact.config["role"] == "answerer":
        selector = inputs.get("selector")
        answerer.train_answerer(workspace, given, values, runtime, selector=selector)
    elif artifact.config["trained_on"] == "spans":
        start = inputs.get("start")
        localizer.train_localizer(workspace, given, values, runtime, start=start)
    else:
        origin = Origin(inputs.get("pseudo_labels"), inputs.get("start"), inputs.get("answerer"))
        localizer.refine_localizer(workspace, given, values, runtime, origin)


def _pseudo_labels(
    workspace: Workspace, artifact: Artifact, inputs: dict[str, Artifact], runtime: Runtime
) -> None:
    config = pseudo_labels.PseudoLabelConfig.build(artifact.config, artifact.id)
    given = EvaluateInputs(
        "blip2-voting",
        "all",
        inputs["questions"],
        inputs["features"],
        inputs.get("weights"),
        None,
        backbone_of(artifact),
        "",
    )
    pseudo_labels.pseudo_label(workspace, given, config, replace(runtime, device=config.device))


def _predictions(
    workspace: Workspace, artifact: Artifact, inputs: dict[str, Artifact], runtime: Runtime
) -> None:
    kind = MomentsConfig if "moments" in artifact.config else EvaluateConfig
    config = kind.build(artifact.config, artifact.id)
    weights, selector = inputs.get("weights"), inputs.get("selector")
    similar = inputs.get("selector_features")
    if config.spans:
        raise MissingInput(
            f"{artifact.id} was made with a file of spans, which is not kept",
            "answer the questions once more: vqa eval --select spans --spans FILE --force",
        )
    own = selector or similar
    given = EvaluateInputs(
        config.system,
        config.select,
        inputs["questions"],
        inputs["features"],
        weights,
        selector,
        backbone_of(weights or artifact),
        backbone_of(own) if own else config.selector_backbone,
        similar,
    )
    if isinstance(config, MomentsConfig):
        given = replace(given, selector_backbone=backbone_of(selector or artifact))
        how = replace(runtime, device=config.device)
        evaluate_moments.evaluate_moments(workspace, given, config, how)
        return
    ranks = load_manifest(config.benchmark).task == "retrieval"
    answering = retrieval.evaluate if ranks else evaluate.evaluate
    answering(workspace, given, config, replace(runtime, device=config.device))


def _report(
    workspace: Workspace, artifact: Artifact, inputs: dict[str, Artifact], runtime: Runtime
) -> None:
    shown = [inputs[role] for role in sorted(inputs) if role.startswith("predictions-")]
    count = artifact.config["num_questions"]
    if report.report_config(report.questions_of(workspace, shown), count).as_json() != (
        artifact.config
    ):
        raise DataError(
            f"{artifact.id}: this version of the tool draws another page",
            "vqa report writes one",
        )
    # Blind runs that came later are not on the page, nor are later times of its inputs.
    known = sorted(inputs.values(), key=lambda item: item.manifest["created"])
    host = artifact.manifest["host"].get("shown")
    report.write_report(workspace, shown, runtime, count, blind=known, host=host)


def _metrics(
    workspace: Workspace, artifact: Artifact, inputs: dict[str, Artifact], runtime: Runtime
) -> None:
    made, host = artifact.config, artifact.manifest["host"]
    questions, predictions = inputs.get("questions"), inputs.get("predictions")
    given = score.read_inputs(
        workspace,
        made["benchmark"],
        made["split"],
        str(predictions.path) if predictions else host["predictions"],
        annotations=_given(host.get("annotations")),
        questions=questions.id if questions else None,
        captions=_given(host.get("captions")),
        vocabulary=_given(host.get("vocabulary")),
        as_published=made["as_published"],
    )
    rules = Rules(made["as_published"], made["ties"])
    config = score.score_config(given, rules, system=made["system"], seed=made["seed"])
    if config.as_json() != made:
        raise DataError(
            f"{artifact.id}: what was scored has changed since",
            "vqa score makes the metrics of what is there now",
        )
    score.score_predictions(workspace, given, config, runtime)


def _given(path: str | None) -> Path | None:
    return Path(path) if path else None


REBUILDS: dict[str, Rebuild] = {
    "questions": _questions,
    "frames": _frames,
    "features": _features,
    "pseudo-labels": _pseudo_labels,
    "weights": _weights,
    "predictions": _predictions,
    "metrics": _metrics,
    "report": _report,
}
