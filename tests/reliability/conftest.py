"""Command lines that can be killed, workspaces to kill them in, and what their bytes are."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
DRIVER = HERE / "driver.py"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
MAY_DIFFER = ("created", "seconds", "host")
"""What of a manifest may differ between two equal runs."""


@dataclass(frozen=True)
class Outcome:
    """How one command line ended.

    Attributes:
        code: Exit code; negative: the signal that ended it.
        stdout: What it printed.
        stderr: What it said.
        steps: (process, step) of every write, in order.
    """

    code: int
    stdout: str
    stderr: str
    steps: list[tuple[int, str]]

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        value: dict[str, Any] = json.loads(self.stdout)
        return value


def read_steps(log: Path) -> list[tuple[int, str]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(pid), step) for pid, step in (line.split("\t", 1) for line in lines)]


class ForkedVqa:
    """Runs `vqa` in forked children of one process that has imported everything."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.numbers = itertools.count()
        self.process = subprocess.Popen(
            [sys.executable, str(DRIVER), "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ONE_THREAD,
        )

    def __call__(
        self,
        *arguments: object,
        kill_at: int | None = None,
        interrupt_at: int | None = None,
        kill_after: float | None = None,
        largest_file: int | None = None,
    ) -> Outcome:
        """Run one command line with `--json`.

        Args:
            arguments: The command line.
            kill_at: Step of a write at which it gets SIGKILL, from 1.
            interrupt_at: Step of a write at which it gets SIGINT, as from Ctrl-C.
            kill_after: Seconds after which it gets SIGKILL.
            largest_file: Bytes beyond which the system refuses to let a file grow.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        stem = self.scratch / f"{next(self.numbers):05d}"
        files = {name: stem.with_suffix(f".{name}") for name in ("stdout", "stderr", "log")}
        job = {
            "arguments": [*map(str, arguments), "--json"],
            "signal_at": kill_at or interrupt_at,
            "signal": signal.SIGINT if interrupt_at else signal.SIGKILL,
            "kill_after": kill_after,
            "largest_file": largest_file,
            **{name: str(path) for name, path in files.items()},
        }
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        code = json.loads(self.process.stdout.readline())["code"]
        texts = [files[n].read_text() if files[n].exists() else "" for n in ("stdout", "stderr")]
        return Outcome(code, *texts, read_steps(files["log"]))

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture(scope="session")
def forked_vqa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedVqa]:
    """`forked_vqa(*arguments, kill_at=..., kill_after=...)` without the start-up of a process."""
    runner = ForkedVqa(tmp_path_factory.mktemp("driver"))
    yield runner
    runner.close()


@pytest.fixture(scope="session")
def real_vqa() -> Callable[..., subprocess.Popen[str]]:
    """Start the real command line in a process group of its own."""

    def start(*arguments: object, log: Path | None = None) -> subprocess.Popen[str]:
        program = ["-m", "vqa_cli"] if log is None else [str(DRIVER), "once", str(log)]
        return subprocess.Popen(
            [sys.executable, *program, *map(str, arguments), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | ONE_THREAD,
            start_new_session=True,
        )

    return start


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _manifest(path: Path) -> str:
    manifest = json.loads(path.read_text())
    return json.dumps({k: v for k, v in manifest.items() if k not in MAY_DIFFER}, sort_keys=True)


@pytest.fixture(scope="session")
def content() -> Callable[[Path], dict[str, str]]:
    """Every file of an artifact folder and what must be equal of it between two runs."""

    def read(folder: Path) -> dict[str, str]:
        files = sorted(item for item in folder.rglob("*") if item.is_file())
        return {
            str(file.relative_to(folder)): (
                _manifest(file) if file.name == "manifest.json" else _digest(file)
            )
            for file in files
        }

    return read


@pytest.fixture(scope="session")
def tiny_backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random InstructBLIP of a few thousand parameters for 16-pixel frames."""
    writer = HERE.parent / "models" / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_instructblip", writer)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder: Path = module.write_folder(tmp_path_factory.mktemp("backbone") / "toy")
    return folder


@dataclass(frozen=True)
class Stage:
    """A command that writes one sharded artifact.

    Attributes:
        name: For test ids.
        kind: Kind of the artifact.
        arguments: Its command line, without workspace and workers.
        shards: How many shards it writes.
    """

    name: str
    kind: str
    arguments: tuple[str, ...]
    shards: int


@dataclass(frozen=True)
class Prepared:
    """A workspace to start from and, per stage, what an uninterrupted run of it writes.

    Attributes:
        root: Holds prepared questions and, in `with_frames`, frames; never written to.
        stages: By name.
        expected: Stage name to the content of the finished artifact's folder.
        seconds: Stage name to how long the uninterrupted run took.
    """

    root: Path
    stages: dict[str, Stage]
    expected: dict[str, dict[str, str]]
    seconds: dict[str, float]

    def copy(self, stage: Stage, place: Path) -> Path:
        """A fresh workspace in which `stage` has not run."""
        shutil.copytree(self.root / "questions", place / "questions")
        if stage.name == "features":
            shutil.copytree(self.root / "frames", place / "frames")
        return place


def _stages(backbone: Path, frames: str, per_shard: int, shards: int) -> dict[str, Stage]:
    size = ("--set", f"videos_per_shard={per_shard}")
    shapes = ("--benchmark", "shapes")
    decode = ("--frames", frames)
    encode = ("extract-features", *shapes, "--backbone", str(backbone), *size)
    commands = {
        "frames": ("extract-frames", *shapes, "--for", str(backbone), *decode, *size),
        "features": encode,
        "from-videos": (*encode, "--from-videos", *decode),
    }
    return {
        name: Stage(name, "frames" if name == "frames" else "features", command, shards)
        for name, command in commands.items()
    }


@pytest.fixture(scope="session")
def prepared(
    forked_vqa: ForkedVqa,
    content: Callable[[Path], dict[str, str]],
    tiny_backbone_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Prepared:
    """Three videos in two shards, and the bytes of uninterrupted runs with one worker."""
    stages = _stages(tiny_backbone_folder, "4,2", 2, 2)

    def run(*arguments: object) -> dict[str, Any]:
        done = forked_vqa(*arguments)
        assert done.code == 0, done.stdout + done.stderr
        return done.json

    return _prepare(tmp_path_factory.mktemp("prepared"), 3, stages, run, content)


@pytest.fixture(scope="session")
def prepared_many(
    real_vqa: Callable[..., subprocess.Popen[str]],
    content: Callable[[Path], dict[str, str]],
    tiny_backbone_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Prepared:
    """Twelve videos in twelve shards, made by the real command line."""
    stages = _stages(tiny_backbone_folder, "16,4", 1, 12)

    def run(*arguments: object) -> dict[str, Any]:
        process = real_vqa(*arguments)
        stdout, stderr = process.communicate()
        assert process.returncode == 0, stdout + stderr
        value: dict[str, Any] = json.loads(stdout)
        return value

    return _prepare(tmp_path_factory.mktemp("prepared-many"), 12, stages, run, content)


def _prepare(
    root: Path,
    videos: int,
    stages: dict[str, Stage],
    run: Callable[..., dict[str, Any]],
    content: Callable[[Path], dict[str, str]],
) -> Prepared:
    shapes = ("prepare", "--benchmark", "shapes", "--split", "test")
    run(*shapes, "--size", videos, "--seed", 5, "-w", root)
    prepared = Prepared(root, stages, {}, {})
    for stage in stages.values():
        place = root
        if stage.name != "frames":
            place = prepared.copy(stage, root.with_name(f"{root.name}-{stage.name}"))
        started = time.monotonic()
        made = run(*stage.arguments, "-w", place, "--workers", 1)
        prepared.seconds[stage.name] = time.monotonic() - started
        prepared.expected[stage.name] = content(Path(made["artifact"]["path"]))
    return prepared
