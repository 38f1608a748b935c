"""`vqa eval`: answer the questions of a split and score the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stages.core.errors import UsageError
from vqa_cli import completion
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
    COMPUTED,
    DEFAULT_WORKSPACE,
    EVAL_SELECTS,
    INPUTS,
    OUTPUT,
    RANK_NORMS,
    ROLES,
    SYSTEMS,
    AnswerOption,
    BackboneOption,
    BenchmarkOption,
    DebugOption,
    DeviceOption,
    DryRunOption,
    EngineOption,
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
from vqa_cli.splits import check_split
from vqa_cli.sweep import PlotOption, plan_sweep, run_sweep

OWN_SELECTION = ("vlap", "videodistill")
"""Systems that choose frames themselves, without another network."""

SystemOption = Annotated[
    str,
    typer.Option(
        "--system",
        help="Who answers: vlap, sevila, blip2-concat, blip2-voting or videodistill.",
        callback=one_of("--system", SYSTEMS),
        metavar="NAME",
        autocompletion=completion.words(*SYSTEMS),
    ),
]
SelectOption = Annotated[
    str | None,
    typer.Option(
        "--select",
        help="Who keeps frames: localizer, prompter, topk, atp, clip, spans, uniform, random, "
        "oracle or all [the system's own].",
        rich_help_panel=COMPUTED,
        metavar="NAME",
        autocompletion=completion.words(*EVAL_SELECTS),
    ),
]
KeepOption = Annotated[
    int | None,
    typer.Option(
        "--keep",
        min=1,
        help="Frames kept, with --select [the weights' own, else 4].",
        rich_help_panel=COMPUTED,
        metavar="N",
    ),
]
RoleOption = Annotated[
    str | None,
    typer.Option(
        "--role",
        help="student, start or teacher [the first there is].",
        callback=one_of("--role", ROLES),
        rich_help_panel=INPUTS,
        metavar="NAME",
        autocompletion=completion.words(*ROLES),
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="ID",
        help="The answerer's weights, or none: its backbone as it is [those that fit].",
        rich_help_panel=INPUTS,
        autocompletion=completion.ids_of("weights"),
    ),
]
SelectorOption = Annotated[
    str | None,
    typer.Option(
        "--selector",
        metavar="ID",
        help="The weights of --select, or none: its backbone as it is [those that fit].",
        rich_help_panel=INPUTS,
        autocompletion=completion.ids_of("weights"),
    ),
]
SelectorBackboneOption = Annotated[
    str | None,
    typer.Option(
        "--selector-backbone",
        help="Backbone of --select [the weights' own].",
        rich_help_panel=INPUTS,
        metavar="NAME|FOLDER",
        autocompletion=completion.backbones,
    ),
]
SpansOption = Annotated[
    Path | None,
    typer.Option(
        "--spans",
        help="Predicted spans for --select spans (JSONL, as Moment-DETR's) [none].",
        rich_help_panel=INPUTS,
        metavar="FILE",
    ),
]
FramesOption = Annotated[
    int | None,
    typer.Option(
        "--frames",
        min=1,
        help="Frames seen [all that are stored].",
        rich_help_panel=COMPUTED,
        metavar="N",
    ),
]
BlindOption = Annotated[
    str | None,
    typer.Option(
        "--blind",
        help="In place of the video: static (one still for all), gaussian (noise) or shuffled "
        "(another video) [none].",
        callback=one_of("--blind", BLIND),
        rich_help_panel=COMPUTED,
        metavar="HOW",
        autocompletion=completion.words(*BLIND),
    ),
]
RankNormOption = Annotated[
    str | None,
    typer.Option(
        "--rank-norm",
        help="sum or mean of an option's token log-probabilities, for rank answers [sum].",
        callback=one_of("--rank-norm", RANK_NORMS),
        rich_help_panel=COMPUTED,
        metavar="HOW",
        autocompletion=completion.words(*RANK_NORMS),
    ),
]
SweepOption = Annotated[
    str | None,
    typer.Option(
        "--sweep",
        help='Every combination, in one table: "frames=8,16,32 keep=1,4" [none].',
        rich_help_panel=COMPUTED,
        metavar="GRID",
    ),
]
ExportOption = Annotated[
    str | None,
    typer.Option(
        "--export",
        help="official: write the benchmark's own prediction file [none].",
        callback=one_of("--export", ("official",)),
        rich_help_panel=OUTPUT,
        metavar="WHICH",
        autocompletion=completion.words(*("official",)),
    ),
]
ExportToOption = Annotated[
    Path | None,
    typer.Option(
        "--export-to",
        help="That file [./LABEL-official.json].",
        rich_help_panel=OUTPUT,
        metavar="FILE",
    ),
]
TuneGapOption = Annotated[
    bool,
    typer.Option(
        "--tune-gap",
        help="Moments: choose on this split how far apart positive frames may be.",
        rich_help_panel=COMPUTED,
    ),
]


def evaluate(
    benchmark: BenchmarkOption,
    system: SystemOption = "vlap",
    split: SplitOption = None,
    role: RoleOption = None,
    weights: WeightsOption = None,
    selector: SelectorOption = None,
    selector_backbone: SelectorBackboneOption = None,
    spans: SpansOption = None,
    questions: QuestionsOption = None,
    backbone: BackboneOption = None,
    features: FeaturesOption = None,
    select: SelectOption = None,
    frames: FramesOption = None,
    keep: KeepOption = None,
    sweep: SweepOption = None,
    plot: PlotOption = None,
    tune_gap: TuneGapOption = False,
    blind: BlindOption = None,
    with_blind: WithBlindOption = False,
    no_blind: NoBlindOption = False,
    rank_norm: RankNormOption = None,
    answer: AnswerOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    shard: ShardOption = None,
    engine: EngineOption = "local",
    force: ForceOption = False,
    strict: StrictOption = False,
    max_failures: MaxFailuresOption = 0.05,
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    name: NameOption = None,
    export: ExportOption = None,
    export_to: ExportToOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Answer every question of a split with a system, and score the answers."""
    if split is not None:
        check_split(benchmark, split)
    from stages.benchmarks.exports import require_official
    from stages.systems.inputs import EvaluateConfig, EvaluateInputs, evaluate_config, find_inputs

    if export_to is not None and export is None:
        raise UsageError("--export-to needs --export official")
    if export is not None:
        require_official(benchmark)
    if selector_backbone is not None and select is None and system in OWN_SELECTION:
        raise UsageError("--selector-backbone goes with --select", "--select localizer")
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
        engine=engine,
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
