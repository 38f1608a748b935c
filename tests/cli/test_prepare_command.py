"""`vqa prepare` as typed: own tables, dry runs, loud counts, releases kept apart, scale."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from vqa_cli.main import run_command

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rate_benchmark() -> Any:
    """The program in `benchmarks/` that writes files of AGQA's form and tiny videos."""
    path = REPOSITORY / "benchmarks" / "prepare_rate.py"
    spec = importlib.util.spec_from_file_location("prepare_rate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def videos(rate_benchmark: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny real videos called a, b, c, ..., i."""
    folder: Path = tmp_path_factory.mktemp("many") / "videos"
    rate_benchmark.write_videos(folder, list("abcdefghi"))
    return folder


def write_csv(path: Path, header: list[str], rows: list[list[Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([header, *rows] if header else rows)
    return path


def nextqa(path: Path, videos: str, per_video: int = 1) -> Path:
    """Rows of our own in NExT-QA's columns."""
    header = ["video", "frame_count", "width", "height", "question", "answer", "qid", "type"]
    header += [f"a{number}" for number in range(5)]
    rows = [
        [video, 9, 32, 32, f"what is {video}", 1, qid, "CW", *"vwxyz"]
        for video in videos
        for qid in range(per_video)
    ]
    return write_csv(path, header, rows)


def questions(outcome: Any) -> list[dict[str, Any]]:
    table = pq.read_table(Path(outcome.json["artifact"]["path"]) / "questions.parquet")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


# --- counts --------------------------------------------------------------------------------------


def test_counts_that_are_not_the_published_ones_are_said_loudly(
    vqa: Callable[..., Any], videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = nextqa(tmp_path / "val.csv", "ab", 3)
    line = ["prepare", "-b", "nextqa", "--split", "dev", "-a", str(path), "--videos", str(videos)]

    outcome = vqa(*line, "-w", tmp_path / "w")
    capsys.readouterr()
    code = run_command([*line, "-w", str(tmp_path / "w2"), "--quiet"])
    printed = capsys.readouterr()

    assert (outcome.code, code) == (0, 0)
    assert [text for text in outcome.json["warnings"] if "6 questions where 4,996" in text]
    assert [text for text in outcome.json["warnings"] if "2 videos where 570" in text]
    assert "warning: nextqa val: 6 questions where 4,996 are published" in printed.err
    assert outcome.json["coverage"] == {"videos": {"found": 2}, "questions": {"found": 6}}


def test_without_a_usable_video_strange_counts_are_still_said(
    vqa: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "videos").mkdir()
    path = nextqa(tmp_path / "val.csv", "ab", 3)
    outcome = vqa(
        "prepare", "-b", "nextqa", "--split", "val", "-a", path,
        "--videos", tmp_path / "videos", "-w", tmp_path / "w",
    )  # fmt: skip
    assert outcome.code == 4
    said = outcome.json["error"]["message"]
    assert "nextqa val: 6 questions where 4,996 are published" in said
    assert "nextqa val: 2 videos where 570 are published" in said


def test_rows_that_cannot_be_read_are_said_with_their_reason(
    vqa: Callable[..., Any], videos: Path, tmp_path: Path
) -> None:
    path = nextqa(tmp_path / "val.csv", "ab", 3)
    text = path.read_text()
    path.write_text(text + text.splitlines()[1] + "\n")  # an id for the second time
    line = ("-b", "nextqa", "--split", "val", "-a", path, "--videos", videos, "-w", tmp_path / "w")
    outcome = vqa("prepare", *line, "--max-failures", 1)
    assert outcome.code == 0
    said = [text for text in outcome.json["warnings"] if "1 of 7 rows cannot be read" in text]
    assert len(said) == 1
    assert "row 7: question_id" in said[0]
    assert outcome.json["counts"] == {"total": 7, "done": 6, "failed": 1}


def test_a_dry_run_shows_coverage_and_writes_nothing(
    vqa: Callable[..., Any], videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = nextqa(tmp_path / "val.csv", "abzA", 3)
    line = ["prepare", "-b", "nextqa", "--split", "val", "-a", str(path), "--videos", str(videos)]
    line += ["-w", str(tmp_path / "w"), "--dry-run"]

    outcome = vqa(*line)
    capsys.readouterr()
    code = run_command(line)
    printed = capsys.readouterr()

    assert (outcome.code, code) == (0, 0)
    plan = outcome.json["plan"]
    assert outcome.json["dry_run"] is True
    assert (plan["rows"], plan["videos_found"], plan["questions_missing"]) == (12, 2, 6)
    assert "videos found: 2" in printed.out
    assert "a.mp4 differs in letter case" in printed.err
    assert "warning: nextqa val: 12 questions" in printed.err
    assert not (tmp_path / "w").exists()


def test_a_dry_run_of_the_generated_benchmark_names_what_it_would_make(
    vqa: Callable[..., Any], tmp_path: Path
) -> None:
    line = ["prepare", "-b", "shapes", "--split", "dev", "--size", 2, "-w", tmp_path / "w"]
    before = vqa(*line, "--dry-run").json["plan"]
    assert not (tmp_path / "w").exists()
    made = vqa(*line, "--workers", 1).json["artifact"]["id"]
    after = vqa(*line, "--dry-run").json["plan"]
    assert before == {"artifact": made, "reused": False, "videos": 2}
    assert after == before | {"reused": True}


# --- own tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_table_of_ones_own_is_read_through_named_columns(
    delimiter: str, vqa: Callable[..., Any], videos: Path, tmp_path: Path
) -> None:
    header = ["Frage", "clip", "a", "b", "c", "d", "gold", "von", "bis", "nr"]
    rows = [
        ["was ist das?", "a", "Hund", "None", "NA", "Baum, grün", "None", "0.5", "1", "k1"],
        ["und das; hier?", "b", "1", "2", "3", "4", "4", "", "", "k2"],
    ]
    path = write_csv(tmp_path / "my.csv", header, rows, delimiter)
    named = {
        "question": "Frage", "video": "clip", "options": "a,b,c,d", "answer": "gold",
        "start": "von", "end": "bis", "question_id": "nr",
    }  # fmt: skip
    columns = [word for pair in named.items() for word in ("--column", "=".join(pair))]
    line = ["prepare", "-b", "custom", "--split", "test", "-a", path, "--videos", videos]

    outcome = vqa(*line, *columns, "-w", tmp_path / "w")

    assert outcome.code == 0, outcome.json
    first, second = questions(outcome)
    assert (first["question_id"], first["question"], first["video"]) == ("k1", "was ist das?", "a")
    assert first["options"] == ["Hund", "None", "NA", "Baum, grün"]
    assert first["answer"] == 1
    assert (first["start"], first["end"], second["start"]) == (0.5, 1.0, None)


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        (["question"], "FIELD=COLUMN"),
        (["question="], "FIELD=COLUMN"),
        (["question=a", "question=b"], "twice"),
        (["colour=a", "question=q", "video=v"], "colour"),
        (["question=absent", "video=clip"], "absent"),
    ],
)
def test_a_wrong_column_is_explained(
    columns: list[str], named: str, vqa: Callable[..., Any], videos: Path, tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "my.csv", ["q", "clip"], [["?", "a"]])
    flags = [word for column in columns for word in ("--column", column)]
    line = ["prepare", "-b", "custom", "--split", "test", "-a", path, "--videos", videos]

    outcome = vqa(*line, *flags, "-w", tmp_path / "w")

    assert outcome.code in (2, 3)
    assert named in outcome.json["error"]["message"] + outcome.json["error"]["hint"]


def test_other_columns_of_the_same_file_are_other_questions(
    vqa: Callable[..., Any], videos: Path, tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "my.csv", ["q", "p", "clip"], [["one?", "two?", "a"]])
    line = ["prepare", "-b", "custom", "--split", "test", "-a", path, "--videos", videos]
    line += ["-w", tmp_path / "w", "--column", "video=clip", "--column"]

    one, two = vqa(*line, "question=q"), vqa(*line, "question=p")

    assert one.code == two.code == 0, (one.json, two.json)
    assert one.json["artifact"]["id"] != two.json["artifact"]["id"]
    assert [row["question"] for row in questions(two)] == ["two?"]


# --- videos --------------------------------------------------------------------------------------


def test_awkward_names_are_found_probed_and_extracted(
    vqa: Callable[..., Any], videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a relative folder too: a decoder takes `a:b` for a protocol and `-x` for an option."""
    names = ["fpv1|P01|1|2.mp4", "a:00_ep.mp4", "-dash.mp4", "two words.mp4", "d/e%d.mp4"]
    (tmp_path / "d").mkdir()
    for name in names:
        (tmp_path / name).write_bytes((videos / "a.mp4").read_bytes())
    lines = [
        {"question_id": f"q{n}", "video": name, "question": "?", "options": ["a", "b"]}
        for n, name in enumerate(names)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.chdir(tmp_path)

    made = vqa(
        "prepare", "-b", "custom", "--split", "test", "-a", "q.jsonl", "--videos", ".", "-w", "w"
    )
    frames = vqa("extract-frames", "-b", "custom", "--for", "tiny", "--frames", 2, "-w", "w")

    assert made.json["coverage"] == {"videos": {"found": 5}, "questions": {"found": 5}}
    assert frames.code == 0
    assert frames.json["counts"]["done"] == 5


# --- releases ------------------------------------------------------------------------------------


def how2qa_csv(path: Path, videos: str) -> Path:
    rows = [[video, "[0:1]", "no", "never", "None", f"is it {video}?", "yes"] for video in videos]
    return write_csv(path, [], rows)


def how2qa_value(path: Path, videos: str) -> Path:
    rows = [
        {"vid_name": video, "ts": "0.0-0.9", "qid": qid, "q": f"is it {video}?", "answer_idx": 2}
        | {"a0": "no", "a1": "never", "a2": "yes", "a3": "None"}
        for qid, video in enumerate(videos)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_two_releases_of_one_benchmark_are_never_mixed_silently(
    vqa: Callable[..., Any], videos: Path, tiny_world: Any, tmp_path: Path
) -> None:
    workspace = ["-w", tmp_path / "w"]
    common = ["prepare", "-b", "how2qa", "--videos", videos, "--workers", 1, *workspace]
    official = vqa(*common, "--split", "train", "-a", how2qa_csv(tmp_path / "t.csv", "abcd"))
    value = vqa(*common, "--split", "val", "-a", how2qa_value(tmp_path / "v.jsonl", "efgh"))
    assert official.code == value.code == 0, (official.json, value.json)
    assert official.json["release"] != value.json["release"]
    assert value.json["release"] in value.json["artifact"]["id"]
    extract = ["extract-features", "-b", "how2qa", "--backbone", tiny_world.backbone]
    assert vqa(*extract, "--from-videos", "--frames", 2, "--workers", 1, *workspace).code == 0

    mixed = vqa("train-teacher", "-b", "how2qa", *workspace)

    assert mixed.code == 2
    message = mixed.json["error"]["message"]
    assert official.json["artifact"]["id"] in message
    assert value.json["artifact"]["id"] in message

    same = vqa(*common, "--split", "train", "-a", how2qa_value(tmp_path / "t.jsonl", "abcd"))
    assert same.json["artifact"]["id"] != official.json["artifact"]["id"]
    unclear = vqa("train-teacher", "-b", "how2qa", *workspace, "--dry-run")
    assert unclear.code == 2
    assert official.json["artifact"]["id"] in unclear.json["error"]["message"]


# --- scale ---------------------------------------------------------------------------------------


MEASURE = """
import json, os, pathlib, runpy, sys
program = runpy.run_path(sys.argv[1])
found = program["prepare"](pathlib.Path(sys.argv[2]), os.environ | {"OMP_NUM_THREADS": "1"})
print(json.dumps(found))
"""
"""In a small process of its own: the kernel counts the parent's memory until a child starts."""


def peak_mib(rate_benchmark: Any, folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Memory and output of `vqa prepare` on `count` rows of AGQA's form."""
    folder.mkdir()
    names = rate_benchmark.video_names(30)
    rate_benchmark.write_annotations(folder / "train_balanced.txt", count, names)
    rate_benchmark.write_videos(folder / "videos", names)
    command = [sys.executable, "-c", MEASURE, rate_benchmark.__file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found["peak_mib"], found


@pytest.mark.slow
def test_ten_times_the_rows_take_hardly_more_memory(rate_benchmark: Any, tmp_path: Path) -> None:
    small, _ = peak_mib(rate_benchmark, tmp_path / "small", 20_000)
    large, found = peak_mib(rate_benchmark, tmp_path / "large", 200_000)

    assert found["counts"] == {"total": 200_000, "done": 200_000, "failed": 0}
    assert found["coverage"]["videos"] == {"found": 30}
    assert found["reading"]["rows"] == 200_000
    print(f"{small:.0f} MiB for 20,000 rows, {large:.0f} MiB for 200,000")  # noqa: T201
    assert large - small < 80


def test_the_rate_is_measured_beside_plain_parsers(tmp_path: Path) -> None:
    pytest.importorskip("orjson")
    program = [sys.executable, str(REPOSITORY / "benchmarks" / "prepare_rate.py")]
    sizes = ["--rows", "300", "--videos", "3", "--folder", str(tmp_path)]
    done = subprocess.run([*program, *sizes], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["vqa_prepare"]["reading"]["rows"] == found["json"]["reading"]["rows"] == 300
    assert found["vqa_prepare"]["coverage"]["videos"] == {"found": 3}
    assert list(tmp_path.iterdir()) == []
