"""`vqa prepare`: annotation file and videos -> questions and a coverage report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.core.errors import UsageError
from vqa_cli.console import Console, failures_exit_code
from vqa_cli.options import (
    DEFAULT_WORKSPACE,
    BenchmarkOption,
    DebugOption,
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
    hash_mode: Annotated[
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
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Check a benchmark's questions and find every video, before any heavy work."""
    from stages import prepare as stage
    from stages.benchmarks.manifest import load_manifest

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    how = runtime(
        console, workers=workers, force=force, strict=strict, max_failures=max_failures, name=name
    )
    root = open_workspace(workspace)
    if load_manifest(benchmark).generated:
        if annotations or videos or video_map:
            raise UsageError(f"{benchmark} is generated: it takes no --annotations or --videos")
        result = stage.prepare_shapes(root, split, how, num_videos=size, seed=seed, hard=hard)
    else:
        if annotations is None or not videos:
            raise UsageError(
                f"{benchmark} needs --annotations FILE and --videos DIR",
                f"where to get them: vqa benchmarks {benchmark}",
            )
        if size is not None or seed is not None or hard:
            raise UsageError("--size, --seed and --hard are for the generated benchmark")
        sources = stage.Sources(annotations, videos, video_map)
        hashing = stage.hash_mode(hash_mode)
        result = stage.prepare(root, benchmark, split, sources, how, hashing=hashing)
    console.stage("prepare", [result])
    return failures_exit_code([result], max_failures)
