"""`vqa train-answerer`: SeViLA's answerer on keyframes of one selector."""

from __future__ import annotations

from typing import Annotated

import typer

from vqa_cli import completion
from vqa_cli.console import Console
from vqa_cli.options import (
    COMPUTED,
    DEFAULT_WORKSPACE,
    INPUTS,
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
        rich_help_panel=COMPUTED,
        metavar="NAME",
        autocompletion=completion.words(*SELECTS),
    ),
]
EvalSelectOption = Annotated[
    str | None,
    typer.Option(
        "--eval-select",
        help="The same on the tune split: localizer, uniform, random, all, oracle, topk or atp "
        "[as --select; uniform for random].",
        callback=one_of("--eval-select", SELECTS),
        rich_help_panel=COMPUTED,
        metavar="NAME",
        autocompletion=completion.words(*SELECTS),
    ),
]
SelectorOption = Annotated[
    str | None,
    typer.Option(
        "--selector",
        metavar="ID",
        help="The localizer's weights, or none: its backbone as it is [those that fit].",
        rich_help_panel=INPUTS,
        autocompletion=completion.ids_of("weights"),
    ),
]
FreezeOption = Annotated[
    bool,
    typer.Option(
        "--freeze-answerer",
        help="With --select topk or atp: train the selector alone (Table 6).",
        rich_help_panel=COMPUTED,
    ),
]
KeepOption = Annotated[
    int | None,
    typer.Option(
        "--keep",
        min=1,
        help="Frames that are answered from [4].",
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


def train_answerer(
    benchmark: BenchmarkOption,
    split: TrainSplitOption = None,
    selector: SelectorOption = None,
    backbone: BackboneOption = None,
    features: FeaturesOption = None,
    questions: SplitQuestionsOption = None,
    select: SelectOption = None,
    eval_select: EvalSelectOption = None,
    freeze_answerer: FreezeOption = False,
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
