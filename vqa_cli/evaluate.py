"""`vqa eval`: answer the questions of a split and score the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stages.core.errors import UsageError
from vqa_cli.answering import answering_stage, answers_questions, tell_outlook
from vqa_cli.blind import (
    NoBlindOption,
    WithBlindOption,
    blind_wish,
    evaluate_with_blind,
    runs_blind,
    show_drop,
)
from vqa_cli.console import Console, failures_exit_code
from vqa_cli.moments import asks_for_moments, refuse_for_moments, run_moments
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
from vqa_cli.sweep import PlotOption, plan_sweep, run_sweep

SYSTEMS = ("vlap", "sevila", "blip2-concat", "blip2-voting", "videodistill")


SystemOption = Annotated[
    str,
    typer.Option("--system", help="Which system answers.", callback=one_of("--system", SYSTEMS)),
]
SelectOption = Annotated[
    str | None,
    typer.Option(
        "--select",
        help="Who keeps frames: localizer, prompter, topk, atp, clip, spans, uniform, random, "
        "oracle or all [the system's own].",
    ),
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
    str | None,
    typer.Option(
        "--weights", metavar="ID", help="The answerer's weights; none: its backbone as it is."
    ),
]
SelectorOption = Annotated[
    str | None,
    typer.Option(
        "--selector", metavar="ID", help="The weights of --select; none: its backbone as it is."
    ),
]
SelectorBackboneOption = Annotated[
    str | None,
    typer.Option("--selector-backbone", help="Backbone of --select [the weights' own]."),
]
SpansOption = Annotated[
    Path | None,
    typer.Option("--spans", help="Predicted spans for --select spans (JSONL, as Moment-DETR's)."),
]
FramesOption = Annotated[
    int | None, typer.Option("--frames", min=1, help="Frames seen [all that are stored].")
]
BlindOption = Annotated[
    str | None,
    typer.Option(
        "--blind",
        help="In place of the video: static (one still for all), gaussian (noise) or shuffled "
        "(another video).",
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
SweepOption = Annotated[
    str | None,
    typer.Option("--sweep", help='Every combination, in one table: "frames=8,16,32 keep=1,4".'),
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
TuneGapOption = Annotated[
    bool,
    typer.Option(
        "--tune-gap",
        help="Moments: choose on this split how far apart positive frames may be.",
    ),
]


def evaluate(
    benchmark: BenchmarkOption,
    system: SystemOption = "vlap",
    select: SelectOption = None,
    frames: FramesOption = None,
    keep: KeepOption = None,
    sweep: SweepOption = None,
    plot: PlotOption = None,
    tune_gap: TuneGapOption = False,
    role: RoleOption = None,
    weights: WeightsOption = None,
    selector: SelectorOption = None,
    selector_backbone: SelectorBackboneOption = None,
    spans: SpansOption = None,
    blind: BlindOption = None,
    with_blind: WithBlindOption = False,
    no_blind: NoBlindOption = False,
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
    from stages.benchmarks.exports import require_official
    from stages.systems.inputs import EvaluateConfig, EvaluateInputs, evaluate_config, find_inputs

    if export_to is not None and export is None:
        raise UsageError("--export-to needs --export official")
    if export is not None:
        require_official(benchmark)
    if sweep is not None and (export is not None or name is not None):
        raise UsageError("--sweep goes without --export and --name")
    if plot is not None and sweep is None:
        raise UsageError("--plot draws a sweep", '--sweep "keep=1,2,4,8" --plot curve.svg')
    twice = blind_wish(with_blind, no_blind, benchmark, blind=blind, shard=shard, sweep=sweep)
    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    stage = answering_stage(benchmark)
    values = settings(
        "eval",
        recipe=recipe,
        overrides=overrides,
        select=select,
        frames=frames,
        keep=keep,
        blind=blind,
        answer=answer,
        seed=seed,
        **{"model.rank_norm": rank_norm},
    )
    if asks_for_moments(benchmark):
        refuse_for_moments(
            system,
            select,
            {
                "--keep": keep,
                "--sweep": sweep,
                "--role": role,
                "--weights": weights,
                "--blind": blind,
                "--answer": answer,
                "--rank-norm": rank_norm,
            },
        )
    elif tune_gap:
        raise UsageError(f"--tune-gap is for moments, {benchmark} asks for none")
    root = open_workspace(workspace)
    how = runtime(
        console,
        device=device,
        shard=shard,
        force=force,
        strict=strict,
        max_failures=max_failures,
        name=name,
    )

    if asks_for_moments(benchmark):
        found = run_moments(
            root,
            benchmark,
            split,
            values,
            how,
            tune_gap=tune_gap,
            selector=selector,
            features=features or [],
            questions=questions,
            backbone=selector_backbone or backbone,
            dry_run=dry_run,
            export=export is not None,
            export_to=export_to,
            console=console,
        )
        return failures_exit_code(found, max_failures)

    def chosen(settings: dict[str, Any]) -> tuple[EvaluateInputs, EvaluateConfig]:
        inputs = find_inputs(
            root,
            benchmark,
            split,
            system=system,
            select=settings.get("select"),
            role=role,
            weights=weights,
            selector=selector,
            features=features or [],
            questions=questions,
            backbone=backbone,
            selector_backbone=selector_backbone,
            frames=settings.get("frames"),
            spans=spans,
        )
        return inputs, evaluate_config(inputs, settings, device)

    if sweep is not None and dry_run:
        plan_sweep(console, sweep, values, lambda given: stage.plan(root, *chosen(given), how))
        return 0
    if sweep is not None:
        results = run_sweep(
            console,
            sweep,
            values,
            lambda given: stage.evaluate(root, *chosen(given), how),
            plot=plot,
            title=f"{benchmark}, {system}",
        )
        return failures_exit_code(results, max_failures)
    inputs, config = chosen(values)
    if dry_run:
        plan = stage.plan(root, inputs, config, how)
        console.plan("eval", {**plan, "with_blind": runs_blind(inputs, config, how, twice)})
        return 0
    tell_outlook(console, benchmark, inputs, config)
    if answers_questions(benchmark):
        result = evaluate_with_blind(root, inputs, config, how, twice)
    else:
        result = stage.evaluate(root, inputs, config, how)
    if export is not None:
        result = stage.export_official(inputs, result, export_to)
    console.evaluation(result)
    show_drop(console, result)
    return failures_exit_code([result], max_failures)
