"""`vqa ask` with trained weights, and that it says what `vqa eval` says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

TOLERANCE = 2e-3
"""Scores of questions answered alone and in a batch differ by rounding."""


def rows_of(artifact: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Predictions by question."""
    table = pq.read_table(Path(artifact["path"]) / "predictions.parquet")
    return {row["question_id"]: row for row in table.to_pylist()}


def asked_questions(workspace: Path, split: str) -> tuple[Path, list[dict[str, Any]]]:
    """The first video of a split, and what is asked about it."""
    (folder,) = (workspace / "questions").glob(f"shapes-{split}-*")
    rows = pq.read_table(folder / "questions.parquet").to_pylist()
    first = rows[0]["videos"][0]
    (path,) = folder.rglob(Path(first).name)
    return path, [row for row in rows if row["videos"][0] == first]


def check_alike(
    vqa: Callable[..., Any], workspace: Path, evaluated: Any, folder: Path, *options: object
) -> None:
    """The same frames and, up to rounding, the same scores for every question of a video."""
    predicted = rows_of(evaluated.json["artifact"])
    video, questions = asked_questions(workspace, "test")
    file = folder / "questions.jsonl"
    fields = ("question_id", "question", "options")
    lines = [json.dumps({name: row[name] for name in fields}) for row in questions]
    file.write_text("\n".join(lines))
    outcome = vqa("ask", video, "--questions", file, "-w", workspace, *options)
    assert outcome.code == 0, outcome.json
    assert len(outcome.json["answers"]) == len(questions) > 1
    for item in outcome.json["answers"]:
        row = predicted[item["id"]]
        assert [frame["frame"] for frame in item["keyframes"]] == sorted(set(row["frames"]))
        assert [option["score"] for option in item["options"]] == pytest.approx(
            row["scores"], abs=TOLERANCE
        )
        assert item["answer"] == row["prediction"]


def test_a_student_says_what_its_evaluation_says(
    trained_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    workspace = trained_world.copy(tmp_path)
    evaluated = vqa("eval", "-b", "shapes", "-w", workspace)
    assert evaluated.code == 0, evaluated.json

    check_alike(vqa, workspace, evaluated, tmp_path, "--system", "vlap")


def test_a_teacher_is_asked_by_name_and_its_frames_are_its_own(
    trained_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    held = vqa("artifacts", "ls", "weights", "-w", trained_world.workspace).json["artifacts"]
    teacher = next(row["id"] for row in held if "teacher" in row["id"])
    video, questions = asked_questions(trained_world.workspace, "test")
    line = ("ask", video, questions[0]["question"], "-o", "one", "-o", "two")
    where = ("-w", trained_world.workspace, "--weights", teacher)

    outcome = vqa(*line, *where)
    assert outcome.code == 0, outcome.json
    assert outcome.json["system"]["name"] == "vlap"
    assert outcome.json["system"]["weights"] == teacher
    assert len(outcome.json["answers"][0]["keyframes"]) == outcome.json["system"]["frames"] == 8

    for wrong, named in (
        (("--frames", 4), "sees 8 frames"),
        (("--system", "videodistill"), "weights of vlap"),
        (("--system", "sevila"), "weights of vlap"),
    ):
        refused = vqa(*line, *where, *wrong)
        assert refused.code == 2
        assert named in refused.json["error"]["message"]


def test_several_students_are_a_question_for_the_user(
    trained_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    """Without a name, as every stage: exit 2 and the list."""
    workspace = trained_world.copy(tmp_path)
    quick = ("--set", "training.epochs=1", "--seed", 8)
    assert vqa("distill", "-b", "shapes", "-w", workspace, "--keep", 2, *quick).code == 0
    video, _ = asked_questions(workspace, "test")
    outcome = vqa("ask", video, "q", "-o", "a", "-o", "b", "--system", "vlap", "-w", workspace)
    assert outcome.code == 2
    assert outcome.json["error"]["message"].count("-vlap-student-") == 2


def test_zero_shot_sevila_says_what_its_evaluation_says(
    tiny_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    """The embedded BLIP-2 under the wording of `custom`, which is that of `shapes`."""
    workspace = tiny_world.copy(tmp_path)
    seen = ("--split", "test", "--frames", "8", "--from-videos", "--workers", 1)
    made = vqa("extract-features", "-b", "shapes", "--backbone", "tiny-blip2", *seen,
               "-w", workspace)  # fmt: skip
    assert made.code == 0, made.json
    named = ("--backbone", "tiny-blip2", "--features", made.json["artifact"]["id"])
    evaluated = vqa("eval", "-b", "shapes", "--system", "sevila", "--weights", "none",
                    "--selector", "none", *named, "--keep", 3, "-w", workspace)  # fmt: skip
    assert evaluated.code == 0, evaluated.json

    check_alike(vqa, workspace, evaluated, tmp_path, "--frames", 8, "--keep", 3)


@pytest.mark.slow
def test_sevilas_trained_sides_say_what_their_evaluation_says(
    sevila_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    workspace = sevila_world.copy(tmp_path)
    quick = ("-b", "shapes", "-w", workspace, "--set", "training.epochs=1")
    localizer = vqa("train-localizer", *quick)
    assert localizer.code == 0, localizer.json
    answerer = vqa("train-answerer", *quick, "--keep", 2)
    assert answerer.code == 0, answerer.json
    sides = ("--weights", answerer.json["artifact"]["id"],
             "--selector", localizer.json["artifact"]["id"])  # fmt: skip
    evaluated = vqa("eval", "-b", "shapes", "--system", "sevila", *sides, "-w", workspace)
    assert evaluated.code == 0, evaluated.json

    check_alike(vqa, workspace, evaluated, tmp_path, *sides, "--frames", 8)

    video, _ = asked_questions(workspace, "test")
    swapped = ("--weights", localizer.json["artifact"]["id"])
    refused = vqa("ask", video, "q", "-o", "a", "-o", "b", *swapped, "-w", workspace)
    assert refused.code == 2
    assert "answers no question" in refused.json["error"]["message"]
    assert "--selector" in refused.json["error"]["hint"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["choice", "open-ended"])
def test_videodistill_says_what_its_evaluation_says(
    task: str, tiny_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    workspace = tiny_world.copy(tmp_path)
    made = vqa("extract-features", "-b", "shapes", "--backbone", "tiny-clip", "--from-videos",
               "--frames", "8", "--workers", 1, "-w", workspace)  # fmt: skip
    assert made.code == 0, made.json
    small = ("model.width=16", "model.heads=2", "model.layers=1", "training.epochs=1",
             "training.schedule.warmup_steps=2")  # fmt: skip
    settings = [part for text in small for part in ("--set", text)]
    trained = vqa("train-videodistill", "-b", "shapes", "--task", task, "--keep", 3, *settings,
                  "-w", workspace)  # fmt: skip
    assert trained.code == 0, trained.json
    evaluated = vqa("eval", "-b", "shapes", "--system", "videodistill", "-w", workspace)
    assert evaluated.code == 0, evaluated.json

    check_alike(vqa, workspace, evaluated, tmp_path, "--system", "videodistill")

    video, _ = asked_questions(workspace, "test")
    written = vqa("ask", video, "Which colour?", "--system", "videodistill", "-w", workspace)
    if task == "choice":
        assert written.code == 2
        assert "open-ended" in written.json["error"]["message"]
    else:
        assert written.code == 0
        assert written.json["answers"][0]["text"]
