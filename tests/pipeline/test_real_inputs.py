"""The whole path on real clips and real annotations, with the embedded backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from vqa_cli.main import run_command

FRAMES = "8"
TRAINING = ["--set", "training.epochs=1", "--set", "training.batch_size=4"]


def vqa(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run one command line with --json: exit code and the object on stdout."""
    capsys.readouterr()
    code = run_command([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def done(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """`vqa`, which must succeed."""
    code, output = vqa(capsys, *arguments)
    assert code == 0, output
    return output


def table(output: dict[str, Any], name: str) -> pd.DataFrame:
    return pd.read_parquet(Path(output["artifact"]["path"]) / name)


def only_videos(source: Path, target: Path, videos: list[str]) -> Path:
    """The rows of a real HQGA file that are about `videos`."""
    rows = pd.read_csv(source, keep_default_na=False, dtype=str)
    rows[rows["video"].isin(videos)].to_csv(target, index=False)
    return target


def test_open_ended_questions_of_real_msrvtt_clips(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("VQA_WORKSPACE", str(tmp_path / "ws"))
    clips = shared / "data" / "videos" / "msrvtt"
    videos = [path.stem.removeprefix("video") for path in sorted(clips.glob("*.mp4"))]
    annotations = only_videos(
        shared / "data" / "msrvtt_qa" / "test_hqga.csv.gz", tmp_path / "test.csv", videos
    )

    for split in ("train", "test"):
        prepared = done(
            capsys, "prepare", "--benchmark", "msrvtt-qa", "--split", split,
            "--annotations", str(annotations), "--videos", str(clips),
        )  # fmt: skip
    features = done(
        capsys, "extract-features", "--benchmark", "msrvtt-qa", "--backbone", "tiny",
        "--from-videos", "--frames", FRAMES,
    )  # fmt: skip
    done(capsys, "train-teacher", "--benchmark", "msrvtt-qa", "--answer", "rank", *TRAINING)
    evaluated = done(capsys, "eval", "--benchmark", "msrvtt-qa", "--role", "teacher")

    assert prepared["coverage"] == {"videos": {"found": 5}, "questions": {"found": 99}}
    assert features["counts"] == {
        "total": 10, "done": 10, "failed": 0, "rows": 80, "repeated": 0
    }  # fmt: skip
    assert evaluated["n_questions"] == evaluated["n_scored"] == 99
    assert set(evaluated["metrics"]["by_type"]) <= {"what", "who", "how", "when", "where"}
    predictions = table(evaluated, "predictions.parquet")
    assert predictions["prediction"].map(type).eq(str).all()
    right = predictions["prediction"].str.strip().str.lower() == predictions["answer"]
    assert evaluated["metrics"]["accuracy"] == pytest.approx(100 * right.mean())


def test_own_questions_over_awkward_files(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("VQA_WORKSPACE", str(tmp_path / "ws"))
    videos = shared / "data" / "videos"
    names = ["vid1.mp4", "av1_video.mkv", "video_90.mov", "h264_10bits.mp4", "no_duration.webm"]
    broken = ["audio_only_hello.mp4", "derived_truncated_video7013.mp4", "absent.mp4"]
    lines = [
        {
            "question_id": f"q{number}",
            "video": name,
            "question": "what color is the circle ?",
            "options": ["red", "green", "blue"],
            "answer": number % 3,
        }
        for number, name in enumerate([*names, *broken])
    ]
    annotations = tmp_path / "mine.jsonl"
    annotations.write_text("".join(json.dumps(line) + "\n" for line in lines))

    code, prepared = vqa(
        capsys, "prepare", "--benchmark", "custom", "--split", "train",
        "--annotations", str(annotations), "--videos", str(videos),
    )  # fmt: skip
    code_test, _ = vqa(
        capsys, "prepare", "--benchmark", "custom", "--split", "test",
        "--annotations", str(annotations), "--videos", str(videos),
    )  # fmt: skip
    assert (code, code_test) == (1, 1)  # three of eight failed: more than --max-failures
    assert prepared["coverage"]["videos"] == {"found": 5, "undecodable": 2, "missing": 1}

    _, features = vqa(
        capsys, "extract-features", "--benchmark", "custom", "--backbone", "tiny",
        "--from-videos", "--frames", FRAMES,
    )  # fmt: skip
    assert (features["counts"]["done"], features["counts"]["failed"]) == (10, 6)
    done(capsys, "train-teacher", "--benchmark", "custom", "--answer", "rank", *TRAINING)
    done(
        capsys, "distill", "--benchmark", "custom", "--keep", "4", "--answer", "rank",
        "--prompter", "question", *TRAINING,
    )  # fmt: skip
    code, evaluated = vqa(capsys, "eval", "--benchmark", "custom", "--system", "vlap")

    assert code == 1
    assert (evaluated["n_questions"], evaluated["n_scored"], evaluated["n_failed"]) == (8, 5, 3)
    failures = table(evaluated, "failures.parquet")
    assert sorted(failures["id"]) == ["q5", "q6", "q7"]
    assert failures["words"].str.len().gt(0).all()
    accuracy, everything = (evaluated["metrics"][name] for name in ("accuracy", "accuracy_all"))
    assert everything == pytest.approx(accuracy * 5 / 8)


def test_star_without_its_videos_says_so_and_keeps_the_questions(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("VQA_WORKSPACE", str(tmp_path / "ws"))
    (tmp_path / "videos").mkdir()

    code, output = vqa(
        capsys, "prepare", "--benchmark", "star", "--split", "val", "--annotations",
        str(shared / "data" / "star" / "val_sevila_format.json.gz"),
        "--videos", str(tmp_path / "videos"),
    )  # fmt: skip

    assert code == output["error"]["code"] == 4
    assert "914 missing" in output["error"]["message"]
    assert "--videos" in output["error"]["hint"]
    written = next((tmp_path / "ws" / "questions").iterdir())
    assert len(pd.read_parquet(written / "questions.parquet")) == 7098
    coverage = pd.read_parquet(written / "videos.parquet")
    assert coverage["status"].eq("missing").sum() == 914
