"""Training that finds no room goes on with half the micro-batch and twice the accumulation.

An update still sees as many questions. Positions in training count micro-batches (specs/vlap.md
2.2, 5.1), so the warm-up is stretched by the same factor. Only the last update of an epoch may see
others, as more of the division's rest is used. With `accumulate_rule=sum` the gradient grows by
the factor, as it does for the reference; Adam's steps hardly depend on that.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

from stages.artifacts.halving import in_smaller_batches
from stages.artifacts.result import StageResult
from stages.core.device import resolve_device
from stages.core.errors import OutOfMemory
from stages.core.memory import Peak
from stages.training.loop import TrainingConfig
from stages.training.memory import weights_peak

Values = dict[str, Any]


class HasTraining(Protocol):
    """A training stage's configuration."""

    @property
    def training(self) -> TrainingConfig:
        """How the weights are optimised."""
        ...

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        ...


def train_in_smaller_batches(
    train: Callable[[Values], StageResult],
    values: Values,
    config_of: Callable[[Values], HasTraining],
    backbone: str,
    device: str,
) -> StageResult:
    """`train(values)`; where there is no room, the same in smaller micro-batches.

    Processes that share a batch would have to agree on it, so with several of them the error
    stands, with the settings to start again with.

    Args:
        train: The stage.
        values: Its settings, `training` among them.
        config_of: How it reads them.
        backbone: Name or folder of the backbone.
        device: As the user gave it.

    Raises:
        OutOfMemory: There is no smaller micro-batch, or several processes train.
    """

    def smaller(values: Values) -> tuple[Values, str] | None:
        found = smaller_training(config_of(values).training)
        if found is None:
            return None
        training = {**values.get("training", {}), **found}
        return {**values, "training": training}, named(found)

    def peak(values: Values) -> Peak:
        return weights_peak(config_of(values).as_json(), backbone, resolve_device(device).type)

    return in_smaller_batches(train, values, smaller, peak)


def named(found: dict[str, Any]) -> str:
    """How settings from `smaller_training` are written on the command line."""
    size, passes = found["batch_size"], found["accumulate"]
    return f"training.batch_size={size} training.accumulate={passes}"


def smaller_training(config: TrainingConfig) -> dict[str, Any] | None:
    """The settings that change: the largest part of the batch that is at most half of it.

    None for a batch of one.

    Raises:
        OutOfMemory: Several processes share the batch, and would have to agree.
    """
    size = config.batch_size
    parts = [part for part in range(1, size // 2 + 1) if size % part == 0]
    if not parts:
        return None
    factor, processes = size // parts[-1], int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise OutOfMemory(
            f"one of the {processes} processes that share a batch of {size} ran out of memory",
            "start all of them again with a smaller training.batch_size and as many times more "
            "training.accumulate and training.schedule.warmup_steps",
        )
    schedule = config.schedule.model_copy(
        update={"warmup_steps": config.schedule.warmup_steps * factor}
    )
    return {
        "batch_size": parts[-1],
        "accumulate": config.accumulate * factor,
        "schedule": schedule.as_json(),
    }
