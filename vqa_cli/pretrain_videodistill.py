"""`vqa pretrain-videodistill`: VideoDistill on videos and their captions."""

from __future__ import annotations

from typing import Annotated

import typer

from vqa_cli import completion
from vqa_cli.console import Console
from vqa_cli.options import (
    COMPUTED,
    DEFAULT_WORKSPACE,
    INPUTS,
    MAX_SLOTS,
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


def pretrain_videodistill(
    benchmark: BenchmarkOption,
    split: TrainSplitOption = None,
    init: InitOption = None,
    backbone: BackboneOption = None,
    features: FeaturesOption = None,
    questions: SplitQuestionsOption = None,
    keep: KeepOption = None,
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
    """Pre-train VideoDistill on captions: matching, contrastive and masked words together.

    Captions of your own are prepared as `custom`, the caption as the answer; the texts of any other
    benchmark will do as well.
    """
    from stages import videodistill as stage
    from stages.training.inputs import count_of, find_inputs

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    values = settings(
        "pretrain-videodistill",
        recipe=recipe,
        overrides=overrides,
        keep=keep,
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
        layout="clip",
    )
    how = runtime(console, device=device, force=force, name=name)
    training = stage.decide(
        inputs, {**values, "task": "captions"}, how, stage.find_init(root, init)
    )
    if dry_run:
        console.plan("pretrain-videodistill", stage.plan(root, training, device))
        return 0
    result = stage.train(root, training, how, tensorboard=tensorboard)
    console.stage("pretrain-videodistill", [result])
    return 0
