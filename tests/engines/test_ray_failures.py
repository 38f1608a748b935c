"""What goes wrong on Ray: dying actors, hanging decoders, lost nodes, Ctrl-C, long lists."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stages.artifacts.shards import Claim, ShardedDraft
from stages.artifacts.store import Request, Workspace
from stages.core.errors import MachineError
from stages.core.runtime import Runtime, ShardSelection
from stages.engines import Built, Halves, ShardWork, build_shards
from stages.engines.elsewhere import TRIES
from stages.video.pool import DecodePool
from stages.video.resize import FrameFormat
from stages.video.tasks import ClipFrames, DecodeTask

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STORE_BYTES = 150 * 2**20
ON_RAY = Runtime(workers=2, device="cpu", engine="ray")


@pytest.fixture(scope="module")
def whole(few_videos: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a local run writes, one video a shard."""
    place = tmp_path_factory.mktemp("whole")
    done = few_videos.extract(place, Runtime(workers=1, device="cpu"), videos_per_shard=1)
    path: Path = done.artifact.path
    return path


def processes(word: str) -> list[int]:
    """Ids of the processes whose command line has a word in it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if word in line and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def once(act: Callable[[], None]) -> Callable[[int, int, str], None]:
    """A progress that does something when the first shard is done."""
    left = [act]

    def progress(done: int, total: int, what: str) -> None:
        if left:
            left.pop()()

    return progress


def test_an_actor_that_is_killed_costs_its_shard_s_time(
    ray: Any, few_videos: Any, whole: Path, content: Callable[..., Any], tmp_path: Path
) -> None:
    killed = []

    def kill_all_actors() -> None:
        for process in processes("ray::MapWorker"):
            os.kill(process, signal.SIGKILL)
            killed.append(process)

    runtime = Runtime(workers=2, device="cpu", engine="ray", progress=once(kill_all_actors))
    done = few_videos.extract(tmp_path, runtime, videos_per_shard=1)

    assert killed
    assert content(done.artifact.path) == content(whole)


# --- made-up work ---------------------------------------------------------------------------------


class MadeUp:
    """Shards of a few bytes; the first half gives `size` bytes, the second takes its time."""

    def __init__(self, place: Path, num_shards: int, size: int = 1, seconds: float = 0.0) -> None:
        request = Request("frames", "made-up", {"benchmark": "none"})
        draft = Workspace(place).draft(request)
        self.sharded = ShardedDraft(draft, num_shards, "frames", ".bin", ShardSelection())
        self.log, self.size, self.seconds = place / "log", size, seconds
        self.deadly: set[int] = set()

    def work(self) -> ShardWork:
        return ShardWork(
            self.sharded, self.sharded.num_shards, "shards", self.decode, "cpu",
            halves=Halves(self.decode, self.encode),
        )  # fmt: skip

    def note(self, what: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{what}\n")

    @contextmanager
    def decode(self, runtime: Runtime) -> Iterator[Any]:
        def decode(shard: int) -> bytes:
            self.note("decoded")
            return os.urandom(self.size)

        yield decode

    @contextmanager
    def encode(self, runtime: Runtime) -> Iterator[Any]:
        def encode(claim: Claim, made: bytes) -> Built:
            if claim.shard in self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.seconds)
            self.sharded.commit(claim, f"{claim.shard} ".encode() + made[:8], {"counts": {}})
            self.note("encoded")
            return Built(claim.shard, 1)

        yield encode


@pytest.fixture
def by_value(ray: Any) -> Iterator[None]:
    """Actors cannot import a test: what is made up here is sent to them whole."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_a_shard_that_no_actor_survives_is_named_and_all_others_are_done(
    by_value: None, tmp_path: Path
) -> None:
    made_up = MadeUp(tmp_path, 6)
    made_up.deadly = {2}
    with pytest.raises(MachineError, match="have died of this shard") as caught:
        build_shards(made_up.work(), ON_RAY)
    assert "shard 2" in caught.value.message
    assert str(TRIES) in caught.value.message
    made_up.deadly = set()
    assert build_shards(made_up.work(), ON_RAY).shards >= 1
    assert made_up.sharded.missing() == []


def test_a_long_list_does_not_fill_the_store(by_value: None, tmp_path: Path) -> None:
    """40 shards of 15 MB, 600 MB in all, go through a store of 150 MB ahead of a slow encoder."""
    made_up = MadeUp(tmp_path, 40, size=15 * 2**20, seconds=0.25)
    spent = build_shards(made_up.work(), ON_RAY)
    assert spent.shards == 40
    ahead, most = 0, 0
    for line in made_up.log.read_text().split():
        ahead += 1 if line == "decoded" else -1
        most = max(most, ahead)
    assert most * 15 * 2**20 <= STORE_BYTES, f"{most} shards were waiting"


HANG = """
import ctypes

class Hang:
    def __call__(self, info):
        ctypes.PyDLL(None).sleep(1000)  # in native code that keeps the interpreter's lock
"""


class Hanging(MadeUp):
    """Shards of one video each; the decoder never comes back from the second one."""

    video = Path()

    @contextmanager
    def decode(self, runtime: Runtime) -> Iterator[Any]:
        sys.path.insert(0, str(self.log.parent))
        plans = {1: importlib.import_module("hang").Hang()}
        with DecodePool(runtime.num_workers, "pyav", deadline_seconds=2) as pool:

            def decode(shard: int) -> bytes:
                plan = plans.get(shard, ClipFrames(2))
                task = DecodeTask(str(shard), self.video, (plan,), FrameFormat.squash(16))
                (result,) = pool.imap([task])
                return getattr(result, "reason", "fine").encode()

            yield decode


def test_a_decoder_that_hangs_costs_its_video_and_not_the_run(
    by_value: None, few_videos: Any, tmp_path: Path
) -> None:
    (tmp_path / "hang.py").write_text(HANG)
    hanging = Hanging(tmp_path, 6)
    hanging.video = next(few_videos.questions.path.rglob("*.mp4"))
    assert build_shards(hanging.work(), ON_RAY).shards == 6
    said = [hanging.sharded.data_path(shard).read_text() for shard in range(6)]
    assert said == [f"{shard} {'deadline' if shard == 1 else 'fine'}" for shard in range(6)]


class StuckOnce(MadeUp):
    """The first actor that builds shard 1 never comes back from it."""

    @contextmanager
    def encode(self, runtime: Runtime) -> Iterator[Any]:
        with super().encode(runtime) as build:

            def encode(claim: Claim, made: bytes) -> Built:
                stuck = self.log.with_name("stuck")
                if claim.shard == 1 and not stuck.exists():
                    stuck.touch()
                    time.sleep(10_000)
                built: Built = build(claim, made)
                return built

            yield encode


def test_an_actor_that_is_stuck_is_replaced_when_nothing_moves_any_more(
    by_value: None, ray: Any, tmp_path: Path
) -> None:
    context = ray.data.DataContext.get_current()
    patience, context.execution_no_progress_timeout_s = (
        context.execution_no_progress_timeout_s,
        40.0,
    )
    stuck = StuckOnce(tmp_path, 6)
    try:
        assert build_shards(stuck.work(), ON_RAY).shards == 6
    finally:
        context.execution_no_progress_timeout_s = patience
    assert (tmp_path / "stuck").exists()


# --- Ctrl-C ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("whom", ["the process", "its group"])
def test_an_interrupt_keeps_finished_shards_and_the_same_command_goes_on(
    whom: str,
    ray_package: Any,
    few_videos: Any,
    vqa: Any,
    whole: Path,
    content: Any,
    tmp_path: Path,
) -> None:
    workspace = few_videos.copy(tmp_path)
    line = [
        "extract-features", "-b", "shapes", "--split", "test", "--backbone", few_videos.backbone,
        "--from-videos", "--frames", "4,2", "--set", "videos_per_shard=1", "--device", "cpu",
        "-w", workspace,
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "vqa_cli", *map(str, line), "--engine", "ray", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while not list(workspace.glob("features/*/*.h5")) and time.monotonic() < deadline:
        time.sleep(0.02)
    (os.killpg if whom == "its group" else os.kill)(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)

    assert process.returncode == 130, stdout + stderr
    assert json.loads(stdout)["error"]["code"] == 130
    assert list(workspace.glob("features/*/*.h5"))
    ended = vqa(*line)
    assert ended.code == 0, ended.json
    assert content(Path(ended.json["artifact"]["path"])) == content(whole)
