"""`vqa demo` on a few videos: every stage of every system, as a newcomer runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

ROWS = [
    "random-guess",
    "language-only",
    "uniform",
    "random",
    "vlap-teacher",
    "vlap-student-visual",
    "vlap-student-question",
    "oracle",
    "sevila-uniform",
    "sevila-zero-shot",
    "sevila-refined",
    "sevila-oracle",
    "videodistill",
    "videodistill-blind-gaussian",
]


def test_the_demo_has_a_row_for_every_system_and_a_second_run_repeats_it(
    tmp_path: Path, vqa: Callable[..., Any]
) -> None:
    line = ("demo", "--videos", 8, "-w", tmp_path)
    first = vqa(*line)
    assert first.code == 0
    rows = {row["name"]: row for row in first.json["rows"]}
    assert list(rows) == ROWS
    for name in ("oracle", "sevila-oracle"):
        assert rows[name]["keyframe_recall"] == 100.0
        assert rows[name]["accuracy"] > rows["random-guess"]["accuracy"] + 20
    assert rows["sevila-zero-shot"]["keyframe_recall"] != rows["sevila-uniform"]["keyframe_recall"]
    assert rows["videodistill-blind-gaussian"]["blind"] == "gaussian"
    assert (Path(first.json["report"])).is_file()

    again = vqa(*line)
    for figure in ("accuracy", "keyframe_recall"):
        assert [row[figure] for row in again.json["rows"]] == [row[figure] for row in rows.values()]
    assert again.json["report"] == first.json["report"]
