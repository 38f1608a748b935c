"""`vqa pseudo-label`: the frozen answerer says of each frame whether it gives the answer."""

from __future__ import annotations

from typing import Annotated

import typer

from vqa_cli.console import Console, failures_exit_code
from vqa_cli.options import (
    DEFAULT_WORKSPACE,
    RANK_NORMS,
    AnswerOption,
    BackboneOption,
    BenchmarkOption,
    DebugOption,
    DeviceOption,
    DryRunOption,
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
    ),
]
SeenOption = Annotated[
    int | None, typer.Option("--frames", min=1, help="Frames labelled [all that are stored].")
]
RankNormOption = Annotated[
    str | None,
    typer.Option(
        "--rank-norm",
        help="sum or mean of an option's token log-probabilities, for rank answers.",
        callback=one_of("--rank-norm", RANK_NORMS),
    ),
]


def pseudo_label(
    benchmark: BenchmarkOption,
    weights: WeightsOption = None,
    number: RoundOption = None,
    frames: SeenOption = None,
    rank_norm: RankNormOption = None,
    answer: AnswerOption = None,
    split: TrainSplitOption = None,
    questions: QuestionsOption = None,
    backbone: BackboneOption = None,
    features: FeaturesOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    name: NameOption = None,
    device: DeviceOption = "auto",
    shard: ShardOption = None,
    force: ForceOption = False,
    strict: StrictOption = False,
    max_failures: MaxFailuresOption = 0.05,
    dry_run: DryRunOption = False,
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
