"""Moment retrieval as a stage: a row for every query, frame scores paid for once, same bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from stages import evaluate_moments as stage
from stages.artifacts.store import Workspace
from stages.benchmarks.moment_spans import ScoredFrames, SpanRule, predicted_moments
from stages.benchmarks.shapes.generate import generate
from stages.core.runtime import Runtime, ShardSelection
from stages.systems.moment_inputs import find_moment_inputs, moments_config

FRAMES = 12
SECONDS = 12
"""Annotated length of every clip; the files are longer."""


def as_qvhighlights(number: int, record: dict[str, Any]) -> dict[str, Any]:
    """A generated question as a query in QVHighlights' form."""
    windows = [[math.floor(low), min(SECONDS, math.ceil(high))] for low, high in record["spans"]]
    kept = [window for window in windows if window[0] < window[1]] or [[0, 2]]
    clips = sorted(
        {s // 2 for low, high in kept for s in range(low, high) if s // 2 < SECONDS // 2}
    )
    return {
        "qid": number,
        "query": record["question"],
        "duration": SECONDS,
        "vid": Path(record["video"]).stem,
        "relevant_windows": kept,
        "relevant_clip_ids": clips,
        "saliency_scores": [[3, 4, 2]] * len(clips),
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, vqa: Callable[..., Any]) -> Path:
    """A workspace with val: three generated videos of three queries each, and a query whose
    video is missing."""
    root = tmp_path_factory.mktemp("moments")
    records = generate(root / "videos", "val", 3, seed=3, workers=1)
    rows = [as_qvhighlights(number, record) for number, record in enumerate(records, 1)]
    rows.insert(2, rows[0] | {"qid": 99, "vid": "absent"})
    annotations = root / "val.jsonl"
    annotations.write_text("".join(json.dumps(row) + "\n" for row in rows))
    workspace = root / "workspace"
    for line in (
        (
            "prepare",
            "--split",
            "val",
            "--annotations",
            annotations,
            "--videos",
            root / "videos/val",
        ),
        ("extract-features", "--backbone", "tiny", "--from-videos", "--frames", FRAMES),
    ):
        command, *rest = line
        given = (command, "-b", "qvhighlights", "-w", workspace, "--workers", 1, *rest)
        assert vqa(*given).code in (0, 1)
    return workspace


@pytest.fixture
def run(world: Path) -> Callable[..., Any]:
    """Evaluates val with settings and gives the result."""

    def evaluate(values: dict[str, Any] | None = None, **how: Any) -> Any:
        root = Workspace(world)
        inputs = find_moment_inputs(root, "qvhighlights", "val")
        config, gap = moments_config(root, inputs, values or {}, "cpu")
        return stage.evaluate_moments(root, inputs, config, Runtime(device="cpu", **how), gap)

    return evaluate


def rows_of(result: Any) -> list[dict[str, Any]]:
    return list(pq.read_table(result.artifact.path / "predictions.parquet").to_pylist())


def data_files(result: Any) -> dict[str, bytes]:
    return {
        name: (result.artifact.path / name).read_bytes()
        for name in result.artifact.manifest["files"]
    }


def test_every_query_has_a_row_and_a_missing_video_fails_alone(run: Callable[..., Any]) -> None:
    result = run()
    rows = rows_of(result)
    assert [row["question_id"] for row in rows] == [*"12", "99", *"3456789"]
    failed = [row for row in rows if row["status"] == "failed"]
    assert [row["question_id"] for row in failed] == ["99"]
    assert failed[0]["windows"] is None
    assert failed[0]["reason"]
    tally = {name: result.details[name] for name in ("n_questions", "n_scored", "n_failed")}
    assert tally == {"n_questions": 10, "n_scored": 9, "n_failed": 1}
    assert result.failure_share == pytest.approx(0.1)


def test_rows_hold_what_spans_are_made_of(run: Callable[..., Any]) -> None:
    for row in rows_of(run({"moments": {"gap": 2}})):
        if row["status"] == "failed":
            continue
        assert len(row["frames"]) == len(row["times"]) == FRAMES
        assert len(row["frame_scores"]) == len(row["frame_margins"]) == FRAMES
        frames = ScoredFrames(
            tuple(row["times"]), tuple(row["frame_scores"]), tuple(row["frame_margins"]), SECONDS
        )
        said = predicted_moments(frames, SpanRule(gap=2))
        assert [tuple(window) for window in row["windows"]] == list(said.windows)
        assert row["saliency"] == list(said.saliency or ())
        assert len(row["saliency"]) == SECONDS // 2
        assert row["value"] in (0.0, 100.0)


def test_another_gap_takes_the_frame_scores_over(run: Callable[..., Any]) -> None:
    first = run({"moments": {"gap": 0.5}})
    again = run({"moments": {"gap": 7}})
    assert not again.reused
    assert any("taken over" in note for note in again.notes)
    for one, other in zip(rows_of(first), rows_of(again), strict=True):
        assert one["frame_scores"] == other["frame_scores"]
        assert one["frame_margins"] == other["frame_margins"]


def test_taken_over_and_computed_scores_end_in_the_same_bytes(run: Callable[..., Any]) -> None:
    run({"moments": {"gap": 1}})
    taken = run({"moments": {"gap": 3}})
    before = data_files(taken)
    computed = run({"moments": {"gap": 3}}, force=True)
    assert not computed.reused
    assert not any("taken over" in note for note in computed.notes)
    assert data_files(computed) == before


def test_other_frames_are_scored_anew(run: Callable[..., Any]) -> None:
    run({"moments": {"gap": 1}})
    fewer = run({"moments": {"gap": 1}, "frames": 6})
    assert not any("taken over" in note for note in fewer.notes)
    assert {len(row["times"]) for row in rows_of(fewer) if row["status"] == "ok"} == {6}


def test_the_batch_size_changes_no_span(run: Callable[..., Any]) -> None:
    base = rows_of(run({"moments": {"gap": 2}}))
    for size in (1, 4):
        rows = rows_of(run({"moments": {"gap": 2}, "batch_size": size}))
        for one, other in zip(base, rows, strict=True):
            assert other["frame_scores"] == pytest.approx(one["frame_scores"], abs=1e-4)
            if one["windows"]:
                spans = [window[:2] for window in one["windows"]]
                assert [window[:2] for window in other["windows"]] == spans


def test_shards_made_by_several_runs_end_in_the_bytes_of_one(run: Callable[..., Any]) -> None:
    values = {"moments": {"gap": 2}, "questions_per_shard": 4}
    whole = run(values)
    before = data_files(whole)
    path = whole.artifact.path
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    first = run(values, shards=ShardSelection.parse("1/3"))
    assert first.artifact is None
    assert not first.draft["finished"]
    last = run(values)
    assert data_files(last) == before


def test_tuning_keeps_every_figure_and_takes_the_best(run: Callable[..., Any]) -> None:
    result = run({"tuning": {"gaps": [0, 1, 2, 4], "by": "R1@0.5"}})
    facts = result.details["moments"]
    assert (facts["tuned_on"], facts["gap_from"]) == ("val", "tuned")
    assert [row["gap"] for row in facts["gaps"]] == [0, 1, 2, 4]
    best = max(row["R1@0.5"] for row in facts["gaps"])
    chosen = next(row for row in facts["gaps"] if row["gap"] == facts["gap"])
    assert chosen["R1@0.5"] == best == result.details["metrics"]["R1@0.5"]
    by_hand = run({"moments": {"gap": facts["gap"]}})
    assert by_hand.details["metrics"] == result.details["metrics"]
    assert by_hand.artifact.id != result.artifact.id


def test_strict_stops_at_the_failed_query(run: Callable[..., Any]) -> None:
    from stages.core.errors import DataError

    with pytest.raises(DataError, match="99"):
        run({"moments": {"gap": 2}, "seed": 5, "batch_size": 3}, strict=True)
