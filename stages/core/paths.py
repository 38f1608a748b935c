"""The one rule for paths that come out of data: they stay below the folder the user named.

Video names are read from annotation files that anyone may have written. `contained_path` turns
such a name into a path, or refuses it with the reason; everything that opens a file by a name
from data goes through it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from stages.core.errors import DataError

WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def relative_problem(relative: str) -> str:
    """Why `relative` may not be joined to a folder, or an empty string.

    Only the text is looked at, no file is touched. Colons, bars and leading dashes are fine:
    published video names hold them.
    """
    if not relative.strip():
        return "the name is empty"
    if "\0" in relative:
        return "the name holds a NUL character"
    if not _encodable(relative):
        return "the name is not valid text (lone surrogate)"
    if relative.startswith("/") or WINDOWS_DRIVE.match(relative):
        return "the name is an absolute path"
    if "\\" in relative:
        return "the name holds a backslash"
    if ".." in relative.split("/"):
        return "the name climbs out of the folder with '..'"
    return ""


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def stays_below(root: Path, path: Path) -> bool:
    """Whether `path`, with every symbolic link followed, is `root` or lies below it."""
    real_root = os.path.realpath(root)
    real_path = os.path.realpath(path)
    return real_path == real_root or real_path.startswith(real_root.rstrip(os.sep) + os.sep)


def contained_path(root: Path, relative: str) -> Path:
    """`root / relative`, sure to lie below `root` even through symbolic links.

    The file need not exist. `root` itself may be a symbolic link.

    Raises:
        DataError: absolute names, `..`, NUL, backslashes, invalid text, links that leave `root`.
    """
    problem = relative_problem(relative)
    if problem:
        raise DataError(f"refused path {relative!r}: {problem}", "names are relative to the folder")
    path = root / relative
    if not stays_below(root, path):
        raise DataError(
            f"refused path {relative!r}: a symbolic link leads out of {root}",
            "copy the file into the folder, or give the folder that the link points into as well",
        )
    return path
