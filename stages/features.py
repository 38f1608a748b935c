"""Encode frames with a frozen vision tower, once for all questions and epochs.

Reads: frames, or questions and their videos (`from_videos`: decoding and encoding overlap).
Writes: features (HDF5 shards, index in Parquet), before the tower's last LayerNorm.
Both ways give the same bytes and the same fingerprint: frames are a cache of what decoding gives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from pydantic import Field

from stages.artifacts.atomic import free_bytes
from stages.artifacts.clips import (
    ANY_CLIP,
    FAILURES_TABLE,
    ClipIndex,
    Failure,
    StoredClip,
    StoredRow,
    merge_records,
    read_table,
    shard_record,
)
from stages.artifacts.features import STEM, StoredDtype, encode_values, representable
from stages.artifacts.lookup import frames_of
from stages.artifacts.result import StageResult, finished_result, unfinished_result
from stages.artifacts.rows import Array, encode_rows
from stages.artifacts.shard_stream import stream_shards
from stages.artifacts.shards import Claim, ShardedDraft, reusable, split_into_shards
from stages.artifacts.store import Artifact, Draft, Request, Workspace
from stages.core.config import Config
from stages.core.device import resolve_device, torch_version
from stages.core.errors import DataError, MachineError, UsageError
from stages.core.runtime import Runtime
from stages.models.backbones.catalog import (
    backbone_host,
    backbone_label,
    backbone_path,
    image_size,
)
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.vision import (
    Precision,
    VisionTower,
    training_crop,
    vision_config,
    vision_spec,
)
from stages.video import decoder_identity
from stages.video.clips import (
    SampledClip,
    SamplingConfig,
    VideoFrames,
    VideoWork,
    clip_works,
    decode_videos,
)
from stages.video.pool import DecodePool
from stages.video.resize import FrameFormat
from stages.video.sampling import view_rng

STAGE = "extract-features"
SHARD_BYTES = 256 * 1024 * 1024
FRAMES_STEM = "frames"
ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "int8": 1}


class ComputeShape(Config):
    """What decides the last bits of a feature besides the weights."""

    device: str
    """Device type."""
    torch: str
    """Major and minor version."""
    precision: Precision
    """Arithmetic of the tower."""
    frames_per_forward: int = Field(ge=1)
    """Frames in one forward pass; a video's frames are never mixed with another's."""


class FeaturesConfig(Config):
    """What decides the bytes of a features artifact, besides the questions."""

    benchmark: str
    """Name of the benchmark."""
    split: str
    """Split of the questions."""
    backbone: str
    """Name of the backbone, for people and for finding the artifact."""
    weights: str
    """Fingerprint of the vision tower's weights and config."""
    sampling: SamplingConfig
    """Which frames of a clip are taken."""
    format: FrameFormat
    """Size and resize rule of the frames."""
    decoder: dict[str, str]
    """Decoder and versions."""
    dtype: StoredDtype = "float16"
    """How values are stored."""
    wrap_crops: bool = False
    """Let bicubic overshoot of random crops wrap around, as the reference does."""
    compute: ComputeShape
    """Compute shape."""
    videos_per_shard: int = Field(ge=1)
    """Videos in one shard."""


@dataclass(frozen=True)
class FeaturesPlan:
    """What a run will write, before it starts, and how long it may take.

    Attributes:
        clips: Clips with a usable video.
        frames: Frames to encode at most.
        bytes: Bytes to write at most.
        free: Bytes free on the workspace's file system.
        seconds: Estimate from encoding the first video; none when that was not tried.
    """

    clips: int
    frames: int
    bytes: int
    free: int
    seconds: float | None

    def as_json(self) -> dict[str, float | None]:
        """For `--dry-run --json`."""
        return dict(self.__dict__)


class FrameSource(Protocol):
    """Decoded frames of works, in order, from wherever they come."""

    def __call__(self, works: Iterable[VideoWork]) -> Iterator[VideoFrames]:
        """One `VideoFrames` per work."""
        ...


class FeatureChoices(Config):
    """What a user may choose of a `FeaturesConfig`; the rest follows from the inputs."""

    dtype: StoredDtype = "float16"
    """How values are stored."""
    precision: Precision | None = None
    """Arithmetic of the tower; none: float32 on a CPU, float16 as in the reference elsewhere."""
    frames_per_forward: int = Field(default=32, ge=1)
    """Frames in one forward pass."""
    videos_per_shard: int | None = Field(default=None, ge=1)
    """Videos in one shard; none: about 256 MiB."""
    wrap_crops: bool = False
    """See `FeaturesConfig`."""


@dataclass(frozen=True)
class FeatureJob:
    """One features artifact to be made.

    Attributes:
        questions: The split.
        backbone: Name or folder of the backbone.
        config: What to write.
        frames: Stored frames; None decodes the videos.
    """

    questions: Artifact
    backbone: str
    config: FeaturesConfig
    frames: Artifact | None


def feature_job(
    workspace: Workspace,
    questions: Artifact,
    backbone: str,
    choices: FeatureChoices,
    *,
    device: str,
    decoder: str,
    from_videos: bool,
    sampling: dict[str, Any],
    frames_reference: str | None = None,
) -> FeatureJob:
    """Find the stored frames, or plan decoding, and resolve the configuration of one split."""
    frames: Artifact | None = None
    if from_videos:
        chosen = SamplingConfig.build({"frames": [32], **sampling}, STAGE)
        identity = decoder_identity(decoder)
    else:
        frames = frames_of(workspace, questions, image_size(backbone), frames_reference)
        chosen = SamplingConfig.build(frames.config["sampling"], frames.id)
        identity = frames.config["decoder"]
    config = features_config(questions, backbone, chosen, choices, device, identity)
    return FeatureJob(questions, backbone, config, frames)


def features_config(
    questions: Artifact,
    backbone: str,
    sampling: SamplingConfig,
    choices: FeatureChoices,
    device: str,
    decoder: dict[str, str],
) -> FeaturesConfig:
    """The configuration for one split; the tower runs in float32 on a CPU, else in float16."""
    folder = BackboneFolder(backbone_path(backbone))
    kind = resolve_device(device).type
    per_video = feature_bytes(folder, choices.dtype) * sum(sampling.frames) * (sampling.views + 1)
    return FeaturesConfig(
        benchmark=questions.config["benchmark"],
        split=questions.config["split"],
        backbone=backbone_label(backbone),
        weights=folder.content_fingerprint(["vision_model."]),
        sampling=sampling,
        format=FrameFormat.squash(image_size(backbone)),
        decoder=decoder,
        dtype=choices.dtype,
        wrap_crops=choices.wrap_crops,
        compute=ComputeShape(
            device=kind,
            torch=torch_version(),
            precision=choices.precision or ("float32" if kind == "cpu" else "float16"),
            frames_per_forward=choices.frames_per_forward,
        ),
        videos_per_shard=choices.videos_per_shard or min(64, max(1, SHARD_BYTES // per_video)),
    )


def feature_bytes(folder: BackboneFolder, dtype: StoredDtype) -> int:
    """Stored bytes of one frame."""
    spec = vision_spec(vision_config(folder.config, str(folder.path)))
    return spec.tokens * spec.width * ITEM_BYTES[dtype]


def extract_features(workspace: Workspace, job: FeatureJob, runtime: Runtime) -> StageResult:
    """Write the features of one split, continuing what an earlier run left."""
    started = time.monotonic()
    config, questions = job.config, job.questions
    label = runtime.name or f"{config.benchmark}-{config.split}-{config.backbone}"
    request = Request("features", label, config.as_json(), {"questions": questions})
    existing = reusable(workspace, request, runtime)
    if existing is not None:
        return _result(existing, True, started)
    device = resolve_device(runtime.device)
    folder = BackboneFolder(backbone_path(job.backbone))
    tower = VisionTower.load(folder, device, config.compute.precision)
    encoder = VideoEncoder(tower, config, device)
    draft = workspace.draft(request, force=runtime.force)
    works = clip_works(questions)
    ranges = split_into_shards(len(works), config.videos_per_shard)
    sharded = ShardedDraft(draft, len(ranges), STEM, ".h5", runtime.shards)
    total = sum(len(work.clips) for work in works)
    sharded.announce(total)
    with _frame_source(job.frames, config, runtime) as source:
        _build_shards(sharded, works, ranges, source, encoder, runtime)
    host = {
        "frames": job.frames.id if job.frames else "decoded from videos",
        **backbone_host(job.backbone),
    }
    artifact = sharded.finish_if_complete(lambda: _finish(draft, sharded, tower, host))
    if artifact is None:
        counts = sharded.item_counts(total)
        return unfinished_result(draft, counts, time.monotonic() - started)
    return _result(artifact, False, started)


# --- where frames come from ----------------------------------------------------------------------


@contextmanager
def _frame_source(
    frames: Artifact | None, config: FeaturesConfig, runtime: Runtime
) -> Iterator[FrameSource]:
    if frames is not None:
        yield StoredFrames(frames, config)
        return
    with DecodePool(runtime.num_workers, config.decoder["decoder"]) as pool:

        def decode(works: Iterable[VideoWork]) -> Iterator[VideoFrames]:
            return decode_videos(works, config.sampling, config.format, pool, STAGE)

        yield decode


class StoredFrames:
    """Frames of a finished frames artifact, as decoding would give them.

    Raises:
        UsageError: The artifact was made with other frame counts, size or decoder.
    """

    def __init__(self, artifact: Artifact, config: FeaturesConfig) -> None:
        made = artifact.config
        for field in ("sampling", "format", "decoder"):
            if made[field] != config.as_json()[field]:
                raise UsageError(f"{artifact.id} was made with another {field}")
        shape = (config.format.height, config.format.width, 3)
        self.config = config
        self.index = ClipIndex(artifact, FRAMES_STEM, shape, np.dtype(np.uint8))
        failures = read_table(artifact.path / FAILURES_TABLE).to_pylist()
        self.failures = {
            row["id"]: Failure(row["id"], STAGE, row["reason"], row["words"]) for row in failures
        }

    def __call__(self, works: Iterable[VideoWork]) -> Iterator[VideoFrames]:
        return (self._video(work) for work in works)

    def _video(self, work: VideoWork) -> VideoFrames:
        clips: list[SampledClip] = []
        rows: dict[int, int] = {}
        for span in work.clips:
            if span.id in self.failures:
                continue
            for count, view in self.config.sampling.samplings():
                stored = self.index.clip(span.key, count, view)
                clips.append(SampledClip(span, count, view, stored.frames.astype(np.int64)))
                rows |= dict(zip(stored.frames.tolist(), stored.rows.tolist(), strict=True))
        wanted = sorted(rows)
        numbers = np.array([rows[frame] for frame in wanted], dtype=np.int64)
        return VideoFrames(
            work.video,
            np.array(wanted, dtype=np.int64),
            self.index.times[numbers],
            self.index.reader.read(numbers),
            clips,
            [self.failures[span.id] for span in work.clips if span.id in self.failures],
        )


# --- encoding ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodedVideo:
    """The rows that one video adds to a shard; clip rows count from the video's first."""

    values: Array
    scale: Array | None
    rows: list[StoredRow]
    clips: list[StoredClip]
    failures: list[Failure]
    largest: float


class VideoEncoder:
    """Frames of one video -> stored rows; a pure function of the frames and the config."""

    def __init__(self, tower: VisionTower, config: FeaturesConfig, device: torch.device) -> None:
        self.tower, self.config, self.device = tower, config, device

    def __call__(self, video: VideoFrames) -> EncodedVideo:
        """Encode the frames of all clips; each once, but for the crops of random views."""
        pixels, rows, clips = self._lay_out(video)
        features = self._encode(pixels)
        values, scale = encode_values(features, self.config.dtype)
        finite = np.isfinite(features).all(axis=(1, 2))
        good: Array = finite & representable(values, self.config.dtype)
        largest = float(np.abs(features[good]).max()) if np.any(good) else 0.0
        kept, failures = _without_bad_rows(clips, rows, good)
        position = np.cumsum(good) - 1
        return EncodedVideo(
            values[good],
            None if scale is None else scale[good],
            [row for row, fine in zip(rows, good, strict=True) if fine],
            [
                StoredClip(
                    clip.span, clip.frames, clip.view, position[clip.rows].tolist(), clip.repeated
                )
                for clip in kept
            ],
            [*video.failures, *failures],
            largest,
        )

    def _lay_out(self, video: VideoFrames) -> tuple[Array, list[StoredRow], list[StoredClip]]:
        """Pixels to encode: the shared frames of view 0, then each random view's crops."""
        shared = np.unique(
            np.concatenate([np.zeros(0, np.int64)] + [c.indices for c in video.clips if not c.view])
        )
        places = np.searchsorted(video.indices, shared)
        blocks = [video.pixels[places]]
        rows = [
            StoredRow(video.video, int(frame), float(video.times[place]), ANY_CLIP, 0)
            for frame, place in zip(shared, places, strict=True)
        ]
        clips = []
        for clip in video.clips:
            if clip.view:
                start = len(rows)
                block, added = self._crop(video, clip)
                blocks.append(block)
                rows += added
                own = np.unique(clip.indices)
                numbers = start + np.searchsorted(own, clip.indices)
            else:
                numbers = np.searchsorted(shared, clip.indices)
            clips.append(
                StoredClip(clip.span, clip.frames, clip.view, numbers.tolist(), clip.repeated)
            )
        return np.concatenate(blocks), rows, clips

    def _crop(self, video: VideoFrames, clip: SampledClip) -> tuple[Array, list[StoredRow]]:
        """One random crop for the whole clip (specs/vlap.md 1.5), drawn from the view's seed."""
        own = np.unique(clip.indices)
        places = np.searchsorted(video.indices, own)
        name = f"{clip.span.id}#{clip.frames}#crop"
        rng = view_rng(self.config.sampling.seed, video.video, name, clip.view)
        cropped = training_crop(video.pixels[places], rng, wrap=self.config.wrap_crops)
        rows = [
            StoredRow(video.video, int(frame), float(video.times[place]), clip.span.clip, clip.view)
            for frame, place in zip(own, places, strict=True)
        ]
        return cropped.numpy(), rows

    def _encode(self, pixels: Array) -> Array:
        step = self.config.compute.frames_per_forward
        spec = self.tower.spec
        features = np.empty((len(pixels), spec.tokens, spec.width), dtype=np.float32)
        for start in range(0, len(pixels), step):
            block = torch.from_numpy(np.ascontiguousarray(pixels[start : start + step]))
            features[start : start + step] = self._forward(block).cpu().numpy()
        return features

    def _forward(self, block: torch.Tensor) -> torch.Tensor:
        try:
            return self.tower.features(self.tower.preprocess(block.to(self.device)))
        except torch.OutOfMemoryError as error:
            raise MachineError(
                f"out of memory encoding {len(block)} frames at once ({error})",
                "halve them: --set frames_per_forward=... (this starts a new version)",
            ) from None


def _without_bad_rows(
    clips: Sequence[StoredClip], rows: Sequence[StoredRow], good: Array
) -> tuple[list[StoredClip], list[Failure]]:
    """Clips all of whose features are finite and storable; a failure for each other clip."""
    kept = [clip for clip in clips if all(good[row] for row in clip.rows)]
    bad = {clip.span.clip: clip for clip in clips if not all(good[row] for row in clip.rows)}
    failures = []
    for clip in bad.values():
        frame = next(rows[row].frame for row in clip.rows if not good[row])
        words = f"frame {frame} has a value that is not finite or does not fit the stored type"
        failures.append(Failure(clip.span.id, STAGE, "overflow", words))
    return [clip for clip in kept if clip.span.clip not in bad], failures


# --- shards --------------------------------------------------------------------------------------


def _build_shards(
    sharded: ShardedDraft,
    works: Sequence[VideoWork],
    ranges: Sequence[range],
    source: FrameSource,
    encode: Callable[[VideoFrames], EncodedVideo],
    runtime: Runtime,
) -> None:
    total = sum(len(work.clips) for work in works)
    done = 0

    def encoded(items: Iterable[VideoWork]) -> Iterator[EncodedVideo]:
        nonlocal done
        for video in source(items):
            result = encode(video)
            if runtime.strict and result.failures:
                failure = result.failures[0]
                raise DataError(
                    f"{failure.id}: {failure.reason}: {failure.words}",
                    "run without --strict to go on past it; finished shards are kept",
                )
            done += len({clip.span.clip for clip in result.clips}) + len(result.failures)
            runtime.progress(min(done, total), total, "clips")
            yield result

    def items_of(shard: int) -> list[VideoWork]:
        return [works[number] for number in ranges[shard]]

    def run_pass(claims: Iterator[Claim]) -> int:
        count = 0
        for claim, videos in stream_shards(claims, items_of, encoded):
            _commit(sharded, claim, videos)
            count += 1
        return count

    sharded.run_passes(run_pass)


def _commit(sharded: ShardedDraft, claim: Claim, videos: Sequence[EncodedVideo]) -> None:
    config = sharded.draft.request.config
    scales = [video.scale for video in videos if video.scale is not None]
    encoded = encode_rows(
        np.concatenate([video.values for video in videos]),
        {"stored_as": str(config["dtype"])},
        np.concatenate(scales) if scales else None,
    )
    rows: list[StoredRow] = []
    clips: list[StoredClip] = []
    for video in videos:
        base = len(rows)
        rows += video.rows
        clips += [
            StoredClip(
                clip.span, clip.frames, clip.view, [base + row for row in clip.rows], clip.repeated
            )
            for clip in video.clips
        ]
    failures = [failure for video in videos for failure in video.failures]
    done = len({clip.span.clip for clip in clips})
    counts = {
        "total": done + len(failures),
        "done": done,
        "failed": len(failures),
        "rows": len(rows),
        "repeated": sum(clip.repeated for clip in clips if clip.view == 0),
    }
    facts = {"largest": max(video.largest for video in videos)}
    record = shard_record(rows, clips, failures, encoded.offsets, counts, facts)
    sharded.commit(claim, encoded.image, record)


def _finish(
    draft: Draft, sharded: ShardedDraft, tower: VisionTower, host: dict[str, str]
) -> Artifact:
    counts = merge_records(sharded.records(), draft.path)
    largest = max(record["facts"]["largest"] for record in sharded.records())
    facts = {
        "shards": sharded.num_shards,
        "tokens": tower.spec.tokens,
        "width": tower.spec.width,
        "largest": largest,
    }
    return draft.finish(counts, extra=facts, host=host)


def _result(artifact: Artifact, reused: bool, started: float) -> StageResult:
    config = artifact.config
    source = artifact.manifest["host"]["frames"]
    notes = [f"questions: {', '.join(artifact.input_ids())}", f"frames: {source}"]
    if artifact.counts["repeated"]:
        notes.append(f"{artifact.counts['repeated']} frames repeat an earlier one of their clip")
    if artifact.counts["done"] and artifact.manifest["largest"] < 1e-6:
        notes.append("all features are about zero: is this a randomly initialised tower?")
    return finished_result(
        artifact,
        reused=reused,
        seconds=time.monotonic() - started,
        next_commands=[f"vqa train-teacher --benchmark {config['benchmark']}"],
        notes=notes,
    )


# --- dry run -------------------------------------------------------------------------------------


def plan(workspace: Workspace, job: FeatureJob, runtime: Runtime) -> FeaturesPlan:
    """Sizes of what `extract_features` would write; encodes one video to estimate the time."""
    works = [work for work in clip_works(job.questions) if work.path is not None]
    sampling, config = job.config.sampling, job.config
    clips = sum(len(work.clips) for work in works)
    frames = clips * sum(sampling.frames) * (sampling.views + 1)
    folder = BackboneFolder(backbone_path(job.backbone))
    size = frames * feature_bytes(folder, config.dtype)
    seconds = None
    if works:
        device = resolve_device(runtime.device)
        tower = VisionTower.load(folder, device, config.compute.precision)
        with _frame_source(job.frames, config, runtime) as source:
            started = time.monotonic()
            for video in source(works[:1]):
                VideoEncoder(tower, config, device)(video)
            seconds = (time.monotonic() - started) * len(works)
    return FeaturesPlan(clips, frames, size, free_bytes(workspace.root), seconds)
