"""`vqa extract-frames`: decode the frames that a backbone will look at."""

from __future__ import annotations

from typing import Annotated

import typer

from vqa_cli import completion
from vqa_cli.console import Console, failures_exit_code
from vqa_cli.options import (
    DEFAULT_WORKSPACE,
    BenchmarkOption,
    DebugOption,
    DecoderOption,
    DryRunOption,
    EngineOption,
    ExtractedSplitOption,
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
    StrictOption,
    ViewsOption,
    WorkersOption,
    WorkspaceOption,
    open_workspace,
    runtime,
)
from vqa_cli.settings import settings
from vqa_cli.splits import frame_counts, questions_and_views


def extract_frames(
    benchmark: BenchmarkOption,
    backbone: Annotated[
        str,
        typer.Option(
            "--for",
            help="Backbone whose frame size and resize rule to use.",
            metavar="NAME|FOLDER",
            autocompletion=completion.backbones,
        ),
    ],
    split: ExtractedSplitOption = None,
    questions: QuestionsOption = None,
    frames: FramesOption = None,
    views: ViewsOption = None,
    seed: SeedOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    decoder: DecoderOption = "auto",
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
    """Decode frames per clip at their presentation times and store them without loss."""
    from stages import frames as stage
    from stages.models.backbones.catalog import backbone_frames
    from stages.video.clips import SamplingConfig
    from stages.video.resize import FrameFormat

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    values = settings(
        "extract-frames",
        recipe=recipe,
        overrides=overrides,
        frames=frame_counts(frames),
        views=views,
        seed=seed,
    )
    per_shard = values.pop("videos_per_shard", None)
    rule = backbone_frames(backbone, values.pop("short_side", None))
    values.setdefault("frames", [32])
    root = open_workspace(workspace)
    how = runtime(
        console,
        workers=workers,
        shard=shard,
        engine=engine,
        force=force,
        strict=strict,
        max_failures=max_failures,
        name=name,
    )
    size = FrameFormat(**rule.format_values())
    results, plans = [], []
    for chosen, sampling_values in questions_and_views(root, benchmark, split, questions, values):
        sampling = SamplingConfig.build(sampling_values, "extract-frames")
        config = stage.frames_config(chosen, size, sampling, decoder, per_shard)
        if dry_run:
            plans.append((chosen.label, stage.plan(root, chosen, config, how).as_json()))
        else:
            results.append(stage.extract_frames(root, chosen, config, how))
    if dry_run:
        console.plans("extract-frames", plans)
        return 0
    console.stage("extract-frames", results)
    return failures_exit_code(results, max_failures)
