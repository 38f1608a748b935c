"""What identifies a video: its size and a digest, never its folder or its time stamps.

Reads the located files' bytes (their edges, or all of them); opens none as a video.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stages.artifacts import atomic
from stages.benchmarks.videos import Located, VideoSearch
from stages.core.errors import UsageError

HashMode = Literal["edges", "full"]
Tell = Callable[[int, int], None]
"""Told how many of how many are done."""

EDGE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class VideoFile:
    """What is known of a video before it is opened as one.

    Attributes:
        video: Name in the questions.
        status: `found`, `missing`, `undecodable` or `refused`.
        reason: Why it cannot be used.
        root: Which of the given folders it lies below, -1 for none.
        relative: Path below that folder.
    """

    video: str
    status: str
    reason: str = ""
    root: int = -1
    relative: str = ""
    size: int = 0
    digest: str = ""

    def identity(self) -> list[Any]:
        """What a fingerprint covers."""
        return [self.video, self.status, self.relative, self.size, self.digest]


@dataclass(frozen=True, slots=True)
class VideoFiles:
    """Every video of a split, by name, and the folders that their paths count from."""

    files: list[VideoFile]
    roots: Sequence[Path]

    def digest(self) -> str:
        """What the fingerprint holds of them."""
        return atomic.sha256_json([file.identity() for file in self.files])

    def found(self) -> list[tuple[str, Path]]:
        """Name and path of each video that is there."""
        return [
            (file.video, self.roots[file.root] / file.relative)
            for file in self.files
            if file.status == "found"
        ]


def hash_mode(name: str) -> HashMode:
    """Check the name of a hash mode."""
    known: dict[str, HashMode] = {"edges": "edges", "full": "full"}
    if name in known:
        return known[name]
    raise UsageError(f"--hash {name!r}", "edges or full")


def identify(
    search: VideoSearch,
    roots: Sequence[Path],
    mode: HashMode | None,
    tell: Tell,
) -> list[VideoFile]:
    """Every video that was looked for, by name, with size and digest where it was found.

    Args:
        search: Where the videos are.
        roots: The folders searched.
        mode: What of a video its digest covers; none: no digests, for a look without a run.
        tell: Told how far it is.
    """
    files = [
        VideoFile(item.video, "refused" if item.refused else "missing", item.reason)
        for item in search.missing
    ]
    for number, (video, place) in enumerate(search.found.items(), 1):
        files.append(_identify(video, place, roots[place.root_index], mode))
        tell(number, len(search.found))
    return sorted(files, key=lambda file: file.video)


def _identify(video: str, place: Located, root: Path, mode: HashMode | None) -> VideoFile:
    path = root / place.relative
    if mode is None:
        return VideoFile(video, "found", "", place.root_index, place.relative)
    try:
        if place.is_folder:
            size, digest = _folder_digest(path)
        else:
            size, digest = path.stat().st_size, _file_digest(path, mode)
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        return VideoFile(video, "undecodable", reason, place.root_index, place.relative)
    return VideoFile(video, "found", "", place.root_index, place.relative, size, digest)


def _file_digest(path: Path, mode: HashMode) -> str:
    if mode == "full":
        return atomic.sha256_file(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(EDGE_BYTES))
        start = max(file.tell(), path.stat().st_size - EDGE_BYTES)
        file.seek(start)
        digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()


def _folder_digest(path: Path) -> tuple[int, str]:
    """A frame folder is its images' names and sizes."""
    entries = sorted((item.name, item.stat().st_size) for item in path.iterdir())
    return sum(size for _, size in entries), atomic.sha256_json(entries)
