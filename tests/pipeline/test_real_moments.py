"""Moment retrieval on real clips, from the annotation file to the official file and its score."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

FRAMES = 12
# (video, annotated seconds, query, windows): the words are ours, as are the windows.
QUERIES = [
    ("v_GGSY1Qvo990", 18, "A person works out of doors", [[2, 8]]),
    ("v_GGSY1Qvo990", 18, "The last part of the clip.", [[12, 16]]),
    ("video7010", 18, "Someone is on the screen", [[0, 4], [6, 10]]),
    ("video7011", 12, "The scene changes", [[4, 6]]),
    ("video7012", 14, "People talk to each other", [[2, 10]]),
    ("video7013", 14, "Something is shown up close", [[6, 12]]),
    ("video7014", 12, "A still picture", [[0, 2]]),
    ("no_such_video", 150, "Nobody will ever know", [[10, 20]]),
]


def rows() -> list[dict[str, Any]]:
    """The queries in QVHighlights' form, with three ratings for every clip of 2 s."""
    found = []
    for number, (video, seconds, query, windows) in enumerate(QUERIES):
        clips = [clip for low, high in windows for clip in range(low // 2, high // 2)]
        found.append(
            {
                "qid": 9000 + number,
                "query": query,
                "duration": seconds,
                "vid": video,
                "relevant_windows": windows,
                "relevant_clip_ids": clips,
                "saliency_scores": [[4, 2 + clip % 3, 3] for clip in clips],
            }
        )
    return found


@pytest.mark.parametrize("several", [False, True])
def test_moments_of_real_videos(
    several: bool, shared: Path, tmp_path: Path, vqa: Callable[..., Any]
) -> None:
    annotations = tmp_path / "highlight_val.jsonl"
    annotations.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    videos = shared / "data" / "videos"
    common = ("-b", "qvhighlights", "-w", tmp_path / "ws")
    prepared = vqa(
        "prepare", *common, "--split", "val", "-a", annotations,
        "--videos", videos, "--videos", videos / "msrvtt",
    )  # fmt: skip
    assert prepared.json["coverage"]["videos"] == {"found": 6, "missing": 1}
    features = vqa(
        "extract-features", *common, "--backbone", "tiny", "--from-videos", "--frames", FRAMES
    )
    assert features.json["counts"]["done"] == 6

    path = tmp_path / "val.jsonl"
    rule = ("--set", f"moments.several={json.dumps(several)}")
    evaluated = vqa(
        "eval", *common, "--system", "sevila", "--split", "val", "--tune-gap", *rule,
        "--export", "official", "--export-to", path,
    )  # fmt: skip
    assert evaluated.code == 1, evaluated.json  # one of eight failed: more than --max-failures
    counts = [evaluated.json[name] for name in ("n_questions", "n_scored", "n_failed")]
    assert counts == [8, 7, 1]
    table = pq.read_table(Path(evaluated.json["artifact"]["path"]) / "predictions.parquet")
    for record, row in zip(table.to_pylist(), rows(), strict=True):
        if record["status"] == "failed":
            assert row["vid"] == "no_such_video"
            continue
        assert 1 <= len(record["windows"]) <= (10 if several else 1)
        for start, end, _ in record["windows"]:
            assert 0 <= start < end <= row["duration"]
        assert len(record["saliency"]) == row["duration"] // 2

    scored = vqa("score", *common, "--split", "val", "-p", path, "-a", annotations)
    assert scored.code == 1, scored.json
    own = evaluated.json["metrics"]
    assert scored.json["metrics"] == {name: own[name] for name in scored.json["metrics"]}
    assert {"R1@0.5", "mAP", "HL-min-VeryGood-mAP"} <= set(scored.json["metrics"])
