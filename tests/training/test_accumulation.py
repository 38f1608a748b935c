"""Gradient accumulation: two halves of a batch are the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

# Letter targets have equal lengths, so the mean over a batch is the mean of its halves' means.
SETTINGS = {
    "training.epochs": 1,
    "training.schedule.init_lr": 1e-3,
    "training.schedule.warmup_steps": 0,
    "training.select_best": "false",
}
RELATIVE = 1e-4


@pytest.fixture(scope="module")
def train(
    world_without_dropout: Any,
    vqa: Callable[..., Any],
    metrics_of: Callable[[Path, str], list[dict[str, Any]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Any]:
    """Trains a teacher by the settings; returns steps' metrics and the weights."""
    workspace = world_without_dropout.copy(tmp_path_factory.mktemp("accumulation"))

    def run(name: str, **training: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        values = SETTINGS | {f"training.{key}": value for key, value in training.items()}
        settings = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
        outcome = vqa(
            "train-teacher", "-b", "shapes", "-w", workspace,
            "--answer", "letter", "--name", name, *settings,
        )  # fmt: skip
        assert outcome.code == 0, outcome.json
        steps = [line for line in metrics_of(workspace, name) if "loss" in line]
        path = Path(outcome.json["artifact"]["path"]) / "weights.safetensors"
        return steps, load_file(path)

    return run


@pytest.fixture(scope="module")
def whole(train: Callable[..., Any]) -> Any:
    return train("whole", batch_size=8)


@pytest.fixture(scope="module")
def halves(train: Callable[..., Any]) -> Any:
    return train("halves", batch_size=4, accumulate=2)


def test_two_passes_of_four_questions_are_one_of_eight(whole: Any, halves: Any) -> None:
    assert [step["pass"] for step in whole[0]] == [1, 2, 3]
    assert [step["pass"] for step in halves[0]] == [2, 4, 6]
    for one, two in zip(whole[0], halves[0], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=RELATIVE)
        assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=RELATIVE)


def test_they_end_in_the_same_weights(whole: Any, halves: Any) -> None:
    """But for key biases: softmax ignores them, so their gradient is rounding noise, which Adam
    divides by its own size."""
    steps = 3 * SETTINGS["training.schedule.init_lr"]
    for name, value in whole[1].items():
        if name.endswith("key.bias"):
            continue
        difference = (halves[1][name] - value).abs()
        assert difference.mean() < 0.01 * steps, name


def test_the_sum_rule_doubles_the_gradient(train: Callable[..., Any], halves: Any) -> None:
    summed = train("summed", batch_size=4, accumulate=2, accumulate_rule="sum")
    first, doubled = halves[0][0], summed[0][0]
    assert doubled["loss"] == first["loss"]
    assert doubled["gradient_norm"] == pytest.approx(2 * first["gradient_norm"], rel=1e-6)
