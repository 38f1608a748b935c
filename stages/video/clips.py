"""Clips of many videos as decoded frames: what both `extract-frames` and `extract-features` read.

A video is decoded once for all its clips; its frames are the union over clips, frame counts and
views. View 0 is the midpoint rule; views 1..V are random draws from (seed, video, clip, view).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from stages.artifacts.clips import ClipSpan, Failure
from stages.artifacts.questions import (
    QUESTIONS_TABLE,
    question_columns,
    video_records,
    video_roots,
)
from stages.artifacts.store import Artifact
from stages.core.config import Config
from stages.core.errors import DataError
from stages.video.pool import DecodePool
from stages.video.probe import FRAME_FOLDER_FPS
from stages.video.resize import FrameFormat
from stages.video.safety import safe_video_path
from stages.video.sampling import count_repeats
from stages.video.tasks import ClipFrames, DecodeFailure, DecodeTask, ViewDraw

CLIP_COLUMNS = ("videos", "clips", "start", "end")


class SamplingConfig(Config):
    """Which frames of a clip are taken."""

    frames: tuple[int, ...] = Field(min_length=1)
    """Frame counts N; each clip is sampled once per N. Largest first."""
    views: int = Field(default=0, ge=0)
    """Random draws per clip and N besides the midpoints, for training."""
    seed: int = Field(default=42, ge=0)
    """Seed of the random draws."""
    folder_fps: float = FRAME_FOLDER_FPS
    """Rate of frame folders, in frames per second."""

    @field_validator("frames")
    @classmethod
    def _largest_first(cls, frames: tuple[int, ...]) -> tuple[int, ...]:
        if min(frames) < 1:
            raise ValueError(f"frame counts must be at least 1, not {min(frames)}")
        return tuple(sorted(set(frames), reverse=True))

    def samplings(self) -> list[tuple[int, int]]:
        """(N, view) in the order in which they are planned."""
        return [(count, view) for count in self.frames for view in range(self.views + 1)]


@dataclass(frozen=True)
class VideoWork:
    """One video and its clips.

    Attributes:
        video: Name in the questions.
        path: The file or frame folder; None if it cannot be used.
        problem: Why it cannot be used.
        clips: Clips that questions are about.
    """

    video: str
    path: Path | None
    problem: str
    clips: tuple[ClipSpan, ...]


@dataclass(frozen=True)
class SampledClip:
    """One sampling of one clip: frame numbers within the video, with repeats."""

    span: ClipSpan
    frames: int
    view: int
    indices: NDArray[np.int64]

    @property
    def repeated(self) -> int:
        """How many of the frames repeat an earlier one."""
        return count_repeats(self.indices)


@dataclass(frozen=True)
class VideoFrames:
    """The decoded frames of one video and the clips that use them.

    Attributes:
        video: Name in the questions.
        indices: int64 [U], frame numbers, ascending, each once.
        times: float64 [U], presentation times in seconds.
        pixels: uint8 [U, H, W, 3].
        clips: What could be sampled.
        failures: Clips that could not, one row each.
    """

    video: str
    indices: NDArray[np.int64]
    times: NDArray[np.float64]
    pixels: NDArray[np.uint8]
    clips: list[SampledClip]
    failures: list[Failure]

    def rows(self, clip: SampledClip) -> NDArray[np.int64]:
        """Positions of a clip's frames within `pixels`."""
        return np.searchsorted(self.indices, clip.indices).astype(np.int64)


def video_works(
    questions: Artifact, spans: Sequence[ClipSpan], videos: dict[str, dict[str, Any]]
) -> list[VideoWork]:
    """Group clips by video, in the order in which the questions name the videos."""
    roots = video_roots(questions)
    grouped: dict[str, list[ClipSpan]] = {}
    for span in spans:
        grouped.setdefault(span.video, []).append(span)
    works = []
    for video, clips in grouped.items():
        record = videos[video]
        usable = record["status"] == "found"
        path = safe_video_path(roots[record["root"]], record["path"]) if usable else None
        problem = "" if usable else f"{record['status']}: {record['reason']}"
        works.append(VideoWork(video, path, problem, tuple(clips)))
    return works


def clip_spans(questions: Artifact) -> list[ClipSpan]:
    """The distinct clips of the questions, numbered in order of first mention."""
    spans: dict[tuple[Any, ...], ClipSpan] = {}
    for videos, clips, start, end in question_columns(questions, CLIP_COLUMNS):
        for number, video in enumerate(videos):
            # Candidate videos have a clip each; start and end are those of a single video.
            key = (video, *(clips[number] if clips else (start, end)))
            if key not in spans:
                spans[key] = ClipSpan(len(spans), *key)
    return list(spans.values())


def clip_works(questions: Artifact) -> list[VideoWork]:
    """Every video with its clips.

    Raises:
        DataError: There is no question.
    """
    works = video_works(questions, clip_spans(questions), video_records(questions))
    if not works:
        raise DataError(f"{questions.path / QUESTIONS_TABLE} holds no question")
    return works


def decode_videos(
    works: Iterable[VideoWork],
    sampling: SamplingConfig,
    frame_format: FrameFormat,
    pool: DecodePool,
    stage: str,
) -> Iterator[VideoFrames]:
    """Decode every work in order; works without a usable file give failures only.

    `works` is taken lazily, a bounded number ahead of the result being waited for.
    """
    waiting: list[VideoWork] = []

    def tasks() -> Iterator[DecodeTask]:
        for work in works:
            waiting.append(work)
            if work.path is not None:
                yield _task(work, work.path, sampling, frame_format)

    for result in pool.imap(tasks()):
        while waiting[0].path is None:
            yield _unusable(waiting.pop(0), frame_format, stage)
        work = waiting.pop(0)
        if isinstance(result, DecodeFailure):
            yield _failed(work, frame_format, stage, result)
            continue
        yield _sampled(work, sampling, result, stage)
    for work in waiting:
        yield _unusable(work, frame_format, stage)


def _task(
    work: VideoWork, path: Path, sampling: SamplingConfig, frame_format: FrameFormat
) -> DecodeTask:
    plans = tuple(
        _plan(sampling, work.video, span, count, view)
        for span in work.clips
        for count, view in sampling.samplings()
    )
    return DecodeTask(work.video, path, plans, frame_format, sampling.folder_fps)


def _plan(
    sampling: SamplingConfig, video: str, span: ClipSpan, count: int, view: int
) -> ClipFrames:
    draw = ViewDraw(sampling.seed, video, f"{span.id}#{count}", view) if view else None
    return ClipFrames(count, span.start, span.end, draw)


def _sampled(work: VideoWork, sampling: SamplingConfig, result: Any, stage: str) -> VideoFrames:
    per_clip = len(sampling.samplings())
    clips: list[SampledClip] = []
    failures: list[Failure] = []
    for number, span in enumerate(work.clips):
        outcomes = result.clips[number * per_clip : (number + 1) * per_clip]
        failed = next((item for item in outcomes if isinstance(item, DecodeFailure)), None)
        if failed is not None:
            words = _without_folder(failed.decoder_words, work)
            failures.append(Failure(span.id, stage, failed.reason, words))
            continue
        clips += [
            SampledClip(span, count, view, indices)
            for (count, view), indices in zip(sampling.samplings(), outcomes, strict=True)
        ]
    batch = result.batch
    return VideoFrames(work.video, batch.indices, batch.times, batch.frames, clips, failures)


def _failed(
    work: VideoWork, frame_format: FrameFormat, stage: str, failure: DecodeFailure
) -> VideoFrames:
    words = _without_folder(failure.decoder_words, work)
    return _nothing(
        work,
        frame_format,
        [Failure(span.id, stage, failure.reason, words) for span in work.clips],
    )


def _unusable(work: VideoWork, frame_format: FrameFormat, stage: str) -> VideoFrames:
    failures = [Failure(span.id, stage, "no video", work.problem) for span in work.clips]
    return _nothing(work, frame_format, failures)


def _nothing(work: VideoWork, frame_format: FrameFormat, failures: list[Failure]) -> VideoFrames:
    empty = np.zeros((0, frame_format.height, frame_format.width, 3), dtype=np.uint8)
    none = np.zeros(0, dtype=np.int64)
    return VideoFrames(work.video, none, none.astype(np.float64), empty, [], failures)


def _without_folder(words: str, work: VideoWork) -> str:
    """Absolute paths never enter data files: they would make equal runs differ."""
    return words if work.path is None else words.replace(str(work.path), work.video)
