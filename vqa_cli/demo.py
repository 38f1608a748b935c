"""`vqa demo`: everything on the embedded default."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
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

QUESTIONS, VIDEOS = "mine.jsonl", "my_videos"
BACKBONE = "tiny-blip2"
EXAMPLE = json.dumps(
    {
        "question_id": "1",
        "video": "kitchen.mp4",
        "question": "What is cut?",
        "options": ["bread", "an onion"],
        "answer": 1,
    }
)
"""A line of the file of questions."""


def demo(
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", min=1, metavar="N", help="Repetitions with other videos and training."
        ),
    ] = 1,
    videos: Annotated[
        int | None,
        typer.Option(
            "--videos",
            min=8,
            metavar="N",
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
    from stages.demo_rows import findings

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    how = runtime(console, device=device, workers=workers, force=force)
    result = stage.run_demo(open_workspace(workspace), how, seeds, console.note, videos)
    console.end_progress()
    if as_json:
        console.json(result.as_json())
        return
    console.demo(result.as_json())
    for sentence in findings(result.rows):
        console.data.print(sentence, markup=False, soft_wrap=True)
    if not quiet:
        _tell_what_is_next(console, workspace)


def next_commands(workspace: Path) -> list[str]:
    """From a file of one's own questions to its figures, on the embedded backbone."""
    where = [] if workspace == DEFAULT_WORKSPACE else ["--workspace", str(workspace)]
    own = ("--annotations", QUESTIONS, "--videos", VIDEOS)
    words = (
        ("prepare", "--benchmark", "custom", "--split", "test", *own),
        ("extract-features", "--benchmark", "custom", "--backbone", BACKBONE, "--from-videos"),
        ("eval", "--benchmark", "custom", "--system", "sevila"),
    )
    return [shlex.join(["vqa", *line, *where]) for line in words]


def _tell_what_is_next(console: Console, workspace: Path) -> None:
    console.note(f"next, for videos of your own in {VIDEOS}, a question a line in {QUESTIONS}:")
    console.note(f"  {EXAMPLE}")
    for command in next_commands(workspace):
        console.note(f"  {command}")
    console.note(
        "the embedded backbones know generated shapes only: for answers that mean something, "
        "--backbone blip2-flan-t5-xl. One question about one video: vqa ask --help"
    )
