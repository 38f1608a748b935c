"""Official annotation files -> `Question`s. One small parser per layout, everything else shared.

Reads an annotation file (CSV, JSON list or JSON lines, gzipped or not) as a stream; writes
nothing. A bad record is reported with file, row and field, and reading goes on; whether there are
too many is the stage's decision. Layouts are recognised by content, never by file name. Formats:
`specs/benchmarks.md` 1, 2 and 7.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stages.benchmarks.annotation_files import (
    Container,
    Record,
    container_of,
    csv_header,
    open_text,
    records,
)
from stages.benchmarks.manifest import BenchmarkManifest, split_name
from stages.benchmarks.questions import Question, refuse
from stages.core.errors import DataError

SAMPLE = 20
"""Records looked at to recognise a layout, so that a bad first one does not hide it."""
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.0)?")
OPTION_COLUMN = re.compile(r"a[0-9]+")


@dataclass(frozen=True, slots=True)
class BadRow:
    """One record that became no question, and why."""

    file: str
    row: int
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: row {self.row}: {self.field}: {self.reason}"


@dataclass(slots=True)
class RawQuestion:
    """What a layout's parser takes from one record, before the benchmark's rules are applied."""

    qid: str
    video: str
    question: str
    options: tuple[str, ...] = ()
    answer: int | str | None = None
    """Index, text (of an option, or open-ended), or none when unlabelled."""
    start: float | None = None
    end: float | None = None
    type: str | None = None
    spans: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """How a family of files writes its records; recognised by its keys."""

    container: Container
    required: frozenset[str]
    absent: frozenset[str]
    parse: Callable[[Record], RawQuestion]
    text_match: Literal["first", "last"] = "first"
    """Which option an answer text means when two options are equal."""

    def fits(self, container: Container, keys: Iterable[str]) -> bool:
        names = set(keys)
        return self.container == container and self.required <= names and not self.absent & names


@dataclass(frozen=True, slots=True)
class ReadResult:
    """A whole annotation file: its questions, the rows that gave none, and what was odd."""

    questions: list[Question]
    bad_rows: list[BadRow]
    warnings: list[str]
    layout: str
    open_ended: bool

    @property
    def num_rows(self) -> int:
        """Records in the file, good and bad."""
        return len(self.questions) + len(self.bad_rows)


# --- cells -----------------------------------------------------------------------------------


def _text(record: Record, key: str) -> str:
    value = record.get(key)
    if isinstance(value, str):
        return value
    raise refuse(key, "missing" if value is None else f"{_shown(value)} is not text")


def _name(record: Record, key: str) -> str:
    """An identifier: text or a whole number."""
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(record, key).strip()


def _seconds(record: Record, key: str) -> float | None:
    value = record.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise refuse(key, f"{_shown(value)} is not a time in seconds")
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise refuse(key, f"{_shown(value)} is not a time in seconds") from None


def _optional_text(record: Record, key: str) -> str | None:
    return None if record.get(key) in (None, "") else _text(record, key)


def _index(record: Record, key: str) -> int | None:
    """An option's index; a CSV cell `2.0` is one too (a table that once had a gap)."""
    value = record.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and WHOLE_NUMBER.fullmatch(value.strip()):
        return int(value.strip().removesuffix(".0"))
    raise refuse(key, f"{_shown(value)} is not an option's index")


def _option_columns(record: Record) -> tuple[str, ...]:
    """The texts of a0, a1, ... in order, without a gap."""
    count = sum(1 for key in record if OPTION_COLUMN.fullmatch(key))
    return tuple(_text(record, f"a{index}") for index in range(count))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# --- layouts ---------------------------------------------------------------------------------


def _parse_nextqa(record: Record) -> RawQuestion:
    """`video,frame_count,width,height,question,answer,qid,type,a0,...`, answer an index."""
    return RawQuestion(
        qid=_name(record, "qid"),
        video=_name(record, "video"),
        question=_text(record, "question"),
        options=_option_columns(record),
        answer=_index(record, "answer"),
        type=_optional_text(record, "type"),
    )


def _parse_nextqa_text(record: Record) -> RawQuestion:
    """The same with `video_id`, and in `answer` the words of the right option."""
    return RawQuestion(
        qid=_name(record, "qid"),
        video=_name(record, "video_id"),
        question=_text(record, "question"),
        options=_option_columns(record),
        answer=_optional_text(record, "answer"),
        type=_optional_text(record, "type"),
    )


def _parse_star(record: Record) -> RawQuestion:
    """`{question_id, question, video_id, start, end, answer, choices: [{choice_id, choice}]}`."""
    return RawQuestion(
        qid=_name(record, "question_id"),
        video=_name(record, "video_id"),
        question=_text(record, "question"),
        options=_choices(record.get("choices")),
        answer=_optional_text(record, "answer"),
        start=_seconds(record, "start"),
        end=_seconds(record, "end"),
    )


def _choices(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(choice, dict) for choice in value):
        raise refuse("choices", f"{_shown(value)} is not a list of choices")
    by_id = {choice.get("choice_id"): choice for choice in value}
    if set(by_id) != set(range(len(value))):
        raise refuse("choices", f"choice_id runs not from 0 to {len(value) - 1}")
    return tuple(_text(by_id[index], "choice") for index in range(len(value)))


def _parse_sevila(record: Record) -> RawQuestion:
    """`{video, num_option, qid, a0.., answer, question, start, end}`, answer an index."""
    options = _option_columns(record)
    declared = _index(record, "num_option")
    if declared is not None and declared != len(options):
        raise refuse("num_option", f"{declared}, but there are {len(options)} options")
    return RawQuestion(
        qid=_name(record, "qid"),
        video=_name(record, "video"),
        question=_text(record, "question"),
        options=options,
        answer=_index(record, "answer"),
        start=_seconds(record, "start"),
        end=_seconds(record, "end"),
    )


def _parse_open_json(record: Record) -> RawQuestion:
    """`{"answer":"couch","id":158581,"question":"what ...?","video_id":6513}`."""
    return RawQuestion(
        qid=_name(record, "id"),
        video=_name(record, "video_id"),
        question=_text(record, "question"),
        answer=_optional_text(record, "answer"),
    )


def _parse_open_csv(record: Record) -> RawQuestion:
    """`video,question,answer,qid,type`; the question lacks its `?`."""
    return RawQuestion(
        qid=_name(record, "qid"),
        video=_name(record, "video"),
        question=_text(record, "question"),
        answer=_optional_text(record, "answer"),
        type=_optional_text(record, "type"),
    )


def _parse_custom(record: Record) -> RawQuestion:
    """`{question_id, video, question, options?, answer?, start?, end?, type?, spans?}`."""
    answer = record.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, int | str | None):
        raise refuse("answer", f"{_shown(answer)} is neither an index nor text")
    return RawQuestion(
        qid=_name(record, "question_id"),
        video=_text(record, "video"),
        question=_text(record, "question"),
        options=_option_list(record.get("options")),
        answer=answer,
        start=_seconds(record, "start"),
        end=_seconds(record, "end"),
        type=_optional_text(record, "type"),
        spans=_spans(record.get("spans")),
    )


def _option_list(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(option, str) for option in value):
        raise refuse("options", f"{_shown(value)} is not a list of texts")
    if len(value) < 2:
        raise refuse("options", f"{len(value)} options; leave the field out if open-ended")
    return tuple(value)


def _spans(value: Any) -> tuple[tuple[float, float], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise refuse("spans", f"{_shown(value)} is not a list of [start, end]")
    return tuple(_span(pair) for pair in value)


def _span(pair: Any) -> tuple[float, float]:
    if isinstance(pair, list) and len(pair) == 2:
        low, high = _seconds({"spans": pair[0]}, "spans"), _seconds({"spans": pair[1]}, "spans")
        if low is not None and high is not None:
            return low, high
    raise refuse("spans", f"{_shown(pair)} is not [start, end]")


LAYOUTS: dict[str, Layout] = {
    "nextqa-csv": Layout(
        "csv",
        frozenset({"video", "question", "answer", "qid", "a0", "a1"}),
        frozenset({"video_id"}),
        _parse_nextqa,
    ),
    "nextqa-text-csv": Layout(
        "csv",
        frozenset({"video_id", "question", "answer", "qid", "a0", "a1"}),
        frozenset({"video"}),
        _parse_nextqa_text,
    ),
    "hqga-csv": Layout(
        "csv",
        frozenset({"video", "question", "answer", "qid"}),
        frozenset({"video_id", "a0"}),
        _parse_open_csv,
    ),
    "star-json": Layout(
        "json",
        frozenset({"question_id", "video_id", "question", "choices"}),
        frozenset({"a0"}),
        _parse_star,
        # The reference preparation takes the last equal choice (specs/vlap.md 11.5).
        text_match="last",
    ),
    "sevila-json": Layout(
        "json",
        frozenset({"video", "qid", "question", "a0", "a1"}),
        frozenset({"choices"}),
        _parse_sevila,
    ),
    "open-json": Layout(
        "json",
        frozenset({"id", "video_id", "question"}),
        frozenset({"a0", "choices", "options"}),
        _parse_open_json,
    ),
    "custom-jsonl": Layout(
        "jsonl",
        frozenset({"question_id", "video", "question"}),
        frozenset(),
        _parse_custom,
    ),
}


# --- recognising -----------------------------------------------------------------------------


def detect_layout(path: Path, accepted: Iterable[str] = tuple(LAYOUTS)) -> str:
    """The name in `LAYOUTS` of the layout of `path`, from its content.

    Args:
        accepted: The layouts that the benchmark takes.

    Raises:
        DataError: unknown, ambiguous or not accepted; says which keys were seen.
    """
    container = container_of(path)
    seen = [csv_header(path)] if container == "csv" else _keys(path, container)
    fitting = [
        name
        for name, layout in LAYOUTS.items()
        if any(layout.fits(container, keys) for keys in seen)
    ]
    wanted = [name for name in fitting if name in set(accepted)]
    if len(wanted) == 1:
        return wanted[0]
    shown = f"{container} with {_shown_keys(seen)}"
    expected = f"accepted here: {', '.join(accepted)}"
    if wanted:
        raise DataError(f"{path}: the layout is ambiguous ({', '.join(wanted)}): {shown}", expected)
    if fitting:
        raise DataError(f"{path} has the layout {fitting[0]} ({shown})", expected)
    raise DataError(f"{path}: unknown layout: {shown}", expected)


def _keys(path: Path, container: Container) -> list[list[str]]:
    sample = itertools.islice(records(path, container), SAMPLE)
    return [list(record) for _, record in sample if isinstance(record, dict)]


def _shown_keys(seen: list[list[str]]) -> str:
    if not seen:
        return "no readable record at its beginning (lists and lines of objects are read)"
    names = ", ".join(repr(key) for key in seen[0][:20])
    return f"the fields {names}" + (", ..." if len(seen[0]) > 20 else "")


# --- video names -----------------------------------------------------------------------------


def find_video_map(manifest: BenchmarkManifest, annotations: Path) -> Path | None:
    """The benchmark's mapping file beside the annotation file, gzipped or not."""
    if not manifest.videos.mapping_file:
        return None
    beside = annotations.parent / manifest.videos.mapping_file
    candidates = (beside, beside.with_name(beside.name + ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def load_video_map(path: Path) -> dict[str, str]:
    """A JSON object `{name: path below the video folder without extension}`."""
    with open_text(path) as text:
        try:
            value = json.load(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"video map {path} is not JSON: {error}") from None
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value.values()):
        raise DataError(f"video map {path} is not a JSON object of texts")
    return value


# --- reading ---------------------------------------------------------------------------------


@dataclass
class QuestionStream:
    """Questions and bad rows of one annotation file, in its order, in flat memory.

    `warnings` fills while the stream is read; `open_ended` is known after the first question.
    """

    manifest: BenchmarkManifest
    split: str
    path: Path
    mapping: Path | None = None
    layout: str = field(init=False)
    open_ended: bool | None = field(init=False)
    _odd: Counter[str] = field(init=False, default_factory=Counter)
    _names: dict[str, str] = field(init=False)
    _ids: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.split = split_name(self.manifest, self.split)
        self.layout = detect_layout(self.path, self.manifest.layouts)
        known = {"multiple-choice": False, "open-ended": True, "either": None}
        self.open_ended = known[self.manifest.task]
        found = self.mapping or find_video_map(self.manifest, self.path)
        self._names = load_video_map(found) if found else {}

    def __iter__(self) -> Iterator[Question | BadRow]:
        layout = LAYOUTS[self.layout]
        self._ids.clear()
        self._odd.clear()
        for row, record in records(self.path, layout.container):
            try:
                if isinstance(record, str):
                    raise refuse("record", record)
                question = self._question(layout.parse(record), row)
            except DataError as error:
                name, _, reason = error.message.partition(": ")
                yield BadRow(self.path.name, row, name, reason)
            else:
                self._ids.add(question.question_id)
                yield question

    @property
    def warnings(self) -> list[str]:
        """What was odd but readable, with the number of rows."""
        return [f"{text} ({count} rows)" for text, count in self._odd.items()]

    def _question(self, raw: RawQuestion, row: int) -> Question:
        self._check_options(raw)
        rules = self.manifest
        answer, answer_text = self._answer(raw)
        start, end = self._clip(raw)
        question = Question(
            question_id=rules.question_id.format(qid=raw.qid, video=raw.video),
            videos=(self._video(raw.video),),
            question=raw.question,
            options=raw.options,
            answer=answer,
            answer_text=answer_text,
            start=start,
            end=end,
            type=self._type(raw),
            spans=raw.spans,
            split=self.split,
            source_row=row,
        )
        if question.question_id in self._ids:
            raise refuse("question_id", f"{question.question_id!r} occurs a second time")
        if self.open_ended is None:
            self.open_ended = question.open_ended
        return question

    def _check_options(self, raw: RawQuestion) -> None:
        open_ended, expected = self.open_ended, self.manifest.num_options
        if open_ended is True and raw.options:
            raise refuse("options", "given, but the questions of this file are open-ended")
        if open_ended is False and not raw.options:
            raise refuse("options", "missing, but the questions of this file are multiple choice")
        if expected is not None and len(raw.options) != expected:
            raise refuse("options", f"{len(raw.options)} where {self.manifest.name} has {expected}")
        if len(raw.options) > 26:
            raise refuse("options", f"{len(raw.options)}; there are letters for 26")

    def _answer(self, raw: RawQuestion) -> tuple[int | None, str | None]:
        """The answer as an index or, open-ended, as text."""
        if not raw.options:
            if isinstance(raw.answer, int):
                raise refuse("answer", f"{raw.answer} is a number; open-ended answers are text")
            return None, raw.answer
        if isinstance(raw.answer, str):
            return self._matching_option(raw.answer, raw.options), None
        return raw.answer, None

    def _matching_option(self, answer: str, options: tuple[str, ...]) -> int:
        """The option that `answer` spells; exactly if possible, else without outer blanks."""
        exact = [index for index, option in enumerate(options) if option == answer]
        stripped = [i for i, option in enumerate(options) if option.strip() == answer.strip()]
        matching = exact or stripped
        if not matching:
            raise refuse("answer", f"{_shown(answer)} is none of the options")
        rule = LAYOUTS[self.layout].text_match
        if len(matching) > 1:
            self._odd[f"answer text equals several options, the {rule} one is taken"] += 1
        return matching[0 if rule == "first" else -1]

    def _clip(self, raw: RawQuestion) -> tuple[float | None, float | None]:
        if self.manifest.clip == "whole":
            return None, None
        if self.manifest.clip == "start-end":
            for name, seconds in (("start", raw.start), ("end", raw.end)):
                if seconds is None:
                    raise refuse(name, "missing")
        return raw.start, raw.end

    def _video(self, name: str) -> str:
        mapped = self._names.get(name)
        if self._names and mapped is None:
            self._odd["video is not in the video map, its own name is used"] += 1
        return self.manifest.videos.template.format(video=name if mapped is None else mapped)

    def _type(self, raw: RawQuestion) -> str | None:
        rule = self.manifest.types
        found = {
            "field": raw.type,
            "id-prefix": raw.qid.partition("_")[0] if "_" in raw.qid else None,
            "first-word": next(iter(raw.question.lower().split()), None),
            "none": None,
        }[rule.source]
        if rule.names and found not in rule.names:
            self._odd[f"type {found!r} is not one of {', '.join(rule.names)}"] += 1
        return found


def read_questions(
    manifest: BenchmarkManifest, split: str, path: Path, mapping: Path | None = None
) -> ReadResult:
    """All questions of an official annotation file.

    Args:
        manifest: The benchmark.
        split: The split's name or an alias.
        path: The annotation file.
        mapping: Video names -> paths (NExT-QA); looked for beside `path` if not given.

    Raises:
        DataError: unknown layout, unreadable file. MissingInput: no such file.
    """
    stream = QuestionStream(manifest, split, path, mapping)
    questions: list[Question] = []
    bad_rows: list[BadRow] = []
    for item in stream:
        if isinstance(item, Question):
            questions.append(item)
        else:
            bad_rows.append(item)
    return ReadResult(questions, bad_rows, stream.warnings, stream.layout, bool(stream.open_ended))
