"""`vqa report`: one self-contained HTML page."""

from __future__ import annotations

from typing import Annotated

import typer

from vqa_cli.console import Console
from vqa_cli.options import (
    DEFAULT_WORKSPACE,
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
        list[str] | None, typer.Argument(help="Predictions to show [all of the newest questions].")
    ] = None,
    num_questions: Annotated[
        int, typer.Option("--questions", min=0, help="Questions shown with their frames.")
    ] = 20,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    name: NameOption = None,
    workers: WorkersOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a page with the table of systems and the frames that they looked at."""
    from stages import report as stage

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    root = open_workspace(workspace)
    how = runtime(console, workers=workers, force=force, name=name)
    chosen = stage.find_predictions(root, predictions or [])
    console.stage("report", [stage.write_report(root, chosen, how, num_questions)])
