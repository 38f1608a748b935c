"""The evaluations that a page compares: their rows, and what tells them apart.

Reads: predictions and their manifests.   Writes nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.artifacts.predictions import VIDEOS_FILE, prediction_records
from stages.artifacts.store import Artifact
from stages.benchmarks.manifest import load_manifest
from stages.report_page.model import System
from stages.reporting.ancestry import Ancestry

Row = dict[str, Any]
"""One row of `predictions.parquet`."""

APART = ("ci95", "by_type")
"""Metrics that a page shows in places of their own."""
OF_FRAMES = ("keyframe_", "frame_", "tie_")
"""What says something of the frames that were looked at, if any were."""
SEED_ENDING = re.compile(r"(?<=.)-seed\d+$")


@dataclass(frozen=True)
class Evaluation:
    """One predictions artifact.

    Attributes:
        artifact: The predictions.
        name: Unique among those of a page.
        select: Who chose the frames, such as `prompter`.
        rows: By question id.
        ranked: Of retrieval alone, the videos that `scores` are about.
    """

    artifact: Artifact
    name: str
    select: str
    rows: Mapping[str, Row]
    ranked: tuple[str, ...] = ()

    @property
    def blind(self) -> str | None:
        """What was shown in place of the videos; none: the videos."""
        return self.artifact.config.get("blind")

    @property
    def keep(self) -> int:
        """Frames kept."""
        return int(self.artifact.config["keep"])

    @property
    def frames(self) -> int:
        """Frames seen."""
        return int(self.artifact.config["frames"])

    def value(self, question_id: str) -> float | None:
        """The question's share of the headline figure in percent; none: not scored."""
        row = self.rows.get(question_id)
        return None if row is None else row_value(row)


def row_value(row: Row) -> float | None:
    """The row's share of the headline figure in percent; none: not scored."""
    if row["status"] != "ok":
        return None
    return row.get("value") if row["correct"] is None else 100.0 * row["correct"]


def load_evaluations(predictions: Sequence[Artifact], ancestry: Ancestry) -> list[Evaluation]:
    """Rows and names of the predictions, in their order."""
    names = unique_names(predictions, ancestry)
    return [
        _evaluation(item, name, prediction_records(item))
        for item, name in zip(predictions, names, strict=True)
    ]


def _evaluation(artifact: Artifact, name: str, rows: Sequence[Row]) -> Evaluation:
    return Evaluation(
        artifact,
        name,
        _selector(artifact, rows),
        {row["question_id"]: row for row in rows},
        _ranked(artifact.path / VIDEOS_FILE),
    )


def _ranked(path: Path) -> tuple[str, ...]:
    return tuple(json.loads(path.read_text("utf-8"))) if path.is_file() else ()


def _selector(artifact: Artifact, rows: Sequence[Row]) -> str:
    """What was asked for; of a system's own selector the rows know the name."""
    asked = str(artifact.config.get("select", ""))
    if asked != "own":
        return asked
    return next((str(row["frame_rule"]) for row in rows if row["frame_rule"]), asked)


# --- names ---------------------------------------------------------------------------------------


def short_name(predictions: Artifact) -> str:
    """The label without the benchmark and split that the page's title names."""
    config = predictions.config
    return predictions.label.removeprefix(f"{config['benchmark']}-{config['split']}-")


def unique_names(predictions: Sequence[Artifact], ancestry: Ancestry) -> list[str]:
    """A name for each, no two alike.

    Equal labels are told apart by the seed of the evaluation, else by that of the weights, else by
    the fingerprint.
    """
    marks: Sequence[Callable[[Artifact], str | None]] = (
        lambda item: _seed_mark(item.config.get("seed")),
        lambda item: _seed_mark(weights_seed(item, ancestry)),
        lambda item: item.fingerprint[:6],
    )
    plain = _without_common_seed([short_name(item) for item in predictions])
    names = list(plain)
    for shared in {name for name in plain if plain.count(name) > 1}:
        places = [at for at, name in enumerate(plain) if name == shared]
        for mark in marks:
            told = [mark(predictions[at]) for at in places]
            if None not in told and len(set(told)) == len(told):
                break
        for at, text in zip(places, told, strict=True):
            names[at] = f"{shared} {text}"
    if len(set(names)) < len(names):
        return [item.id for item in predictions]
    return names


def _without_common_seed(names: list[str]) -> list[str]:
    """A seed that all names end in tells none of them apart."""
    endings = {match[0] if (match := SEED_ENDING.search(name)) else "" for name in names}
    return [SEED_ENDING.sub("", name) for name in names] if len(endings) == 1 else names


def _seed_mark(seed: Any) -> str | None:
    return None if seed is None else f"seed {seed}"


def weights_seed(predictions: Artifact, ancestry: Ancestry) -> int | None:
    """The seed that the answerer's weights, or else the selector's, were trained with."""
    for role in ("weights", "selector"):
        found = ancestry.input_of(predictions, role)
        if found is not None:
            seed: int | None = found.manifest.get("seed")
            return seed
    return None


# --- rows of the table ---------------------------------------------------------------------------


def system_of(evaluation: Evaluation, ancestry: Ancestry) -> System:
    """The evaluation as a row of the table."""
    artifact, config = evaluation.artifact, evaluation.artifact.config
    metrics, tally = artifact.manifest["metrics"], artifact.manifest["tally"]
    headline = headline_of(artifact)
    ends = metrics.get("ci95")
    return System(
        name=evaluation.name,
        artifact=artifact.id,
        family=str(config["system"]),
        select=evaluation.select,
        headline=headline,
        value=metrics.get(headline),
        ci95=(float(ends[0]), float(ends[1])) if ends else None,
        by_type={str(name): float(value) for name, value in metrics.get("by_type", {}).items()},
        metrics={
            name: value
            for name, value in flat_metrics(metrics)
            if name != headline
            and name.split(".")[0] not in APART
            and not (evaluation.blind and name.startswith(OF_FRAMES))
        },
        frames=evaluation.frames,
        keep=evaluation.keep,
        ms_per_video=ancestry.host_facts[artifact.id]["ms_per_video"],
        seed=weights_seed(artifact, ancestry),
        blind=evaluation.blind,
        n_scored=tally["n_scored"],
        n_failed=tally["n_failed"],
        n_unlabelled=tally["n_unlabelled"],
    )


def headline_of(predictions: Artifact) -> str:
    """The figure that has the interval, else the first one that the benchmark reports."""
    named = predictions.manifest.get("ci95_of")
    return str(named or load_manifest(str(predictions.config["benchmark"])).metrics[0])


def flat_metrics(metrics: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, float]]:
    """Single finite numbers by name, those of a group as `group.name`."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from flat_metrics(value, f"{group}{name}.")
        elif isinstance(value, int | float) and math.isfinite(value):
            yield f"{group}{name}", float(value)
