"""`vqa benchmarks`: the list, one benchmark, and the published figures beside our own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.benchmarks.manifest import benchmark_names, load_manifest
from vqa_cli.main import run_command

HEADER = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, vqa: Callable[..., Any]) -> Path:
    """A workspace with generated questions, and with one scored prediction file of nextqa."""
    folder = tmp_path_factory.mktemp("benchmarks")
    workspace = folder / "workspace"
    made = vqa("prepare", "-b", "shapes", "--split", "val", "--size", 2, "-w", workspace)
    assert made.code == 0, made.json
    kinds = ("CW", "TN", "DL", "DO")
    lines = [
        f"50{n // 4},90,64,48,why {n},{n % 5},{n % 4},{kinds[n % 4]},one,two,three,four,five"
        for n in range(16)
    ]
    (folder / "val.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    answers = {f"50{n // 4}_{n % 4}": {"prediction": 0, "answer": n % 5} for n in range(16)}
    (folder / "zeros.json").write_text(json.dumps(answers))
    done = vqa(
        "score", "-b", "nextqa", "--split", "val", "--annotations", folder / "val.csv",
        "--predictions", folder / "zeros.json", "--name", "zeros", "-w", workspace,
    )  # fmt: skip
    assert done.code == 0, done.json
    return workspace


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    assert run_command(["benchmarks", *map(str, arguments)]) == 0
    return capsys.readouterr()


def test_the_list_names_every_benchmark_with_splits_counts_and_licence(
    scored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = shown(capsys, "-w", scored)
    for name in benchmark_names():
        manifest = load_manifest(name)
        assert name in out
        assert manifest.task in out
        for split in manifest.splits.values():
            assert split.questions is None or f"{split.questions:,}" in out
    assert "Charades licence" in out
    assert "prepared" in out
    assert "vqa benchmarks NAME" in err


def test_the_list_fits_a_narrow_terminal(
    scored: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqa_cli.console.PIPE_WIDTH", 80)
    out, _ = shown(capsys, "-w", scored)
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "Charades licence" in out


def test_the_json_says_what_is_prepared_and_what_is_missing(
    scored: Path, vqa: Callable[..., Any]
) -> None:
    rows = {row["name"]: row for row in vqa("benchmarks", "-w", scored).json["benchmarks"]}
    assert sorted(rows) == benchmark_names()
    assert rows["shapes"]["prepared"] == ["val"]
    assert rows["shapes"]["missing"] == ["train", "test"]
    here = rows["shapes"]["here"]["val"]
    assert here["questions"] == 6
    assert here["coverage"]["videos"] == {"found": 2}
    assert rows["star"]["missing"] == ["train", "val", "test"]
    assert rows["star"]["splits"]["val"]["questions"] == 7098
    assert "published" not in rows["star"]


def test_one_benchmark_in_full(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = shown(capsys, "star", "-w", scored)
    manifest = load_manifest("star")
    for text in (manifest.citation, manifest.licence, *manifest.get, *manifest.layouts):
        assert text in out
    assert "7,098" in out
    assert "missing" in out
    assert "--as-published" in out
    assert "vqa prepare --benchmark star --split train --annotations FILE --videos DIR" in err
    assert "143 published figures" in err


def test_what_is_prepared_is_shown_with_its_videos(
    scored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = shown(capsys, "shapes", "-w", scored)
    assert "6 questions; videos: 2 found" in out
    assert "missing here: train, test" in err
    assert "--annotations" not in err


def test_releases_are_told_apart(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, _ = shown(capsys, "how2qa", "-w", tmp_path)
    assert "how2qa-csv (release official)" in out
    assert "how2qa-jsonl (release VALUE)" in out
    assert "val as how2qa-csv: 2,852 questions" in out


def test_published_figures_stand_below_our_own(
    scored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = shown(capsys, "nextqa", "--published", "-w", scored)
    ours, printed = out.index("zeros"), out.index("VLAP, table 1")
    assert ours < printed < out.index("SeViLA, table 1")
    assert "25.00" in out  # 4 of 16 answers are option 0
    assert "74.4" in out
    assert "Self-Chained Image-Language Model" in out
    assert "note (VLAP, tables 1 and 5):" in out


def test_published_tables_fit_120_columns(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, vqa: Callable[..., Any]
) -> None:
    out, err = shown(capsys, "egotaskqa", "--published", "-w", tmp_path)
    tables = [line for line in out.splitlines() if line.startswith(" ")]
    assert max(len(line.rstrip()) for line in tables) <= 120
    assert "no results of your own" in err
    found = vqa("benchmarks", "egotaskqa", "--published", "-w", tmp_path).json["benchmarks"][0]
    assert len(found["published"]) == 353
    assert out.count("39.73") == 1


def test_published_rows_and_own_results_as_json(scored: Path, vqa: Callable[..., Any]) -> None:
    (row,) = vqa("benchmarks", "nextqa", "--published", "-w", scored).json["benchmarks"]
    assert len(row["published"]) == 272
    assert {"paper", "table", "system", "frames", "setting", "value"} <= set(row["published"][0])
    (own,) = row["own"]
    assert (own["label"], own["split"], own["kind"]) == ("zeros", "val", "metrics")
    assert own["metrics"]["accuracy"] == pytest.approx(25.0)
    assert own["ci95_of"] == "accuracy"
    assert row["published_notes"]


def test_all_published_figures_at_once(tmp_path: Path, vqa: Callable[..., Any]) -> None:
    rows = vqa("benchmarks", "--published", "-w", tmp_path).json["benchmarks"]
    assert sum(len(row["published"]) for row in rows) == 1073


def test_a_benchmark_that_no_paper_prints_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = shown(capsys, "shapes", "--published", "-w", tmp_path)
    assert out == ""
    assert "no published figures of shapes" in err


def test_an_unknown_benchmark_is_a_usage_error(tmp_path: Path, vqa: Callable[..., Any]) -> None:
    outcome = vqa("benchmarks", "starr", "-w", tmp_path)
    assert outcome.code == 2
    assert "star" in outcome.json["error"]["hint"]
