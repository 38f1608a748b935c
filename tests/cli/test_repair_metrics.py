"""Metrics and reports are repaired from what they were made of, wherever that is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROWS = [
    {"question_id": f"{kind}_T1_{number}", "video_id": f"v{number}", "start": 0.0, "end": 4.0,
     "question": "Which object?",
     "choices": [{"choice_id": place, "choice": f"The {place}."} for place in range(4)],
     "answer": f"The {number % 4}."}
    for kind in ("Interaction", "Sequence", "Prediction", "Feasibility")
    for number in range(3)
]  # fmt: skip


@pytest.fixture
def score(vqa: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """`vqa score` of two files on STAR, in an empty workspace."""
    (tmp_path / "STAR_val.json").write_text(json.dumps(ROWS))
    said = [{"question_id": row["question_id"], "prediction": 1} for row in ROWS]
    (tmp_path / "mine.json").write_text(json.dumps(said))
    given = ("-a", tmp_path / "STAR_val.json", "-p", tmp_path / "mine.json", "--split", "val")
    return lambda *more: vqa("score", "-b", "star", "-w", tmp_path / "ws", *given, *more)


def damaged(folder: Path, name: str) -> bytes:
    """The bytes of a file that is damaged by this."""
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    return whole


@pytest.mark.parametrize("options", [(), ("--as-published",), ("--system", "ours", "--seed", 7)])
def test_metrics_of_a_file_are_made_again(
    options: tuple[object, ...], score: Callable[..., Any], vqa: Callable[..., Any], tmp_path: Path
) -> None:
    made = score(*options)
    assert made.code == 0, made.json
    folder = Path(made.json["artifact"]["path"])
    before = {name: damaged(folder, name) for name in ("metrics.json", "scored.parquet")}
    line = ("artifacts", "verify", folder.name, "-w", tmp_path / "ws")
    assert vqa(*line).code == 6
    repaired = vqa(*line, "--repair")
    assert repaired.code == 0, repaired.json
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert score(*options).json["reused"]


def test_metrics_of_a_file_that_has_changed_are_not_made_up(
    score: Callable[..., Any], vqa: Callable[..., Any], tmp_path: Path
) -> None:
    folder = Path(score().json["artifact"]["path"])
    damaged(folder, "metrics.json")
    other = [{"question_id": row["question_id"], "prediction": 2} for row in ROWS]
    (tmp_path / "mine.json").write_text(json.dumps(other))
    outcome = vqa("artifacts", "verify", folder.name, "-w", tmp_path / "ws", "--repair")
    assert outcome.code == 3
    assert "has changed" in outcome.json["error"]["message"]
    (tmp_path / "mine.json").unlink()
    outcome = vqa("artifacts", "verify", folder.name, "-w", tmp_path / "ws", "--repair")
    assert outcome.code == 4


def test_a_page_is_made_again_without_what_came_later(
    trained_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    """A blind run that was made after the page is not on it."""
    workspace = trained_world.copy(tmp_path)
    line = ("eval", "-b", "shapes", "-w", workspace, "--role", "start")
    seeing = vqa(*line).json
    page = vqa("report", seeing["artifact"]["id"], "-w", workspace, "--questions", 2).json
    assert vqa(*line, "--blind", "static").code == 0
    folder = Path(page["artifact"]["path"])
    before = damaged(folder, "index.html")
    repaired = vqa("artifacts", "verify", folder.name, "-w", workspace, "--repair")
    assert repaired.code == 0, repaired.json
    assert (folder / "index.html").read_bytes() == before
