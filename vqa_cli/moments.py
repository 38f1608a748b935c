"""`vqa eval` where the answer is a moment of the video: spans and a score for every 2 s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.errors import UsageError
from vqa_cli.console import Console
from vqa_cli.settings import assign

if TYPE_CHECKING:
    from stages.artifacts.result import StageResult
    from stages.artifacts.store import Workspace
    from stages.core.runtime import Runtime

SYSTEM, SELECT = "sevila", "localizer"


def asks_for_moments(benchmark: str) -> bool:
    """Whether the benchmark's answers are spans.

    Raises:
        UsageError: No benchmark of that name.
    """
    from stages.benchmarks.manifest import load_manifest

    return load_manifest(benchmark).task == "moments"


def refuse_for_moments(system: str, select: str | None, given: Mapping[str, Any]) -> None:
    """Raise `UsageError` for what has no meaning without an answerer.

    Args:
        system: `--system`.
        select: `--select`.
        given: Other options of `vqa eval` and their values; none: not given.
    """
    if system != SYSTEM:
        raise UsageError(
            f"--system {system} answers questions; moments are found by a localizer",
            f"--system {SYSTEM}",
        )
    if select not in (None, "own", SELECT):
        raise UsageError(f"--select {select}: moments need a score for every frame", "leave it out")
    for option, value in given.items():
        if value is not None:
            raise UsageError(f"{option} has no meaning where moments are asked for")


def run_moments(
    root: Workspace,
    benchmark: str,
    split: str | None,
    values: dict[str, Any],
    how: Runtime,
    *,
    tune_gap: bool,
    selector: str | None,
    features: Sequence[str],
    questions: str | None,
    backbone: str | None,
    dry_run: bool,
    export: bool,
    export_to: Path | None,
    console: Console,
) -> list[StageResult]:
    """Evaluate (or plan), export and print; returns the results, none of a plan."""
    from stages import evaluate_moments as stage
    from stages.systems.moment_inputs import find_moment_inputs, moments_config

    if tune_gap and not isinstance(values.get("tuning"), dict):
        assign(values, "tuning", {})
    inputs = find_moment_inputs(
        root,
        benchmark,
        split,
        selector=selector,
        features=features,
        questions=questions,
        backbone=backbone,
        frames=values.get("frames"),
    )
    config, gap = moments_config(root, inputs, values, how.device)
    if dry_run:
        console.plan("eval", stage.plan_moments(root, inputs, config, how))
        return []
    result = stage.evaluate_moments(root, inputs, config, how, gap)
    if export:
        result = stage.export_moments(inputs, result, export_to)
    _show(console, result)
    return [result]


# --- for people ------------------------------------------------------------------------------


def _show(console: Console, result: StageResult) -> None:
    """What the stage did; then the figures, and what every gap came to where it was tuned."""
    if console.as_json:
        console.evaluation(result)
        return
    console.stage("eval", [result])
    facts = result.details
    metrics = facts.get("metrics")
    if not metrics:
        return
    tried = facts["moments"].get("gaps", [])
    if tried:
        names = list(tried[0])
        rows = [[_figure(name, row[name]) for name in names] for row in tried]
        console.table("figures of every gap, in seconds", names, rows)
    counts = f"{facts['n_scored']:,} scored, {facts['n_failed']:,} failed"
    title = f"{facts['benchmark']} {facts['split']}, {facts['system']}: {counts}"
    console.table(title, ["metric", "value"], _rows(metrics, facts["ci95_of"]))


def _figure(name: str, value: float) -> str:
    return f"{value:g}" if name == "gap" else f"{value:.2f}"


def _rows(metrics: Mapping[str, Any], interval_of: str | None) -> list[list[str]]:
    """One row a figure; the tables over thresholds are in the artifact and in the JSON."""
    rows = [[name, f"{value:.2f}"] for name, value in metrics.items() if isinstance(value, float)]
    if "ci95" in metrics:
        low, high = metrics["ci95"]
        rows.append([f"{interval_of}, 95 % interval", f"{low:.2f} - {high:.2f}"])
    return rows
