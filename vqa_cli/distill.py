"""`vqa distill`: the VLAP student and its frame prompter."""

from __future__ import annotations

from typing import Annotated

import typer

from stages.core.errors import UsageError
from vqa_cli import completion
from vqa_cli.console import Console
from vqa_cli.options import (
    COMPUTED,
    DEFAULT_WORKSPACE,
    INITS,
    INPUTS,
    PROMPTERS,
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
    one_of,
    open_workspace,
    runtime,
)
from vqa_cli.settings import settings

KeepOption = Annotated[
    int | None,
    typer.Option(
        "--keep",
        min=1,
        help="Frames that the student looks at: K [that of the recipe; without one it is needed].",
        rich_help_panel=COMPUTED,
        metavar="K",
    ),
]
PrompterOption = Annotated[
    str | None,
    typer.Option(
        "--prompter",
        help="visual (the paper's), question (our extension), or the paper's rows that learn none: "
        "uniform_mid, random_segment [visual].",
        callback=one_of("--prompter", PROMPTERS),
        rich_help_panel=COMPUTED,
        metavar="NAME",
        autocompletion=completion.words(*PROMPTERS),
    ),
]
InitOption = Annotated[
    str | None,
    typer.Option(
        "--init",
        help="start, teacher or base [a start if there is one].",
        callback=one_of("--init", INITS),
        rich_help_panel=INPUTS,
        metavar="NAME",
        autocompletion=completion.words(*INITS),
    ),
]
TeacherOption = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        metavar="ID",
        help="Which teacher, if there are several [the one that fits].",
        rich_help_panel=INPUTS,
        autocompletion=completion.ids_of("weights"),
    ),
]
StartOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="ID",
        help="Which weights to start from [those of --init].",
        rich_help_panel=INPUTS,
        autocompletion=completion.ids_of("weights"),
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


def distill(
    benchmark: BenchmarkOption,
    split: TrainSplitOption = None,
    init: InitOption = None,
    teacher: TeacherOption = None,
    weights: StartOption = None,
    backbone: BackboneOption = None,
    features: FeaturesOption = None,
    questions: SplitQuestionsOption = None,
    keep: KeepOption = None,
    prompter: PrompterOption = None,
    frames: SeenOption = None,
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
    """Distil a student that looks at K frames chosen by a learned frame prompter."""
    from stages import distill as stage
    from stages.training.inputs import count_of, find_inputs

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
    inputs = find_inputs(
        root,
        benchmark,
        backbone,
        count_of(values, "frames"),
        features or [],
        questions=questions or [],
        split=split,
    )
    origin = stage.find_origin(root, inputs, values, teacher, weights)
    how = runtime(console, device=device, force=force, name=name)
    if dry_run:
        console.plan("distill", stage.plan(root, inputs, values, how, origin))
        return 0
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
