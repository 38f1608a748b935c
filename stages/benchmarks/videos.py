"""Where each video is: names from the annotation file -> files or frame folders below the roots.

Reads directory listings only, each one once; opens no video. Names are not trusted: what would
leave a root is refused with the reason, one row each.
"""

from __future__ import annotations

import os
import posixpath
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.benchmarks.manifest import VIDEO_EXTENSIONS
from stages.core.errors import DataError, MissingInput
from stages.core.paths import relative_problem, stays_below

FRAME_EXTENSIONS = (".jpg", ".jpeg", ".png")
HINT_NAMES = 20
HINT_FOLDERS = 500
HINT_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Located:
    """A video that is there."""

    root_index: int
    """Which of the given roots it lies below."""
    relative: str
    """Path below that root, with extension, `/` between parts."""
    is_folder: bool = False
    """A folder of frame images in place of a video file."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A video that is not there or may not be used."""

    video: str
    reason: str
    refused: bool = False
    """The name or its file was refused, as opposed to not found."""


@dataclass(frozen=True, slots=True)
class VideoSearch:
    """What `locate_videos` found, in the order of the names asked for."""

    found: dict[str, Located]
    missing: list[Missing]


class _Listing:
    """One directory, read once: entries by name, and by lower-case name for near misses."""

    def __init__(self, root: Path, folder: str) -> None:
        directory = root / folder
        self.problem = ""
        self.entries: dict[str, os.DirEntry[str]] = {}
        if stays_below(root, directory):
            self._read(directory)
        else:
            self.problem = f"a symbolic link leads out of {root}"
        self.lowered: dict[str, list[str]] = {}
        for name in sorted(self.entries):
            self.lowered.setdefault(name.lower(), []).append(name)

    def _read(self, directory: Path) -> None:
        try:
            with os.scandir(directory) as entries:
                self.entries = {entry.name: entry for entry in entries}
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self.problem = f"{directory} cannot be listed: {error.strerror}"

    def match(self, name: str, extensions: Sequence[str]) -> os.DirEntry[str] | None:
        """The entry for `name`: itself a file, else with the first extension, else a folder."""
        own = self.entries.get(name)
        if own is not None and not _is_folder(own):
            return own
        for extension in extensions:
            entry = self._with_extension(name, extension)
            if entry is not None:
                return entry
        return own

    def _with_extension(self, name: str, extension: str) -> os.DirEntry[str] | None:
        """`name.mp4`, or with the extension (only) in other letters, as in `name.MP4`."""
        exact = self.entries.get(f"{name}.{extension}")
        if exact is not None:
            return exact
        for candidate in self.lowered.get(f"{name}.{extension}".lower(), []):
            if candidate[: len(name)] == name:
                return self.entries[candidate]
        return None

    def near_miss(self, name: str, extensions: Sequence[str]) -> str:
        """A file whose name differs in upper and lower case only, or an empty string."""
        for candidate in (name, *(f"{name}.{extension}" for extension in extensions)):
            names = self.lowered.get(candidate.lower())
            if names:
                return names[0]
        return ""


def locate_videos(
    videos: Iterable[str],
    roots: Sequence[Path],
    extensions: Sequence[str] = VIDEO_EXTENSIONS,
) -> VideoSearch:
    """Find each video below the first root that has it.

    Within a root: the name itself, then the name with each extension (in any letter case), then a
    folder of frame images. Every directory is listed once, however many videos it holds.

    Args:
        videos: Names as the questions give them; repeated ones are looked for once.
        roots: Folders, searched in this order.
        extensions: Without the dot, in order of preference.

    Raises:
        MissingInput: a root is not there. DataError: a root is not a folder.
    """
    for root in roots:
        _check_root(root)
    listings: list[dict[str, _Listing]] = [{} for _ in roots]
    found: dict[str, Located] = {}
    missing: list[Missing] = []
    for video in dict.fromkeys(videos):
        place = _locate(video, roots, listings, extensions)
        if isinstance(place, Located):
            found[video] = place
        else:
            missing.append(place)
    return VideoSearch(found, missing)


def _check_root(root: Path) -> None:
    if not root.exists():
        raise MissingInput(f"video folder not found: {root}", "check --videos")
    if not root.is_dir():
        raise DataError(f"not a folder of videos: {root}", "check --videos")


def _locate(
    video: str,
    roots: Sequence[Path],
    listings: list[dict[str, _Listing]],
    extensions: Sequence[str],
) -> Located | Missing:
    problem = relative_problem(video)
    if problem:
        return Missing(video, problem, refused=True)
    folder, name = posixpath.split(posixpath.normpath(video))
    first_problem: Missing | None = None
    for index, root in enumerate(roots):
        listing = listings[index].get(folder)
        if listing is None:
            listing = listings[index][folder] = _Listing(root, folder)
        place = _in_listing(video, listing, name, index, folder, root, extensions)
        if isinstance(place, Located):
            return place
        first_problem = first_problem or place
    return first_problem or Missing(video, "not found")


def _in_listing(
    video: str,
    listing: _Listing,
    name: str,
    index: int,
    folder: str,
    root: Path,
    extensions: Sequence[str],
) -> Located | Missing | None:
    """The video in one directory, why not, or none when there is nothing to say."""
    if listing.problem:
        return Missing(video, listing.problem, refused=True)
    entry = listing.match(name, extensions)
    if entry is None:
        near = listing.near_miss(name, extensions)
        return Missing(video, f"not found; {near} differs in letter case") if near else None
    if entry.is_symlink() and not stays_below(root, Path(entry.path)):
        return Missing(video, f"{entry.name}: a symbolic link leads out of {root}", refused=True)
    relative = posixpath.join(folder, entry.name)
    if _is_file(entry):
        return Located(index, relative)
    if _is_folder(entry) and _holds_frames(Path(entry.path)):
        return Located(index, relative, is_folder=True)
    what = "a folder without frame images" if _is_folder(entry) else "not a regular file"
    return Missing(video, f"{entry.name} is {what}")


def _is_file(entry: os.DirEntry[str]) -> bool:
    """False also for a loop of links, where `DirEntry` itself raises."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _holds_frames(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith(FRAME_EXTENSIONS) for entry in entries)
    except OSError:
        return False


def folder_with(videos: Sequence[str], roots: Sequence[Path]) -> Path | None:
    """A folder below the roots that has one of the first names, for the hint when all are missing.

    Most often `--videos` names the folder above the right one. Looks at few names and folders.
    """
    names = [video for video in videos if not relative_problem(video)][:HINT_NAMES]
    for folder in _folders_below(roots):
        if locate_videos(names, [folder]).found:
            return folder
    return None


def _folders_below(roots: Sequence[Path]) -> Iterator[Path]:
    """Folders below the roots, nearest first; links are not followed."""
    waiting = deque((root, 0) for root in roots)
    seen = 0
    while waiting and seen < HINT_FOLDERS:
        folder, depth = waiting.popleft()
        try:
            with os.scandir(folder) as entries:
                inside = sorted(e.path for e in entries if e.is_dir(follow_symlinks=False))
        except OSError:
            continue
        for path in inside[: HINT_FOLDERS - seen]:
            seen += 1
            yield Path(path)
            if depth + 1 < HINT_DEPTH:
                waiting.append((Path(path), depth + 1))
