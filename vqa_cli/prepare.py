"""`vqa prepare`: annotation file and videos -> questions and a coverage report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from stages.core.errors import UsageError
from vqa_cli.console import Console, failures_exit_code
from vqa_cli.options import (
    DEFAULT_WORKSPACE,
    BenchmarkOption,
    DebugOption,
    DryRunOption,
    ForceOption,
    JsonOption,
    MaxFailuresOption,
    NameOption,
    QuietOption,
    SeedOption,
    StrictOption,
    WorkersOption,
    WorkspaceOption,
    open_workspace,
    runtime,
)


def prepare(
    benchmark: BenchmarkOption,
    split: Annotated[str, typer.Option("--split", help="Split; dev means val.")],
    annotations: Annotated[
        Path | None, typer.Option("--annotations", "-a", help="Official file, gzipped or not.")
    ] = None,
    videos: Annotated[
        list[Path] | None,
        typer.Option("--videos", help="Folder of videos or frame folders; may be repeated."),
    ] = None,
    video_map: Annotated[
        Path | None, typer.Option("--video-map", help="File that maps video names to paths.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="FIELD=COLUMN",
            help="custom only: the column that holds a field, as in question=Frage or "
            "options=a,b,c,d; may be repeated.",
        ),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option("--captions", help="Captions to join with a list of videos (MSR-VTT)."),
    ] = None,
    video_rule: Annotated[
        str | None,
        typer.Option("--video-rule", help="How the video files are named, if not as usual."),
    ] = None,
    hashing: Annotated[
        str, typer.Option("--hash", help="edges: first and last MiB of a video; full: all of it.")
    ] = "edges",
    size: Annotated[
        int | None, typer.Option("--size", min=1, help="shapes only: number of videos.")
    ] = None,
    seed: SeedOption = None,
    hard: Annotated[
        bool, typer.Option("--hard", help="shapes only: questions over two moments.")
    ] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    name: NameOption = None,
    workers: WorkersOption = None,
    force: ForceOption = False,
    strict: StrictOption = False,
    max_failures: MaxFailuresOption = 0.05,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Check a benchmark's questions and find every video, before any heavy work."""
    from stages import prepare as stage
    from stages.benchmarks.manifest import load_manifest
    from stages.benchmarks.official import PrepareChoices, Sources
    from stages.benchmarks.video_files import hash_mode

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    how = runtime(
        console, workers=workers, force=force, strict=strict, max_failures=max_failures, name=name
    )
    root = open_workspace(workspace)
    if load_manifest(benchmark).generated:
        if annotations or videos or video_map or column or captions or video_rule:
            raise UsageError(f"{benchmark} is generated: it takes no --annotations or --videos")
        if dry_run:
            plan = stage.plan_shapes(root, split, how, num_videos=size, seed=seed, hard=hard)
            console.plan("prepare", plan)
            return 0
        result = stage.prepare_shapes(root, split, how, num_videos=size, seed=seed, hard=hard)
        console.stage("prepare", [result])
        return failures_exit_code([result], max_failures)
    if annotations is None or not videos:
        raise UsageError(
            f"{benchmark} needs --annotations FILE and --videos DIR",
            f"where to get them: vqa benchmarks {benchmark}",
        )
    if size is not None or seed is not None or hard:
        raise UsageError("--size, --seed and --hard are for the generated benchmark")
    sources = Sources(annotations, videos, video_map, captions)
    choices = PrepareChoices(hash_mode(hashing), tuple(column or []), video_rule or "")
    if dry_run:
        _show_plan(console, stage.plan(benchmark, split, sources, how, choices))
        return 0
    result = stage.prepare(root, benchmark, split, sources, how, choices)
    console.stage("prepare", [result])
    _warn(console, result.details["warnings"])
    return failures_exit_code([result], max_failures)


def _show_plan(console: Console, plan: dict[str, Any]) -> None:
    """Coverage, then what is odd; the JSON has it all in one object."""
    if console.as_json:
        console.plan("prepare", plan)
        return
    lists = {name: plan.pop(name) for name in ("examples", "warnings")}
    console.plan("prepare", {name: value for name, value in plan.items() if value != ""})
    for text in lists["examples"]:
        console.note(f"  {text}")
    _warn(console, lists["warnings"])


def _warn(console: Console, warnings: Sequence[str]) -> None:
    """Loud on purpose: `--quiet` does not hide that a file is not the published one."""
    for text in warnings if console.first and not console.as_json else ():
        console.talk.print(f"[bold yellow]warning:[/] {escape(text)}", soft_wrap=True)
