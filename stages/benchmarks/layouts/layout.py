"""What a layout is: how one family of annotation files writes its records."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stages.benchmarks.annotation_files import Container, Numbered, Record
from stages.benchmarks.questions import refuse
from stages.core.errors import DataError


@dataclass(slots=True)
class RawQuestion:
    """What a layout's parser takes from one record, before the benchmark's rules are applied."""

    qid: str
    """Empty where the records have no id: the number of the row is one then."""
    video: str
    question: str = ""
    options: tuple[str, ...] = ()
    answer: int | str | None = None
    """Index, text (of an option, or open-ended), or none when unlabelled."""
    start: float | None = None
    end: float | None = None
    type: str | None = None
    spans: tuple[tuple[float, float], ...] = ()
    categories: tuple[str, ...] = ()
    """Codes as the file spells them."""
    duration: float | None = None
    saliency: tuple[tuple[int, ...], ...] = ()
    candidates: tuple[tuple[str, float, float], ...] = ()
    """Video, start and end in seconds of each video to choose from, in place of `video`."""
    wrong: tuple[str, ...] = ()
    """Wrong options of a file without an order of options; `answer` is the right one's text."""
    notes: tuple[str, ...] = ()
    """What was strange but readable; counted and said once."""


@dataclass(frozen=True, slots=True)
class Extras:
    """What reading may need beside the annotation file."""

    captions: Path | None = None
    """File with the captions of the listed videos."""
    joiner: str = ", "
    """Between the sentences of a paragraph that is put together here."""
    odd: Counter[str] = field(default_factory=Counter)
    """Counts what is strange but harmless, in words."""


Raw = tuple[int, RawQuestion | DataError]
"""Number of the record and what it holds, or why it holds no question."""
Gather = Callable[[Iterator[Numbered], Extras], Iterator[Raw]]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a family of files writes its records; recognised by its keys."""

    container: Container
    required: frozenset[str]
    absent: frozenset[str]
    parse: Callable[[Record], RawQuestion]
    text_match: Literal["first", "last"] = "first"
    """Which option an answer text means when two options are equal."""
    gather: Gather | None = None
    """For files whose records are not one question each: takes the place of `parse`."""
    cells: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    """How cells look, by which a table without a header is recognised."""

    def fits(self, container: Container, keys: Iterable[str]) -> bool:
        names = set(keys)
        return self.container == container and self.required <= names and not self.absent & names

    def fits_cells(self, record: Record) -> bool:
        return all(pattern.fullmatch(record.get(key, "")) for key, pattern in self.cells.items())


def parsed(records: Iterator[Numbered], parse: Callable[[Record], RawQuestion]) -> Iterator[Raw]:
    """Each record through `parse`; what it refuses comes out as the error."""
    for row, record in records:
        try:
            if isinstance(record, str):
                raise refuse("record", record)
            yield row, parse(record)
        except DataError as error:
            yield row, error
