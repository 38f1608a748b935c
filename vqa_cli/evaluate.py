"""`vqa eval`: answer the questions of a split and score the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.core.errors import UsageError
from vqa_cli.console import Console, failures_exit_code
from vqa_cli.options import (
    BLIND,
    DEFAULT_WORKSPACE,
    RANK_NORMS,
    ROLES,
    AnswerOption,
    BackboneOption,
    BenchmarkOption,
    DebugOption,
    DeviceOption,
    DryRunOption,
    FeaturesOption,
    ForceOption,
    JsonOption,
    MaxFailuresOption,
    NameOption,
    QuestionsOption,
    QuietOption,
    RecipeOption,
    SeedOption,
    SetOption,
    ShardOption,
    SplitOption,
    StrictOption,
    WorkspaceOption,
    one_of,
    open_workspace,
    runtime,
)
from vqa_cli.settings import settings

SYSTEMS = ("vlap",)


SystemOption = Annotated[
    str,
    typer.Option("--system", help="Which system answers.", callback=one_of("--system", SYSTEMS)),
]
SelectOption = Annotated[
    str | None,
    typer.Option("--select", help="uniform, random, oracle or all [the system's own]."),
]
KeepOption = Annotated[
    int | None, typer.Option("--keep", min=1, help="Frames kept, with --select.")
]
RoleOption = Annotated[
    str | None,
    typer.Option(
        "--role",
        help="student, start or teacher [the first there is].",
        callback=one_of("--role", ROLES),
    ),
]
WeightsOption = Annotated[
    str | None, typer.Option("--weights", metavar="ID", help="Which weights.")
]
BlindOption = Annotated[
    str | None,
    typer.Option(
        "--blind",
        help="gaussian: noise in place of the video.",
        callback=one_of("--blind", BLIND),
    ),
]
RankNormOption = Annotated[
    str | None,
    typer.Option(
        "--rank-norm",
        help="sum or mean of an option's token log-probabilities, for rank answers.",
        callback=one_of("--rank-norm", RANK_NORMS),
    ),
]
ExportOption = Annotated[
    str | None,
    typer.Option(
        "--export",
        help="official: write the benchmark's own prediction file.",
        callback=one_of("--export", ("official",)),
    ),
]
ExportToOption = Annotated[
    Path | None, typer.Option("--export-to", help="That file [./LABEL-official.json].")
]


def evaluate(
    benchmark: BenchmarkOption,
    system: SystemOption = "vlap",
    select: SelectOption = None,
    keep: KeepOption = None,
    role: RoleOption = None,
    weights: WeightsOption = None,
    blind: BlindOption = None,
    rank_norm: RankNormOption = None,
    export: ExportOption = None,
    export_to: ExportToOption = None,
    answer: AnswerOption = None,
    split: SplitOption = None,
    questions: QuestionsOption = None,
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
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Answer every question of a split with a system, and score the answers."""
    from stages import evaluate as stage
    from stages.benchmarks.exports import require_official

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
        **{"model.rank_norm": rank_norm},
    )
    root = open_workspace(workspace)
    inputs = stage.find_inputs(
        root,
        benchmark,
        split,
        system=system,
        role=role,
        weights=weights,
        features=features or [],
        questions=questions,
        backbone=backbone,
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
    if dry_run:
        console.plan("eval", stage.plan(root, inputs, config, how))
        return 0
    result = stage.evaluate(root, inputs, config, how, backbone=backbone)
    if export is not None:
        result = stage.export_official(inputs, result, export_to)
    console.evaluation(result)
    return failures_exit_code([result], max_failures)
