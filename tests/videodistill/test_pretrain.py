"""pretrain-videodistill: captions of one's own, all losses, and what starts from the result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

CAPTIONS = [
    {"video": "a.mp4", "caption": "a red circle on the left"},
    {"video": "a.mp4", "caption": "a blue square", "start": 0.5, "end": 2.0},
    {"video": "b.mp4", "caption": "a green circle on the right"},
    {"video": "b.mp4", "caption": "a red square"},
    {"video": "c.mp4", "caption": "the circle is blue"},
    {"video": "c.mp4", "caption": "the square is on the left"},
]


@pytest.fixture(scope="module")
def world(
    shapes_world: Any, generated_videos: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """The shapes workspace with a file of captions prepared beside them."""
    root = tmp_path_factory.mktemp("captions")
    world = shapes_world.copy(root)
    videos = root / "videos"
    videos.mkdir()
    for name, path in zip("abc", generated_videos, strict=False):
        shutil.copy(path, videos / f"{name}.mp4")
    lines = "".join(json.dumps(row) + "\n" for row in CAPTIONS)
    (root / "captions.jsonl").write_text(lines)
    given = ("--annotations", root / "captions.jsonl", "--videos", videos, "--workers", 1)
    world.done("prepare", "-b", "custom", "--split", "train", *given)
    frames = ("--from-videos", "--frames", 8, "--views", 1, "--workers", 1)
    world.done("extract-features", "-b", "custom", "--backbone", world.backbone, *frames)
    return world


@pytest.fixture(scope="module")
def pretrained(world: Any, small: Callable[..., Any]) -> dict[str, Any]:
    found: dict[str, Any] = world.done("pretrain-videodistill", "-b", "custom", *small())
    return found


def test_captions_train_all_three_losses(pretrained: dict[str, Any]) -> None:
    folder = Path(pretrained["artifact"]["path"])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"vtm", "contrastive", "mlm"} <= set(lines[0])
    config = json.loads((folder / "manifest.json").read_text())["config"]
    assert (config["role"], config["task"]) == ("pretrained", "captions")
    assert pretrained["counts"]["total"] == len(CAPTIONS)
    assert pretrained["training"]["tune_accuracy"] is None


def test_pretraining_can_start_a_training_and_answer_by_itself(
    world: Any, pretrained: dict[str, Any]
) -> None:
    name = pretrained["artifact"]["id"]
    tuned = world.train("shapes", "--task", "open-ended", "--init", name, "--name", "tuned")
    plain = world.train("shapes", "--task", "open-ended", "--name", "plain")
    assert name in tuned["inputs"]
    assert tuned["artifact"]["fingerprint"] != plain["artifact"]["fingerprint"]
    zero_shot = world.answer("shapes", "--weights", name)
    assert zero_shot["n_scored"] == 24
    cosine = world.answer("shapes", "--weights", name, "--set", "read=similarity")
    assert cosine["artifact"]["fingerprint"] != zero_shot["artifact"]["fingerprint"]


def test_the_losses_of_table_15_can_be_left_out(world: Any, small: Callable[..., Any]) -> None:
    found = world.done(
        "pretrain-videodistill", "-b", "custom",
        *small("model.mlm_weight=0", "model.contrastive_weight=0"),
    )  # fmt: skip
    lines = (Path(found["artifact"]["path"]) / "metrics.jsonl").read_text().splitlines()
    assert "vtm" in json.loads(lines[0])
    assert not {"contrastive", "mlm"} & set(json.loads(lines[0]))


def test_questions_with_answers_are_captions_too(world: Any, small: Callable[..., Any]) -> None:
    found = world.done(
        "pretrain-videodistill", "-b", "shapes", *small(), "--set", "max_train_questions=8"
    )
    assert found["counts"]["total"] == 8


def test_a_parquet_file_holds_the_same_captions(
    world: Any, generated_videos: list[Path], tmp_path: Path
) -> None:
    columns = ("video", "caption", "start", "end")
    table = pa.table({name: [row.get(name) for row in CAPTIONS] for name in columns})
    pq.write_table(table, tmp_path / "captions.parquet")
    videos = tmp_path / "videos"
    videos.mkdir()
    for name, path in zip("abc", generated_videos, strict=False):
        shutil.copy(path, videos / f"{name}.mp4")
    given = ("--annotations", tmp_path / "captions.parquet", "--videos", videos, "--workers", 1)
    line = ("prepare", "-b", "custom", "--split", "train", "-w", tmp_path / "workspace", *given)
    found = world.vqa(*line)
    assert found.code == 0, found.json
    read = pq.read_table(Path(found.json["artifact"]["path"]) / "questions.parquet")
    (own,) = (world.workspace / "questions").glob("custom-train-*")
    assert read.equals(pq.read_table(own / "questions.parquet"))


def test_a_wrong_start_is_refused(world: Any, small: Callable[..., Any]) -> None:
    line = ("train-videodistill", "-b", "shapes", *small(), "--init", "nowhere")
    assert world.run(*line).code == 4
