"""Where each video is: names from the annotation file -> files or frame folders below the roots.

Reads directory listings only, each one once; opens no video. Names are not trusted: what would
leave a root is refused with the reason, one row each.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.benchmarks.manifest import VIDEO_EXTENSIONS
from stages.core.errors import DataError, MissingInput
from stages.core.paths import relative_problem, stays_below

FRAME_EXTENSIONS = (".jpg", ".jpeg", ".png")
SIGNS = re.compile(r"[^a-z0-9]+")
HINT_NAMES = 20
HINT_FOLDERS = 500
HINT_DEPTH = 3

Candidates = Callable[[str], Sequence[str]]
"""The names that a video's file may have, the likeliest first."""


def only_itself(video: str) -> Sequence[str]:
    """Where a benchmark has no other names: the one of the questions."""
    return (video,)


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
    """One directory, read once: entries by name, by lower-case name and by letters and digits."""

    def __init__(self, root: Path, folder: str) -> None:
        directory = root / folder
        self.problem = ""
        self.entries: dict[str, os.DirEntry[str]] = {}
        self._similar: dict[str, str] | None = None
        if stays_below(root, directory):
            self._read(directory)
        else:
            self.problem = "a symbolic link leads out of the video folder"
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
            self.problem = f"its folder cannot be listed: {error.strerror}"

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
        """What a person may have meant, as a sentence, or an empty string."""
        for candidate in (name, *(f"{name}.{extension}" for extension in extensions)):
            names = self.lowered.get(candidate.lower())
            if names:
                return f"{names[0]} differs in letter case"
        if self._similar is None:
            spelt = [(_letters(entry, extensions), entry) for entry in sorted(self.entries)]
            self._similar = {letters: entry for letters, entry in reversed(spelt) if letters}
        similar = self._similar.get(_letters(name, extensions))
        return f"{similar} is similar" if similar else ""


def _letters(name: str, extensions: Sequence[str]) -> str:
    """The letters and digits of a name without its extension: signs get replaced in copying."""
    stem, _, extension = name.rpartition(".")
    return SIGNS.sub("", (stem if extension.lower() in extensions else name).lower())


def locate_videos(
    videos: Iterable[str],
    roots: Sequence[Path],
    extensions: Sequence[str] = VIDEO_EXTENSIONS,
    candidates: Candidates = only_itself,
) -> VideoSearch:
    """Find each video below the first root that has it.

    Each name that the file may have is looked for in every root before the next one. Within a
    root: the name itself, then the name with each extension (in any letter case), then a folder of
    frame images. Every directory is listed once, however many videos it holds.

    Args:
        videos: Names as the questions give them; repeated ones are looked for once.
        roots: Folders, searched in this order.
        extensions: Without the dot, in order of preference.
        candidates: The names that the file of a video may have.

    Raises:
        MissingInput: a root is not there. DataError: a root is not a folder.
    """
    check_roots(roots)
    search = _Search(roots, extensions, [{} for _ in roots])
    found: dict[str, Located] = {}
    missing: list[Missing] = []
    for video in dict.fromkeys(videos):
        place = search.locate(video, candidates)
        if isinstance(place, Located):
            found[video] = place
        else:
            missing.append(place)
    return VideoSearch(found, missing)


def check_roots(roots: Sequence[Path]) -> None:
    """Refuse folders of videos that are none, before any long work.

    Raises:
        MissingInput: a root is not there. DataError: a root is not a folder.
    """
    for root in roots:
        _check_root(root)


def _check_root(root: Path) -> None:
    if not root.exists():
        raise MissingInput(f"video folder not found: {root}", "check --videos")
    if not root.is_dir():
        raise DataError(f"not a folder of videos: {root}", "check --videos")


@dataclass(frozen=True)
class _Search:
    """The roots and what is known of their directories."""

    roots: Sequence[Path]
    extensions: Sequence[str]
    listings: list[dict[str, _Listing]]

    def locate(self, video: str, candidates: Candidates) -> Located | Missing:
        """The first candidate that is there, or the first reason why none is."""
        problem = relative_problem(video)
        if problem:
            return Missing(video, problem, refused=True)
        first_problem: Missing | None = None
        for name in candidates(video):
            problem = relative_problem(name)
            place = (
                Missing(video, f"{name}: {problem}", refused=True)
                if problem
                else self._below_roots(video, posixpath.normpath(name))
            )
            if isinstance(place, Located):
                return place
            first_problem = first_problem or place
        return first_problem or Missing(video, self._not_found(video))

    def _below_roots(self, video: str, path: str) -> Located | Missing | None:
        folder, name = posixpath.split(path)
        first_problem: Missing | None = None
        for index in range(len(self.roots)):
            place = self._in_folder(video, index, folder, name)
            if isinstance(place, Located):
                return place
            first_problem = first_problem or place
        return first_problem

    def _listing(self, index: int, folder: str) -> _Listing:
        known = self.listings[index]
        if folder not in known:
            known[folder] = _Listing(self.roots[index], folder)
        return known[folder]

    def _in_folder(
        self, video: str, index: int, folder: str, name: str
    ) -> Located | Missing | None:
        """The video in one directory, why not, or none when there is nothing to say."""
        listing = self._listing(index, folder)
        if listing.problem:
            return Missing(video, listing.problem, refused=True)
        entry = listing.match(name, self.extensions)
        if entry is None:
            near = listing.near_miss(name, self.extensions)
            return Missing(video, f"not found; {near}") if near else None
        path = Path(entry.path)
        if entry.is_symlink() and not stays_below(self.roots[index], path):
            reason = f"{entry.name}: a symbolic link leads out of the video folder"
            return Missing(video, reason, refused=True)
        relative = posixpath.join(folder, entry.name)
        if _is_file(entry):
            return Located(index, relative)
        if _is_folder(entry) and _holds_frames(path):
            return Located(index, relative, is_folder=True)
        what = "a folder without frame images" if _is_folder(entry) else "not a regular file"
        return Missing(video, f"{entry.name} is {what}")

    def _not_found(self, video: str) -> str:
        """With a word on files that lie flat in a root where the name has folders."""
        folder, name = posixpath.split(posixpath.normpath(video))
        for index in range(len(self.roots)) if folder else ():
            entry = self._listing(index, "").match(name, self.extensions)
            if entry is not None and _is_file(entry):
                return f"not found; {entry.name} lies in the video folder itself, not in {folder}/"
        return "not found"


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


def folder_with(
    videos: Sequence[str], roots: Sequence[Path], candidates: Candidates = only_itself
) -> Path | None:
    """A folder below the roots that has one of the first names, for the hint when all are missing.

    Most often `--videos` names the folder above the right one. Looks at few names and folders.
    """
    names = [video for video in videos if not relative_problem(video)][:HINT_NAMES]
    for folder in _folders_below(roots):
        if locate_videos(names, [folder], candidates=candidates).found:
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
