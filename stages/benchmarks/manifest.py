"""What is known about each benchmark: one TOML file in `data_manifests`, validated here.

Reads `data_manifests/<name>.toml`; writes nothing. A benchmark whose annotation file has a known
layout is one such file and no code.
"""

from __future__ import annotations

import difflib
import re
import string
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Literal, Self

from pydantic import Field, model_validator

from stages.core.config import Config
from stages.core.errors import ConfigError, UsageError

Task = Literal[
    "multiple-choice", "open-ended", "either", "multiple-choice-videos", "moments", "retrieval"
]
Scorer = Literal["accuracy", "categories", "moments", "retrieval", "inter-intra"]
Role = Literal["train", "tune", "report"]
AnswerMode = Literal["letter", "rank"]

ID_FIELDS = {"qid", "video", "row", "split"}
"""What a question's id may be made of."""

VIDEO_EXTENSIONS = (
    *("mp4", "mkv", "webm", "avi", "mov", "m4v", "mpg", "mpeg"),
    *("wmv", "flv", "3gp", "mts", "m2ts", "ts", "ogv", "gif"),
)


def _check_template(template: str, allowed: set[str], field: str) -> None:
    names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    if not names or not names <= allowed:
        raise ValueError(
            f"{field} {template!r} must use {sorted(allowed)}, it uses {sorted(names)}"
        )


def _compiled(pattern: str, field: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{field} {pattern!r} is no regular expression: {error}") from None


class Counts(Config):
    """How much a file should hold."""

    questions: int | None = Field(default=None, ge=1)
    videos: int | None = Field(default=None, ge=1)


class Split(Config):
    """One official split."""

    roles: tuple[Role, ...] = ()
    """train: learnt from; tune: checkpoints are chosen on it; report: the figure in a table."""
    questions: int | None = Field(default=None, ge=1)
    """Expected number of questions, if known."""
    videos: int | None = Field(default=None, ge=1)
    """Expected number of distinct videos, if known."""
    by_layout: dict[str, Counts] = Field(default_factory=dict)
    """Expected counts where files of another layout hold another release or another form."""
    labelled: bool = True
    """Whether the public file holds the answers."""
    note: str = ""

    def differences(self, num_questions: int, num_videos: int, layout: str = "") -> list[str]:
        """How a file's counts differ from the expected ones, one sentence each."""
        known = self.by_layout.get(layout, Counts(questions=self.questions, videos=self.videos))
        counts = (
            ("questions", num_questions, known.questions),
            ("videos", num_videos, known.videos),
        )
        return [
            f"{found:,} {what} where {expected:,} are published"
            for what, found, expected in counts
            if expected is not None and found != expected
        ]


class TypeRule(Config):
    """How a question's type is found."""

    source: Literal["field", "id-prefix", "first-word", "none"] = "none"
    """field: the record's own; id-prefix: text before the first `_` of the record's id;
    first-word: of the question, in lower case."""
    names: tuple[str, ...] = ()
    """The types that occur; others are kept and reported as a warning."""


class OtherName(Config):
    """Another name that a video's file may have."""

    pattern: str
    """Regular expression that the whole name has to match."""
    to: str
    """The other name; `\\1` and `\\g<0>` stand for what was matched."""

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        _compiled(self.pattern, "videos.also")
        # Matches nothing at all, so that the other name is tried without a real one.
        match = re.fullmatch(f"(?:{self.pattern})?", "")
        try:
            _ = match.expand(self.to) if match else ""
        except (re.error, IndexError) as error:
            raise ValueError(f"{self.to!r} does not fit {self.pattern!r}: {error}") from None
        return self


class VideoRule(Config):
    """How the record's video name becomes a path below a video folder."""

    template: str = "{video}"
    """`{video}` is the record's name; with `chunk_seconds` there are also `{chunk}` (0, 1, ...) and
    `{chunk_start}` (seconds). What a mapping file gives is a path as it is."""
    pattern: str = ""
    """Takes the name apart: its named groups are fields of the template; groups `first_frame` and
    `end_frame` are the clip, in frames of `frames_per_second`."""
    frames_per_second: float = Field(default=0.0, ge=0.0)
    chunk_seconds: int = Field(default=0, ge=0)
    """Length of the pieces that long videos were cut into; 0: whole videos."""
    mapping_file: str = ""
    """A JSON object name -> path without extension, or lines `path name`; looked for beside the
    annotation file."""
    mapping_key: str = "{video}"
    """What the mapping file calls a video."""
    mapping_use: Literal["replace", "also"] = "replace"
    """replace: the mapped path is the video's name; also: one more name that is tried."""
    also: tuple[OtherName, ...] = ()
    """Other names, tried in this order after the own one."""
    extensions: tuple[str, ...] = VIDEO_EXTENSIONS
    """Tried in this order when the name has no file of its own."""
    where: str = ""
    """Where the videos come from."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        groups = set(_compiled(self.pattern, "videos.pattern").groupindex)
        chunk = {"chunk", "chunk_start"} if self.chunk_seconds else set()
        _check_template(self.template, {"video"} | groups | chunk, "videos.template")
        _check_template(self.mapping_key, {"video"}, "videos.mapping_key")
        if "first_frame" in groups and not self.frames_per_second:
            raise ValueError("videos.pattern gives frames, frames_per_second is missing")
        return self

    def candidates(self, name: str, mapped: Mapping[str, str] | None = None) -> list[str]:
        """The names under which the video `name` of a question may lie, best first.

        Args:
            mapped: Name -> path of a mapping file with `mapping_use = "also"`.
        """
        found = {name: None}
        if mapped and self.mapping_use == "also" and name in mapped:
            found[mapped[name]] = None
        for other in self.also:
            match = re.fullmatch(other.pattern, name)
            if match is not None:
                found[match.expand(other.to)] = None
        return list(found)


class Dialect(Config):
    """What one benchmark's files look like in a layout that several benchmarks share."""

    requires: tuple[str, ...] = ()
    """Fields that this benchmark's records have and others' have not."""
    lacks: tuple[str, ...] = ()
    """Fields that only other benchmarks' records have."""
    patterns: dict[str, str] = Field(default_factory=dict)
    """Field -> regular expression that its whole value matches in this benchmark."""
    id_pattern: str = ""
    """Takes the record's id apart: named groups `qid`, `video`, `type` replace the record's."""
    question_id: str = ""
    """Template in place of the manifest's."""
    template: str = ""
    """Video template in place of the rule's."""
    mapped: bool = False
    """The names are paths already, the mapping file is not consulted."""
    question_suffix: str = ""
    """Ending that the preparation of this form appended to questions; taken off again."""
    option_suffix: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for field, pattern in self.patterns.items():
            _compiled(pattern, f"patterns.{field}")
        groups = set(_compiled(self.id_pattern, "id_pattern").groupindex)
        if not groups <= {"qid", "video", "type"}:
            raise ValueError(f"id_pattern {self.id_pattern!r} names {sorted(groups)}")
        if self.question_id:
            _check_template(self.question_id, ID_FIELDS, "question_id")
        if self.template:
            _check_template(self.template, {"video"}, "template")
        return self

    def problem(self, record: Mapping[str, object]) -> str:
        """What in a record says that it is another benchmark's, or an empty string."""
        for field in self.requires:
            if field not in record:
                return f"there is no field {field!r}"
        for field in self.lacks:
            if field in record:
                return f"there is a field {field!r}"
        for field, pattern in self.patterns.items():
            value = str(record.get(field, ""))
            if not re.fullmatch(pattern, value):
                return f"{field} is {value[:60]!r}, not like {pattern}"
        return ""


class PromptRule(Config):
    """How the published preparation words a prompt and changes the text before it enters one."""

    question: str = "Question: {question}"
    """Template of the prompt's beginning."""
    instruction: str = (
        "Considering the information presented in the frame, select the correct answer from the "
        "options."
    )
    """What follows the lettered list; may be empty."""
    question_suffix: str = ""
    option_suffix: str = ""
    suffix: Literal["always", "when-missing"] = "always"
    """always: as the reference preparation does; when-missing: not after the same ending."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_template(self.question, {"question"}, "prompt.question")
        return self


class BenchmarkManifest(Config):
    """Everything a stage needs to know about a benchmark without knowing its name."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    task: Task
    """either: the first row of the file decides (custom data)."""
    scorer: Scorer = "accuracy"
    """Which of `stages.benchmarks.scorers` judges predictions."""
    published_as: str = ""
    """The benchmark's name in `data_manifests/published/*.csv`; empty: none."""
    citation: str
    licence: str
    get: tuple[str, ...]
    """Where to get which file, one sentence each."""
    layouts: tuple[str, ...] = Field(min_length=1)
    """Annotation layouts accepted, by the names of `readers.LAYOUTS`."""
    releases: dict[str, str] = Field(default_factory=dict)
    """Layout -> release, where two releases under one name must not be mixed (How2QA)."""
    default_question: str = ""
    """What is asked where the records hold no question text (VLEP, MSRVTT-MC)."""
    question_text: Literal["required", "optional"] = "required"
    """optional: a record may have no text and there is no default (lists of videos)."""
    generated: bool = False
    """Made by `vqa prepare` itself; there is no annotation file to give."""
    num_options: int | None = Field(default=None, ge=2, le=26)
    """Options of every question; none: free (custom) or open-ended."""
    question_id: str = "{qid}"
    """Template over the record's own `{qid}` and `{video}`; `{row}` is its number from 0 and is
    the qid of files that have none, `{split}` the split's name."""
    clip: Literal["whole", "start-end", "optional"]
    """whole: start and end are not used; start-end: required; optional: used where given."""
    answer_default: AnswerMode
    """The answer mode that training takes when none is asked for."""
    metrics: tuple[str, ...] = ("accuracy",)
    """Headline metrics, the published one first."""
    macro_types: tuple[str, ...] = ()
    """Types whose unweighted mean is `accuracy_macro`."""
    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Named sets of types that are reported pooled."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """Other names of splits."""
    splits: dict[str, Split] = Field(min_length=1)
    types: TypeRule = TypeRule()
    categories: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Family -> code -> reported name, where a question counts in several categories; a code that
    is not here is kept as it is and reported as a warning."""
    dialects: dict[str, Dialect] = Field(default_factory=dict)
    """Layout -> what this benchmark's files in it look like."""
    keys: tuple[str, ...] = ()
    """Kinds of answer keys accepted for scoring, by the names of `layouts.keys.KEY_LAYOUTS`."""
    captions_file: str = ""
    """File with the captions of a list of videos, looked for beside the list."""
    sentence_joiner: str = ", "
    """Between the sentences of one video where they make up one text."""
    videos: VideoRule = VideoRule()
    video_rules: dict[str, VideoRule] = Field(default_factory=dict)
    """Other ways in which the videos are kept, chosen by name."""
    prompt: PromptRule = PromptRule()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_template(self.question_id, ID_FIELDS, "question_id")
        if len(self.splits_for("report")) != 1:
            raise ValueError(f"exactly one split reports, not {list(self.splits_for('report'))}")
        for alias, target in self.aliases.items():
            if target not in self.splits or alias in self.splits:
                raise ValueError(f"alias {alias} = {target}: {target} must be a split, {alias} not")
        if self.task in ("open-ended", "moments", "retrieval") and self.num_options is not None:
            raise ValueError(f"a benchmark of the task {self.task} has no num_options")
        _check_types(self)
        _check_layouts(self)
        return self

    @property
    def category_names(self) -> dict[str, str]:
        """Code -> reported name, of all families."""
        return {code: name for names in self.categories.values() for code, name in names.items()}

    @property
    def own_files(self) -> bool:
        """Whether the annotation files are the user's own, so that nobody published any."""
        return self.task == "either"

    def video_rule(self, name: str = "") -> VideoRule:
        """The rule called `name`, or the usual one.

        Raises:
            UsageError: no such rule; names those there are.
        """
        if not name:
            return self.videos
        if name in self.video_rules:
            return self.video_rules[name]
        known = ", ".join(self.video_rules) or "none"
        raise UsageError(f"{self.name} has no video rule {name!r}", f"known: {known}")

    def splits_for(self, role: Role) -> tuple[str, ...]:
        """Names of the splits that have `role`, in the manifest's order."""
        return tuple(name for name, split in self.splits.items() if role in split.roles)

    @property
    def report_split(self) -> str:
        """The split whose figure the literature prints."""
        return self.splits_for("report")[0]


def _check_layouts(manifest: BenchmarkManifest) -> None:
    """Everything that is said of a layout is said of an accepted one."""
    named = [("releases", set(manifest.releases)), ("dialects", set(manifest.dialects))]
    named += [
        (f"splits.{name}.by_layout", set(split.by_layout))
        for name, split in manifest.splits.items()
    ]
    for field, layouts in named:
        unknown = layouts - set(manifest.layouts)
        if unknown:
            raise ValueError(f"{field} names layouts that are not accepted: {sorted(unknown)}")


def _check_types(manifest: BenchmarkManifest) -> None:
    named = set(manifest.macro_types).union(*manifest.groups.values())
    unknown = named - set(manifest.types.names)
    if unknown:
        raise ValueError(f"groups or macro_types name unknown types {sorted(unknown)}")
    if "accuracy_macro" in manifest.metrics and not manifest.macro_types:
        raise ValueError("accuracy_macro needs macro_types")


def benchmark_names() -> list[str]:
    """The known benchmarks, sorted."""
    files = resources.files("data_manifests").iterdir()
    return sorted(file.name[: -len(".toml")] for file in files if file.name.endswith(".toml"))


def load_manifest(name: str) -> BenchmarkManifest:
    """The manifest of benchmark `name`.

    Raises:
        UsageError: no such benchmark; names the known ones and the closest.
        ConfigError: the TOML file is wrong.
    """
    known = benchmark_names()
    if name not in known:
        raise UsageError(
            f"unknown benchmark {name!r}; known: {', '.join(known)}", _near(name, known)
        )
    text = (resources.files("data_manifests") / f"{name}.toml").read_text(encoding="utf-8")
    return parse_manifest(text, f"data_manifests/{name}.toml")


def parse_manifest(text: str, source: str) -> BenchmarkManifest:
    """A manifest from TOML text; `source` names it in errors (`ConfigError`)."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not TOML: {error}") from None
    return BenchmarkManifest.build(values, source)


def split_name(manifest: BenchmarkManifest, split: str) -> str:
    """The split's own name for `split` or one of its aliases (`dev` -> `val`).

    Raises:
        UsageError: the benchmark has no such split; names those it has.
    """
    name = manifest.aliases.get(split, split)
    if name in manifest.splits:
        return name
    known = [*manifest.splits, *manifest.aliases]
    raise UsageError(
        f"{manifest.name} has no split {split!r}; known: {', '.join(known)}", _near(split, known)
    )


def _near(word: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(
        word.lower().replace("_", "-"), list(known), n=1, cutoff=0.6
    )
    return f"did you mean {matches[0]}?" if matches else "vqa benchmarks lists them"
