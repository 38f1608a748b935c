"""`vqa pseudo-label`: the frozen answerer says of each frame whether it gives the answer."""

from __future__ import annotations

from typing import Annotated

import typer

from vqa_cli import completion
from vqa_cli.console import Console, failures_exit_code
from vqa_cli.options import (
    COMPUTED,
    DEFAULT_WORKSPACE,
    INPUTS,
    RANK_NORMS,
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
    RoundOption,
    SetOption,
    ShardOption,
    StrictOption,
    TrainSplitOption,
    WorkspaceOption,
    one_of,
    open_workspace,
    runtime,
)
from vqa_cli.settings import settings

WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="ID",
        help="The answerer's weights, or none: its backbone as it is [none in round 1].",
        rich_help_panel=INPUTS,
        autocompletion=completion.ids_of("weights"),
    ),
]
SeenOption = Annotated[
    int | None,
    typer.Option(
        "--frames",
        min=1,
        help="Frames labelled [all that are stored].",
        rich_help_panel=COMPUTED,
        metavar="N",
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


def pseudo_label(
    benchmark: BenchmarkOption,
    split: TrainSplitOption = None,
    weights: WeightsOption = None,
    questions: QuestionsOption = None,
    backbone: BackboneOption = None,
    features: FeaturesOption = None,
    number: RoundOption = None,
    frames: SeenOption = None,
    rank_norm: RankNormOption = None,
    answer: AnswerOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    shard: ShardOption = None,
    engine: EngineOption = "local",
    force: ForceOption = False,
    strict: StrictOption = False,
    max_failures: MaxFailuresOption = 0.05,
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    name: NameOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Label every frame: does the answerer give the right answer from it alone?"""
    from stages import pseudo_labels as stage
    from stages.training.inputs import count_of

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    values = settings(
        "pseudo-label",
        recipe=recipe,
        overrides=overrides,
        frames=frames,
        round=number,
        answer=answer,
        **{"model.rank_norm": rank_norm},
    )
    count_of(values, "frames")
    root = open_workspace(workspace)
    inputs = stage.find_answerer(
        root,
        benchmark,
        split,
        values,
        weights=weights,
        features=features or [],
        questions=questions,
        backbone=backbone,
    )
    config = stage.pseudo_label_config(inputs, values, device)
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
    if dry_run:
        console.plan("pseudo-label", stage.plan(root, inputs, config, how))
        return 0
    result = stage.pseudo_label(root, inputs, config, how)
    console.stage("pseudo-label", [result])
    return failures_exit_code([result], max_failures)
