"""One self-contained HTML page: systems beside each other, and every question with its frames.

Reads: predictions and all that they were made from, and the videos.   Writes: report
(`index.html`). What is on the page is gathered by `stages.reporting` and drawn by
`stages.report_page`.

The page shows times that the host decided: model time a question, when artifacts were made, how
long training took. They are no part of the fingerprint, so an equal request is answered by the page
that is there; the manifest keeps them, so that a damaged page is made again with the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from stages.artifacts import atomic
from stages.artifacts.result import StageResult, finished_result
from stages.artifacts.store import Artifact, Draft, Request, Workspace
from stages.core.config import Config
from stages.core.errors import MissingInput, UsageError
from stages.core.runtime import Runtime
from stages.report_page.render import render
from stages.reporting.ancestry import Ancestry, HostFacts
from stages.reporting.drops import BlindDrop, find_drops
from stages.reporting.evaluations import unique_names
from stages.reporting.gather import gather, published_on
from stages.reporting.strips import picture_format
from stages.video import decoder_identity

PAGE = "index.html"
NUM_QUESTIONS = 200
"""Questions shown with their frames, unless asked otherwise."""
PAGE_SIGN = b"<title>vqa: "
"""What every page has among its first `SIGN_WITHIN` bytes."""
SIGN_WITHIN = 2000
SOURCE_SUFFIXES = (".j2", ".css", ".js", ".py")


class ReportConfig(Config):
    """What decides the bytes of a report, besides the predictions."""

    num_questions: int = NUM_QUESTIONS
    """Questions shown with their frames."""
    template: str
    """Sha256 of everything that draws the page."""
    published: str
    """Sha256 of the published rows beside ours."""
    decoder: dict[str, str]
    """What decodes the frames, and its versions."""
    pictures: dict[str, str]
    """What encodes them."""


def find_predictions(workspace: Workspace, references: Sequence[str]) -> list[Artifact]:
    """The predictions to report on: those named, or all about the newest one's questions.

    Raises:
        MissingInput: There are none.
        UsageError: They are about different questions.
    """
    if references:
        named = [workspace.by_reference("predictions", name) for name in references]
        chosen = list({item.id: item for item in named}.values())
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


def questions_of(workspace: Workspace, predictions: Sequence[Artifact]) -> Artifact:
    """The questions that all of `predictions` answer (`MissingInput` if they are gone)."""
    return workspace.open(workspace.root / "questions" / _questions_id(predictions[0]))


def report_config(questions: Artifact, num_questions: int) -> ReportConfig:
    """The configuration of a page about `questions`, as this version makes it."""
    return ReportConfig(
        num_questions=num_questions,
        template=atomic.sha256_json(_page_sources()),
        published=atomic.sha256_json([asdict(row) for row in published_on(questions)]),
        decoder=decoder_identity(),
        pictures=picture_format(),
    )


def _page_sources() -> dict[str, str]:
    """Every file that has a say in how the page looks."""
    folder = resources.files("stages.report_page")
    return {
        file.name: file.read_text("utf-8")
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(SOURCE_SUFFIXES)
    }


def write_report(
    workspace: Workspace,
    predictions: Sequence[Artifact],
    runtime: Runtime,
    num_questions: int = NUM_QUESTIONS,
    *,
    blind: Sequence[Artifact] | None = None,
    host: HostFacts | None = None,
    out: Path | None = None,
) -> StageResult:
    """Write the page about `predictions`, which are all about the same questions.

    Args:
        workspace: Where to write.
        predictions: Shown as rows of the table.
        runtime: How to run.
        num_questions: Questions shown with their frames.
        blind: Where to look for the same systems without the videos; none: in the workspace.
        host: Times that a page made before shows; none: those of the manifests.
        out: Where to put a copy of the page, too.

    Raises:
        UsageError: `out` is there and no report page, and `runtime.force` is not set.
        MissingInput: The questions are gone.
    """
    started = time.monotonic()
    if out is not None:
        refuse_foreign(out, force=runtime.force)
    questions = questions_of(workspace, predictions)
    config = report_config(questions, num_questions)
    candidates = workspace.finished("predictions") if blind is None else blind
    drops = find_drops(questions, predictions, candidates)
    request = _request(questions, predictions, drops, config, runtime)
    with workspace.exclusive(request, force=runtime.force) as (draft, done):
        artifact = done
        if artifact is None:
            ancestry = Ancestry(workspace, predictions, host)
            artifact = _write(draft, questions, predictions, drops, config, ancestry, runtime)
    if out is not None:
        atomic.make_directory(out.parent)
        atomic.write_bytes(out, (artifact.path / PAGE).read_bytes())
    return _result(workspace, artifact, predictions, drops, out, done is not None, started)


def _request(
    questions: Artifact,
    predictions: Sequence[Artifact],
    drops: Sequence[BlindDrop],
    config: ReportConfig,
    runtime: Runtime,
) -> Request:
    inputs = {f"predictions-{number:02d}": item for number, item in enumerate(predictions)}
    further = [drop.blind for drop in drops if drop.blind.id not in {p.id for p in predictions}]
    inputs |= {f"blind-{number:02d}": item for number, item in enumerate(further)}
    label = f"{questions.config['benchmark']}-{questions.config['split']}"
    return Request("report", runtime.name or label, config.as_json(), inputs)


def _write(
    draft: Draft,
    questions: Artifact,
    predictions: Sequence[Artifact],
    drops: Sequence[BlindDrop],
    config: ReportConfig,
    ancestry: Ancestry,
    runtime: Runtime,
) -> Artifact:
    found = gather(ancestry, questions, predictions, drops, config.num_questions, runtime)
    atomic.write_text(draft.path / PAGE, render(found.page))
    counts = {"total": len(predictions), "done": len(predictions), "failed": 0}
    return draft.finish(
        counts,
        extra={"shown": len(found.page.shown), "left_out": found.notes},
        host={"shown": found.host},
    )


def _result(
    workspace: Workspace,
    artifact: Artifact,
    predictions: Sequence[Artifact],
    drops: Sequence[BlindDrop],
    out: Path | None,
    reused: bool,
    started: float,
) -> StageResult:
    page = artifact.path / PAGE
    names = unique_names(predictions, Ancestry(workspace, predictions))
    named = dict(zip((item.id for item in predictions), names, strict=True))
    details: dict[str, Any] = {
        "page": str(page),
        "bytes": artifact.manifest["files"][PAGE]["size"],
        "shown": artifact.manifest["shown"],
        "language_only": [drop.as_json(named[drop.seeing.id]) for drop in drops],
        **({"out": str(out)} if out is not None else {}),
    }
    return finished_result(
        artifact,
        reused=reused,
        seconds=time.monotonic() - started,
        next_commands=[],
        notes=[*artifact.manifest["left_out"], f"open {out or page}"],
        details=details,
    )


def refuse_foreign(path: Path, *, force: bool) -> None:
    """Raise `UsageError` for a file that is no report page, unless it may be overwritten."""
    if path.is_dir():
        raise UsageError(f"--out {path} is a folder", f"--out {path / PAGE}")
    if force or not path.exists():
        return
    with path.open("rb") as file:
        if PAGE_SIGN not in file.read(SIGN_WITHIN):
            raise UsageError(
                f"--out {path} is there already, and no report page", "another name, or --force"
            )
