"""Learning rate and temperature as pure functions of the position in training.

Positions count micro-batches: gradient accumulation does not change them (specs/vlap.md 2.2, 5.1).
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from stages.core.config import Config


class LearningRateConfig(Config):
    """The reference's schedule, or a cosine or a line over all steps."""

    kind: Literal["epoch_cosine", "step_cosine", "step_linear"] = "epoch_cosine"
    """`epoch_cosine`: warm-up inside epoch 0, then constant inside each epoch (reference)."""
    init_lr: float = Field(default=1e-5, gt=0)
    """Highest learning rate."""
    min_lr: float = Field(default=1e-8, ge=0)
    """Where the cosine or the line ends."""
    warmup_lr: float = Field(default=1e-8, ge=0)
    """Where the warm-up begins."""
    warmup_steps: int = Field(default=500, ge=0)
    """Micro-batches of warm-up; `epoch_cosine` cuts it at the end of epoch 0."""


class TemperatureConfig(Config):
    """Temperature of the Gumbel-softmax: start * (end / start) ** progress."""

    start: float = Field(default=1.0, gt=0)
    """At the first micro-batch."""
    end: float = Field(default=0.01, gt=0)
    """When progress reaches 1, and ever after."""
    total: Literal["steps", "epochs"] = "steps"
    """Progress over all training steps (paper) or over a fixed number of epochs (code)."""
    epochs: int = Field(default=50, ge=1)
    """The fixed number for `total=epochs`; 50 in the published code, whose training has 10."""


def learning_rate(
    config: LearningRateConfig, *, epoch: int, iteration: int, epochs: int, per_epoch: int
) -> float:
    """Learning rate of micro-batch `iteration` of `epoch`."""
    if config.kind == "epoch_cosine":
        return epoch_cosine(config, epoch=epoch, iteration=iteration, epochs=epochs)
    step = epoch * per_epoch + iteration
    along = step_cosine if config.kind == "step_cosine" else step_linear
    return along(config, step=step, total=epochs * per_epoch)


def epoch_cosine(config: LearningRateConfig, *, epoch: int, iteration: int, epochs: int) -> float:
    """Epoch 0: linear warm-up, then flat; later: min + (init - min)(1 + cos(pi e / E)) / 2."""
    if epoch == 0:
        return _warmup(config, iteration)
    return _cosine(config, epoch / epochs)


def step_cosine(config: LearningRateConfig, *, step: int, total: int) -> float:
    """Linear warm-up, then a cosine over the remaining steps down to `min_lr`."""
    if step < config.warmup_steps:
        return _warmup(config, step)
    return _cosine(config, _after_warmup(config, step, total))


def step_linear(config: LearningRateConfig, *, step: int, total: int) -> float:
    """Linear warm-up, then a straight line over the remaining steps down to `min_lr`."""
    if step < config.warmup_steps:
        return _warmup(config, step)
    fallen = _after_warmup(config, step, total)
    return config.init_lr + (config.min_lr - config.init_lr) * fallen


def temperature(
    config: TemperatureConfig, *, epoch: int, iteration: int, epochs: int, per_epoch: int
) -> float:
    """Temperature of micro-batch `iteration` of `epoch` (paper formula or the code's)."""
    total = (epochs if config.total == "steps" else config.epochs) * per_epoch
    progress = min((epoch * per_epoch + iteration) / total, 1.0)
    return config.start * (config.end / config.start) ** progress


def _warmup(config: LearningRateConfig, step: int) -> float:
    rise = (config.init_lr - config.warmup_lr) * step / max(config.warmup_steps, 1)
    return min(config.warmup_lr + rise, config.init_lr) if config.warmup_steps else config.init_lr


def _after_warmup(config: LearningRateConfig, step: int, total: int) -> float:
    """Progress, 0 to 1, over the steps that follow the warm-up."""
    return min((step - config.warmup_steps) / max(total - config.warmup_steps, 1), 1.0)


def _cosine(config: LearningRateConfig, progress: float) -> float:
    return config.min_lr + (config.init_lr - config.min_lr) * 0.5 * (
        1 + math.cos(math.pi * progress)
    )
