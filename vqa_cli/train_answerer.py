"""`vqa train-answerer`: SeViLA's answerer on keyframes of one selector."""

from __future__ import annotations

from typing import Annotated

import typer

from vqa_cli.console import Console
from vqa_cli.options import (
    DEFAULT_WORKSPACE,
    SELECTS,
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

SelectOption = Annotated[
    str | None,
    typer.Option(
        "--select",
        help="Who keeps frames: localizer, uniform, random, all or oracle; topk and atp learn with "
        "the answerer [localizer].",
        callback=one_of("--select", SELECTS),
    ),
]
EvalSelectOption = Annotated[
    str | None,
    typer.Option(
        "--eval-select",
        help="The same on the tune split [as --select; uniform for random].",
        callback=one_of("--eval-select", SELECTS),
    ),
]
SelectorOption = Annotated[
    str | None,
    typer.Option(
        "--selector", metavar="ID", help="The localizer's weights; none: its backbone as it is."
    ),
]
FreezeOption = Annotated[
    bool,
    typer.Option(
        "--freeze-answerer", help="With --select topk or atp: train the selector alone (Table 6)."
    ),
]
KeepOption = Annotated[
    int | None, typer.Option("--keep", min=1, help="Frames that are answered from [4].")
]
SeenOption = Annotated[
    int | None, typer.Option("--frames", min=1, help="Frames seen [all that are stored].")
]


def train_answerer(
    benchmark: BenchmarkOption,
    select: SelectOption = None,
    eval_select: EvalSelectOption = None,
    selector: SelectorOption = None,
    freeze_answerer: FreezeOption = False,
    keep: KeepOption = None,
    frames: SeenOption = None,
    backbone: BackboneOption = None,
    features: FeaturesOption = None,
    questions: SplitQuestionsOption = None,
    split: TrainSplitOption = None,
    answer: AnswerOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    seed: SeedOption = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    name: NameOption = None,
    device: DeviceOption = "auto",
    force: ForceOption = False,
    tensorboard: TensorboardOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Train SeViLA's answerer on keyframes, with the localizer and language model frozen."""
    from stages import answerer as stage
    from stages.training.inputs import count_of, find_inputs

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    values = settings(
        "train-answerer",
        recipe=recipe,
        overrides=overrides,
        select=select,
        eval_select=eval_select,
        keep=keep,
        frames=frames,
        answer=answer,
        freeze_answerer=freeze_answerer or None,
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
    localizer = stage.find_selector(root, inputs, values, selector)
    how = runtime(console, device=device, force=force, name=name)
    if dry_run:
        console.plan("train-answerer", stage.plan(root, inputs, values, how, localizer))
        return 0
    result = stage.train_answerer(
        root, inputs, values, how, selector=localizer, tensorboard=tensorboard
    )
    console.stage("train-answerer", [result])
    return 0
