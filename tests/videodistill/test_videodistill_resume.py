"""An interrupted VideoDistill training that goes on is the uninterrupted one, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.core.errors import VqaError
from stages.training.loop import Fit

# Noise, dropout, exchanged captions and hidden words are all drawn; two passes make a step.
SETTINGS = (
    "training.epochs=2",
    "training.accumulate=2",
    "training.checkpoint_every=2",
    "training.select_best=false",
    "model.dropout=0.1",
    "model.tau_end=0.5",
    "sampler_start.steps=3",
)


class Stop(VqaError):
    """What a test interrupts a run with."""


def learnt(workspace: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """The weights' bytes, and the metrics without what is timed."""
    (folder,) = (workspace / "weights").glob("it-*")
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in metrics:
        del line["seconds"]
    return (folder / "weights.safetensors").read_bytes(), metrics


@pytest.mark.parametrize("command", ["train-videodistill", "pretrain-videodistill"])
def test_a_run_interrupted_again_and_again_ends_in_the_same_bits(
    command: str, shapes_world: Any, small: Callable[..., Any], tmp_path: Path
) -> None:
    line = (command, "-b", "shapes", "--name", "it", *small(*SETTINGS))
    whole, broken = (shapes_world.copy(tmp_path / name) for name in ("whole", "broken"))
    whole.done(*line)
    code, interruptions = 1, 0
    while code == 1 and interruptions < 12:
        with pytest.MonkeyPatch.context() as patch:
            interrupt_at(patch, 5)
            code = broken.run(*line).code
        interruptions += code
    assert code == 0
    assert interruptions >= 2
    assert learnt(broken.workspace) == learnt(whole.workspace)


def interrupt_at(patch: pytest.MonkeyPatch, passes: int) -> None:
    """Make the run fail after so many forward passes."""
    step, done = Fit._forward_backward, 0

    def failing(self: Fit, *rest: Any) -> None:
        nonlocal done
        step(self, *rest)
        done += 1
        if done == passes:
            raise Stop("interrupted")

    patch.setattr(Fit, "_forward_backward", failing)
