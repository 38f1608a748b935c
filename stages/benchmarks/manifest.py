"""What is known about each benchmark: one TOML file in `data_manifests`, validated here.

Reads `data_manifests/<name>.toml`; writes nothing. A benchmark whose annotation file has a known
layout is one such file and no code.
"""

from __future__ import annotations

import difflib
import string
import tomllib
from collections.abc import Iterable
from importlib import resources
from typing import Literal, Self

from pydantic import Field, model_validator

from stages.core.config import Config
from stages.core.errors import ConfigError, UsageError

Task = Literal["multiple-choice", "open-ended", "either"]
Role = Literal["train", "tune", "report"]
AnswerMode = Literal["letter", "rank"]

VIDEO_EXTENSIONS = (
    *("mp4", "mkv", "webm", "avi", "mov", "m4v", "mpg", "mpeg"),
    *("wmv", "flv", "3gp", "mts", "m2ts", "ts", "ogv", "gif"),
)


class Split(Config):
    """One official split."""

    roles: tuple[Role, ...] = ()
    """train: learnt from; tune: checkpoints are chosen on it; report: the figure in a table."""
    questions: int | None = Field(default=None, ge=1)
    """Expected number of questions, if known."""
    videos: int | None = Field(default=None, ge=1)
    """Expected number of distinct videos, if known."""
    labelled: bool = True
    """Whether the public file holds the answers."""
    note: str = ""

    def differences(self, num_questions: int, num_videos: int) -> list[str]:
        """How a file's counts differ from the expected ones, one sentence each."""
        counts = (("questions", num_questions, self.questions), ("videos", num_videos, self.videos))
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


class VideoRule(Config):
    """How the record's video name becomes a path below a video folder."""

    template: str = "{video}"
    """`{video}` is the record's name, or what the mapping file gives for it."""
    mapping_file: str = ""
    """A JSON object name -> path without extension, looked for beside the annotation file."""
    extensions: tuple[str, ...] = VIDEO_EXTENSIONS
    """Tried in this order when the name has no file of its own."""
    where: str = ""
    """Where the videos come from."""


class PromptRule(Config):
    """How the published preparation changes the text before it enters a prompt."""

    question_suffix: str = ""
    option_suffix: str = ""
    suffix: Literal["always", "when-missing"] = "always"
    """always: as the reference preparation does; when-missing: not after the same ending."""


class BenchmarkManifest(Config):
    """Everything a stage needs to know about a benchmark without knowing its name."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    task: Task
    """either: the first row of the file decides (custom data)."""
    citation: str
    licence: str
    get: tuple[str, ...]
    """Where to get which file, one sentence each."""
    layouts: tuple[str, ...] = Field(min_length=1)
    """Annotation layouts accepted, by the names of `readers.LAYOUTS`."""
    generated: bool = False
    """Made by `vqa prepare` itself; there is no annotation file to give."""
    num_options: int | None = Field(default=None, ge=2, le=26)
    """Options of every question; none: free (custom) or open-ended."""
    question_id: str = "{qid}"
    """Template over the record's own `{qid}` and `{video}`."""
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
    videos: VideoRule = VideoRule()
    prompt: PromptRule = PromptRule()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_template(self.question_id, {"qid", "video"}, "question_id")
        _check_template(self.videos.template, {"video"}, "videos.template")
        if len(self.splits_for("report")) != 1:
            raise ValueError(f"exactly one split reports, not {list(self.splits_for('report'))}")
        for alias, target in self.aliases.items():
            if target not in self.splits or alias in self.splits:
                raise ValueError(f"alias {alias} = {target}: {target} must be a split, {alias} not")
        if self.task == "open-ended" and self.num_options is not None:
            raise ValueError("an open-ended benchmark has no num_options")
        _check_types(self)
        return self

    def splits_for(self, role: Role) -> tuple[str, ...]:
        """Names of the splits that have `role`, in the manifest's order."""
        return tuple(name for name, split in self.splits.items() if role in split.roles)

    @property
    def report_split(self) -> str:
        """The split whose figure the literature prints."""
        return self.splits_for("report")[0]


def _check_template(template: str, allowed: set[str], field: str) -> None:
    names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    if not names or not names <= allowed:
        raise ValueError(
            f"{field} {template!r} must use {sorted(allowed)}, it uses {sorted(names)}"
        )


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
