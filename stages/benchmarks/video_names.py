"""From the video names of annotation files to paths below a video folder, and clips within them.

Reads mapping files (name -> path); writes nothing and looks at no video. What a benchmark's names
look like is data in its manifest (`VideoRule`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from stages.benchmarks.annotation_files import open_text
from stages.benchmarks.manifest import VideoRule
from stages.benchmarks.questions import refuse
from stages.core.errors import DataError

UNMAPPED = "video is not in the video map, its own name is used"
CUT_AT_CHUNK = "a clip runs over the end of its piece of the video and is cut there"


@dataclass(frozen=True, slots=True)
class Place:
    """A video's path below a video folder (without extension) and the clip in it, in seconds."""

    path: str
    start: float | None
    end: float | None


@dataclass
class VideoNames:
    """Applies one naming rule to the names of one annotation file.

    Attributes:
        rule: How names become paths.
        mapped: The mapping file's content; empty without one.
        template: The rule's, or the one of the file's dialect.
        odd: Counts what is strange but harmless, in words.
    """

    rule: VideoRule
    mapped: dict[str, str]
    template: str
    odd: Counter[str] = field(default_factory=Counter)

    def place(self, name: str, start: float | None, end: float | None) -> Place:
        """Where the clip [start, end] of the video `name` is.

        Raises:
            DataError: The name is not like the rule's pattern, or a time is missing that it needs.
        """
        if self.mapped and self.rule.mapping_use == "replace":
            path = self.mapped.get(self.rule.mapping_key.format(video=name))
            if path is not None:
                return Place(path, start, end)
            self.odd[UNMAPPED] += 1
        if self.rule.chunk_seconds:
            return self._in_chunk(name, start, end)
        if self.rule.pattern:
            return self._taken_apart(name, start, end)
        path = name if self.template == "{video}" else self.template.format(video=name)
        return Place(path, start, end)

    def _in_chunk(self, name: str, start: float | None, end: float | None) -> Place:
        """A piece holds [k * length, (k + 1) * length); the clip's times count from its begin."""
        if start is None or end is None:
            raise refuse("clips", "a piece of a video is chosen by a time, and there is none")
        length = self.rule.chunk_seconds
        chunk = int(start // length)
        offset = chunk * length
        if end > offset + length:
            self.odd[CUT_AT_CHUNK] += 1
        path = self.template.format(video=name, chunk=chunk, chunk_start=offset)
        return Place(path, start - offset, min(end, offset + length) - offset)

    def _taken_apart(self, name: str, start: float | None, end: float | None) -> Place:
        match = re.fullmatch(self.rule.pattern, name)
        if match is None:
            raise refuse("video", f"{name!r} is not like {self.rule.pattern}")
        fields = match.groupdict()
        if "first_frame" in fields:
            rate = self.rule.frames_per_second
            start, end = int(fields["first_frame"]) / rate, int(fields["end_frame"]) / rate
        return Place(self.template.format(**{"video": name, **fields}), start, end)


def find_beside(annotations: Path, name: str) -> Path | None:
    """The file `name` beside the annotation file, gzipped or not, or none."""
    if not name:
        return None
    beside = annotations.parent / name
    choices = (beside, beside.with_name(beside.name + ".gz"))
    return next((path for path in choices if path.is_file()), None)


def load_video_map(path: Path) -> dict[str, str]:
    """A JSON object `{name: path below the video folder}`, or lines `path name` (MSVD).

    Raises:
        DataError: neither of the two.
    """
    with open_text(path) as text:
        content = text.read()
    if not content.lstrip().startswith(("{", "[")):
        return _lines_as_map(content, path)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"video map {path} is not JSON: {error}") from None
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value.values()):
        raise DataError(f"video map {path} is not a JSON object of texts")
    return value


def _lines_as_map(content: str, path: Path) -> dict[str, str]:
    mapped = {}
    for number, line in enumerate(content.splitlines(), 1):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != 2:
            raise DataError(f"video map {path}: line {number} is not `path name`")
        mapped[cells[1]] = cells[0]
    return mapped
