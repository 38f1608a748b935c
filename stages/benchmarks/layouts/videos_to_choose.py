"""One text and several videos to choose from: EgoMCQ (`specs/benchmarks.md` 10)."""

from __future__ import annotations

from stages.benchmarks.annotation_files import KEY, Record
from stages.benchmarks.layouts import cells
from stages.benchmarks.layouts.layout import Layout, RawQuestion
from stages.benchmarks.questions import refuse

EGOMCQ_TYPES = {1: "inter", 2: "intra"}
"""Inter: the five clips are of different videos; some public scorers name them the other way."""


def _parse_egomcq(record: Record) -> RawQuestion:
    """`{"0": {answer, types, query: {clip_text, ..}, choices: {"0": {video_uid, ..}, ..}}}`."""
    choices = cells.mapping(record, "choices")
    if set(choices) != {str(number) for number in range(len(choices))}:
        raise refuse("choices", f"the keys run not from 0 to {len(choices) - 1}")
    candidates = tuple(_candidate(choices, str(number)) for number in range(len(choices)))
    return RawQuestion(
        qid=cells.name(record, KEY),
        video="",
        question=cells.text(cells.mapping(record, "query"), "clip_text"),
        # The texts of the candidates are descriptions of the clips, the right one's the query
        # itself; as options they would give the answer away.
        options=tuple(f"video {number + 1}" for number in range(len(candidates))),
        answer=cells.index(record, "answer"),
        type=egomcq_type(record),
        candidates=candidates,
    )


def egomcq_type(record: Record) -> str:
    """`inter` or `intra` for 1 or 2."""
    code = cells.index(record, "types")
    if code not in EGOMCQ_TYPES:
        raise refuse("types", f"{cells.shown(record.get('types'))} is neither 1 nor 2")
    return EGOMCQ_TYPES[code]


def _candidate(choices: Record, number: str) -> tuple[str, float, float]:
    choice = cells.mapping({"choices": choices[number]}, "choices")
    start, end = cells.seconds(choice, "clip_start"), cells.seconds(choice, "clip_end")
    if start is None or end is None:
        raise refuse("choices", f"choice {number} has no clip_start or clip_end")
    return cells.name(choice, "video_uid"), start, end


LAYOUTS: dict[str, Layout] = {
    "egomcq-keyed": Layout(
        "keyed",
        frozenset({"answer", "types", "query", "choices"}),
        frozenset({"question"}),
        _parse_egomcq,
    ),
}
