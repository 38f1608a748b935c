"""One self-contained HTML page: the table of systems and questions with the frames they looked at.

Reads: predictions, and the videos they are about.   Writes: report (`index.html`). Where a system
answered without the videos too, the page says what it lost.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from PIL import Image

from stages.artifacts import atomic
from stages.artifacts.predictions import prediction_records
from stages.artifacts.questions import video_records
from stages.artifacts.result import StageResult, finished_result
from stages.artifacts.store import Artifact, Request, Workspace
from stages.benchmarks.batches import load_questions
from stages.benchmarks.questions import Question
from stages.core.config import Config
from stages.core.errors import MissingInput, UsageError
from stages.core.runtime import Runtime
from stages.systems.language_only import blind_twins, language_only
from stages.video.clips import clip_spans, video_works
from stages.video.pool import DecodePool
from stages.video.resize import FrameFormat
from stages.video.tasks import Decoded, DecodeTask, ExactFrames

PAGE = "index.html"
IMAGE_SIZE = 96
MAX_STRIP = 16
"""A system that keeps more frames shows none: they would be most of the video."""


class ReportConfig(Config):
    """What decides the bytes of a report, besides the predictions."""

    num_questions: int = 20
    """Questions shown with their frames."""
    template: str
    """Sha256 of the page's template."""


@dataclass(frozen=True)
class Shown:
    """One system's answer to one question, ready for the page."""

    system: str
    answer: str
    correct: bool | None
    status: str
    images: list[tuple[str, float, bool]]
    """(data URI, seconds, inside a true span)."""


@dataclass(frozen=True)
class BlindDrop:
    """One system with the videos and without them.

    Attributes:
        system: What the page calls it.
        blind: The predictions without the videos.
        found: From `systems.language_only`.
    """

    system: str
    blind: Artifact
    found: dict[str, Any]

    @property
    def how(self) -> str:
        """What was shown in place of the videos."""
        return str(self.blind.config["blind"])

    def as_json(self) -> dict[str, Any]:
        """For the JSON."""
        return {"system": self.system, "how": self.how, "artifact": self.blind.id, **self.found}


def find_predictions(workspace: Workspace, references: Sequence[str]) -> list[Artifact]:
    """The predictions to report on: those named, or all about the newest one's questions.

    Raises:
        MissingInput: There are none.
        UsageError: They are about different questions.
    """
    if references:
        chosen = [workspace.by_reference("predictions", name) for name in references]
    else:
        chosen = workspace.finished("predictions")
        chosen = [item for item in chosen if _questions_id(item) == _questions_id(chosen[-1])]
    if not chosen:
        raise MissingInput(f"no predictions in {workspace.root}", "vqa eval --benchmark ...")
    if len({_questions_id(item) for item in chosen}) > 1:
        raise UsageError("the predictions are about different questions", "report on one split")
    return chosen


def _questions_id(predictions: Artifact) -> str:
    record = next(item for item in predictions.manifest["inputs"] if item["role"] == "questions")
    return str(record["id"])


def write_report(
    workspace: Workspace,
    predictions: Sequence[Artifact],
    runtime: Runtime,
    num_questions: int = 20,
    *,
    blind: Sequence[Artifact] | None = None,
) -> StageResult:
    """Write the page about `predictions`, which are all about the same questions.

    Args:
        workspace: Where to write.
        predictions: Shown as rows of the table.
        runtime: How to run.
        num_questions: Questions shown with their frames.
        blind: Where to look for the same systems without the videos; none: in the workspace.
    """
    started = time.monotonic()
    template = (resources.files("stages.report_page") / "page.html.j2").read_text("utf-8")
    config = ReportConfig(num_questions=num_questions, template=atomic.sha256_json(template))
    questions = workspace.open(workspace.root / "questions" / _questions_id(predictions[0]))
    inputs = {f"predictions-{number:02d}": item for number, item in enumerate(predictions)}
    candidates = workspace.finished("predictions") if blind is None else blind
    drops = _drops(questions, predictions, candidates)
    further = [drop.blind for drop in drops if drop.blind.id not in {p.id for p in predictions}]
    inputs |= {f"blind-{number:02d}": item for number, item in enumerate(further)}
    label = f"{questions.config['benchmark']}-{questions.config['split']}"
    request = Request("report", runtime.name or label, config.as_json(), inputs)
    with workspace.exclusive(request, force=runtime.force) as (draft, done):
        if done is None:
            page = _render(template, questions, predictions, drops, config, runtime)
            atomic.write_text(draft.path / PAGE, page)
            counts = {"total": len(predictions), "done": len(predictions), "failed": 0}
            artifact = draft.finish(counts)
        else:
            artifact = done
    return finished_result(
        artifact,
        reused=done is not None,
        seconds=time.monotonic() - started,
        next_commands=[],
        notes=[f"open {artifact.path / PAGE}"],
        details={
            "page": str(artifact.path / PAGE),
            "language_only": [drop.as_json() for drop in drops],
        },
    )


def _render(
    template: str,
    questions: Artifact,
    predictions: Sequence[Artifact],
    drops: Sequence[BlindDrop],
    config: ReportConfig,
    runtime: Runtime,
) -> str:
    """The page; every text goes through autoescaping."""
    asked = load_questions(questions)
    answers = [
        {record["question_id"]: record for record in prediction_records(item)}
        for item in predictions
    ]
    chosen = spread(asked, config.num_questions)
    # The frames of a blind run were never looked at.
    seeing = [
        records
        for item, records in zip(predictions, answers, strict=True)
        if not item.config.get("blind")
    ]
    images = _frame_images(questions, chosen, seeing, runtime)
    shown = [
        {
            "question": question,
            "spans": question.spans,
            "truth": question.target_text,
            "answers": [
                _shown(
                    short_name(item),
                    question,
                    records.get(question.question_id),
                    {} if item.config.get("blind") else images,
                )
                for item, records in zip(predictions, answers, strict=True)
            ],
        }
        for question in chosen
    ]
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(template).render(
        title=f"{questions.config['benchmark']} {questions.config['split']}",
        systems=[_system_row(item) for item in predictions],
        types=sorted({name for item in predictions for name in _by_type(item)}),
        drops=drops,
        drop_types=sorted({name for drop in drops for name in drop.found["by_type"]}),
        shown=shown,
        num_questions=len(asked),
        coverage=questions.manifest["coverage"]["videos"],
    )


def _drops(
    questions: Artifact, predictions: Sequence[Artifact], candidates: Sequence[Artifact]
) -> list[BlindDrop]:
    """What each system loses without the videos, where that is known."""
    pairs = [(item, blind) for item in predictions for blind in blind_twins(candidates, item)]
    measured = [
        BlindDrop(short_name(seeing), blind, language_only(questions, seeing, blind))
        for seeing, blind in pairs
    ]
    return [drop for drop in measured if drop.found]


def short_name(predictions: Artifact) -> str:
    """The label without the benchmark and split that the page's title names."""
    config = predictions.config
    return predictions.label.removeprefix(f"{config['benchmark']}-{config['split']}-")


def spread(questions: Sequence[Question], count: int) -> list[Question]:
    """`count` questions spread evenly over the split."""
    if len(questions) <= count:
        return list(questions)
    return [questions[int(i)] for i in np.linspace(0, len(questions) - 1, count)]


def _by_type(predictions: Artifact) -> dict[str, float]:
    return dict(predictions.manifest["metrics"].get("by_type", {}))


def _system_row(predictions: Artifact) -> dict[str, Any]:
    return {
        "name": short_name(predictions),
        "config": predictions.config,
        "metrics": predictions.manifest["metrics"],
        "tally": predictions.manifest["tally"],
        "by_type": _by_type(predictions),
    }


def _shown(
    system: str,
    question: Question,
    record: dict[str, Any] | None,
    images: dict[tuple[str, int], str],
) -> Shown:
    if record is None or record["status"] == "failed":
        return Shown(system, record["reason"] if record else "no row", None, "failed", [])
    text = _answer_text(question, record)
    strip = [
        (images[question.video, frame], seconds, _inside(seconds, question))
        for frame, seconds in zip(_strip_frames(record), record["times"], strict=False)
        if (question.video, frame) in images
    ]
    return Shown(system, text, record["correct"], record["status"], strip)


def _answer_text(question: Question, record: dict[str, Any]) -> str:
    """An option, a text, or where the best span lies."""
    if "windows" in record:
        spans = [f"{start:.1f} - {end:.1f} s" for start, end, _ in record["windows"]]
        return spans[0] if spans else "no span"
    answer = record["prediction"]
    return question.options[answer] if isinstance(answer, int) and question.options else str(answer)


def _strip_frames(record: dict[str, Any] | None) -> list[int]:
    """Frames of one answer that are shown."""
    if record is None or len(record["frames"]) > MAX_STRIP:
        return []
    return list(record["frames"])


def _inside(seconds: float, question: Question) -> bool:
    return any(low <= seconds <= high for low, high in question.spans)


def _frame_images(
    questions: Artifact,
    chosen: Sequence[Question],
    answers: Sequence[dict[str, dict[str, Any]]],
    runtime: Runtime,
) -> dict[tuple[str, int], str]:
    """(video, frame) -> data URI of every frame that a system kept for a shown question."""
    wanted: dict[str, set[int]] = {}
    for question in chosen:
        for records in answers:
            record = records.get(question.question_id)
            wanted.setdefault(question.video, set()).update(_strip_frames(record))
    images: dict[tuple[str, int], str] = {}
    for video, batch in _decode(questions, wanted, runtime):
        for frame, pixels in zip(batch.indices.tolist(), batch.frames, strict=True):
            images[video, frame] = data_uri(pixels)
    return images


def _decode(
    questions: Artifact, wanted: dict[str, set[int]], runtime: Runtime
) -> Iterator[tuple[str, Any]]:
    spans = [span for span in clip_spans(questions) if wanted.get(span.video)]
    works = video_works(questions, spans, video_records(questions))
    tasks = [
        DecodeTask(
            work.video,
            work.path,
            (ExactFrames(tuple(sorted(wanted[work.video]))),),
            FrameFormat.squash(IMAGE_SIZE),
        )
        for work in works
        if work.path is not None
    ]
    with DecodePool(runtime.num_workers) as pool:
        for result in pool.imap(tasks):
            if isinstance(result, Decoded):
                yield result.key, result.batch


def data_uri(pixels: np.ndarray) -> str:
    """A uint8 [H, W, 3] picture as a PNG data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
