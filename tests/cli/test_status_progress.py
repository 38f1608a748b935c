"""`vqa status`: what is running and how fast, what is stale and why, and watching it."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.artifacts import atomic
from stages.artifacts.inspect import workspace_status
from stages.artifacts.progress import pace, training_position
from stages.artifacts.shards import Claim, ShardedDraft
from stages.artifacts.store import Artifact, Request, Workspace
from stages.core.runtime import ShardSelection
from vqa_cli.main import run_command

ASKED = {"benchmark": "b", "split": "s"}
FEATURES = ASKED | {"backbone": "x", "sampling": {}}
COUNTS = {"total": 1, "done": 1, "failed": 0}


def finished(workspace: Workspace, request: Request, text: str = "data") -> Artifact:
    with workspace.exclusive(request, force=True) as (draft, _):
        atomic.write_text(draft.path / "lines.jsonl", text)
        return draft.finish(COUNTS)


@contextmanager
def running(workspace: Workspace, shards: int = 4, done: int = 2) -> Iterator[ShardedDraft]:
    """Features of which `done` shards are finished and another one is being built here."""
    draft = workspace.draft(Request("features", "half", {}))
    sharded = ShardedDraft(draft, shards, "features", ".h5", ShardSelection())
    sharded.announce(10 * shards)
    claims: Iterator[Claim] = sharded.claims()
    for _ in range(done):
        sharded.commit(next(claims), b"data", {"counts": {"done": 9, "failed": 1}})
    held = next(claims)
    yield sharded
    held.lock.release()


def aged(sharded: ShardedDraft, began: float, ended: float) -> None:
    """Let the run have begun, and its last shard have ended, so many seconds ago."""
    now = time.time()
    os.utime(sharded.draft.outlook_path(), (now - began, now - began))
    for shard in range(sharded.num_done()):
        os.utime(sharded.sidecar_path(shard), (now - ended, now - ended))


def test_a_running_stage_shows_shards_rate_and_time_left(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with running(workspace) as sharded:
        aged(sharded, began=14, ended=4)
        (row,) = workspace_status(workspace)["artifacts"]
        shown = ("state", "stage", "shards_done", "shards_running", "shards")
        assert [row[name] for name in shown] == ["running", "extract-features", 2, 1, 4]
        assert (row["done"], row["failed"], row["total"]) == (18, 2, 40)
        # 20 items in 10 s; 20 are left, of which 4 s have passed.
        assert row["rate"] == pytest.approx(2.0, rel=0.05)
        assert row["eta_seconds"] == pytest.approx(6.0, abs=1.0)
        assert row["bytes"] > 0

    (left,) = workspace_status(workspace)["artifacts"]
    assert (left["state"], left["shards_running"], left["rate"]) == ("unfinished", 0, None)


def test_shards_of_an_earlier_run_are_no_measure(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with running(workspace) as sharded:
        aged(sharded, began=5, ended=3600)
        (row,) = workspace_status(workspace)["artifacts"]
        assert (row["done"], row["rate"], row["eta_seconds"]) == (18, None, None)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0, 1e4), st.integers(0, 50)), max_size=6),
    st.integers(0, 400),
    st.floats(0, 1e4),
)
def test_time_left_is_what_the_rate_says_and_never_negative(
    shards: list[tuple[float, int]], total: int, passed: float
) -> None:
    with atomic_folder() as folder:
        outlook = folder / "outlook.json"
        outlook.write_text("{}")
        os.utime(outlook, (1e6, 1e6))
        sidecars = [folder / f"{number}.json" for number in range(len(shards))]
        for path, (seconds, items) in zip(sidecars, shards, strict=True):
            path.write_text(json.dumps({"counts": {"done": items, "failed": 0}}))
            os.utime(path, (1e6 + seconds, 1e6 + seconds))
        found = pace(sidecars, outlook, total, now=1e6 + 1e4 + passed)
    done, last = sum(items for _, items in shards), max((s for s, _ in shards), default=0.0)
    if done == 0 or last < 1e-5:
        assert (found.rate is None) == (found.eta_seconds is None)
        return
    assert found.rate == pytest.approx(done / last, rel=1e-3)
    assert found.eta_seconds is not None
    assert found.eta_seconds >= 0


@contextmanager
def atomic_folder() -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def test_a_training_shows_where_it_stands(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with workspace.exclusive(Request("weights", "x", {})) as (draft, _):
        assert training_position(draft.path) is None
        lines = [{"pass": n, "loss": 1.0 / n, "epoch": 0, "seconds": n} for n in (1, 2, 3)]
        text = "".join(json.dumps(line) + "\n" for line in lines) + '{"pass": 4, "lo'
        (draft.path / "metrics.jsonl").write_text(text)
        (row,) = workspace_status(workspace)["artifacts"]
        assert row["state"] == "running"
        assert row["training"] == {"epoch": 0, "pass": 3, "loss": 1 / 3, "seconds": 3}


def test_stale_artifacts_say_why(
    tmp_path: Path, vqa: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(tmp_path)
    again, gone, half, newer = (
        finished(workspace, Request("questions", name, ASKED | {"name": name}))
        for name in ("again", "gone", "half", "newer")
    )
    inputs = {"questions": again, "frames": gone, "weights": half, "selector": newer}
    features = finished(workspace, Request("features", "made", FEATURES, inputs))
    assert vqa("status", "-w", tmp_path).json["artifacts"][-1]["stale_why"] == []

    finished(workspace, Request("questions", "again", ASKED | {"name": "again"}), "other data")
    for path in gone.path.iterdir():
        path.unlink()
    gone.path.rmdir()
    (half.path / "manifest.json").unlink()
    manifest = json.loads((newer.path / "manifest.json").read_text())
    (newer.path / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))

    row = vqa("status", "-w", tmp_path).json["artifacts"][-1]
    why = dict(zip(row["stale"], row["stale_why"], strict=True))
    assert row["id"] == features.id
    assert set(why) == {again.id, gone.id, half.id, newer.id}
    assert f"questions {again.id} was made again" in why[again.id]
    assert why[gone.id].endswith("is gone")
    assert why[half.id].endswith("is not finished any more")
    assert "newer than this version reads" in why[newer.id]

    assert run_command(["status", "-w", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert all(sentence in printed for sentence in why.values())
    assert "free" in printed


def test_looking_does_not_disturb_a_workspace(tmp_path: Path, vqa: Callable[..., Any]) -> None:
    assert vqa("status", "-w", tmp_path / "none").json["artifacts"] == []
    assert not (tmp_path / "none").exists()
    workspace = Workspace(tmp_path)
    with running(workspace):
        before = sorted(tmp_path.rglob("*"))
        vqa("status", "-w", tmp_path)
        assert sorted(tmp_path.rglob("*")) == before


# --- watching ------------------------------------------------------------------------------------


def watch(workspace: Path, *options: str, **how: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vqa_cli", "status", "--watch", "--interval", "0.2"]
    return subprocess.Popen([*command, "-w", str(workspace), *options], **how)


def interrupted(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGINT)
    return process.wait(30)


def test_watching_a_pipe_gives_one_plain_snapshot_each_time(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with running(workspace):
        with watch(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            lines = [process.stdout.readline().decode() for _ in range(2)]
            assert interrupted(process) == 130
            said = process.stderr.read().decode()
    for line in lines:
        assert "running features/half-" in line
        assert "2/4 +1 shards, 18/40 done, 2 failed" in line
        assert "\x1b" not in line
    assert "stopped watching" in said
    assert "Traceback" not in said


def test_watching_as_json_gives_one_object_a_line(tmp_path: Path) -> None:
    finished(Workspace(tmp_path), Request("questions", "x", ASKED))
    with watch(tmp_path, "--json", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        found = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert interrupted(process) == 130
    assert [item["artifacts"][0]["state"] for item in found] == ["finished", "finished"]


def test_watching_a_terminal_redraws_a_table(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with running(workspace):
        ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}
        with watch(tmp_path, stdout=theirs, stderr=subprocess.DEVNULL, env=environment) as process:
            shown = b""
            while shown.count(b"artifacts,") < 2:
                assert select.select([ours], [], [], 30)[0]
                shown += os.read(ours, 65536)
            assert interrupted(process) == 130
        os.close(ours)
        os.close(theirs)
    lines = shown.decode().splitlines()
    assert any("2/4 +1" in line and "running" in line for line in lines)
    assert any("18/40 done" in line for line in lines)
    assert b"\x1b[1A" in shown  # back up, to draw over the snapshot before
