"""Rates of this machine for a plan: a few videos really decoded, a few frames really encoded.

What is not there, or would take longer than a probe may, is assumed, and the plan says which is
which and where an assumption is from.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from stages.artifacts.store import Artifact, Workspace
from stages.bench.cluster import Rates
from stages.bench.estimate import PRODUCT_SHARE, Step
from stages.core.device import resolve_device
from stages.core.errors import DataError, MissingInput
from stages.models.backbones.catalog import backbone_frames, backbone_path
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.sizes import tower_size
from stages.models.backbones.towers import load_tower
from stages.video.clips import SamplingConfig, VideoWork, clip_works, decode_videos
from stages.video.pool import DecodePool
from stages.video.resize import FrameFormat

PROBED_VIDEOS = 3
PROBED_FRAMES = 4
LARGEST_PROBE = 1e12
"""Operations of a forward pass that a CPU may spend on a probe."""
ASSUMED_OPERATIONS = 1.25e14
"""Useful operations a second of one accelerator: 240 frames a second through a ViT-g of 520 GFLOP,
as published for an RTX 4090 in half precision (timm's benchmark of eva_giant_patch14_224)."""
ASSUMED = {
    "decode": "assumed: 30-s H.264 clips of 1280 x 720 on one core, measured once with this pool",
    "operations": "assumed: an RTX 4090's published rate in a ViT-g, 240 frames a second",
    "storage": "assumed: 2 GB/s for all nodes together",
    "link": "assumed: 10 Gbit/s a node",
    "startup": "assumed",
    "doubling": "assumed: 1.9 times for twice the processes",
}


@dataclass(frozen=True)
class Probed:
    """Rates, and where each is from."""

    rates: Rates
    sources: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Plain values, each with its source."""
        named = {**self.rates.__dict__}
        return {
            name: {"value": value, "source": self.sources[name.removesuffix("_frame")]}
            for name, value in named.items()
        }


def probe(
    steps: Sequence[Step],
    workspace: Workspace,
    device: str,
    product_rate: float,
    gpus: int,
    teraflops: float | None = None,
) -> Probed:
    """Rates for a recipe's steps.

    Args:
        steps: Of the recipe; the first extraction says what is probed.
        workspace: Whose prepared videos are decoded.
        device: That networks run on here.
        product_rate: Operations a second of a matrix product on it.
        gpus: Accelerators of a node that is planned for.
        teraflops: Useful operations of one, in 1e12 a second, as the user says; none: not said.
    """
    rates, sources = Rates(product_rate * PRODUCT_SHARE), dict(ASSUMED)
    step = next((one for one in steps if one.command.startswith("extract-")), None)
    decoded = None if step is None else decode_seconds(step, workspace)
    if decoded is not None:
        seconds, frames, videos = decoded
        share = seconds / (rates.decode + frames * rates.decode_frame)
        rates = replace(rates, decode=rates.decode * share, decode_frame=rates.decode_frame * share)
        sources["decode"] = f"measured: {videos} of the prepared videos, {frames} frames a clip"
    operations, sources["operations"] = _operations(step, device, product_rate, gpus, teraflops)
    return Probed(replace(rates, operations=operations), sources)


def _operations(
    step: Step | None, device: str, product_rate: float, gpus: int, teraflops: float | None
) -> tuple[float, str]:
    kind = resolve_device(device).type
    if teraflops is not None:
        return teraflops * 1e12, "given"
    if gpus and kind == "cpu":
        return ASSUMED_OPERATIONS, ASSUMED["operations"]
    measured = None if step is None else tower_operations(step, device)
    if measured is not None:
        return measured, f"measured: frames through the vision tower on this machine's {kind}"
    share = f"half of the rate of a matrix product on this machine's {kind}, which was measured"
    return product_rate * PRODUCT_SHARE, share


def decode_seconds(step: Step, workspace: Workspace) -> tuple[float, int, int] | None:
    """Core seconds of a clip, frames of it and videos tried; none where no video can be had."""
    questions = _prepared(step, workspace)
    if questions is None:
        return None
    try:
        works = [work for work in clip_works(questions) if work.path is not None]
    except (MissingInput, DataError):  # the folder was moved, or the table holds nothing
        return None
    places = np.unique(np.linspace(0, len(works) - 1, PROBED_VIDEOS + 1).astype(int))
    chosen = [works[place] for place in places] if works else []
    if len(chosen) < 2:
        return None
    sampling = SamplingConfig.build({"frames": step.counts("frames") or [32]}, step.place)
    return _timed(chosen, sampling, _frame_format(step))


def _timed(
    chosen: Sequence[VideoWork], sampling: SamplingConfig, frame_format: FrameFormat
) -> tuple[float, int, int] | None:
    """The first video starts the decoder and is not counted."""
    seconds: list[float] = []
    with DecodePool(1) as pool:
        for number, work in enumerate(chosen):
            began = time.perf_counter()
            found = list(decode_videos([work], sampling, frame_format, pool, "probe"))
            took = time.perf_counter() - began
            if number and found[0].clips:
                seconds.append(took / len(work.clips))
    frames = sum(sampling.frames)
    return (statistics.median(seconds), frames, len(seconds)) if seconds else None


def _prepared(step: Step, workspace: Workspace) -> Artifact | None:
    """The newest questions of the step's benchmark."""
    benchmark = step.option("benchmark")
    items = workspace.finished("questions")
    fitting = [item for item in items if item.config["benchmark"] == benchmark]
    return fitting[-1] if fitting else None


def _frame_format(step: Step) -> FrameFormat:
    """The backbone's frames, or 224 x 224 where it is not on this machine."""
    try:
        return FrameFormat(**backbone_frames(str(step.backbone)).format_values())
    except MissingInput:
        return FrameFormat()


def tower_operations(step: Step, device: str) -> float | None:
    """Operations a second of the backbone's tower; none: not here, or too large for a probe."""
    try:
        folder = BackboneFolder(backbone_path(str(step.backbone)))
    except MissingInput:
        return None
    where, size = resolve_device(device), tower_size(folder.config)
    if where.type == "cpu" and PROBED_FRAMES * size.flops > LARGEST_PROBE:
        return None
    tower = load_tower(folder, where, "float32" if where.type == "cpu" else "float16")
    frames = 32 if where.type == "cuda" else PROBED_FRAMES
    side = tower.spec.image_size
    pixels = tower.preprocess(torch.zeros(frames, side, side, 3, dtype=torch.uint8).to(where))
    tower.encode(pixels)  # the first pass chooses kernels
    began = time.perf_counter()
    tower.encode(pixels).tokens.cpu()
    return frames * size.flops / (time.perf_counter() - began)


def cores_here() -> int:
    """Cores of this machine."""
    return os.cpu_count() or 1
