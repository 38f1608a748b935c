"""`vqa report`: one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqa_cli import completion
from vqa_cli.console import Console
from vqa_cli.options import (
    DEFAULT_WORKSPACE,
    OUTPUT,
    DebugOption,
    ForceOption,
    JsonOption,
    NameOption,
    QuietOption,
    WorkersOption,
    WorkspaceOption,
    open_workspace,
    runtime,
)


def report(
    predictions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PREDICTIONS",
            help="Predictions to show: ids, labels or paths [all of the newest questions].",
            autocompletion=completion.ids_of("predictions"),
        ),
    ] = None,
    num_questions: Annotated[
        int,
        typer.Option(
            "--questions",
            min=0,
            metavar="N",
            help="Questions shown with their frames, those that systems disagree on first.",
        ),
    ] = 200,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="A copy of the page; replaces a report page, anything else with --force only.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    name: NameOption = None,
    workers: WorkersOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a page with the systems' figures, and every question with the frames looked at."""
    from stages import report as stage

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    root = open_workspace(workspace)
    how = runtime(console, workers=workers, force=force, name=name)
    chosen = stage.find_predictions(root, predictions or [])
    console.stage("report", [stage.write_report(root, chosen, how, num_questions, out=out)])
