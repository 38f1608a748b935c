"""Questions about a timeline, in STAR's four kinds as templates.

In the default size a question names one attribute of one moment's object and asks another; all it
needs is visible in any frame of that moment. With `hard` it asks about the moment before or after.
Right answers and wrong options are drawn evenly, so that the options alone say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np

from stages.benchmarks.shapes.scene import COLORS, PLACES, SHAPES, Look
from stages.benchmarks.shapes.timeline import Moment, Timeline

Attribute = Literal["shape", "color", "place"]
NUM_OPTIONS = 4
QUESTIONS_PER_VIDEO = 3
VALUES: dict[Attribute, tuple[str, ...]] = {"shape": SHAPES, "color": COLORS, "place": PLACES}


class Record(TypedDict):
    """One question in the `custom` JSONL layout."""

    question_id: str
    video: str
    question: str
    options: list[str]
    answer: int
    type: str
    spans: list[list[float]]


@dataclass(frozen=True, slots=True)
class Template:
    """A kind of question: which attribute it names, which it asks, and its wordings."""

    type: str
    named: Attribute
    asked: Attribute
    wordings: tuple[str, ...]
    hard_wordings: tuple[str, ...]


TEMPLATES = (
    Template(
        "Interaction",
        named="shape",
        asked="color",
        wordings=("What color is the {}?", "Which color does the {} have?"),
        hard_wordings=("What color is the object shown {when} the {}?",),
    ),
    Template(
        "Sequence",
        named="color",
        asked="shape",
        wordings=("What shape appears in {}?", "Which shape is the {} object?"),
        hard_wordings=("Which shape appears {when} the {} object?",),
    ),
    Template(
        "Prediction",
        named="shape",
        asked="place",
        wordings=("Where will the {} go next?", "To which side will the {} leave?"),
        hard_wordings=("To which side will the object {when} the {} leave?",),
    ),
    Template(
        "Feasibility",
        named="color",
        asked="place",
        wordings=(
            "On which side can the {} object be reached?",
            "Where could one grab the {} object?",
        ),
        hard_wordings=("On which side can the object {when} the {} one be reached?",),
    ),
)


def value(look: Look, attribute: Attribute) -> str:
    """The word for one attribute of an object."""
    return {"shape": look.shape, "color": look.color, "place": look.place}[attribute]


def draw_options(
    rng: np.random.Generator, attribute: Attribute, right: str
) -> tuple[list[str], int]:
    """Four different words in random order, and the index of the right one."""
    others = [word for word in VALUES[attribute] if word != right]
    wrong = [others[i] for i in rng.permutation(len(others))[: NUM_OPTIONS - 1]]
    answer = int(rng.integers(NUM_OPTIONS))
    return [*wrong[:answer], right, *wrong[answer:]], answer


def _spans(*moments: Moment) -> list[list[float]]:
    return [list(moment.span) for moment in moments]


def _easy(
    rng: np.random.Generator, template: Template, moment: Moment
) -> tuple[str, Moment, list[list[float]]]:
    wording = template.wordings[int(rng.integers(len(template.wordings)))]
    return wording.format(value(moment.look, template.named)), moment, _spans(moment)


def _hard(
    rng: np.random.Generator, template: Template, timeline: Timeline, index: int
) -> tuple[str, Moment, list[list[float]]]:
    """Names the moment at `index` and asks about a neighbour of it."""
    steps = [step for step in (-1, 1) if 0 <= index + step < len(timeline.moments)]
    step = steps[int(rng.integers(len(steps)))]
    named, asked = timeline.moments[index], timeline.moments[index + step]
    wording = template.hard_wordings[int(rng.integers(len(template.hard_wordings)))]
    text = wording.format(value(named.look, template.named), when="after" if step > 0 else "before")
    return text, asked, _spans(*sorted((named, asked), key=lambda moment: moment.first))


def draw_questions(
    rng: np.random.Generator, timeline: Timeline, video: str, stem: str, hard: bool = False
) -> list[Record]:
    """Three questions about three moments of one video, of random kinds.

    Args:
        video: The file's path below the video root, as the records name it.
        stem: Prefix of the question ids.
        hard: Ask about the moment before or after the named one; spans then hold both.
    """
    chosen = rng.permutation(len(timeline.moments))[:QUESTIONS_PER_VIDEO]
    kinds = rng.permutation(len(TEMPLATES))[: len(chosen)]
    records: list[Record] = []
    for index, kind in zip(chosen, kinds, strict=True):
        template = TEMPLATES[kind]
        if hard:
            text, asked, spans = _hard(rng, template, timeline, int(index))
        else:
            text, asked, spans = _easy(rng, template, timeline.moments[index])
        options, answer = draw_options(rng, template.asked, value(asked.look, template.asked))
        records.append(
            Record(
                question_id=f"{template.type}_{stem}_{len(records)}",
                video=video,
                question=text,
                options=options,
                answer=answer,
                type=template.type,
                spans=spans,
            )
        )
    return records
