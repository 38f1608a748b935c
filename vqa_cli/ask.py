"""`vqa ask`: one video, one question or a file of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.core.errors import MachineError, UsageError, VqaError
from vqa_cli import completion
from vqa_cli.console import Console
from vqa_cli.options import (
    COMPUTED,
    DEFAULT_WORKSPACE,
    OUTPUT,
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

if TYPE_CHECKING:
    from stages.artifacts.store import Workspace
    from stages.ask import Asker
    from stages.asking.answers import Answered
    from stages.asking.questions import Asked
    from stages.asking.request import AskRequest
    from stages.asking.video import SeenVideo, Video

CLIP = "Part of the video"
WHO = "Who answers"
SYSTEMS = ("vlap", "sevila", "blip2-concat", "videodistill")
SELECTS = ("localizer", "prompter", "topk", "atp", "uniform", "random", "all")

VideoArgument = Annotated[
    Path, typer.Argument(help="A video file, or a folder of jpg or png frames.")
]
QuestionArgument = Annotated[str | None, typer.Argument(help="What to ask.")]
OptionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-o",
        metavar="TEXT",
        help="A possible answer; repeat it. Without any the system writes its own [none].",
    ),
]
QuestionsFileOption = Annotated[
    Path | None,
    typer.Option(
        "--questions",
        metavar="FILE",
        help="Many questions instead: JSONL with "
        "question and options; the video is looked at once [none].",
    ),
]
SystemOption = Annotated[
    str | None,
    typer.Option(
        "--system",
        metavar="NAME",
        help="vlap, sevila, blip2-concat or videodistill [that of --weights, else sevila].",
        rich_help_panel=WHO,
        autocompletion=completion.words(*SYSTEMS),
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="ID",
        help="Trained weights of the workspace, or their "
        "folder; none: the backbone as it is [none for sevila and blip2-concat].",
        rich_help_panel=WHO,
        autocompletion=completion.ids_of("weights"),
    ),
]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="NAME|FOLDER",
        help="Backbone name, or a folder in Hugging Face layout [that of --weights, else "
        "tiny-blip2].",
        rich_help_panel=WHO,
        autocompletion=completion.backbones,
    ),
]
SelectOption = Annotated[
    str | None,
    typer.Option(
        "--select",
        metavar="NAME",
        help="Who keeps frames: localizer, prompter, topk, atp, uniform, "
        "random or all [the system's own].",
        rich_help_panel=WHO,
        autocompletion=completion.words(*SELECTS),
    ),
]
SelectorOption = Annotated[
    str | None,
    typer.Option(
        "--selector",
        metavar="ID",
        help="Weights of --select; none: its backbone as it is [none].",
        rich_help_panel=WHO,
        autocompletion=completion.ids_of("weights"),
    ),
]
FramesOption = Annotated[
    int | None,
    typer.Option(
        "--frames",
        metavar="N",
        min=1,
        help="Frames seen [32, or the weights' own].",
        rich_help_panel=COMPUTED,
    ),
]
KeepOption = Annotated[
    int | None,
    typer.Option(
        "--keep",
        metavar="K",
        min=1,
        help="Frames kept [4, or the weights' own].",
        rich_help_panel=COMPUTED,
    ),
]
StartOption = Annotated[
    float | None,
    typer.Option(
        "--start",
        metavar="SECONDS",
        help="First second that is asked about [the video's].",
        rich_help_panel=CLIP,
    ),
]
EndOption = Annotated[
    float | None,
    typer.Option(
        "--end",
        metavar="SECONDS",
        help="Last second that is asked about [the video's].",
        rich_help_panel=CLIP,
    ),
]
SaveOption = Annotated[
    Path | None,
    typer.Option(
        "--save",
        metavar="DIR",
        help="Write the kept frames there as PNG files [written nowhere].",
        rich_help_panel=OUTPUT,
    ),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Write the answers with time line and frames as one page [not written].",
        rich_help_panel=OUTPUT,
    ),
]


def ask(
    video: VideoArgument,
    question: QuestionArgument = None,
    options: OptionsOption = None,
    questions: QuestionsFileOption = None,
    system: SystemOption = None,
    weights: WeightsOption = None,
    select: SelectOption = None,
    selector: SelectorOption = None,
    backbone: BackboneOption = None,
    frames: FramesOption = None,
    keep: KeepOption = None,
    answer: AnswerOption = None,
    start: StartOption = None,
    end: EndOption = None,
    save: SaveOption = None,
    html: HtmlOption = None,
    overrides: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    decoder: DecoderOption = "auto",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Ask about one video: the answer, how sure, and which frames it was read from.

    Works at once on the embedded backbone; nothing is written unless you say where.
    """
    from stages.asking.outputs import check_html, check_save
    from stages.asking.request import ask_request
    from stages.asking.video import Clip, Video

    started = time.monotonic()
    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    asked = _asked(question, options or [], questions)
    clip = Clip(start, end)
    with _writing("--save", save):
        check_save(video, save)
    with _writing("--html", html):
        check_html(video, html)
    root = open_workspace(workspace)
    given: dict[str, Any] = {"frames": frames, "keep": keep, "answer": answer, "seed": seed}
    with Video(video, decoder) as opened:
        request = ask_request(
            root,
            system=system,
            select=select,
            weights=weights,
            selector=selector,
            backbone=backbone,
            values=settings("ask", overrides=overrides, **given),
        )
        opened.probe()
        pending = opened.start_decoding(request.frames, request.backbone, clip)
        tell_choices(console, request, weights, root)

        from stages.ask import Asker  # torch: seconds, in which the video is decoded

        asker = Asker(request, device, opened.identity)
        seen = pending.result()
        answers = _answers(console, asker, seen, asked, refuse=questions is None)
        with _writing("--save", save):
            files = _save(save, opened, answers)
        with _writing("--html", html):
            _write_html(html, opened, seen, answers, request)
    if as_json:
        result = _result(request, seen, answers, asker.config.as_json(), files, html)
        console.json(result | {"seconds": round(time.monotonic() - started, 3)})
    else:
        _show(console, seen, answers)
        _tell_written(console, files, html)
    return int(any(item.problem for item in answers))


def _answers(
    console: Console, asker: Asker, seen: SeenVideo, asked: list[Asked], *, refuse: bool
) -> list[Answered]:
    """Every question's answer; with `refuse` one that cannot be asked is an error."""
    encoded = asker.look(seen)
    answers = []
    for number, item in enumerate(asked):
        answers.append((asker.answer_or_refuse if refuse else asker.answer)(encoded, item))
        console.progress(number + 1, len(asked), "questions")
    console.end_progress()
    return answers


def _asked(question: str | None, options: list[str], questions: Path | None) -> list[Asked]:
    from stages.asking.questions import asked, read_questions

    example = "vqa ask VIDEO QUESTION -o A -o B, or --questions FILE"
    if questions is None:
        if question is None:
            raise UsageError("nothing is asked", example)
        return [asked(question, options)]
    if question is not None or options:
        raise UsageError("a question and a file of questions are given", example)
    return read_questions(questions)


@contextmanager
def _writing(option: str, path: Path | None) -> Iterator[None]:
    """What the disk says to a place that a person named, with its name."""
    try:
        yield
    except VqaError:
        raise
    except OSError as error:
        words = error.strerror or str(error)
        raise MachineError(f"{option} {path}: {words}", f"another place for {option}") from None


def tell_choices(
    console: Console, request: AskRequest, weights: str | None, workspace: Workspace
) -> None:
    """Say who answers, and which trained weights could."""
    from stages.asking.request import trained_answerers

    for line in request.notes():
        console.note(line)
    held = trained_answerers(workspace) if request.weights is None and weights is None else []
    if held:
        console.note(f"trained weights are in {workspace.root}: --weights {held[0]}")


def _save(save: Path | None, video: Video, answers: list[Answered]) -> dict[int, Path]:
    if save is None or not any(item.kept for item in answers):
        return {}
    from stages.asking.pictures import save_keyframes

    return save_keyframes(save, video, answers)


def _write_html(
    html: Path | None,
    video: Video,
    seen: SeenVideo,
    answers: list[Answered],
    request: AskRequest,
) -> None:
    if html is None:
        return
    from stages.asking.page import write_page
    from stages.asking.pictures import page_pictures

    kept = any(item.kept for item in answers)
    pictures = page_pictures(video, answers) if kept else {}
    write_page(html, seen, answers, pictures, request.notes())


def _result(
    request: AskRequest,
    seen: SeenVideo,
    answers: list[Answered],
    config: dict[str, Any],
    files: dict[int, Path],
    html: Path | None,
) -> dict[str, Any]:
    """The object of docs/ask.md."""
    info = seen.info
    return {
        "command": "ask",
        "video": {
            "path": str(seen.path),
            "duration": round(info.duration, 6),
            "frames": info.num_frames,
            "width": info.width,
            "height": info.height,
            "start": seen.clip.start,
            "end": seen.clip.end,
        },
        "system": system_json(request, config),
        "answers": [item.as_json() for item in answers],
        "saved": {str(frame): str(path) for frame, path in files.items()},
        "html": str(html) if html else None,
    }


def system_json(request: AskRequest, config: dict[str, Any]) -> dict[str, Any]:
    """Who answers."""
    return {
        "name": request.system,
        "weights": request.weights.id if request.weights else None,
        "backbone": request.backbone,
        "select": request.select,
        "selector": request.selector.id if request.selector else None,
        "frames": config["frames"],
        "keep": config["keep"],
        "answer": config["answer"],
        "device": config["device"],
    }


def _show(console: Console, seen: SeenVideo, answers: list[Answered]) -> None:
    from vqa_cli.timeline import Drawing

    # A stream in memory has no encoding and takes every character.
    drawing = Drawing(console.data.width, getattr(sys.stdout, "encoding", None) or "utf-8")
    for number, item in enumerate(answers):
        if number:
            console.data.print()
        for line in drawing.answer(item, seen.bounds):
            console.data.print(line, soft_wrap=True)


def _tell_written(console: Console, files: dict[int, Path], html: Path | None) -> None:
    if files:
        folder = next(iter(files.values())).parent
        console.note(f"{len(files)} keyframes written to {folder}")
    if html is not None:
        console.note(f"page written: {html}")
