"""`vqa train-teacher`: the VLAP teacher, or with --keep the model that a student starts from."""

from __future__ import annotations

from typing import Annotated

import typer

from vqa_cli.console import Console
from vqa_cli.options import (
    COMPUTED,
    DEFAULT_WORKSPACE,
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
    PresetOption,
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


def train_teacher(
    benchmark: BenchmarkOption,
    split: TrainSplitOption = None,
    backbone: BackboneOption = None,
    features: FeaturesOption = None,
    questions: SplitQuestionsOption = None,
    keep: Annotated[
        int | None,
        typer.Option(
            "--keep",
            min=1,
            help="Train a K-frame start instead of the teacher [the teacher, all frames].",
            rich_help_panel=COMPUTED,
            metavar="K",
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(
            "--frames",
            min=1,
            help="Frames seen [all that are stored].",
            rich_help_panel=COMPUTED,
            metavar="N",
        ),
    ] = None,
    answer: AnswerOption = None,
    preset: PresetOption = None,
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
    """Train a Q-Former on all T frames, with the language model and vision tower frozen."""
    from stages import teacher as stage
    from stages.training.inputs import count_of, find_inputs

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    values = settings(
        "train-teacher",
        recipe=recipe,
        overrides=overrides,
        keep=keep,
        frames=frames,
        answer=answer,
        preset=preset,
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
    )
    how = runtime(console, device=device, force=force, name=name)
    if dry_run:
        console.plan("train-teacher", stage.plan(root, inputs, values, how))
        return 0
    result = stage.train_teacher(root, inputs, values, how, tensorboard=tensorboard)
    console.stage("train-teacher", [result])
    return 0
