"""Frames through PyAV: exact by presentation time, on every platform, every container it may open.

Reads a video file or a folder of frames. A frame with decoding errors anywhere between its key
frame and itself is refused, never returned with concealed parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import VideoError
from stages.video.frames import FrameBatch, wanted_frames
from stages.video.probe import (
    EXPLODING_CODECS,
    VideoInfo,
    be_strict,
    clockwise,
    ffmpeg_log,
    open_image,
    open_video,
)
from stages.video.resize import FrameFormat

_TURNS = {90: [("transpose", "clock")], 180: [("hflip", ""), ("vflip", "")]}
_TURNS[270] = [("transpose", "cclock")]


class PyAvDecoder:
    """The decoder that is exact everywhere; also what decord falls back to."""

    name = "pyav"

    @property
    def version(self) -> str:
        return version("av")

    def frames(
        self,
        path: Path,
        info: VideoInfo,
        indices: Sequence[int] | NDArray[np.int64],
        frame_format: FrameFormat,
    ) -> FrameBatch:
        """See `Decoder.frames`."""
        asked, unique, positions = wanted_frames(path, info, indices)
        scale = _Scaler(frame_format)
        pixels = np.empty((len(unique), frame_format.height, frame_format.width, 3), np.uint8)
        if info.frame_files:
            for row, index in enumerate(unique):
                pixels[row] = scale(_read_image(path / info.frame_files[index]))
        else:
            found = np.zeros(len(unique), dtype=bool)
            with ffmpeg_log() as log:
                for row, frame in _decoded(path, info, unique):
                    pixels[row], found[row] = scale(frame), True
            _refuse_faults(path, info, log)
            _refuse_missing(path, info, unique[~found])
        return FrameBatch(asked, info.times[asked], pixels[positions], self.name)


class _Scaler:
    """Turns, scales and crops frames to the stored format; one filter graph per kind of frame."""

    def __init__(self, frame_format: FrameFormat) -> None:
        self._format = frame_format
        self._key: tuple[Any, ...] = ()
        self._graph: Any = None

    def __call__(self, frame: Any) -> NDArray[np.uint8]:
        """`uint8[height, width, 3]` of a decoded frame."""
        rotation = clockwise(frame.rotation)
        size = (frame.format.name, frame.width, frame.height)
        key = (*size, rotation, frame.colorspace, frame.color_range)
        if key != self._key:
            self._graph, self._key = self._build(frame, rotation), key
        self._graph.push(frame)
        rgb: NDArray[np.uint8] = self._graph.pull().to_ndarray()
        return rgb if self._format.kind == "squash" else self._format.cropped(rgb)

    def _build(self, frame: Any, rotation: int) -> Any:
        import av.filter

        size = (frame.width, frame.height)
        width, height = self._format.scaled_size(*(size[::-1] if rotation in (90, 270) else size))
        graph = av.filter.Graph()
        last = graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=frame.time_base or 1,
        )
        steps = [
            *_TURNS.get(rotation, []),
            ("scale", f"{width}:{height}:flags=bilinear"),
            ("format", "rgb24"),
            ("buffersink", ""),
        ]
        for filter_name, arguments in steps:
            node = graph.add(filter_name, arguments) if arguments else graph.add(filter_name)
            last.link_to(node)
            last = node
        graph.configure()
        return graph


def _decoded(path: Path, info: VideoInfo, unique: NDArray[np.int64]) -> Iterator[tuple[int, Any]]:
    """(row, frame) for the rows of `unique` that can be decoded, in any order."""
    if not info.seekable:
        yield from _in_order(path, info, unique)
        return
    import av

    targets = {int(info.pts[index]): row for row, index in enumerate(unique)}
    with open_video(path) as (container, stream):
        be_strict(stream)
        for key_dts, stamps in _by_key_frame(info, targets):
            missing = set(stamps)
            try:
                for frame in _from_key_frame(path, info, container, stream, key_dts, max(stamps)):
                    if frame.pts in missing:
                        missing.discard(frame.pts)
                        yield targets[frame.pts], frame
            except (av.error.InvalidDataError, VideoError):
                if key_dts is None:
                    raise
            if missing:
                break
        else:
            return
    # The container's index leads past the frame, or the key frame was none.
    yield from _in_order(path, info, unique)


def _in_order(path: Path, info: VideoInfo, unique: NDArray[np.int64]) -> Iterator[tuple[int, Any]]:
    """Like `_decoded`, counting frames from the beginning instead of seeking."""
    if not len(unique):
        return
    rows = {int(index): row for row, index in enumerate(unique)}
    by_stamp = {int(info.pts[index]): int(index) for index in unique} if info.seekable else {}
    last = int(unique[-1])
    with open_video(path) as (container, stream):
        be_strict(stream)
        for count, frame in enumerate(_sound_frames(path, info, container, stream)):
            index = by_stamp.get(frame.pts) if info.seekable else count
            if index in rows:
                yield rows[index], frame
                if index == last:
                    return


def _by_key_frame(
    info: VideoInfo, targets: dict[int, int]
) -> Iterator[tuple[int | None, list[int]]]:
    """(decoding time stamp to seek to, wanted presentation stamps), one pair per key frame."""
    starts = info.key_frames[:, 0]
    groups: dict[int, list[int]] = {}
    for stamp in sorted(targets):
        groups.setdefault(int(np.searchsorted(starts, stamp, side="right")) - 1, []).append(stamp)
    for key, stamps in groups.items():
        # The first group needs no seek, and a file without a first key frame allows none.
        yield (int(info.key_frames[key].min()) if key > 0 else None), stamps


def _from_key_frame(
    path: Path, info: VideoInfo, container: Any, stream: Any, dts: int | None, last: int
) -> Iterator[Any]:
    """Decoded frames from the key frame at `dts` (None: where the file is) until past `last`."""
    if dts is not None:
        container.seek(dts, stream=stream, backward=True)
    for frame in _sound_frames(path, info, container, stream):
        yield frame
        if frame.pts is not None and frame.pts >= last:
            return


def _sound_frames(path: Path, info: VideoInfo, container: Any, stream: Any) -> Iterator[Any]:
    """What decodes from here, refusing pictures built on ones that are not there."""
    # Edit lists hide the key frame before the first shown picture; H.264 and HEVC hold back
    # pictures without a base themselves.
    needs_key = not info.has_edit_list and info.codec not in ("h264", "hevc")
    for count, frame in enumerate(container.decode(stream)):
        baseless = count == 0 and needs_key and not frame.key_frame
        if frame.is_corrupt or baseless:
            raise VideoError(f"{path}: the picture at {frame.time} s builds on a missing one")
        yield frame


def _refuse_faults(path: Path, info: VideoInfo, log: list[Any]) -> None:
    """Refuse what FFmpeg says it patched up, and errors of codecs that do not raise them."""
    import av

    for level, who, words in log:
        silent_error = level <= av.logging.ERROR and info.codec not in EXPLODING_CODECS
        if silent_error or "concealing" in words:
            raise VideoError(f"{path}: {who}: {words.strip()}")


def _refuse_missing(path: Path, info: VideoInfo, missing: NDArray[np.int64]) -> None:
    if len(missing):
        index = int(missing[0])
        raise VideoError(
            f"{path}: frame {index} at {float(info.times[index]):.3f} s cannot be decoded "
            f"({len(missing)} of the asked frames)"
        )


def _read_image(path: Path) -> Any:
    import av
    from PIL import ImageOps

    with open_image(path) as image:
        rgb = np.ascontiguousarray(ImageOps.exif_transpose(image).convert("RGB"))
    return av.VideoFrame.from_ndarray(rgb, format="rgb24")
