"""`vqa ask`: one video, one question or a file of them."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.core.errors import UsageError
from vqa_cli.console import Console
from vqa_cli.options import (
    DEFAULT_WORKSPACE,
    OUTPUT,
    AnswerOption,
    BackboneOption,
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
    from stages.ask import Asker
    from stages.asking.answers import Answered
    from stages.asking.questions import Asked
    from stages.asking.request import AskRequest
    from stages.asking.video import SeenVideo, Video

CLIP = "Part of the video"

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
        help="A possible answer; repeat it. Without any the system writes its own.",
    ),
]
QuestionsFileOption = Annotated[
    Path | None,
    typer.Option(
        "--questions",
        metavar="FILE",
        help="Many questions instead: JSONL with "
        "question and options; the video is looked at once.",
    ),
]
SystemOption = Annotated[
    str | None,
    typer.Option(
        "--system",
        help="vlap, sevila, blip2-concat or videodistill [that of --weights, else sevila].",
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="ID",
        help="Trained weights of the workspace, or their "
        "folder; none: the backbone as it is [none for sevila and blip2-concat].",
    ),
]
SelectOption = Annotated[
    str | None,
    typer.Option(
        "--select",
        help="Who keeps frames: localizer, prompter, topk, atp, uniform, "
        "random or all [the system's own].",
    ),
]
SelectorOption = Annotated[
    str | None,
    typer.Option(
        "--selector",
        metavar="ID",
        help="Weights of --select; none: its backbone as it is [none].",
    ),
]
FramesOption = Annotated[
    int | None,
    typer.Option("--frames", min=1, help="Frames seen [32, or the weights' own]."),
]
KeepOption = Annotated[
    int | None, typer.Option("--keep", min=1, help="Frames kept [4, or the weights' own].")
]
StartOption = Annotated[
    float | None,
    typer.Option("--start", help="First second that is asked about.", rich_help_panel=CLIP),
]
EndOption = Annotated[
    float | None,
    typer.Option("--end", help="Last second that is asked about.", rich_help_panel=CLIP),
]
SaveOption = Annotated[
    Path | None,
    typer.Option(
        "--save",
        metavar="DIR",
        help="Write the kept frames there as PNG files.",
        rich_help_panel=OUTPUT,
    ),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Write the answers with time line and frames as one page.",
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

        vqa ask party.mp4 "What does she pick up?" -o "a cup" -o "a hat" -o "a phone"
    """
    from stages.asking.request import ask_request
    from stages.asking.video import Clip, Video

    started = time.monotonic()
    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    asked = _asked(question, options or [], questions)
    clip = Clip(start, end)
    _check_outputs(save, html)
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
        _tell_choices(console, request, weights, root)

        from stages.ask import Asker  # torch: seconds, in which the video is decoded

        asker = Asker(request, device, opened.identity)
        seen = pending.result()
        answers = _answers(console, asker, seen, asked, refuse=questions is None)
        files = _save(save, opened, answers)
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


def _check_outputs(save: Path | None, html: Path | None) -> None:
    if save is not None and save.exists() and not save.is_dir():
        raise UsageError(f"--save {save}: a file, not a folder", "name another folder")
    if html is not None and html.is_dir():
        raise UsageError(f"--html {html}: a folder, not a file", f"--html {html / 'answer.html'}")


def _tell_choices(
    console: Console, request: AskRequest, weights: str | None, workspace: Any
) -> None:
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
        "system": {
            "name": request.system,
            "weights": request.weights.id if request.weights else None,
            "backbone": request.backbone,
            "select": request.select,
            "selector": request.selector.id if request.selector else None,
            "frames": config["frames"],
            "keep": config["keep"],
            "answer": config["answer"],
            "device": config["device"],
        },
        "answers": [item.as_json() for item in answers],
        "saved": {str(frame): str(path) for frame, path in files.items()},
        "html": str(html) if html else None,
    }


def _show(console: Console, seen: SeenVideo, answers: list[Answered]) -> None:
    from vqa_cli.timeline import Drawing

    drawing = Drawing(console.data.width, getattr(sys.stdout, "encoding", None))
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
