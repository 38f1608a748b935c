"""Which questions a page shows where it cannot show all.

Reads and writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from stages.benchmarks.questions import Question
from stages.reporting.evaluations import Evaluation

SEEING_ENOUGH = 2


def choose_questions(
    questions: Sequence[Question], evaluations: Sequence[Evaluation], count: int
) -> list[Question]:
    """At most `count` questions in the split's order, the same ones every time.

    Half of the places go to questions on which systems disagree, as far as there are so many; both
    halves have as many of each type as there are, evenly along the split. Blind evaluations have
    no say where two others have: that they are wrong where others are right says little.
    """
    if len(questions) <= count:
        return list(questions)
    seeing = [item for item in evaluations if not item.blind]
    asked = seeing if len(seeing) >= SEEING_ENOUGH else evaluations
    disputed = [at for at, question in enumerate(questions) if _disputed(question, asked)]
    plain = sorted(set(range(len(questions))) - set(disputed))
    half = min(math.ceil(count / 2), len(disputed))
    half = max(half, count - len(plain))
    types = {at: question.type or "" for at, question in enumerate(questions)}
    chosen = [*_spread(disputed, types, half), *_spread(plain, types, count - half)]
    return [questions[at] for at in sorted(chosen)]


def _disputed(question: Question, evaluations: Sequence[Evaluation]) -> bool:
    values = [item.value(question.question_id) for item in evaluations]
    return len({value for value in values if value is not None}) > 1


def _spread(places: Sequence[int], types: Mapping[int, str], count: int) -> list[int]:
    """`count` of `places`: each type has the same share as far as it reaches."""
    groups: dict[str, list[int]] = {}
    for place in places:
        groups.setdefault(types[place], []).append(place)
    chosen: list[int] = []
    left = count
    for number, name in enumerate(sorted(groups, key=lambda name: (len(groups[name]), name))):
        share = min(len(groups[name]), math.ceil(left / (len(groups) - number)))
        chosen += evenly(groups[name], share)
        left -= share
    return chosen


def evenly(places: Sequence[int], count: int) -> list[int]:
    """`count` of `places`, the middle ones of equal parts."""
    return [places[(2 * part + 1) * len(places) // (2 * count)] for part in range(count)]
