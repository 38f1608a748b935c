"""Decode the frames that a backbone will look at and store them without loss.

Reads: questions.   Writes: frames (HDF5 shards of uint8 rows, index in Parquet).
Each video is decoded once for all its clips, frame counts and views. Contract: docs/artifacts.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

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
from stages.artifacts.result import StageResult, finished_result, unfinished_result
from stages.artifacts.rows import encode_rows
from stages.artifacts.shard_stream import stream_shards
from stages.artifacts.shards import Claim, ShardedDraft, reusable, split_into_shards
from stages.artifacts.store import Artifact, Draft, Request, Workspace
from stages.core.config import Config
from stages.core.errors import DataError
from stages.core.runtime import Runtime
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
    """

    clips: int
    videos: int
    frames: int
    bytes: int
    free: int

    def as_json(self) -> dict[str, int]:
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


def plan(workspace: Workspace, questions: Artifact, config: FramesConfig) -> FramesPlan:
    """Sizes of what `extract_frames` would write."""
    works = clip_works(questions)
    clips = sum(len(work.clips) for work in works if work.path is not None)
    views = config.sampling.views + 1
    frames = clips * sum(config.sampling.frames) * views
    size = frames * config.format.width * config.format.height * 3
    return FramesPlan(clips, len(works), frames, size, free_bytes(workspace.root))


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
    draft = workspace.draft(request, force=runtime.force)
    works = clip_works(questions)
    sharded = ShardedDraft(
        draft,
        len(split_into_shards(len(works), config.videos_per_shard)),
        STEM,
        ".h5",
        runtime.shards,
    )
    total = sum(len(work.clips) for work in works)
    sharded.announce(total)
    _build_shards(sharded, works, config, runtime)
    artifact = sharded.finish_if_complete(lambda: _finish(draft, sharded))
    if artifact is None:
        counts = sharded.item_counts(total)
        return unfinished_result(draft, counts, time.monotonic() - started)
    return _result(artifact, False, started)


def _build_shards(
    sharded: ShardedDraft, works: Sequence[VideoWork], config: FramesConfig, runtime: Runtime
) -> None:
    ranges = split_into_shards(len(works), config.videos_per_shard)
    total = sum(len(work.clips) for work in works)
    finished = [0]

    def report(count: int) -> None:
        finished[0] += count
        runtime.progress(min(finished[0], total), total, "clips")

    with DecodePool(runtime.num_workers, config.decoder["decoder"]) as pool:

        def decode(items: Iterable[VideoWork]) -> Iterator[VideoFrames]:
            for video in decode_videos(items, config.sampling, config.format, pool, STAGE):
                _stop_if_strict(video, runtime)
                report(len({clip.span.clip for clip in video.clips}) + len(video.failures))
                yield video

        def run_pass(claims: Iterator[Claim]) -> int:
            count = 0
            items_of = lambda shard: [works[i] for i in ranges[shard]]  # noqa: E731
            for claim, videos in stream_shards(claims, items_of, decode):
                _commit(sharded, claim, videos)
                count += 1
            return count

        sharded.run_passes(run_pass)


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
