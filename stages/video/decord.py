"""Frames through decord, the published systems' decoder, only where it can be trusted.

decord 0.6.0 returns wrong frames without an error on files with edit lists, open groups of pictures
(HEVC, H.264, MPEG-4 with B frames) and rolling intra refresh, and conceals damage.
It is used behind a gate of facts from `probe`, and its answer is kept only if it counted the same
frames at the same times and its FFmpeg had nothing to complain about. Everything else goes to PyAV,
which gives the same bytes wherever both decode.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from stages.video.frames import FrameBatch, wanted_frames
from stages.video.probe import VideoInfo
from stages.video.pyav import PyAvDecoder
from stages.video.resize import FrameFormat

_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "mpeg4"})


class DecordDecoder:
    """decord behind the gate, PyAV otherwise; `FrameBatch.decoder` says which one it was.

    Not for threads: file descriptor 2 is redirected while decord runs, to hear its complaints.
    """

    name = "decord"

    def __init__(self) -> None:
        self._fallback = PyAvDecoder()

    @property
    def version(self) -> str:
        return version("decord")

    def frames(
        self,
        path: Path,
        info: VideoInfo,
        indices: Sequence[int] | NDArray[np.int64],
        frame_format: FrameFormat,
    ) -> FrameBatch:
        """See `Decoder.frames`."""
        asked, unique, positions = wanted_frames(path, info, indices)
        pixels = None
        if len(unique) and passes_gate(info):
            pixels = _read(path, info, unique, frame_format)
        if pixels is None:
            return self._fallback.frames(path, info, asked, frame_format)
        return FrameBatch(asked, info.times[asked], pixels[positions], self.name)


def passes_gate(info: VideoInfo) -> bool:
    """Whether decord counts and orders this file's frames as they are presented."""
    return (
        info.codec in _CODECS
        and not info.frame_files
        and not info.has_edit_list
        and info.num_packets == info.num_frames
        and info.seekable
        and info.closed_groups
    )


def _read(
    path: Path, info: VideoInfo, unique: NDArray[np.int64], frame_format: FrameFormat
) -> NDArray[np.uint8] | None:
    """`uint8[len(unique), height, width, 3]`, or None if decord's answer is not to be trusted."""
    import decord

    width, height = frame_format.scaled_size(info.width, info.height)
    # Sound files say nothing at this level; damaged ones say what was concealed.
    decord.logging.set_level(decord.logging.INFO)
    with _native_complaints() as complaints:
        try:
            reader = decord.VideoReader(
                str(path.absolute()), ctx=decord.cpu(0), width=width, height=height, num_threads=1
            )
            if len(reader) != info.num_frames or not _same_times(reader, info, unique):
                return None
            pixels: NDArray[np.uint8] = reader.get_batch(unique.tolist()).asnumpy()
            # Never kept: a reader goes on decoding in the background.
            del reader
        except (decord.DECORDError, RuntimeError, IndexError):
            return None
        if complaints.seek(0, os.SEEK_END) > 0:
            return None
    if pixels.shape != (len(unique), height, width, 3):
        return None
    return frame_format.cropped(pixels) if frame_format.kind == "crop" else pixels


def _same_times(reader: object, info: VideoInfo, unique: NDArray[np.int64]) -> bool:
    starts = np.asarray(reader.get_frame_timestamp(unique.tolist()))[:, 0]  # type: ignore[attr-defined]
    # decord keeps times in single precision.
    tolerance = 1e-3 + 1e-6 * float(np.abs(info.times[-1]))
    return bool(np.all(np.abs(starts - info.times[unique]) <= tolerance))


@contextmanager
def _native_complaints() -> Iterator[IO[bytes]]:
    """A file that receives what native code writes to file descriptor 2 meanwhile."""
    with tempfile.TemporaryFile() as heard:
        saved = os.dup(2)
        os.dup2(heard.fileno(), 2)
        try:
            yield heard
        finally:
            os.dup2(saved, 2)
            os.close(saved)
