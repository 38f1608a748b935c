"""Several processes on one workspace share the work: no shard is built twice, no lock stays."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Content = Callable[[Path], dict[str, str]]


def run_together(count: int, real_vqa: Any, stage: Any, workspace: Path, logs: Path) -> Any:
    """Start `count` processes at once; their exit codes, JSON objects and write steps."""
    logs.mkdir()
    running = [
        real_vqa(*stage.arguments, "-w", workspace, "--workers", 1, log=logs / f"{number}")
        for number in range(count)
    ]
    answers = [json.loads(process.communicate(timeout=280)[0]) for process in running]
    steps = [line for log in logs.iterdir() for line in log.read_text().splitlines()]
    return [process.returncode for process in running], answers, steps


def times_built(steps: list[str]) -> Counter[str]:
    """How often each file was opened for writing, by any process."""
    names = (line.split("\t")[1] for line in steps)
    return Counter(name.removeprefix("open ") for name in names if name.startswith("open "))


@pytest.mark.parametrize(
    "name",
    [
        "frames",
        pytest.param("features", marks=pytest.mark.slow),
        pytest.param("from-videos", marks=pytest.mark.slow),
    ],
)
def test_four_processes_together_write_each_file_once_and_the_same_bytes(
    name: str, real_vqa: Any, prepared: Any, content: Content, tmp_path: Path
) -> None:
    stage = prepared.stages[name]
    workspace = prepared.copy(stage, tmp_path / "w")

    codes, answers, steps = run_together(4, real_vqa, stage, workspace, tmp_path / "logs")

    assert codes == [0, 0, 0, 0]
    assert all(answer["artifact"]["finished"] for answer in answers)
    (folder,) = (workspace / stage.kind).iterdir()
    assert content(folder) == prepared.expected[name]
    assert set(times_built(steps).values()) == {1}
    assert times_built(steps).keys() == prepared.expected[name].keys()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["frames", "features", "from-videos"])
def test_four_processes_share_twelve_shards_when_one_of_them_is_killed(
    name: str, real_vqa: Any, prepared_many: Any, content: Content, tmp_path: Path
) -> None:
    stage = prepared_many.stages[name]
    workspace = prepared_many.copy(stage, tmp_path / "w")
    logs = tmp_path / "logs"
    logs.mkdir()
    running = [
        real_vqa(*stage.arguments, "-w", workspace, "--workers", 1, log=logs / f"{number}")
        for number in range(4)
    ]
    while not any((logs / f"{n}").exists() and (logs / f"{n}").read_text() for n in range(4)):
        time.sleep(0.01)
    first = next(n for n in range(4) if (logs / f"{n}").exists() and (logs / f"{n}").read_text())
    running[first].send_signal(signal.SIGKILL)
    for process in running:
        process.communicate(timeout=600)

    assert sorted(process.returncode for process in running)[1:] == [0, 0, 0]
    (folder,) = (workspace / stage.kind).iterdir()
    assert content(folder) == prepared_many.expected[name]
    steps = [line for log in logs.iterdir() for line in log.read_text().splitlines()]
    renamed = Counter(line.split("\t")[1] for line in steps if "\trename " in line)
    assert set(renamed.values()) <= {1, 2}, "only what the killed one held may be written again"
    assert sum(renamed.values()) <= len(renamed) + 1


def test_a_killed_process_leaves_no_lock(
    forked_vqa: Any, prepared: Any, content: Content, tmp_path: Path
) -> None:
    stage = prepared.stages["frames"]
    workspace = prepared.copy(stage, tmp_path / "w")
    assert forked_vqa(*stage.arguments, "-w", workspace, kill_at=3).code == -signal.SIGKILL
    assert list((workspace / ".locks").rglob("*.lock"))

    (row,) = forked_vqa("artifacts", "ls", "frames", "-w", workspace).json["artifacts"]
    again = forked_vqa(*stage.arguments, "-w", workspace)

    assert row["state"] == "unfinished"
    assert again.code == 0
    assert content(Path(again.json["artifact"]["path"])) == prepared.expected["frames"]


@pytest.mark.parametrize("order", [("0/2", "1/2"), ("1/2", "0/2"), ("1/2", None)])
def test_runs_of_chosen_shards_end_unfinished_until_the_last(
    order: tuple[str, str | None],
    forked_vqa: Any,
    prepared: Any,
    content: Content,
    tmp_path: Path,
) -> None:
    stage = prepared.stages["frames"]
    workspace = prepared.copy(stage, tmp_path / "w")
    first, second = [
        forked_vqa(*stage.arguments, "-w", workspace, *(("--shard", part) if part else ()))
        for part in order
    ]

    assert (first.code, second.code) == (0, 0)
    assert first.json["artifact"]["finished"] is False
    assert second.json["artifact"]["finished"] is True
    assert first.json["artifact"]["id"] == second.json["artifact"]["id"]
    folder = Path(second.json["artifact"]["path"])
    assert content(folder) == prepared.expected["frames"]
    built = times_built([f"{pid}\t{step}" for run in (first, second) for pid, step in run.steps])
    assert set(built.values()) == {1}


def test_an_unfinished_artifact_is_refused_by_its_readers(
    forked_vqa: Any, prepared: Any, tmp_path: Path
) -> None:
    frames, features = prepared.stages["frames"], prepared.stages["features"]
    workspace = prepared.copy(frames, tmp_path / "w")
    draft = forked_vqa(*frames.arguments, "-w", workspace, "--shard", "0/2").json["artifact"]

    unnamed = forked_vqa(*features.arguments, "-w", workspace)
    named = forked_vqa(*features.arguments, "-w", workspace, "--frames-from", draft["id"])

    for outcome in (unnamed, named):
        assert outcome.code == 4
        assert outcome.json["error"]["hint"]


def test_an_interrupt_says_how_to_go_on_and_the_re_run_does(
    forked_vqa: Any, prepared: Any, content: Content, tmp_path: Path
) -> None:
    stage = prepared.stages["from-videos"]
    for number in (2, 13):
        workspace = prepared.copy(stage, tmp_path / str(number))
        stopped = forked_vqa(*stage.arguments, "-w", workspace, interrupt_at=number)

        assert stopped.code == 130
        assert stopped.json["error"]["code"] == 130
        assert "same command again" in stopped.json["error"]["hint"]
        again = forked_vqa(*stage.arguments, "-w", workspace)
        assert again.code == 0
        folder = Path(again.json["artifact"]["path"])
        assert content(folder) == prepared.expected["from-videos"]
