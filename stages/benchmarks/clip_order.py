"""The order in which evaluations ask: questions about one clip together.

Reads and writes nothing. Whatever order the annotations have, a clip's features are then read once,
and what a network makes of them alone is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from stages.artifacts.shards import split_into_shards
from stages.benchmarks.questions import Question


def shards_by_clip(questions: Sequence[Question], per_shard: int) -> list[list[int]]:
    """Positions of each shard's questions, grouped by clip; at least one shard."""
    order = sorted(range(len(questions)), key=lambda index: _clip_order(questions[index]))
    ranges = split_into_shards(len(order), per_shard)
    return [[order[place] for place in part] for part in ranges]


def _clip_order(question: Question) -> tuple[str, float, float]:
    return (
        question.video,
        question.start or 0.0,
        math.inf if question.end is None else question.end,
    )
