"""`vqa extract-features`: a frozen vision tower over the frames."""

from __future__ import annotations

from typing import Annotated

import typer

from stages.core.errors import UsageError
from vqa_cli import completion
from vqa_cli.console import Console, failures_exit_code
from vqa_cli.options import (
    COMPUTED,
    DEFAULT_WORKSPACE,
    DTYPES,
    INPUTS,
    MAX_SEED,
    RUN,
    BenchmarkOption,
    DebugOption,
    DecoderOption,
    DeviceOption,
    DryRunOption,
    EngineOption,
    ExtractedSplitOption,
    ForceOption,
    JsonOption,
    MaxFailuresOption,
    NameOption,
    QuestionsOption,
    QuietOption,
    RecipeOption,
    SetOption,
    ShardOption,
    StrictOption,
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
    typer.Option(
        "--from-videos",
        help="Decode and encode together; no frames are stored.",
        rich_help_panel=RUN,
    ),
]
FramesOption = Annotated[
    str | None,
    typer.Option(
        "--frames",
        metavar="N[,N...]",
        help="With --from-videos: frames per clip, the midpoints of as many equal parts [32].",
        rich_help_panel=COMPUTED,
    ),
]
ViewsOption = Annotated[
    int | None,
    typer.Option(
        "--views",
        min=0,
        max=1000,
        help="With --from-videos: random draws per clip besides, for training [0].",
        rich_help_panel=COMPUTED,
        metavar="N",
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed",
        min=0,
        max=MAX_SEED,
        help="With --from-videos: seed of every random draw [42].",
        rich_help_panel=COMPUTED,
        metavar="N",
    ),
]
FramesFromOption = Annotated[
    str | None,
    typer.Option(
        "--frames-from",
        metavar="ID",
        help="Which frames, if there are several [those that fit].",
        rich_help_panel=INPUTS,
        autocompletion=completion.ids_of("frames"),
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help=f"{', '.join(DTYPES[:-1])} or {DTYPES[-1]} [float16].",
        callback=one_of("--dtype", DTYPES),
        rich_help_panel=COMPUTED,
        metavar="NAME",
        autocompletion=completion.words(*DTYPES),
    ),
]


def extract_features(
    benchmark: BenchmarkOption,
    backbone: Annotated[
        str,
        typer.Option(
            "--backbone",
            help="Backbone name, or a folder in Hugging Face layout.",
            metavar="NAME|FOLDER",
            autocompletion=completion.backbones,
        ),
    ],
    split: ExtractedSplitOption = None,
    frames_from: FramesFromOption = None,
    questions: QuestionsOption = None,
    frames: FramesOption = None,
    views: ViewsOption = None,
    dtype: DtypeOption = None,
    seed: SeedOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    from_videos: FromVideosOption = False,
    decoder: DecoderOption = "auto",
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
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
    """Encode frames once, for all questions and epochs."""
    from stages import features as stage

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    if not from_videos and (frames or views is not None or seed is not None):
        raise UsageError(
            "--frames, --views and --seed are decided by extract-frames",
            "add --from-videos to decode here",
        )
    if from_videos and frames_from is not None:
        raise UsageError("--from-videos decodes here: it reads no --frames-from", "one of the two")
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
        engine=engine,
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
