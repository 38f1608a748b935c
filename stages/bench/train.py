"""Seconds and memory of one optimizer step of VLAP: cached features against the tower in the loop.

    student   distillation T -> K (prompter, Q-Former, teacher branch on all T frames, frozen T5)
    teacher   all T frames

With the tower in the loop, what random frames and crops would need: every step encodes its frames.
By operations a student's step at 32 -> 4 is about 8 times as cheap from the cache, a teacher's 2.9.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from stages.bench.clock import (
    Clock,
    head,
    one_thread,
    peak_bytes,
    ratio,
    reset_peak,
    rounded,
    rounds_of,
)
from stages.bench.latency import stored_features
from stages.bench.networks import Source, load_instructblip, load_tower
from stages.bench.schedules import prompts, tower_features
from stages.bench.work import Work, make_work
from stages.core.config import Config
from stages.core.device import resolve_device
from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.vision import VisionTower
from stages.models.selectors import gumbel_noise
from stages.models.vlap import VlapConfig, VlapStudent, VlapTeacher, trainable_parameters
from stages.training.optim import OptimizerConfig, build_optimizer

TARGETS = {"student": 6.0, "teacher": 2.2}
"""How many times faster a step from the cache should be at the published sizes, 32 -> 4."""


class TrainBenchConfig(Config):
    """What is measured."""

    backbone: str = "tiny"
    """`tiny`, a folder, or random weights of a size."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic; trained weights are float32 in both."""
    frames: int = Field(default=32, ge=1)
    """T."""
    keep: int = Field(default=4, ge=1)
    """K."""
    batch: int = Field(default=2, ge=1)
    """Questions of a step."""
    rounds: int = Field(default=3, ge=1)
    """Rounds in which the ways take turns."""


def train(
    config: TrainBenchConfig, device: str, folder: Path | None, command: str
) -> dict[str, Any]:
    """The record; videos are written into `folder`, or the temporary one."""
    where = resolve_device(device)
    source = Source(config.backbone, where, config.precision)
    with one_thread(where):
        tower = load_tower(source, "instructblip")
        size = tower.spec.image_size
        work = make_work(config.batch, config.batch, size, config.frames, source.filler, folder)
        stored = stored_features(tower, work)
        seconds: dict[str, dict[str, list[float]]] = {}
        memory: dict[str, dict[str, int]] = {}
        for name in TARGETS:
            step = Step(source, config, name, tower.spec.tokens, work)
            ways = step_ways(step, tower, work, stored)
            memory[name] = {way: _peak(call, where) for way, call in ways.items()}
            seconds[name] = rounds_of(ways, Clock(where), config.rounds)
            del step, ways
            gc.collect()
    faster = {
        name: round(ratio(ways["tower_in_the_loop"], ways["cached_features"]), 3)
        for name, ways in seconds.items()
    }
    return {
        **head("train", device, command, config=config.as_json()),
        "seconds_per_step": {
            name: {way: round(statistics.median(values), 5) for way, values in ways.items()}
            for name, ways in seconds.items()
        },
        "times_faster_from_cache": faster,
        "peak_bytes": memory,
        **({"targets": _targets(faster)} if source.size("instructblip").published else {}),
        "seconds": {name: rounded(ways) for name, ways in seconds.items()},
    }


def _targets(faster: dict[str, float]) -> dict[str, Any]:
    return {name: {"at_least": goal, "met": faster[name] >= goal} for name, goal in TARGETS.items()}


def step_ways(
    step: Step, tower: VisionTower, work: Work, stored: Tensor
) -> dict[str, Callable[[], float]]:
    """One step from the cache, and one with the tower in the loop."""
    device = step.backbone.device
    return {
        "cached_features": lambda: step(stored.to(device)),
        "tower_in_the_loop": lambda: step(tower_features(tower, work.frames)),
    }


def _peak(call: Callable[[], float], device: torch.device) -> int:
    """Most memory in use during the second call; the first one makes Adam's moments."""
    call()
    reset_peak(device)
    call()
    return peak_bytes(device)


class Step:
    """Forward, backward and AdamW of one batch.

    Args:
        source: Where the backbone comes from; every `Step` loads its own.
        config: What is measured.
        role: `student` or `teacher`.
        tokens: Tokens a frame.
        work: The questions; their first options are the targets.
    """

    def __init__(
        self, source: Source, config: TrainBenchConfig, role: str, tokens: int, work: Work
    ) -> None:
        keep = config.keep if role == "student" else config.frames
        values = VlapConfig.build({"frames": config.frames, "keep": keep}, "bench train")
        self.backbone: InstructBlip = load_instructblip(source)
        torch.manual_seed(0)
        model: nn.Module
        if role == "student":
            model = VlapStudent(self.backbone, values, tokens=tokens)
        else:
            model = VlapTeacher(self.backbone, values)
        self.model = model.to(self.backbone.device).train()
        self.optimizer = build_optimizer(trainable_parameters(model), OptimizerConfig(), 1e-5)
        self.text = self.backbone.text.encode(prompts(work.questions), training=True).to(
            self.backbone.device
        )
        self.labels = self.backbone.letter_labels([0] * len(work.questions))
        self.noise: Tensor | None = None
        if role == "student":
            shape = (len(work.questions), keep, config.frames // keep)
            self.noise = gumbel_noise(shape).to(self.backbone.device)

    def __call__(self, features: Tensor) -> float:
        """One step; returns the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        output = self.model(features, self.text, self.labels, noise=self.noise, tau=0.5)
        output.loss.backward()
        self.optimizer.step()
        return float(output.loss.detach())
