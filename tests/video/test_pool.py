"""The decode workers: order, backpressure, deadlines, crashes, and no trace left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from stages.core.errors import UsageError
from stages.video import load_decoder
from stages.video.pool import DecodePool
from stages.video.probe import probe
from stages.video.resize import FrameFormat
from stages.video.tasks import (
    ClipFrames,
    Decoded,
    DecodeFailure,
    DecodeTask,
    ExactFrames,
    FramePlan,
    ProbeTask,
    ViewDraw,
)

SMALL = FrameFormat.squash(40, 28)

NAUGHTY = """
import ctypes, os, signal, sys, time
from dataclasses import dataclass

@dataclass(frozen=True)
class Sleep:
    seconds: float
    def __call__(self, info):
        time.sleep(self.seconds)
        return __import__("numpy").array([0])

@dataclass(frozen=True)
class HoldTheLock:
    def __call__(self, info):
        ctypes.PyDLL(None).sleep(1000)

@dataclass(frozen=True)
class Crash:
    number: int
    def __call__(self, info):
        signal.raise_signal(self.number)

@dataclass(frozen=True)
class Mistake:
    def __call__(self, info):
        raise KeyError("a mistake in a plan")

@dataclass(frozen=True)
class WhatIsLoaded:
    def __call__(self, info):
        heavy = {"torch", "transformers", "pandas", "h5py"} & set(sys.modules)
        assert not heavy, heavy
        return __import__("numpy").array([len(heavy)])

@dataclass(frozen=True)
class Pid:
    folder: str
    def __call__(self, info):
        open(os.path.join(self.folder, str(os.getpid())), "w").close()
        return __import__("numpy").array([0])
"""


@pytest.fixture
def naughty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Plans that misbehave, in a module the worker processes can import too."""
    import importlib

    (tmp_path / "naughty_plans.py").write_text(NAUGHTY)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("naughty_plans")
    del sys.modules["naughty_plans"]


@pytest.fixture
def video(healthy: dict[str, Path]) -> Path:
    return healthy["h264.mp4"]


def decode(key: str, path: Path, *plans: FramePlan) -> DecodeTask:
    return DecodeTask(key, path, plans, SMALL)


def test_results_come_in_the_order_of_the_tasks(healthy: dict[str, Path], naughty: object) -> None:
    paths = list(healthy.values()) * 3
    tasks = [decode(str(n), path, ClipFrames(4)) for n, path in enumerate(paths)]
    slow = decode("slow", paths[0], naughty.Sleep(0.7), ClipFrames(4))
    with DecodePool(3) as pool:
        results = list(pool.imap([slow, *tasks]))
    assert [result.key for result in results] == ["slow", *(task.key for task in tasks)]
    assert all(isinstance(result, Decoded) for result in results)


def test_workers_give_what_the_decoder_gives_here(video: Path) -> None:
    draw = ClipFrames(6, 0.3, 1.6, ViewDraw(3, "h264", "0.3-1.6", 1))
    task = decode("a", video, ClipFrames(32), draw, ExactFrames((5, 5, 0)), ClipFrames(2, 50, 60))
    with DecodePool(1) as pool:
        (result,) = pool.imap([task])
    assert isinstance(result, Decoded)
    info = probe(video)
    for clip, plan in enumerate((ClipFrames(32), draw, ExactFrames((5, 5, 0)))):
        expected = load_decoder().frames(video, info, plan(info), SMALL)
        rows = result.rows(clip)
        assert np.array_equal(result.batch.frames[rows], expected.frames)
        assert np.array_equal(result.batch.times[rows], expected.times)
    outside = result.clips[3]
    assert isinstance(outside, DecodeFailure)
    assert outside.reason == "clip"
    assert "50 s" in outside.decoder_words
    assert np.all(np.diff(result.batch.indices) > 0)


def test_probing_in_workers_gives_the_same_facts(healthy: dict[str, Path], tmp_path: Path) -> None:
    missing = tmp_path / "missing.mp4"
    paths = [*healthy.values(), missing]
    with DecodePool(2) as pool:
        *probed, failure = pool.imap(ProbeTask(path.name, path) for path in paths)
    for result, path in zip(probed, healthy.values(), strict=True):
        assert result.info.as_json() == probe(path).as_json()
        assert np.array_equal(result.info.times, probe(path).times)
    assert isinstance(failure, DecodeFailure)
    assert failure.reason == "unreadable"
    assert "missing.mp4" in failure.decoder_words


@pytest.mark.parametrize("plan", ["Sleep", "HoldTheLock"])
def test_a_hanging_decode_is_killed_and_the_rest_goes_on(
    video: Path, naughty: object, plan: str
) -> None:
    stuck = naughty.Sleep(1000) if plan == "Sleep" else naughty.HoldTheLock()
    tasks = [decode(str(n), video, stuck if n == 1 else ClipFrames(4)) for n in range(5)]
    begun = time.monotonic()
    with DecodePool(2, "pyav", deadline_seconds=1.5) as pool:
        results = list(pool.imap(tasks))
    assert time.monotonic() - begun < 10
    assert [getattr(result, "reason", "fine") for result in results] == [
        "fine", "deadline", "fine", "fine", "fine",
    ]  # fmt: skip
    assert "after 1.5 s" in results[1].decoder_words


def test_a_crashing_decoder_costs_one_video(video: Path, naughty: object) -> None:
    crash = naughty.Crash(int(signal.SIGSEGV))
    tasks = [decode(str(n), video, crash if n in (0, 3) else ClipFrames(4)) for n in range(6)]
    with DecodePool(2) as pool:
        results = list(pool.imap(tasks))
    assert [isinstance(r, DecodeFailure) for r in results] == [
        True,
        False,
        False,
        True,
        False,
        False,
    ]
    assert results[0].reason == "crashed"
    assert "-11" in results[0].decoder_words


def test_a_mistake_in_a_plan_is_named_and_costs_one_video(video: Path, naughty: object) -> None:
    with DecodePool(1) as pool:
        bad, good = pool.imap([decode("a", video, naughty.Mistake()), decode("b", video)])
    assert "a mistake in a plan" in bad.decoder_words
    assert isinstance(good, Decoded)


def test_a_worker_killed_while_idle_is_replaced(
    video: Path, naughty: object, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    with DecodePool(1) as pool:
        list(pool.imap([decode("a", video, naughty.Pid(str(pids)))]))
        os.kill(int(next(pids.iterdir()).name), signal.SIGKILL)
        time.sleep(0.1)
        (again,) = pool.imap([decode("b", video, ClipFrames(2))])
    assert isinstance(again, Decoded)


def test_workers_load_no_heavy_library_and_start_quickly(video: Path, naughty: object) -> None:
    begun = time.monotonic()
    with DecodePool(1) as pool:
        (result,) = pool.imap([decode("a", video, naughty.WhatIsLoaded())])
    assert isinstance(result, Decoded)
    # Measured near 0.35 s on an idle core; the bound leaves room for a busy machine.
    assert time.monotonic() - begun < 5


def test_reading_ahead_is_bounded(video: Path) -> None:
    taken = 0

    def tasks() -> Iterator[DecodeTask]:
        nonlocal taken
        for number in range(50):
            taken += 1
            yield decode(str(number), video, ClipFrames(2))

    with DecodePool(2) as pool:
        for number, _ in enumerate(pool.imap(tasks())):
            assert taken <= number + 1 + 4
    assert taken == 50


def test_a_slow_consumer_does_not_run_into_deadlines(video: Path) -> None:
    big = FrameFormat.squash(640, 480)
    tasks = [DecodeTask(str(n), video, (ClipFrames(24),), big) for n in range(4)]
    with DecodePool(2, deadline_seconds=2) as pool:
        for result in pool.imap(tasks):
            time.sleep(1.2)
            assert isinstance(result, Decoded)


def test_leaving_the_loop_early_leaves_a_usable_pool(video: Path, naughty: object) -> None:
    with DecodePool(2) as pool:
        results = pool.imap([decode("a", video), decode("b", video, naughty.Sleep(1000))])
        assert next(results).key == "a"
        results.close()
        assert [result.key for result in pool.imap([decode("c", video)])] == ["c"]


def test_a_pool_works_through_one_list_at_a_time(video: Path) -> None:
    with DecodePool(1) as pool:
        first = pool.imap([decode("a", video), decode("b", video)])
        next(first)
        with pytest.raises(UsageError, match="another list"):
            next(pool.imap([decode("c", video)]))
        assert next(first).key == "b"
        first.close()


def test_an_impossible_pool_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        DecodePool(0)
    with pytest.raises(UsageError, match="unknown decoder"):
        DecodePool(1, "vlc")


def test_nothing_to_do_starts_no_process() -> None:
    with DecodePool(4) as pool:
        assert list(pool.imap([])) == []


PARENT = """
import sys
sys.path.insert(0, {naughty!r})
from pathlib import Path
import naughty_plans
from stages.video.pool import DecodePool
from stages.video.resize import FrameFormat
from stages.video.tasks import DecodeTask
with DecodePool(1) as pool:
    def ask(plan):
        list(pool.imap([DecodeTask("a", Path({video!r}), (plan,), FrameFormat())]))
    ask(naughty_plans.Pid({pids!r}))
    print("busy", flush=True)
    ask(naughty_plans.Sleep(100))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(
    video: Path, naughty: object, tmp_path: Path, number: signal.Signals
) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    code = PARENT.format(naughty=str(tmp_path), video=str(video), pids=str(pids))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "busy\n"
        worker = int(next(pids.iterdir()).name)
        time.sleep(0.2)
        parent.send_signal(number)
        _, said = parent.communicate(timeout=20)
    assert said.count("Traceback") <= 1, "a worker added its own words"
    assert wait_until(lambda: not running(worker), 10), "the worker outlived its parent"


def running(pid: int) -> bool:
    """Whether the process is there and no zombie (an orphan's zombie may wait for its reaper)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


@pytest.mark.slow
def test_memory_stays_flat_over_many_videos(healthy: dict[str, Path], naughty: object) -> None:
    """1,500 opens in one worker: its resident memory at the end is what it was after 300."""
    import resource

    page = resource.getpagesize()
    paths = list(healthy.values())
    tasks = (decode(str(n), paths[n % len(paths)], ClipFrames(8)) for n in range(1500))
    resident = []
    with DecodePool(1) as pool:
        for number, result in enumerate(pool.imap(tasks)):
            assert isinstance(result, Decoded)
            if number in (300, 1490):
                statm = Path(f"/proc/{children()[0]}/statm").read_text()
                resident.append(int(statm.split()[1]) * page / 2**20)
    assert resident[1] < resident[0] + 20, resident


def children() -> list[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in text.split()]
