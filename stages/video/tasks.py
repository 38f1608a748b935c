"""What a decode worker is asked and what it answers; everything here crosses process borders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from stages.core.errors import DataError, VideoError
from stages.core.midpoints import Indices, midpoint_indices
from stages.video import load_decoder
from stages.video.frames import FrameBatch
from stages.video.probe import FRAME_FOLDER_FPS, VideoInfo, probe
from stages.video.resize import FrameFormat
from stages.video.sampling import (
    clip_bounds,
    random_indices,
    view_rng,
)

Reason = Literal["unreadable", "clip", "deadline", "crashed"]


class FramePlan(Protocol):
    """Which frames of a video are wanted, decided in the worker once the video is probed."""

    def __call__(self, info: VideoInfo) -> Indices:
        """Frame numbers, repeats allowed; raises `DataError` for an impossible clip."""
        ...


@dataclass(frozen=True)
class ViewDraw:
    """What makes a training view's draw reproducible: (seed, video, clip, view)."""

    seed: int
    video: str
    clip: str
    view: int


@dataclass(frozen=True)
class ClipFrames:
    """n frames of the clip [start, end) seconds: midpoints, or one view's random draw."""

    n: int
    start: float | None = None
    end: float | None = None
    draw: ViewDraw | None = None

    def __call__(self, info: VideoInfo) -> Indices:
        lo, hi = clip_bounds(
            info.times,
            info.duration,
            info.average_fps,
            info.constant_rate,
            self.start,
            self.end,
        )
        if self.draw is None:
            return midpoint_indices(lo, hi, self.n)
        view = self.draw
        return random_indices(lo, hi, self.n, view_rng(view.seed, view.video, view.clip, view.view))


@dataclass(frozen=True)
class ExactFrames:
    """Frames given by number."""

    indices: tuple[int, ...]

    def __call__(self, info: VideoInfo) -> Indices:
        return np.array(self.indices, dtype=np.int64)


@dataclass(frozen=True)
class ProbeTask:
    """Ask what a video is."""

    key: str
    path: Path
    folder_fps: float = FRAME_FOLDER_FPS


@dataclass(frozen=True)
class DecodeTask:
    """Ask for the frames of one or more clips of one video."""

    key: str
    path: Path
    plans: tuple[FramePlan, ...]
    frame_format: FrameFormat
    folder_fps: float = FRAME_FOLDER_FPS


Task = ProbeTask | DecodeTask


@dataclass(frozen=True)
class DecodeFailure:
    """One video, or one clip of it, that gave nothing: a row of the failures table."""

    key: str
    path: Path
    reason: Reason
    """`unreadable`: the decoder refused it; `clip`: impossible times; `deadline`: it took too
    long and its process was killed; `crashed`: the decoder took its process down."""

    decoder_words: str


@dataclass(frozen=True, eq=False)
class Probed:
    """The answer to `ProbeTask`."""

    key: str
    info: VideoInfo


@dataclass(frozen=True, eq=False)
class Decoded:
    """The answer to `DecodeTask`.

    `batch` holds the union of all plans' frames once, in presentation order. `clips[i]` are the
    frame numbers plan i asked for, with repeats, or why that clip failed.
    """

    key: str
    info: VideoInfo
    clips: tuple[Indices | DecodeFailure, ...]
    batch: FrameBatch

    def rows(self, clip: int) -> Indices:
        """Rows of `batch` that hold clip's frames in order; the clip must not have failed."""
        wanted = self.clips[clip]
        if isinstance(wanted, DecodeFailure):
            raise VideoError(wanted.decoder_words)
        return np.searchsorted(self.batch.indices, wanted).astype(np.int64)


Result = Probed | Decoded | DecodeFailure


def run_task(task: Task, decoder: str, probed: Callable[[VideoInfo], None]) -> Result:
    """Do `task` here and now. `probed` is told the video's facts before any decoding."""
    try:
        info = probe(task.path, task.folder_fps)
        probed(info)
        if isinstance(task, ProbeTask):
            return Probed(task.key, info)
        return _decode(task, info, decoder)
    except DataError as error:
        return _failure(task, "unreadable", error.message)
    except MemoryError:
        return _failure(task, "unreadable", f"{task.path}: not enough memory to decode it")


def _decode(task: DecodeTask, info: VideoInfo, decoder: str) -> Decoded:
    clips = [_planned(task, plan, info) for plan in task.plans]
    good = [clip for clip in clips if not isinstance(clip, DecodeFailure)]
    try:
        return Decoded(task.key, info, tuple(clips), _read(task, info, decoder, good))
    except VideoError:
        if len(good) < 2:
            raise
    # Damage in one clip must not cost the others.
    return _decode_clip_by_clip(task, info, decoder, clips)


def _decode_clip_by_clip(
    task: DecodeTask, info: VideoInfo, decoder: str, clips: list[Indices | DecodeFailure]
) -> Decoded:
    for number, clip in enumerate(clips):
        if isinstance(clip, DecodeFailure):
            continue
        try:
            _read(task, info, decoder, [clip])
        except VideoError as error:
            clips[number] = _failure(task, "unreadable", error.message)
    good = [clip for clip in clips if not isinstance(clip, DecodeFailure)]
    return Decoded(task.key, info, tuple(clips), _read(task, info, decoder, good))


def _planned(task: DecodeTask, plan: FramePlan, info: VideoInfo) -> Indices | DecodeFailure:
    try:
        return plan(info)
    except DataError as error:
        return _failure(task, "clip", error.message)


def _read(task: DecodeTask, info: VideoInfo, decoder: str, clips: list[Indices]) -> FrameBatch:
    union = np.unique(np.concatenate([np.empty(0, np.int64), *clips]))
    return load_decoder(decoder).frames(task.path, info, union, task.frame_format)


def _failure(task: Task, reason: Reason, words: str) -> DecodeFailure:
    return DecodeFailure(task.key, task.path, reason, words)
