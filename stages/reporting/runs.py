"""How the weights behind the evaluations were trained.

Reads: `metrics.jsonl` of weights.   Writes nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from stages.artifacts.store import Artifact
from stages.report_page.model import Point, Run
from stages.reporting.ancestry import Ancestry
from stages.reporting.thinning import thinned

METRICS_FILE = "metrics.jsonl"
MOST_POINTS = 300
CURVES = {
    "loss": "loss",
    "tune_accuracy": "accuracy on the tune split",
    "tau": "temperature",
    "gradient_norm": "gradient norm",
    "lr": "learning rate",
}
"""Names in the log -> names on the page."""


def runs_of(ancestry: Ancestry) -> tuple[list[Run], list[str]]:
    """A run for each of the weights with a log, sources first; and what could not be read.

    Curves run along forward passes.
    """
    runs: list[Run] = []
    notes: list[str] = []
    for weights in ancestry.of_kind("weights"):
        path = weights.path / METRICS_FILE
        if not path.is_file():
            continue  # imported
        try:
            lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        except (OSError, ValueError) as error:
            notes.append(f"the training log of {weights.id} cannot be read ({error})")
            continue
        runs.append(_run(weights, lines, ancestry))
    return runs, notes


def _run(weights: Artifact, lines: Sequence[dict[str, Any]], ancestry: Ancestry) -> Run:
    curves = {shown: tuple(_points(lines, name)) for name, shown in CURVES.items()}
    return Run(
        name=weights.label,
        artifact=weights.id,
        role=str(weights.config.get("role", "")),
        seconds=ancestry.host_facts[weights.id]["seconds"],
        curves={name: thinned(points, MOST_POINTS) for name, points in curves.items() if points},
    )


def _points(lines: Sequence[dict[str, Any]], name: str) -> Iterator[Point]:
    for line in lines:
        value = line.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            yield float(line["pass"]), float(f"{value:.5g}")
