"""`vqa eval` on few questions says by itself what the questions alone give away."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import vqa_cli.blind
from vqa_cli.main import run_command


@pytest.fixture(scope="module")
def workspace(trained_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = trained_world.copy(tmp_path_factory.mktemp("with-blind"))
    return made


@pytest.fixture(scope="module")
def evaluate(workspace: Path, vqa: Callable[..., Any]) -> Callable[..., Any]:
    """`vqa eval` of the start, which needs no letters."""
    return lambda *options: vqa(
        "eval", "-b", "shapes", "-w", workspace, "--role", "start", *options
    )


def blind_folders(workspace: Path) -> set[Path]:
    return {path.parent for path in workspace.glob("predictions/*-blind-*/manifest.json")}


def test_what_is_left_without_the_videos_is_said_by_default(
    evaluate: Callable[..., Any], workspace: Path
) -> None:
    outcome = evaluate("--seed", 1)
    assert outcome.code == 0
    blind = outcome.json["blind"]
    assert set(blind) == {
        "how", "artifact", "accuracy", "ci95", "drop", "drop_ci95", "drop_by_type"
    }  # fmt: skip
    assert blind["how"] == "gaussian"
    own = evaluate("--seed", 1, "--blind", "gaussian").json
    assert own["reused"]
    assert own["artifact"]["id"] == blind["artifact"]
    assert (blind["accuracy"], blind["ci95"]) == (
        own["metrics"]["accuracy"],
        own["metrics"]["ci95"],
    )
    seeing = outcome.json["metrics"]
    assert blind["drop"] == pytest.approx(seeing["accuracy"] - blind["accuracy"])
    assert set(blind["drop_by_type"]) == set(seeing["by_type"])
    for name, part in blind["drop_by_type"].items():
        assert part["drop"] == pytest.approx(part["seeing"] - part["blind"])
        assert part["seeing"] == pytest.approx(seeing["by_type"][name])
    low, high = blind["drop_ci95"]
    assert low <= blind["drop"] <= high


def test_both_runs_write_what_they_would_write_alone(
    evaluate: Callable[..., Any], vqa: Callable[..., Any], trained_world: Any, tmp_path: Path
) -> None:
    together = evaluate("--seed", 2, "--select", "random", "--keep", 2)
    alone = trained_world.copy(tmp_path)
    line = ("eval", "-b", "shapes", "-w", alone, "--role", "start", "--seed", 2)
    chosen = ("--select", "random", "--keep", 2)
    blind = vqa(*line, *chosen, "--blind", "gaussian").json
    seeing = vqa(*line, *chosen, "--no-blind").json
    assert seeing["artifact"]["id"] == together.json["artifact"]["id"]
    assert blind["artifact"]["id"] == together.json["blind"]["artifact"]
    home = Path(together.json["artifact"]["path"]).parent
    for made in (seeing, blind):
        path = Path(made["artifact"]["path"])
        assert (home / path.name / "predictions.parquet").read_bytes() == (
            path / "predictions.parquet"
        ).read_bytes()


@pytest.mark.parametrize(
    "options",
    [("--no-blind",), ("--shard", "0/1", "--no-blind"), ("--sweep", "keep=2"), ("--dry-run",)],
)
def test_it_is_left_out_where_it_is_not_wanted(
    options: tuple[str, ...], evaluate: Callable[..., Any], workspace: Path
) -> None:
    before = blind_folders(workspace)
    outcome = evaluate("--seed", 3, *options)
    assert outcome.code == 0
    assert "blind" not in outcome.json
    assert blind_folders(workspace) == before


def test_a_part_of_the_shards_is_answered_once(
    evaluate: Callable[..., Any], workspace: Path
) -> None:
    before = blind_folders(workspace)
    line = ("--seed", 4, "--set", "questions_per_shard=8")
    assert not evaluate(*line, "--shard", "0/2").json["artifact"]["finished"]
    assert blind_folders(workspace) == before
    assert "blind" in evaluate(*line).json


def test_many_questions_are_answered_blind_on_request_alone(
    evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vqa_cli.blind, "SMALL", 23)
    assert "blind" not in evaluate("--seed", 5).json
    assert evaluate("--seed", 5, "--dry-run").json["plan"]["with_blind"] is False
    assert evaluate("--seed", 5, "--with-blind", "--dry-run").json["plan"]["with_blind"] is True
    assert "blind" in evaluate("--seed", 5, "--with-blind").json


def test_a_name_is_that_of_the_run_with_the_videos(evaluate: Callable[..., Any]) -> None:
    outcome = evaluate("--seed", 6, "--name", "mine")
    assert outcome.json["artifact"]["id"].startswith("mine-")
    assert outcome.json["blind"]["artifact"].startswith("mine-blind-gaussian-")


def test_the_drop_is_printed_by_type(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["eval", "-b", "shapes", "-w", str(workspace), "--role", "start", "--seed", "1"]
    assert run_command(line) == 0
    printed = capsys.readouterr()
    assert "accuracy without the videos (gaussian): " in printed.out
    assert "without the videos (gaussian): shapes-test" in printed.err
    assert "shapes test, vlap: " in printed.out
    assert run_command([*line, "--quiet"]) == 0
    capsys.readouterr()
    assert run_command(line) == 0
    again = capsys.readouterr().out
    table = printed.out.partition(" scored, 0 failed\n")[2]
    assert "keyframe_recall" in table
    assert again.partition(" scored, 0 failed\n")[2] == table


@pytest.mark.parametrize(
    "options",
    [
        ("--blind", "static"),
        ("--shard", "0/2"),
        ("--sweep", "keep=1,2"),
        ("--no-blind",),
        ("-b", "qvhighlights", "--system", "sevila"),
        ("-b", "didemo", "--system", "videodistill"),
    ],
)
def test_what_contradicts_it_is_refused(
    options: tuple[str, ...], evaluate: Callable[..., Any]
) -> None:
    outcome = evaluate("--with-blind", *options)
    assert outcome.code == 2
    assert "--with-blind" in outcome.json["error"]["message"]


def test_unlabelled_questions_have_nothing_to_lose(
    workspace: Path, vqa: Callable[..., Any], tmp_path: Path, trained_world: Any
) -> None:
    videos = next((workspace / "questions").glob("shapes-test-*/videos/test"))
    lines = [
        {
            "question_id": f"q{n}",
            "video": path.name,
            "question": "what is it?",
            "options": ["a", "b"],
        }
        for n, path in enumerate(sorted(videos.glob("*.mp4"))[:2])
    ]
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps(line) + "\n" for line in lines))
    common = ("-b", "custom", "--split", "test", "-w", workspace)
    assert vqa("prepare", *common, "-a", asked, "--videos", videos, "--workers", 1).code == 0
    stored = ("--from-videos", "--frames", 8, "--backbone", trained_world.backbone)
    assert vqa("extract-features", *common, *stored, "--workers", 1).code == 0
    (start,) = workspace.glob("weights/*start-2f*")
    outcome = vqa("eval", *common, "--weights", start.name)
    assert outcome.code == 0, outcome.json
    assert outcome.json["n_unlabelled"] == 2
    assert "blind" not in outcome.json
    rows = pq.read_table(Path(outcome.json["artifact"]["path"]) / "predictions.parquet")
    assert rows.num_rows == 2


def test_the_report_finds_the_blind_run_of_what_it_is_to_show(
    evaluate: Callable[..., Any], vqa: Callable[..., Any], workspace: Path
) -> None:
    seeing = evaluate("--seed", 7).json
    found = vqa("report", seeing["artifact"]["id"], "-w", workspace, "--questions", 1).json
    (drop,) = found["language_only"]
    assert drop["artifact"] == seeing["blind"]["artifact"]
    assert drop["drop"] == seeing["blind"]["drop"]
    assert drop["artifact"] in found["inputs"]
    without = evaluate("--seed", 8, "--no-blind").json
    assert vqa("report", without["artifact"]["id"], "-w", workspace).json["language_only"] == []
