"""Questions of your own: documented JSONL, the same as CSV or a JSON list, or any columns.

A `ColumnMap` says which column holds what; with one, a table or JSON file of any shape is read
without a line of code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from stages.benchmarks.annotation_files import Container, Record
from stages.benchmarks.layouts import cells
from stages.benchmarks.layouts.layout import Layout, RawQuestion
from stages.benchmarks.questions import refuse
from stages.core.errors import DataError, UsageError

COLUMNS_LAYOUT = "custom-columns"
"""The layout's name where the caller says which column is which."""


@dataclass(frozen=True)
class ColumnMap:
    """Which column of a file holds what; `question_id` empty: the number of the row is the id."""

    question_id: str = ""
    video: str = "video"
    question: str = "question"
    options: tuple[str, ...] = ()
    """Several columns, one option each, or one column that holds a JSON list of texts."""
    answer: str = ""
    """An index from 0, or the option's text, or the answer of an open-ended question."""
    start: str = ""
    end: str = ""
    type: str = ""

    @classmethod
    def from_flags(cls, flags: Sequence[str]) -> ColumnMap:
        """`["question=Q", "options=a,b,c,d"]` as a map; fields not named keep their default.

        Raises:
            UsageError: not `FIELD=COLUMN`, an unknown field, or one given twice.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        given: dict[str, str | tuple[str, ...]] = {}
        for flag in flags:
            field, equals, column = flag.partition("=")
            if not equals or not column or field not in known:
                raise UsageError(
                    f"--column {flag!r}", f"FIELD=COLUMN with FIELD one of {', '.join(known)}"
                )
            if field in given:
                raise UsageError(f"--column {field} is given twice")
            given[field] = tuple(column.split(",")) if field == "options" else column
        return cls(**given)  # type: ignore[arg-type]

    def names(self) -> tuple[str, ...]:
        """Every column that is used."""
        single = (getattr(self, field.name) for field in dataclasses.fields(self))
        flat = [
            name for value in single for name in (value if isinstance(value, tuple) else [value])
        ]
        return tuple(name for name in flat if name)

    def check(self, seen: Iterable[Iterable[str]]) -> None:
        """Refuse columns that no record has.

        Raises:
            UsageError: names the missing and the known ones.
        """
        known = {name: None for keys in seen for name in keys}
        missing = [name for name in self.names() if name not in known]
        if missing:
            raise UsageError(
                f"no column {', '.join(map(repr, missing))} in the annotation file",
                f"it has {', '.join(map(repr, known))}; say which is which with --column",
            )

    def as_json(self) -> dict[str, str | list[str]]:
        """The columns that are used, for a config."""
        return {
            field.name: list(value) if isinstance(value, tuple) else value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name))
        }


def mapped_layout(columns: ColumnMap, container: Container) -> Layout:
    """The layout of a file whose columns the caller has named."""
    return Layout(
        container,
        frozenset(name for name in (columns.video, columns.question) if name),
        frozenset(),
        _mapped(columns),
    )


def _mapped(columns: ColumnMap) -> Callable[[Record], RawQuestion]:
    def parse(record: Record) -> RawQuestion:
        options = _options(record, columns.options)
        answer, notes = _answer(record, columns.answer, options)
        return RawQuestion(
            qid=cells.name(record, columns.question_id) if columns.question_id else "",
            video=cells.name(record, columns.video),
            question=cells.text(record, columns.question),
            options=options,
            answer=answer,
            start=cells.seconds(record, columns.start) if columns.start else None,
            end=cells.seconds(record, columns.end) if columns.end else None,
            type=cells.optional_text(record, columns.type) if columns.type else None,
            notes=notes,
        )

    return parse


def _options(record: Record, columns: tuple[str, ...]) -> tuple[str, ...]:
    if len(columns) == 1:
        return cells.option_list(record.get(columns[0]))
    return tuple(cells.text(record, column) for column in columns)


def _answer(
    record: Record, column: str, options: tuple[str, ...]
) -> tuple[int | str | None, tuple[str, ...]]:
    """The answer, and a note where it could be an index as well as an option's text."""
    value = record.get(column) if column else None
    if value is None or value == "":
        return None, ()
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise refuse(column, f"{cells.shown(value)} is neither an index nor text")
    if not options:
        return str(value), ()
    try:
        index = cells.index(record, column)
    except DataError:
        return value, ()
    if isinstance(value, str) and value in options and options.index(value) != index:
        return value, ("an answer is both an option's text and an index, it is taken as text",)
    return index, ()


def _parse_custom(record: Record) -> RawQuestion:
    """`{question_id, video, question, options?, answer?, start?, end?, type?, spans?}`."""
    answer = record.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, int | str | None):
        raise refuse("answer", f"{cells.shown(answer)} is neither an index nor text")
    return RawQuestion(
        qid=cells.name(record, "question_id"),
        video=cells.text(record, "video"),
        question=cells.text(record, "question"),
        options=cells.option_list(record.get("options")),
        answer=answer,
        start=cells.seconds(record, "start"),
        end=cells.seconds(record, "end"),
        type=cells.optional_text(record, "type"),
        spans=cells.spans(record.get("spans")),
    )


def _parse_custom_csv(record: Record) -> RawQuestion:
    """The same in a table: options in the columns a0, a1, ... or as a JSON list in `options`."""
    options = cells.option_columns(record) or cells.option_list(record.get("options"))
    answer, notes = _answer(record, "answer", options)
    return RawQuestion(
        qid=cells.name(record, "question_id"),
        video=cells.text(record, "video"),
        question=cells.text(record, "question"),
        options=options,
        answer=answer,
        start=cells.seconds(record, "start"),
        end=cells.seconds(record, "end"),
        type=cells.optional_text(record, "type"),
        spans=cells.spans(record.get("spans")),
        notes=notes,
    )


def _parse_caption(record: Record) -> RawQuestion:
    """`{video, caption, start?, end?, question_id?}`: a text that describes a video."""
    return RawQuestion(
        qid=cells.name(record, "question_id") if "question_id" in record else "",
        video=cells.text(record, "video"),
        question=cells.filled_text(record, "caption"),
        start=cells.seconds(record, "start"),
        end=cells.seconds(record, "end"),
    )


REQUIRED = frozenset({"question_id", "video", "question"})
CAPTION = frozenset({"video", "caption"})

LAYOUTS: dict[str, Layout] = {
    "custom-jsonl": Layout("jsonl", REQUIRED, frozenset(), _parse_custom),
    "custom-json": Layout("json", REQUIRED, frozenset(), _parse_custom),
    "custom-csv": Layout("csv", REQUIRED, frozenset(), _parse_custom_csv),
    "captions-jsonl": Layout("jsonl", CAPTION, frozenset({"question"}), _parse_caption),
}
