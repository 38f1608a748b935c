"""Decode the frames that a backbone will look at and store them without loss.

Reads: questions.   Writes: frames (HDF5 shards of uint8 rows, index in Parquet).
Each video is decoded once for all its clips, frame counts and views. Contract: docs/artifacts.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import Field

from stages.artifacts.atomic import free_bytes
from stages.artifacts.clips import (
    ANY_CLIP,
    Failure,
    StoredClip,
    StoredRow,
    merge_records,
    shard_record,
)
from stages.artifacts.questions import video_roots
from stages.artifacts.result import StageResult, finished_result, unfinished_result
from stages.artifacts.rows import encode_rows
from stages.artifacts.shard_stream import stream_shards
from stages.artifacts.shards import Claim, ShardedDraft, reusable, split_into_shards
from stages.artifacts.store import Artifact, Draft, Request, Workspace
from stages.benchmarks.clip_counts import clips_in_videos
from stages.core.config import Config
from stages.core.errors import DataError
from stages.core.memory import Peak, require_room
from stages.core.runtime import Runtime
from stages.engines import Build, Built, ShardWork, build_shards
from stages.models.memory import decoding_peak
from stages.video import decoder_identity
from stages.video.clips import (
    SamplingConfig,
    VideoFrames,
    VideoWork,
    clip_works,
    decode_videos,
)
from stages.video.pool import DecodePool
from stages.video.resize import FrameFormat

STAGE = "extract-frames"
STEM = "frames"
SHARD_BYTES = 128 * 1024 * 1024


class FramesConfig(Config):
    """What decides the bytes of a frames artifact, besides the questions."""

    benchmark: str
    """Name of the benchmark."""
    split: str
    """Split of the questions."""
    sampling: SamplingConfig
    """Which frames of a clip are taken."""
    format: FrameFormat
    """Size and resize rule."""
    decoder: dict[str, str]
    """Decoder and versions; another one is another artifact, so a resumed run never mixes them."""
    videos_per_shard: int = Field(ge=1)
    """Videos in one shard."""


@dataclass(frozen=True)
class FramesPlan:
    """What a run will write, before it starts.

    Attributes:
        clips: Clips asked about.
        videos: Videos they lie in.
        frames: Frames at most (clips of one video share some).
        bytes: Bytes at most.
        free: Bytes free on the workspace's file system.
        memory: The most memory that it will take, estimated.
    """

    clips: int
    videos: int
    frames: int
    bytes: int
    free: int
    memory: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """For `--dry-run --json`."""
        return dict(self.__dict__)


def frames_config(
    questions: Artifact,
    frame_format: FrameFormat,
    sampling: SamplingConfig,
    decoder: str = "auto",
    videos_per_shard: int | None = None,
) -> FramesConfig:
    """The configuration for one split; shards default to about 128 MiB."""
    per_video = frame_format.width * frame_format.height * 3 * sum(sampling.frames)
    default = min(64, max(1, SHARD_BYTES // per_video))
    return FramesConfig(
        benchmark=questions.config["benchmark"],
        split=questions.config["split"],
        sampling=sampling,
        format=frame_format,
        decoder=decoder_identity(decoder),
        videos_per_shard=videos_per_shard or default,
    )


def plan(
    workspace: Workspace, questions: Artifact, config: FramesConfig, runtime: Runtime | None = None
) -> FramesPlan:
    """Sizes of what `extract_frames` would write."""
    works = clip_works(questions)
    clips = sum(len(work.clips) for work in works if work.path is not None)
    views = config.sampling.views + 1
    frames = clips * sum(config.sampling.frames) * views
    size = frames * config.format.width * config.format.height * 3
    memory = _peak(questions, config, runtime or Runtime()).as_json()
    return FramesPlan(clips, len(works), frames, size, free_bytes(workspace.root), memory)


def _peak(questions: Artifact, config: FramesConfig, runtime: Runtime) -> Peak:
    videos, clips = clips_in_videos(questions)
    frames = clips * sum(config.sampling.frames) * (config.sampling.views + 1)
    pixels = config.format.width * config.format.height * 3
    return decoding_peak(
        frames=frames,
        pixels=pixels,
        workers=runtime.num_workers,
        shard_bytes=min(config.videos_per_shard, videos) * frames * pixels,
    )


def extract_frames(
    workspace: Workspace, questions: Artifact, config: FramesConfig, runtime: Runtime
) -> StageResult:
    """Write the frames of one split, continuing what an earlier run left.

    Raises:
        DataError: With `strict`, at the first clip that fails.
    """
    started = time.monotonic()
    label = runtime.name or f"{config.benchmark}-{config.split}-{config.format.width}px"
    request = Request("frames", label, config.as_json(), {"questions": questions})
    existing = reusable(workspace, request, runtime)
    if existing is not None:
        return _result(existing, True, started)
    peak = _peak(questions, config, runtime)
    require_room(peak)
    draft = workspace.draft(request, force=runtime.force)
    works = clip_works(questions)
    ranges = split_into_shards(len(works), config.videos_per_shard)
    sharded = ShardedDraft(draft, len(ranges), STEM, ".h5", runtime.shards)
    total = sum(len(work.clips) for work in works)
    sharded.announce(total)
    shards = _Shards(sharded, config, works, ranges, total)
    folders = tuple(video_roots(questions))
    build_shards(ShardWork(sharded, total, "clips", shards.open, None, folders=folders), runtime)
    artifact = sharded.finish_if_complete(lambda: _finish(draft, sharded))
    if artifact is None:
        counts = sharded.item_counts(total)
        return unfinished_result(draft, counts, time.monotonic() - started)
    done = _result(artifact, False, started)
    return replace(done, details={**done.details, "memory": peak.as_json()})


@dataclass(frozen=True)
class _Shards:
    """How the shards of one frames artifact are built, in whatever process."""

    sharded: ShardedDraft
    config: FramesConfig
    works: Sequence[VideoWork]
    ranges: Sequence[range]
    total: int

    @contextmanager
    def open(self, runtime: Runtime) -> Iterator[Build]:
        """Start the decoders."""
        config, finished = self.config, 0
        with DecodePool(runtime.num_workers, config.decoder["decoder"]) as pool:

            def decode(items: Iterable[VideoWork]) -> Iterator[VideoFrames]:
                nonlocal finished
                for video in decode_videos(items, config.sampling, config.format, pool, STAGE):
                    _stop_if_strict(video, runtime)
                    finished += _clips_in(video)
                    runtime.progress(min(finished, self.total), self.total, "clips")
                    yield video

            def build(claims: Iterator[Claim]) -> Iterator[Built]:
                for claim, videos in stream_shards(claims, self._items, decode):
                    _commit(self.sharded, claim, videos)
                    yield Built(claim.shard, sum(map(_clips_in, videos)))

            yield build

    def _items(self, shard: int) -> list[VideoWork]:
        return [self.works[number] for number in self.ranges[shard]]


def _clips_in(video: VideoFrames) -> int:
    """Clips of a video that were sampled or failed."""
    return len({clip.span.clip for clip in video.clips}) + len(video.failures)


def _stop_if_strict(video: VideoFrames, runtime: Runtime) -> None:
    if runtime.strict and video.failures:
        failure = video.failures[0]
        raise DataError(
            f"{failure.id}: {failure.reason}: {failure.words}",
            "run without --strict to go on past it; finished shards are kept",
        )


def _commit(sharded: ShardedDraft, claim: Claim, videos: Sequence[VideoFrames]) -> None:
    encoded = encode_rows(np.concatenate([video.pixels for video in videos]))
    rows: list[StoredRow] = []
    clips: list[StoredClip] = []
    failures: list[Failure] = []
    for video in videos:
        base = len(rows)
        rows += [
            StoredRow(video.video, int(frame), float(seconds), ANY_CLIP, 0)
            for frame, seconds in zip(video.indices, video.times, strict=True)
        ]
        clips += [
            StoredClip(
                clip.span,
                clip.frames,
                clip.view,
                (base + video.rows(clip)).tolist(),
                clip.repeated,
            )
            for clip in video.clips
        ]
        failures += video.failures
    done = len({clip.span.clip for clip in clips})
    counts = {
        "total": done + len(failures),
        "done": done,
        "failed": len(failures),
        "rows": len(rows),
        "repeated": sum(clip.repeated for clip in clips if clip.view == 0),
    }
    sharded.commit(
        claim, encoded.image, shard_record(rows, clips, failures, encoded.offsets, counts, {})
    )


def _finish(draft: Draft, sharded: ShardedDraft) -> Artifact:
    counts = merge_records(sharded.records(), draft.path)
    return draft.finish(counts, extra={"shards": sharded.num_shards})


def _result(artifact: Artifact, reused: bool, started: float) -> StageResult:
    counts = artifact.counts
    notes = [f"questions: {', '.join(artifact.input_ids())}"]
    if counts["repeated"]:
        notes.append(f"{counts['repeated']} frames repeat an earlier one: clips shorter than asked")
    benchmark = artifact.config["benchmark"]
    return finished_result(
        artifact,
        reused=reused,
        seconds=time.monotonic() - started,
        next_commands=[f"vqa extract-features --benchmark {benchmark} --backbone BACKBONE"],
        notes=notes,
    )
