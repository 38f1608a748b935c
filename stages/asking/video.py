"""The frames of one video, decoded in a process that may be killed, while others import torch.

Reads: a video file, or a folder of frames.   Writes nothing.

Axes: N frames, H x W pixels.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.artifacts.clips import ClipSpan
from stages.core.errors import DataError, MachineError, MissingInput, UsageError, VideoError
from stages.models.backbones.catalog import backbone_frames
from stages.video import decoder_identity
from stages.video.clips import SampledClip, VideoFrames
from stages.video.frames import FrameBatch
from stages.video.pool import DecodePool
from stages.video.probe import VideoInfo
from stages.video.resize import FrameFormat
from stages.video.tasks import (
    ClipFrames,
    Decoded,
    DecodeFailure,
    DecodeTask,
    ExactFrames,
    ProbeTask,
)

LONGEST_SIDE = 4096
ADDRESSES = (("http:",), ("https:",), ("file:",))
"""First parts of paths that were meant as addresses."""
VIDEO_HINT = "a video file, or a folder of jpg or png frames"
LEAVE_SECONDS = 2.0
"""How long an error waits for frames that nobody will look at, to leave no process behind."""


@dataclass(frozen=True)
class Clip:
    """A part of a video, in seconds; none: from the beginning, to the end."""

    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        for option, seconds in (("--start", self.start), ("--end", self.end)):
            if seconds is not None and not 0 <= seconds < float("inf"):
                raise UsageError(f"{option} {seconds}: a time in seconds is expected")
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise UsageError(f"the clip ends ({self.end:g} s) before it starts ({self.start:g} s)")


@dataclass(frozen=True)
class SeenVideo:
    """What a system looks at.

    Attributes:
        name: File name, as messages and pages show it.
        path: Where it is.
        info: What it is.
        clip: The part that is asked about.
        frames: N frames of it in the size of a vision tower.
    """

    name: str
    path: Path
    info: VideoInfo
    clip: Clip
    frames: VideoFrames

    @property
    def bounds(self) -> tuple[float, float]:
        """First and last second of the clip, within the video."""
        first = float(self.info.times[0])
        last = first + self.info.duration
        start = first if self.clip.start is None else max(self.clip.start, first)
        end = last if self.clip.end is None else min(self.clip.end, last)
        return start, max(end, start)


class Video:
    """A video that is opened once; its decode process ends with the `with` block.

    Args:
        path: A file, or a folder of jpg or png frames.
        decoder: `auto`, `decord` or `pyav`.
        decode_seconds: After which one pass over the video is given up; none: as `DecodePool`.

    Raises:
        MissingInput: No such file.
        UsageError: No such decoder.
    """

    def __init__(
        self, path: Path, decoder: str = "auto", decode_seconds: float | None = None
    ) -> None:
        if not path.exists():
            address = path.parts[:1] in ADDRESSES
            hint = "a video file on this machine; nothing is downloaded" if address else VIDEO_HINT
            raise MissingInput(f"no such video: {path}", hint)
        self.path, self.name = path, _own_name(path)
        self.identity = decoder_identity(decoder)
        self._pool = DecodePool(1, decoder, decode_seconds)
        self._decoding: threading.Thread | None = None
        self._info: VideoInfo | None = None

    def __enter__(self) -> Video:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._decoding is not None and kind is not KeyboardInterrupt:
            self._decoding.join(LEAVE_SECONDS)
        # Left alone while it still decodes: its process ends with this one.
        if self._decoding is None or not self._decoding.is_alive():
            self._pool.close()

    def probe(self) -> VideoInfo:
        """What the video is.

        Raises:
            VideoError: It cannot be read; carries the decoder's words.
        """
        if self._info is None:
            (result,) = self._pool.imap([ProbeTask(self.name, self.path)])
            if isinstance(result, DecodeFailure):
                raise _refusal(result)
            self._info = result.info
        return self._info

    def start_decoding(self, frames: int, backbone: str, clip: Clip) -> PendingFrames:
        """Begin to decode `frames` frames of `clip` in the size that `backbone` sees."""
        rule = FrameFormat(**backbone_frames(backbone).format_values())
        task = DecodeTask(self.name, self.path, (ClipFrames(frames, clip.start, clip.end),), rule)
        pending = PendingFrames(self, task, clip, frames)
        self._decoding = threading.Thread(target=pending.decode, args=(self._pool,), daemon=True)
        self._decoding.start()
        return pending

    def finish_decoding(self) -> None:
        """Wait for what `start_decoding` began."""
        if self._decoding is not None:
            self._decoding.join()

    def pictures(self, indices: Sequence[int], longest: int) -> FrameBatch:
        """Frames by number for people: in their own shape, the long side at most `longest`."""
        rule = FrameFormat.squash(*shown_size(self.probe(), longest))
        exact = ExactFrames(tuple(sorted(set(indices))))
        (result,) = self._pool.imap([DecodeTask(self.name, self.path, (exact,), rule)])
        if isinstance(result, DecodeFailure):
            raise _refusal(result)
        return result.batch


class PendingFrames:
    """Frames that are on their way."""

    def __init__(self, video: Video, task: DecodeTask, clip: Clip, frames: int) -> None:
        self._video, self._task, self._clip, self._frames = video, task, clip, frames
        self._outcome: Decoded | DecodeFailure | MachineError | None = None

    def decode(self, pool: DecodePool) -> None:
        """Runs in a thread of its own."""
        try:
            (self._outcome,) = pool.imap([self._task])
        except MachineError as error:
            self._outcome = error

    def result(self) -> SeenVideo:
        """The frames, once they are there.

        Raises:
            VideoError: They cannot be decoded.
            DataError: The clip lies outside the video.
        """
        self._video.finish_decoding()
        outcome = self._outcome
        if isinstance(outcome, MachineError):
            raise outcome
        if outcome is None:
            raise MachineError("decoding was interrupted", "run the same command again")
        if isinstance(outcome, DecodeFailure):
            raise _refusal(outcome)
        wanted = outcome.clips[0]
        if isinstance(wanted, DecodeFailure):
            raise DataError(f"{self._task.path}: {wanted.decoder_words}", "--start and --end")
        span = ClipSpan(0, self._task.key, self._clip.start, self._clip.end)
        sampled = SampledClip(span, self._frames, 0, wanted)
        batch = outcome.batch
        frames = VideoFrames(
            self._task.key, batch.indices, batch.times, batch.frames, [sampled], []
        )
        return SeenVideo(self._task.key, self._task.path, outcome.info, self._clip, frames)


def _own_name(path: Path) -> str:
    """The name that the user gave it, links not followed."""
    return path.resolve().name if path.name in ("", "..") else path.name


def shown_size(info: VideoInfo, longest: int) -> tuple[int, int]:
    """Width and height in pixels: as presented, or smaller."""
    largest = max(info.width, info.height)
    scale = min(1.0, min(longest, LONGEST_SIDE) / largest)
    width, height = (int(np.clip(round(side * scale), 1, LONGEST_SIDE))
                     for side in (info.width, info.height))  # fmt: skip
    return width, height


def _refusal(failure: DecodeFailure) -> VideoError:
    """What a decode process said, as an error."""
    return VideoError(failure.decoder_words, VIDEO_HINT)
