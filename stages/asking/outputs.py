"""Where `vqa ask` may write: never over a file that it did not make, the video least of all.

Reads: the beginning of files that are there already.   Writes nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

from stages.core.errors import UsageError

PAGE_SIGN = b"<!-- made by vqa ask -->"
PICTURE_SIGN = "made by vqa ask"
"""In a PNG's text `Software`."""
SIGN_WITHIN = 300
"""Bytes from the beginning."""
PICTURE_NAME = re.compile(r"\d{6,}\.\d{3}s-frame\d+\.png")


def check_save(video: Path, save: Path | None) -> None:
    """Refuse, before anything is computed, a folder where keyframes cannot or must not go.

    Args:
        video: That is asked about: a file, or a folder of frames.
        save: The folder, if wanted.

    Raises:
        UsageError: It is a file, the video itself, or holds pictures of others under our names.
    """
    if save is None:
        return
    _check_place("--save", save, video)
    if not save.exists():
        return
    if not save.is_dir():
        raise UsageError(f"--save {save}: a file, not a folder", "name another folder")
    for path in sorted(save.iterdir()):
        if PICTURE_NAME.fullmatch(path.name) and not _has(PICTURE_SIGN.encode(), path):
            raise UsageError(f"--save: {path} is there, and not by vqa ask", "another folder")


def check_html(video: Path, html: Path | None) -> None:
    """The same for the page, a file.

    Raises:
        UsageError: It is a folder, the video itself, or there already and no page of ours.
    """
    if html is None:
        return
    if html.is_dir():
        raise UsageError(f"--html {html}: a folder, not a file", f"--html {html / 'answer.html'}")
    _check_place("--html", html, video)
    if html.exists() and not _has(PAGE_SIGN, html):
        raise UsageError(f"--html {html} is there already, and no page of vqa ask", "another name")


def _check_place(option: str, path: Path, video: Path) -> None:
    there = next((parent for parent in path.absolute().parents if parent.exists()), None)
    if there is not None and not there.is_dir():
        raise UsageError(f"{option} {path}: {there} is a file", "a place inside a folder")
    if path.exists() and video.exists() and path.samefile(video):
        raise UsageError(f"{option} {path} is the video itself", "another name")


def _has(sign: bytes, path: Path) -> bool:
    """Whether the file begins as one of ours; what is no plain file never does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return sign in file.read(SIGN_WITHIN)
