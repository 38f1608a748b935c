"""Frames per second of a frozen vision tower, as a share of what the device can do.

    forward    the network's own forward pass on ready pixels on the device
    stage      what `extract-features` does of decoded frames: to the device, scaled, encoded, back,
               stored as float16

Both in useful operations (2 per multiply-add of the tower's products) over the rate of a large
matrix product, measured in the same run. Decode processes are counted apart: how many feed the
device (a generated 30-second clip, 32 frames).
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from stages.artifacts.clips import ClipSpan
from stages.bench.clock import (
    Clock,
    head,
    one_thread,
    peak_bytes,
    product_rate,
    reset_peak,
    rounded,
    rounds_of,
)
from stages.bench.decode import DecodeConfig, pool_rate, write_clips
from stages.bench.networks import Source, load_tower
from stages.core.config import Config
from stages.core.device import resolve_device, torch_version
from stages.features import ComputeShape, FeaturesConfig, VideoEncoder
from stages.models.backbones.vision import Precision, VisionTower
from stages.video.clips import SampledClip, SamplingConfig, VideoFrames
from stages.video.pool import DecodePool
from stages.video.resize import FrameFormat

TARGETS = {"cuda": ("share_of_product", 0.5), "cpu": ("stage_over_forward", 0.9)}
"""By device type, the share that is aimed for."""


class FeaturesBenchConfig(Config):
    """What is measured."""

    backbone: str = "tiny"
    """A name, a folder, or random weights of a size."""
    layout: str = "instructblip"
    """`instructblip` or `blip-2`; their towers are equal."""
    precision: Precision = "float32"
    """Arithmetic of the tower."""
    frames: int = Field(default=32, ge=1)
    """Frames of a video, and of a forward pass."""
    videos: int = Field(default=4, ge=1)
    """Videos of a round."""
    rounds: int = Field(default=3, ge=1)
    """Rounds in which the ways take turns."""
    decode_workers: int = Field(default=1, ge=0)
    """Processes whose decoding is measured beside it; 0: none."""


def features(
    config: FeaturesBenchConfig, device: str, folder: Path | None, command: str
) -> dict[str, Any]:
    """The record; the clip that is decoded is written into `folder`, or the temporary one."""
    where = resolve_device(device)
    source = Source(config.backbone, where, config.precision)
    with one_thread(where):
        tower = load_tower(source, config.layout)
        ways = _ways(tower, config, where)
        for way in ways.values():
            way()
        reset_peak(where)
        seconds = rounds_of(ways, Clock(where), config.rounds)
        peak = peak_bytes(where)
        # CPUs often lack half-precision products; what the tower runs in is what counts.
        product = product_rate(where, config.precision)
    count = config.frames * config.videos
    rates = {name: count / statistics.median(values) for name, values in seconds.items()}
    size = source.size(config.layout)
    flops = size.tower.flops
    shares = {name: rate * flops / product for name, rate in rates.items()}
    kind, goal = TARGETS.get(where.type, TARGETS["cpu"])
    reached = {
        "share_of_product": shares["stage"],
        "stage_over_forward": rates["stage"] / rates["forward"],
    }
    return {
        **head("features", device, command, config=config.as_json()),
        "operations_per_frame": flops,
        "product_operations_per_second": round(product),
        "frames_per_second": {name: round(rate, 3) for name, rate in rates.items()},
        "share_of_product": {name: round(share, 4) for name, share in shares.items()},
        "stage_over_forward": round(reached["stage_over_forward"], 4),
        "peak_bytes": peak,
        **_decoding(config, rates["stage"], folder),
        **(
            {"targets": {kind: {"at_least": goal, "met": reached[kind] >= goal}}}
            if size.published or where.type == "cpu"
            else {}
        ),
        "seconds": rounded(seconds),
    }


def _ways(
    tower: VisionTower, config: FeaturesBenchConfig, device: torch.device
) -> dict[str, Callable[[], Any]]:
    size = tower.spec.image_size
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (config.frames, size, size, 3), dtype=np.uint8)
    ready = tower.preprocess(torch.from_numpy(frames).to(device))
    span = ClipSpan(0, "video", None, None)
    places = np.arange(config.frames)
    clip = SampledClip(span, config.frames, 0, places)
    video = VideoFrames("video", places, places.astype(np.float64), frames, [clip], [])
    encoder = VideoEncoder(tower, stage_config(config, size, device), device)
    return {
        "forward": lambda: [tower.encode(ready) for _ in range(config.videos)],
        "stage": lambda: [encoder(video) for _ in range(config.videos)],
    }


def stage_config(config: FeaturesBenchConfig, size: int, device: torch.device) -> FeaturesConfig:
    """What `extract-features` would be told."""
    return FeaturesConfig(
        benchmark="bench",
        split="test",
        backbone=config.backbone,
        weights="",
        sampling=SamplingConfig(frames=(config.frames,)),
        format=FrameFormat.squash(size),
        decoder={},
        compute=ComputeShape(
            device=device.type,
            torch=torch_version(),
            precision=config.precision,
            frames_per_forward=config.frames,
        ),
        videos_per_shard=1,
    )


def _decoding(config: FeaturesBenchConfig, rate: float, folder: Path | None) -> dict[str, Any]:
    """Frames per second of one decode process, and how many of them the tower keeps busy."""
    if not config.decode_workers:
        return {}
    clips = DecodeConfig(workers=config.decode_workers, passes=1, clips=2, frames=config.frames)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        paths = write_clips(Path(name), clips)
        with DecodePool(clips.workers) as pool:
            pool_rate(pool, paths, clips)
            decoded = pool_rate(pool, paths, clips) / clips.workers
    return {
        "decoded_frames_per_second_per_process": round(decoded, 1),
        "decode_processes_per_device": round(rate / decoded, 2),
    }
