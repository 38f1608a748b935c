"""Files that hold answers and no questions: what official scorers read.

Formats: `specs/benchmarks.md` 4 (TVQA's val key), 9 and 10 (the lists that the scorers of
EgoTaskQA and EgoMCQ take, with or without predictions in them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from stages.benchmarks.annotation_files import Container, Record
from stages.benchmarks.layouts import cells
from stages.benchmarks.layouts.videos_to_choose import egomcq_type
from stages.benchmarks.questions import refuse

EGOMCQ_VIDEOS = 5


@dataclass(frozen=True, slots=True)
class KeyRow:
    """What an answer key says of one question."""

    question_id: str
    answer: int | str
    """Index of the right option, or the right words."""
    video: str | None = None
    type: str | None = None
    categories: tuple[str, ...] = ()
    num_options: int | None = None


@dataclass(frozen=True, slots=True)
class KeyLayout:
    """How one kind of answer key writes its records."""

    container: Container
    required: frozenset[str]
    absent: frozenset[str]
    parse: Callable[[Record], Iterator[KeyRow]]

    def fits(self, container: Container, keys: Iterable[str]) -> bool:
        names = set(keys)
        # A single object that stands in one line looks like lines of objects.
        same = container == self.container or (container, self.container) == ("jsonl", "object")
        return same and self.required <= names and not self.absent & names


def _tvqa_solution(record: Record) -> Iterator[KeyRow]:
    """`{"split", "solution": {show: {qid: index}}}`."""
    for show, answers in cells.mapping(record, "solution").items():
        for qid in cells.mapping({show: answers}, show):
            yield KeyRow(qid, _answer_index(answers, qid), type=show)


def _egotaskqa_list(record: Record) -> Iterator[KeyRow]:
    """`{"question_id", "reasoning_type": "a$b$c", "answer"}`."""
    categories = tuple(cells.text(record, "reasoning_type").split("$"))
    answer = cells.text(record, "answer")
    yield KeyRow(cells.name(record, "question_id"), answer, categories=categories)


def _egomcq_list(record: Record) -> Iterator[KeyRow]:
    """`{"id", "answer": 0..4, "types": 1 or 2}`."""
    answer = _answer_index(record, "answer")
    kind = egomcq_type(record)
    yield KeyRow(cells.name(record, "id"), answer, type=kind, num_options=EGOMCQ_VIDEOS)


def _answer_index(record: dict[str, Any], key: str) -> int:
    index = cells.index(record, key)
    if index is None:
        raise refuse(key, "missing")
    return index


KEY_LAYOUTS: dict[str, KeyLayout] = {
    "tvqa-solution": KeyLayout(
        "object", frozenset({"split", "solution"}), frozenset({"question"}), _tvqa_solution
    ),
    "egotaskqa-key": KeyLayout(
        "json",
        frozenset({"question_id", "reasoning_type", "answer"}),
        frozenset({"question"}),
        _egotaskqa_list,
    ),
    "egomcq-key": KeyLayout(
        "json", frozenset({"id", "answer", "types"}), frozenset({"question"}), _egomcq_list
    ),
}


def key_kind(container: Container, seen: Iterable[Iterable[str]]) -> str:
    """The name in `KEY_LAYOUTS` that records with these keys fit, or an empty string."""
    keys = [list(names) for names in seen]
    for name, layout in KEY_LAYOUTS.items():
        if any(layout.fits(container, names) for names in keys):
            return name
    return ""
