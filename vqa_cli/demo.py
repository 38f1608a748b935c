"""`vqa demo`: everything on the embedded default."""

from __future__ import annotations

from typing import Annotated

import typer

from vqa_cli.console import Console
from vqa_cli.options import (
    DEFAULT_WORKSPACE,
    DebugOption,
    DeviceOption,
    ForceOption,
    JsonOption,
    QuietOption,
    WorkersOption,
    WorkspaceOption,
    open_workspace,
    runtime,
)


def demo(
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Repetitions with other videos and training.")
    ] = 1,
    videos: Annotated[
        int | None,
        typer.Option(
            "--videos",
            min=8,
            help="Videos of each split [400, 60, 200]; a few for a quick look at every stage.",
        ),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Generate a benchmark, train and evaluate every system on tiny models, write a report."""
    from stages import demo as stage

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    how = runtime(console, device=device, workers=workers, force=force)
    result = stage.run_demo(open_workspace(workspace), how, seeds, console.note, videos)
    console.end_progress()
    if as_json:
        console.json(result.as_json())
        return
    console.demo(result.as_json())
