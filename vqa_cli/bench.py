"""`vqa bench decode|cache|features|latency|train`: the speed figures, as tables or JSON."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vqa_cli import completion
from vqa_cli.catalogue import epilog
from vqa_cli.console import Console
from vqa_cli.options import (
    COMPUTED,
    DEFAULT_WORKSPACE,
    INPUTS,
    OUTPUT,
    RUN,
    DebugOption,
    DeviceOption,
    JsonOption,
    QuietOption,
)

app = typer.Typer(
    rich_markup_mode="markdown",
    help="Measure speed: decoding, cache, vision tower, latency of the systems, training steps.",
)

ScratchOption = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        envvar="VQA_WORKSPACE",
        help="Where temporary files go, if it is there; its disk is what is measured.",
        rich_help_panel=OUTPUT,
        metavar="DIR",
    ),
]
BackboneOption = Annotated[
    str,
    typer.Option(
        "--backbone",
        help="tiny, a folder in Hugging Face layout, or random weights: full (the published sizes, "
        "no file is needed) or small.",
        rich_help_panel=INPUTS,
        metavar="NAME|FOLDER",
        autocompletion=completion.backbones,
    ),
]
SevilaBackboneOption = Annotated[
    str | None,
    typer.Option(
        "--sevila-backbone",
        help="The BLIP-2 beside an InstructBLIP folder [that of --backbone].",
        rich_help_panel=INPUTS,
        metavar="NAME|FOLDER",
        autocompletion=completion.backbones,
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision",
        help="float32, bfloat16 or float16 [float32].",
        rich_help_panel=COMPUTED,
        metavar="NAME",
        autocompletion=completion.words("float32", "bfloat16", "float16"),
    ),
]
FramesOption = Annotated[
    int,
    typer.Option(
        "--frames",
        min=1,
        help="Frames of a video.",
        rich_help_panel=COMPUTED,
        metavar="N",
    ),
]
KeepOption = Annotated[
    int,
    typer.Option(
        "--keep",
        min=1,
        help="Frames kept of them.",
        rich_help_panel=COMPUTED,
        metavar="N",
    ),
]
VideosOption = Annotated[
    int,
    typer.Option(
        "--videos",
        min=1,
        help="Videos of a round.",
        rich_help_panel=COMPUTED,
        metavar="N",
    ),
]
RoundsOption = Annotated[
    int,
    typer.Option(
        "--rounds",
        min=1,
        help="Rounds in which the ways take turns.",
        rich_help_panel=COMPUTED,
        metavar="N",
    ),
]
BatchOption = Annotated[
    int,
    typer.Option(
        "--batch",
        min=1,
        help="Videos in a forward pass.",
        rich_help_panel=COMPUTED,
        metavar="N",
    ),
]


@app.command("decode", epilog=epilog("bench decode"))
def decode(
    frames: FramesOption = 32,
    seconds: Annotated[
        int,
        typer.Option(
            min=1,
            help="Length of a clip in seconds.",
            rich_help_panel=COMPUTED,
            metavar="SECONDS",
        ),
    ] = 30,
    clips: Annotated[
        int,
        typer.Option(
            min=1,
            help="Generated files.",
            rich_help_panel=COMPUTED,
            metavar="N",
        ),
    ] = 4,
    rounds: RoundsOption = 3,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            help="Decode processes.",
            rich_help_panel=RUN,
            metavar="N",
        ),
    ] = 2,
    decoder: Annotated[
        str,
        typer.Option(
            help="auto, decord or pyav: the pool's.",
            rich_help_panel=RUN,
            metavar="NAME",
            autocompletion=completion.decoders,
        ),
    ] = "auto",
    workspace: ScratchOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """The decode pool beside processes that only decode."""
    from stages.bench.decode import DecodeConfig
    from stages.bench.decode import decode as measure

    values = {"frames": frames, "seconds": seconds, "clips": clips, "workers": workers}
    config = DecodeConfig.build({**values, "rounds": rounds, "decoder": decoder}, "bench decode")
    return _show(
        measure(config, _scratch(workspace), _command()),
        Console(as_json=as_json, quiet=quiet, debug=debug),
    )


@app.command("cache", epilog=epilog("bench cache"))
def cache(
    backbone: BackboneOption = "full",
    frames: FramesOption = 32,
    keep: KeepOption = 4,
    videos: VideosOption = 8,
    loaders: Annotated[
        int,
        typer.Option(
            min=1,
            help="Loader processes.",
            rich_help_panel=COMPUTED,
            metavar="N",
        ),
    ] = 4,
    rounds: RoundsOption = 5,
    workspace: ScratchOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Reading stored features beside a memory map."""
    from stages.bench.cache import CacheConfig
    from stages.bench.cache import cache as measure

    values = {"backbone": backbone, "frames": frames, "keep": keep, "videos": videos}
    config = CacheConfig.build({**values, "loaders": loaders, "rounds": rounds}, "bench cache")
    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    return _show(measure(config, _scratch(workspace), _command()), console)


@app.command("features", epilog=epilog("bench features"))
def features(
    backbone: BackboneOption = "tiny",
    precision: PrecisionOption = "float32",
    frames: FramesOption = 32,
    videos: VideosOption = 4,
    decode_workers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Decode processes measured beside it; 0: none.",
            rich_help_panel=COMPUTED,
            metavar="N",
        ),
    ] = 1,
    rounds: RoundsOption = 3,
    device: DeviceOption = "auto",
    workspace: ScratchOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """The vision tower against a large product."""
    from stages.bench.features import FeaturesBenchConfig
    from stages.bench.features import features as measure

    values = {"backbone": backbone, "precision": precision, "frames": frames, "videos": videos}
    config = FeaturesBenchConfig.build(
        {**values, "decode_workers": decode_workers, "rounds": rounds}, "bench features"
    )
    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    return _show(measure(config, device, _scratch(workspace), _command()), console)


@app.command("latency", epilog=epilog("bench latency"))
def latency(
    backbone: BackboneOption = "tiny",
    sevila_backbone: SevilaBackboneOption = None,
    precision: PrecisionOption = "float32",
    batch: BatchOption = 4,
    videos: VideosOption = 4,
    rounds: RoundsOption = 3,
    device: DeviceOption = "auto",
    workspace: ScratchOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Milliseconds per video, the papers' way."""
    from stages.bench.latency import LatencyConfig
    from stages.bench.latency import latency as measure

    values = {"backbone": backbone, "sevila_backbone": sevila_backbone, "precision": precision}
    config = LatencyConfig.build(
        {**values, "batch": batch, "videos": videos, "rounds": rounds}, "bench latency"
    )
    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    return _show(measure(config, device, _scratch(workspace), _command()), console)


@app.command("train", epilog=epilog("bench train"))
def train(
    backbone: BackboneOption = "tiny",
    precision: PrecisionOption = "float32",
    frames: FramesOption = 32,
    keep: KeepOption = 4,
    batch: BatchOption = 2,
    rounds: RoundsOption = 3,
    device: DeviceOption = "auto",
    workspace: ScratchOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """One training step from the cache and from pixels."""
    from stages.bench.train import TrainBenchConfig
    from stages.bench.train import train as measure

    values = {"backbone": backbone, "precision": precision, "frames": frames, "keep": keep}
    config = TrainBenchConfig.build({**values, "batch": batch, "rounds": rounds}, "bench train")
    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    return _show(measure(config, device, _scratch(workspace), _command()), console)


def _scratch(workspace: Path) -> Path | None:
    """The workspace, if there is one; else the machine's temporary folder."""
    return workspace if workspace.is_dir() else None


def _command() -> str:
    """The command line as it was typed, for the record."""
    return shlex.join(["vqa", *sys.argv[1:]])


def _show(record: dict[str, Any], console: Console) -> int:
    """A record as JSON, or one line a figure."""
    if console.as_json:
        console.json(record)
        return 0
    machine = record["machine"]
    title = f"{record['bench']} on {record['device']} ({machine['processor']}), {record['date']}"
    skipped = {"bench", "date", "device", "machine", "versions", "command", "config", "seconds",
               "rounds"}  # fmt: skip
    rows = [
        [name, text]
        for key, value in record.items()
        if key not in skipped
        for name, text in _lines(key, value)
    ]
    console.table(title, ["figure", "value"], rows)
    return 0


def _lines(name: str, value: Any) -> list[tuple[str, str]]:
    """Nested figures, one a line under their whole name; rounds are left to the JSON."""
    if isinstance(value, dict):
        return [
            line
            for key, inner in value.items()
            if key != "rounds"
            for line in _lines(f"{name} {key}", inner)
        ]
    if isinstance(value, bool):
        return [(name.replace("_", " "), "yes" if value else "no")]
    if isinstance(value, float):
        return [(name.replace("_", " "), f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}")]
    return [(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))]
