"""From predictions to the page: everything is read here, nothing is drawn.

Reads: predictions and all their ancestors, and the videos of the shown questions.   Writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stages.artifacts.questions import video_records
from stages.artifacts.store import Artifact
from stages.benchmarks.batches import load_questions
from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.questions import Question
from stages.core.runtime import Runtime
from stages.report_page.model import Page, Published, Shown, Strip
from stages.report_page.questions import num_thinned
from stages.report_page.render import render
from stages.reporting.ancestry import Ancestry, HostFacts
from stages.reporting.answers import SHOWN_KEPT, placed_tiles, shown_questions, wanted_clips
from stages.reporting.choice import choose_questions
from stages.reporting.drops import BlindDrop
from stages.reporting.environment import environment_of
from stages.reporting.evaluations import Evaluation, load_evaluations, system_of
from stages.reporting.frame_times import FrameTimes
from stages.reporting.lineage import failures_of, nodes_of
from stages.reporting.pairs import flips_of, histograms_of
from stages.reporting.published import published_rows
from stages.reporting.runs import runs_of
from stages.reporting.strips import (
    LEAST_BYTES,
    budget_per_clip,
    clip_pictures,
)

PAGE_BYTES = 5_000_000
"""Of a page with `PAGE_QUESTIONS` questions or fewer; more questions may take as much each."""
PAGE_QUESTIONS = 200
BYTES_PER_STRIP = 500
BYTES_PER_TILE = 4
"""What strips and tiles take in the page besides their pictures."""


@dataclass(frozen=True)
class Gathered:
    """A page and what is not on it.

    Attributes:
        page: All that is shown.
        notes: What had to be left out, and why.
        host: Times that another run of the same stages would change; kept to make the same page
            again.
    """

    page: Page
    notes: list[str]
    host: HostFacts


def published_on(questions: Artifact) -> list[Published]:
    """The published rows of the questions' benchmark and split."""
    config = questions.config
    return published_rows(load_manifest(str(config["benchmark"])), str(config["split"]))


def gather(
    ancestry: Ancestry,
    questions: Artifact,
    predictions: Sequence[Artifact],
    drops: Sequence[BlindDrop],
    num_questions: int,
    runtime: Runtime,
) -> Gathered:
    """Everything that the page about `predictions` shows.

    Args:
        ancestry: Of the predictions.
        questions: What they answer.
        predictions: Rows of the table, in this order.
        drops: What some of them lose without the videos.
        num_questions: How many questions are shown with their frames, at most.
        runtime: Decode processes and progress.
    """
    asked = load_questions(questions)
    evaluations = load_evaluations(predictions, ancestry)
    material = _Material(
        ancestry,
        questions,
        asked,
        evaluations,
        choose_questions(asked, evaluations, num_questions),
        FrameTimes(questions, ancestry),
    )
    page, notes = _page(material, drops)
    page, more = _with_pictures(page, material, runtime)
    return Gathered(page, [*notes, *more, *_thinned(page)], ancestry.host_facts)


@dataclass(frozen=True)
class _Material:
    """What the parts of a page are made of."""

    ancestry: Ancestry
    questions: Artifact
    asked: list[Question]
    evaluations: list[Evaluation]
    chosen: list[Question]
    times: FrameTimes


def _page(material: _Material, drops: Sequence[BlindDrop]) -> tuple[Page, list[str]]:
    """Everything but strips and the places of frames in them; and what was left out."""
    ancestry, evaluations, asked = material.ancestry, material.evaluations, material.asked
    config = material.questions.config
    names = {item.artifact.id: item.name for item in evaluations}
    systems = [system_of(item, ancestry) for item in evaluations]
    videos = video_records(material.questions)
    runs, notes = runs_of(ancestry)
    failures, num_failures = failures_of(ancestry)
    page = Page(
        title=f"{config['benchmark']} {config['split']}",
        benchmark=str(config["benchmark"]),
        split=str(config["split"]),
        num_questions=len(asked),
        coverage=dict(material.questions.manifest["coverage"]["videos"]),
        types=tuple(sorted({name for item in systems for name in item.by_type})),
        systems=tuple(systems),
        published=tuple(published_on(material.questions)),
        reported=load_manifest(str(config["benchmark"])).metrics[0],
        drops=tuple(drop.on_page(names[drop.seeing.id]) for drop in drops),
        shown=tuple(shown_questions(material.chosen, evaluations, material.times)),
        flips=tuple(flips_of(systems, evaluations, asked)),
        runs=tuple(runs),
        histograms=tuple(histograms_of(evaluations, asked, videos)),
        failures=tuple(failures),
        num_failures=num_failures,
        num_failed=_num_failed(evaluations),
        environment=environment_of(ancestry),
        lineage=tuple(nodes_of(ancestry)),
    )
    return page, [*notes, *material.times.notes]


def _thinned(page: Page) -> list[str]:
    count = num_thinned(page)
    return [f"{count} curves are drawn from some of their scores only"] if count else []


def _num_failed(evaluations: Sequence[Evaluation]) -> int:
    """Questions that a system failed on, each counted once."""
    rows = (row for item in evaluations for row in item.rows.values())
    return len({row["question_id"] for row in rows if row["status"] == "failed"})


# --- pictures ------------------------------------------------------------------------------------


def _with_pictures(page: Page, material: _Material, runtime: Runtime) -> tuple[Page, list[str]]:
    """The page with strips, whose pictures take what the rest of it leaves; and what was left out.

    Where nothing is left, curves have to go.
    """
    wanted = wanted_clips(material.chosen, material.evaluations)
    notes: list[str] = []
    room = _room(page, len(wanted))
    if room < len(wanted) * LEAST_BYTES * 4 // 3:
        notes.append(f"no curves: so many answers ({_num_answers(page)}) leave no room for them")
        page = _without_curves(page)
        room = _room(page, len(wanted))
    budget = budget_per_clip(room, len(wanted))
    pictures = clip_pictures(material.questions, wanted, budget, runtime)
    shown = (
        _with_tiles(item, placed_tiles(item, question, material.evaluations, pictures))
        for item, question in zip(page.shown, material.chosen, strict=True)
    )
    strips = tuple(pictures[clip.span.key].strip for clip in wanted)
    return replace(page, shown=tuple(shown), strips=strips), notes


def _num_answers(page: Page) -> int:
    return sum(len(item.answers) for item in page.shown)


def _room(page: Page, num_strips: int) -> int:
    """Bytes that are left for pictures, once strips and tiles are in."""
    empty = Strip(None, (0, 0), (), 0.0, 0.0)
    drawn = render(replace(page, strips=(empty,) * num_strips)).encode("utf-8")
    tiles = sum(min(len(answer.kept), SHOWN_KEPT) for item in page.shown for answer in item.answers)
    allowed = int(PAGE_BYTES * max(1.0, len(page.shown) / PAGE_QUESTIONS))
    return allowed - len(drawn) - BYTES_PER_STRIP * num_strips - BYTES_PER_TILE * tiles


def _without_curves(page: Page) -> Page:
    bare = (
        replace(item, answers=tuple(replace(answer, curve=()) for answer in item.answers))
        for item in page.shown
    )
    return replace(page, shown=tuple(bare))


def _with_tiles(shown: Shown, tiles: Sequence[tuple[int, ...]]) -> Shown:
    answers = zip(shown.answers, tiles, strict=True)
    return replace(shown, answers=tuple(replace(answer, tiles=own) for answer, own in answers))
