"""Encode frames with a frozen vision tower, once for all questions and epochs.

Reads: frames, or questions and their videos (`from_videos`: decoding and encoding overlap).
Writes: features (HDF5 shards, index in Parquet), before the tower's last LayerNorm; of a CLIP
tower the patches, and the frame CLS after that norm in a table of its own.
Both ways give the same bytes and the same fingerprint: frames are a cache of what decoding gives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
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
from stages.artifacts.features import (
    POOLED_VECTORS,
    SCALED,
    STEM,
    StoredDtype,
    StoredValues,
    cls_dtype,
    decode_values,
    store_values,
)
from stages.artifacts.halving import in_smaller_batches
from stages.artifacts.lookup import frames_of
from stages.artifacts.questions import video_roots
from stages.artifacts.result import StageResult, finished_result, unfinished_result
from stages.artifacts.rows import Array, encode_rows
from stages.artifacts.shard_stream import stream_shards
from stages.artifacts.shards import Claim, ShardedDraft, reusable, split_into_shards
from stages.artifacts.store import Artifact, Draft, Request, Workspace
from stages.benchmarks.clip_counts import clips_in_videos
from stages.benchmarks.manifest import load_manifest
from stages.core.config import Config
from stages.core.device import resolve_device, torch_version
from stages.core.errors import ConfigError, DataError
from stages.core.memory import Peak, require_room
from stages.core.out_of_memory import room_for
from stages.core.runtime import Runtime
from stages.engines import Build, Built, Halves, ShardWork, build_shards
from stages.models.backbones.catalog import (
    backbone_frames,
    backbone_host,
    backbone_label,
    backbone_layout,
    backbone_path,
)
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.towers import Tower, load_tower, tower_spec
from stages.models.backbones.vision import (
    EncodedFrames,
    Precision,
    VisionSpec,
    fixed_size_crop,
    training_crop,
)
from stages.models.memory import encoding_peak
from stages.models.pooled import pool_tokens
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
from stages.video.shard_decoder import ShardDecoder
from stages.video.stored_frames import StoredFrames

STAGE = "extract-features"
SHARD_BYTES = 256 * 1024 * 1024
ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "int8": 1, "float8": 1}


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

    silent_at_default: ClassVar[tuple[str, ...]] = ("pooled",)

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
    pooled: bool = False
    """Store the pooled tier beside the tokens; a CLIP has its frame CLS for that."""
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
        artifact: Id of what would be written, or of what is there.
        reused: It is there: nothing would be encoded.
        clips: Clips with a usable video.
        frames: Frames to encode at most.
        bytes: Bytes to write at most.
        free: Bytes free on the workspace's file system.
        seconds: Estimate from encoding the first video; 0 where all is there, none when there
            is no video to try.
        memory: The most memory that it will take, estimated.
    """

    artifact: str
    reused: bool
    clips: int
    frames: int
    bytes: int
    free: int
    seconds: float | None
    memory: dict[str, int]

    def as_json(self) -> dict[str, Any]:
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
    pooled: bool = False
    """Store the pooled tier, which a selector can read without the tokens."""
    wrap_crops: bool = False
    """See `FeaturesConfig`."""
    short_side: int | None = Field(default=None, ge=1, le=4096)
    """CLIP only: short side in pixels of the frames that its crops are taken from; none: 8/7 of
    the tower's size (256 for 224). The tower's own size leaves no margin, as CLIP's authors do."""


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
    rule = backbone_frames(backbone, choices.short_side)
    if from_videos:
        chosen = SamplingConfig.build({"frames": [32], **sampling}, STAGE)
        identity = decoder_identity(decoder)
    else:
        frames = frames_of(workspace, questions, rule.stored, frames_reference)
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
    rule = backbone_frames(backbone, choices.short_side)
    one = feature_bytes(folder, choices.dtype, choices.pooled)
    per_video = one * sum(sampling.frames) * (sampling.views + 1)
    if choices.pooled and tower_spec(folder).cls_width:
        raise ConfigError(
            f"{backbone_label(backbone)} has no pooled tier: its frame CLS is stored apart already",
            "leave out pooled=true",
        )
    return FeaturesConfig(
        benchmark=questions.config["benchmark"],
        split=questions.config["split"],
        backbone=backbone_label(backbone),
        weights=folder.tower_fingerprint(),
        sampling=sampling,
        format=FrameFormat(**rule.format_values()),
        decoder=decoder,
        dtype=choices.dtype,
        pooled=choices.pooled,
        wrap_crops=choices.wrap_crops,
        compute=ComputeShape(
            device=kind,
            torch=torch_version(),
            precision=choices.precision or ("float32" if kind == "cpu" else "float16"),
            frames_per_forward=choices.frames_per_forward,
        ),
        videos_per_shard=choices.videos_per_shard or min(64, max(1, SHARD_BYTES // per_video)),
    )


def feature_bytes(folder: BackboneFolder, dtype: StoredDtype, pooled: bool = False) -> int:
    """Stored bytes of one frame."""
    spec = tower_spec(folder)
    cls = spec.cls_width * ITEM_BYTES[cls_dtype(dtype)]
    scale = 4 * spec.tokens if dtype in SCALED else 0
    tier = POOLED_VECTORS * spec.width * 2 if pooled else 0
    return spec.tokens * spec.width * ITEM_BYTES[dtype] + scale + cls + tier


def extract_features(workspace: Workspace, job: FeatureJob, runtime: Runtime) -> StageResult:
    """Write the features of one split, continuing what an earlier run left.

    Where the tower finds no room, fewer frames go through it at once: another version.
    """
    return in_smaller_batches(
        lambda one: _extract(workspace, one, runtime),
        job,
        _smaller,
        lambda one: _peak(one, runtime),
    )


def _peak(job: FeatureJob, runtime: Runtime) -> Peak:
    folder, config = BackboneFolder(backbone_path(job.backbone)), job.config
    videos, clips = clips_in_videos(job.questions)
    frames = clips * sum(config.sampling.frames) * (config.sampling.views + 1)
    return encoding_peak(
        folder.config,
        device=resolve_device(runtime.device).type,
        frames=frames,
        pixels=config.format.width * config.format.height * 3,
        forward=config.compute.frames_per_forward,
        row_bytes=feature_bytes(folder, config.dtype, config.pooled),
        shard_rows=min(config.videos_per_shard, videos) * frames,
        workers=runtime.num_workers if job.frames is None else 0,
    )


def _smaller(job: FeatureJob) -> tuple[FeatureJob, str] | None:
    """The same with half the frames in a forward pass."""
    compute = job.config.compute
    size = compute.frames_per_forward // 2
    if size == 0:
        return None
    compute = compute.model_copy(update={"frames_per_forward": size})
    config = job.config.model_copy(update={"compute": compute})
    return replace(job, config=config), f"frames_per_forward={size}"


def _extract(workspace: Workspace, job: FeatureJob, runtime: Runtime) -> StageResult:
    started = time.monotonic()
    config, questions = job.config, job.questions
    request = _request(job, runtime)
    existing = reusable(workspace, request, runtime)
    if existing is not None:
        return _result(workspace, existing, job, True, started)
    device = resolve_device(runtime.device)
    require_room(_peak(job, runtime), device)
    spec = tower_spec(BackboneFolder(backbone_path(job.backbone)))
    draft = workspace.draft(request, force=runtime.force)
    works = clip_works(questions)
    ranges = split_into_shards(len(works), config.videos_per_shard)
    sharded = ShardedDraft(draft, len(ranges), STEM, ".h5", runtime.shards)
    total = sum(len(work.clips) for work in works)
    sharded.announce(total)
    build_shards(_Shards(sharded, job, works, ranges, total).work(device.type), runtime)
    host = {
        "frames": job.frames.id if job.frames else "decoded from videos",
        **backbone_host(job.backbone),
    }
    artifact = sharded.finish_if_complete(lambda: _finish(draft, sharded, spec, host))
    if artifact is None:
        counts = sharded.item_counts(total)
        return unfinished_result(draft, counts, time.monotonic() - started)
    return _result(workspace, artifact, job, False, started)


def _request(job: FeatureJob, runtime: Runtime) -> Request:
    config = job.config
    label = runtime.name or f"{config.benchmark}-{config.split}-{config.backbone}"
    return Request("features", label, config.as_json(), {"questions": job.questions})


# --- where frames come from ----------------------------------------------------------------------


@contextmanager
def _frame_source(
    frames: Artifact | None, config: FeaturesConfig, runtime: Runtime
) -> Iterator[FrameSource]:
    if frames is not None:
        yield StoredFrames(frames, config.sampling, config.format, config.decoder, STAGE)
        return
    with DecodePool(runtime.num_workers, config.decoder["decoder"]) as pool:

        def decode(works: Iterable[VideoWork]) -> Iterator[VideoFrames]:
            return decode_videos(works, config.sampling, config.format, pool, STAGE)

        yield decode


# --- encoding ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodedVideo:
    """The rows that one video adds to a shard; clip rows count from the video's first."""

    values: StoredValues
    rows: list[StoredRow]
    clips: list[StoredClip]
    failures: list[Failure]
    largest: float

    @property
    def num_clips(self) -> int:
        """Clips that were encoded or failed."""
        return len({clip.span.clip for clip in self.clips}) + len(self.failures)


class VideoEncoder:
    """Frames of one video -> stored rows; a pure function of the frames and the config."""

    def __init__(self, tower: Tower, config: FeaturesConfig, device: torch.device) -> None:
        self.tower, self.config, self.device = tower, config, device

    def __call__(self, video: VideoFrames) -> EncodedVideo:
        """Encode the frames of all clips; each once, but for the crops of random views."""
        pixels, rows, clips = self._lay_out(video)
        tokens, cls = self._encode(pixels)
        values, good = store_values(tokens, cls, self.config.dtype)
        if self.config.pooled:
            values = replace(values, pooled=self._pool(values))
        kept, failures = _without_bad_rows(clips, rows, good)
        position = np.cumsum(good) - 1
        return EncodedVideo(
            values.only(good),
            [row for row, fine in zip(rows, good, strict=True) if fine],
            [
                StoredClip(
                    clip.span, clip.frames, clip.view, position[clip.rows].tolist(), clip.repeated
                )
                for clip in kept
            ],
            [*video.failures, *failures],
            _largest(tokens[good], None if cls is None else cls[good]),
        )

    def _pool(self, values: StoredValues) -> Array:
        """The pooled tier of what is stored, one forward's frames at a time; float16 [N, 2, C]."""
        step = self.config.compute.frames_per_forward
        parts = [np.zeros((0, POOLED_VECTORS, values.tokens.shape[-1]), np.float16)]
        for start in range(0, len(values.tokens), step):
            scale = None if values.scale is None else values.scale[start : start + step]
            tokens = decode_values(values.tokens[start : start + step], self.config.dtype, scale)
            parts.append(pool_tokens(torch.from_numpy(tokens)).numpy())
        return np.concatenate(parts)

    def _lay_out(self, video: VideoFrames) -> tuple[Array, list[StoredRow], list[StoredClip]]:
        """Pixels to encode: the shared frames of view 0, then each random view's crops."""
        shared = np.unique(
            np.concatenate([np.zeros(0, np.int64)] + [c.indices for c in video.clips if not c.view])
        )
        places = np.searchsorted(video.indices, shared)
        blocks = [self._whole(video.pixels[places])]
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

    def _whole(self, frames: Array) -> Array:
        """What the tower sees of frames in view 0: all of them, or CLIP's centre crop."""
        if self.config.format.kind == "squash":
            return frames
        return fixed_size_crop(frames, self.tower.spec.image_size).numpy()

    def _crop(self, video: VideoFrames, clip: SampledClip) -> tuple[Array, list[StoredRow]]:
        """One random crop for the whole clip, drawn from the view's seed.

        BLIP-2 family: resized (specs/vlap.md 1.5). CLIP: of the tower's size
        (specs/videodistill.md 1).
        """
        own = np.unique(clip.indices)
        places = np.searchsorted(video.indices, own)
        name = f"{clip.span.id}#{clip.frames}#crop"
        rng = view_rng(self.config.sampling.seed, video.video, name, clip.view)
        if self.config.format.kind == "squash":
            cropped = training_crop(video.pixels[places], rng, wrap=self.config.wrap_crops)
        else:
            cropped = fixed_size_crop(video.pixels[places], self.tower.spec.image_size, rng)
        rows = [
            StoredRow(video.video, int(frame), float(video.times[place]), clip.span.clip, clip.view)
            for frame, place in zip(own, places, strict=True)
        ]
        return cropped.numpy(), rows

    def _encode(self, pixels: Array) -> tuple[Array, Array | None]:
        """Tokens float32 [N, P, C] and, where it is kept apart, the frame CLS [N, C]."""
        step = self.config.compute.frames_per_forward
        spec = self.tower.spec
        tokens = np.empty((len(pixels), spec.tokens, spec.width), dtype=np.float32)
        cls = np.empty((len(pixels), spec.cls_width), dtype=np.float32) if spec.cls_width else None
        for start in range(0, len(pixels), step):
            block = torch.from_numpy(np.ascontiguousarray(pixels[start : start + step]))
            encoded = self._forward(block)
            tokens[start : start + step] = encoded.tokens.cpu().numpy()
            if cls is not None and encoded.cls is not None:
                cls[start : start + step] = encoded.cls.cpu().numpy()
        return tokens, cls

    def _forward(self, block: torch.Tensor) -> EncodedFrames:
        with room_for(f"{len(block)} frames"):
            return self.tower.encode(self.tower.preprocess(block.to(self.device)))


def _largest(tokens: Array, cls: Array | None) -> float:
    """The largest magnitude; 0 without rows."""
    parts = [tokens] if cls is None else [tokens, cls]
    return max(float(np.abs(part).max()) for part in parts) if len(tokens) else 0.0


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


@dataclass(frozen=True)
class _Shards:
    """How the shards of one features artifact are built, in whatever process."""

    sharded: ShardedDraft
    job: FeatureJob
    works: Sequence[VideoWork]
    ranges: Sequence[range]
    total: int

    def work(self, device: str) -> ShardWork:
        """What an engine gets; videos can be decoded ahead by other processes."""
        config, halves = self.job.config, None
        folders: tuple[Path, ...] = ()
        if self.job.frames is None:
            decoder = ShardDecoder(
                self.works, self.ranges, config.sampling, config.format,
                config.decoder["decoder"], STAGE,
            )  # fmt: skip
            halves = Halves(decoder.open, self.encode)
            folders = tuple(video_roots(self.job.questions))
        return ShardWork(
            self.sharded, self.total, "clips", self.open, device, halves=halves, folders=folders
        )

    @contextmanager
    def open(self, runtime: Runtime) -> Iterator[Build]:
        """Load the tower and start the decoders, or open the stored frames."""
        encode = self._encoder(runtime)
        with _frame_source(self.job.frames, self.job.config, runtime) as source:

            def build(claims: Iterator[Claim]) -> Iterator[Built]:
                encoded = lambda items: map(encode, source(items))  # noqa: E731
                for claim, videos in stream_shards(claims, self._items, encoded):
                    yield self._built(claim, videos)

            yield build

    @contextmanager
    def encode(self, runtime: Runtime) -> Iterator[Callable[[Claim, Sequence[VideoFrames]], Built]]:
        """Load the tower alone, to encode and commit decoded shards."""
        encode = self._encoder(runtime)
        yield lambda claim, videos: self._built(claim, [encode(video) for video in videos])

    def _items(self, shard: int) -> list[VideoWork]:
        return [self.works[number] for number in self.ranges[shard]]

    def _built(self, claim: Claim, videos: Sequence[EncodedVideo]) -> Built:
        _commit(self.sharded, claim, videos)
        return Built(claim.shard, sum(video.num_clips for video in videos))

    def _encoder(self, runtime: Runtime) -> Callable[[VideoFrames], EncodedVideo]:
        """Encodes videos, counts them for the progress, and stops at a failure with `strict`."""
        device, config = resolve_device(runtime.device), self.job.config
        folder = BackboneFolder(backbone_path(self.job.backbone))
        encoder = VideoEncoder(load_tower(folder, device, config.compute.precision), config, device)
        done = 0

        def encode(video: VideoFrames) -> EncodedVideo:
            nonlocal done
            result = encoder(video)
            if runtime.strict and result.failures:
                failure = result.failures[0]
                raise DataError(
                    f"{failure.id}: {failure.reason}: {failure.words}",
                    "run without --strict to go on past it; finished shards are kept",
                )
            done += result.num_clips
            runtime.progress(min(done, self.total), self.total, "clips")
            return result

        return encode


def _commit(sharded: ShardedDraft, claim: Claim, videos: Sequence[EncodedVideo]) -> None:
    config = sharded.draft.request.config
    values = StoredValues.join([video.values for video in videos])
    stored_as = {"stored_as": str(config["dtype"])}
    encoded = encode_rows(values.tokens, stored_as, values.scale, values.cls, values.pooled)
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
    draft: Draft, sharded: ShardedDraft, spec: VisionSpec, host: dict[str, str]
) -> Artifact:
    counts = merge_records(sharded.records(), draft.path)
    largest = max(record["facts"]["largest"] for record in sharded.records())
    facts = {
        "shards": sharded.num_shards,
        "tokens": spec.tokens,
        "width": spec.width,
        "largest": largest,
        **({"cls_width": spec.cls_width} if spec.cls_width else {}),
    }
    return draft.finish(counts, extra=facts, host=host)


def _result(
    workspace: Workspace, artifact: Artifact, job: FeatureJob, reused: bool, started: float
) -> StageResult:
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
        next_commands=_next_commands(workspace, job),
        notes=notes,
    )


def _next_commands(workspace: Workspace, job: FeatureJob) -> list[str]:
    """What reads features of this layout: SeViLA answers untrained, the others train first."""
    benchmark, layout = job.config.benchmark, backbone_layout(job.backbone)
    if layout == "blip-2":
        return [f"vqa eval --benchmark {benchmark} --system sevila"]
    system = "videodistill" if layout == "clip" else "vlap"
    trains = load_manifest(benchmark).splits_for("train")
    prepared = [(item.config["benchmark"], item.config["split"])
                for item in workspace.finished("questions")]  # fmt: skip
    if any((benchmark, split) in prepared for split in trains):
        first = "train-videodistill" if system == "videodistill" else "train-teacher"
        return [f"vqa {first} --benchmark {benchmark}"]
    made = [(item.config["system"], item.config["benchmark"])
            for item in workspace.finished("weights")]  # fmt: skip
    if (system, benchmark) in made:
        return [f"vqa eval --benchmark {benchmark} --system {system}"]
    return []


# --- dry run -------------------------------------------------------------------------------------


def plan(workspace: Workspace, job: FeatureJob, runtime: Runtime) -> FeaturesPlan:
    """Sizes of what `extract_features` would write; encodes one video to estimate the time.

    Where the artifact is there already, no tower is loaded.
    """
    request = _request(job, runtime)
    existing = reusable(workspace, request, runtime)
    works = [work for work in clip_works(job.questions) if work.path is not None]
    sampling, config = job.config.sampling, job.config
    clips = sum(len(work.clips) for work in works)
    frames = clips * sum(sampling.frames) * (sampling.views + 1)
    folder = BackboneFolder(backbone_path(job.backbone))
    size = frames * feature_bytes(folder, config.dtype, config.pooled)
    seconds = 0.0 if existing else None
    if works and existing is None:
        device = resolve_device(runtime.device)
        tower = load_tower(folder, device, config.compute.precision)
        with _frame_source(job.frames, config, runtime) as source:
            started = time.monotonic()
            for video in source(works[:1]):
                VideoEncoder(tower, config, device)(video)
            seconds = (time.monotonic() - started) * len(works)
    free, memory = free_bytes(workspace.root), _peak(job, runtime).as_json()
    name = existing.id if existing else request.id
    return FeaturesPlan(name, existing is not None, clips, frames, size, free, seconds, memory)
