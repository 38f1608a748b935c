"""Any selector with any answerer: CLIP similarity and another model's spans before BLIP-2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest


@pytest.fixture(scope="module")
def workspace(
    sevila_world: Any, vqa: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny world with features by a CLIP beside those of the BLIP-2."""
    made: Path = sevila_world.copy(tmp_path_factory.mktemp("crosses"))
    line = ("extract-features", "-b", "shapes", "--split", "test", "--backbone", "tiny-clip")
    outcome = vqa(*line, "--from-videos", "--frames", "8", "--workers", 1, "-w", made)
    assert outcome.code == 0, outcome.json
    return made


def evaluated(workspace: Path, vqa: Callable[..., Any], backbone: Path, *options: object) -> Any:
    line = ("eval", "-b", "shapes", "--system", "blip2-concat", "--keep", 2, "-w", workspace)
    return vqa(*line, "--backbone", backbone, *options)


def rows_of(outcome: Any) -> pd.DataFrame:
    assert outcome.code == 0, outcome.json
    return pd.read_parquet(Path(outcome.json["artifact"]["path"]) / "predictions.parquet")


def test_frames_can_be_chosen_by_clip_similarity(
    workspace: Path, sevila_world: Any, vqa: Callable[..., Any]
) -> None:
    outcome = evaluated(workspace, vqa, sevila_world.backbone, "--select", "clip")

    rows = rows_of(outcome)
    assert set(rows["frame_rule"]) == {"clip"}
    for row in rows.itertuples():
        assert len(row.frame_scores) == 8
        assert list(row.frames) == sorted(set(row.frames))
    assert any("tiny-clip" in name for name in outcome.json["inputs"])
    assert outcome.json["metrics"]["tie_rate"] == 0.0


def test_frames_can_be_taken_from_predicted_spans(
    workspace: Path, sevila_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    asked = pd.read_parquet(next((workspace / "questions").glob("shapes-test-*/questions.parquet")))
    spans = tmp_path / "spans.jsonl"
    lines = [
        {"question_id": row.question_id, "windows": [list(span) for span in row.spans]}
        for row in asked.itertuples()
    ]
    spans.write_text("".join(json.dumps(line) + "\n" for line in lines[1:]))
    options = ("--select", "spans", "--spans", spans, "--max-failures", 1)

    outcome = evaluated(workspace, vqa, sevila_world.backbone, *options)

    rows = rows_of(outcome)
    assert list(rows["status"]).count("failed") == 1
    assert "no span" in rows["reason"][0]
    oracle = evaluated(workspace, vqa, sevila_world.backbone, "--select", "oracle")
    assert outcome.json["metrics"]["keyframe_recall"] <= oracle.json["metrics"]["keyframe_recall"]
    again = evaluated(workspace, vqa, sevila_world.backbone, *options)
    assert again.json["reused"] is True


def test_what_a_selector_needs_is_said(
    sevila_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    world, backbone = sevila_world.copy(tmp_path), sevila_world.backbone
    missing = evaluated(world, vqa, backbone, "--select", "clip")
    assert missing.code == 4
    assert "extract-features" in missing.json["error"]["hint"]
    assert evaluated(world, vqa, backbone, "--select", "spans").code == 2
    learnt = evaluated(world, vqa, backbone, "--select", "topk")
    assert learnt.code == 2
    assert "train-answerer --select topk" in learnt.json["error"]["hint"]


@pytest.mark.parametrize("select", ["topk", "atp"])
def test_a_selector_that_was_trained_with_an_answerer_comes_back_with_it(
    select: str, sevila_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    world, backbone = sevila_world.copy(tmp_path), sevila_world.backbone
    line = ("train-answerer", "-b", "shapes", "-w", world, "--backbone", backbone, "--keep", 2)
    trained = vqa(*line, "--select", select, "--set", "training.epochs=1", "--name", "learnt")
    assert trained.code == 0, trained.json

    own = evaluated(world, vqa, backbone, "--select", select, "--weights", "learnt")
    assert set(rows_of(own)["frame_rule"]) == {select}
    uniform = evaluated(world, vqa, backbone, "--select", "uniform", "--weights", "learnt")
    assert uniform.code == 0, uniform.json


def test_a_system_of_one_layout_takes_the_features_of_that_layout(
    sevila_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    """Features by another backbone beside them are no question for the user."""
    made = sevila_world.copy(tmp_path)
    line = ("extract-features", "-b", "shapes", "--split", "test", "--backbone", "tiny")
    outcome = vqa(*line, "--from-videos", "--frames", "8", "--workers", 1, "-w", made)
    assert outcome.code == 0, outcome.json

    plan = vqa("eval", "-b", "shapes", "--system", "sevila", "-w", made, "--dry-run")

    assert plan.code == 0, plan.json
    assert "random-blip2" in json.dumps(plan.json)
