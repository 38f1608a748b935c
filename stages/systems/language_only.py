"""A blind evaluation beside the same one with the videos: what the questions alone gave away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stages.artifacts.predictions import prediction_records
from stages.artifacts.store import Artifact
from stages.benchmarks.batches import load_questions
from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.shortcuts import language_drop


def language_only(questions: Artifact, seeing: Artifact, blind: Artifact) -> dict[str, Any]:
    """The drop over all questions and by type, for the JSON; empty where nothing is labelled.

    Args:
        questions: The split.
        seeing: Predictions with the videos.
        blind: Predictions of the same system without them.
    """
    whole, parts = language_drop(
        load_questions(questions),
        [row["correct"] for row in prediction_records(seeing)],
        [row["correct"] for row in prediction_records(blind)],
        load_manifest(questions.config["benchmark"]),
        int(blind.config["seed"]),
    )
    if whole is None:
        return {}
    return {
        "against": seeing.id,
        **whole.as_json(),
        "by_type": {name: part.as_json() for name, part in parts.items()},
    }


def blind_twins(candidates: Sequence[Artifact], seeing: Artifact) -> list[Artifact]:
    """Those of some predictions that differ from `seeing` in nothing but what is shown."""
    if seeing.config.get("blind", "") is not None:  # blind itself, or of a kind that never is
        return []
    return [
        item
        for item in candidates
        if item.config.get("blind")
        and {**item.config, "blind": None} == seeing.config
        and _contents(item) == _contents(seeing)
    ]


def _contents(artifact: Artifact) -> dict[str, str]:
    return {item["role"]: item["content"] for item in artifact.manifest["inputs"]}


def drop_note(found: dict[str, Any]) -> str:
    """The same as a sentence for the terminal."""
    ends = found["ci95"]
    interval = f" (95 %: {ends[0]:.1f} to {ends[1]:.1f})" if ends else ""
    return (
        f"language only {found['blind']:.1f} %, with the video {found['seeing']:.1f} %: "
        f"a drop of {found['drop']:.1f} points{interval}, against {found['against']}"
    )
