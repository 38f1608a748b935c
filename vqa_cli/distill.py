"""`vqa distill`: the VLAP student and its frame prompter."""

from __future__ import annotations

from typing import Annotated

import typer

from stages.core.errors import UsageError
from vqa_cli.console import Console
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
    NameOption,
    PresetOption,
    QuietOption,
    RecipeOption,
    SeedOption,
    SetOption,
    TensorboardOption,
    WorkspaceOption,
    open_workspace,
    runtime,
)
from vqa_cli.settings import settings


def distill(
    benchmark: BenchmarkOption,
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, help="Frames that the student looks at.")
    ] = None,
    prompter: Annotated[
        str | None,
        typer.Option("--prompter", help="visual (the paper's) or question (our extension)."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option("--init", help="start, teacher or base [a start if there is one]."),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", metavar="ID", help="Which teacher weights.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="ID", help="Which weights to start from.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="Frames seen [all that are stored].")
    ] = None,
    backbone: BackboneOption = None,
    features: FeaturesOption = None,
    answer: AnswerOption = None,
    preset: PresetOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    seed: SeedOption = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    name: NameOption = None,
    device: DeviceOption = "auto",
    force: ForceOption = False,
    tensorboard: TensorboardOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Distil a student that looks at K frames chosen by a learned frame prompter."""
    from stages import distill as stage
    from stages.training.vlap_setup import count_of, find_inputs

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    values = settings(
        "distill",
        recipe=recipe,
        overrides=overrides,
        keep=keep,
        frames=frames,
        init=init,
        answer=answer,
        preset=preset,
        **{"model.prompter": prompter, "training.seed": seed},
    )
    if "keep" not in values:
        raise UsageError("distill needs --keep K, the number of frames the student looks at")
    root = open_workspace(workspace)
    inputs = find_inputs(root, benchmark, backbone, count_of(values, "frames"), features or [])
    origin = stage.find_origin(root, benchmark, values, teacher, weights)
    how = runtime(console, device=device, force=force, name=name)
    result = stage.distill(
        root,
        inputs,
        values,
        how,
        teacher=origin.teacher,
        start=origin.start,
        tensorboard=tensorboard,
    )
    console.stage("distill", [result])
    return 0
