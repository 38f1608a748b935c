"""What an evaluation of moments reads and how it is configured.

The localizer is trained weights, or a backbone as it is; the gap between positive frames is given,
tuned on the split itself, or known from an earlier evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.artifacts.lookup import NO_WEIGHTS, weights_if_any
from stages.artifacts.store import Artifact, Workspace
from stages.artifacts.weights import backbone_of
from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.moment_gaps import ChosenGap, GapTuning
from stages.benchmarks.moment_spans import SpanRule
from stages.core.errors import UsageError
from stages.systems.inputs import EvaluateConfig, EvaluateInputs, evaluate_config, find_inputs


class MomentsConfig(EvaluateConfig):
    """What decides the bytes of predicted moments, besides features and weights."""

    moments: SpanRule = SpanRule()
    """How frames become spans."""
    tuning: GapTuning | None = None
    """Choose the gap on this very split."""


NOT_OF_FRAMES = ("moments", "tuning", "seed")
"""Settings that leave the scores of single frames as they are."""


def frames_key(made: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration, as JSON, decides the scores of single frames."""
    return {name: value for name, value in made.items() if name not in NOT_OF_FRAMES}


def find_moment_inputs(
    workspace: Workspace,
    benchmark: str,
    split: str | None,
    *,
    selector: str | None = None,
    features: Sequence[str] = (),
    questions: str | None = None,
    backbone: str | None = None,
    frames: int | None = None,
) -> EvaluateInputs:
    """The questions, their features and the localizer; see `systems.inputs.find_inputs`.

    Args:
        workspace: Where to look.
        benchmark: Name of the benchmark.
        split: Its split; none: the one that the literature prints.
        selector: The localizer's weights that the user named, or `none`: the backbone as it is.
        features: Features that the user named.
        questions: Questions that the user named.
        backbone: Name or folder of the backbone; none: the weights', or the features'.
        frames: Frames per clip that must be stored.
    """
    weights = weights_if_any(
        workspace, benchmark, "localizer", system="sevila", reference=selector, option="--selector"
    )
    folder = backbone or (backbone_of(weights) if weights else None)
    return find_inputs(
        workspace,
        benchmark,
        split,
        system="sevila",
        select="localizer",
        weights=NO_WEIGHTS,
        selector=weights.id if weights else NO_WEIGHTS,
        features=features,
        questions=questions,
        backbone=folder,
        selector_backbone=folder,
        frames=frames,
    )


def moments_config(
    workspace: Workspace, inputs: EvaluateInputs, values: dict[str, Any], device: str
) -> tuple[MomentsConfig, ChosenGap]:
    """The configuration, with the gap decided unless it is tuned.

    A gap that is neither given nor tuned is that of the newest evaluation on the tune split by the
    same localizer; without one the default is taken, but not on the split that papers report.

    Raises:
        UsageError: A gap both given and tuned, tuning on the reported split, or no gap for it.
        ConfigError: An unknown key.
    """
    values = {name: value for name, value in values.items() if name not in ("select", "keep")}
    moments, tuning = dict(values.pop("moments", {})), values.pop("tuning", None)
    frames = values.get("frames") or max(inputs.features.config["sampling"]["frames"])
    trained = inputs.selector.config if inputs.selector else {}
    precision = trained.get("training", {}).get("precision", "float32")
    shared = evaluate_config(
        inputs, {"precision": precision, **values, "frames": frames, "keep": frames}, device
    )
    built: dict[str, Any] = {**shared.as_json(), "moments": moments, "tuning": tuning}
    config = MomentsConfig.build(built, "eval")
    if config.tuning is not None:
        _refuse_tuning(config, moments)
        return config, ChosenGap(config.moments.gap, "tuned")
    if "gap" in moments:
        return config, ChosenGap(config.moments.gap, "given")
    chosen = _known_gap(workspace, inputs, config)
    rule = config.moments.model_copy(update={"gap": chosen.seconds})
    return config.model_copy(update={"moments": rule}), chosen


def _refuse_tuning(config: MomentsConfig, moments: Mapping[str, Any]) -> None:
    roles = load_manifest(config.benchmark).splits[config.split].roles
    if "gap" in moments:
        raise UsageError("moments.gap is given, and --tune-gap is to find it", "leave one out")
    if "report" in roles and "tune" not in roles:
        raise UsageError(
            f"a gap tuned on {config.split} would make its figures worthless",
            f"tune it on {' or '.join(_tune_splits(config))}: --split ... --tune-gap",
        )


def _tune_splits(config: EvaluateConfig) -> tuple[str, ...]:
    return load_manifest(config.benchmark).splits_for("tune")


def _known_gap(workspace: Workspace, inputs: EvaluateInputs, config: MomentsConfig) -> ChosenGap:
    """The gap of the newest evaluation on the tune split, one that tuned it before any other."""
    wanted = _localizer_key(config.as_json(), contents_of(inputs))
    fitting = [
        item
        for item in workspace.finished("predictions")
        if "moments" in item.config
        and item.config["split"] in _tune_splits(config)
        and _localizer_key(item.config, kept_contents(item)) == wanted
    ]
    tuned = [item for item in fitting if item.config["tuning"] is not None]
    for item in [*fitting, *tuned][-1:]:
        return ChosenGap(float(item.manifest["moments"]["gap"]), item.id)
    splits = load_manifest(config.benchmark).splits
    if "report" in splits[config.split].roles:
        raise UsageError(
            f"no gap is known for {config.benchmark} {config.split}: none was tuned with this "
            "localizer",
            f"vqa eval --benchmark {config.benchmark} --system sevila --split "
            f"{_tune_splits(config)[0]} --tune-gap   (or --set moments.gap=SECONDS)",
        )
    return ChosenGap(config.moments.gap, "default")


def _localizer_key(made: Mapping[str, Any], contents: Mapping[str, str]) -> dict[str, Any]:
    """What two evaluations must share for a gap to pass from one to the other."""
    same = ("benchmark", "selector_backbone_weights", "frames", "model")
    rule = {name: value for name, value in made["moments"].items() if name != "gap"}
    return {name: made.get(name) for name in same} | {
        "localizer": contents.get("selector"),
        "rule": rule,
    }


def contents_of(inputs: EvaluateInputs) -> dict[str, str]:
    """Role to content of what is read."""
    return {role: item.content for role, item in inputs.as_inputs().items()}


def kept_contents(artifact: Artifact) -> dict[str, str]:
    """The same of what an artifact was made from."""
    return {item["role"]: item["content"] for item in artifact.manifest["inputs"]}
