"""`vqa train-videodistill`: VideoDistill on a benchmark; one network, or a sweep over settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.core.errors import UsageError
from vqa_cli import completion
from vqa_cli.console import Console
from vqa_cli.options import (
    BLIND,
    COMPUTED,
    DEFAULT_WORKSPACE,
    INPUTS,
    MAX_SLOTS,
    VIDEODISTILL_TASKS,
    VIDEODISTILL_VARIANTS,
    BackboneOption,
    BenchmarkOption,
    DebugOption,
    DeviceOption,
    DryRunOption,
    FeaturesOption,
    ForceOption,
    JsonOption,
    NameOption,
    QuietOption,
    RecipeOption,
    SeedOption,
    SetOption,
    SplitQuestionsOption,
    TensorboardOption,
    TrainSplitOption,
    WorkspaceOption,
    one_of,
    open_workspace,
    runtime,
)
from vqa_cli.settings import settings
from vqa_cli.sweep import PlotOption, combinations
from vqa_cli.training_sweep import TrainingSweep, swept

if TYPE_CHECKING:
    from stages.artifacts.result import StageResult

TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="open-ended, choice, contrastive or matching (retrieval) [the benchmark's own].",
        callback=one_of("--task", VIDEODISTILL_TASKS),
        rich_help_panel=COMPUTED,
        metavar="NAME",
        autocompletion=completion.words(*VIDEODISTILL_TASKS),
    ),
]
VariantOption = Annotated[
    str | None,
    typer.Option(
        "--variant",
        help="A row of the paper's Table 4: a, b, c, d, e, or f, the whole model [f].",
        callback=one_of("--variant", VIDEODISTILL_VARIANTS),
        rich_help_panel=COMPUTED,
        metavar="LETTER",
        autocompletion=completion.words(*VIDEODISTILL_VARIANTS),
    ),
]
InitOption = Annotated[
    str | None,
    typer.Option(
        "--init",
        metavar="ID",
        help="Weights to start from [none: CLIP's text tower].",
        rich_help_panel=INPUTS,
        autocompletion=completion.ids_of("weights"),
    ),
]
KeepOption = Annotated[
    int | None,
    typer.Option(
        "--keep",
        min=1,
        max=MAX_SLOTS,
        help="Slots for frames [16].",
        rich_help_panel=COMPUTED,
        metavar="N",
    ),
]
SeenOption = Annotated[
    int | None,
    typer.Option(
        "--frames",
        min=1,
        help="Frames seen [all that are stored].",
        rich_help_panel=COMPUTED,
        metavar="N",
    ),
]
SweepOption = Annotated[
    str | None,
    typer.Option(
        "--sweep",
        help='Train every combination: "variant=a,b,f seed=1,2,3" [none].',
        rich_help_panel=COMPUTED,
        metavar="GRID",
    ),
]
EvaluateOption = Annotated[
    bool,
    typer.Option(
        "--evaluate",
        help="With --sweep: answer the report split with each network.",
        rich_help_panel=COMPUTED,
    ),
]
BlindOption = Annotated[
    str | None,
    typer.Option(
        "--blind",
        help="With --evaluate: answer it blind as well: static, gaussian or shuffled [none].",
        callback=one_of("--blind", BLIND),
        rich_help_panel=COMPUTED,
        metavar="HOW",
        autocompletion=completion.words(*BLIND),
    ),
]


def train_videodistill(
    benchmark: BenchmarkOption,
    split: TrainSplitOption = None,
    init: InitOption = None,
    backbone: BackboneOption = None,
    features: FeaturesOption = None,
    questions: SplitQuestionsOption = None,
    task: TaskOption = None,
    variant: VariantOption = None,
    keep: KeepOption = None,
    frames: SeenOption = None,
    sweep: SweepOption = None,
    evaluate: EvaluateOption = False,
    plot: PlotOption = None,
    blind: BlindOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    name: NameOption = None,
    tensorboard: TensorboardOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Train VideoDistill on questions, candidate texts or videos, or retrieval."""
    from stages import videodistill as stage
    from stages.training.inputs import count_of, find_inputs

    if (evaluate and sweep is None) or ((blind or plot) is not None and not evaluate):
        raise UsageError("--evaluate goes with --sweep, --blind and --plot with --evaluate")
    if sweep is not None and name is not None:
        raise UsageError("--sweep goes without --name: its networks need one each")
    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    values = settings(
        "train-videodistill",
        recipe=recipe,
        overrides=overrides,
        task=task,
        variant=variant,
        keep=keep,
        frames=frames,
        **{"training.seed": seed},
    )
    root = open_workspace(workspace)
    start = stage.find_init(root, init)
    how = runtime(console, device=device, force=force, name=name)

    def decided(given: dict[str, Any]) -> stage.Training:
        inputs = find_inputs(
            root,
            benchmark,
            backbone,
            count_of(given, "frames"),
            features or [],
            questions=questions or [],
            split=split,
            layout="clip",
        )
        return stage.decide(inputs, given, how, start)

    def train(given: dict[str, Any]) -> StageResult:
        return stage.train(root, decided(given), how, tensorboard=tensorboard)

    if sweep is not None and dry_run:
        planned = [
            (label, stage.plan(root, decided(given), device))
            for label, given in swept(values, combinations(sweep))
        ]
        console.plans("train-videodistill", planned)
        return 0
    if sweep is not None:
        table = TrainingSweep(console, root, how, benchmark, blind)
        table.run(values, combinations(sweep), train, evaluate=evaluate, plot=plot)
        return 0
    if dry_run:
        console.plan("train-videodistill", stage.plan(root, decided(values), device))
        return 0
    console.stage("train-videodistill", [train(values)])
    return 0
