"""The options that several commands share, declared once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from stages.core.errors import MachineError, UsageError
from stages.core.runtime import Engine, Runtime, ShardSelection
from vqa_cli import completion
from vqa_cli.usage_errors import did_you_mean

if TYPE_CHECKING:
    from stages.artifacts.store import Workspace
    from vqa_cli.console import Console

MAX_SEED = 2**32 - 1
"""What every library that draws random numbers takes."""
MAX_WORKERS = 1024
DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu)(:\d{1,3})?")
MAX_SLOTS = 4096
"""Of VideoDistill, which sees some hundred frames at most."""
MAX_LABEL = 150
"""Characters; the name of a folder may have 255, the fingerprint included."""
INPUTS = "Inputs"
COMPUTED = "What is computed"
RUN = "How it runs"
OUTPUT = "Workspace and output"
"""Headings below which `--help` groups options; what nearly every call needs has none."""

ANSWERS = ("letter", "rank")
BLIND = ("static", "gaussian", "shuffled")
DTYPES = ("float16", "float32", "bfloat16", "int8", "float8")
EVAL_SELECTS = (
    "localizer", "prompter", "topk", "atp", "clip", "spans", "uniform", "random", "oracle", "all",
)  # fmt: skip
ENGINES = ("local", "ray")
INITS = ("start", "teacher", "base")
HASHES = ("edges", "full")
PROMPTERS = ("visual", "question", "uniform_mid", "random_segment")
RANK_NORMS = ("sum", "mean")
ROLES = ("student", "start", "teacher")
SELECTS = ("localizer", "uniform", "random", "all", "oracle", "topk", "atp")
SYSTEMS = ("vlap", "sevila", "blip2-concat", "blip2-voting", "videodistill")
VIDEODISTILL_TASKS = ("open-ended", "choice", "contrastive", "matching")
VIDEODISTILL_VARIANTS = ("a", "b", "c", "d", "e", "f")
"""What options take that know a few words only. The stages' own types are heavy to import; a test
holds the two together."""


def one_of(option: str, known: tuple[str, ...]) -> Callable[[str | None], str | None]:
    """A check for an option's value: one of `known`, or a usage error that lists them."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in known:
            near = did_you_mean(value, known)
            listed = f"known: {', '.join(known)}"
            raise UsageError(
                f"{option} {value!r} is not known", f"{near} {listed}" if near else listed
            )
        return value

    return check


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"vqa {version('vqa-toolkit')}")
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
]


def _device(name: str) -> str:
    """Before anything is imported: a device that torch could have.

    Raises:
        UsageError: It has none of that name.
    """
    if not DEVICE.fullmatch(name):
        near = did_you_mean(name, completion.DEVICES)
        known = "known: auto, cpu, cuda, cuda:1, mps"
        raise UsageError(f"--device {name!r} is not known", f"{near} {known}" if near else known)
    return name


def _label(name: str | None) -> str | None:
    """Before anything is done: a name that a folder can have.

    Raises:
        UsageError: It is empty, long, or has other characters.
    """
    if name is None:
        return None
    from stages.artifacts.store import LABEL_CHARACTERS

    if not name or len(name) > MAX_LABEL or not set(name) <= LABEL_CHARACTERS:
        raise UsageError(
            f"--name {name!r} is not usable as a name",
            f"1 to {MAX_LABEL} letters, digits, '.', '_' and '-'",
        )
    return name


WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        envvar="VQA_WORKSPACE",
        help="Directory that holds all artifacts.",
        rich_help_panel=OUTPUT,
        metavar="DIR",
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option(
        "--name",
        help="Label of the artifact [what it is made of].",
        callback=_label,
        rich_help_panel=OUTPUT,
        metavar="LABEL",
    ),
]
BenchmarkOption = Annotated[
    str,
    typer.Option(
        "--benchmark",
        "-b",
        help="Name of the benchmark (vqa benchmarks).",
        metavar="NAME",
        autocompletion=completion.benchmarks,
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Split; dev means val, test_public means test [the benchmark's report split].",
        metavar="NAME",
        autocompletion=completion.splits,
    ),
]
ExtractedSplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Split; dev means val, test_public means test [every prepared split].",
        metavar="NAME",
        autocompletion=completion.splits,
    ),
]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        help="Backbone name, or a folder in Hugging Face layout [that of the features].",
        rich_help_panel=INPUTS,
        metavar="NAME|FOLDER",
        autocompletion=completion.backbones,
    ),
]
QuestionsOption = Annotated[
    str | None,
    typer.Option(
        "--questions",
        metavar="ID",
        help="Which prepared questions, if there are several [those that fit].",
        rich_help_panel=INPUTS,
        autocompletion=completion.ids_of("questions"),
    ),
]
SplitQuestionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--questions",
        metavar="ID",
        help="Which prepared questions, if there are several; repeat for several splits "
        "[those that fit].",
        rich_help_panel=INPUTS,
        autocompletion=completion.ids_of("questions"),
    ),
]
TrainSplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Split that is learnt from [the benchmark's train split].",
        metavar="NAME",
        autocompletion=completion.splits,
    ),
]
FramesOption = Annotated[
    str | None,
    typer.Option(
        "--frames",
        metavar="N[,N...]",
        help="Frames per clip, the midpoints of as many equal parts [32].",
        rich_help_panel=COMPUTED,
    ),
]
ViewsOption = Annotated[
    int | None,
    typer.Option(
        "--views",
        min=0,
        max=1000,
        help="Random draws per clip besides, for training [0].",
        rich_help_panel=COMPUTED,
        metavar="N",
    ),
]
FeaturesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--features",
        metavar="ID",
        help="Which features, if there are several; repeat for several splits [those that fit].",
        rich_help_panel=INPUTS,
        autocompletion=completion.ids_of("features"),
    ),
]
AnswerOption = Annotated[
    str | None,
    typer.Option(
        "--answer",
        help="letter or rank [the benchmark's or weights' own].",
        callback=one_of("--answer", ANSWERS),
        rich_help_panel=COMPUTED,
        metavar="HOW",
        autocompletion=completion.words(*ANSWERS),
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="paper, or reference: the published code's choices [paper].",
        rich_help_panel=COMPUTED,
        metavar="NAME",
        autocompletion=completion.words("paper", "reference"),
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed",
        min=0,
        max=MAX_SEED,
        help="Seed of every random draw [42].",
        rich_help_panel=COMPUTED,
        metavar="N",
    ),
]
RoundOption = Annotated[
    int | None,
    typer.Option(
        "--round",
        min=1,
        help="Which refinement this is [1].",
        rich_help_panel=COMPUTED,
        metavar="N",
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="Settings from a shipped recipe or a TOML file [none].",
        rich_help_panel=COMPUTED,
        metavar="NAME|FILE",
        autocompletion=completion.recipes,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one setting; may be repeated [none].",
        rich_help_panel=COMPUTED,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        callback=_device,
        help="auto (the best there is), cpu, cuda, cuda:1 or mps.",
        rich_help_panel=RUN,
        metavar="NAME",
        autocompletion=completion.devices,
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        max=MAX_WORKERS,
        help="Decode processes [one per core].",
        rich_help_panel=RUN,
        metavar="N",
    ),
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
        help="Share of failed items, 0 to 1, above which the exit code is 1.",
        rich_help_panel=RUN,
        metavar="SHARE",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Build only shards i, i+n, ...; i from 0 [all].",
        rich_help_panel=RUN,
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        callback=one_of("--engine", ENGINES),
        help="local, or ray: the machines of a Ray cluster (extra: ray).",
        rich_help_panel=RUN,
        metavar="NAME",
        autocompletion=completion.words(*ENGINES),
    ),
]
DecoderOption = Annotated[
    str,
    typer.Option(
        "--decoder",
        callback=one_of("--decoder", completion.DECODERS),
        help="auto (decord where it works), decord or pyav.",
        rich_help_panel=RUN,
        metavar="NAME",
        autocompletion=completion.decoders,
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the plan, its size and cost; write nothing.",
        rich_help_panel=RUN,
    ),
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
    typer.Option(
        "--quiet", "-q", help="Nothing but the result; of stages the ids.", rich_help_panel=OUTPUT
    ),
]
DebugOption = Annotated[
    bool,
    typer.Option("--debug", help="Show tracebacks and log lines.", rich_help_panel=OUTPUT),
]


def root(version: VersionOption = False) -> None:
    """The options of `vqa` itself; its help is the application's."""


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
    engine: str = "local",
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
        engine=cast("Engine", engine),
    )


def open_workspace(path: Path) -> Workspace:
    """The workspace at `path`, which need not exist yet.

    Raises:
        UsageError: A file lies there, or on the way.
        MachineError: It may not be read.
    """
    from stages.artifacts.store import Workspace

    there = (item for item in (path, *path.parents) if os.access(item, os.F_OK))
    place = next(there, Path())  # below a folder that may not be entered nothing seems to be there
    if not os.access(place, os.R_OK | os.X_OK) and place.is_dir():
        raise MachineError(f"--workspace {path}: {place} may not be read", "chmod, or another one")
    if not place.is_dir():
        raise UsageError(f"--workspace {path}: {place} is a file, not a folder", "name a folder")
    return Workspace(path)
