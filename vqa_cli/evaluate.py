"""`vqa eval`: answer the questions of a split and score the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.core.errors import UsageError
from vqa_cli.console import Console, failures_exit_code
from vqa_cli.options import (
    DEFAULT_WORKSPACE,
    AnswerOption,
    BackboneOption,
    BenchmarkOption,
    DebugOption,
    DeviceOption,
    FeaturesOption,
    ForceOption,
    JsonOption,
    MaxFailuresOption,
    NameOption,
    QuietOption,
    RecipeOption,
    SeedOption,
    SetOption,
    ShardOption,
    SplitOption,
    StrictOption,
    WorkspaceOption,
    open_workspace,
    runtime,
)
from vqa_cli.settings import settings

SYSTEMS = ("vlap",)


def evaluate(
    benchmark: BenchmarkOption,
    system: Annotated[str, typer.Option("--system", help="Which system answers.")] = "vlap",
    select: Annotated[
        str | None,
        typer.Option("--select", help="uniform, random, oracle or all [the system's own]."),
    ] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, help="Frames kept, with --select.")
    ] = None,
    role: Annotated[
        str | None,
        typer.Option("--role", help="student, start or teacher [the first there is]."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="ID", help="Which weights.")
    ] = None,
    blind: Annotated[
        str | None, typer.Option("--blind", help="gaussian: noise in place of the video.")
    ] = None,
    export: Annotated[
        str | None,
        typer.Option("--export", help="official: write the benchmark's own prediction file."),
    ] = None,
    export_to: Annotated[
        Path | None, typer.Option("--export-to", help="That file [./LABEL-official.json].")
    ] = None,
    answer: AnswerOption = None,
    split: SplitOption = None,
    backbone: BackboneOption = None,
    features: FeaturesOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    seed: SeedOption = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    name: NameOption = None,
    device: DeviceOption = "auto",
    shard: ShardOption = None,
    force: ForceOption = False,
    strict: StrictOption = False,
    max_failures: MaxFailuresOption = 0.05,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Answer every question of a split with a system, and score the answers."""
    from stages import evaluate as stage
    from stages.benchmarks.exports import require_official

    if system not in SYSTEMS:
        raise UsageError(f"no system called {system!r}", f"known: {', '.join(SYSTEMS)}")
    if export not in (None, "official"):
        raise UsageError(f"--export {export!r}", "the only one is: official")
    if export_to is not None and export is None:
        raise UsageError("--export-to needs --export official")
    if export is not None:
        require_official(benchmark)
    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    values = settings(
        "eval",
        recipe=recipe,
        overrides=overrides,
        select=select,
        keep=keep,
        blind=blind,
        answer=answer,
        seed=seed,
    )
    root = open_workspace(workspace)
    inputs = stage.find_inputs(
        root, benchmark, split, role=role, weights=weights, features=features or []
    )
    config = stage.evaluate_config(inputs, values, device)
    how = runtime(
        console,
        device=device,
        shard=shard,
        force=force,
        strict=strict,
        max_failures=max_failures,
        name=name,
    )
    result = stage.evaluate(root, inputs, config, how, backbone=backbone)
    if export is not None:
        result = stage.export_official(inputs, result, export_to)
    console.evaluation(result)
    return failures_exit_code([result], max_failures)
