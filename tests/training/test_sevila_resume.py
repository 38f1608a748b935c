"""SeViLA's interrupted trainings go on to the bits of the uninterrupted ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.core.errors import VqaError
from stages.training.loop import Fit

# Dropout is active (the backbone has 0.1), two passes make a step, and an epoch of six passes ends
# between two saved states.
SETTINGS = (
    "training.epochs=2",
    "training.batch_size=4",
    "training.accumulate=2",
    "training.checkpoint_every=4",
    "training.schedule.warmup_steps=2",
    "training.schedule.init_lr=1e-3",
    "training.select_best=false",
    "max_tune_questions=4",
)
PASSES = 12
LINES = {
    "keyframes chosen once": ("train-answerer", "--keep", "2"),
    "keyframes chosen with dropout": (
        "train-answerer", "--keep", "2", "--set", "dropout_in_choice=true",
    ),
    "random keyframes": ("train-answerer", "--keep", "2", "--select", "random"),
    "differentiable top-k": ("train-answerer", "--keep", "2", "--select", "topk"),
    "spans": ("train-localizer",),
    "stored labels": ("refine-localizer", "--keep", "2", "--set", "threshold=0.5"),
    "labels made on the fly": ("refine-localizer", "--keep", "2", "--set", "on_the_fly=true"),
}  # fmt: skip


class Stop(VqaError):
    """What a test interrupts a run with."""


def arguments(case: str, workspace: Path) -> list[str]:
    command, *chosen = LINES[case]
    settings = [part for text in SETTINGS for part in ("--set", text)]
    return [command, "-b", "shapes", "-w", str(workspace), "--name", "it", *chosen, *settings]


def learnt(workspace: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """The weights' bytes, and the metrics without what is timed."""
    (folder,) = (workspace / "weights").glob("it-*")
    assert {file.name for file in folder.iterdir()} == {
        "manifest.json", "metrics.jsonl", "weights.safetensors",
    }  # fmt: skip
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    for line in metrics:
        del line["seconds"]
    return (folder / "weights.safetensors").read_bytes(), metrics


@pytest.fixture(scope="module", params=LINES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def labelled_world(
    sevila_world: Any, vqa: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    workspace = sevila_world.copy(tmp_path_factory.mktemp("labelled"))
    assert vqa("pseudo-label", "-b", "shapes", "-w", workspace).code == 0
    return type(sevila_world)(workspace, sevila_world.backbone)


@pytest.fixture(scope="module")
def uninterrupted(
    case: str, labelled_world: Any, vqa: Callable[..., Any], tmp_path_factory: Any
) -> tuple[bytes, list[dict[str, Any]]]:
    workspace = labelled_world.copy(tmp_path_factory.mktemp("uninterrupted"))
    outcome = vqa(*arguments(case, workspace))
    assert outcome.code == 0, outcome.json
    return learnt(workspace)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, passes: int) -> None:
    """Make the run fail after its `passes`-th forward pass."""
    whole = Fit._forward_backward
    done = 0

    def failing(self: Fit, *rest: Any) -> None:
        nonlocal done
        whole(self, *rest)
        done += 1
        if done > passes:
            raise Stop("interrupted")

    monkeypatch.setattr(Fit, "_forward_backward", failing)


@pytest.mark.parametrize(
    "stop", [5, 7, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1, 2, 3, 6, 9, 10, 11))]
)
def test_an_interrupted_run_ends_in_the_same_bits(
    stop: int,
    case: str,
    uninterrupted: tuple[bytes, list[dict[str, Any]]],
    labelled_world: Any,
    vqa: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace = labelled_world.copy(tmp_path)
    with monkeypatch.context() as patch:
        interrupt_at(patch, stop)
        assert vqa(*arguments(case, workspace)).code == 1
    outcome = vqa(*arguments(case, workspace))
    assert outcome.code == 0, outcome.json
    assert learnt(workspace) == uninterrupted


def test_the_metrics_hold_every_step_once(
    uninterrupted: tuple[bytes, list[dict[str, Any]]],
) -> None:
    steps = [line["pass"] for line in uninterrupted[1] if "loss" in line]
    assert steps == [2, 4, 6, 8, 10, 12]
