"""`vqa prepare`: annotation file and videos -> questions and a coverage report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from stages.core.errors import UsageError
from vqa_cli import completion
from vqa_cli.console import Console, failures_exit_code
from vqa_cli.options import (
    COMPUTED,
    DEFAULT_WORKSPACE,
    HASHES,
    INPUTS,
    MAX_SEED,
    BenchmarkOption,
    DebugOption,
    DryRunOption,
    ForceOption,
    JsonOption,
    MaxFailuresOption,
    NameOption,
    QuietOption,
    StrictOption,
    WorkersOption,
    WorkspaceOption,
    one_of,
    open_workspace,
    runtime,
)
from vqa_cli.splits import check_split


def prepare(
    benchmark: BenchmarkOption,
    split: Annotated[
        str,
        typer.Option(
            "--split",
            help="Split; dev means val, test_public means test.",
            metavar="NAME",
            autocompletion=completion.splits,
        ),
    ],
    annotations: Annotated[
        Path | None,
        typer.Option(
            "--annotations",
            "-a",
            help="Official file, gzipped or not [none: shapes and lists of videos need none].",
            metavar="FILE",
        ),
    ] = None,
    videos: Annotated[
        list[Path] | None,
        typer.Option(
            "--videos",
            help="Folder of videos or frame folders; may be repeated [none].",
            metavar="DIR",
        ),
    ] = None,
    video_map: Annotated[
        Path | None,
        typer.Option(
            "--video-map",
            help="File that maps video names to paths [none].",
            rich_help_panel=INPUTS,
            metavar="FILE",
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="FIELD=COLUMN",
            help="custom only: the column that holds a field, as in question=Frage or "
            "options=a,b,c,d; may be repeated [none].",
            rich_help_panel=INPUTS,
        ),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(
            "--captions",
            help="Captions to join with a list of videos (MSR-VTT) [found beside it].",
            rich_help_panel=INPUTS,
            metavar="FILE",
        ),
    ] = None,
    video_rule: Annotated[
        str | None,
        typer.Option(
            "--video-rule",
            help="How the video files are named, if not as usual [the benchmark's own].",
            rich_help_panel=INPUTS,
            metavar="NAME",
        ),
    ] = None,
    hashing: Annotated[
        str,
        typer.Option(
            "--hash",
            help="edges: first and last MiB of a video; full: all of it.",
            callback=one_of("--hash", HASHES),
            rich_help_panel=COMPUTED,
            metavar="HOW",
            autocompletion=completion.words(*HASHES),
        ),
    ] = "edges",
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            min=1,
            max=1_000_000,
            help="shapes only: number of videos [train 400, val 60, test 200].",
            rich_help_panel=COMPUTED,
            metavar="N",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            max=MAX_SEED,
            help="shapes only: seed of the videos [train 1, val 2, test 3].",
            rich_help_panel=COMPUTED,
            metavar="N",
        ),
    ] = None,
    hard: Annotated[
        bool,
        typer.Option(
            "--hard",
            help="shapes only: questions over two moments.",
            rich_help_panel=COMPUTED,
        ),
    ] = False,
    workers: WorkersOption = None,
    force: ForceOption = False,
    strict: StrictOption = False,
    max_failures: MaxFailuresOption = 0.05,
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    name: NameOption = None,
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
    check_split(benchmark, split)
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
