"""Official annotation files -> `Question`s: which layout it is, and the benchmark's rules.

Reads an annotation file, whatever its container (`annotation_files`) and layout (`layouts`), as a
stream; writes nothing. A bad record is reported with file, row and field, and reading goes on;
whether there are too many is the stage's decision. Layouts are recognised by content, never by
file name. Formats: `specs/benchmarks.md` 0 to 12.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stages.benchmarks.annotation_files import (
    Container,
    Record,
    container_of,
    csv_header,
    records,
)
from stages.benchmarks.layouts import LAYOUTS
from stages.benchmarks.layouts.cells import shown
from stages.benchmarks.layouts.custom import COLUMNS_LAYOUT, ColumnMap, mapped_layout
from stages.benchmarks.layouts.keys import key_kind
from stages.benchmarks.layouts.layout import Extras, Layout, Raw, RawQuestion, parsed
from stages.benchmarks.manifest import BenchmarkManifest, Dialect, TypeRule, split_name
from stages.benchmarks.questions import Question, refuse
from stages.benchmarks.video_names import VideoNames, find_beside, load_video_map
from stages.core.errors import DataError, MissingInput, UsageError

SAMPLE = 20
"""Records looked at to recognise a layout, so that a bad first one does not hide it."""
MAX_ODDITIES = 30
"""Different warnings that are kept apart."""
LONG_ID = 64
"""Characters up to which an id is remembered as it is; longer ones as a 128-bit digest."""
CODE_BREAK = re.compile(r"[\s_]+|(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class BadRow:
    """One record that became no question, and why."""

    file: str
    row: int
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.in_file()}"

    def in_file(self) -> str:
        """The same where the file has been named."""
        return f"row {self.row}: {self.field}: {self.reason}"


@dataclass(frozen=True, slots=True)
class ReadResult:
    """A whole annotation file: its questions, the rows that gave none, and what was odd."""

    questions: list[Question]
    bad_rows: list[BadRow]
    warnings: list[str]
    layout: str
    open_ended: bool
    release: str = ""

    @property
    def num_rows(self) -> int:
        """Records in the file, good and bad."""
        return len(self.questions) + len(self.bad_rows)


# --- recognising -----------------------------------------------------------------------------


def _headerless(path: Path) -> list[str]:
    """Layouts without a header that the first rows fit."""
    cells = _first_records(path, "rows")
    return [
        name
        for name, layout in LAYOUTS.items()
        if any(layout.fits("rows", record) and layout.fits_cells(record) for record in cells)
    ]


def _first_records(path: Path, container: Container) -> list[Record]:
    sample = itertools.islice(records(path, container), SAMPLE)
    return [record for _, record in sample if isinstance(record, dict)]


def detect_layout(path: Path, accepted: Iterable[str] = tuple(LAYOUTS)) -> str:
    """The name in `LAYOUTS` of the layout of `path`, from its content.

    Args:
        accepted: The layouts that the benchmark takes.

    Raises:
        DataError: unknown, ambiguous or not accepted; says which keys were seen.
    """
    container = container_of(path)
    fitting = _headerless(path) if container == "csv" else []
    if fitting:
        shown_keys = "csv without a header"
    else:
        seen = [csv_header(path)] if container == "csv" else _keys(path, container)
        fitting = [
            name
            for name, layout in LAYOUTS.items()
            if any(layout.fits(container, keys) for keys in seen)
        ]
        shown_keys = f"{container} with {_shown_keys(seen)}"
        _refuse_key(path, container, seen, fitting)
    wanted = [name for name in fitting if name in set(accepted)]
    if len(wanted) == 1:
        return wanted[0]
    expected = f"accepted here: {', '.join(accepted)}"
    if wanted:
        raise DataError(
            f"{path}: the layout is ambiguous ({', '.join(wanted)}): {shown_keys}", expected
        )
    if fitting:
        raise DataError(f"{path} has the layout {fitting[0]} ({shown_keys})", expected)
    raise DataError(f"{path}: unknown layout: {shown_keys}", expected)


def _refuse_key(
    path: Path, container: Container, seen: list[list[str]], fitting: list[str]
) -> None:
    """Say it plainly where a file is an answer key."""
    kind = "" if fitting else key_kind(container, seen)
    if kind:
        raise DataError(
            f"{path} holds answers and no questions (an answer key, {kind})",
            "prepare needs the annotation file; vqa score --annotations takes a key",
        )


def _keys(path: Path, container: Container) -> list[list[str]]:
    return [list(record) for record in _first_records(path, container)]


def _shown_keys(seen: list[list[str]]) -> str:
    if not seen:
        return "no readable record at its beginning (lists and lines of objects are read)"
    names = ", ".join(repr(key) for key in seen[0][:20])
    return f"the fields {names}" + (", ..." if len(seen[0]) > 20 else "")


def _check_dialect(manifest: BenchmarkManifest, name: str, layout: Layout, path: Path) -> None:
    """Refuse another benchmark's file in the same layout: none of its records looks right."""
    dialect = manifest.dialects.get(name)
    if dialect is None:
        return
    problems = [dialect.problem(record) for record in _first_records(path, layout.container)]
    if problems and all(problems):
        raise DataError(
            f"{path} has the layout {name}, but is not {manifest.title}: {problems[0]}",
            "is it the right file for this benchmark?",
        )


# --- reading ---------------------------------------------------------------------------------


@dataclass
class QuestionStream:
    """Questions and bad rows of one annotation file, in its order, in flat memory.

    `warnings` fills while the stream is read; `open_ended` is known after the first question.
    What grows with the file is the set of ids seen, some 100 bytes each.

    Attributes:
        manifest: The benchmark.
        split: The split's name or an alias.
        path: The annotation file.
        mapping: Video names -> paths; looked for beside `path` if not given.
        captions: Captions of the listed videos (msrvtt-retrieval); looked for beside `path`.
        columns: Which column holds what, for custom files of any shape.
        video_rule: Name of one of the manifest's `video_rules`; empty: the usual naming.
        layout: Name of the layout that was recognised.
    """

    manifest: BenchmarkManifest
    split: str
    path: Path
    mapping: Path | None = None
    captions: Path | None = None
    columns: ColumnMap | None = None
    video_rule: str = ""
    layout: str = field(init=False)
    open_ended: bool | None = field(init=False)
    _odd: Counter[str] = field(init=False, default_factory=Counter)
    _ids: set[str | bytes] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        if self.captions is not None and not self.manifest.captions_file:
            raise UsageError(f"{self.manifest.name} takes no captions", "leave --captions out")
        self.split = split_name(self.manifest, self.split)
        self._layout = self._recognised()
        self._dialect = self.manifest.dialects.get(self.layout, Dialect())
        self.open_ended = {
            "multiple-choice": False,
            "multiple-choice-videos": False,
            "either": None,
        }.get(self.manifest.task, True)
        self.captions = self.captions or find_beside(self.path, self.manifest.captions_file)
        if self.captions is not None and not self.captions.is_file():
            raise MissingInput(f"caption file not found: {self.captions}", "check --captions")
        self._names = self._video_names()
        self._type_of = _type_finder(self.manifest.types)
        self._named = functools.lru_cache(maxsize=4096)(
            functools.partial(_category_names, self.manifest.category_names)
        )

    def _recognised(self) -> Layout:
        if self.columns is None:
            self.layout = detect_layout(self.path, self.manifest.layouts)
            _check_dialect(self.manifest, self.layout, LAYOUTS[self.layout], self.path)
            return LAYOUTS[self.layout]
        if "custom-csv" not in self.manifest.layouts:
            raise UsageError(
                f"the columns of {self.manifest.name} are known", "--column is for custom files"
            )
        self.layout = COLUMNS_LAYOUT
        container = container_of(self.path)
        seen = [csv_header(self.path)] if container == "csv" else _keys(self.path, container)
        self.columns.check(seen)
        return mapped_layout(self.columns, container)

    def _video_names(self) -> VideoNames:
        rule = self.manifest.video_rule(self.video_rule)
        found = self.mapping or find_beside(self.path, rule.mapping_file)
        use = found is not None and not self._dialect.mapped
        mapped = load_video_map(found) if found is not None and use else {}
        return VideoNames(rule, mapped, self._dialect.template or rule.template, self._odd)

    @property
    def release(self) -> str:
        """Which of several incompatible releases of the benchmark this is; empty: there is one."""
        return self.manifest.releases.get(self.layout, "")

    @property
    def warnings(self) -> list[str]:
        """What was odd but readable, with the number of rows."""
        return [f"{text} ({count} rows)" for text, count in self._odd.items()]

    def candidates(self, video: str) -> list[str]:
        """The names under which a question's video may lie, best first."""
        return self._names.rule.candidates(video, self._names.mapped)

    def __iter__(self) -> Iterator[Question | BadRow]:
        self._ids.clear()
        self._odd.clear()
        for row, raw in self._raws():
            try:
                if isinstance(raw, DataError):
                    raise raw
                question = self._question(raw, row)
            except DataError as error:
                name, _, reason = error.message.partition(": ")
                yield BadRow(self.path.name, row, name, reason)
            else:
                yield question

    def _raws(self) -> Iterator[Raw]:
        layout = self._layout
        read = records(self.path, layout.container, self._odd)
        if layout.gather is None:
            return parsed(read, layout.parse)
        joiner = self.manifest.sentence_joiner
        return layout.gather(read, Extras(self.captions, joiner, self._odd))

    def _question(self, raw: RawQuestion, row: int) -> Question:
        identity, kind = self._identity(raw, row)
        if raw.wrong:
            raw.options, raw.answer = _shuffled(identity, raw)
        self._check_options(raw)
        answer, answer_text = self._answer(raw)
        videos, clips, start, end = self._places(raw)
        question = Question(
            question_id=identity,
            videos=videos,
            question=self._text(raw.question),
            options=self._option_texts(raw.options),
            answer=answer,
            answer_text=answer_text,
            start=start,
            end=end,
            type=self._type(raw, kind),
            spans=raw.spans,
            split=self.split,
            source_row=row,
            clips=clips,
            categories=self._categories(raw.categories) if raw.categories else (),
            duration=raw.duration,
            saliency=raw.saliency,
        )
        self._remember(identity)
        if raw.notes:
            self._odd.update(raw.notes)
        if self.open_ended is None:
            self.open_ended = question.open_ended
        return question

    def _remember(self, identity: str) -> None:
        """Refuse an id that comes again.

        Long ids are kept as a 128-bit digest: at ten million rows two different ones have the
        same with a probability below 1e-24.
        """
        known: str | bytes = identity
        if len(identity) > LONG_ID:
            known = hashlib.blake2b(identity.encode("utf-8"), digest_size=16).digest()
        if known in self._ids:
            raise refuse("question_id", f"{identity!r} occurs a second time")
        self._ids.add(known)

    def _identity(self, raw: RawQuestion, row: int) -> tuple[str, str | None]:
        """The question's id, and its type where the record's id holds it."""
        qid, video, kind = raw.qid or str(row - 1), raw.video, None
        if self._dialect.id_pattern:
            match = re.fullmatch(self._dialect.id_pattern, qid)
            if match is None:
                raise refuse("qid", f"{shown(qid)} is not like {self._dialect.id_pattern}")
            found = match.groupdict()
            qid, video = found.get("qid", qid), found.get("video", video)
            kind = found.get("type")
        template = self._dialect.question_id or self.manifest.question_id
        if template == "{qid}":
            return qid, kind
        return template.format(qid=qid, video=video, row=row - 1, split=self.split), kind

    def _text(self, text: str) -> str:
        text = text.removesuffix(self._dialect.question_suffix) or self.manifest.default_question
        if not text.strip() and self.manifest.question_text == "required":
            raise refuse("question", "empty")
        return text

    def _option_texts(self, options: tuple[str, ...]) -> tuple[str, ...]:
        suffix = self._dialect.option_suffix
        return tuple(option.removesuffix(suffix) for option in options) if suffix else options

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
            raise refuse("answer", f"{shown(answer)} is none of the options")
        rule = self._layout.text_match
        if len(matching) > 1:
            self._odd[f"answer text equals several options, the {rule} one is taken"] += 1
        return matching[0 if rule == "first" else -1]

    def _places(
        self, raw: RawQuestion
    ) -> tuple[tuple[str, ...], tuple[tuple[float, float], ...], float | None, float | None]:
        """Videos, the clip in each of several, and start and end in a single one."""
        if raw.candidates:
            places = [self._names.place(*candidate) for candidate in raw.candidates]
            clips = tuple((place.start or 0.0, place.end or 0.0) for place in places)
            return tuple(place.path for place in places), clips, None, None
        place = self._names.place(raw.video, *self._clip(raw))
        return (place.path,), (), place.start, place.end

    def _clip(self, raw: RawQuestion) -> tuple[float | None, float | None]:
        if self.manifest.clip == "whole":
            return None, None
        if self.manifest.clip == "start-end":
            for name, seconds in (("start", raw.start), ("end", raw.end)):
                if seconds is None:
                    raise refuse(name, "missing")
        return raw.start, raw.end

    def _type(self, raw: RawQuestion, kind: str | None) -> str | None:
        rule = self.manifest.types
        found = kind or self._type_of(raw)
        if rule.names and found not in rule.names and (found or rule.source != "field"):
            self._count(f"type {shown(found)} is not one of {', '.join(rule.names)}")
        return found

    def _categories(self, codes: tuple[str, ...]) -> tuple[str, ...]:
        """The reported names of the codes, each once; an unknown code is counted."""
        names, unknown = self._named(codes)
        for code in unknown:
            self._count(f"category {shown(code)} is not one of the known ones")
        return names

    def _count(self, oddity: str) -> None:
        """One more row with an oddity that quotes the file, which could hold any number of them."""
        known = oddity in self._odd or len(self._odd) < MAX_ODDITIES
        self._odd[oddity if known else "further types or categories that are not known"] += 1


def _category_names(
    known: Mapping[str, str], codes: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the codes, each once, and the codes that are not known and kept as they are."""
    plain = [code if code in known else normal_code(code) for code in codes]
    unknown = tuple(code for code in plain if known and code not in known)
    return tuple(dict.fromkeys(known.get(code, code) for code in plain)), unknown


def normal_code(code: str) -> str:
    """`Duration_comparison`, `durationComparison` -> `duration-comparison`."""
    return CODE_BREAK.sub("-", code.strip()).lower()


def _shuffled(identity: str, raw: RawQuestion) -> tuple[tuple[str, ...], int]:
    """Options and answer of a record without an order of options.

    The right one is put at place sha256(id) mod the number of options among the wrong ones, which
    keep the file's order: the same question has the same order everywhere, and all places are
    equally likely.
    """
    digest = hashlib.sha256(identity.encode("utf-8")).digest()
    place = int.from_bytes(digest, "big") % (len(raw.wrong) + 1)
    return (*raw.wrong[:place], str(raw.answer), *raw.wrong[place:]), place


def _type_finder(rule: TypeRule) -> Callable[[RawQuestion], str | None]:
    finders: Mapping[str, Callable[[RawQuestion], str | None]] = {
        "field": lambda raw: raw.type,
        "id-prefix": lambda raw: raw.qid.partition("_")[0] if "_" in raw.qid else None,
        "first-word": lambda raw: next(iter(raw.question.lower().split(None, 1)), None),
        "none": lambda raw: None,
    }
    return finders[rule.source]


def find_video_map(
    manifest: BenchmarkManifest, annotations: Path, video_rule: str = ""
) -> Path | None:
    """The benchmark's mapping file beside the annotation file, gzipped or not."""
    return find_beside(annotations, manifest.video_rule(video_rule).mapping_file)


def read_questions(
    manifest: BenchmarkManifest,
    split: str,
    path: Path,
    mapping: Path | None = None,
    *,
    captions: Path | None = None,
    columns: ColumnMap | None = None,
    video_rule: str = "",
) -> ReadResult:
    """All questions of an official annotation file; the arguments are `QuestionStream`'s.

    Raises:
        DataError: unknown layout, unreadable file. MissingInput: no such file.
        UsageError: no such split, column or video rule.
    """
    stream = QuestionStream(manifest, split, path, mapping, captions, columns, video_rule)
    questions: list[Question] = []
    bad_rows: list[BadRow] = []
    for item in stream:
        if isinstance(item, Question):
            questions.append(item)
        else:
            bad_rows.append(item)
    return ReadResult(
        questions,
        bad_rows,
        stream.warnings,
        stream.layout,
        bool(stream.open_ended),
        stream.release,
    )
