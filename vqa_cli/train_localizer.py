"""`vqa train-localizer`: SeViLA's localizer on true spans."""

from __future__ import annotations

from typing import Annotated

import typer

from vqa_cli import completion
from vqa_cli.console import Console
from vqa_cli.options import (
    COMPUTED,
    DEFAULT_WORKSPACE,
    INPUTS,
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
    open_workspace,
    runtime,
)
from vqa_cli.settings import settings

InitOption = Annotated[
    str | None,
    typer.Option(
        "--init",
        metavar="ID",
        help="Localizer weights to start from [the backbone as it is].",
        rich_help_panel=INPUTS,
        autocompletion=completion.ids_of("weights"),
    ),
]
SeenOption = Annotated[
    int | None,
    typer.Option(
        "--frames",
        min=1,
        help="Frames that 4 are drawn from [all that are stored].",
        rich_help_panel=COMPUTED,
        metavar="N",
    ),
]


def train_localizer(
    benchmark: BenchmarkOption,
    split: TrainSplitOption = None,
    init: InitOption = None,
    backbone: BackboneOption = None,
    features: FeaturesOption = None,
    questions: SplitQuestionsOption = None,
    frames: SeenOption = None,
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
    """Train SeViLA's localizer to say of each frame whether it lies in a true span."""
    from stages import localizer as stage
    from stages.training.inputs import count_of, find_inputs
    from stages.training.sevila_origin import find_start

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    values = settings(
        "train-localizer",
        recipe=recipe,
        overrides=overrides,
        frames=frames,
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
    start = find_start(root, inputs, init)
    how = runtime(console, device=device, force=force, name=name)
    if dry_run:
        console.plan("train-localizer", stage.plan_spans(root, inputs, values, how, start))
        return 0
    result = stage.train_localizer(root, inputs, values, how, start=start, tensorboard=tensorboard)
    console.stage("train-localizer", [result])
    return 0
