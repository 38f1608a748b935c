"""`vqa refine-localizer`: SeViLA's localizer on the answerer's pseudo-labels."""

from __future__ import annotations

from typing import Annotated

import typer

from vqa_cli import completion
from vqa_cli.console import Console
from vqa_cli.options import (
    COMPUTED,
    DEFAULT_WORKSPACE,
    INPUTS,
    AnswerOption,
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
    RoundOption,
    SeedOption,
    SetOption,
    SplitQuestionsOption,
    TensorboardOption,
    TrainSplitOption,
    WorkspaceOption,
    open_workspace,
    runtime,
)
from vqa_cli.settings import settings

LabelsOption = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="ID",
        help="Which pseudo-labels [those of this round].",
        rich_help_panel=INPUTS,
        autocompletion=completion.ids_of("pseudo-labels"),
    ),
]
InitOption = Annotated[
    str | None,
    typer.Option(
        "--init",
        metavar="ID",
        help="Localizer weights that are refined, or none: the backbone as it is "
        "[none in round 1, later the round before].",
        rich_help_panel=INPUTS,
        autocompletion=completion.ids_of("weights"),
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="ID",
        help="The answerer's weights, or none [those that made the labels].",
        rich_help_panel=INPUTS,
        autocompletion=completion.ids_of("weights"),
    ),
]
KeepOption = Annotated[
    int | None,
    typer.Option(
        "--keep",
        min=1,
        help="Frames kept when the tune split is scored [4].",
        rich_help_panel=COMPUTED,
        metavar="N",
    ),
]
SeenOption = Annotated[
    int | None,
    typer.Option(
        "--frames",
        min=1,
        help="Frames that must be stored [any].",
        rich_help_panel=COMPUTED,
        metavar="N",
    ),
]


def refine_localizer(
    benchmark: BenchmarkOption,
    split: TrainSplitOption = None,
    labels: LabelsOption = None,
    init: InitOption = None,
    weights: WeightsOption = None,
    backbone: BackboneOption = None,
    features: FeaturesOption = None,
    questions: SplitQuestionsOption = None,
    number: RoundOption = None,
    keep: KeepOption = None,
    frames: SeenOption = None,
    answer: AnswerOption = None,
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
    """Refine SeViLA's localizer on what the frozen answerer says of each frame."""
    from stages import localizer as stage
    from stages.training.inputs import count_of, find_inputs
    from stages.training.sevila_origin import find_origin

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    values = settings(
        "refine-localizer",
        recipe=recipe,
        overrides=overrides,
        round=number,
        keep=keep,
        frames=frames,
        answer=answer,
        **{"training.seed": seed},
    )
    root = open_workspace(workspace)
    inputs = find_inputs(
        root,
        benchmark,
        backbone,
        count_of(values, "frames"),
        features or [],
        questions=questions or [],
        split=split,
        layout="blip-2",
    )
    origin = find_origin(root, inputs, values, labels=labels, init=init, weights=weights)
    how = runtime(console, device=device, force=force, name=name)
    if dry_run:
        console.plan("refine-localizer", stage.plan_refinement(root, inputs, values, how, origin))
        return 0
    result = stage.refine_localizer(root, inputs, values, how, origin, tensorboard=tensorboard)
    console.stage("refine-localizer", [result])
    return 0
