"""One self-contained page about a video's answers: time line, scores, keyframes, options.

Reads: `page.html.j2`.   Writes: an HTML file that the user named. Nothing in it is loaded from
anywhere, and every text is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from stages.artifacts import atomic
from stages.asking.answers import Answered, clock
from stages.asking.video import SeenVideo

WIDTH, HEIGHT, MARGIN = 1000.0, 90.0, 10.0
"""Of a time line, in the units of its drawing."""


@dataclass(frozen=True)
class Mark:
    """One seen frame on the time line, in the drawing's units."""

    x: float
    y: float
    kept: bool
    time: str
    frame: int


@dataclass(frozen=True)
class Line:
    """The time line of one answer.

    Attributes:
        marks: The frames seen.
        curve: Points of the scores' curve; empty where the selector does not score.
        ticks: Position and label of round times.
    """

    marks: list[Mark]
    curve: str
    ticks: list[tuple[float, str]]


def write_page(
    path: Path,
    video: SeenVideo,
    answers: Sequence[Answered],
    pictures: Mapping[int, str],
    notes: Sequence[str],
) -> None:
    """Write the page.

    Args:
        path: Where to.
        video: What was looked at.
        answers: What was said.
        pictures: Frame number -> data URI, from `page_pictures`.
        notes: Who answered.

    Raises:
        MachineError: The disk is full.
    """
    atomic.make_directory(path.absolute().parent)
    atomic.write_text(path, render_page(video, answers, pictures, notes))


def render_page(
    video: SeenVideo,
    answers: Sequence[Answered],
    pictures: Mapping[int, str],
    notes: Sequence[str],
) -> str:
    """The page as text."""
    template = (resources.files("stages.asking") / "page.html.j2").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["clock"] = clock
    return environment.from_string(template).render(
        video=video,
        length=video.info.duration,
        notes=notes,
        width=WIDTH,
        height=HEIGHT,
        shown=[(answered, time_line(answered, video.bounds)) for answered in answers],
        pictures=pictures,
    )


def time_line(answered: Answered, bounds: tuple[float, float]) -> Line:
    """Where frames, scores and round times lie between the clip's `bounds` in seconds."""
    start, end = bounds
    span = max(end - start, 1e-6)

    def across(seconds: float) -> float:
        share = min(max((seconds - start) / span, 0.0), 1.0)
        return round(MARGIN + share * (WIDTH - 2 * MARGIN), 2)

    known = [frame.score for frame in answered.frames if frame.score is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)

    def up(score: float | None) -> float:
        share = 0.5 if score is None or high == low else (score - low) / (high - low)
        return round(HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN), 2)

    marks = [
        Mark(across(frame.time), up(frame.score), frame.kept, clock(frame.time), frame.frame)
        for frame in answered.frames
    ]
    curve = " ".join(f"{mark.x},{mark.y}" for mark in marks) if known else ""
    ticks = [start + span * part / 4 for part in range(5)]
    return Line(marks, curve, [(across(second), clock(second, digits=1)) for second in ticks])
