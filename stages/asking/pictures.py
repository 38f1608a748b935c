"""The kept frames for people: PNG files named by time, and pictures inside a page.

Reads: the video once more, in its own shape.   Writes: PNG files into a folder that the user named.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stages.artifacts import atomic
from stages.asking.answers import Answered
from stages.asking.outputs import PICTURE_SIGN
from stages.asking.video import LONGEST_SIDE, Video
from stages.video.frames import FrameBatch

PAGE_SIDE = 320
"""Longest side in pixels of a picture inside a page."""
JPEG_QUALITY = 82
AT_ONCE = 64


def save_keyframes(folder: Path, video: Video, answers: Iterable[Answered]) -> dict[int, Path]:
    """Write every kept frame as a PNG in its own size; frame number -> file.

    Questions share the files of frames that several of them kept. Files of the same name are
    replaced (`check_save` refused those of others), the rest is left alone.

    Raises:
        MachineError: The disk is full.
    """
    batch = _kept(video, answers, LONGEST_SIDE)
    atomic.make_directory(folder)
    files = {}
    rows = zip(batch.indices.tolist(), batch.times.tolist(), batch.frames, strict=True)
    for frame, seconds, pixels in rows:
        files[frame] = folder / picture_name(frame, seconds)
        atomic.write_bytes(files[frame], _encoded(pixels, "PNG"))
    return files


def picture_name(frame: int, seconds: float) -> str:
    """Sorts by time: `000001.960s-frame49.png`."""
    return f"{max(seconds, 0.0):010.3f}s-frame{frame}.png"


def page_pictures(video: Video, answers: Iterable[Answered]) -> Mapping[int, str]:
    """Frame number -> data URI of every kept frame, small enough for a page."""
    batch = _kept(video, answers, PAGE_SIDE)
    return {
        frame: "data:image/jpeg;base64," + base64.b64encode(_encoded(pixels, "JPEG")).decode()
        for frame, pixels in zip(batch.indices.tolist(), batch.frames, strict=True)
    }


def jpegs(video: Video, frames: Sequence[int]) -> dict[int, bytes]:
    """Frame number -> JPEG of the page's size; a few are held as pixels at a time."""
    found = {}
    for first in range(0, len(frames), AT_ONCE):
        batch = video.pictures(frames[first : first + AT_ONCE], PAGE_SIDE)
        for frame, pixels in zip(batch.indices.tolist(), batch.frames, strict=True):
            found[frame] = _encoded(pixels, "JPEG")
    return found


def _kept(video: Video, answers: Iterable[Answered], longest: int) -> FrameBatch:
    wanted = {frame.frame for answered in answers for frame in answered.kept}
    return video.pictures(sorted(wanted), longest)


def _encoded(pixels: object, kind: str) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)  # type: ignore[arg-type]
    if kind == "PNG":
        sign = PngInfo()
        sign.add_text("Software", PICTURE_SIGN)
        image.save(buffer, kind, optimize=True, pnginfo=sign)
    else:
        image.save(buffer, kind, quality=JPEG_QUALITY)
    return buffer.getvalue()
