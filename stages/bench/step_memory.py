"""The memory that a step of a recipe would take, before anything of it is there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from stages.bench.estimate import ITEM_BYTES, SHARD_BYTES, TRAINING_COMMANDS, Step
from stages.core.memory import Peak
from stages.models.backbones.sizes import tower_size
from stages.models.memory import (
    PAIRS_OF_A_QUESTION,
    answering_peak,
    decoding_peak,
    encoding_peak,
    training_peak,
    videodistill_peak,
)
from stages.models.videodistill_config import PAPER, TABLE_4, VideoDistillConfig

FRAMES_SHARD_BYTES = 128 * 1024 * 1024
LOCALIZERS = ("train-localizer", "refine-localizer")


def step_peak(step: Step, config: Mapping[str, Any], device: str, clips: int = 1) -> Peak:
    """The most memory of one combination of a step.

    Args:
        step: The command line.
        config: The backbone's `config.json`.
        device: Device type.
        clips: Of a video, for extractions: they share its shard.
    """
    if step.command.startswith("extract-"):
        return _extraction(step, config, device, clips)
    if config.get("model_type") == "clip":
        return _videodistill(step, config, device)
    if step.command in TRAINING_COMMANDS:
        return _training(step, config, device)
    return _answering(step, config, device)


def _extraction(step: Step, config: Mapping[str, Any], device: str, clips: int) -> Peak:
    per_clip = sum(step.counts("frames") or [step.frames]) * (1 + step.whole("views", 0))
    frames = clips * per_clip
    tower, side = tower_size(config), int(config.get("vision_config", {}).get("image_size", 224))
    pixels = 3 * side * side
    workers = os.cpu_count() or 1
    if step.command == "extract-frames":
        videos = min(64, max(1, FRAMES_SHARD_BYTES // (per_clip * pixels)))
        shard = videos * frames * pixels
        return decoding_peak(frames=frames, pixels=pixels, workers=workers, shard_bytes=shard)
    row = tower.tokens * tower.width * ITEM_BYTES[step.text("dtype", "float16")]
    return encoding_peak(
        config,
        device=device,
        frames=frames,
        pixels=pixels,
        forward=step.whole("frames_per_forward", 32),
        row_bytes=row,
        shard_rows=frames * min(64, max(1, SHARD_BYTES // (row * per_clip))),
        workers=workers if "--from-videos" in step.line else 0,
    )


def _half(step: Step) -> bool:
    said = [step.text(name, "float32") for name in ("precision", "training.precision")]
    return said != ["float32", "float32"]


def _training(step: Step, config: Mapping[str, Any], device: str) -> Peak:
    T, K = step.frames, step.keep
    drawn = step.whole("frames_per_question", 4)
    student = step.command == "distill"
    sevila = step.command != "train-teacher" and not student
    kept = K or (4 if sevila else T)
    localizer = step.command in LOCALIZERS
    return training_peak(
        config,
        device=device,
        batch=step.whole("training.batch_size", 8),
        seen=drawn if localizer else (T if student or K is None else kept),
        learnt=drawn if localizer else kept,
        half=_half(step),
        frames_alone=localizer,
        frozen_sides=int(student or sevila),
        tuned={
            "batch": step.whole("eval_batch_size", 16),
            "seen": T,
            "kept": kept,
            "scores_frames": sevila,
        },
    )


def _answering(step: Step, config: Mapping[str, Any], device: str) -> Peak:
    T, system = step.frames, step.option("system") or "vlap"
    select = step.text("select", "localizer" if system == "sevila" else "")
    labels = step.command == "pseudo-label"
    kept = 1 if labels else (T if select == "all" else step.keep or min(4, T))
    scores = labels or system == "blip2-voting" or (system == "sevila" and select == "localizer")
    return answering_peak(
        config,
        device=device,
        batch=step.whole("batch_size", 16),
        seen=T,
        kept=kept,
        half=_half(step),
        scores_frames=scores,
        sides=2 if select == "localizer" else 1,
    )


def _videodistill(step: Step, config: Mapping[str, Any], device: str) -> Peak:
    train = step.command in TRAINING_COMMANDS
    values = {**PAPER, "frames": step.frames, "keep": min(step.keep or 16, step.frames)}
    variant = TABLE_4.get(step.text("variant", ""), {})
    network = VideoDistillConfig.build(
        {**values, **(step.group("model") if train else {}), **variant}, f"{step.place}: model"
    )
    pairs = step.whole("batch_size", 16)
    if train:  # the task follows from the benchmark; most choose among options
        of_each = PAIRS_OF_A_QUESTION.get(step.text("task", "choice"), 1)
        pairs = step.whole("training.batch_size", 8) * of_each
    return videodistill_peak(config, network, device=device, pairs=pairs, train=train)
