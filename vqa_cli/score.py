"""`vqa score`: the official figures of a prediction file made by anyone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.core.errors import UsageError
from vqa_cli import completion
from vqa_cli.console import Console, failures_exit_code
from vqa_cli.options import (
    COMPUTED,
    DEFAULT_WORKSPACE,
    INPUTS,
    OUTPUT,
    BenchmarkOption,
    DebugOption,
    ForceOption,
    JsonOption,
    MaxFailuresOption,
    NameOption,
    QuestionsOption,
    QuietOption,
    SeedOption,
    SplitOption,
    StrictOption,
    WorkspaceOption,
    one_of,
    open_workspace,
    runtime,
)

if TYPE_CHECKING:
    from stages.artifacts.result import StageResult

TIES = ("expected", "average", "optimistic", "every")
DEFAULT_SEED = 42


def score(
    benchmark: BenchmarkOption,
    predictions: Annotated[
        str,
        typer.Option(
            "--predictions",
            "-p",
            metavar="FILE|ID",
            help="Prediction file in an official form or ours, or a predictions artifact.",
            autocompletion=completion.ids_of("predictions"),
        ),
    ],
    annotations: Annotated[
        Path | None,
        typer.Option(
            "--annotations",
            "-a",
            help="Official file or answer key [the prepared questions].",
            metavar="FILE",
        ),
    ] = None,
    split: SplitOption = None,
    captions: Annotated[
        Path | None,
        typer.Option(
            "--captions",
            help="Captions of a list of videos (msrvtt-retrieval) [none].",
            rich_help_panel=INPUTS,
            metavar="FILE",
        ),
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            "--vocabulary",
            help="Words of a system that predicts their indices [none].",
            rich_help_panel=INPUTS,
            metavar="FILE",
        ),
    ] = None,
    questions: QuestionsOption = None,
    as_published: Annotated[
        bool,
        typer.Option(
            "--as-published",
            help="Score as the public scorer does where it differs.",
            rich_help_panel=COMPUTED,
        ),
    ] = False,
    ties: Annotated[
        str | None,
        typer.Option(
            "--ties",
            help="Equal retrieval scores: expected, average, optimistic or every [expected].",
            callback=one_of("--ties", TIES),
            rich_help_panel=COMPUTED,
            metavar="HOW",
            autocompletion=completion.words(*TIES),
        ),
    ] = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    strict: StrictOption = False,
    max_failures: MaxFailuresOption = 0.05,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    name: NameOption = None,
    system: Annotated[
        str | None,
        typer.Option(
            "--system",
            help="What to call it in tables [the file's name].",
            rich_help_panel=OUTPUT,
            metavar="LABEL",
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Score a prediction file as the benchmark's own scorer does."""
    from stages import score as stage
    from stages.benchmarks.scorers.rules import Rules

    if captions is not None and annotations is None:
        raise UsageError("--captions goes with --annotations", "prepared questions have theirs")
    if as_published and ties not in (None, "every"):
        raise UsageError(f"--as-published counts ties as `every`, not as `{ties}`")
    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    root = open_workspace(workspace)
    inputs = stage.read_inputs(
        root,
        benchmark,
        split,
        predictions,
        annotations=annotations,
        questions=questions,
        captions=captions,
        vocabulary=vocabulary,
        as_published=as_published,
    )
    ranked = inputs.manifest.scorer == "retrieval"
    rule: Any = ties or ("every" if as_published and ranked else "expected")
    config = stage.score_config(
        inputs,
        Rules(as_published, rule),
        system=system,
        seed=DEFAULT_SEED if seed is None else seed,
    )
    how = runtime(console, force=force, strict=strict, max_failures=max_failures, name=name)
    result = stage.score_predictions(root, inputs, config, how)
    console.stage("score", [result])
    if not as_json:
        _show(console, result)
    return failures_exit_code([result], max_failures)


# --- for people ------------------------------------------------------------------------------


def _show(console: Console, result: StageResult) -> None:
    """The figures as tables, with two decimals."""
    from stages.benchmarks.manifest import load_manifest

    facts = result.details
    metrics = facts["metrics"]
    if not metrics:
        return
    rules = "as published" if facts["scorer"]["as_published"] else "our rules"
    counts = f"{facts['n_scored']:,} scored, {facts['n_failed']:,} failed"
    if facts["n_unlabelled"]:
        counts += f", {facts['n_unlabelled']:,} unlabelled"
    title = f"{facts['benchmark']} {facts['split']}, {facts['system']} ({rules}): {counts}"
    console.data.print(title, markup=False, soft_wrap=True)
    headline = load_manifest(facts["benchmark"]).metrics
    rows = _rows(_headline_first(metrics, headline), facts["ci95_of"])
    console.table("", ["metric", "value", "95 % interval"], rows)
    if "ranges" in metrics:
        _show_ranges(console, metrics["ranges"])


def _headline_first(metrics: dict[str, Any], headline: Sequence[str]) -> dict[str, Any]:
    """The published figures first, single ones next, tables last: new or reused, the same order."""
    places = {name: place for place, name in enumerate(headline)}

    def place(item: tuple[str, Any]) -> tuple[bool, int, str]:
        return isinstance(item[1], dict), places.get(item[0], len(places)), item[0]

    return {
        name: _headline_first(value, headline) if isinstance(value, dict) else value
        for name, value in sorted(metrics.items(), key=place)
    }


def _rows(metrics: dict[str, Any], interval_of: str | None) -> list[list[str]]:
    """One row a figure; the interval stands beside the figure that it is of."""
    low_high = metrics.get("ci95")
    interval = "{:.2f} - {:.2f}".format(*low_high) if low_high else ""
    rows = []
    for name, value in metrics.items():
        if name in ("ci95", "ranges"):
            continue
        if isinstance(value, dict):
            rows.append([name.replace("_", " "), "", ""])
            rows += [[f"  {part}", f"{figure:.2f}", ""] for part, figure in value.items()]
        else:
            rows.append([name, f"{value:.2f}", interval if name == interval_of else ""])
    return rows


def _show_ranges(console: Console, ranges: dict[str, Any]) -> None:
    """Moment retrieval at every threshold, one column a range."""
    for figure in ("R1", "mAP"):
        there = {name: table[figure] for name, table in ranges.items() if figure in table}
        if not there:
            continue
        thresholds = list(next(iter(there.values())))
        rows = [
            [threshold, *(f"{there[name][threshold]:.2f}" for name in there)]
            for threshold in thresholds
        ]
        console.table("", [f"{figure} at", *there], rows)
