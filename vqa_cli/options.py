"""The options that several commands share, declared once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from stages.artifacts.store import Workspace
from stages.core.errors import UsageError
from stages.core.runtime import Runtime, ShardSelection
from vqa_cli.console import Console

WORKSPACE = "Workspace"
RUN = "How to run"
OUTPUT = "Output"

ANSWERS = ("letter", "rank")
BLIND = ("static", "gaussian", "shuffled")
DTYPES = ("float16", "float32", "bfloat16", "int8", "float8")
INITS = ("start", "teacher", "base")
PROMPTERS = ("visual", "question", "uniform_mid", "random_segment")
RANK_NORMS = ("sum", "mean")
ROLES = ("student", "start", "teacher")
SELECTS = ("localizer", "uniform", "random", "all", "oracle", "topk", "atp")
VIDEODISTILL_TASKS = ("open-ended", "choice", "contrastive", "matching")
VIDEODISTILL_VARIANTS = ("a", "b", "c", "d", "e", "f")
"""What options take that know a few words only. The stages' own types are heavy to import; a test
holds the two together."""


def one_of(option: str, known: tuple[str, ...]) -> Callable[[str | None], str | None]:
    """A check for an option's value: one of `known`, or a usage error that lists them."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in known:
            raise UsageError(f"{option} {value!r}", f"known: {', '.join(known)}")
        return value

    return check


WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        envvar="VQA_WORKSPACE",
        help="Directory that holds all artifacts.",
        rich_help_panel=WORKSPACE,
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option("--name", help="Label of the artifact.", rich_help_panel=WORKSPACE),
]
BenchmarkOption = Annotated[
    str, typer.Option("--benchmark", "-b", help="Name of the benchmark (vqa benchmarks).")
]
SplitOption = Annotated[
    str | None, typer.Option("--split", help="Split; dev means val, test_public means test.")
]
BackboneOption = Annotated[
    str | None,
    typer.Option("--backbone", help="Backbone name, or a folder in Hugging Face layout."),
]
QuestionsOption = Annotated[
    str | None,
    typer.Option(
        "--questions", metavar="ID", help="Which prepared questions, if there are several."
    ),
]
SplitQuestionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--questions",
        metavar="ID",
        help="Which prepared questions, if there are several; repeat for several splits.",
    ),
]
TrainSplitOption = Annotated[
    str | None,
    typer.Option("--split", help="Split that is learnt from [the benchmark's train split]."),
]
FramesOption = Annotated[
    str | None, typer.Option("--frames", metavar="N[,N...]", help="Frames per clip [32].")
]
ViewsOption = Annotated[
    int | None, typer.Option("--views", min=0, help="Random draws per clip, for training.")
]
FeaturesOption = Annotated[
    list[str] | None,
    typer.Option("--features", metavar="ID", help="Which features; repeat for several splits."),
]
AnswerOption = Annotated[
    str | None,
    typer.Option(
        "--answer",
        help="letter or rank [the benchmark's or weights' own].",
        callback=one_of("--answer", ANSWERS),
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", help="paper, or reference: the published code's choices."),
]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of every random draw.")]
RoundOption = Annotated[
    int | None, typer.Option("--round", min=1, help="Which refinement this is [1].")
]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="Recipe name or TOML file with settings.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; may be repeated."),
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=RUN)
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Decode processes [one per core].", rich_help_panel=RUN),
]
ForceOption = Annotated[
    bool,
    typer.Option("--force", help="Rebuild what is already there.", rich_help_panel=RUN),
]
StrictOption = Annotated[
    bool,
    typer.Option("--strict", help="Stop at the first failed item.", rich_help_panel=RUN),
]
MaxFailuresOption = Annotated[
    float,
    typer.Option(
        "--max-failures",
        min=0.0,
        max=1.0,
        help="Share of failed items above which the exit code is 1.",
        rich_help_panel=RUN,
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard", metavar="I/N", help="Build only shards i, i+n, ...", rich_help_panel=RUN
    ),
]
DecoderOption = Annotated[
    str,
    typer.Option("--decoder", help="auto, decord or pyav.", rich_help_panel=RUN),
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the plan, its size and cost; write nothing."),
]
TensorboardOption = Annotated[
    bool,
    typer.Option(
        "--tensorboard",
        help="Event files below the workspace's .logs (extra: tensorboard).",
        rich_help_panel=OUTPUT,
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="One JSON object on stdout.", rich_help_panel=OUTPUT),
]
QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress, no notes.", rich_help_panel=OUTPUT),
]
DebugOption = Annotated[
    bool,
    typer.Option("--debug", help="Show tracebacks and log lines.", rich_help_panel=OUTPUT),
]

DEFAULT_WORKSPACE = Path("vqa-workspace")


def runtime(
    console: Console,
    *,
    device: str = "auto",
    workers: int | None = None,
    shard: str | None = None,
    force: bool = False,
    strict: bool = False,
    max_failures: float = 0.05,
    name: str | None = None,
) -> Runtime:
    """The `Runtime` of a command's options."""
    return Runtime(
        device=device,
        workers=workers,
        shards=ShardSelection.parse(shard) if shard else ShardSelection(),
        force=force,
        strict=strict,
        max_failures=max_failures,
        name=name,
        progress=console.progress,
    )


def open_workspace(path: Path) -> Workspace:
    """The workspace at `path`, which need not exist yet."""
    return Workspace(path)
