"""`vqa extract-features`: a frozen vision tower over the frames."""

from __future__ import annotations

from typing import Annotated

import typer

from stages.core.errors import UsageError
from vqa_cli.console import Console, failures_exit_code
from vqa_cli.options import (
    DEFAULT_WORKSPACE,
    DTYPES,
    BenchmarkOption,
    DebugOption,
    DecoderOption,
    DeviceOption,
    DryRunOption,
    ForceOption,
    FramesOption,
    JsonOption,
    MaxFailuresOption,
    NameOption,
    QuestionsOption,
    QuietOption,
    RecipeOption,
    SeedOption,
    SetOption,
    ShardOption,
    SplitOption,
    StrictOption,
    ViewsOption,
    WorkersOption,
    WorkspaceOption,
    one_of,
    open_workspace,
    runtime,
)
from vqa_cli.settings import settings
from vqa_cli.splits import frame_counts, questions_and_views

FromVideosOption = Annotated[
    bool,
    typer.Option("--from-videos", help="Decode and encode together; no frames are stored."),
]
FramesFromOption = Annotated[
    str | None, typer.Option("--frames-from", metavar="ID", help="Which frames artifact.")
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="float16, float32, bfloat16 or int8.",
        callback=one_of("--dtype", DTYPES),
    ),
]


def extract_features(
    benchmark: BenchmarkOption,
    backbone: Annotated[
        str, typer.Option("--backbone", help="Backbone, or a folder in Hugging Face layout.")
    ],
    from_videos: FromVideosOption = False,
    frames: FramesOption = None,
    views: ViewsOption = None,
    frames_from: FramesFromOption = None,
    dtype: DtypeOption = None,
    split: SplitOption = None,
    questions: QuestionsOption = None,
    decoder: DecoderOption = "auto",
    seed: SeedOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    name: NameOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    shard: ShardOption = None,
    force: ForceOption = False,
    strict: StrictOption = False,
    max_failures: MaxFailuresOption = 0.05,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Encode frames once, for all questions and epochs."""
    from stages import features as stage

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    if not from_videos and (frames or views is not None or seed is not None):
        raise UsageError(
            "--frames, --views and --seed are decided by extract-frames",
            "add --from-videos to decode here",
        )
    values = settings(
        "extract-features",
        recipe=recipe,
        overrides=overrides,
        frames=frame_counts(frames),
        views=views,
        seed=seed,
    )
    choices = stage.FeatureChoices.build(
        {
            **{key: values.pop(key) for key in stage.FeatureChoices.model_fields if key in values},
            **({"dtype": dtype} if dtype else {}),
        },
        "extract-features",
    )
    root = open_workspace(workspace)
    how = runtime(
        console,
        device=device,
        workers=workers,
        shard=shard,
        force=force,
        strict=strict,
        max_failures=max_failures,
        name=name,
    )
    results, plans = [], []
    for chosen, sampling in questions_and_views(root, benchmark, split, questions, values):
        job = stage.feature_job(
            root,
            chosen,
            backbone,
            choices,
            device=device,
            decoder=decoder,
            from_videos=from_videos,
            sampling=sampling,
            frames_reference=frames_from,
        )
        if dry_run:
            plans.append((chosen.label, stage.plan(root, job, how).as_json()))
        else:
            results.append(stage.extract_features(root, job, how))
    if dry_run:
        console.plans("extract-features", plans)
        return 0
    console.stage("extract-features", results)
    return failures_exit_code(results, max_failures)
