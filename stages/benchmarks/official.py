"""One split of a benchmark's official files: what to read, with which rules, and what to expect.

Reads annotation files, video maps and folders of videos that the user names; writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.benchmarks.layouts.custom import ColumnMap
from stages.benchmarks.manifest import load_manifest, split_name
from stages.benchmarks.readers import QuestionStream, find_video_map
from stages.benchmarks.streaming import Reading
from stages.benchmarks.video_files import HashMode, Tell, VideoFiles, identify
from stages.benchmarks.videos import check_roots, locate_videos
from stages.core.errors import UsageError


@dataclass(frozen=True)
class Sources:
    """Where the user's files are; never part of a fingerprint.

    Attributes:
        annotations: Official annotation file.
        video_roots: Folders of videos, searched in order.
        video_map: File that maps video names to paths (NExT-QA, MSVD-QA); found by itself beside
            the annotations.
        captions: File of captions for lists of videos (MSR-VTT); found by itself as well.
    """

    annotations: Path
    video_roots: list[Path]
    video_map: Path | None = None
    captions: Path | None = None


@dataclass(frozen=True)
class PrepareChoices:
    """What a user may say about the files; all of it part of the fingerprint.

    Attributes:
        hashing: What of a video its digest covers.
        columns: `FIELD=COLUMN` for a file of the user's own; see `ColumnMap.from_flags`.
        video_rule: Named rule for the videos' files.
    """

    hashing: HashMode = "edges"
    columns: tuple[str, ...] = ()
    video_rule: str = ""


class OfficialSplit:
    """One split of official files: what to read, and what decides the bytes that come out.

    Raises:
        UsageError: The benchmark is generated, or has no such split, column or video rule.
        MissingInput: A file or folder is not there.
        DataError: Unknown layout.
    """

    def __init__(
        self, benchmark: str, split: str, sources: Sources, choices: PrepareChoices
    ) -> None:
        self.manifest = load_manifest(benchmark)
        if self.manifest.generated:
            raise UsageError(f"{benchmark} is generated: it takes no annotation file")
        self.split = split_name(self.manifest, split)
        check_roots(sources.video_roots)
        self.sources, self.choices = sources, choices
        rule, path = choices.video_rule, sources.annotations
        self.mapping = sources.video_map or find_video_map(self.manifest, path, rule)
        self.stream = QuestionStream(
            self.manifest,
            self.split,
            path,
            self.mapping,
            sources.captions,
            ColumnMap.from_flags(choices.columns) if choices.columns else None,
            rule,
        )

    @property
    def label(self) -> str:
        """Default label of the artifact; it says the release where there are several."""
        release = [self.stream.release] if self.stream.release else []
        return "-".join([self.manifest.name, self.split, *release])

    def host(self) -> dict[str, Any]:
        """Where the files are on this machine."""
        captions = self.stream.captions
        return {
            "annotations": str(self.sources.annotations.absolute()),
            "video_map": str(self.mapping.absolute()) if self.mapping else None,
            "captions": str(captions.absolute()) if captions else None,
            "video_roots": [str(root.absolute()) for root in self.sources.video_roots],
        }

    def find(self, videos: Sequence[str], mode: HashMode | None, tell: Tell) -> VideoFiles:
        """The files of `videos`, identified unless `mode` is none."""
        roots = self.sources.video_roots
        extensions = self.manifest.video_rule(self.choices.video_rule).extensions
        search = locate_videos(videos, roots, extensions, self.stream.candidates)
        return VideoFiles(identify(search, roots, mode, tell), roots)

    def warnings(self, reading: Reading) -> list[str]:
        """What was odd, rows that gave no question, and each count that is not the official one."""
        found = self.manifest.splits[self.split].differences(
            reading.num_questions, len(reading.videos), self.stream.layout
        )
        which = " ".join(filter(None, [self.manifest.name, self.stream.release, self.split]))
        unread = [f"{which}: {reading.unread()}"] if reading.bad_rows else []
        counts = [f"{which}: {difference}" for difference in found]
        return [*self.stream.warnings, *unread, *counts]

    @property
    def expected_rows(self) -> int | None:
        """How many rows there should be, if anybody knows."""
        split = self.manifest.splits[self.split]
        known = split.by_layout.get(self.stream.layout, split)
        return known.questions
