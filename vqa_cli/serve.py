"""`vqa serve`: what `vqa ask` does, on a page in the browser."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from stages.core.optional import require
from vqa_cli.ask import (
    BackboneOption,
    FramesOption,
    KeepOption,
    SelectOption,
    SelectorOption,
    SystemOption,
    WeightsOption,
    system_json,
    tell_choices,
)
from vqa_cli.console import Console
from vqa_cli.options import (
    DEFAULT_WORKSPACE,
    AnswerOption,
    DebugOption,
    DecoderOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    SeedOption,
    SetOption,
    WorkspaceOption,
    open_workspace,
)
from vqa_cli.settings import settings

PAGE = "The page"
PORT = 8720
MOST_PORT = 65535
MOST_SECONDS = 86400.0
EXTRA = "serve"
PACKAGES = ("starlette", "uvicorn")


def _number(value: float) -> float:
    """Refuse what is no number and so passes every comparison."""
    if math.isnan(value):
        raise typer.BadParameter("a number of seconds is expected")
    return value


PortOption = Annotated[
    int,
    typer.Option(
        "--port",
        metavar="N",
        min=0,
        max=MOST_PORT,
        help="Port of 127.0.0.1; 0 takes a free one.",
        rich_help_panel=PAGE,
    ),
]
MaxUploadOption = Annotated[
    int,
    typer.Option("--max-upload", metavar="MB", min=1, help="Largest video.", rich_help_panel=PAGE),
]
MaxSecondsOption = Annotated[
    float,
    typer.Option(
        "--max-seconds",
        metavar="SECONDS",
        min=1.0,
        max=MOST_SECONDS,
        callback=_number,
        help="After which decoding a video is given up.",
        rich_help_panel=PAGE,
    ),
]
MaxVideosOption = Annotated[
    int,
    typer.Option(
        "--max-videos",
        metavar="N",
        min=1,
        help="Videos kept in memory; the least recently used one is forgotten.",
        rich_help_panel=PAGE,
    ),
]


def serve(
    system: SystemOption = None,
    weights: WeightsOption = None,
    select: SelectOption = None,
    selector: SelectorOption = None,
    backbone: BackboneOption = None,
    frames: FramesOption = None,
    keep: KeepOption = None,
    answer: AnswerOption = None,
    port: PortOption = PORT,
    max_upload: MaxUploadOption = 500,
    max_seconds: MaxSecondsOption = 120.0,
    max_videos: MaxVideosOption = 8,
    overrides: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    decoder: DecoderOption = "auto",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Ask about videos in the browser: a page on this machine only, until Ctrl-C.

    Choose a video, type a question and options; see shares, time line, scores and keyframes.
    Further questions about the same video reuse its features. Needs the extra serve.
    """
    from stages.asking.request import ask_request
    from stages.video import decoder_identity

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    for package in PACKAGES:
        require(package, EXTRA)
    root = open_workspace(workspace)
    given: dict[str, Any] = {"frames": frames, "keep": keep, "answer": answer, "seed": seed}
    request = ask_request(
        root,
        system=system,
        select=select,
        weights=weights,
        selector=selector,
        backbone=backbone,
        values=settings("ask", overrides=overrides, **given),
    )
    identity = decoder_identity(decoder)
    tell_choices(console, request, weights, root)

    from stages import serve as stage
    from stages.ask import Asker
    from stages.serving.limits import MEGABYTE, Limits

    limits = Limits(max_upload * MEGABYTE, max_seconds, max_videos)
    with contextlib.closing(stage.listen(port)) as listening:
        asker = Asker(request, device, identity)
        who = system_json(request, asker.config.as_json())
        facts = {
            "system": who,
            "notes": [note for note in request.notes() if note != request.warning],
            "warning": request.warning,
            "open_ended": asker.writes,
        }

        def ready(url: str) -> None:
            if as_json:
                console.json({"command": "serve", "url": url} | facts)
            else:
                console.data.print(f"serving on {url} (Ctrl-C stops)", soft_wrap=True)

        def stopping() -> None:
            console.note("stopping ... (Ctrl-C again ends at once)")

        stage.serve(asker, facts, listening, limits, decoder, ready, stopping)
    console.note("stopped; nothing was kept")
    _end()


def _end() -> NoReturn:
    """Leave at once: taking an interpreter with torch apart takes seconds, and saves nothing."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(0)
