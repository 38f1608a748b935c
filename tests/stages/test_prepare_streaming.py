"""prepare at scale: rows pass through to disk, in the same bytes however they are cut or killed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.artifacts.questions import (
    QUESTIONS_TABLE,
    ROWS_PER_GROUP,
    question_columns,
    question_spool,
)
from stages.artifacts.store import Workspace
from stages.benchmarks.official import Sources
from stages.benchmarks.questions import Question
from stages.benchmarks.records import question_schema, to_batch, to_record
from stages.core.errors import MachineError
from stages.core.runtime import Runtime
from stages.prepare import plan, prepare
from stages.video.clips import clip_spans

ONE_WORKER = Runtime(workers=1)
ROWS = 30_000


def question(number: int) -> Question:
    return Question(
        question_id=f"q{number}",
        videos=(f"v{number % 97}",),
        question=f"what is {hashlib.md5(str(number).encode()).hexdigest()}?",
        options=("a", "b") if number % 3 else ("a", "b", f"c{number}"),
        answer=number % 2,
        answer_text=None,
        start=None if number % 5 else float(number % 7),
        end=None,
        type=None if number % 11 else "t",
        spans=((0.0, 1.0),) if number % 2 else (),
        split="test",
        source_row=number + 1,
    )


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tiny real video called v.mp4."""
    import av
    import numpy as np

    folder = tmp_path_factory.mktemp("videos")
    with av.open(str(folder / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(4):
            picture = np.full((32, 32, 3), 60 * number, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return folder


@pytest.fixture(scope="module", name="annotations")
def many_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A custom file of `ROWS` rows about one video."""
    path = tmp_path_factory.mktemp("annotations") / "many.jsonl"
    with path.open("w") as file:
        for number in range(ROWS):
            words = hashlib.md5(str(number).encode()).hexdigest()
            asked = {"question_id": f"q{number}", "video": "v.mp4", "question": words}
            file.write(json.dumps(asked | {"options": ["a", "b"], "answer": 0}) + "\n")
    return path


def command(annotations: Path, videos: Path, workspace: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "vqa_cli", "prepare", "--benchmark", "custom", "--split", "test"),
        *("--annotations", str(annotations), "--videos", str(videos), "--workers", "1"),
        *("--workspace", str(workspace), "--json", *more),
    ]


def finished(annotations: Path, videos: Path, workspace: Path) -> dict[str, Any]:
    done = subprocess.run(
        command(annotations, videos, workspace), capture_output=True, text=True, check=False
    )
    output: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == 0, output
    return output


def digests(folder: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
        if file.name != "manifest.json"
    }


# --- the table -----------------------------------------------------------------------------------


def as_one_table(questions: list[Question]) -> bytes:
    """What a plain writer of whole row groups makes of the rows."""
    buffer, schema = io.BytesIO(), question_schema(False)
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        for start in range(0, len(questions) + 1, ROWS_PER_GROUP):
            rows = [to_record(item) for item in questions[start : start + ROWS_PER_GROUP]]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    """A little more than one row group."""
    return [question(number) for number in range(ROWS_PER_GROUP + 700)]


@pytest.mark.parametrize("count", [1, ROWS_PER_GROUP, ROWS_PER_GROUP + 700])
def test_the_bytes_do_not_depend_on_how_rows_are_cut_into_batches(
    count: int, questions: list[Question], tmp_path: Path
) -> None:
    expected = as_one_table(questions[:count])
    for size in (1999, 100_000):
        with question_spool(Workspace(tmp_path)) as spool:
            for start in range(0, count, size):
                batch = questions[start : min(start + size, count)]
                spool.write(to_batch(batch, question_schema(False)))
            spool.keep(tmp_path)
        assert (tmp_path / QUESTIONS_TABLE).read_bytes() == expected
    assert list((tmp_path / "questions").iterdir()) == []


def test_columns_are_read_row_by_row(tmp_path: Path, videos: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"question_id": f"q{n}", "video": "v.mp4", "question": "?"} for n in range(5)
    ]
    for number, row in enumerate(lines):
        row.update(start=number % 2, end=2, options=["a", "b"])
    path = tmp_path / "few.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    made = prepare(
        Workspace(tmp_path / "w"), "custom", "test", Sources(path, [videos]), ONE_WORKER
    ).artifact
    assert made is not None
    assert list(question_columns(made, ["question_id", "start"])) == [
        (f"q{n}", float(n % 2)) for n in range(5)
    ]
    assert [(s.clip, s.video, s.start, s.end) for s in clip_spans(made)] == [
        (0, "v.mp4", 0.0, 2.0), (1, "v.mp4", 1.0, 2.0),
    ]  # fmt: skip


# --- kills, full disks, neighbours ---------------------------------------------------------------


def test_a_kill_while_rows_are_spooled_leaves_a_clean_re_run(
    annotations: Path, videos: Path, tmp_path: Path
) -> None:
    for attempt in range(20):  # on a busy machine the signal may come after the spooling
        workspace = tmp_path / f"w{attempt}"
        process = subprocess.Popen(
            command(annotations, videos, workspace),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not list(workspace.glob("questions/spool-*.tmp")):
            assert process.poll() is None
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        left = [item.suffix for item in (workspace / "questions").iterdir()]
        if left == [".tmp"]:
            break
    assert left == [".tmp"]

    again = finished(annotations, videos, workspace)
    whole = finished(annotations, videos, tmp_path / "whole")

    assert not list(workspace.rglob("*.tmp"))
    assert again["artifact"]["id"] == whole["artifact"]["id"]
    folders = [Path(run["artifact"]["path"]) for run in (again, whole)]
    assert digests(folders[0]) == digests(folders[1])


def test_a_disk_that_fills_up_is_explained_and_leaves_nothing(
    questions: list[Question], tmp_path: Path
) -> None:
    """A limit on file sizes stands for it; it works without root."""
    workspace, soft = Workspace(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    batch = to_batch(questions, question_schema(False))
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, soft[1]))
    try:
        with pytest.raises(MachineError, match="bytes needed") as caught:
            with question_spool(workspace) as spool:
                spool.write(batch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft)
        signal.signal(signal.SIGXFSZ, previous)
    assert caught.value.exit_code == 5
    assert list((tmp_path / "questions").iterdir()) == []


def test_another_run_removes_what_was_abandoned_and_nothing_that_is_alive(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    abandoned = tmp_path / "questions" / "spool-1-abandoned.tmp"
    batch = to_batch([question(0)], question_schema(False))
    with question_spool(workspace) as first:
        first.write(batch)
        abandoned.write_bytes(b"half a table")
        with question_spool(workspace) as second:
            second.write(batch)
            assert not abandoned.exists()
            (tmp_path / "second").mkdir()
            second.keep(tmp_path / "second")
        first.keep(tmp_path)
    assert (tmp_path / QUESTIONS_TABLE).read_bytes() == (
        tmp_path / "second" / QUESTIONS_TABLE
    ).read_bytes()


# --- what a run says -----------------------------------------------------------------------------


def test_the_rate_is_told_and_a_finished_split_is_not_read_again(
    annotations: Path, videos: Path, tmp_path: Path
) -> None:
    workspace, sources = Workspace(tmp_path / "w"), Sources(annotations, [videos])
    first = prepare(workspace, "custom", "test", sources, ONE_WORKER)
    again = prepare(workspace, "custom", "test", sources, ONE_WORKER)

    reading = first.details["reading"]
    assert reading["rows"] == ROWS
    assert reading["rows_per_second"] == pytest.approx(ROWS / reading["seconds"], rel=0.01)
    assert any("a second" in note for note in first.notes)
    assert again.reused
    assert again.artifact is not None
    assert "reading" not in again.details
    assert again.seconds < first.seconds / 2


def test_a_look_without_a_run_counts_the_same_and_writes_nothing(
    videos: Path, tmp_path: Path
) -> None:
    rows = [("a", "v.mp4"), ("b", "gone.mp4"), ("c", "../v.mp4"), ("d", "V.mp4"), ("e", "v.mp4")]
    path = tmp_path / "few.jsonl"
    asked = {"question": "?", "options": ["x", "y"]}
    lines = [{"question_id": name, "video": video, **asked} for name, video in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"question_id": "f"}]))
    sources = Sources(path, [videos])
    before = sorted(tmp_path.rglob("*"))

    seen = plan("custom", "test", sources, ONE_WORKER)

    assert sorted(tmp_path.rglob("*")) == before
    made = prepare(Workspace(tmp_path / "w"), "custom", "test", sources, ONE_WORKER)
    coverage = made.details["coverage"]
    for what in ("videos", "questions"):
        counted = {name: seen[f"{what}_{name}"] for name in ("found", "missing", "refused")}
        assert counted == coverage[what]
    assert (seen["rows"], seen["bad_rows"]) == (6, 1)
    assert "missing: V.mp4: not found; v.mp4 differs in letter case" in seen["examples"]
    assert seen["warnings"] == made.details["warnings"]


# --- crashes between two steps -------------------------------------------------------------------

CRASH = """
import os, signal, sys
from stages.artifacts import atomic
from vqa_cli.main import run_command
left = [int(sys.argv[1])]
def step(name):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
atomic.boundary = step
sys.exit(run_command(sys.argv[2:]))
"""


def crash_and_re_run(step: int, videos: Path, tmp_path: Path) -> bool:
    """Kill a run at one of its write steps, run again, compare; False when it ended before."""
    path = tmp_path / "few.jsonl"
    asked = {"question": "?", "options": ["x", "y"], "answer": 0}
    lines = [{"question_id": f"q{n}", "video": "v.mp4", **asked} for n in range(50)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    workspace = tmp_path / f"w{step}"
    line = command(path, videos, workspace)[3:]
    crashed = subprocess.run(
        [sys.executable, "-c", CRASH, str(step), *line], capture_output=True, check=False
    )
    if crashed.returncode == 0:
        return False
    assert crashed.returncode == -signal.SIGKILL, crashed.stderr
    sources = Sources(path, [videos])
    again = prepare(Workspace(workspace), "custom", "test", sources, ONE_WORKER).artifact
    whole = prepare(Workspace(tmp_path / f"x{step}"), "custom", "test", sources, ONE_WORKER)
    assert again is not None
    assert whole.artifact is not None
    assert not list(workspace.rglob("*.tmp"))
    assert digests(again.path) == digests(whole.artifact.path)
    assert len(list((workspace / "questions").iterdir())) == 1
    return True


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_crash_around_the_renaming_of_the_table_is_healed(
    step: int, videos: Path, tmp_path: Path
) -> None:
    assert crash_and_re_run(step, videos, tmp_path)


@pytest.mark.slow
def test_a_crash_at_every_write_step_is_healed(videos: Path, tmp_path: Path) -> None:
    step = 1
    while crash_and_re_run(step, videos, tmp_path):
        step += 1
    assert step > 15
