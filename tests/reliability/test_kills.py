"""A kill at any moment costs at most the shards being written: a re-run ends in the same bytes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

STAGES = ("frames", "features", "from-videos")
KILLED = -signal.SIGKILL
STEPS_PER_FILE = 5
Content = Callable[[Path], dict[str, str]]


def assert_visible_files_are_whole(
    workspace: Path, stage: Any, content: Content, expected: dict[str, str]
) -> None:
    """Every file under its final name already has its final bytes."""
    for folder in (workspace / stage.kind).glob("*"):
        for name, value in content(folder).items():
            assert name.endswith(".tmp") or value == expected[name], name


def crash_and_re_run(
    numbers: Iterable[int], name: str, forked_vqa: Any, prepared: Any, content: Content, place: Path
) -> None:
    stage = prepared.stages[name]
    for number in numbers:
        workspace = prepared.copy(stage, place / str(number))
        crashed = forked_vqa(*stage.arguments, "-w", workspace, "--workers", 1, kill_at=number)
        assert crashed.code == KILLED
        assert len(crashed.steps) == number
        assert_visible_files_are_whole(workspace, stage, content, prepared.expected[name])

        again = forked_vqa(*stage.arguments, "-w", workspace, "--workers", 1 + number % 2)

        assert again.code == 0, (number, again.stdout)
        (folder,) = (workspace / stage.kind).iterdir()
        assert content(folder) == prepared.expected[name], number
        shutil.rmtree(workspace)


def boundaries(stage: Any) -> int:
    """Five steps for each of two files a shard, three tables and the manifest."""
    return STEPS_PER_FILE * (2 * int(stage.shards) + 3 + 1)


@pytest.mark.parametrize("name", STAGES)
def test_an_uninterrupted_run_passes_the_expected_boundaries(
    name: str, forked_vqa: Any, prepared: Any, tmp_path: Path
) -> None:
    stage = prepared.stages[name]
    whole = forked_vqa(*stage.arguments, "-w", prepared.copy(stage, tmp_path / "w"))

    assert len(whole.steps) == boundaries(stage)
    assert len({step for _, step in whole.steps}) == boundaries(stage), "no file written twice"


@pytest.mark.parametrize(("name", "stride"), [("frames", 11), ("features", 6), ("from-videos", 11)])
def test_a_crash_between_two_steps_of_a_write_is_healed_by_a_re_run(
    name: str, stride: int, forked_vqa: Any, prepared: Any, content: Content, tmp_path: Path
) -> None:
    """Strides share no factor with the five steps of a file, so each kind of step is met."""
    numbers = range(1, boundaries(prepared.stages[name]) + 1, stride)

    crash_and_re_run(numbers, name, forked_vqa, prepared, content, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", STAGES)
def test_a_crash_at_every_write_boundary_is_healed_by_a_re_run(
    name: str, forked_vqa: Any, prepared: Any, content: Content, tmp_path: Path
) -> None:
    numbers = range(1, boundaries(prepared.stages[name]) + 1)

    crash_and_re_run(numbers, name, forked_vqa, prepared, content, tmp_path)


@pytest.mark.parametrize("name", STAGES)
def test_random_kills_of_a_forked_run_are_healed(
    name: str, forked_vqa: Any, prepared: Any, content: Content, tmp_path: Path
) -> None:
    stage, draw = prepared.stages[name], random.Random(name)
    workspace = prepared.copy(stage, tmp_path / "w")
    for _ in range(3):
        forked_vqa(*stage.arguments, "-w", workspace, kill_after=draw.uniform(0.05, 0.6))
        assert_visible_files_are_whole(workspace, stage, content, prepared.expected[name])

    assert forked_vqa(*stage.arguments, "-w", workspace, "--workers", 2).code == 0

    (folder,) = (workspace / stage.kind).iterdir()
    assert content(folder) == prepared.expected[name]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", STAGES)
def test_fifty_random_kills_of_the_real_command_line_are_healed(
    name: str,
    real_vqa: Any,
    prepared_many: Any,
    content: Content,
    tmp_path: Path,
) -> None:
    """Each kill is followed by a re-run, which may be killed too; every finish is compared."""
    stage, expected = prepared_many.stages[name], prepared_many.expected[name]
    draw = random.Random(f"fifty {name}")
    kills = finishes = 0
    longest = prepared_many.seconds[name]
    workspace = prepared_many.copy(stage, tmp_path / "0")
    while kills < 50:
        workers = draw.choice([1, 2, 3])
        process = real_vqa(*stage.arguments, "-w", workspace, "--workers", workers)
        time.sleep(draw.uniform(0.25, 1.0) * longest)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        kills += process.returncode == KILLED
        assert process.returncode in (KILLED, 0)
        assert_visible_files_are_whole(workspace, stage, content, expected)
        if process.returncode == 0:
            (folder,) = (workspace / stage.kind).iterdir()
            assert content(folder) == expected
            shutil.rmtree(workspace)
            finishes += 1
            workspace = prepared_many.copy(stage, tmp_path / str(finishes))
    last = real_vqa(*stage.arguments, "-w", workspace, "--workers", 2)
    last.communicate()
    assert last.returncode == 0
    (folder,) = (workspace / stage.kind).iterdir()
    assert content(folder) == expected
    print(f"{name}: {kills} kills, {finishes + 1} finished and compared")  # noqa: T201


def test_killed_preparations_are_healed(
    forked_vqa: Any, prepared: Any, content: Content, tmp_path: Path
) -> None:
    command = ("prepare", "--benchmark", "shapes", "--split", "test", "--size", 3, "--seed", 5)
    workspace = tmp_path / "w"
    for kill in ({"kill_after": 0.15}, {"kill_at": 3}, {"kill_at": 18}):
        assert forked_vqa(*command, "-w", workspace, **kill).code == KILLED
        assert not list(workspace.glob("questions/*/manifest.json"))

    made = forked_vqa(*command, "-w", workspace)

    assert made.code == 0
    (expected,) = (prepared.root / "questions").iterdir()
    assert content(Path(made.json["artifact"]["path"])) == content(expected)


@pytest.mark.slow
def test_a_killed_preparation_leaves_no_process_that_goes_on_writing(
    real_vqa: Any, content: Content, tmp_path: Path
) -> None:
    """Only the main process is killed, as the kernel does when memory runs out."""
    command = ("prepare", "--benchmark", "shapes", "--split", "test", "--size", 40, "--workers", 3)
    workspace = tmp_path / "w"

    def videos() -> int:
        return len(list(workspace.rglob("*.mp4")))

    process = real_vqa(*command, "-w", workspace)
    while videos() < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    time.sleep(1)
    left = videos()
    time.sleep(1)
    went_on = videos() - left
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

    assert went_on == 0
    again, whole = (real_vqa(*command, "-w", place) for place in (workspace, tmp_path / "whole"))
    folders = [Path(json.loads(run.communicate()[0])["artifact"]["path"]) for run in (again, whole)]
    assert content(folders[0]) == content(folders[1])
