"""An interrupted run that goes on is, bit for bit, the run that was never interrupted."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from stages.artifacts.locks import is_locked
from stages.core.errors import VqaError
from stages.training.loop import Fit

# Dropout is active (the backbone has 0.1), three passes make a step, and an epoch of eight passes
# ends inside one; some steps lie between two saved states.
SETTINGS = (
    "training.epochs=2",
    "training.batch_size=3",
    "training.accumulate=3",
    "training.checkpoint_every=4",
    "training.schedule.warmup_steps=3",
    "training.schedule.init_lr=1e-3",
    "training.select_best=false",
)
PASSES = 16


class Stop(VqaError):
    """What a test interrupts a run with."""


def arguments(command: str, workspace: Path) -> list[str]:
    chosen = ["--keep", "2", "--prompter", "question"] if command == "distill" else []
    settings = [part for text in SETTINGS for part in ("--set", text)]
    return [command, "-b", "shapes", "-w", str(workspace), "--name", "it", *chosen, *settings]


def weights_folder(workspace: Path) -> Path:
    (folder,) = (workspace / "weights").glob("it-*")
    return folder


def learnt(workspace: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """The weights' bytes, and the metrics without what is timed."""
    folder = weights_folder(workspace)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    for line in metrics:
        del line["seconds"]
    return (folder / "weights.safetensors").read_bytes(), metrics


def resumed_after(stop: int, command: str, workspace: Path, vqa: Callable[..., Any]) -> Any:
    """What is learnt by a run that fails at pass `stop` and is started again."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, stop, before_backward=bool(stop % 2))
        assert vqa(*arguments(command, workspace)).code == 1
    assert not (weights_folder(workspace) / "manifest.json").exists()
    assert vqa(*arguments(command, workspace)).code == 0
    return learnt(workspace)


@pytest.fixture(scope="module", params=["train-teacher", "distill"])
def command(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def uninterrupted(
    command: str, trained_world: Any, vqa: Callable[..., Any], tmp_path_factory: Any
) -> tuple[bytes, list[dict[str, Any]]]:
    workspace = trained_world.copy(tmp_path_factory.mktemp("uninterrupted"))
    assert vqa(*arguments(command, workspace)).code == 0
    return learnt(workspace)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, passes: int, before_backward: bool) -> None:
    """Make the run fail at its `passes`-th forward pass, counted from its start or resumption."""
    whole = Fit._forward_backward
    done = 0

    def failing(self: Fit, *rest: Any) -> None:
        nonlocal done
        if done == passes and before_backward:
            raise Stop("interrupted")
        whole(self, *rest)
        if done == passes:
            raise Stop("interrupted")
        done += 1

    monkeypatch.setattr(Fit, "_forward_backward", failing)


@pytest.mark.parametrize("stop", [4, 7, 8, 13])
def test_a_run_interrupted_at_a_pass_ends_in_the_same_bits(
    stop: int,
    command: str,
    uninterrupted: tuple[bytes, list[dict[str, Any]]],
    trained_world: Any,
    vqa: Callable[..., Any],
    tmp_path: Path,
) -> None:
    workspace = trained_world.copy(tmp_path)
    assert resumed_after(stop, command, workspace, vqa) == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("stop", range(PASSES))
def test_a_run_interrupted_at_every_pass_ends_in_the_same_bits(
    stop: int,
    command: str,
    uninterrupted: tuple[bytes, list[dict[str, Any]]],
    trained_world: Any,
    vqa: Callable[..., Any],
    tmp_path: Path,
) -> None:
    workspace = trained_world.copy(tmp_path)
    assert resumed_after(stop, command, workspace, vqa) == uninterrupted


def test_a_run_interrupted_again_and_again_ends_in_the_same_bits(
    command: str,
    uninterrupted: tuple[bytes, list[dict[str, Any]]],
    trained_world: Any,
    vqa: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """Each run gets at most seven passes further than the state it began with."""
    workspace, interruptions, code = trained_world.copy(tmp_path), 0, 1
    while code == 1 and interruptions < PASSES:
        with pytest.MonkeyPatch.context() as patch:
            interrupt_at(patch, 7, before_backward=False)
            code = vqa(*arguments(command, workspace)).code
        interruptions += code
    assert code == 0
    assert interruptions >= 3
    assert learnt(workspace) == uninterrupted


def test_the_metrics_hold_every_pass_once(
    uninterrupted: tuple[bytes, list[dict[str, Any]]],
) -> None:
    metrics = uninterrupted[1]
    steps = [line["pass"] for line in metrics if "loss" in line]
    assert steps == [3, 6, 8, 11, 14, 16]
    assert [line["epoch"] for line in metrics if "tune_accuracy" in line] == [0, 1]


def run_and_kill(line: Sequence[str], after: Callable[[], bool]) -> int:
    """Run the real command line; SIGKILL once `after` holds. Returns the exit status."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vqa_cli", *line, "--quiet"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not after():
        time.sleep(0.002)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def kill_until_done(
    line: Sequence[str], workspace: Path, due: Callable[[], Callable[[], bool]]
) -> int:
    """Kill run after run when `due` of each says so, at most ten times; returns how often."""
    kills = 0
    while not (kills and (weights_folder(workspace) / "manifest.json").exists()):
        status = run_and_kill(line, due() if kills < 10 else lambda: False)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        kills += 1
    return kills


@pytest.mark.slow
def test_a_run_killed_at_every_checkpoint_ends_in_the_same_bits(
    command: str,
    uninterrupted: tuple[bytes, list[dict[str, Any]]],
    trained_world: Any,
    record_property: Callable[[str, object], None],
    tmp_path: Path,
) -> None:
    workspace = trained_world.copy(tmp_path)

    def saved() -> int:
        states = list((workspace / "weights").glob("it-*/state.safetensors"))
        return states[0].stat().st_mtime_ns if states else 0

    def at_the_next_state() -> Callable[[], bool]:
        before = saved()
        return lambda: saved() not in (0, before)

    kills = kill_until_done(arguments(command, workspace), workspace, at_the_next_state)
    record_property("kills", kills)
    assert kills >= 4
    assert learnt(workspace) == uninterrupted


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_in_the_same_bits(
    command: str,
    uninterrupted: tuple[bytes, list[dict[str, Any]]],
    trained_world: Any,
    record_property: Callable[[str, object], None],
    tmp_path: Path,
) -> None:
    """Moments between the first sign of the run in the workspace and half a second later."""
    workspace, draw = trained_world.copy(tmp_path), random.Random(5)

    def soon() -> Callable[[], bool]:
        delay, begun = draw.uniform(0.0, 0.5), 0.0
        lock = workspace / ".locks/weights"

        def due() -> bool:
            nonlocal begun
            if not begun and any(is_locked(path) for path in lock.glob("it-*.lock")):
                begun = time.monotonic()
            return begun > 0 and time.monotonic() - begun > delay

        return due

    kills = kill_until_done(arguments(command, workspace), workspace, soon)
    record_property("kills", kills)
    assert kills >= 1
    assert learnt(workspace) == uninterrupted
