"""From a video id in somebody's annotation file to a path that stays inside the video folder."""

from __future__ import annotations

from pathlib import Path

from stages.core.errors import DataError, VideoError
from stages.core.paths import contained_path


def safe_video_path(root: Path, relative: str) -> Path:
    """The path of `relative` below `root`, whether or not a file is there.

    Raises:
        VideoError: an absolute path, `..`, NUL, a backslash, or a link that leaves `root`.
    """
    try:
        return contained_path(root, relative)
    except VideoError:
        raise
    except DataError as error:
        raise VideoError(f"video {relative!r}: {error.message}", error.hint) from None
